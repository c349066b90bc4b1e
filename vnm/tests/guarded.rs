//! Guards on a real Open vSwitch, with real frames: what may pass does, and nothing else.

#![cfg(test)]

mod common;

use std::net::Ipv4Addr;

use common::bridged::{ethernet, ipv4, udp};
use common::guests::{GROUP, Guest, Guests, desired, guard, hear_each_other, rule};
use common::switch::until;
use common::wire::arrives;

use causeway_vnm::desired::Guard;

/// Guards the guests so.
fn apply(net: &Guests, guards: &[(&Guest, Guard)]) {
    for (guest, guard) in guards {
        net.bring(&desired(guest, guard.clone()));
    }
}

#[test]
fn only_what_a_group_lets_begin_passes() {
    let net = Guests::new(&[Some(50), Some(50), Some(50)]);
    let [a, b, c] = [&net.all[0], &net.all[1], &net.all[2]];
    let open = || (b, guard(b, "", ""));
    hear_each_other(b, a);
    // Without flows everybody hears everybody.
    assert!(b.tcp(a, 22) && b.tcp(a, 23) && b.ping(a.four) && b.ping(a.six));

    let rules = [
        rule("INBOUND", "TCP", "<RANGE>22</RANGE>"),
        rule("INBOUND", "UDP", &format!("<RANGE>50:60</RANGE><IP>{}</IP>", b.four)),
        rule("INBOUND", "ICMPV6", "<ICMPV6_TYPE>128</ICMPV6_TYPE>"),
        rule("OUTBOUND", "TCP", "<RANGE>80:81</RANGE>"),
    ]
    .concat();
    apply(&net, &[(a, guard(a, GROUP, &rules)), open()]);
    // To it: by v4 and v6, from a guest of ours and from a port that is not.
    assert!(b.tcp(a, 22) && c.tcp(a, 22) && b.tcp6(a, 22));
    assert!(!b.tcp(a, 23) && !c.tcp(a, 21) && !b.tcp6(a, 23));
    assert!(b.udp(a, 50) && b.udp(a, 60) && !b.udp(a, 49) && !b.udp(a, 61) && !c.udp(a, 50));
    assert!(b.ping(a.six) && !b.ping(a.four));
    // From it.
    assert!(a.tcp(b, 80) && a.tcp6(c, 81) && !a.tcp(b, 82) && !a.udp(b, 80) && !a.ping(b.four));
    // Between the others.
    assert!(b.tcp(c, 23) && c.tcp(b, 23) && b.ping(c.four));
}

#[test]
fn a_guest_sends_from_its_own_addresses_only() {
    let net = Guests::new(&[None, None]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let filters =
        "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING><FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>";
    let answered =
        |more: &[&str], to: String| a.run("ping", &[&["-c", "1", "-W", "1"], more, &[to.as_str()]].concat());
    let (four, six) = (b.four.to_string(), b.six.to_string());
    for (address, net) in [("10.0.0.77", "24"), ("fd00::77", "64")] {
        let nodad: &[&str] = if address.contains(':') { &["nodad", "preferred_lft", "0"] } else { &[] };
        let added = format!("{address}/{net}");
        assert!(a.run("ip", &[&["addr", "add", &added, "dev", "eth0"], nodad].concat()));
    }
    until("both addresses answer", || {
        answered(&["-I", "10.0.0.77"], four.clone()) && answered(&["-I", "fd00::77"], six.clone())
    });
    apply(&net, &[(a, guard(a, filters, "")), (b, guard(b, "", ""))]);
    assert!(a.ping(b.four) && a.ping(b.six) && b.ping(a.four) && b.ping(a.six));
    assert!(!answered(&["-I", "10.0.0.77"], four.clone()) && !answered(&["-I", "fd00::77"], six.clone()));
    assert!(!b.ping("10.0.0.77".parse::<std::net::Ipv4Addr>().unwrap()));
    assert!(!b.ping("fd00::77".parse::<std::net::Ipv6Addr>().unwrap()));
    assert!(a.tcp(b, 80) && b.tcp6(a, 80));

    let own = a.mac.to_string();
    assert!(a.run("ip", &["link", "set", "eth0", "address", "02:00:0a:00:00:ee"]));
    assert!(!answered(&[], four.clone()));
    assert!(a.run("ip", &["link", "set", "eth0", "address", &own]));
    assert!(a.ping(b.four));
}

/// Two networks of one bridge, with the same addresses in both.
#[test]
fn networks_with_the_same_addresses_stay_apart() {
    let net = Guests::new(&[Some(50), Some(50), Some(60)]);
    let [a, b, c] = [&net.all[0], &net.all[1], &net.all[2]];
    let rules = [rule("INBOUND", "TCP", "<RANGE>22</RANGE>"), rule("OUTBOUND", "ALL", "")].concat();
    apply(&net, &[(a, guard(a, GROUP, &rules)), (b, guard(b, "", "")), (c, guard(c, GROUP, &rules))]);
    assert!(b.tcp(a, 22) && !b.tcp(c, 22) && !c.tcp(a, 22) && !a.tcp(c, 22) && !b.ping(c.four));
    assert!(a.tcp(b, 23) && a.ping(b.four));
}

/// To a group, and to all.
#[test]
fn what_goes_to_many_passes_by_rule() {
    let net = Guests::new(&[Some(50), Some(50)]);
    let [a, b] = [&net.all[0], &net.all[1]];
    hear_each_other(b, a);
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let to_group = [1, 0, 0x5e, 0, 0, 0xfb];
    let four = |mac: [u8; 6], to: Ipv4Addr, port: u16, mark: &[u8]| {
        ethernet(mac, b.mac, 0x0800, &ipv4(b.four, to, 17, 1, 0, &udp(9, port, mark)))
    };
    let heard = |frame: Vec<u8>, mark: &[u8]| arrives(b, a, &[frame], mark) > 0;
    let rules = [rule("INBOUND", "UDP", "<RANGE>5353</RANGE>"), rule("INBOUND", "TCP", "")].concat();
    apply(&net, &[(a, guard(a, GROUP, &rules))]);
    for (port, passes) in [(5353, true), (5354, false)] {
        assert_eq!(heard(four(to_group, group, port, b"to a group"), b"to a group"), passes);
        assert_eq!(heard(four([255; 6], Ipv4Addr::BROADCAST, port, b"to all"), b"to all"), passes);
    }
    // By the address of one it is asked as anything else is.
    assert!(heard(four(a.mac.0, a.four, 5353, b"to one"), b"to one"));
    apply(&net, &[(a, guard(a, GROUP, &rule("OUTBOUND", "TCP", "")))]);
    assert!(!heard(four(to_group, group, 5353, b"to a group"), b"to a group"));
}
