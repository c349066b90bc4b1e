//! A change of the firewall: one batch, which the kernel takes as a whole or not at all.

use std::collections::BTreeSet;
use std::fmt;

use causeway_core::names::LinkName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::TABLE;
use super::expr;

/// The family of a table: of ours, or of the stock driver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Frames of bridges.
    Bridge,
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::Bridge => "bridge",
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        }
    }
}

/// A map of ours from what a frame has to what is done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Map {
    /// By the device that a frame came by.
    From,
    /// By the device that a frame leaves by.
    To,
    /// By the mark of a frame from a guest.
    Outbound,
    /// By the mark of a frame to a guest.
    Inbound,
    /// By the bridge that a frame came by.
    Bridges,
    /// By the guest's device, where a packet came by it and by no bridge.
    Direct,
}

impl Map {
    /// All of them.
    pub const ALL: [Map; 6] = [Map::From, Map::To, Map::Outbound, Map::Inbound, Map::Bridges, Map::Direct];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Map::From => "from",
            Map::To => "to",
            Map::Outbound => "outbound",
            Map::Inbound => "inbound",
            Map::Bridges => "bridges",
            Map::Direct => "direct",
        }
    }

    /// Where it is.
    pub fn family(self) -> Family {
        match self {
            Map::From | Map::To => Family::Bridge,
            Map::Outbound | Map::Inbound | Map::Bridges | Map::Direct => Family::Inet,
        }
    }

    /// Whether its keys are marks, not names.
    pub fn by_mark(self) -> bool {
        matches!(self, Map::Outbound | Map::Inbound)
    }
}

/// A key of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Key {
    /// A mark.
    Mark(u32),
    /// A device.
    Device(String),
}

/// An element of a map: on to that chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Element {
    /// The map.
    pub map: Map,
    /// The key.
    pub key: Key,
    /// The chain.
    pub chain: String,
    /// Whose it is; empty where nobody says.
    pub comment: String,
}

/// A chain of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Chain {
    /// Where it is.
    pub family: Family,
    /// Its name.
    pub name: String,
}

/// Where the kernel enters a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The hook.
    pub hook: String,
    /// The lower, the earlier.
    pub priority: i32,
}

/// One step of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Makes our table where it is not there.
    AddTable(Family),
    /// Removes our table with all that is in it.
    DeleteTable(Family),
    /// Makes a map where it is not there.
    AddMap(Map),
    /// Makes a chain where it is not there.
    AddChain(Chain, Option<Hook>),
    /// Removes the rules of a chain.
    Flush(Chain),
    /// Removes a chain, which must have no rules.
    DeleteChain(Chain),
    /// Adds a rule at a chain's end.
    AddRule {
        /// The chain.
        chain: Chain,
        /// Whose it is, and what it is known again by.
        comment: String,
        /// What it says.
        expr: Vec<Value>,
    },
    /// Adds an element.
    AddElement(Element),
    /// Removes an element.
    DeleteElement(Element),
    /// Removes a rule of the stock driver.
    DeleteStockRule {
        /// Where it is.
        chain: Chain,
        /// Its number in the kernel.
        handle: u64,
    },
    /// Removes the rules of a chain of the stock driver.
    FlushStock(Chain),
    /// Removes a chain of the stock driver, which must have no rules.
    DeleteStockChain(Chain),
}

/// The table of the stock driver's chains.
pub const STOCK_TABLE: &str = "filter";

impl Command {
    /// The family of the table of ours that it is about; none where it is about none of ours.
    pub(super) fn family(&self) -> Option<Family> {
        Some(match self {
            Command::AddTable(family) | Command::DeleteTable(family) => *family,
            Command::AddMap(map) => map.family(),
            Command::AddChain(chain, _) | Command::Flush(chain) | Command::DeleteChain(chain) => chain.family,
            Command::AddRule { chain, .. } => chain.family,
            Command::AddElement(element) | Command::DeleteElement(element) => element.map.family(),
            Command::DeleteStockRule { .. } | Command::FlushStock(_) | Command::DeleteStockChain(_) => {
                return None;
            }
        })
    }

    fn json(&self) -> Value {
        match self {
            Command::AddTable(family) => json!({"add": {"table": {"family": family, "name": TABLE}}}),
            Command::DeleteTable(family) => json!({"delete": {"table": {"family": family, "name": TABLE}}}),
            Command::AddMap(map) => {
                let kind = if map.by_mark() { "mark" } else { "ifname" };
                json!({"add": {"map": {"family": map.family(), "table": TABLE, "name": map, "type": kind, "map": "verdict"}}})
            }
            Command::AddChain(chain, None) => json!({"add": {"chain": named(chain, TABLE)}}),
            Command::AddChain(Chain { family, name }, Some(Hook { hook, priority })) => {
                json!({"add": {"chain": {
                    "family": family, "table": TABLE, "name": name,
                    "type": "filter", "hook": hook, "prio": priority, "policy": "accept",
                }}})
            }
            Command::Flush(chain) => json!({"flush": {"chain": named(chain, TABLE)}}),
            Command::DeleteChain(chain) => json!({"delete": {"chain": named(chain, TABLE)}}),
            Command::AddRule { chain, comment, expr } => json!({"add": {"rule": {
                "family": chain.family, "table": TABLE, "chain": chain.name, "comment": comment, "expr": expr,
            }}}),
            Command::AddElement(Element { map, key, chain, comment }) => {
                // One of these is the last rule of its chain, or all that follows it is for what has come back.
                let verdict = if map.by_mark() { expr::goto(chain) } else { expr::jump(chain) };
                let key = json!({"elem": {"val": key, "comment": comment}});
                json!({"add": {"element": {
                    "family": map.family(), "table": TABLE, "name": map, "elem": [[key, verdict]],
                }}})
            }
            Command::DeleteElement(Element { map, key, .. }) => json!({"delete": {"element": {
                "family": map.family(), "table": TABLE, "name": map, "elem": [key],
            }}}),
            Command::DeleteStockRule { chain: Chain { family, name }, handle } => {
                json!({"delete": {"rule": {"family": family, "table": STOCK_TABLE, "chain": name, "handle": handle}}})
            }
            Command::FlushStock(chain) => json!({"flush": {"chain": named(chain, STOCK_TABLE)}}),
            Command::DeleteStockChain(chain) => json!({"delete": {"chain": named(chain, STOCK_TABLE)}}),
        }
    }
}

fn named(chain: &Chain, table: &str) -> Value {
    json!({"family": chain.family, "table": table, "name": chain.name})
}

/// One batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The devices that get the rules of their guests.
    pub guards: BTreeSet<LinkName>,
    /// The devices that lose theirs.
    pub frees: BTreeSet<LinkName>,
    /// In order.
    pub commands: Vec<Command>,
}

impl Change {
    /// As `nft -j -f` reads it.
    pub fn json(&self) -> Value {
        let commands: Vec<Value> = self.commands.iter().map(Command::json).collect();
        json!({"nftables": commands})
    }
}

/// `guard one-7-0 one-7-1 by 31 rules, remove the rules of one-8-0`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |names: &BTreeSet<LinkName>| -> String { names.iter().map(|name| format!(" {name}")).collect() };
        let count = |of: fn(&Command) -> bool| self.commands.iter().filter(|command| of(command)).count();
        let mut parts = Vec::new();
        let rules = count(|command| matches!(command, Command::AddRule { .. }));
        if !self.guards.is_empty() {
            parts.push(format!("guard{} by {rules} rules", names(&self.guards)));
        }
        if !self.frees.is_empty() {
            parts.push(format!("remove the rules of{}", names(&self.frees)));
        }
        let stock = count(|command| matches!(command, Command::DeleteStockChain(_)));
        if stock > 0 {
            parts.push(format!("remove {stock} chains of the stock driver"));
        }
        if parts.is_empty() {
            parts.push(format!("set what all guards share by {rules} rules"));
        }
        f.write_str(&parts.join(", "))
    }
}
