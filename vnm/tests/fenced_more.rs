//! Guards on real Linux bridges: what passes by any guard with groups, what passes by none, and what others' rules see of it.

#![cfg(test)]

mod common;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command as Program;
use std::time::Duration;

use common::bridged::{
    Bridged, FILTERS, GROUP, apply, arrives, ethernet, icmpv6, ipv4, ipv6, nft, rule, tcp,
};
use common::guests::Guest;

const FOUR: u16 = 0x0800;
const SIX: u16 = 0x86dd;

fn four(from: &Guest, to: &Guest, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(to.mac.0, from.mac, FOUR, &ipv4(from.four, to.four, protocol, 1, 0, payload))
}

fn six(from: &Guest, to: &Guest, kind: u8) -> Vec<u8> {
    ethernet(to.mac.0, from.mac, SIX, &icmpv6(kind, from.six, to.six, &[0; 20]))
}

fn counted(comment: &str) -> u64 {
    let out = Program::new("nft").args(["-j", "list", "ruleset"]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let rules = listed["nftables"].as_array().unwrap().iter().filter_map(|object| object.get("rule"));
    let found = rules.filter(|rule| rule["comment"] == comment).map(|rule| rule["expr"].clone());
    let counters = found.flat_map(|expr| expr.as_array().unwrap().clone());
    counters.filter_map(|one| one.pointer("/counter/packets")?.as_u64()).sum()
}

fn operators(rules: &str) {
    let run = Program::new("nft").arg(rules).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn neighbours_and_listeners_are_heard_and_nobody_else() {
    let net = Bridged::new(&["br0", "br0", "br0"]);
    let [a, b, c] = [&net.all[0], &net.all[1], &net.all[2]];
    apply(&[&net.fence(a, GROUP, "")]);
    // Contract VNM 4.5, row 4; and the reports and queries without which a bridge brings no multicast.
    let passing = |from: &Guest, to: &Guest| -> Vec<u8> {
        let kinds = [1, 128, 129, 130, 131, 132, 133, 134, 135, 136, 137, 143];
        kinds.into_iter().filter(|kind| arrives(from, &six(from, to, *kind), to)).collect()
    };
    assert_eq!(passing(a, b), [131, 132, 133, 135, 136, 143]);
    assert_eq!(passing(b, a), [130, 134, 135, 136, 137]);
    let igmp = |from: &Guest, to: &Guest| -> Vec<u8> {
        let kinds = [0x11, 0x12, 0x16, 0x17, 0x22];
        // The sum of a message of one byte and zeros.
        let message = |kind: u8| vec![kind, 0, !kind, 0xff, 0, 0, 0, 0];
        kinds.into_iter().filter(|kind| arrives(from, &four(from, to, 2, &message(*kind)), to)).collect()
    };
    assert_eq!(igmp(a, b), [0x12, 0x16, 0x17, 0x22]);
    // From one that was sent none: it would answer.
    assert_eq!(igmp(c, a), [0x11]);
    // Behind the options of a hop, as listeners report.
    let report = icmpv6(143, a.six, b.six, &[0; 20]);
    let hop = [&[58, 0, 5, 2, 0, 0, 1, 0], &report[40..]].concat();
    let behind = |kind: u8| {
        let mut hop = hop.clone();
        hop[8] = kind;
        let report = icmpv6(kind, a.six, b.six, &[0; 20]);
        hop[10..12].copy_from_slice(&report[42..44]);
        arrives(a, &ethernet(b.mac.0, a.mac, SIX, &ipv6(a.six, b.six, 0, &hop)), b)
    };
    assert!(behind(143) && !behind(128));
}

#[test]
fn datagrams_of_ipv6_and_what_belongs_to_no_connection() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let rules = [
        rule("OUTBOUND", "ALL", ""),
        rule("INBOUND", "UDP", "<RANGE>50</RANGE><IP>fd00::</IP><SIZE>16</SIZE>"),
        rule("INBOUND", "TCP", ""),
    ];
    apply(&[&net.fence(a, &format!("{GROUP}{FILTERS}"), &rules.concat())]);
    let udp = |from: &Guest, to: &Guest, port: u16| {
        let there = to.within(|| UdpSocket::bind(SocketAddr::from((to.six, port))).unwrap());
        let here = from.within(|| UdpSocket::bind(SocketAddr::from((from.six, 0))).unwrap());
        here.send_to(b"?", (to.six, port)).unwrap();
        there.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        here.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let Ok((_, back)) = there.recv_from(&mut [0]) else { return false };
        there.send_to(b"!", back).unwrap();
        here.recv(&mut [0]).is_ok()
    };
    assert!(udp(b, a, 50) && !udp(b, a, 51) && udp(a, b, 51));
    // No rule lets pass what no connection begins with.
    let both = |flags: u8| {
        let frame = |from: &Guest, to: &Guest| four(from, to, 6, &tcp(from.four, to.four, 1000, 2000, flags));
        (arrives(a, &frame(a, b), b), arrives(b, &frame(b, a), a))
    };
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    assert_eq!((both(SYN), both(SYN | FIN)), ((true, true), (false, false)));
}

#[test]
fn nothing_is_left_on_frames_and_the_marks_of_others_stay() {
    let net = Bridged::new(&["br0", "br0", "br0"]);
    let [a, b, c] = [&net.all[0], &net.all[1], &net.all[2]];
    let rules = [rule("INBOUND", "ALL", "<IP>10.0.0.2</IP>"), rule("OUTBOUND", "ALL", "")].concat();
    apply(&[&net.fence(a, GROUP, &rules)]);
    operators("add table inet mine");
    for hook in ["prerouting", "forward", "postrouting", "input"] {
        operators(&format!("add chain inet mine {hook} {{ type filter hook {hook} priority 0; }}"));
        operators(&format!(
            "add rule inet mine {hook} meta mark & 0xfffe0000 == 0x0ca00000 counter comment \"ours\""
        ));
        operators(&format!("add rule inet mine {hook} counter comment \"all\""));
    }
    assert!(a.tcp(b, 80) && b.tcp(a, 80) && a.ping(b.four));
    assert_eq!(counted("ours"), 0);
    assert!(counted("all") > 10);

    // A mark that is one of our numbers is nothing to us, on a frame between two who are not guarded.
    operators("add table bridge mine");
    operators("add chain bridge mine prerouting { type filter hook prerouting priority -300; }");
    operators("add rule bridge mine prerouting iifname { one-2-0, one-3-0 } meta mark set 0x40014001");
    operators("add chain bridge mine postrouting { type filter hook postrouting priority 0; }");
    operators("add rule bridge mine postrouting meta mark 0x40014001 counter comment \"theirs\"");
    assert!(b.tcp(c, 80) && c.tcp(b, 80) && b.tcp(a, 80));
    assert!(counted("theirs") > 10);
}

#[test]
fn who_drops_what_we_let_pass_is_asked_as_well() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    apply(&[&net.fence(a, GROUP, &rule("INBOUND", "TCP", ""))]);
    assert!(b.tcp(a, 80));
    operators("add table inet mine");
    operators("add chain inet mine forward { type filter hook forward priority 0; policy drop; }");
    assert!(!b.tcp(a, 80));
    let said: Vec<String> = nft().foreign().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(said, ["chain forward of table inet mine (forward) drops what none of its rules accepts"]);
}

#[test]
fn two_bridges_know_the_same_addresses_of_ipv6_apart() {
    let net = Bridged::new(&["br0", "br0", "br1", "br1"]);
    let [a, b, c, d] = [&net.all[0], &net.all[1], &net.all[2], &net.all[3]];
    let out = rule("OUTBOUND", "ALL", "");
    apply(&[&net.fence(a, GROUP, &out), &net.fence(c, GROUP, &out)]);
    let echo = |from: &Guest, to: &Guest, kind: u8| {
        ethernet(to.mac.0, from.mac, SIX, &icmpv6(kind, from.six, to.six, &[0, 9, 0, 1, 1, 2, 3, 4]))
    };
    assert!(arrives(a, &echo(a, b, 128), b));
    assert!(!arrives(d, &echo(d, c, 129), c), "nobody has asked there");
    assert!(a.tcp6(b, 80) && c.tcp6(d, 80) && !b.tcp6(a, 80) && !d.tcp6(c, 80));
    let many: Ipv6Addr = "ff02::1234".parse().unwrap();
    let group: Ipv4Addr = "239.1.2.3".parse().unwrap();
    let to_many = |from: &Guest| {
        let packet = ipv4(from.four, group, 17, 1, 0, &common::bridged::udp(1, 2, &[0; 30]));
        ethernet([1, 0, 0x5e, 1, 2, 3], from.mac, FOUR, &packet)
    };
    // To many: who sends may, who is guarded gets none of it.
    assert!(arrives(a, &to_many(a), b) && !arrives(b, &to_many(b), a));
    let packet = ipv6(b.six, many, 17, &common::bridged::udp(1, 2, &[0; 30]));
    assert!(!arrives(b, &ethernet([0x33, 0x33, 0, 0, 0x12, 0x34], b.mac, SIX, &packet), a));
}

/// A guest that tags its own frames (`VLAN_TAGGED_ID` of `fw`) sends them from its own address too.
#[test]
fn a_tag_hides_no_ethernet_address() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let other = "02:00:0a:00:00:ee".parse().unwrap();
    let packet = ipv4(a.four, b.four, 253, 1, 0, &[0; 40]);
    let tagged = |from| ethernet(b.mac.0, from, 0x8100, &[&[0, 5, 8, 0], packet.as_slice()].concat());
    assert_eq!([a.mac, other].map(|from| arrives(a, &tagged(from), b)), [true; 2]);
    apply(&[&net.fence(a, "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>", "")]);
    assert_eq!([a.mac, other].map(|from| arrives(a, &tagged(from), b)), [true, false]);
}
