//! What the pure part must know about a host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_core::names::LinkName;
use serde::{Deserialize, Serialize};

use super::function::Located;
use super::refusal::Refusal;

/// The operator's list of devices that virtual networks may use; root's own.
pub const UPLINKS_FILE: &str = "/etc/causeway/uplinks";

/// Facts about a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Devices that the operator lists for virtual networks to use.
    pub listed: BTreeSet<LinkName>,
    /// Those of them that a document names as uplinks, as far as they exist.
    pub uplinks: BTreeMap<LinkName, Uplink>,
    /// The PCI devices of networks, by `NIC_ID`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub functions: BTreeMap<u32, Located>,
    /// Whether the frames of every bridge come by the rules of `inet` (`net.bridge.bridge-nf-call-iptables`, `-ip6tables`).
    pub filtered: bool,
}

impl Facts {
    /// The device that a NIC's network is to use.
    ///
    /// # Errors
    /// It is not listed, or not there.
    pub fn uplink(&self, nic: u32, name: &LinkName) -> Result<&Uplink, Refusal> {
        if !self.listed.contains(name) {
            return Err(Refusal::not_listed(nic, name));
        }
        self.uplinks.get(name).ok_or_else(|| Refusal::NoUplink { nic, name: name.clone() })
    }
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
