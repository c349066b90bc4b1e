//! Guards on a real Open vSwitch, with real frames: what may pass does, and nothing else.

#![cfg(test)]

mod common;

use std::time::{Duration, Instant};

use causeway_core::document::VmDocument;
use causeway_core::names::VmId;
use causeway_vnm::desired::guard::Guard;
use causeway_vnm::fabric::ovs::flows::{self, Other, Seat};
use causeway_vnm::fabric::ovs::openflow::{FlowChange, Openflow};
use common::guests::{Guest, Guests};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A rule of group 5.
fn rule(direction: &str, protocol: &str, more: &str) -> String {
    format!(
        "<TEMPLATE><SECURITY_GROUP_RULE><SECURITY_GROUP_ID>5</SECURITY_GROUP_ID><RULE_TYPE>{direction}</RULE_TYPE>\
         <PROTOCOL>{protocol}</PROTOCOL>{more}</SECURITY_GROUP_RULE></TEMPLATE>"
    )
}

fn guard(guest: &Guest, nic: &str, rules: &str) -> Guard {
    let document = format!(
        "<VM><ID>{}</ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID><VN_MAD>ovswitch</VN_MAD><IP>{}</IP><IP6>{}</IP6>{nic}</NIC>\
         </TEMPLATE>{rules}</VM>",
        guest.number, guest.four, guest.six
    );
    let vm = VmDocument::parse(document.as_bytes()).unwrap();
    Guard::of(&vm.nics[0], &vm, &guest.tap.parse().unwrap(), guest.mac).unwrap()
}

fn seat(guest: &Guest) -> Seat {
    Seat { vm: VmId(guest.number), port: guest.port, zone: guest.number as u16, vlan: guest.vlan }
}

/// Guards the guests so.
fn apply(net: &Guests, guards: &[(&Guest, Guard)]) {
    let mut changes = vec![FlowChange::RemoveAll(flows::ours())];
    let seats: Vec<Seat> = guards.iter().map(|(guest, _)| seat(guest)).collect();
    for ((_, guard), seat) in guards.iter().zip(&seats) {
        changes.extend(flows::flows(seat, guard, true).into_iter().map(FlowChange::Put));
    }
    let guarded: Vec<&Seat> = guards
        .iter()
        .zip(&seats)
        .filter(|((_, guard), _)| guard.is_stateful())
        .map(|(_, seat)| seat)
        .collect();
    let ours: Vec<u32> = seats.iter().map(|seat| seat.port).collect();
    let others = net.all.iter().filter(|guest| !ours.contains(&guest.port));
    let others: Vec<Other> =
        others.filter_map(|guest| Some(Other { port: guest.port, vlan: guest.vlan? })).collect();
    changes.extend(flows::shared(&guarded, &others).into_iter().map(FlowChange::Put));
    Openflow::connect(net.switch.dir(), "br0", soon()).unwrap().change(&changes).unwrap();
    for (guest, guard) in guards {
        let flood = if guard.is_stateful() { "no-flood" } else { "flood" };
        net.switch.tool("ovs-ofctl", &["mod-port", "br0", &guest.tap, flood]);
        if guard.is_stateful() {
            let vlan = guest.vlan.unwrap_or(0).to_string();
            let mac = guest.mac.to_string();
            net.switch.tool("ovs-appctl", &["-t", "ovs-vswitchd", "fdb/add", "br0", &guest.tap, &vlan, &mac]);
        }
    }
}

const GROUP: &str = "<SECURITY_GROUPS>5</SECURITY_GROUPS>";

#[test]
fn only_what_a_group_lets_begin_passes() {
    let net = Guests::new(&[Some(50), Some(50), Some(50)]);
    let [a, b, c] = [&net.all[0], &net.all[1], &net.all[2]];
    let open = || (b, guard(b, "", ""));
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
    assert!(answered(&["-I", "10.0.0.77"], four.clone()) && answered(&["-I", "fd00::77"], six.clone()));
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
