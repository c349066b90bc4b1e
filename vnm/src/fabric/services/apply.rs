//! Reading and making the parts of a bridge's services.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use causeway_core::names::LinkName;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::{Change, Hands, Seen, ServicesError, namespace};
use crate::desired::services::{ADDRESS, Parts};
use crate::fabric::linux::mark;
use crate::fabric::linux::netlink::Existing;
use crate::fabric::linux::observe::{addresses, by_name};
use crate::fabric::linux::{NetlinkError, Rtnetlink};

/// What a device in the namespace takes over: it has to answer for an address that its network has no route to.
const ANSWERS: [&str; 2] =
    ["/proc/sys/net/ipv4/conf/all/arp_ignore", "/proc/sys/net/ipv4/conf/default/arp_ignore"];

impl Hands<'_> {
    fn path(&self, parts: &Parts) -> PathBuf {
        self.namespaces.join(&parts.namespace)
    }

    /// What of a bridge's services is there.
    ///
    /// # Errors
    /// Kernel or firewall did not tell.
    pub fn observe(&mut self, parts: &Parts) -> Result<Seen, ServicesError> {
        let path = self.path(parts);
        let lost = |source| ServicesError::Namespace { path: path.clone(), source };
        let namespace = namespace::exists(&path).map_err(lost)?;
        let inside = match namespace {
            true => namespace::within(&path, || is_set(&parts.inner)).map_err(lost)??,
            false => false,
        };
        Ok(Seen {
            outer: by_name(self.netlink, &parts.outer)?,
            bridge: by_name(self.netlink, &parts.bridge)?.map(|link| link.index),
            namespace,
            inside,
            rules: self.nft.services(parts)?,
        })
    }
}

/// Makes one change.
///
/// # Errors
/// Kernel or firewall refused. What is gone already is no error where the change takes it away.
pub fn apply(hands: &mut Hands<'_>, change: &Change) -> Result<(), ServicesError> {
    let what = change.to_string();
    match change {
        Change::MakeNamespace(parts) => {
            let path = hands.path(parts);
            let set_up = || ANSWERS.iter().try_for_each(|switch| std::fs::write(switch, "0"));
            namespace::make(&path, set_up).map_err(|source| ServicesError::Namespace { path, source })
        }
        Change::MakePair(parts) => make_pair(hands, &what, parts),
        Change::Plug(parts) => {
            let bridge = index(hands.netlink, &parts.bridge)?;
            let outer = index(hands.netlink, &parts.outer)?;
            let message = up(outer, vec![LinkAttribute::Controller(bridge)]);
            Ok(hands.netlink.change(&what, RouteNetlinkMessage::SetLink(message), Existing::Needed)?)
        }
        Change::SetInside(parts) => {
            let path = hands.path(parts);
            let set = namespace::within(&path, || set_inside(&what, &parts.inner));
            Ok(set.map_err(|source| ServicesError::Namespace { path, source })??)
        }
        Change::Rules(change) => Ok(hands.nft.apply_services(change)?),
        Change::RemovePair(parts) => {
            let Some(link) = by_name(hands.netlink, &parts.outer)? else { return Ok(()) };
            let mut message = LinkMessage::default();
            message.header.index = link.index;
            match hands.netlink.change(&what, RouteNetlinkMessage::DelLink(message), Existing::Needed) {
                Err(error) if error.errno() == Some(Errno::NODEV) => Ok(()),
                other => Ok(other?),
            }
        }
        Change::RemoveNamespace(parts) => {
            let path = hands.path(parts);
            namespace::remove(&path).map_err(|source| ServicesError::Namespace { path, source })
        }
    }
}

/// Both ends in one message, each in its place: none is ever seen anywhere else.
fn make_pair(hands: &mut Hands<'_>, what: &str, parts: &Parts) -> Result<(), ServicesError> {
    let path = hands.path(parts);
    let lost = |source| ServicesError::Namespace { path: path.clone(), source };
    let namespace = File::open(&path).map_err(lost)?;
    let mut peer = LinkMessage::default();
    peer.attributes =
        vec![LinkAttribute::IfName(parts.inner.to_string()), LinkAttribute::NetNsFd(namespace.as_raw_fd())];
    let bridge = index(hands.netlink, &parts.bridge)?;
    let message = up(
        0,
        vec![
            LinkAttribute::IfName(parts.outer.to_string()),
            LinkAttribute::Controller(bridge),
            LinkAttribute::Group(mark::GROUP),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ],
    );
    Ok(hands.netlink.change(what, RouteNetlinkMessage::NewLink(message), Existing::Refused)?)
}

fn set_inside(what: &str, inner: &LinkName) -> Result<(), NetlinkError> {
    let mut netlink = Rtnetlink::open()?;
    let inner = index(&mut netlink, inner)?;
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = 32;
    address.header.index = inner;
    let own = IpAddr::V4(ADDRESS);
    address.attributes = vec![AddressAttribute::Local(own), AddressAttribute::Address(own)];
    netlink.change(what, RouteNetlinkMessage::NewAddress(address), Existing::Replaced)?;
    netlink.change(what, RouteNetlinkMessage::SetLink(up(inner, Vec::new())), Existing::Needed)?;
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: AddressFamily::Inet,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Link,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    route.attributes = vec![RouteAttribute::Oif(inner)];
    netlink.change(what, RouteNetlinkMessage::NewRoute(route), Existing::Replaced)
}

/// Whether the inner end is there, up, and has address and route.
fn is_set(inner: &LinkName) -> Result<bool, NetlinkError> {
    let mut netlink = Rtnetlink::open()?;
    let Some(link) = by_name(&mut netlink, inner)?.filter(|link| link.up) else { return Ok(false) };
    if !addresses(&mut netlink, link.index)?.contains(&IpAddr::V4(ADDRESS)) {
        return Ok(false);
    }
    let mut request = RouteMessage::default();
    request.header.address_family = AddressFamily::Inet;
    let routes = netlink.dump("list routes", RouteNetlinkMessage::GetRoute(request))?;
    Ok(routes.iter().any(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => {
            route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
                && route.attributes.contains(&RouteAttribute::Oif(link.index))
        }
        _ => false,
    }))
}

fn up(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = attributes;
    message
}

fn index(netlink: &mut Rtnetlink, name: &LinkName) -> Result<u32, NetlinkError> {
    by_name(netlink, name)?.map(|link| link.index).ok_or_else(|| NetlinkError::Refused {
        what: format!("look up {name}"),
        errno: Errno::NODEV,
        note: None,
    })
}
