//! One change of the kernel's network: named, printable, and each one netlink message.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use causeway_core::names::LinkName;
use serde::{Deserialize, Serialize};

use super::functions::FunctionSetting;
use super::observe::Remote;
use crate::desired::tags::ranges;
use crate::desired::{BridgeOption, FdbEntry, Vlan, Vxlan, VxlanTuning};

/// What is done to the kernel; the order of a list is the order of its messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// Makes a bridge, up.
    CreateBridge {
        /// Its name.
        name: LinkName,
        /// Its options.
        options: BTreeMap<BridgeOption, u32>,
    },
    /// Makes a VXLAN device, up, as a port of its bridge.
    CreateVxlan(Vxlan),
    /// Makes a VLAN device, up, as a port of its bridge.
    CreateVlan(Vlan),
    /// Sets the alias that says whose it is.
    Mark {
        /// The device.
        name: LinkName,
    },
    /// Sets options of a bridge.
    SetBridge {
        /// The bridge.
        name: LinkName,
        /// The options that differ.
        options: BTreeMap<BridgeOption, u32>,
    },
    /// Sets parameters of a VXLAN device.
    SetVxlan {
        /// The device.
        name: LinkName,
        /// All of its parameters that can be changed.
        tuning: VxlanTuning,
    },
    /// Sets an MTU.
    SetMtu {
        /// The device.
        name: LinkName,
        /// Bytes.
        mtu: u32,
    },
    /// Makes a device a port of a bridge.
    SetBridgeOf {
        /// The device.
        name: LinkName,
        /// The bridge.
        bridge: LinkName,
    },
    /// Takes a device out of its bridge.
    TakeOut {
        /// The device.
        name: LinkName,
    },
    /// Brings a device up.
    SetUp {
        /// The device.
        name: LinkName,
    },
    /// Lets a port of a bridge be in VLANs.
    SetVlans {
        /// The port.
        port: LinkName,
        /// The VLAN of its frames without a tag, where that changes.
        untagged: Option<u16>,
        /// Those whose frames have their tag.
        tagged: BTreeSet<u16>,
    },
    /// Takes a port of a bridge out of VLANs.
    ForgetVlans {
        /// The port.
        port: LinkName,
        /// The VLANs.
        vlans: BTreeSet<u16>,
    },
    /// Has a device hand frames to its card.
    SetOffload {
        /// The device.
        name: LinkName,
    },
    /// Sets what a physical function does for a virtual one.
    SetFunction {
        /// The physical function's device.
        device: LinkName,
        /// The virtual one's number.
        index: u32,
        /// What is set.
        setting: FunctionSetting,
    },
    /// The same when its guest has left.
    ResetFunction {
        /// The physical function's device.
        device: LinkName,
        /// The virtual one's number.
        index: u32,
        /// What is set.
        setting: FunctionSetting,
    },
    /// Says behind which port an address is.
    SetFdb(FdbEntry),
    /// Forgets that an address is behind a port, if it is.
    ForgetFdb(FdbEntry),
    /// Forgets that an address is behind a tunnel's remote end, if it is.
    ForgetRemote(Remote),
    /// Removes a device.
    Delete {
        /// The device.
        name: LinkName,
    },
}

impl Change {
    /// Whether a guest can do without it: tables fill by themselves, only later, and what a guest that has gone left on a function, the
    /// next one's network sets anew. What its card does not move, the host does.
    pub fn is_advisory(&self) -> bool {
        let table = matches!(self, Change::SetFdb(_) | Change::ForgetFdb(_) | Change::ForgetRemote(_));
        table || matches!(self, Change::ResetFunction { .. } | Change::SetOffload { .. })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |options: &BTreeMap<BridgeOption, u32>| -> String {
            options.iter().map(|(k, v)| format!(" {k} {v}")).collect()
        };
        match self {
            Change::CreateBridge { name, options } => write!(f, "create bridge {name}{}", list(options)),
            Change::CreateVxlan(v) => {
                write!(f, "create vxlan {} {} mtu {}", v.name, v.identity, v.mtu)?;
                v.bridge.as_ref().map_or(Ok(()), |bridge| write!(f, " in {bridge}"))
            }
            Change::CreateVlan(v) => {
                write!(
                    f,
                    "create vlan {} {} on {} mtu {} in {}",
                    v.name, v.identity, v.uplink, v.mtu, v.bridge
                )
            }
            Change::Mark { name } => write!(f, "mark {name}"),
            Change::SetBridge { name, options } => write!(f, "set bridge {name}{}", list(options)),
            Change::SetVxlan { name, tuning } => write!(
                f,
                "set vxlan {name} ttl {} tos {} learning {} ageing {} df {}",
                tuning.ttl, tuning.tos, tuning.learning, tuning.ageing, tuning.df
            ),
            Change::SetMtu { name, mtu } => write!(f, "set {name} mtu {mtu}"),
            Change::SetBridgeOf { name, bridge } => write!(f, "set {name} bridge {bridge}"),
            Change::TakeOut { name } => write!(f, "take {name} out of its bridge"),
            Change::SetUp { name } => write!(f, "set {name} up"),
            Change::SetVlans { port, untagged, tagged } => {
                write!(f, "set vlans of {port}")?;
                untagged.map_or(Ok(()), |tag| write!(f, " untagged {tag}"))?;
                if tagged.is_empty() { Ok(()) } else { write!(f, " tagged {}", ranges(tagged)) }
            }
            Change::ForgetVlans { port, vlans } => write!(f, "forget vlans {} of {port}", ranges(vlans)),
            Change::SetFunction { device, index, setting } => write!(f, "set {device} vf {index}{setting}"),
            Change::ResetFunction { device, index, setting } => {
                write!(f, "reset {device} vf {index}{setting}")
            }
            Change::SetOffload { name } => write!(f, "set {name} hw-tc-offload on"),
            Change::SetFdb(e) => write!(f, "set fdb {} at {} of {}", e.mac, e.port, e.bridge),
            Change::ForgetFdb(e) => write!(f, "forget fdb {} at {} of {}", e.mac, e.port, e.bridge),
            Change::ForgetRemote(r) => write!(f, "forget {} behind {}", r.mac, r.tunnel),
            Change::Delete { name } => write!(f, "delete {name}"),
        }
    }
}
