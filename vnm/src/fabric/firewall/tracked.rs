//! Connections that the kernel tracks in the zone of a bridge, by its own interface for them (`linux/netfilter/nfnetlink_conntrack.h`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_core::names::LinkName;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use rustix::io::Errno;

use super::change::{Family, Key, Map};
use super::groups::Way;
use super::kernel::{Kernel, Message, attribute, find, one, unreadable};
use super::nft::Nft;
use super::skeleton::zone_of;
use crate::connections::{Connection, Transport};
use crate::desired::Number;
use crate::fabric::linux::NetlinkError;

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_STATE: u16 = 4;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const ZONE: u16 = 18;
const MARK_BITS: u16 = 21;

/// That an attribute holds others.
const NESTED: u16 = 0x8000;

/// An answer was seen; it is not given up for others when the table is full; it is in the table.
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;

const TCP_STATE: u16 = 1;
const TCP_FLAGS: [u16; 2] = [4, 5];
const ESTABLISHED: u8 = 3;
/// From the answer to the first packet on until both ends have closed.
const ALIVE: std::ops::RangeInclusive<u8> = 2..=6;
/// Sequence numbers are not checked: nobody knows how far the guest has come meanwhile.
const BE_LIBERAL: u8 = 8;

/// What a bridge's zone is to know of the connections that NICs have let be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    /// The bridge.
    pub bridge: LinkName,
    /// Its zone.
    pub zone: u16,
    /// What is done.
    pub what: Tracked,
}

/// What is done with connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracked {
    /// These are known from now on, as let be by the NIC of that number, which has these addresses, and may have others.
    Known(Number, Vec<Connection>, Vec<IpAddr>),
    /// These are known no more as let be by any of those NICs; those that no other has let be are not known at all.
    Forgotten(Vec<Number>, Vec<Entry>),
}

/// An entry of the kernel's table, as it tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    family: Family,
    attributes: Vec<u8>,
}

impl fmt::Display for Tracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Tracked::Known(_, connections, _) => {
                write!(f, "track {} connections on {}", connections.len(), self.bridge)
            }
            Tracked::Forgotten(_, entries) => {
                write!(f, "forget {} connections on {}", entries.len(), self.bridge)
            }
        }
    }
}

impl Nft {
    /// The zone with the connections of a bridge; none where no guest on it is guarded.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn zone(&mut self, bridge: &LinkName) -> Result<Option<u16>, NetlinkError> {
        let elements = self.kernel()?.elements(Map::Bridges)?;
        let of_bridge =
            elements.iter().find(|e| matches!(&e.key, Key::Device(name) if name == bridge.as_str()));
        Ok(of_bridge.and_then(|element| zone_of(&element.chain)))
    }

    /// The connections of TCP and UDP that the NIC of that number has let be, as far as addresses in them are not changed on the
    /// way.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn connections(&mut self, zone: u16, number: Number) -> Result<Vec<Connection>, NetlinkError> {
        let entries = self.entries(zone, &[number])?;
        let read = entries
            .iter()
            .map(|entry| connection(&entry.attributes).ok_or_else(|| unreadable(TABLE_OF_CONNECTIONS)));
        Ok(read.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// All that any of these NICs has let be, of whatever protocol.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn entries(&mut self, zone: u16, numbers: &[Number]) -> Result<Vec<Entry>, NetlinkError> {
        self.kernel()?.entries(zone, numbers)
    }

    /// Makes a zone know connections, or forget them; one that is so already is left as it is.
    ///
    /// # Errors
    /// The kernel refuses one; those before it are done.
    pub fn track(&mut self, tracking: &Tracking) -> Result<(), NetlinkError> {
        let kernel = self.kernel()?;
        let zone = tracking.zone;
        match &tracking.what {
            Tracked::Known(number, connections, addresses) => connections.iter().try_for_each(|connection| {
                let is_guests = |end: SocketAddr| addresses.contains(&end.ip());
                let way = match (is_guests(connection.from), is_guests(connection.to)) {
                    (true, _) => Some(Way::Out),
                    (false, true) => Some(Way::In),
                    (false, false) => None,
                };
                kernel.track(zone, connection, *number, way)
            }),
            Tracked::Forgotten(numbers, entries) => {
                entries.iter().try_for_each(|entry| kernel.forget(zone, entry, numbers))
            }
        }
    }
}

/// For errors.
const TABLE_OF_CONNECTIONS: &str = "the table of connections";

impl Kernel {
    /// The entries of a zone that any of these NICs has let be. The kernel walks through all of its table, so it is asked once, for
    /// both families.
    fn entries(&mut self, zone: u16, numbers: &[Number]) -> Result<Vec<Entry>, NetlinkError> {
        // An older kernel does not know that it could leave out those of other zones.
        let attributes = attribute(ZONE, &zone.to_be_bytes());
        let is_let_be = |entry: &[u8]| numbers.iter().any(|number| is_let_be(entry, *number));
        let wanted = |entry: &[u8]| zone_of_entry(entry) == zone && is_let_be(entry);
        let message = Message { kind: GET, family: None, flags: NLM_F_DUMP, attributes: &attributes };
        let found = self.say(&message, TABLE_OF_CONNECTIONS, &wanted)?;
        let entry = |attributes: Vec<u8>| {
            let family = family_of(one(&attributes, TUPLE_ORIGINAL)?)?;
            Some(Entry { family, attributes })
        };
        Ok(found.into_iter().filter_map(entry).collect())
    }

    /// One that is known already, the guest may have gone on with, or the other end is here too: it is only marked, and its sequence
    /// numbers are not checked any more. Where nobody knows which end is the guest's, no other's mark is written over.
    fn track(
        &mut self,
        zone: u16,
        connection: &Connection,
        number: Number,
        way: Option<Way>,
    ) -> Result<(), NetlinkError> {
        let family = if connection.from.is_ipv4() { Family::Ip } else { Family::Ip6 };
        let what = format!("track the connection from {} to {}", connection.from, connection.to);
        let new = tracked(zone, connection, way.unwrap_or(Way::Out).approval(number).0);
        match self.order(NEW, NLM_F_CREATE | NLM_F_EXCL, family, &new, &what) {
            Err(error) if error.errno() == Some(Errno::EXIST) => {
                let mut known = tuple(TUPLE_ORIGINAL, connection.transport, connection.from, connection.to);
                known.extend(attribute(ZONE, &zone.to_be_bytes()));
                let approval = match way {
                    Some(way) => Some(way.approval(number)),
                    None => self.free_approval(family, &known, number)?,
                };
                let Some(approval) = approval else { return Ok(()) };
                known.extend(marked(approval));
                if connection.transport == Transport::Tcp {
                    known.extend(unchecked(&[]));
                }
                self.order(NEW, 0, family, &known, &what)
            }
            other => other,
        }
    }

    /// Where in the mark of a known connection a NIC can say that it has let it be, and nobody else has.
    fn free_approval(
        &mut self,
        family: Family,
        known: &[u8],
        number: Number,
    ) -> Result<Option<(u32, u32)>, NetlinkError> {
        let message = Message { kind: GET, family: Some(family), flags: NLM_F_ACK, attributes: known };
        let found = self.say(&message, TABLE_OF_CONNECTIONS, &|_| true)?;
        let mark = found.first().map_or(0, |entry| mark_of(entry));
        let ways = [Way::Out, Way::In].map(|way| way.approval(number));
        let own = ways.into_iter().find(|(own, bits)| mark & bits == *own);
        Ok(own.or(ways.into_iter().find(|(_, bits)| mark & bits == 0)))
    }

    /// What another NIC has let be as well stays that one's.
    fn forget(&mut self, zone: u16, entry: &Entry, numbers: &[Number]) -> Result<(), NetlinkError> {
        let Entry { family, attributes: entry } = entry;
        let original = one(entry, TUPLE_ORIGINAL).ok_or_else(|| unreadable(TABLE_OF_CONNECTIONS))?;
        // Without a tuple, all connections of the host would go.
        let mut attributes = nested(TUPLE_ORIGINAL, original);
        attributes.extend(attribute(ZONE, &zone.to_be_bytes()));
        let own = numbers.iter().flat_map(|number| [Way::Out, Way::In].map(|way| way.approval(*number)));
        let own = own.filter(|(mark, bits)| mark_of(entry) & bits == *mark);
        let bits = own.fold(0, |all, (_, bits)| all | bits);
        if mark_of(entry) & !bits == 0 {
            return self.order(DELETE, 0, *family, &attributes, "forget a connection");
        }
        attributes.extend(marked((0, bits)));
        self.order(NEW, 0, *family, &attributes, "forget whose a connection was")
    }

    fn order(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        attributes: &[u8],
        what: &str,
    ) -> Result<(), NetlinkError> {
        let message = Message { kind, family: Some(family), flags: NLM_F_ACK | flags, attributes };
        let said = self.say(&message, "an order about a connection", &|_| false);
        said.map(|_| ()).map_err(|error| match error {
            NetlinkError::Refused { errno, note, .. } => {
                NetlinkError::Refused { what: what.to_owned(), errno, note }
            }
            other => other,
        })
    }
}

fn tracked(zone: u16, connection: &Connection, mark: u32) -> Vec<u8> {
    let Connection { transport, from, to, seconds } = *connection;
    let mut status = SEEN_REPLY | CONFIRMED;
    let mut out =
        [tuple(TUPLE_ORIGINAL, transport, from, to), tuple(TUPLE_REPLY, transport, to, from)].concat();
    if transport == Transport::Tcp {
        status |= ASSURED;
        out.extend(unchecked(&attribute(TCP_STATE, &[ESTABLISHED])));
    }
    out.extend(attribute(STATUS, &status.to_be_bytes()));
    out.extend(attribute(TIMEOUT, &seconds.to_be_bytes()));
    out.extend(attribute(ZONE, &zone.to_be_bytes()));
    out.extend(attribute(MARK, &mark.to_be_bytes()));
    out
}

/// A connection of TCP whose sequence numbers nobody checks.
fn unchecked(state: &[u8]) -> Vec<u8> {
    let mut state = state.to_vec();
    for flags in TCP_FLAGS {
        state.extend(attribute(flags, &[BE_LIBERAL, BE_LIBERAL]));
    }
    nested(PROTOCOL_STATE, &nested(1, &state))
}

/// That mark, in those bits.
fn marked((mark, bits): (u32, u32)) -> Vec<u8> {
    [attribute(MARK, &mark.to_be_bytes()), attribute(MARK_BITS, &bits.to_be_bytes())].concat()
}

fn mark_of(entry: &[u8]) -> u32 {
    one(entry, MARK).and_then(|mark| mark.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Whether the NIC of that number has let it be, in either direction.
fn is_let_be(entry: &[u8], number: Number) -> bool {
    let mark = mark_of(entry);
    [Way::Out, Way::In].into_iter().map(|way| way.approval(number)).any(|(own, bits)| mark & bits == own)
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, value)
}

fn tuple(kind: u16, transport: Transport, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let address = |four, six, address: IpAddr| match address {
        IpAddr::V4(address) => attribute(four, &address.octets()),
        IpAddr::V6(address) => attribute(six, &address.octets()),
    };
    let addresses = [address(1, 3, from.ip()), address(2, 4, to.ip())].concat();
    let protocol = [
        attribute(1, &[transport.number()]),
        attribute(2, &from.port().to_be_bytes()),
        attribute(3, &to.port().to_be_bytes()),
    ];
    nested(kind, &[nested(1, &addresses), nested(2, &protocol.concat())].concat())
}

fn zone_of_entry(entry: &[u8]) -> u16 {
    one(entry, ZONE).and_then(|zone| zone.try_into().ok()).map_or(0, u16::from_be_bytes)
}

/// A connection out of its entry; the inner one is none where it is of no kind that goes on elsewhere.
fn connection(entry: &[u8]) -> Option<Option<Connection>> {
    let (original, reply) = (one(entry, TUPLE_ORIGINAL)?, one(entry, TUPLE_REPLY)?);
    let Some(transport) = transport_of(original)? else { return Some(None) };
    let (from, to) = ends(original)?;
    if ends(reply)? != (to, from) || !is_alive(entry, transport) {
        return Some(None);
    }
    let seconds =
        one(entry, TIMEOUT).and_then(|seconds| seconds.try_into().ok()).map_or(0, u32::from_be_bytes);
    Some(Connection::new(transport, from, to, seconds))
}

/// The family of a tuple's addresses.
fn family_of(tuple: &[u8]) -> Option<Family> {
    let addresses = one(tuple, 1)?;
    one(addresses, 1).map(|_| Family::Ip).or_else(|| one(addresses, 3).map(|_| Family::Ip6))
}

fn transport_of(tuple: &[u8]) -> Option<Option<Transport>> {
    let number = one(one(tuple, 2)?, 1)?.first()?;
    Some(Transport::of_number(*number))
}

fn ends(tuple: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, protocol) = (one(tuple, 1)?, one(tuple, 2)?);
    let address = |four, six| -> Option<IpAddr> {
        if let Some(found) = one(addresses, four) {
            return Some(Ipv4Addr::from(<[u8; 4]>::try_from(found).ok()?).into());
        }
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(one(addresses, six)?).ok()?).into())
    };
    let port = |kind| Some(u16::from_be_bytes(one(protocol, kind)?.try_into().ok()?));
    Some((SocketAddr::new(address(1, 3)?, port(2)?), SocketAddr::new(address(2, 4)?, port(3)?)))
}

fn is_alive(entry: &[u8], transport: Transport) -> bool {
    if transport == Transport::Udp {
        return true;
    }
    let mut states =
        find(entry, PROTOCOL_STATE).flat_map(|state| find(state, 1)).flat_map(|tcp| find(tcp, TCP_STATE));
    states.any(|state| state.first().is_some_and(|state| ALIVE.contains(state)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fuzz_conntrack() {
        crate::seeded::fuzz("conntrack", |bytes| {
            if let Some(Some(read)) = connection(bytes) {
                assert_eq!(connection(&tracked(zone_of_entry(bytes), &read, 0)), Some(Some(read)));
            }
        });
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_is_written(
            tcp in any::<bool>(), six in any::<bool>(), from in any::<(u128, u16)>(), to in any::<(u128, u16)>(), seconds in any::<u32>(),
            zone in any::<u16>(),
        ) {
            let end = |(address, port): (u128, u16)| match six {
                true => SocketAddr::from((Ipv6Addr::from(address), port)),
                false => SocketAddr::from((Ipv4Addr::from((address & 0xffff_ffff) as u32), port)),
            };
            let transport = if tcp { Transport::Tcp } else { Transport::Udp };
            let written = Connection { transport, from: end(from), to: end(to), seconds };
            let entry = tracked(zone, &written, 5);
            prop_assert_eq!(zone_of_entry(&entry), zone);
            prop_assert_eq!(connection(&entry), Some(Some(written)));
        }

        #[test]
        fn no_entry_breaks_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..120, byte in any::<u8>()) {
            let _ = connection(&bytes);
            let end = SocketAddr::from(([10, 0, 0, 1], 5));
            let mut nearly = tracked(7, &Connection { transport: Transport::Tcp, from: end, to: end, seconds: 1 }, 0);
            if let Some(place) = nearly.get_mut(at) {
                *place = byte;
            }
            let _ = (connection(&nearly), zone_of_entry(&nearly));
        }
    }
}
