//! What the tables of the bridge say of one NIC: which addresses the guest may send from, and what is left to be asked of its
//! groups. Pure.
//!
//! A rule whose field a frame is too short for doesn't match, whatever it says of the field. So what is cut or hidden in fragments is
//! told by what is named as permitted; the rest is dropped.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_core::names::Mac;
use serde_json::{Value, json};

use super::expr::{
    accept, any, any_mac, back, drop, is, is_not, jump, masked, meta, number, payload, range, set_mark,
    transport,
};
use super::fence::Fence;
use super::skeleton::{NOWHERE, READABLE};
use crate::desired::Guard;

/// The statements of a rule.
pub type Rule = Vec<Value>;

/// In the higher half of the mark of a frame from a guest that its groups were not asked of yet.
pub const FROM_GUEST: u32 = 0x0ca0 << 16;
/// The same for a frame to a guest.
pub const TO_GUEST: u32 = 0x0ca1 << 16;

/// QEMU tells the bridge by it where a guest is after a move.
const RARP: u16 = 0x8035;

/// Messages that a host sends before it has an address: listener reports, and router and neighbour solicitations.
const WITHOUT_ADDRESS: [u8; 4] = [131, 132, 133, 143];
/// Bytes of a neighbour message behind the header of IPv6, without an option and with one.
const WITHOUT_OPTION: u16 = 24;
const WITH_OPTION: u16 = 32;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// The mark of a frame from the guest.
pub fn mark_from(fence: &Fence) -> u32 {
    FROM_GUEST | u32::from(fence.number.get())
}

/// The mark of a frame to the guest.
pub fn mark_to(fence: &Fence) -> u32 {
    TO_GUEST | u32::from(fence.number.get())
}

/// Whether a frame bears such a mark, of whatever number.
pub fn still_marked(mark: u32) -> Value {
    is(masked(meta("mark"), 0xffff_0000_u32), mark)
}

/// What is asked of a frame from the guest.
pub fn outgoing(fence: &Fence) -> Vec<Rule> {
    let guard = &fence.guard;
    let mut out = Vec::new();
    if let Some(macs) = &guard.macs {
        out.push(vec![is_not(payload("ether", "saddr"), any_mac(macs)), drop()]);
    }
    if guard.is_stateful() || guard.senders.is_some() {
        out.push(vec![jump(READABLE)]);
    }
    if guard.macs.is_some() || guard.senders.is_some() {
        arp(&mut out, guard);
    }
    if let Some(macs) = &guard.macs {
        neighbours(&mut out, macs);
    }
    if let Some(senders) = &guard.senders {
        let four = senders.iter().filter(|address| address.is_ipv4()).copied().collect();
        let six = senders.iter().filter(|address| address.is_ipv6()).copied().collect();
        ipv4(&mut out, four);
        ipv6(&mut out, six);
    }
    if guard.is_stateful() {
        out.extend(marks(mark_from(fence)));
    }
    out
}

/// What is asked of a frame to the guest; nothing where its groups are open.
pub fn incoming(fence: &Fence) -> Vec<Rule> {
    if !fence.guard.is_stateful() {
        return Vec::new();
    }
    [vec![vec![jump(READABLE)]], marks(mark_to(fence))].concat()
}

/// The mark, for what is asked about by IP.
fn marks(mark: u32) -> Vec<Rule> {
    ["ip", "ip6"].map(|protocol| vec![is(meta("protocol"), protocol), set_mark(mark)]).to_vec()
}

/// Whatever may carry IP where nobody looks for it: behind a tag, in PPPoE, MPLS, or what will be thought of next.
pub fn readable() -> Rule {
    vec![
        is_not(payload("ether", "type"), any([json!("ip"), json!("ip6"), json!("arp"), json!(RARP)])),
        drop(),
    ]
}

/// ARP that tells of the guest's own addresses, or asks for nobody whether somebody has one (RFC 5227, a probe).
fn arp(out: &mut Vec<Rule>, guard: &Guard) {
    let is_arp = || is(meta("protocol"), "arp");
    let field = |field| payload("arp", field);
    // With other lengths, the addresses would stand elsewhere.
    let form = [
        is_arp(),
        is(field("htype"), 1),
        is(field("ptype"), "ip"),
        is(field("hlen"), 6),
        is(field("plen"), 4),
    ];
    let mut own = form.to_vec();
    if let Some(macs) = &guard.macs {
        own.push(is(field("saddr ether"), any_mac(macs)));
    }
    match &guard.senders {
        None => out.push([own, vec![back()]].concat()),
        Some(senders) => {
            let four: Vec<String> =
                senders.iter().filter(|address| address.is_ipv4()).map(ToString::to_string).collect();
            let probe = vec![is(field("operation"), "request"), is(field("saddr ip"), "0.0.0.0"), back()];
            out.push([own.clone(), probe].concat());
            if !four.is_empty() {
                out.push([own, vec![is(field("saddr ip"), any(four)), back()]].concat());
            }
        }
    }
    out.push(vec![is_arp(), drop()]);
}

/// Neighbour messages that give no other Ethernet address than that which they come from. They have one option at most: a second
/// one could say something else. Who has no address gives none (RFC 4861, 4.3), but a number that is its own (RFC 7527).
fn neighbours(out: &mut Vec<Rule>, macs: &BTreeSet<Mac>) {
    let length = || payload("ip6", "length");
    let messages = |kinds: Value| vec![is(meta("protocol"), "ip6"), is(payload("icmpv6", "type"), kinds)];
    let both = || messages(range(SOLICITATION, ADVERTISEMENT));
    let with_option = || vec![is_not(payload("ip6", "saddr"), "::"), is(length(), WITH_OPTION)];
    out.push(
        [both(), vec![is_not(length(), WITHOUT_OPTION), is_not(length(), WITH_OPTION), drop()]].concat(),
    );
    // Which option it is, and that it has eight bytes; then the address.
    for (kind, option) in [(SOLICITATION, 0x0101), (ADVERTISEMENT, 0x0201)] {
        let other = vec![is_not(transport(192, 16), option), drop()];
        out.push([messages(json!(kind)), with_option(), other].concat());
    }
    for mac in macs {
        let number = mac.0.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let from_it = vec![is(payload("ether", "saddr"), mac.to_string())];
        let other = vec![is_not(transport(208, 48), number), drop()];
        out.push([from_it, both(), with_option(), other].concat());
    }
}

/// IPv4 from the guest's own addresses. Who has none asks for one, whatever its groups say (contract VNM 4.5, row 6).
fn ipv4(out: &mut Vec<Rule>, senders: Vec<IpAddr>) {
    let is_ip = || is(meta("protocol"), "ip");
    out.push(vec![
        is_ip(),
        is(payload("ip", "saddr"), "0.0.0.0"),
        is(payload("ip", "daddr"), "255.255.255.255"),
        is(payload("udp", "sport"), 68),
        is(payload("udp", "dport"), 67),
        back(),
    ]);
    match senders.is_empty() {
        true => out.push(vec![is_ip(), drop()]),
        false => {
            let own = any(senders.iter().map(ToString::to_string));
            out.push(vec![is_ip(), is_not(payload("ip", "saddr"), own), drop()]);
        }
    }
}

/// IPv6 from the guest's own addresses, and neighbour messages that tell of no other.
fn ipv6(out: &mut Vec<Rule>, senders: Vec<IpAddr>) {
    let is_ip6 = || is(meta("protocol"), "ip6");
    let from_nowhere = || vec![is_ip6(), is(payload("ip6", "saddr"), "::")];
    let message = |kind: u8| is(payload("icmpv6", "type"), kind);
    // A type, a code, a checksum and four bytes more are in front of it (RFC 4861, 4.3 and 4.4).
    let tells_of = |address: &IpAddr| is(transport(64, 128), number(*address));
    out.push([from_nowhere(), vec![jump(NOWHERE)]].concat());
    if senders.is_empty() {
        return out.push(vec![is_ip6(), drop()]);
    }
    for sender in &senders {
        out.push([from_nowhere(), vec![message(SOLICITATION), tells_of(sender), back()]].concat());
    }
    let own = any(senders.iter().map(ToString::to_string));
    out.push(vec![is_ip6(), is_not(payload("ip6", "saddr"), own), drop()]);
    // Groups let these pass anyway, so that nothing is left to be asked.
    for sender in &senders {
        out.push(vec![is_ip6(), message(ADVERTISEMENT), tells_of(sender), back()]);
    }
    out.push(vec![is_ip6(), message(ADVERTISEMENT), drop()]);
}

/// What may come from who has no address, whatever it tells of.
pub fn from_nowhere() -> Rule {
    vec![is(payload("icmpv6", "type"), any(WITHOUT_ADDRESS)), accept()]
}
