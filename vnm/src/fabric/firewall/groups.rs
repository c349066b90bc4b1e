//! What the tables of `inet` say of one NIC: what its groups let pass. Pure.
//!
//! They see whole datagrams: the kernel puts fragments together before it tracks a connection, and finds what is behind the
//! extension headers of IPv6.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

use super::expr::{any, any_range, by_state, drop, goto, is, meta, net, payload};
use super::skeleton::PASSED;
use super::spoofing::Rule;
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

/// What may pass in that direction.
pub fn rules(way: Way, passage: &Passage) -> Vec<Rule> {
    let pass = || goto(PASSED);
    let (six, four): (&[u8], &[u8]) = match way {
        Way::Out => (&FROM_GUEST, &REPORTS),
        Way::In => (&TO_GUEST, &QUERY),
    };
    let mut out = vec![
        vec![family(6), is(payload("icmpv6", "type"), any(six.iter().copied())), pass()],
        vec![family(4), of(protocol::IGMP), is(payload("igmp", "type"), any(four.iter().copied())), pass()],
        vec![by_state(&[("invalid", drop()), ("established", pass()), ("related", pass())])],
    ];
    match passage {
        Passage::Open => out.push(vec![pass()]),
        Passage::Only(passes) => {
            // Two groups may let the same pass.
            let mut seen = BTreeSet::new();
            let all = passes.iter().flat_map(|pass| matches(way, pass));
            let new = all.filter(|matches| seen.insert(Value::from(matches.clone()).to_string()));
            out.extend(new.map(|matches| [matches, vec![pass()]].concat()));
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

/// What one rule of a group lets pass; one rule of ours for each version of IP where it names addresses.
fn matches(way: Way, pass: &Pass) -> Vec<Rule> {
    let (kind, only) = match &pass.traffic {
        Traffic::All => (Vec::new(), None),
        Traffic::Tcp(ports) => (to_ports("tcp", protocol::TCP, ports), None),
        Traffic::Udp(ports) => (to_ports("udp", protocol::UDP, ports), None),
        Traffic::Esp => (vec![of(protocol::ESP)], None),
        Traffic::Icmp(kind) => (message("icmp", protocol::ICMP, *kind), Some(4)),
        Traffic::Icmpv6(kind) => (message("icmpv6", protocol::ICMPV6, *kind), Some(6)),
    };
    let Some(peers) = &pass.peers else {
        return vec![[only.map(family).into_iter().collect(), kind].concat()];
    };
    let (four, six) = apart(peers);
    let versions = [(4, "ip", four), (6, "ip6", six)];
    let asked = versions
        .into_iter()
        .filter(|(version, _, nets)| only.is_none_or(|only| only == *version) && !nets.is_empty());
    asked
        .map(|(version, header, nets)| {
            let mut rule = vec![family(version)];
            // All addresses of a version are no set that nft takes.
            if nets.iter().all(|net| net.prefix_len() > 0) {
                let field = if way == Way::Out { "daddr" } else { "saddr" };
                rule.push(is(payload(header, field), any(nets.iter().map(net))));
            }
            [rule, kind.clone()].concat()
        })
        .collect()
}

fn to_ports(header: &str, number: u8, ports: &Ports) -> Rule {
    match ports {
        None => vec![of(number)],
        Some(ranges) => vec![of(number), is(payload(header, "dport"), any_range(ranges.iter().copied()))],
    }
}

fn message(header: &str, number: u8, kind: Option<u8>) -> Rule {
    let kind = kind.map(|kind| is(payload(header, "type"), json!(kind)));
    [of(number)].into_iter().chain(kind).collect()
}

/// The networks of each version, none of which holds another: nft takes no others in one set.
fn apart(peers: &BTreeSet<IpNet>) -> (Vec<IpNet>, Vec<IpNet>) {
    let four: Vec<Ipv4Net> = peers
        .iter()
        .filter_map(|net| if let IpNet::V4(net) = net { Some(net.trunc()) } else { None })
        .collect();
    let six: Vec<Ipv6Net> = peers
        .iter()
        .filter_map(|net| if let IpNet::V6(net) = net { Some(net.trunc()) } else { None })
        .collect();
    (
        Ipv4Net::aggregate(&four).into_iter().map(IpNet::V4).collect(),
        Ipv6Net::aggregate(&six).into_iter().map(IpNet::V6).collect(),
    )
}
