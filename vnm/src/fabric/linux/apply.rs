//! Changes as netlink messages, one each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;

use causeway_core::names::{LinkName, Mac};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVlan, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage, VlanProtocol, VxlanDf,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::change::Change;
use super::ethtool::Ethtool;
use super::functions;
use super::mark;
use super::netlink::{Existing, NetlinkError, Rtnetlink};
use super::observe::by_name;
use super::vlan_table;
use crate::desired::{BridgeOption, FdbEntry, Vlan, Vxlan, VxlanTuning};

/// Makes one change.
///
/// # Errors
/// The kernel's errno. What is gone already is no error where the change takes it away.
pub fn apply(netlink: &mut Rtnetlink, change: &Change) -> Result<(), NetlinkError> {
    let what = change.to_string();
    match change {
        Change::CreateBridge { name, options } => {
            let data = InfoData::Bridge(bridge_options(options));
            let attributes =
                vec![LinkAttribute::Address(address()?.0.to_vec()), info(InfoKind::Bridge, data)];
            create(netlink, &what, name, attributes).map_err(|error| if_filtering(options, error))
        }
        Change::CreateVxlan(tunnel) => create_vxlan(netlink, &what, tunnel),
        Change::CreateVlan(vlan) => create_vlan(netlink, &what, vlan),
        Change::Mark { name } => {
            let alias = LinkAttribute::IfAlias(mark::ALIAS.to_owned());
            set(netlink, &what, name, vec![alias])
        }
        Change::SetBridge { name, options } => {
            let data = InfoData::Bridge(bridge_options(options));
            let message = message(index(netlink, name)?, vec![info(InfoKind::Bridge, data)]);
            let sent = netlink.change(&what, RouteNetlinkMessage::NewLink(message), Existing::Needed);
            sent.map_err(|error| if_filtering(options, error))
        }
        Change::SetVxlan { name, tuning } => {
            let data = InfoData::Vxlan(tuning_infos(*tuning));
            let message = message(index(netlink, name)?, vec![info(InfoKind::Vxlan, data)]);
            netlink.change(&what, RouteNetlinkMessage::NewLink(message), Existing::Needed)
        }
        Change::SetMtu { name, mtu } => set(netlink, &what, name, vec![LinkAttribute::Mtu(*mtu)]),
        Change::SetBridgeOf { name, bridge } => {
            let bridge = index(netlink, bridge)?;
            set(netlink, &what, name, vec![LinkAttribute::Controller(bridge)])
        }
        Change::TakeOut { name } => set(netlink, &what, name, vec![LinkAttribute::Controller(0)]),
        Change::SetUp { name } => {
            let message = up(message(index(netlink, name)?, Vec::new()));
            netlink.change(&what, RouteNetlinkMessage::SetLink(message), Existing::Needed)
        }
        Change::SetVlans { port, untagged, tagged } => {
            let message = vlan_table::set(index(netlink, port)?, *untagged, tagged);
            let sent = netlink.change(&what, RouteNetlinkMessage::SetLink(message), Existing::Needed);
            sent.map_err(without_filtering)
        }
        Change::ForgetVlans { port, vlans } => forget(netlink, &what, |netlink| {
            let message = vlan_table::forget(index(netlink, port)?, vlans);
            Ok(RouteNetlinkMessage::DelLink(message))
        }),
        Change::SetOffload { name } => Ethtool::open()?.offload(&what, name),
        Change::SetFunction { device, index: number, setting }
        | Change::ResetFunction { device, index: number, setting } => {
            let message = functions::set(index(netlink, device)?, *number, setting);
            netlink.change(&what, RouteNetlinkMessage::NewLink(message), Existing::Needed)
        }
        Change::SetFdb(entry) => {
            let mut message = fdb(netlink, entry)?;
            // Reachable: an entry like a learned one, which a frame from elsewhere moves and time removes.
            message.header.state = NeighbourState::Reachable;
            netlink.change(&what, RouteNetlinkMessage::NewNeighbour(message), Existing::Replaced)
        }
        Change::ForgetFdb(entry) => {
            forget(netlink, &what, |netlink| Ok(RouteNetlinkMessage::DelNeighbour(fdb(netlink, entry)?)))
        }
        Change::ForgetRemote(remote) => forget(netlink, &what, |netlink| {
            let message = neighbour(index(netlink, &remote.tunnel)?, remote.mac, NeighbourFlags::Own);
            Ok(RouteNetlinkMessage::DelNeighbour(message))
        }),
        Change::Delete { name } => forget_link(netlink, &what, name),
    }
}

/// An address for a bridge, of those that anybody may give (IEEE 802c). Without one of its own, a bridge changes its address whenever a
/// guest with a lower one comes or goes, and with it those connections of the host for which rules know it.
fn address() -> Result<Mac, NetlinkError> {
    let mut bytes = [0; 6];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    read.map_err(|source| NetlinkError::Socket { what: "read /dev/urandom for", source })?;
    let [first, ..] = &mut bytes;
    *first = *first & 0xfc | 0x02;
    Ok(Mac(bytes))
}

/// The number of a device that must be there.
fn index(netlink: &mut Rtnetlink, name: &LinkName) -> Result<u32, NetlinkError> {
    by_name(netlink, name)?.map(|link| link.index).ok_or_else(|| NetlinkError::Refused {
        what: format!("look up {name}"),
        errno: Errno::NODEV,
        note: None,
    })
}

fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn up(mut message: LinkMessage) -> LinkMessage {
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message
}

fn info(kind: InfoKind, data: InfoData) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])
}

fn set(
    netlink: &mut Rtnetlink,
    what: &str,
    name: &LinkName,
    attributes: Vec<LinkAttribute>,
) -> Result<(), NetlinkError> {
    let message = message(index(netlink, name)?, attributes);
    netlink.change(what, RouteNetlinkMessage::SetLink(message), Existing::Needed)
}

/// Makes a device, up and with our mark, in one message.
fn create(
    netlink: &mut Rtnetlink,
    what: &str,
    name: &LinkName,
    mut attributes: Vec<LinkAttribute>,
) -> Result<(), NetlinkError> {
    attributes.insert(0, LinkAttribute::IfName(name.to_string()));
    attributes.push(LinkAttribute::Group(mark::GROUP));
    let message = up(message(0, attributes));
    netlink.change(what, RouteNetlinkMessage::NewLink(message), Existing::Refused)
}

fn create_vxlan(netlink: &mut Rtnetlink, what: &str, tunnel: &Vxlan) -> Result<(), NetlinkError> {
    let identity = &tunnel.identity;
    let mut data = vec![InfoVxlan::Id(identity.vni.get()), InfoVxlan::Port(identity.port)];
    if let Some(device) = &identity.device {
        data.push(InfoVxlan::Link(index(netlink, device)?));
    }
    data.extend(identity.group.map(|group| match group {
        IpAddr::V4(four) => InfoVxlan::Group(four),
        IpAddr::V6(six) => InfoVxlan::Group6(six),
    }));
    data.extend(identity.local.map(|local| match local {
        IpAddr::V4(four) => InfoVxlan::Local(four),
        IpAddr::V6(six) => InfoVxlan::Local6(six),
    }));
    data.push(InfoVxlan::UDPCsum(identity.checksums.udp));
    data.push(InfoVxlan::UDPZeroCsumTX(identity.checksums.zero6_sent));
    data.push(InfoVxlan::UDPZeroCsumRX(identity.checksums.zero6_accepted));
    data.extend(tuning_infos(tunnel.tuning));
    let mut attributes = vec![LinkAttribute::Mtu(tunnel.mtu)];
    if let Some(bridge) = &tunnel.bridge {
        attributes.push(LinkAttribute::Controller(index(netlink, bridge)?));
    }
    attributes.push(info(InfoKind::Vxlan, InfoData::Vxlan(data)));
    create(netlink, what, &tunnel.name, attributes).map_err(|error| explain(error, tunnel))
}

fn create_vlan(netlink: &mut Rtnetlink, what: &str, vlan: &Vlan) -> Result<(), NetlinkError> {
    let protocol = if vlan.identity.provider { VlanProtocol::Ieee8021Ad } else { VlanProtocol::Ieee8021Q };
    let data = vec![InfoVlan::Id(vlan.identity.tag), InfoVlan::Protocol(protocol)];
    let attributes = vec![
        LinkAttribute::Link(index(netlink, &vlan.uplink)?),
        LinkAttribute::Mtu(vlan.mtu),
        LinkAttribute::Controller(index(netlink, &vlan.bridge)?),
        info(InfoKind::Vlan, InfoData::Vlan(data)),
    ];
    create(netlink, what, &vlan.name, attributes)
}

/// Says what the kernel's errno means for a tunnel, where the kernel itself is silent.
fn explain(error: NetlinkError, tunnel: &Vxlan) -> NetlinkError {
    match error {
        NetlinkError::Refused { what, errno: Errno::NOBUFS, note: None }
            if tunnel.identity.group.is_some_and(|group| group.is_ipv4()) =>
        {
            NetlinkError::Refused {
                what,
                errno: Errno::NOBUFS,
                note: Some(
                    "the host is in as many multicast groups as net.ipv4.igmp_max_memberships allows"
                        .to_owned(),
                ),
            }
        }
        other => other,
    }
}

/// Says what the errno means for a bridge that was to filter by VLAN.
fn if_filtering(options: &BTreeMap<BridgeOption, u32>, error: NetlinkError) -> NetlinkError {
    match options.get(&BridgeOption::VlanFiltering) {
        Some(1) => without_filtering(error),
        _ => error,
    }
}

fn without_filtering(error: NetlinkError) -> NetlinkError {
    match error {
        NetlinkError::Refused { what, errno: errno @ Errno::OPNOTSUPP, note: None } => {
            let note = "bridges of this host's kernel can't filter by VLAN: it was built without CONFIG_BRIDGE_VLAN_FILTERING";
            NetlinkError::Refused { what, errno, note: Some(note.to_owned()) }
        }
        other => other,
    }
}

fn tuning_infos(tuning: VxlanTuning) -> Vec<InfoVxlan> {
    let df = if tuning.df { VxlanDf::Set } else { VxlanDf::Unset };
    vec![
        InfoVxlan::Ttl(tuning.ttl),
        InfoVxlan::Tos(tuning.tos),
        InfoVxlan::Learning(tuning.learning),
        InfoVxlan::Ageing(tuning.ageing),
        InfoVxlan::Df(df),
    ]
}

fn bridge_options(options: &BTreeMap<BridgeOption, u32>) -> Vec<InfoBridge> {
    let stp = |on: u32| if on == 0 { BridgeStpState::Disabled } else { BridgeStpState::KernelStp };
    let one = |(option, value): (&BridgeOption, &u32)| match option {
        BridgeOption::AgeingTime => InfoBridge::AgeingTime(*value),
        BridgeOption::ForwardDelay => InfoBridge::ForwardDelay(*value),
        BridgeOption::HelloTime => InfoBridge::HelloTime(*value),
        BridgeOption::MaxAge => InfoBridge::MaxAge(*value),
        BridgeOption::StpState => InfoBridge::StpState(stp(*value)),
        // The table of accepted values ends at 65535.
        BridgeOption::Priority => InfoBridge::Priority(u16::try_from(*value).unwrap_or(u16::MAX)),
        BridgeOption::VlanFiltering => InfoBridge::VlanFiltering(*value != 0),
        // The table of accepted values ends at 4094.
        BridgeOption::VlanDefaultPvid => InfoBridge::VlanDefaultPvid(u16::try_from(*value).unwrap_or(0)),
        BridgeOption::McastSnooping => InfoBridge::MulticastSnooping(*value != 0),
        BridgeOption::McastQuerier => InfoBridge::MulticastQuerier(*value != 0),
        BridgeOption::NfCallIptables => InfoBridge::NfCallIpTables(*value != 0),
        BridgeOption::NfCallIp6tables => InfoBridge::NfCallIp6Tables(*value != 0),
    };
    options.iter().map(one).collect()
}

fn fdb(netlink: &mut Rtnetlink, entry: &FdbEntry) -> Result<NeighbourMessage, NetlinkError> {
    Ok(neighbour(index(netlink, &entry.port)?, entry.mac, NeighbourFlags::Controller))
}

fn neighbour(index: u32, mac: Mac, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.flags = flags;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message
}

/// Deletes an entry of a table; one that is gone, or whose device is, needs no deleting.
fn forget(
    netlink: &mut Rtnetlink,
    what: &str,
    entry: impl FnOnce(&mut Rtnetlink) -> Result<RouteNetlinkMessage, NetlinkError>,
) -> Result<(), NetlinkError> {
    let sent = entry(netlink).and_then(|message| netlink.change(what, message, Existing::Needed));
    gone(sent)
}

/// Deletes by number, so that a namesake that comes in between is not hit.
fn forget_link(netlink: &mut Rtnetlink, what: &str, name: &LinkName) -> Result<(), NetlinkError> {
    let Some(link) = by_name(netlink, name)?.filter(|link| link.mark.is_ours()) else {
        return Ok(());
    };
    let message = message(link.index, Vec::new());
    gone(netlink.change(what, RouteNetlinkMessage::DelLink(message), Existing::Needed))
}

fn gone(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if matches!(error.errno(), Some(Errno::NODEV | Errno::NOENT)) => Ok(()),
        other => other,
    }
}
