//! How rows of the database say whose they are: keys of `external_ids`, which everybody else leaves alone.

use std::collections::BTreeMap;

use causeway_core::names::VmId;
use serde::{Deserialize, Serialize};

use super::flows::{Hatch, Member};
use super::ovsdb::Row;
use crate::desired::switch::Vlans;

/// What a row is to us.
pub const KEY: &str = "causeway";
/// A bridge, or a patch, that we made.
pub const MADE: &str = "made";
/// A port of a guest.
pub const GUEST: &str = "guest";
/// The bridge that a guarded port, or its interface, is on: by this the guarded ports of a bridge are found.
pub const GUARDED: &str = "causeway-guarded";
/// The bridge that we made an uplink a port of.
pub const UPLINK: &str = "causeway-uplink";
/// The VM of a guest's port.
pub const VM: &str = "causeway-vm";
/// Its NIC.
pub const NIC: &str = "causeway-nic";
/// What a guarded port's flows must know, and its row does not say ([`Memory`]).
pub const MEMORY: &str = "causeway-guest";

/// The numbers of the patch that are asked for: below those of NICs, above those that Open vSwitch gives by itself.
pub const HATCH: Hatch = Hatch { guarded: 0x3ffe, guards: 0x3fff };

/// What is remembered of a guarded port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// The VLANs that the guest is in.
    pub vlans: Vlans,
    /// Whether it may have any addresses of Ethernet.
    pub any: bool,
}

impl Memory {
    /// As it stands in the row.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads it from a row; none where there is none, or one that we can't read.
    pub fn of(port: &Row) -> Option<Memory> {
        serde_json::from_str(port.map("external_ids").get(MEMORY)?).ok()
    }

    /// The guest as the others of its bridge see it.
    pub fn member(self, port: u32) -> Member {
        Member { port, vlans: self.vlans, any: self.any }
    }
}

/// Whose NIC's port it is.
pub fn owner(port: &Row) -> Option<(VmId, u32)> {
    let ids = port.map("external_ids");
    Some((VmId(ids.get(VM)?.parse().ok()?), ids.get(NIC)?.parse().ok()?))
}

/// Whether we made it.
pub fn is_ours(row: &Row) -> bool {
    row.map("external_ids").contains_key(KEY)
}

/// The names of a bridge's patch: of the port that all guarded guests are behind, and of its other end.
pub fn hatch_names(bridge: &str) -> [String; 2] {
    [format!("guarded-{bridge}"), format!("guards-{bridge}")]
}

/// Pairs as a map.
pub fn ids<const N: usize>(pairs: [(&str, String); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
