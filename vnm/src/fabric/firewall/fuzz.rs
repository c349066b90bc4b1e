//! What the kernel and `nft` say of rules, under attack: it is refused or understood, and whatever is understood leads to no
//! change of rules that are neither the guest's nor shared.

use std::collections::BTreeSet;

use super::super::change::{Command, Family, Key, Map};
use super::super::foreign::foreign;
use super::super::{Observed, removal};
use super::{Answer, Rule, elements, rule};

/// The objects of an answer that a datagram is, if it is one to the question of its first message.
fn objects(datagram: &[u8]) -> Option<Vec<Vec<u8>>> {
    let sequence = u32::from_ne_bytes(*datagram.get(8..)?.first_chunk()?);
    let mut answer = Answer { found: Vec::new(), whole: true, wanted: &|_| true };
    answer.take(datagram, sequence, "a list").ok()?;
    let held: usize = answer.found.iter().map(Vec::len).sum();
    assert!(held <= datagram.len(), "nothing is found twice");
    Some(answer.found)
}

#[test]
fn fuzz_tables() {
    let tap: causeway_core::names::LinkName = "one-1-0".parse().unwrap();
    let own = ["one-1-0-i", "one-1-0-o"];
    crate::seeded::fuzz("nftables", |bytes| {
        let found = objects(bytes).unwrap_or_default();
        let rules: Vec<Rule> = found.iter().filter_map(|body| rule(body)).collect();
        for Rule { comment, leads_to, .. } in &rules {
            assert!(!comment.contains('\0') && !leads_to.iter().any(|name| name.contains('\0')));
        }
        let mut observed = Observed { tables: [Family::Bridge, Family::Inet].into(), ..Observed::default() };
        for map in Map::ALL {
            for element in found.iter().filter_map(|body| elements(map, body)).flatten() {
                assert_eq!((element.map, matches!(element.key, Key::Mark(_))), (map, map.by_mark()));
                observed.elements.insert(element);
            }
        }
        let change = removal(&BTreeSet::from([tap.clone()]), &observed);
        for command in change.into_iter().flat_map(|change| change.commands) {
            let Command::DeleteElement(element) = command else { continue };
            let of_tap = matches!(&element.key, Key::Device(name) if name == "one-1-0");
            let ours = of_tap || own.contains(&element.chain.as_str()) || element.map == Map::Bridges;
            assert!(ours && observed.elements.contains(&element), "{element:?}");
        }
    });
}

#[test]
fn fuzz_ruleset() {
    crate::seeded::fuzz("ruleset", |bytes| {
        let Ok(listed) = serde_json::from_slice(bytes) else { return };
        for found in foreign(&listed) {
            assert!(found.table != super::TABLE && (found.policy || found.drops + found.marks > 0));
        }
    });
}
