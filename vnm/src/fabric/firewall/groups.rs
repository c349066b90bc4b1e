//! What the tables of `inet` say of one NIC: what its groups let pass. Pure.
//!
//! They see whole datagrams: the kernel puts fragments together before it tracks a connection, and finds what is behind the
//! extension headers of IPv6.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::expr::{
    any, connection, connection_mark, drop, goto, in_state, is, jump, masked, meta, payload, range,
    set_connection_mark,
};
use super::skeleton::PASSED;
use super::spoofing::Rule;
use crate::desired::Number;
use crate::desired::guard::{Pass, Passage, Ports, Traffic};

/// Router and neighbour messages that a guest sends (contract VNM 4.5, row 4), and the reports by which the bridge knows which
/// multicast groups it listens to: without them, a bridge that snoops would not bring it neighbour messages.
const FROM_GUEST: [u8; 6] = [131, 132, 133, 135, 136, 143];
/// Those that it is sent, and the query for such reports.
const TO_GUEST: [u8; 5] = [130, 134, 135, 136, 137];

/// The same for IPv4 (RFC 3376): reports of all versions and a leave.
const REPORTS: [u8; 4] = [0x12, 0x16, 0x17, 0x22];
const QUERY: [u8; 1] = [0x11];

mod protocol {
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ESP: u8 = 50;
    pub const ICMPV6: u8 = 58;
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the guest.
    Out,
    /// To the guest.
    In,
}

impl Way {
    /// The chain of what passes in that direction by any guard with groups.
    pub fn shared(self) -> &'static str {
        match self {
            Way::Out => "known-from",
            Way::In => "known-to",
        }
    }

    /// How a connection's mark says that the NIC of that number has let it be, and in which bits: in the upper half who has let it go
    /// out, in the lower who has let it in. All guests of a bridge have their connections in one table, and any of them can have
    /// something stand there: so nobody's rules believe what another's have let be.
    pub fn approval(self, number: Number) -> (u32, u32) {
        let shift = if self == Way::Out { 16 } else { 0 };
        (u32::from(number.get()) << shift, 0xffff << shift)
    }
}

/// What passes by any guard with groups: neighbours' messages; and what can belong to no connection does not.
pub fn shared(way: Way) -> Vec<Rule> {
    let (six, four): (&[u8], &[u8]) = match way {
        Way::Out => (&FROM_GUEST, &REPORTS),
        Way::In => (&TO_GUEST, &QUERY),
    };
    let pass = || goto(PASSED);
    let mut out = vec![
        vec![family(6), is(payload("icmpv6", "type"), any(six.iter().copied())), pass()],
        vec![family(4), of(protocol::IGMP), is(payload("igmp", "type"), any(four.iter().copied())), pass()],
        vec![in_state(&["invalid"]), drop()],
    ];
    if way == Way::Out {
        // What answers the host, which asks no rules of the guest's: its connections are in no bridge's zone.
        let hosts = [in_state(KNOWN), is(connection("zone"), 0), is(connection("direction"), "reply")];
        out.push([&hosts[..], &[pass()]].concat());
    }
    out
}

/// Of a connection that somebody has let be.
const KNOWN: &[&str] = &["established", "related"];

/// What may pass in that direction.
///
/// Without a set of its own for each rule: the kernel looks for the name of a new set among those of all others.
pub fn rules(way: Way, passage: &Passage, number: Number) -> Vec<Rule> {
    let (mark, bits) = way.approval(number);
    let pass = || vec![set_connection_mark(mark, bits), goto(PASSED)];
    let mut out = vec![vec![jump(way.shared())]];
    for (mark, bits) in [Way::Out, Way::In].map(|way| way.approval(number)) {
        let known = is(masked(connection_mark(), bits), mark);
        out.push(vec![in_state(KNOWN), known, goto(PASSED)]);
    }
    match passage {
        Passage::Open => out.push(pass()),
        Passage::Only(passes) => {
            // Two groups may let the same pass.
            let mut seen = BTreeSet::new();
            let all = passes.iter().flat_map(|pass| matches(way, pass));
            let new = all.filter(|matches| seen.insert(serde_json::to_vec(matches).unwrap_or_default()));
            out.extend(new.map(|matches| [matches, pass()].concat()));
            out.push(vec![drop()]);
        }
    }
    out
}

fn family(version: u8) -> Value {
    is(meta("nfproto"), if version == 4 { "ipv4" } else { "ipv6" })
}

fn of(protocol: u8) -> Value {
    is(meta("l4proto"), protocol)
}

/// What one rule of a group lets pass; one rule of ours for each of its ranges of addresses and ports.
fn matches(way: Way, pass: &Pass) -> Vec<Rule> {
    let (kinds, only) = match &pass.traffic {
        Traffic::All => (vec![Vec::new()], None),
        Traffic::Tcp(ports) => (to_ports("tcp", protocol::TCP, ports), None),
        Traffic::Udp(ports) => (to_ports("udp", protocol::UDP, ports), None),
        Traffic::Esp => (vec![vec![of(protocol::ESP)]], None),
        Traffic::Icmp(kind) => (vec![message("icmp", protocol::ICMP, *kind)], Some(4)),
        Traffic::Icmpv6(kind) => (vec![message("icmpv6", protocol::ICMPV6, *kind)], Some(6)),
    };
    let Some(peers) = &pass.peers else {
        let version: Rule = only.map(family).into_iter().collect();
        return kinds.into_iter().map(|kind| [version.clone(), kind].concat()).collect();
    };
    let asked =
        ranges(peers).into_iter().map(|(first, last)| (if first.is_ipv4() { 4 } else { 6 }, first, last));
    let asked = asked.filter(|(version, ..)| only.is_none_or(|only| only == *version));
    let peers: Vec<Rule> = asked
        .map(|(version, first, last)| {
            let header = if version == 4 { "ip" } else { "ip6" };
            let field = if way == Way::Out { "daddr" } else { "saddr" };
            let within = within(payload(header, field), first, last);
            [family(version)].into_iter().chain(within).collect()
        })
        .collect();
    peers.iter().flat_map(|peer| kinds.iter().map(|kind| [peer.clone(), kind.clone()].concat())).collect()
}

fn to_ports(header: &str, number: u8, ports: &Ports) -> Vec<Rule> {
    let Some(ranges) = ports else { return vec![vec![of(number)]] };
    let port = |(low, high): &(u16, u16)| {
        let port = match (low, high) {
            (0, &u16::MAX) => None,
            (low, high) if low == high => Some(json!(low)),
            (low, high) => Some(range(*low, *high)),
        };
        [of(number)].into_iter().chain(port.map(|port| is(payload(header, "dport"), port))).collect()
    };
    ranges.iter().map(port).collect()
}

fn message(header: &str, number: u8, kind: Option<u8>) -> Rule {
    let kind = kind.map(|kind| is(payload(header, "type"), kind));
    [of(number)].into_iter().chain(kind).collect()
}

/// That an address lies there; nothing is to be asked where all of them do.
fn within(field: Value, first: IpAddr, last: IpAddr) -> Option<Value> {
    let all = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => first.is_unspecified() && last.is_broadcast(),
        (IpAddr::V6(first), IpAddr::V6(last)) => first.is_unspecified() && u128::from(last) == u128::MAX,
        _ => false,
    };
    match first == last {
        true => Some(is(field, first.to_string())),
        false => (!all).then(|| is(field, range(first.to_string(), last.to_string()))),
    }
}

/// The same addresses as ranges that neither touch nor overlap.
fn ranges(nets: &BTreeSet<IpNet>) -> Vec<(IpAddr, IpAddr)> {
    let mut sorted: Vec<(IpAddr, IpAddr)> = nets.iter().map(|net| (net.network(), net.broadcast())).collect();
    sorted.sort_unstable();
    let mut out: Vec<(IpAddr, IpAddr)> = Vec::new();
    for (first, last) in sorted {
        match out.last_mut() {
            Some(before) if before.1.is_ipv4() == first.is_ipv4() && touches(before.1, first) => {
                before.1 = before.1.max(last);
            }
            _ => out.push((first, last)),
        }
    }
    out
}

/// Whether a range that begins at `first` goes on with one that ends at `last`, or lies in it.
fn touches(last: IpAddr, first: IpAddr) -> bool {
    match (last, first) {
        (IpAddr::V4(last), IpAddr::V4(first)) => u32::from(first) <= u32::from(last).saturating_add(1),
        (IpAddr::V6(last), IpAddr::V6(first)) => u128::from(first) <= u128::from(last).saturating_add(1),
        _ => false,
    }
}
