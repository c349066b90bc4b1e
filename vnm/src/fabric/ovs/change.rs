//! What is done to a switch: one transaction of its database, and one bundle of flows for each bridge.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::openflow::FlowChange;
use super::row::Columns;

/// One change; the order of a list is the order in which they are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// All changes of rows.
    Database(Transaction),
    /// All changes of a bridge's flows.
    Flows {
        /// The bridge.
        bridge: String,
        /// Zones whose connections nobody has any more: they must not be known to whoever has the number next.
        forget: Vec<u16>,
        /// In order.
        changes: Vec<FlowChange>,
        /// Whether a port is there that they are about: then it is done when the datapath does as they say, and not by
        /// what it remembers. To who is still to come, and who has gone, nothing that is remembered leads.
        settle: bool,
    },
}

/// Changes of rows, made at one moment or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// What it was worked out from.
    pub expect: Vec<Expected>,
    /// The changes.
    pub edits: Vec<Edit>,
    /// Whether flows count on it: then it is not done before the switch has taken it up.
    pub wait: bool,
}

/// A table with names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Bridges.
    Bridge,
    /// Ports.
    Port,
}

/// What must be as it was when the changes were worked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// There is nothing of that name; or this row, and no other.
    Named {
        /// The table.
        table: Table,
        /// The name.
        name: String,
        /// The row's identity.
        row: Option<String>,
    },
    /// The bridge has these ports.
    Ports {
        /// The bridge.
        bridge: String,
        /// Identities of their rows.
        ports: Vec<String>,
    },
}

/// A change of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Makes a bridge.
    AddBridge {
        /// Its name.
        name: String,
        /// What its row says.
        bridge: Columns,
    },
    /// Makes a port.
    AddPort {
        /// The bridge.
        bridge: String,
        /// The port's name, and its interface's.
        name: String,
        /// What its row says.
        port: Columns,
        /// What its interface's row says.
        interface: Columns,
        /// The number that flows already count on.
        counted_on: Option<u16>,
    },
    /// Changes a port.
    SetPort {
        /// Its name.
        name: String,
        /// What its row is to say.
        port: Columns,
        /// What its interface's row is to say.
        interface: Columns,
    },
    /// Takes a port away.
    RemovePort {
        /// The bridge.
        bridge: String,
        /// The port.
        name: String,
        /// Its row.
        row: String,
    },
    /// Takes a bridge away, with all of its ports.
    RemoveBridge {
        /// Its name.
        name: String,
        /// Its row.
        row: String,
    },
    /// Two tags of a frame are read.
    ReadTwoTags,
}

impl Transaction {
    /// Makes a change of what has that name, and was so.
    pub(super) fn edit(&mut self, table: Table, name: &str, row: Option<String>, edit: Edit) {
        self.expect(table, name, row);
        self.edits.push(edit);
    }

    /// Counts on that row, or that there is none.
    pub(super) fn expect(&mut self, table: Table, name: &str, row: Option<String>) {
        let expected = Expected::Named { table, name: name.to_owned(), row };
        if !self.expect.contains(&expected) {
            self.expect.push(expected);
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edit::AddBridge { name, .. } => write!(f, "create bridge {name}"),
            Edit::AddPort { bridge, name, .. } => write!(f, "add {name} to {bridge}"),
            Edit::SetPort { name, .. } => write!(f, "set {name}"),
            Edit::RemovePort { bridge, name, .. } => write!(f, "remove {name} from {bridge}"),
            Edit::RemoveBridge { name, .. } => write!(f, "delete bridge {name}"),
            Edit::ReadTwoTags => f.write_str("set vlan-limit 2"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Database(transaction) => {
                f.write_str("openvswitch:")?;
                for (index, edit) in transaction.edits.iter().enumerate() {
                    write!(f, "{} {edit}", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Change::Flows { bridge, changes, .. } => {
                let count = |is: fn(&&FlowChange) -> bool| changes.iter().filter(is).count();
                let put = count(|change| matches!(change, FlowChange::Put(_)));
                let lent = count(|change| matches!(change, FlowChange::Lend(..)));
                write!(f, "flows of {bridge}: {put} set, {} removed", changes.len() - put - lent)?;
                if lent > 0 { write!(f, ", {lent} for a time") } else { Ok(()) }
            }
        }
    }
}
