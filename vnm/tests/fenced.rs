//! Guards on real Linux bridges, with real frames: what may pass does, and nothing else.

#![cfg(test)]

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};

use causeway_core::names::Mac;
use common::bridged::{
    Bridged, FILTERS, GROUP, apply, arp, arrives, ethernet, icmpv6, ipv4, ipv6, neighbour, rule, udp,
};
use common::guests::Guest;
use common::ip;

const ALL: [u8; 6] = [0xff; 6];
const FOUR: u16 = 0x0800;
const SIX: u16 = 0x86dd;
const ARP: u16 = 0x0806;

#[test]
fn only_what_a_group_lets_begin_passes() {
    let net = Bridged::new(&["br0", "br0", "br0"]);
    let [a, b, c] = [&net.all[0], &net.all[1], &net.all[2]];
    assert!(b.tcp(a, 22) && b.tcp(a, 23) && b.ping(a.four) && b.ping(a.six));

    let rules = [
        rule("INBOUND", "TCP", "<RANGE>22</RANGE>"),
        rule("INBOUND", "UDP", &format!("<RANGE>50:60</RANGE><IP>{}</IP>", b.four)),
        rule("INBOUND", "ICMPV6", "<ICMPV6_TYPE>128</ICMPV6_TYPE>"),
        rule("OUTBOUND", "TCP", "<RANGE>80:81</RANGE>"),
    ]
    .concat();
    apply(&[&net.fence(a, GROUP, &rules)]);
    // To it: by v4 and v6, from two guests that are not guarded.
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
fn guests_of_one_bridge_must_both_let_it_pass() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let sends = rule("OUTBOUND", "TCP", "<RANGE>80:90</RANGE>");
    let gets = [rule("INBOUND", "TCP", "<RANGE>85:99</RANGE>"), rule("OUTBOUND", "ALL", "")].concat();
    apply(&[&net.fence(a, GROUP, &sends), &net.fence(b, GROUP, &gets)]);
    assert!(a.tcp(b, 85) && a.tcp6(b, 90));
    assert!(!a.tcp(b, 80) && !a.tcp(b, 95) && !a.tcp6(b, 80) && !a.tcp6(b, 95));
    // Who may send everything gets nothing by that, and a group that says nothing lets nothing in.
    assert!(!b.tcp(a, 85) && !b.ping(a.four) && !b.udp(a, 85));
}

#[test]
fn networks_with_the_same_addresses_know_their_own_connections_only() {
    let net = Bridged::new(&["br0", "br0", "br1", "br1"]);
    let [a, b, c, d] = [&net.all[0], &net.all[1], &net.all[2], &net.all[3]];
    assert_eq!((a.four, b.mac), (c.four, d.mac));
    let out = rule("OUTBOUND", "ALL", "");
    apply(&[&net.fence(a, GROUP, &out), &net.fence(c, GROUP, &out)]);
    let frame = |from: &Guest, to: &Guest, ports: (u16, u16), mark: &[u8]| {
        let packet = ipv4(from.four, to.four, 17, 1, 0, &udp(ports.0, ports.1, mark));
        ethernet(to.mac.0, from.mac, FOUR, &packet)
    };
    // The one has begun; what would be an answer in the other network is none there.
    assert!(arrives(a, &frame(a, b, (1000, 2000), b"begins"), b));
    assert!(!arrives(d, &frame(d, c, (2000, 1000), b"answers"), c));
    assert!(arrives(b, &frame(b, a, (2000, 1000), b"answers"), a));
    assert!(a.tcp(b, 80) && c.tcp(d, 80) && !b.tcp(a, 80) && !d.tcp(c, 80));

    // Two halves of one datagram, each in another network, are none.
    let text = [b'x'; 64];
    let whole = udp(3000, 4000, &text);
    let part = |from: &Guest, to: &Guest, fragment, bytes: &[u8]| {
        ethernet(to.mac.0, from.mac, FOUR, &ipv4(from.four, to.four, 17, 77, fragment, bytes))
    };
    let first = part(a, b, 0x2000, &whole[..32]);
    let last = part(c, d, 4, &whole[32..]);
    assert!(!arrives(a, &first, b), "it is kept until all parts are there");
    assert!(!arrives(c, &last, d));
    assert!(arrives(a, &part(a, b, 4, &whole[32..]), b));
}

#[test]
fn fragments_pass_as_the_datagrams_that_they_are_parts_of() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let big = |to: String| a.run("ping", &["-c", "1", "-W", "1", "-s", "4000", &to]);
    let rules = [rule("OUTBOUND", "ICMP", ""), rule("OUTBOUND", "ICMPV6", "")].concat();
    apply(&[&net.fence(a, &format!("{GROUP}{FILTERS}"), &rules)]);
    assert!(a.ping(b.four) && a.ping(b.six));
    assert!(big(b.four.to_string()) && big(b.six.to_string()));
    apply(&[&net.fence(a, &format!("{GROUP}{FILTERS}"), &rule("OUTBOUND", "TCP", ""))]);
    assert!(!big(b.four.to_string()) && !big(b.six.to_string()));
}

#[test]
fn a_guest_sends_from_its_own_addresses_only() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let other: Mac = "02:00:0a:00:00:ee".parse().unwrap();
    let foreign = (Ipv4Addr::new(10, 0, 0, 77), "fd00::77".parse::<Ipv6Addr>().unwrap());
    let nobody = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let dhcp = |from| ipv4(from, Ipv4Addr::BROADCAST, 17, 9, 0, &udp(68, 67, b"discover"));
    let mut long = arp(1, a.mac, a.four, b.four);
    long[4] = 8;
    let hidden = ipv6(
        a.six,
        all_nodes,
        60,
        &[&[58, 0, 1, 4, 0, 0, 0, 0], &neighbour(136, a.six, all_nodes, foreign.1)[40..]].concat(),
    );
    let cut = ipv6(a.six, all_nodes, 44, &[58, 0, 0, 1, 0, 0, 0, 9, 136, 0, 0, 0, 0x20, 0, 0, 0]);
    // What is sent, and whether it passes.
    let frames: Vec<(&str, Mac, u16, Vec<u8>, bool)> = vec![
        ("IPv4", a.mac, FOUR, ipv4(a.four, b.four, 253, 1, 0, &[0; 40]), true),
        ("IPv4 of another", a.mac, FOUR, ipv4(foreign.0, b.four, 253, 2, 0, &[0; 40]), false),
        ("a fragment of another", a.mac, FOUR, ipv4(foreign.0, b.four, 17, 3, 5, &[0; 40]), false),
        ("a MAC of another", other, FOUR, ipv4(a.four, b.four, 253, 4, 0, &[0; 40]), false),
        ("DHCP", a.mac, FOUR, dhcp(nobody.0), true),
        ("DHCP of another", a.mac, FOUR, dhcp(foreign.0), false),
        (
            "nobody's but no DHCP",
            a.mac,
            FOUR,
            ipv4(nobody.0, Ipv4Addr::BROADCAST, 17, 5, 0, &udp(68, 69, b"no")),
            false,
        ),
        ("ARP", a.mac, ARP, arp(1, a.mac, a.four, b.four), true),
        ("an ARP answer", a.mac, ARP, arp(2, a.mac, a.four, b.four), true),
        ("ARP of another", a.mac, ARP, arp(2, a.mac, foreign.0, b.four), false),
        ("ARP for another MAC", a.mac, ARP, arp(2, other, a.four, b.four), false),
        ("an ARP probe", a.mac, ARP, arp(1, a.mac, nobody.0, a.four), true),
        ("an ARP answer of nobody", a.mac, ARP, arp(2, a.mac, nobody.0, a.four), false),
        ("ARP with other lengths", a.mac, ARP, long, false),
        ("short ARP", a.mac, ARP, arp(1, a.mac, a.four, b.four)[..10].to_vec(), false),
        ("RARP", a.mac, 0x8035, arp(3, a.mac, nobody.0, nobody.0), true),
        ("RARP for another MAC", other, 0x8035, arp(3, other, nobody.0, nobody.0), false),
        ("IPv6", a.mac, SIX, ipv6(a.six, b.six, 253, &[0; 40]), true),
        ("IPv6 of another", a.mac, SIX, ipv6(foreign.1, b.six, 253, &[1; 40]), false),
        ("an advertisement", a.mac, SIX, neighbour(136, a.six, all_nodes, a.six), true),
        ("an advertisement of another", a.mac, SIX, neighbour(136, a.six, all_nodes, foreign.1), false),
        ("the same behind options", a.mac, SIX, hidden, false),
        ("the same in fragments", a.mac, SIX, cut, false),
        ("a solicitation", a.mac, SIX, neighbour(135, a.six, all_nodes, b.six), true),
        ("whether somebody has ours", a.mac, SIX, neighbour(135, nobody.1, all_nodes, a.six), true),
        ("whether somebody has another", a.mac, SIX, neighbour(135, nobody.1, all_nodes, foreign.1), false),
        ("IPv6 of nobody", a.mac, SIX, ipv6(nobody.1, b.six, 253, &[2; 40]), false),
        (
            "tagged",
            a.mac,
            0x8100,
            [&[0, 5, 8, 0], ipv4(foreign.0, b.four, 253, 6, 0, &[0; 40]).as_slice()].concat(),
            false,
        ),
        (
            "tagged twice",
            a.mac,
            0x88a8,
            [&[0, 5, 0x81, 0, 0, 6, 8, 0], ipv4(foreign.0, b.four, 253, 7, 0, &[0; 40]).as_slice()].concat(),
            false,
        ),
        (
            "PPPoE",
            a.mac,
            0x8864,
            [&[0x11, 0, 0, 1, 0, 62, 0, 0x21], ipv4(foreign.0, b.four, 253, 8, 0, &[0; 40]).as_slice()]
                .concat(),
            false,
        ),
        (
            "MPLS",
            a.mac,
            0x8847,
            [&[0, 0, 0x11, 64], ipv4(foreign.0, b.four, 253, 9, 0, &[0; 40]).as_slice()].concat(),
            false,
        ),
        (
            "SNAP",
            a.mac,
            68,
            [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0], ipv4(foreign.0, b.four, 253, 10, 0, &[0; 40]).as_slice()]
                .concat(),
            false,
        ),
    ];
    let sent = |mac: &Mac, kind: &u16, payload: &Vec<u8>| {
        // One that learning can't lead astray.
        arrives(a, &ethernet(ALL, *mac, *kind, payload), b)
    };
    for (what, mac, kind, payload, _) in frames.iter().filter(|frame| frame.0 != "the same in fragments") {
        assert!(sent(mac, kind, payload), "{what} arrives where nothing is guarded");
    }
    let open = [
        rule("INBOUND", "ALL", ""),
        rule("OUTBOUND", "ALL", "<IP>0.0.0.0</IP><SIZE>4294967296</SIZE>"),
        rule("OUTBOUND", "ALL", "<IP>fd00::</IP><SIZE>65536</SIZE>"),
    ]
    .concat();
    for nic in [FILTERS.to_owned(), format!("{FILTERS}{GROUP}")] {
        apply(&[&net.fence(a, &nic, &open)]);
        for (what, mac, kind, payload, passes) in &frames {
            assert_eq!(sent(mac, kind, payload), *passes, "{what} with {nic}");
        }
        assert!(a.ping(b.four) && a.ping(b.six) && b.ping(a.four) && b.ping(a.six));
        assert!(a.tcp(b, 80) && b.tcp6(a, 80));
    }
}

#[test]
fn nothing_carries_ip_around_the_groups() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let packet = |from: &Guest, to: &Guest| ipv4(from.four, to.four, 17, 1, 0, &udp(1, 2, &[0; 40]));
    let kinds: [(u16, &[u8]); 5] = [
        (0x8100, &[0, 5, 8, 0]),
        (0x88a8, &[0, 5, 0x81, 0, 0, 6, 8, 0]),
        (0x8864, &[0x11, 0, 0, 1, 0, 70, 0, 0x21]),
        (0x8847, &[0, 0, 0x11, 64]),
        (76, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
    ];
    let passes = |from: &Guest, to: &Guest| {
        kinds.map(|(kind, head)| {
            arrives(from, &ethernet(to.mac.0, from.mac, kind, &[head, &packet(from, to)].concat()), to)
        })
    };
    assert_eq!((passes(a, b), passes(b, a)), ([true; 5], [true; 5]));
    apply(&[&net.fence(a, GROUP, "")]);
    assert_eq!((passes(a, b), passes(b, a)), ([false; 5], [false; 5]));
    // Groups say nothing of the addresses that are sent from.
    apply(&[&net.fence(a, "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>", "")]);
    assert_eq!((passes(a, b), passes(b, a)), ([true; 5], [true; 5]));
}

#[test]
fn the_host_is_sent_what_the_groups_let_out() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    ip("addr add 10.0.0.254/24 dev br0");
    ip("addr add fd00::fe/64 dev br0 nodad");
    let host: Ipv4Addr = "10.0.0.254".parse().unwrap();
    let to_host = |port: u16| {
        let listener = std::net::TcpListener::bind((host, port)).unwrap();
        let at = std::net::SocketAddr::from((host, port));
        let wait = std::time::Duration::from_millis(400);
        let passes = a.within(|| std::net::TcpStream::connect_timeout(&at, wait).is_ok());
        drop(listener);
        passes
    };
    apply(&[&net.fence(a, GROUP, &rule("OUTBOUND", "TCP", "<RANGE>80</RANGE>"))]);
    assert!(to_host(80) && !to_host(81) && !a.ping(host) && b.ping(host));
    // What the host begins is its own; the answers are of a connection.
    let ping = |to: String| {
        std::process::Command::new("ping")
            .args(["-c", "1", "-W", "1", &to])
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(ping(a.four.to_string()) && ping(a.six.to_string()) && ping(b.four.to_string()));
    // To an address that no bridge forwards, the host gets a frame by the port itself.
    let reserved = [1, 0x80, 0xc2, 0, 0, 0x0e];
    let socket = std::net::UdpSocket::bind((host, 2000)).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let frame = |from: &Guest| {
        ethernet(reserved, from.mac, FOUR, &ipv4(from.four, host, 17, 1, 0, &udp(1, 2000, b"x")))
    };
    a.within(|| common::bridged::send("eth0", &frame(a)));
    assert!(socket.recv(&mut [0; 8]).is_err());
}

#[test]
fn a_bridge_that_hands_nothing_to_ip_lets_nothing_pass() {
    let net = Bridged::new(&["br0", "br0"]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let open = [rule("INBOUND", "UDP", ""), rule("OUTBOUND", "UDP", "")].concat();
    apply(&[&net.fence(a, GROUP, &open)]);
    // One way each, so that no answer is what is missing.
    let passes = |from: &Guest, to: &Guest| {
        let datagram = udp(1, 2, &[0; 40]);
        // Without a checksum, which IPv4 alone allows: such a one of IPv6 is of no connection.
        let four = ipv4(from.four, to.four, 17, 1, 0, &datagram);
        let six = icmpv6(135, from.six, to.six, &[0; 20]);
        [(FOUR, four), (SIX, six)]
            .map(|(kind, packet)| arrives(from, &ethernet(to.mac.0, from.mac, kind, &packet), to))
    };
    assert_eq!([passes(a, b), passes(b, a)], [[true, true]; 2]);
    ip("link set br0 type bridge nf_call_iptables 0");
    assert_eq!([passes(a, b), passes(b, a)], [[false, true]; 2]);
    ip("link set br0 type bridge nf_call_iptables 1 nf_call_ip6tables 0");
    assert_eq!([passes(a, b), passes(b, a)], [[true, false]; 2]);
}
