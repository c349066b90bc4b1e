//! The kernel's link messages as the few facts we compare.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_core::names::{Mac, Vni};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVlan, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage, VlanProtocol, VxlanDf,
};
use serde::{Deserialize, Serialize};

use super::mark::Mark;
use crate::desired::port::is_tap_name;
use crate::desired::{BridgeOption, Checksums, VlanIdentity, VxlanTuning};

/// A device as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's number for it; never used twice in a namespace while we look.
    pub index: u32,
    /// Its name; the operator's devices may bear names that we would refuse.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: u32,
    /// Whether it is up, by its administrator's will.
    pub up: bool,
    /// The bridge it is a port of.
    pub bridge: Option<u32>,
    /// Whose it is.
    pub mark: Mark,
}

impl Link {
    /// What it is, for a message.
    pub fn what(&self) -> String {
        match &self.kind {
            LinkKind::Bridge(_) => "a bridge".to_owned(),
            LinkKind::Vxlan(_) => "a vxlan device".to_owned(),
            LinkKind::Vlan(_) => "a VLAN device".to_owned(),
            LinkKind::Tap => "a tap device".to_owned(),
            LinkKind::Inner => "a virtual device".to_owned(),
            LinkKind::Outer(kind) => format!("a device ({kind})"),
        }
    }

    /// Whether it is a guest's device: by its kind, or by its name.
    pub fn is_guests(&self) -> bool {
        self.kind == LinkKind::Tap || self.name.parse().is_ok_and(|name| is_tap_name(&name))
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// A bridge with its options.
    Bridge(BTreeMap<BridgeOption, u32>),
    /// A VXLAN device.
    Vxlan(VxlanSeen),
    /// A VLAN device.
    Vlan(VlanSeen),
    /// A guest's device.
    Tap,
    /// One end of a pair, or a device without hardware: nothing that leads out of the host by itself.
    Inner,
    /// A device with hardware behind it, or of a kind that leads out of the host.
    Outer(String),
}

/// A VXLAN device's parameters as the kernel reports them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanSeen {
    /// None for a device that carries many.
    pub vni: Option<Vni>,
    /// The device below, by the kernel's number.
    pub device: Option<u32>,
    /// The group, or the one remote end.
    pub group: Option<IpAddr>,
    /// The address it sends from.
    pub local: Option<IpAddr>,
    /// UDP destination port.
    pub port: u16,
    /// Outer checksums.
    pub checksums: Checksums,
    /// What can be changed.
    pub tuning: VxlanTuning,
}

/// A VLAN device's parameters as the kernel reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanSeen {
    /// The device below, by the kernel's number.
    pub device: Option<u32>,
    /// Its tag.
    pub identity: VlanIdentity,
}

/// Reads a link message; `None` for one without a name.
pub fn link(message: &LinkMessage) -> Option<Link> {
    let mut name = None;
    let mut kind = None;
    let mut data = None;
    let mut mac = None;
    let (mut mtu, mut group, mut bridge, mut alias, mut below) = (0, 0, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            LinkAttribute::Controller(index) => bridge = Some(*index).filter(|i| *i != 0),
            LinkAttribute::IfAlias(text) => alias = Some(text.clone()),
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::Group(number) => group = *number,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(found) => kind = Some(found),
                        LinkInfo::Data(found) => data = Some(found),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Link {
        index: message.header.index,
        name: name?,
        kind: link_kind(kind, data, below),
        mac,
        mtu,
        up: message.header.flags.contains(LinkFlags::Up),
        bridge,
        mark: Mark::of(alias.as_deref(), group),
    })
}

fn link_kind(kind: Option<&InfoKind>, data: Option<&InfoData>, below: Option<u32>) -> LinkKind {
    match (kind, data) {
        (Some(InfoKind::Vlan), Some(InfoData::Vlan(infos))) => LinkKind::Vlan(vlan(infos, below)),
        (Some(InfoKind::Bridge), Some(InfoData::Bridge(infos))) => LinkKind::Bridge(bridge_options(infos)),
        (Some(InfoKind::Bridge), _) => LinkKind::Bridge(BTreeMap::new()),
        (Some(InfoKind::Vxlan), Some(InfoData::Vxlan(infos))) => LinkKind::Vxlan(vxlan(infos)),
        (Some(InfoKind::Tun), _) => LinkKind::Tap,
        (Some(InfoKind::Veth | InfoKind::Dummy | InfoKind::Ifb), _) => LinkKind::Inner,
        (Some(other), _) => LinkKind::Outer(other.to_string()),
        (None, _) => LinkKind::Outer("hardware".to_owned()),
    }
}

fn vlan(infos: &[InfoVlan], device: Option<u32>) -> VlanSeen {
    let mut identity = VlanIdentity { tag: 0, provider: false };
    for info in infos {
        match info {
            InfoVlan::Id(tag) => identity.tag = *tag,
            InfoVlan::Protocol(protocol) => identity.provider = *protocol == VlanProtocol::Ieee8021Ad,
            _ => {}
        }
    }
    VlanSeen { device, identity }
}

fn bridge_options(infos: &[InfoBridge]) -> BTreeMap<BridgeOption, u32> {
    let option = |info: &InfoBridge| match info {
        InfoBridge::AgeingTime(n) => Some((BridgeOption::AgeingTime, *n)),
        InfoBridge::ForwardDelay(n) => Some((BridgeOption::ForwardDelay, *n)),
        InfoBridge::HelloTime(n) => Some((BridgeOption::HelloTime, *n)),
        InfoBridge::MaxAge(n) => Some((BridgeOption::MaxAge, *n)),
        InfoBridge::StpState(state) => {
            Some((BridgeOption::StpState, u32::from(*state != BridgeStpState::Disabled)))
        }
        InfoBridge::Priority(n) => Some((BridgeOption::Priority, u32::from(*n))),
        InfoBridge::VlanFiltering(on) => Some((BridgeOption::VlanFiltering, u32::from(*on))),
        InfoBridge::VlanDefaultPvid(n) => Some((BridgeOption::VlanDefaultPvid, u32::from(*n))),
        InfoBridge::MulticastSnooping(on) => Some((BridgeOption::McastSnooping, u32::from(*on))),
        InfoBridge::MulticastQuerier(on) => Some((BridgeOption::McastQuerier, u32::from(*on))),
        InfoBridge::NfCallIpTables(on) => Some((BridgeOption::NfCallIptables, u32::from(*on))),
        InfoBridge::NfCallIp6Tables(on) => Some((BridgeOption::NfCallIp6tables, u32::from(*on))),
        _ => None,
    };
    infos.iter().filter_map(option).collect()
}

fn vxlan(infos: &[InfoVxlan]) -> VxlanSeen {
    let mut seen = VxlanSeen {
        vni: None,
        device: None,
        group: None,
        local: None,
        port: 0,
        checksums: Checksums { udp: false, zero6_sent: false, zero6_accepted: false },
        tuning: VxlanTuning { learning: false, ..VxlanTuning::default() },
    };
    let mut external = false;
    for info in infos {
        match info {
            InfoVxlan::Id(n) => seen.vni = Vni::try_from(*n).ok(),
            InfoVxlan::Link(index) => seen.device = Some(*index).filter(|i| *i != 0),
            InfoVxlan::Group(address) => seen.group = Some(IpAddr::from(*address)),
            InfoVxlan::Group6(address) => seen.group = Some(IpAddr::from(*address)),
            InfoVxlan::Local(address) => seen.local = Some(IpAddr::from(*address)),
            InfoVxlan::Local6(address) => seen.local = Some(IpAddr::from(*address)),
            InfoVxlan::Port(n) => seen.port = *n,
            InfoVxlan::UDPCsum(on) => seen.checksums.udp = *on,
            InfoVxlan::UDPZeroCsumTX(on) => seen.checksums.zero6_sent = *on,
            InfoVxlan::UDPZeroCsumRX(on) => seen.checksums.zero6_accepted = *on,
            InfoVxlan::Ttl(n) => seen.tuning.ttl = *n,
            InfoVxlan::Tos(n) => seen.tuning.tos = *n,
            InfoVxlan::Learning(on) => seen.tuning.learning = *on,
            InfoVxlan::Ageing(seconds) => seen.tuning.ageing = *seconds,
            InfoVxlan::Df(df) => seen.tuning.df = *df == VxlanDf::Set,
            InfoVxlan::CollectMetadata(on) => external = *on,
            _ => {}
        }
    }
    if external {
        seen.vni = None;
    }
    seen
}
