//! A guard as flows of Open vSwitch: pure, from what may pass and where the NIC is on its bridge (contract VNM 4.3).
//!
//! ```text
//!                       from the guest                                       to the guest
//!  table 0    in by its port ──> 10                        to its address, or to many ──> 60
//!        10   its own Ethernet addresses ──> 20
//!        20   its own addresses, in ARP, ND and IP ──> 30
//!        30   IP: which connection? ──> 31      else ──> 60
//!        31   one that is known, or that a rule lets begin ──> 60
//!        60   to a guarded guest of this bridge ──> 70     to many ──> a copy for each of those ──> 70      then as any switch
//!        70                                                IP: which connection? ──> 71      else ──> 80
//!        71                                                one that is known, or that a rule lets begin ──> 80
//!        80                                                out by its port
//! ```
//!
//! Tables 0, 10 and 20 and the note are those of the stock driver, which can so remove what is made here. Each NIC has connections
//! of its own (a *zone*): what one guest may send to another of the same bridge is asked twice, once for each of them.
//!
//! What a switch does by itself floods what it does not know to every port. A guarded port is taken out of that (`no-flood`);
//! what goes to many comes to it by table 60, and nothing else does.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_core::names::VmId;
use ipnet::IpNet;

use super::openflow::{Action, Cookie, Cookies, Field, Flow, FlowKey, Match, ct, ethertype};
use crate::desired::guard::{Guard, Pass, Passage, Ports, Traffic};

/// In the highest bits of the cookie of every flow that we make.
const OURS: u64 = 0x0ca0 << 48;
/// The same for what the guests of a bridge share.
const SHARED: u64 = 0x0ca1 << 48;
/// Of both.
const OURS_MASK: u64 = 0xfffe << 48;

const IN: u8 = 0;
const MACS: u8 = 10;
const SENDERS: u8 = 20;
const FROM: u8 = 30;
const FROM_KNOWN: u8 = 31;
const GOES: u8 = 60;
const TO: u8 = 70;
const TO_KNOWN: u8 = 71;
const OUT: u8 = 80;

/// The register with the network that a frame is in, as 802.1Q writes it: a bit that says that there is one, and its number.
const NETWORK: u8 = 0;
/// The register with the port of the guest that a frame goes to.
const GUEST: u8 = 1;
const TAGGED: u16 = 0x1000;

mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ESP: u8 = 50;
    pub const ICMPV6: u8 = 58;
}

/// Router and neighbour messages that a guest sends, and that it is sent (contract VNM 4.5, row 4).
const ND_FROM: [u8; 3] = [133, 135, 136];
const ND_TO: [u8; 4] = [134, 135, 136, 137];

/// Where a NIC is on its bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Whose it is.
    pub vm: VmId,
    /// The number of its port.
    pub port: u32,
    /// Where its connections are counted: no other NIC of the host has it.
    pub zone: u16,
    /// The VLAN that the port is in; none is the network without a tag.
    pub vlan: Option<u16>,
}

/// Whose flows: of that NIC of that VM.
pub fn cookie(vm: VmId, nic: u32) -> Cookie {
    Cookie(OURS | u64::from(vm.0) << 16 | u64::from(nic & 0xffff))
}

/// All flows that we make.
pub fn ours() -> Cookies {
    Cookies { value: OURS, mask: OURS_MASK }
}

/// The flows of one NIC of a VM.
pub fn of_nic(vm: VmId, nic: u32) -> Cookies {
    Cookies { value: cookie(vm, nic).0, mask: u64::MAX }
}

/// The flows of a NIC.
pub fn flows(seat: &Seat, guard: &Guard, arp: bool) -> Vec<Flow> {
    let mut out = Made { cookie: cookie(seat.vm, guard.nic), flows: Vec::new() };
    let from = Match::any().in_port(seat.port);
    let network = Action::SetRegister(NETWORK, network(seat.vlan).into());
    out.put(IN, 100, from.clone(), vec![note(seat.vm, guard.nic), network, Action::Resubmit(MACS)]);
    macs(&mut out, &from, guard, arp);
    senders(&mut out, &from, guard, arp);
    outbound(&mut out, &from, seat, guard);
    inbound(&mut out, seat, guard);
    out.flows
}

/// A port of the bridge that has no flows of ours, and is in a VLAN: of its frames no tag tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// Its number.
    pub port: u32,
    /// The VLAN.
    pub vlan: u16,
}

/// What all guarded guests of a bridge share: frames for many come to each of them by these, and none by itself.
pub fn shared(seats: &[&Seat], others: &[Other]) -> Vec<Flow> {
    let mut out = Made { cookie: Cookie(SHARED), flows: Vec::new() };
    out.put(GOES, 0, Match::any(), vec![Action::Normal]);
    let networks: BTreeSet<u16> = seats.iter().map(|seat| network(seat.vlan)).collect();
    for here in networks {
        let many = vec![Action::SetRegister(NETWORK, here.into()), Action::Resubmit(GOES)];
        out.put(IN, 50, Match::any().short(Field::VLAN_VID, here).multicast(), many.clone());
        for other in others.iter().filter(|other| network(Some(other.vlan)) == here) {
            let from = Match::any().in_port(other.port).short(Field::VLAN_VID, 0);
            out.put(IN, 55, from.multicast(), many.clone());
        }
        let mut actions: Vec<Action> = Vec::new();
        for seat in seats.iter().filter(|seat| network(seat.vlan) == here) {
            let to = vec![Action::SetRegister(GUEST, seat.port), Action::Resubmit(TO)];
            actions.push(Action::Clone(to));
        }
        actions.push(Action::Normal);
        out.put(GOES, 20, Match::any().long(Field::register(NETWORK), here.into()).multicast(), actions);
    }
    out.flows
}

/// Flows under way, all of one owner.
struct Made {
    cookie: Cookie,
    flows: Vec<Flow>,
}

impl Made {
    fn put(&mut self, table: u8, priority: u16, matches: Match, actions: Vec<Action>) {
        let key = FlowKey { table, priority, matches };
        self.flows.push(Flow { key, cookie: self.cookie, actions });
    }
}

fn network(vlan: Option<u16>) -> u16 {
    vlan.map_or(0, |vlan| TAGGED | vlan)
}

/// The stock driver finds the flows of a NIC by these bytes.
fn note(vm: VmId, nic: u32) -> Action {
    let [a, b, c, d] = vm.0.to_be_bytes();
    let [_, _, e, f] = nic.to_be_bytes();
    Action::Note([a, b, c, d, e, f])
}

fn kind(of: &Match, ethertype: u16) -> Match {
    of.clone().short(Field::ETH_TYPE, ethertype)
}

fn icmpv6(of: &Match, message: u8) -> Match {
    let six = kind(of, ethertype::IPV6);
    six.byte(Field::IP_PROTO, protocol::ICMPV6).byte(Field::ICMPV6_TYPE, message)
}

/// The Ethernet addresses that the guest may send from. Connections are known by addresses of IP, and what goes to a guarded guest is
/// known by its Ethernet address: so it may have no other one.
fn macs(out: &mut Made, from: &Match, guard: &Guard, arp: bool) {
    let own = || [guard.mac].into();
    let macs = guard.macs.clone().or_else(|| guard.is_stateful().then(own));
    let Some(macs) = macs else {
        return out.put(MACS, 100, from.clone(), vec![Action::Resubmit(SENDERS)]);
    };
    for mac in macs {
        let sent = from.clone().mac(Field::ETH_SRC, mac);
        out.put(MACS, 45_000, sent.clone(), vec![Action::Resubmit(SENDERS)]);
        if arp {
            let told = kind(&sent, ethertype::ARP).mac(Field::ARP_SHA, mac);
            out.put(MACS, 50_000, told, vec![Action::Resubmit(SENDERS)]);
        }
    }
    if arp {
        out.put(MACS, 49_000, kind(from, ethertype::ARP), vec![]);
    }
    out.put(MACS, 40_000, from.clone(), vec![]);
}

/// The addresses that the guest may send from.
fn senders(out: &mut Made, from: &Match, guard: &Guard, arp: bool) {
    let on = || vec![Action::Resubmit(FROM)];
    out.put(SENDERS, 100, from.clone(), on());
    let Some(senders) = &guard.senders else { return };
    let (four, six) = (kind(from, ethertype::IPV4), kind(from, ethertype::IPV6));
    for sender in senders {
        match *sender {
            IpAddr::V4(address) => {
                out.put(SENDERS, 45_000, four.clone().ipv4(Field::IPV4_SRC, address, 32), on());
                if arp {
                    let told = kind(from, ethertype::ARP).ipv4(Field::ARP_SPA, address, 32);
                    out.put(SENDERS, 50_000, told, on());
                }
            }
            IpAddr::V6(address) => {
                out.put(SENDERS, 45_000, six.clone().ipv6(Field::IPV6_SRC, address, 128), on());
                // It is told of its own addresses only; the one that it sends from may be another of them.
                let told = icmpv6(from, 136).ipv6(Field::IPV6_ND_TARGET, address, 128);
                out.put(SENDERS, 47_000, told, on());
            }
        }
    }
    if arp {
        out.put(SENDERS, 49_000, kind(from, ethertype::ARP), vec![]);
    }
    out.put(SENDERS, 46_000, icmpv6(from, 136), vec![]);
    // Who has no address yet asks for one, or whether somebody has it.
    let asks = four.clone().byte(Field::IP_PROTO, protocol::UDP).short(Field::UDP_SRC, 68);
    let asks = asks.short(Field::UDP_DST, 67).ipv4(Field::IPV4_SRC, [0; 4].into(), 32);
    let asks = asks.ipv4(Field::IPV4_DST, [255; 4].into(), 32);
    out.put(SENDERS, 44_000, asks, vec![Action::Resubmit(GOES)]);
    for message in [133, 135] {
        let asks = icmpv6(from, message).ipv6(Field::IPV6_SRC, 0_u128.into(), 128);
        out.put(SENDERS, 44_000, asks, on());
    }
    out.put(SENDERS, 40_000, four, vec![]);
    out.put(SENDERS, 40_000, six, vec![]);
}

/// What the guest may send.
fn outbound(out: &mut Made, from: &Match, seat: &Seat, guard: &Guard) {
    let on = vec![Action::Resubmit(GOES)];
    out.put(FROM, 10, from.clone(), on.clone());
    if guard.is_stateful() {
        let way =
            Way { known: FROM_KNOWN, zone: seat.zone, peer4: Field::IPV4_DST, peer6: Field::IPV6_DST, on };
        way.put(out, FROM, from, &ND_FROM, &guard.outbound);
    }
}

/// What may be sent to the guest.
fn inbound(out: &mut Made, seat: &Seat, guard: &Guard) {
    if !guard.is_stateful() {
        return;
    }
    let here = network(seat.vlan);
    let found = |of: Match| of.mac(Field::ETH_DST, guard.mac);
    let to_it = vec![Action::SetRegister(NETWORK, here.into()), Action::Resubmit(GOES)];
    out.put(IN, 60, found(Match::any().short(Field::VLAN_VID, here)), to_it.clone());
    if seat.vlan.is_some() {
        // From a port in that network that is not ours: the tag is the port's, not the frame's.
        out.put(IN, 59, found(Match::any().short(Field::VLAN_VID, 0)), to_it);
    }
    let goes = found(Match::any().long(Field::register(NETWORK), here.into()));
    out.put(GOES, 30, goes, vec![Action::SetRegister(GUEST, seat.port), Action::Resubmit(TO)]);

    let to = Match::any().long(Field::register(GUEST), seat.port);
    let on = vec![Action::Resubmit(OUT)];
    out.put(TO, 10, to.clone(), on.clone());
    let way = Way { known: TO_KNOWN, zone: seat.zone, peer4: Field::IPV4_SRC, peer6: Field::IPV6_SRC, on };
    way.put(out, TO, &to, &ND_TO, &guard.inbound);

    out.put(OUT, 20, to.clone().mac(Field::ETH_DST, guard.mac), vec![Action::Normal]);
    let tagged = to.clone().short_masked(Field::VLAN_VID, TAGGED, TAGGED);
    out.put(OUT, 15, tagged, vec![Action::PopVlan, Action::Output(seat.port)]);
    out.put(OUT, 10, to, vec![Action::Output(seat.port)]);
}

/// One direction of a guarded NIC.
struct Way {
    /// The table in which the connection is known.
    known: u8,
    zone: u16,
    /// Where the other end's address stands.
    peer4: Field,
    peer6: Field,
    /// What is done with what may pass.
    on: Vec<Action>,
}

impl Way {
    fn put(&self, out: &mut Made, table: u8, all: &Match, messages: &[u8], passage: &Passage) {
        let track = |commit, table| Action::Track { zone: self.zone, commit, table };
        for message in messages {
            out.put(table, 30, icmpv6(all, *message), self.on.clone());
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
        kinds.iter().flat_map(|kind| peers.iter().filter_map(|peer| self.from_peer(kind, peer))).collect()
    }

    /// The same from a network; none where the one is of IPv4 and the other of IPv6.
    fn from_peer(&self, kind: &Match, peer: &IpNet) -> Option<Match> {
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

/// The fewest pairs of a number and a mask that match exactly `low` to `high`.
fn blocks(low: u16, high: u16) -> Vec<(u16, u16)> {
    let mut out = Vec::new();
    let (mut next, last) = (u32::from(low), u32::from(high));
    while next <= last {
        // As large as where it begins allows, and as what is left needs.
        let aligned = if next == 0 { 16 } else { next.trailing_zeros() };
        let left = (last - next + 1).ilog2();
        let bits = aligned.min(left);
        let size = 1_u32 << bits;
        let mask = u16::try_from(0xffff_u32 & !(size - 1)).unwrap_or(0);
        out.push((u16::try_from(next).unwrap_or(u16::MAX), mask));
        next += size;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_are_the_range_and_nothing_else(a in any::<u16>(), b in any::<u16>(), port in any::<u16>()) {
            let (low, high) = (a.min(b), a.max(b));
            let found = blocks(low, high);
            for port in [port, low, high, low.wrapping_sub(1), high.wrapping_add(1)] {
                let times = found.iter().filter(|(value, mask)| port & mask == *value).count();
                prop_assert_eq!(times, usize::from((low..=high).contains(&port)), "{} in {:?}", port, found);
            }
            prop_assert!(found.len() <= 30);
        }
    }
}
