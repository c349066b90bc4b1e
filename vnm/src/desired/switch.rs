//! What must exist of an Open vSwitch for the NICs of one VM: plain data (contract VNM 4.2).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use causeway_core::names::LinkName;
use serde::{Deserialize, Serialize};

/// Where the sockets of DPDK ports lie; libvirt is told the same (contract VNM 3.3).
pub const SOCKETS: &str = "/var/run/one/vhost-socks";

/// A bridge of Open vSwitch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Its name.
    pub name: LinkName,
    /// What moves its frames.
    pub datapath: Datapath,
    /// Columns that are set when it is made (`ovs_bridge_conf`), as `column` or `column:key`.
    pub options: BTreeMap<String, String>,
    /// The devices that it leads out of the host by: `PHYDEV`, or the tunnel of `ovswitch_vxlan`.
    pub uplinks: BTreeSet<LinkName>,
    /// Keep it when the last guest has left (`keep_empty_bridge`).
    pub keep: bool,
}

/// What moves the frames of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datapath {
    /// `BRIDGE_TYPE` `openvswitch`: the kernel, or what the operator has chosen for the bridge.
    Any,
    /// `openvswitch_dpdk`: user space.
    Userspace,
}

/// A guest's port on a bridge of Open vSwitch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchPort {
    /// `NIC_ID`.
    pub nic: u32,
    /// The guest's device, which is the port's name.
    pub tap: LinkName,
    /// The bridge.
    pub switch: LinkName,
    /// The VLANs that it is in.
    pub vlans: Vlans,
    /// `MTU`, in bytes (`mtu_request`).
    pub mtu: Option<u32>,
    /// The socket that QEMU serves, where the port is one of DPDK (`dpdkvhostuserclient`).
    pub socket: Option<PathBuf>,
}

/// The VLANs of a port (`vlan_mode` and its columns).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vlans {
    /// One, and the guest does not know of it; 0 is the network without a tag.
    Access(u16),
    /// Some that the guest tags itself (`VLAN_TAGGED_ID`), and perhaps one that it does not.
    Trunk {
        /// `VLAN_ID`.
        untagged: Option<u16>,
        /// `VLAN_TAGGED_ID`; none lets all pass, as the stock driver does (W1).
        tagged: Option<BTreeSet<u16>>,
    },
    /// The guest's own tags within one of ours (`CVLANS`, `QINQ_TYPE`).
    Tunnel {
        /// `VLAN_ID`, the outer tag.
        outer: u16,
        /// The inner ones.
        inner: BTreeSet<u16>,
        /// Ethertype of the outer tag, as `other_config:qinq-ethtype` spells it: `802.1q` or `802.1ad`.
        ethertype: String,
    },
}
