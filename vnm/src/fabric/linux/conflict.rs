//! Why a host's devices and a network don't go together: what is there, what is wanted, and what an administrator can do.

use causeway_core::names::LinkName;

/// Why a host cannot be brought to the desired state without harm to somebody else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The name is taken by something else.
    #[error("{name} is {found} on this host, not {wanted}")]
    Kind {
        /// The device.
        name: LinkName,
        /// What it should be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// A bridge that we neither made nor may use.
    #[error(
        "bridge {name} was not made by causeway: remove it, or list it in the file of permitted devices to let virtual \
         networks into it"
    )]
    ForeignBridge {
        /// The bridge.
        name: LinkName,
    },
    /// A tunnel that we did not make and that is not where it should be.
    #[error("{name} was not made by causeway and is no port of {bridge}: remove it")]
    ForeignTunnel {
        /// The tunnel.
        name: LinkName,
        /// The bridge it should be in.
        bridge: LinkName,
    },
    /// A second way out of a bridge (contract VNM 5, W25).
    #[error(
        "bridge {bridge} already leads out by {found}: with {wanted} as well, two networks would become one"
    )]
    SecondUplink {
        /// The bridge.
        bridge: LinkName,
        /// Its way out.
        found: String,
        /// The other one.
        wanted: LinkName,
    },
    /// The tunnel exists with another identity (W21).
    #[error("{name} exists with {found}, but the network wants {wanted}: remove it when no guest uses it")]
    Identity {
        /// The tunnel.
        name: LinkName,
        /// What it has.
        found: String,
        /// What it should have.
        wanted: String,
    },
    /// The tunnel is plugged into another bridge.
    #[error("{name} is a port of {found}, not of {wanted}: two networks share a VLAN_ID")]
    Elsewhere {
        /// The tunnel.
        name: LinkName,
        /// The bridge it is in.
        found: String,
        /// The bridge it should be in.
        wanted: LinkName,
    },
    /// The uplink is plugged into another bridge.
    #[error("uplink {name} is a port of {found}: as a port of {wanted} as well, it would be in two networks")]
    UplinkElsewhere {
        /// The uplink.
        name: LinkName,
        /// The bridge it is in.
        found: String,
        /// The bridge it should be in.
        wanted: LinkName,
    },
    /// The number is taken by another tunnel; the kernel has one per number and port.
    #[error(
        "VNI {vni} with UDP port {port} is taken on this host by {found}: the network cannot also use {wanted}"
    )]
    Number {
        /// The number.
        vni: u32,
        /// The UDP port.
        port: u16,
        /// The tunnel that has it.
        found: String,
        /// The tunnel that should have it.
        wanted: LinkName,
    },
    /// The network's old way out, which we did not make.
    #[error(
        "{name} in bridge {bridge} was not made by causeway: take it out of there, for the network has another way out now"
    )]
    ForeignWayOut {
        /// The tunnel or uplink.
        name: LinkName,
        /// The bridge it is in.
        bridge: String,
    },
    /// A bridge that we may not change, and whose frames no rule sees.
    #[error(
        "bridge {name} does not hand its frames to the firewall, and causeway did not make it: run `ip link set {name} type bridge \
         nf_call_iptables 1 nf_call_ip6tables 1`"
    )]
    Unfiltered {
        /// The bridge.
        name: LinkName,
    },
    /// A bridge that we may not change, and that lets every VLAN pass.
    #[error(
        "bridge {name} does not filter by VLAN, and causeway did not make it: run `ip link set {name} type bridge vlan_filtering 1`"
    )]
    Unsorted {
        /// The bridge.
        name: LinkName,
    },
    /// A bridge that we may not change, and that puts a new port into a VLAN which is not the network's.
    #[error(
        "bridge {name} puts new ports into VLAN {found}, and causeway did not make it: run `ip link set {name} type bridge \
         vlan_default_pvid {wanted}`"
    )]
    Native {
        /// The bridge.
        name: LinkName,
        /// The VLAN.
        found: u32,
        /// The network's.
        wanted: u16,
    },
    /// A bridge whose guests would lose what they tag themselves.
    #[error(
        "bridge {bridge} does not filter by VLAN yet, and {tap} of a network without VLAN_TAGGED_ID or CVLANS is plugged into it: give \
         the two networks different bridges, or move that guest away first"
    )]
    CutOff {
        /// The bridge.
        bridge: LinkName,
        /// A guest's device that is plugged in.
        tap: String,
    },
    /// A VLAN that has its frames leave without a tag.
    #[error(
        "frames of VLAN {vlan} have no tag at {port} of {bridge}, so that no guest there can tag its own with it"
    )]
    NoTag {
        /// The VLAN.
        vlan: u16,
        /// The port.
        port: LinkName,
        /// The bridge.
        bridge: LinkName,
    },
    /// A physical function without that virtual one.
    #[error("{device} has no virtual function {index}: its driver does not tell of any, or not of so many")]
    NoFunction {
        /// The physical function's device.
        device: LinkName,
        /// The number.
        index: u32,
    },
    /// The uplink went away, or was never there.
    #[error("uplink {name} does not exist on this host")]
    NoUplink {
        /// The uplink.
        name: LinkName,
    },
}

impl Conflict {
    /// The device that the network wants, and does not get.
    pub fn device(&self) -> &str {
        match self {
            Conflict::Kind { name, .. }
            | Conflict::ForeignBridge { name }
            | Conflict::ForeignTunnel { name, .. }
            | Conflict::Identity { name, .. }
            | Conflict::Elsewhere { name, .. }
            | Conflict::UplinkElsewhere { name, .. }
            | Conflict::Unfiltered { name }
            | Conflict::Unsorted { name }
            | Conflict::Native { name, .. }
            | Conflict::NoUplink { name } => name.as_str(),
            Conflict::SecondUplink { bridge, .. } => bridge.as_str(),
            Conflict::CutOff { bridge, .. } | Conflict::NoTag { bridge, .. } => bridge.as_str(),
            Conflict::NoFunction { device, .. } => device.as_str(),
            Conflict::Number { wanted, .. } => wanted.as_str(),
            Conflict::ForeignWayOut { bridge, .. } => bridge,
        }
    }
}
