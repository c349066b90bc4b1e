//! A guard as flows of Open vSwitch: pure, from what may pass and where the NIC is on its bridge (contract VNM 4.3).
//!
//! The row of a guarded port takes it out of all that the switch does by itself ([`super::row`]), so that without these flows
//! nothing reaches the guest or leaves it: at the start, after a restart of the switch, and when somebody removes them.
//! For what a switch does by itself, all guarded guests of a bridge are behind one port, a patch, whose other end comes back
//! to these flows: so a frame for a guarded guest has been let in, told its VLAN and sent there by the switch, whatever
//! ports and bonds there are.
//!
//! ```text
//!          from the guest                              from the switch, by the patch
//!  table 0    in by its port ──> 5                        in by `guards` ──> 50
//!        5    in one of its networks ──> 10          50   its tag goes ──> 60
//!        10   its own Ethernet addresses ──> 20
//!        20   its own addresses, in ARP, ND and IP ──> 30
//!        21   a neighbour's advertisement: of one of them ──> 30
//!        30   IP: which connection? ──> 31      else ──> 60
//!        31   one that is known, or that a rule lets begin ──> 60
//!
//!        60   to a guarded guest of this network ──> 70     to many: a copy for each of those ──> 70, then ──> 90
//!        70   IP: which connection? ──> 71      else ──> 80
//!        71   one that is known, or that a rule lets begin ──> 80
//!        80   out by its port, tagged as the port has it
//!        90   to the switch, tagged, as if it came in by `guarded`; what came from there ends here
//! ```
//!
//! From 10 on a frame bears no tag, and a register says in which network it is. Tables 0, 10 and 20 and the note are those of
//! the stock driver, which can so remove what is made here. Each NIC has connections of its own (a *zone*): what one guest
//! may send to another of the same bridge is asked twice, once for each of them.

mod admitted;
mod blocks;
mod networks;
mod passage;
mod shared;
mod sources;

use causeway_core::names::VmId;
use serde::{Deserialize, Serialize};

use super::openflow::{Action, Cookie, Cookies, Field, Flow, FlowChange, FlowKey, Match, NOBODY, ethertype};
use crate::desired::guard::Guard;
use crate::desired::switch::Vlans;
use networks::{in_network, networks};
use passage::Way;

pub use admitted::{admit, admitted, lent};
pub use shared::{Hatch, Member, RESERVED, shared};

/// In the highest bits of the cookie of every flow that we make for a NIC.
const OURS: u64 = 0x0ca0 << 48;
/// The same for what the guests of a bridge share.
const SHARED: u64 = 0x0ca1 << 48;
/// The same for what is lent to a NIC: these flows are no part of what must be, and go by themselves.
const LENT: u64 = 0x0ca2 << 48;
/// Of all three.
const OURS_MASK: u64 = 0xfffc << 48;

const IN: u8 = 0;
const ADMIT: u8 = 5;
const MACS: u8 = 10;
const SENDERS: u8 = 20;
const TOLD: u8 = 21;
const FROM: u8 = 30;
const FROM_KNOWN: u8 = 31;
const BARE: u8 = 50;
const GOES: u8 = 60;
const TO: u8 = 70;
const TO_KNOWN: u8 = 71;
const OUT: u8 = 80;
const LEAVE: u8 = 90;

/// The highest number of a port, which Open vSwitch never gives to one by itself.
const LAST_NUMBER: u32 = 0xfeff;

/// The register with the network that a frame is in, as 802.1Q writes it: a bit that says that there is one, and its number.
const NETWORK: u8 = 0;
/// The register with the port of the guest that a frame goes to.
const GUEST: u8 = 1;
/// The bit.
const TAGGED: u16 = 0x1000;
/// The bits of the number.
const VID_BITS: u16 = 12;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Whose it is.
    pub vm: VmId,
    /// The number of its port.
    pub port: u32,
    /// Where its connections are counted: no other NIC of the host has it.
    pub zone: u16,
    /// The VLANs that the guest is in; its row does not say so.
    pub vlans: Vlans,
}

/// Whose flows: of that NIC of that VM.
pub fn cookie(vm: VmId, nic: u32) -> Cookie {
    Cookie(OURS | u64::from(vm.0) << 16 | u64::from(nic & 0xffff))
}

/// Whose a flow is; none of what the guests of a bridge share, and of what is not ours.
pub fn owner(cookie: Cookie) -> Option<(VmId, u32)> {
    let nic = u32::try_from(cookie.0 & 0xffff).ok()?;
    let vm = u32::try_from(cookie.0 >> 16 & 0xffff_ffff).ok()?;
    [OURS, LENT].contains(&(cookie.0 & (0xffff << 48))).then_some((VmId(vm), nic))
}

/// All flows that we make.
pub fn ours() -> Cookies {
    Cookies { value: OURS, mask: OURS_MASK }
}

/// The flows of one NIC of a VM, and those that are lent to it.
pub fn of_nic(vm: VmId, nic: u32) -> Cookies {
    Cookies { value: cookie(vm, nic).0, mask: !(OURS ^ LENT) }
}

/// Whether a flow is lent.
pub fn is_lent(flow: &Flow) -> bool {
    flow.cookie.0 & (0xffff << 48) == LENT
}

/// What the guests of a bridge share.
pub fn of_all() -> Cookies {
    Cookies { value: SHARED, mask: u64::MAX }
}

/// The flows of the stock driver, and of most others: they give no cookie.
pub fn of_nobody() -> Cookies {
    Cookies { value: 0, mask: u64::MAX }
}

/// A change of flows that leaves them as they are: one comes and goes at one moment.
pub fn come_and_gone() -> [FlowChange; 2] {
    let key = FlowKey { table: LEAVE, priority: 1, matches: Match::any().in_port(LAST_NUMBER) };
    [
        FlowChange::Put(Flow { key: key.clone(), cookie: Cookie(SHARED), actions: Vec::new() }),
        FlowChange::Remove(key),
    ]
}

/// Frames that a guest's port is about: from it, and to it.
pub fn about(port: u32) -> [Match; 2] {
    [Match::any().in_port(port), Match::any().long(Field::register(GUEST), port)]
}

/// The guest's port that a flow of ours is about, if it is about one alone.
pub fn port_of(flow: &Flow) -> Option<u32> {
    let matches = &flow.key.matches;
    matches.number(Field::IN_PORT).or_else(|| matches.number(Field::register(GUEST)))
}

/// The tables in which the stock driver has flows of a NIC.
pub const STOCK_TABLES: [u8; 3] = [IN, MACS, SENDERS];

/// The flow by which the stock driver finds those of a NIC: what it does tells whose it is.
pub fn note(vm: VmId, nic: u32) -> Action {
    let [a, b, c, d] = vm.0.to_be_bytes();
    let [_, _, e, f] = nic.to_be_bytes();
    Action::Note([a, b, c, d, e, f])
}

/// The flows of a NIC; `arp` holds it to its own addresses in ARP too (`arp_cache_poisoning`).
pub fn flows(seat: &Seat, guard: &Guard, hatch: Hatch, arp: bool) -> Vec<Flow> {
    let mut out = Made { cookie: cookie(seat.vm, guard.nic), flows: Vec::new() };
    let from = Match::any().in_port(seat.port);
    out.put(IN, 100, from.clone(), vec![note(seat.vm, guard.nic), Action::Resubmit(ADMIT)]);
    networks::admit(&mut out, &from, &seat.vlans, hatch);
    sources::macs(&mut out, &from, guard, arp);
    sources::senders(&mut out, &from, guard, arp);
    outbound(&mut out, &from, seat, guard);
    inbound(&mut out, seat, guard);
    networks::deliver(&mut out, seat);
    out.flows
}

/// Whether a guest may have any addresses of Ethernet: then it gets what is for none that is known.
pub fn has_any_address(guard: &Guard) -> bool {
    guard.macs.is_none() && !guard.is_stateful()
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

fn kind(of: &Match, ethertype: u16) -> Match {
    of.clone().short(Field::ETH_TYPE, ethertype)
}

/// Frames with more tags than the switch reads: what is in them, it can't say.
fn nested(of: &Match) -> [Match; 2] {
    [kind(of, ethertype::VLAN), kind(of, ethertype::OUTER_VLAN)]
}

/// Everything; or only kinds of frames of which flows know all that they carry.
fn plain(of: &Match, only: bool) -> Vec<Match> {
    const KNOWN: [u16; 4] = [ethertype::IPV4, ethertype::IPV6, ethertype::ARP, ethertype::RARP];
    if only { KNOWN.iter().map(|known| kind(of, *known)).collect() } else { vec![of.clone()] }
}

fn icmpv6(of: &Match, message: u8) -> Match {
    let six = kind(of, ethertype::IPV6);
    six.byte(Field::IP_PROTO, protocol::ICMPV6).byte(Field::ICMPV6_TYPE, message)
}

/// Sets the network's register to the frame's tag; to VLAN 0 where it has none.
fn network_of_tag() -> [Action; 2] {
    let copy = Action::Copy { from: Field::VLAN_VID, to: Field::register(NETWORK), bits: VID_BITS };
    [Action::SetRegister(NETWORK, TAGGED.into()), copy]
}

/// Tags a frame with its network.
fn tag(ethertype: u16) -> [Action; 2] {
    let copy = Action::Copy { from: Field::register(NETWORK), to: Field::VLAN_VID, bits: VID_BITS };
    [Action::PushVlan(ethertype), copy]
}

/// What the guest may send.
fn outbound(out: &mut Made, from: &Match, seat: &Seat, guard: &Guard) {
    let on = vec![Action::Resubmit(GOES)];
    // What wraps IP otherwise would carry it around the addresses and rules that are asked for.
    for plain in plain(from, guard.is_stateful() || guard.senders.is_some()) {
        out.put(FROM, 10, plain, on.clone());
    }
    if guard.is_stateful() {
        let way =
            Way { known: FROM_KNOWN, zone: seat.zone, peer4: Field::IPV4_DST, peer6: Field::IPV6_DST, on };
        way.put(out, FROM, from, &ND_FROM, &guard.outbound);
    }
}

/// What may be sent to the guest.
fn inbound(out: &mut Made, seat: &Seat, guard: &Guard) {
    // Connections are known by addresses of IP: with rules, it has one address of Ethernet.
    let aliases = guard.macs.iter().flatten().filter(|_| !guard.is_stateful());
    let to_it = vec![Action::SetRegister(GUEST, seat.port), Action::Resubmit(TO)];
    for mac in aliases.chain([&guard.mac]).collect::<std::collections::BTreeSet<_>>() {
        for (low, high) in networks(&seat.vlans) {
            for here in in_network(&Match::any(), low, high) {
                out.put(GOES, 30, here.mac(Field::ETH_DST, *mac), to_it.clone());
            }
        }
    }
    let to = Match::any().long(Field::register(GUEST), seat.port);
    let on = vec![Action::Resubmit(OUT)];
    for plain in plain(&to, guard.is_stateful()) {
        out.put(TO, 10, plain, on.clone());
    }
    if guard.is_stateful() {
        let way =
            Way { known: TO_KNOWN, zone: seat.zone, peer4: Field::IPV4_SRC, peer6: Field::IPV6_SRC, on };
        way.put(out, TO, &to, &ND_TO, &guard.inbound);
    }
}

/// Out by a guest's port. Its row keeps everything away that comes from another guarded port, which this no longer does.
fn output(port: u32) -> [Action; 2] {
    [Action::CameBy(NOBODY), Action::Output(port)]
}
