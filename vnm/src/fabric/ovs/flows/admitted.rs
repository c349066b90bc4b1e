//! Connections that a guest brings with it. A switch can't be told of one: so what belongs to it is let begin once more, for as long
//! as the connection would have been known with nothing heard of it. By then the guest may have gone on to another host, so what is
//! lent can be read back as the connections that it stands for.

use std::net::{IpAddr, SocketAddr};

use causeway_core::names::VmId;

use super::passage::track;
use super::{FROM_KNOWN, GOES, LENT, OUT, Seat, TO_KNOWN, about, kind};
use crate::connections::{Connection, Transport};
use crate::fabric::ovs::openflow::{
    Action, Cookie, Cookies, Field, Flow, FlowChange, FlowKey, Match, Told, ct, ethertype,
};

/// The least time, in seconds. What was heard of within it goes on for as long as any connection. The most is what a flow can have,
/// 18 hours.
const AT_LEAST: u16 = 300;

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
        let lasts = u16::try_from(connection.seconds).unwrap_or(u16::MAX).max(AT_LEAST);
        for (guest, peer) in ends(connection, addresses) {
            for (table, flow, on) in ways(seat, connection.transport, guest, peer) {
                let actions = vec![track(seat.zone, true, None), Action::Resubmit(on)];
                let key = FlowKey { table, priority: PRIORITY, matches: flow };
                out.push(FlowChange::Lend(Flow { key, cookie, actions }, lasts));
            }
        }
    }
    out
}

/// The connections that such flows stand for. Who began one, they do not tell; here the guest did.
pub fn admitted(flows: &[Told]) -> Vec<Connection> {
    let from_guest = flows.iter().filter(|told| told.flow.key.table == FROM_KNOWN);
    from_guest.filter_map(|told| stands_for(&told.flow.key.matches, told.left?)).collect()
}

fn stands_for(of: &Match, left: u16) -> Option<Connection> {
    let transport = Transport::of_number(u8::from_be_bytes(of.value(Field::IP_PROTO)?))?;
    let [source, destination] = ports(transport).map(|field| of.value(field).map(u16::from_be_bytes));
    let four = |field| of.value::<4>(field).map(IpAddr::from);
    let six = |field| of.value::<16>(field).map(IpAddr::from);
    let from = four(Field::IPV4_SRC).or_else(|| six(Field::IPV6_SRC))?;
    let to = four(Field::IPV4_DST).or_else(|| six(Field::IPV6_DST))?;
    Connection::new(transport, (from, source?).into(), (to, destination?).into(), left.into())
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
    let [source, destination] = ports(transport);
    let of = of.byte(Field::IP_PROTO, transport.number());
    let of = of.short(source, from.port()).short(destination, to.port());
    match transport {
        Transport::Tcp => of.short_masked(Field::TCP_FLAGS, 0, SYN),
        Transport::Udp => of,
    }
}

/// The sender's port, and the receiver's.
fn ports(transport: Transport) -> [Field; 2] {
    match transport {
        Transport::Tcp => [Field::TCP_SRC, Field::TCP_DST],
        Transport::Udp => [Field::UDP_SRC, Field::UDP_DST],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::strategy;
    use crate::desired::Vlans;
    use proptest::prelude::*;

    proptest! {
        /// Both ways of what nobody can tell the guest's end of, one way of the others; and never a time that is longer.
        #[test]
        fn what_is_lent_is_read_back(connection in strategy(), known in any::<bool>()) {
            let addresses: Vec<IpAddr> = known.then_some(connection.from.ip()).into_iter().collect();
            let seat = Seat { vm: VmId(7), port: 40_001, zone: 40_001, vlans: Vlans::Access(5) };
            let changes = admit(&seat, 3, &addresses, std::slice::from_ref(&connection));
            let told: Vec<Told> = changes
                .into_iter()
                .filter_map(|change| match change {
                    FlowChange::Lend(flow, lasts) => Some(Told { flow, left: Some(lasts) }),
                    _ => None,
                })
                .collect();
            let read = admitted(&told);
            let seconds = connection.seconds.clamp(300, 65_535);
            let own = Connection { seconds, ..connection.clone() };
            let other = Connection { from: own.to, to: own.from, ..own.clone() };
            prop_assert!(read.contains(&own));
            prop_assert!(read.iter().all(|one| *one == own || *one == other));
            prop_assert_eq!(read.contains(&other), !known || own.from.ip() == own.to.ip());
        }
    }
}
