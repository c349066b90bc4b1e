//! Rules of others that could stop frames of guarded bridges, or change the marks of ours: for people to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::nft::{FirewallError, Nft};
use super::{TABLE, services};

/// Tables of ours; the second one bears the stock release's name.
const OURS: [&str; 2] = [TABLE, services::TABLE];

/// A chain that the kernel enters with frames of bridges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// The table's family.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The hook.
    pub hook: String,
    /// It drops what none of its rules accepts.
    pub policy: bool,
    /// How many rules in it, or in chains that it leads to, drop or refuse.
    pub drops: usize,
    /// How many of them set marks.
    pub marks: usize,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Foreign { family, table, chain, hook, .. } = self;
        let mut says = Vec::new();
        if self.policy {
            says.push("drops what none of its rules accepts".to_owned());
        }
        for (count, what) in [(self.drops, "drop"), (self.marks, "set marks")] {
            if count > 0 {
                says.push(format!("has {count} rules that {what}"));
            }
        }
        write!(f, "chain {chain} of table {family} {table} ({hook}) {}", says.join(" and "))
    }
}

impl Nft {
    /// What of others frames of guarded bridges come by, as far as it drops or marks.
    ///
    /// # Errors
    /// [`FirewallError`].
    pub fn foreign(&mut self) -> Result<Vec<Foreign>, FirewallError> {
        Ok(foreign(&self.list()?))
    }
}

type Place = (String, String, String);

/// The same from what `nft -j list ruleset` says.
pub fn foreign(listed: &Value) -> Vec<Foreign> {
    let objects = listed.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut rules: BTreeMap<Place, Vec<&Value>> = BTreeMap::new();
    for rule in objects.iter().filter_map(|object| object.get("rule")) {
        rules.entry(place(rule, "chain")).or_default().push(rule);
    }
    let chains = objects.iter().filter_map(|object| object.get("chain"));
    let met =
        chains.filter(|chain| is_met(chain)).filter(|chain| !OURS.contains(&text(chain, "table").as_str()));
    met.filter_map(|chain| {
        let mut seen = BTreeSet::new();
        let mut found = Foreign {
            family: text(chain, "family"),
            table: text(chain, "table"),
            chain: text(chain, "name"),
            hook: text(chain, "hook"),
            policy: text(chain, "policy") == "drop",
            drops: 0,
            marks: 0,
        };
        count(place(chain, "name"), &rules, &mut seen, &mut found);
        (found.policy || found.drops > 0 || found.marks > 0).then_some(found)
    })
    .collect()
}

/// Whether a frame of a bridge comes by that chain.
fn is_met(chain: &Value) -> bool {
    let hook = text(chain, "hook");
    let hooks = ["prerouting", "forward", "postrouting"].contains(&hook.as_str());
    hooks && ["bridge", "inet", "ip", "ip6"].contains(&text(chain, "family").as_str())
}

fn count(at: Place, rules: &BTreeMap<Place, Vec<&Value>>, seen: &mut BTreeSet<Place>, found: &mut Foreign) {
    if !seen.insert(at.clone()) {
        return;
    }
    let statements = rules.get(&at).into_iter().flatten().filter_map(|rule| rule.get("expr")?.as_array());
    for statements in statements {
        let has = |kinds: &[&str]| {
            statements.iter().any(|statement| kinds.iter().any(|kind| statement.get(kind).is_some()))
        };
        found.drops += usize::from(has(&["drop", "reject", "queue"]));
        let marks = |statement: &&Value| {
            statement.pointer("/mangle/key/meta/key").is_some_and(|key| key == "mark")
                || statement.pointer("/xt/name").is_some_and(|name| name == "MARK" || name == "CONNMARK")
        };
        found.marks += usize::from(statements.iter().any(|statement| marks(&statement)));
        for kind in ["jump", "goto"] {
            let targets =
                statements.iter().filter_map(|statement| statement.get(kind)?.get("target")?.as_str());
            for target in targets {
                count((at.0.clone(), at.1.clone(), target.to_owned()), rules, seen, found);
            }
        }
    }
}

fn place(object: &Value, chain: &str) -> Place {
    (text(object, "family"), text(object, "table"), text(object, chain))
}

fn text(object: &Value, field: &str) -> String {
    object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies_drops_and_marks_are_found_behind_jumps_and_ours_are_not() {
        let chain = |table: &str, name: &str, more: Value| {
            let mut chain = json!({"family": "ip", "table": table, "name": name});
            chain.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"chain": chain})
        };
        let rule = |table: &str, chain: &str, statement: Value| json!({"rule": {"family": "ip", "table": table, "chain": chain, "expr": [{"counter": null}, statement]}});
        let hook = |hook: &str, policy: &str| json!({"hook": hook, "prio": 0, "policy": policy});
        let listed = json!({"nftables": [
            {"metainfo": {}},
            chain("filter", "FORWARD", hook("forward", "drop")),
            chain("filter", "INPUT", hook("input", "drop")),
            chain("mangle", "PREROUTING", hook("prerouting", "accept")),
            chain("nat", "POSTROUTING", hook("postrouting", "accept")),
            chain(TABLE, "forward", hook("forward", "accept")),
            chain("filter", "mine", json!({})),
            rule("filter", "FORWARD", json!({"jump": {"target": "mine"}})),
            rule("filter", "mine", json!({"jump": {"target": "FORWARD"}})),
            rule("filter", "mine", json!({"drop": null})),
            rule("mangle", "PREROUTING", json!({"xt": {"type": "target", "name": "MARK"}})),
            rule(TABLE, "forward", json!({"drop": null})),
        ]});
        let said: Vec<String> = foreign(&listed).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "chain FORWARD of table ip filter (forward) drops what none of its rules accepts and has 1 rules that drop",
                "chain PREROUTING of table ip mangle (prerouting) has 1 rules that set marks",
            ]
        );
        assert_eq!(foreign(&Value::Null), []);
    }
}
