//! Connections that a guest brings with it. A switch can't be told of one: so what belongs to it is let begin once more, for a time.

use std::net::{IpAddr, SocketAddr};

use causeway_core::names::VmId;

use super::passage::track;
use super::{FROM_KNOWN, GOES, OUT, Seat, TO_KNOWN, about, kind};
use crate::connections::{Connection, Transport};
use crate::fabric::ovs::openflow::{
    Action, Cookie, Cookies, Field, Flow, FlowChange, FlowKey, Match, ct, ethertype,
};

/// How long, in seconds. What was heard of within it goes on for as long as any connection.
pub const ADMITTED: u16 = 300;

/// In the highest bits of the cookie: these flows are no part of what must be, and go by themselves.
const LENT: u64 = 0x0ca2 << 48;

/// The first flag of TCP: whoever sets it begins a connection.
const SYN: u16 = 0x02;

/// Between what begins by a rule and what is known.
const PRIORITY: u16 = 60;

/// Flows of one NIC of a VM that are lent.
pub fn lent(vm: VmId, nic: u32) -> Cookies {
    Cookies { value: cookie(vm, nic).0, mask: u64::MAX }
}

fn cookie(vm: VmId, nic: u32) -> Cookie {
    Cookie(super::cookie(vm, nic).0 & !(0xffff << 48) | LENT)
}

/// Lets the packets of these connections pass both ways, the first of each too, but none that begins one. `addresses` are the
/// guest's; where they do not tell which end it is, it may be either.
pub fn admit(seat: &Seat, nic: u32, addresses: &[IpAddr], connections: &[Connection]) -> Vec<FlowChange> {
    let cookie = cookie(seat.vm, nic);
    let mut out = Vec::new();
    for connection in connections {
        for (guest, peer) in ends(connection, addresses) {
            for (table, flow, on) in ways(seat, connection.transport, guest, peer) {
                let actions = vec![track(seat.zone, true, None), Action::Resubmit(on)];
                let key = FlowKey { table, priority: PRIORITY, matches: flow };
                out.push(FlowChange::Lend(Flow { key, cookie, actions }, ADMITTED));
            }
        }
    }
    out
}

/// The guest's end of a connection and the other one, as far as the addresses tell.
fn ends(connection: &Connection, addresses: &[IpAddr]) -> Vec<(SocketAddr, SocketAddr)> {
    let both = [(connection.from, connection.to), (connection.to, connection.from)];
    let known: Vec<_> = both.into_iter().filter(|(guest, _)| addresses.contains(&guest.ip())).collect();
    if known.is_empty() { both.to_vec() } else { known }
}

/// To the guest, and from it.
fn ways(seat: &Seat, transport: Transport, guest: SocketAddr, peer: SocketAddr) -> [(u8, Match, u8); 2] {
    let [from_it, to_it] = about(seat.port);
    [
        (TO_KNOWN, packet(&to_it, transport, peer, guest), OUT),
        (FROM_KNOWN, packet(&from_it, transport, guest, peer), GOES),
    ]
}

/// A packet that the zone does not know, from the one to the other.
fn packet(of: &Match, transport: Transport, from: SocketAddr, to: SocketAddr) -> Match {
    let new = ct::NEW | ct::TRACKED;
    let of = of.clone().long_masked(Field::CT_STATE, new, new);
    let of = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            kind(&of, ethertype::IPV4).ipv4(Field::IPV4_SRC, from, 32).ipv4(Field::IPV4_DST, to, 32)
        }
        (from, to) => {
            let six = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            kind(&of, ethertype::IPV6).ipv6(Field::IPV6_SRC, six(from), 128).ipv6(
                Field::IPV6_DST,
                six(to),
                128,
            )
        }
    };
    let of = of.byte(Field::IP_PROTO, transport.number());
    match transport {
        Transport::Tcp => of
            .short(Field::TCP_SRC, from.port())
            .short(Field::TCP_DST, to.port())
            .short_masked(Field::TCP_FLAGS, 0, SYN),
        Transport::Udp => of.short(Field::UDP_SRC, from.port()).short(Field::UDP_DST, to.port()),
    }
}
