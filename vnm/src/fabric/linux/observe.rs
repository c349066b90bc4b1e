//! What the kernel has: the devices that a desired state names, what is plugged into its bridges, and what could
//! conflict with it. Nothing else is read, so that the cost does not grow with the host's other guests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_core::names::{LinkName, Mac};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::ethtool::{Ethtool, Offload};
use super::functions::{self, FunctionTable};
use super::netlink::{NetlinkError, Rtnetlink};
use super::parse::{Link, LinkKind, link};
use super::vlan_table::{self, VlanTable};
use crate::desired::{Desired, FdbEntry, Function, Uplink};

/// A part of the kernel's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// The devices, by the kernel's number.
    pub links: BTreeMap<u32, Link>,
    /// Addresses of the bridges, but those that a device gives itself.
    pub addresses: BTreeMap<u32, Vec<IpAddr>>,
    /// Where the guest's addresses are.
    pub fdb: Vec<FdbEntry>,
    /// Addresses that tunnels have learned to be elsewhere.
    pub remotes: Vec<Remote>,
    /// What physical functions have set for virtual ones, by the kernel's number and theirs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub functions: BTreeMap<u32, FunctionTable>,
    /// Whether devices hand frames to their cards.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offload: BTreeMap<LinkName, Offload>,
    /// The VLANs of bridges and their ports, by the kernel's number; only where somebody asks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vlans: BTreeMap<u32, VlanTable>,
}

/// An address that a tunnel has behind a remote end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Remote {
    /// The tunnel.
    pub tunnel: LinkName,
    /// The address.
    pub mac: Mac,
}

impl Observed {
    /// The device of that name.
    pub fn named(&self, name: &LinkName) -> Option<&Link> {
        self.links.values().find(|link| link.name == name.as_str())
    }

    /// What is plugged into a bridge.
    pub fn ports_of(&self, bridge: u32) -> impl Iterator<Item = &Link> {
        self.links.values().filter(move |link| link.bridge == Some(bridge))
    }

    /// The name of a device.
    pub fn name_of(&self, index: u32) -> &str {
        self.links.get(&index).map_or("an unknown device", |link| &link.name)
    }

    /// Whether `port` is plugged into `bridge`.
    pub fn is_port_of(&self, port: &LinkName, bridge: &LinkName) -> bool {
        let master = self.named(port).and_then(|link| link.bridge);
        master.is_some() && master == self.named(bridge).map(|link| link.index)
    }
}

/// Which part of the kernel's network to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Devices to look up.
    pub links: BTreeSet<LinkName>,
    /// Bridges whose ports and addresses to list.
    pub bridges: BTreeSet<LinkName>,
    /// Every tunnel of the host, to see which one has a number that is wanted. It costs some 10 µs for each; the kernel
    /// refuses a number that is taken without this look, only it does not say whose it is.
    pub all_tunnels: bool,
    /// Addresses to look for in their bridges.
    pub fdb: Vec<FdbEntry>,
    /// Addresses to look for behind the remote ends of tunnels that learn.
    pub remotes: Vec<Remote>,
    /// Physical functions whose virtual ones to read.
    pub functions: BTreeSet<LinkName>,
    /// Devices that may hand frames to their card.
    pub offload: BTreeSet<LinkName>,
    /// Whether to read the VLANs of every bridge and port.
    pub vlans: bool,
}

impl From<&Desired> for Scope {
    fn from(desired: &Desired) -> Self {
        let mut scope = Scope {
            fdb: desired.fdb.clone(),
            remotes: remotes(desired),
            functions: desired.functions.iter().map(|function| function.device.clone()).collect(),
            offload: desired.functions.iter().flat_map(Function::switching).cloned().collect(),
            vlans: !desired.tags.is_empty(),
            ..Scope::default()
        };
        scope.bridges.extend(desired.bridges.iter().map(|b| b.name.clone()));
        scope.links.extend(desired.tunnels.iter().flat_map(|t| [t.name.clone(), t.uplink.clone()]));
        scope.links.extend(desired.vlans.iter().flat_map(|v| [v.name.clone(), v.uplink.clone()]));
        scope.links.extend(desired.bridges.iter().filter_map(|b| b.uplink.clone()));
        scope.links.extend(desired.functions.iter().filter_map(|function| function.representor.clone()));
        scope.links.extend(desired.switches.iter().flat_map(|s| s.uplinks.iter().chain([&s.name]).cloned()));
        // Of a port of Open vSwitch the kernel tells nothing that counts.
        let seats = |nic| desired.seats.iter().any(|seat| seat.nic == nic);
        scope.links.extend(desired.ports.iter().filter(|p| !seats(p.nic)).map(|p| p.tap.clone()));
        scope
    }
}

/// The guest's addresses as they would stand behind a tunnel. Where a routing daemon fills the table, it stays its own.
pub fn remotes(desired: &Desired) -> Vec<Remote> {
    let behind = |entry: &FdbEntry| {
        let tunnel = desired
            .tunnels
            .iter()
            .find(|t| t.bridge.as_ref() == Some(&entry.bridge) && t.identity.group.is_some())?;
        Some(Remote { tunnel: tunnel.name.clone(), mac: entry.mac })
    };
    desired.fdb.iter().filter_map(behind).collect()
}

/// Reads that part.
///
/// # Errors
/// The kernel refused; a device that is not there is no error.
pub fn observe(netlink: &mut Rtnetlink, scope: &Scope) -> Result<Observed, NetlinkError> {
    let mut seen = Observed::default();
    let named: BTreeSet<&LinkName> = scope.links.iter().chain(&scope.bridges).collect();
    for name in named {
        if let Some(link) = by_name(netlink, name)? {
            seen.links.insert(link.index, link);
        }
    }
    // What a device is plugged into, so that a message can name it.
    let masters: BTreeSet<u32> = seen.links.values().filter_map(|link| link.bridge).collect();
    for index in masters {
        if !seen.links.contains_key(&index)
            && let Some(link) = by_index(netlink, index)?
        {
            seen.links.insert(index, link);
        }
    }
    for name in &scope.bridges {
        let Some(bridge) = seen.named(name).cloned() else {
            continue;
        };
        let ports = dump(netlink, "list ports", LinkAttribute::Controller(bridge.index))?;
        seen.links.extend(ports.into_iter().map(|link| (link.index, link)));
        let addresses = addresses(netlink, bridge.index)?;
        seen.addresses.insert(bridge.index, addresses);
    }
    if scope.all_tunnels {
        let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan)]);
        let tunnels = dump(netlink, "list vxlan devices", kind)?;
        seen.links.extend(tunnels.into_iter().map(|link| (link.index, link)));
    }
    for device in &scope.functions {
        if let Some((link, functions)) = functions_of(netlink, device)? {
            seen.functions.insert(link.index, functions);
            seen.links.insert(link.index, link);
        }
    }
    if !scope.offload.is_empty() {
        seen.offload = offload(&scope.offload)?;
    }
    if scope.vlans {
        seen.vlans = vlan_tables(netlink)?;
    }
    for entry in &scope.fdb {
        seen.fdb.extend(fdb(netlink, &seen, entry)?);
    }
    for remote in &scope.remotes {
        if is_remote(netlink, &seen, remote)? {
            seen.remotes.push(remote.clone());
        }
    }
    Ok(seen)
}

fn request(attributes: Vec<LinkAttribute>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = attributes;
    // Counters are half of a link message, and nobody here reads them.
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message)
}

pub(super) fn links(answers: Vec<RouteNetlinkMessage>) -> Vec<Link> {
    let read = |answer| match answer {
        RouteNetlinkMessage::NewLink(message) => link(&message),
        _ => None,
    };
    answers.into_iter().filter_map(read).collect()
}

/// The device of that name, if there is one.
///
/// # Errors
/// Any refusal but "no such device".
pub fn by_name(netlink: &mut Rtnetlink, name: &LinkName) -> Result<Option<Link>, NetlinkError> {
    let message = request(vec![LinkAttribute::IfName(name.to_string())]);
    one(netlink.get(&format!("look up {name}"), message))
}

fn by_index(netlink: &mut Rtnetlink, index: u32) -> Result<Option<Link>, NetlinkError> {
    let mut message = request(Vec::new());
    if let RouteNetlinkMessage::GetLink(message) = &mut message {
        message.header.index = index;
    }
    one(netlink.get(&format!("look up device {index}"), message))
}

fn one(answers: Result<Vec<RouteNetlinkMessage>, NetlinkError>) -> Result<Option<Link>, NetlinkError> {
    match answers {
        Ok(answers) => Ok(links(answers).into_iter().next()),
        Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn dump(netlink: &mut Rtnetlink, what: &str, filter: LinkAttribute) -> Result<Vec<Link>, NetlinkError> {
    Ok(links(netlink.dump(what, request(vec![filter]))?))
}

/// Every device of the host.
///
/// # Errors
/// The kernel refused.
pub fn all_links(netlink: &mut Rtnetlink) -> Result<Vec<Link>, NetlinkError> {
    Ok(links(netlink.dump("list devices", request(Vec::new()))?))
}

/// Whether these devices hand frames to their cards, as far as they are there.
fn offload(devices: &BTreeSet<LinkName>) -> Result<BTreeMap<LinkName, Offload>, NetlinkError> {
    let mut ethtool = match Ethtool::open() {
        // A kernel that can't be asked can't be told either; its devices work without.
        Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut found = BTreeMap::new();
    for device in devices {
        let features = ethtool.features(device)?;
        found.extend(features.map(|features| (device.clone(), features.offload())));
    }
    Ok(found)
}

/// A physical function's device and what it has set; none if it is not there.
fn functions_of(
    netlink: &mut Rtnetlink,
    device: &LinkName,
) -> Result<Option<(Link, FunctionTable)>, NetlinkError> {
    let what = format!("look up the virtual functions of {device}");
    let message = functions::request(device);
    let answers = match netlink.get(&what, RouteNetlinkMessage::GetLink(message)) {
        Err(error) if error.errno() == Some(Errno::NODEV) => return Ok(None),
        other => other?,
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some((link(&message)?, functions::read(&message))),
        _ => None,
    }))
}

/// The VLANs of every bridge of the host and of every port; the kernel lists no fewer.
fn vlan_tables(netlink: &mut Rtnetlink) -> Result<BTreeMap<u32, VlanTable>, NetlinkError> {
    let answers = netlink.dump("list VLANs", vlan_table::request())?;
    let mut tables = BTreeMap::new();
    for answer in answers {
        let RouteNetlinkMessage::NewLink(message) = answer else { continue };
        let index = message.header.index;
        let table = vlan_table::read(&message).map_err(|why| NetlinkError::Answer {
            what: format!("list VLANs of device {index}"),
            why: why.to_string(),
        })?;
        tables.insert(index, table);
    }
    Ok(tables)
}

/// A device's addresses, but link-local IPv6 ones, which every device gives itself.
///
/// # Errors
/// The kernel refused.
pub fn addresses(netlink: &mut Rtnetlink, index: u32) -> Result<Vec<IpAddr>, NetlinkError> {
    let mut message = AddressMessage::default();
    message.header.index = index;
    Ok(addresses_of(index, netlink.dump("list addresses", RouteNetlinkMessage::GetAddress(message))?))
}

pub(super) fn addresses_of(index: u32, answers: Vec<RouteNetlinkMessage>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for answer in answers {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            continue;
        };
        if message.header.index != index {
            continue;
        }
        // IPv4 names its own address LOCAL; IPv6 has only ADDRESS.
        let own = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        let any = message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        });
        found.extend(own.or(any).filter(|a| !is_link_local(a)));
    }
    found
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(six) if six.is_unicast_link_local())
}

/// Where a bridge has `wanted.mac`, if it knows it.
fn fdb(
    netlink: &mut Rtnetlink,
    seen: &Observed,
    wanted: &FdbEntry,
) -> Result<Option<FdbEntry>, NetlinkError> {
    let Some(bridge) = seen.named(&wanted.bridge).filter(|link| matches!(link.kind, LinkKind::Bridge(_)))
    else {
        return Ok(None);
    };
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.flags = NeighbourFlags::Controller;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(wanted.mac.0.to_vec()),
        NeighbourAttribute::Controller(bridge.index),
    ];
    let what = format!("look up {} in {}", wanted.mac, wanted.bridge);
    let answers = if_any(netlink.get(&what, RouteNetlinkMessage::GetNeighbour(message)))?;
    Ok(found_in(wanted, seen, &answers))
}

/// Whether a tunnel has `wanted.mac` behind a remote end.
fn is_remote(netlink: &mut Rtnetlink, seen: &Observed, wanted: &Remote) -> Result<bool, NetlinkError> {
    let Some(tunnel) = seen.named(&wanted.tunnel).filter(|link| matches!(link.kind, LinkKind::Vxlan(_)))
    else {
        return Ok(false);
    };
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.flags = NeighbourFlags::Own;
    message.header.ifindex = tunnel.index;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(wanted.mac.0.to_vec())];
    let what = format!("look up {} in {}", wanted.mac, wanted.tunnel);
    Ok(!if_any(netlink.get(&what, RouteNetlinkMessage::GetNeighbour(message)))?.is_empty())
}

/// An answer, or none where the kernel has no such entry.
fn if_any(
    answers: Result<Vec<RouteNetlinkMessage>, NetlinkError>,
) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
    match answers {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(Vec::new()),
        other => other,
    }
}

pub(super) fn found_in(
    wanted: &FdbEntry,
    seen: &Observed,
    answers: &[RouteNetlinkMessage],
) -> Option<FdbEntry> {
    let port = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(found) => seen.links.get(&found.header.ifindex),
        _ => None,
    });
    entry(wanted, port?)
}

fn entry(wanted: &FdbEntry, port: &Link) -> Option<FdbEntry> {
    Some(FdbEntry { bridge: wanted.bridge.clone(), mac: wanted.mac, port: port.name.parse().ok()? })
}

/// The facts about each of `names` that exists.
///
/// # Errors
/// The kernel refused.
pub fn uplinks(
    netlink: &mut Rtnetlink,
    names: &BTreeSet<LinkName>,
) -> Result<BTreeMap<LinkName, Uplink>, NetlinkError> {
    let mut found = BTreeMap::new();
    for name in names {
        if let Some(link) = by_name(netlink, name)? {
            let addresses = addresses(netlink, link.index)?;
            found.insert(name.clone(), Uplink { mtu: link.mtu, up: link.up, addresses });
        }
    }
    Ok(found)
}

/// Whether a device of that name is there and is a guest's.
///
/// # Errors
/// The kernel refused.
pub fn tap_exists(netlink: &mut Rtnetlink, name: &LinkName) -> Result<bool, NetlinkError> {
    Ok(by_name(netlink, name)?.is_some_and(|link| link.kind == LinkKind::Tap))
}
