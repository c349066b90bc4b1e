//! What the pure part must know about a host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_core::names::LinkName;
use serde::{Deserialize, Serialize};

/// The operator's list of devices that virtual networks may use; root's own.
pub const UPLINKS_FILE: &str = "/etc/causeway/uplinks";

/// Facts about a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Devices that the operator lists for virtual networks to use.
    pub listed: BTreeSet<LinkName>,
    /// Those of them that a document names as uplinks, as far as they exist.
    pub uplinks: BTreeMap<LinkName, Uplink>,
}

/// A device that a network's frames leave the host by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// Bytes.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses in the kernel's order, but link-local IPv6 ones.
    pub addresses: Vec<IpAddr>,
}
