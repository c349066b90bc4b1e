//! What may pass in one direction: what belongs to a known connection, and what a rule lets begin (contract VNM 4.5).

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::blocks::blocks;
use super::{Made, icmpv6, kind, nested, protocol};
use crate::desired::guard::{Pass, Passage, Ports, Traffic};
use crate::fabric::ovs::openflow::{Action, Field, Match, ct, ethertype};

/// One direction of a guarded NIC.
pub(super) struct Way {
    /// The table in which the connection is known.
    pub known: u8,
    pub zone: u16,
    /// Where the other end's address stands.
    pub peer4: Field,
    pub peer6: Field,
    /// What is done with what may pass.
    pub on: Vec<Action>,
}

/// Looks a connection up in a zone; with `commit` the zone knows it from now on.
pub(super) fn track(zone: u16, commit: bool, table: Option<u8>) -> Action {
    Action::Track { zone, commit, table }
}

impl Way {
    pub fn put(&self, out: &mut Made, table: u8, all: &Match, messages: &[u8], passage: &Passage) {
        let track = |commit, table| track(self.zone, commit, table);
        for hidden in nested(all) {
            out.put(table, 40, hidden, vec![]);
        }
        for message in messages {
            out.put(table, 30, icmpv6(all, *message), self.on.clone());
        }
        // Reports of listeners belong to no connection; they pass as any message of their type may.
        for message in LISTENERS.into_iter().filter(|message| admits(passage, *message)) {
            out.put(table, 30, icmpv6(all, message), self.on.clone());
        }
        for ip in [ethertype::IPV4, ethertype::IPV6] {
            out.put(table, 20, kind(all, ip), vec![track(false, Some(self.known))]);
        }
        let state = |bits| all.clone().long_masked(Field::CT_STATE, bits | ct::TRACKED, bits | ct::TRACKED);
        out.put(self.known, 90, state(ct::INVALID), vec![]);
        out.put(self.known, 80, state(ct::ESTABLISHED), self.on.clone());
        out.put(self.known, 70, state(ct::RELATED), self.on.clone());
        let begins: Vec<Action> = [vec![track(true, None)], self.on.clone()].concat();
        let new = state(ct::NEW);
        let everything = BTreeSet::from([Pass { traffic: Traffic::All, peers: None }]);
        let passes = match passage {
            Passage::Open => &everything,
            Passage::Only(passes) => passes,
        };
        // Two rules may let the same pass.
        let matches: BTreeSet<Match> = passes.iter().flat_map(|pass| self.matches(&new, pass)).collect();
        for pass in matches {
            out.put(self.known, 50, pass, begins.clone());
        }
        out.put(self.known, 1, all.clone(), vec![]);
    }

    /// What a rule lets pass, in as many matches as it takes.
    fn matches(&self, new: &Match, pass: &Pass) -> Vec<Match> {
        let (four, six) = (kind(new, ethertype::IPV4), kind(new, ethertype::IPV6));
        let of = |ip: &Match, number| ip.clone().byte(Field::IP_PROTO, number);
        let both = |number| vec![of(&four, number), of(&six, number)];
        let kinds: Vec<Match> = match &pass.traffic {
            Traffic::All => vec![four, six],
            Traffic::Tcp(wanted) => ports(&both(protocol::TCP), Field::TCP_DST, wanted),
            Traffic::Udp(wanted) => ports(&both(protocol::UDP), Field::UDP_DST, wanted),
            Traffic::Esp => both(protocol::ESP),
            Traffic::Icmp(message) => {
                let icmp = of(&four, protocol::ICMP);
                vec![message.map_or(icmp.clone(), |message| icmp.byte(Field::ICMPV4_TYPE, message))]
            }
            Traffic::Icmpv6(message) => {
                vec![message.map_or(of(&six, protocol::ICMPV6), |message| icmpv6(new, message))]
            }
        };
        let Some(peers) = &pass.peers else { return kinds };
        kinds.iter().flat_map(|kind| peers.iter().filter_map(|peer| self.with_peer(kind, peer))).collect()
    }

    /// The same from a network; none where the one is of IPv4 and the other of IPv6.
    fn with_peer(&self, kind: &Match, peer: &IpNet) -> Option<Match> {
        let is = |number: u16| kind.is(Field::ETH_TYPE, &number.to_be_bytes());
        match peer {
            IpNet::V4(net) if is(ethertype::IPV4) => {
                Some(kind.clone().ipv4(self.peer4, net.network(), net.prefix_len().into()))
            }
            IpNet::V6(net) if is(ethertype::IPV6) => {
                Some(kind.clone().ipv6(self.peer6, net.network(), net.prefix_len().into()))
            }
            _ => None,
        }
    }
}

/// Questions for listeners of multicast, and their answers (RFC 2710, RFC 3810).
const LISTENERS: [u8; 4] = [130, 131, 132, 143];

/// Whether that message of ICMPv6 may pass, to or from anybody.
fn admits(passage: &Passage, message: u8) -> bool {
    let admitted = |pass: &Pass| {
        let fits = match pass.traffic {
            Traffic::All | Traffic::Icmpv6(None) => true,
            Traffic::Icmpv6(Some(wanted)) => wanted == message,
            _ => false,
        };
        fits && pass.peers.is_none()
    };
    match passage {
        Passage::Open => true,
        Passage::Only(passes) => passes.iter().any(admitted),
    }
}

/// Each match with each port. A switch matches bits: a range is as many matches as it takes to cover it.
fn ports(kinds: &[Match], field: Field, wanted: &Ports) -> Vec<Match> {
    let Some(wanted) = wanted else { return kinds.to_vec() };
    let blocks: Vec<(u16, u16)> = wanted.iter().flat_map(|(low, high)| blocks(*low, *high)).collect();
    let with = |kind: &Match| {
        let kind = kind.clone();
        blocks
            .iter()
            .map(move |(port, mask)| kind.clone().short_masked(field, *port, *mask))
            .collect::<Vec<_>>()
    };
    kinds.iter().flat_map(with).collect()
}
