//! Frames of a guest that are its own and such as are forged: the same for every fabric.

use std::net::{Ipv4Addr, Ipv6Addr};

use causeway_core::names::Mac;

use super::bridged::{arp, ethernet, icmpv6, ipv4, ipv6, udp};
use super::guests::Guest;

/// A frame, and what it is.
pub struct Forged {
    /// For messages.
    pub what: &'static str,
    /// The frame.
    pub frame: Vec<u8>,
    /// Whether it passes by both filters.
    pub passes: bool,
}

const ALL: [u8; 6] = [0xff; 6];
const FOUR: u16 = 0x0800;
const SIX: u16 = 0x86dd;
const ARP: u16 = 0x0806;

/// An option of a neighbour message that gives an Ethernet address: of its source (1) or its target (2).
fn gives(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1], mac.0.as_slice()].concat()
}

/// A neighbour solicitation (135) or advertisement (136) about that address, with options.
fn neighbour(kind: u8, from: Ipv6Addr, about: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let all_nodes = "ff02::1".parse().unwrap();
    icmpv6(kind, from, all_nodes, &[&[0x20, 0, 0, 0], about.octets().as_slice(), options].concat())
}

/// What `a` sends. `b` is another guest of its network.
pub fn frames(a: &Guest, b: &Guest) -> Vec<Forged> {
    let other: Mac = "02:00:0a:00:00:ee".parse().unwrap();
    let nobody = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let own = |kind, about, options: &[u8]| neighbour(kind, a.six, about, options);
    let twice = [gives(2, a.mac), gives(2, other)].concat();
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let dhcp = |from, ports: (u16, u16), mark: &[u8]| {
        ipv4(from, Ipv4Addr::BROADCAST, 17, 9, 0, &udp(ports.0, ports.1, mark))
    };
    let link_local: Ipv6Addr = "fe80::ee".parse().unwrap();
    let router = |from| icmpv6(134, from, "ff02::1".parse().unwrap(), &[0; 12]);
    let mut number = 0;
    let mut four = |from: Ipv4Addr| {
        number += 1;
        ipv4(from, b.four, 253, number, 0, &[7; 40])
    };
    let frames: Vec<(&'static str, Mac, u16, Vec<u8>, bool)> = vec![
        ("IPv4", a.mac, FOUR, four(a.four), true),
        ("IPv4 from another's MAC", b.mac, FOUR, four(a.four), false),
        ("IPv4 from nobody's MAC", other, FOUR, four(a.four), false),
        ("IPv4 from another's address", a.mac, FOUR, four(b.four), false),
        ("IPv6", a.mac, SIX, ipv6(a.six, b.six, 253, &[1; 40]), true),
        ("IPv6 from another's MAC", b.mac, SIX, ipv6(a.six, b.six, 253, &[2; 40]), false),
        ("IPv6 from another's address", a.mac, SIX, ipv6(b.six, b.six, 253, &[3; 40]), false),
        ("IPv6 from nowhere", a.mac, SIX, ipv6(nobody.1, b.six, 253, &[4; 40]), false),
        ("ARP", a.mac, ARP, arp(1, a.mac, a.four, b.four), true),
        ("an ARP answer", a.mac, ARP, arp(2, a.mac, a.four, b.four), true),
        ("an ARP answer for another's address", a.mac, ARP, arp(2, a.mac, b.four, a.four), false),
        ("an ARP question for another's address", a.mac, ARP, arp(1, a.mac, b.four, a.four), false),
        ("an ARP answer with another MAC", a.mac, ARP, arp(2, other, a.four, b.four), false),
        ("ARP from another's MAC", b.mac, ARP, arp(2, a.mac, a.four, b.four), false),
        ("a solicitation", a.mac, SIX, own(135, b.six, &gives(1, a.mac)), true),
        ("a bare solicitation", a.mac, SIX, own(135, b.six, &[]), true),
        ("a solicitation that gives another MAC", a.mac, SIX, own(135, b.six, &gives(1, other)), false),
        (
            "a solicitation from another's address",
            a.mac,
            SIX,
            neighbour(135, b.six, a.six, &gives(1, a.mac)),
            false,
        ),
        ("a solicitation from another's MAC", b.mac, SIX, own(135, b.six, &gives(1, a.mac)), false),
        ("whether somebody has its address", a.mac, SIX, neighbour(135, nobody.1, a.six, &[]), true),
        ("the same with a number", a.mac, SIX, neighbour(135, nobody.1, a.six, &nonce), true),
        ("whether somebody has another's address", a.mac, SIX, neighbour(135, nobody.1, b.six, &[]), false),
        ("an advertisement", a.mac, SIX, own(136, a.six, &gives(2, a.mac)), true),
        ("a bare advertisement", a.mac, SIX, own(136, a.six, &[]), true),
        ("an advertisement of another's address", a.mac, SIX, own(136, b.six, &gives(2, a.mac)), false),
        ("an advertisement that gives another MAC", a.mac, SIX, own(136, a.six, &gives(2, other)), false),
        ("an advertisement that gives two MACs", a.mac, SIX, own(136, a.six, &twice), false),
        ("an advertisement from another's address", a.mac, SIX, neighbour(136, b.six, a.six, &[]), false),
        ("an advertisement of nobody's", a.mac, SIX, neighbour(136, nobody.1, a.six, &[]), false),
        ("a question for DHCP", a.mac, FOUR, dhcp(nobody.0, (68, 67), b"discover"), true),
        ("a DHCP answer from another's address", a.mac, FOUR, dhcp(b.four, (67, 68), b"offer by b"), false),
        ("a DHCP answer from nowhere", a.mac, FOUR, dhcp(nobody.0, (67, 68), b"offer by none"), false),
        ("a router's advertisement from another's address", a.mac, SIX, router(link_local), false),
        ("a router's advertisement from nowhere", a.mac, SIX, router(nobody.1), false),
    ];
    frames
        .into_iter()
        .map(|(what, mac, kind, payload, passes)| Forged {
            what,
            frame: ethernet(ALL, mac, kind, &payload),
            passes,
        })
        .collect()
}

/// An answer as a DHCP server gives it, and a router's advertisement, both from the guest's own addresses: filters say nothing of
/// them, groups do.
pub fn servers(a: &Guest) -> Vec<Vec<u8>> {
    let offer = ipv4(a.four, Ipv4Addr::BROADCAST, 17, 90, 0, &udp(67, 68, b"offer by a"));
    let router = icmpv6(134, a.six, "ff02::1".parse().unwrap(), &[0; 12]);
    vec![ethernet(ALL, a.mac, FOUR, &offer), ethernet(ALL, a.mac, SIX, &router)]
}

/// Which of these frames come to `to`, sent once by `from`.
pub fn heard(from: &Guest, to: &Guest, frames: &[Vec<u8>]) -> Vec<bool> {
    let ear = to.listens();
    from.sends(frames);
    let heard = ear.frames();
    frames.iter().map(|frame| heard.contains(frame)).collect()
}

/// Sends them all, once where nothing is guarded and once by both filters.
pub fn assert_kept_back(a: &Guest, b: &Guest, guard: impl FnOnce()) {
    let all = frames(a, b);
    let sent: Vec<Vec<u8>> = all.iter().map(|forged| forged.frame.clone()).collect();
    let open = heard(a, b, &sent);
    for (forged, arrives) in all.iter().zip(open) {
        assert!(arrives, "{} arrives where nothing is guarded", forged.what);
    }
    guard();
    for (forged, arrives) in all.iter().zip(heard(a, b, &sent)) {
        assert_eq!(arrives, forged.passes, "{}", forged.what);
    }
}
