//! Who is guarded hears nothing, and is not heard, unless flows let it: with real frames on a real Open vSwitch.

#![cfg(test)]

mod common;

use causeway_vnm::desired::Vlans;
use causeway_vnm::fabric::ovs::{Change, Surroundings, difference};
use common::guests::{GROUP, Guest, Guests, desired, guard, rule};
use common::switch::until;
use common::wire::{STRANGE, arrives, frame, udp};

const MANY: [u8; 6] = [0xff; 6];

/// Lets in UDP to port 50, and everything out.
fn some() -> String {
    [rule("INBOUND", "UDP", "<RANGE>50</RANGE>"), rule("OUTBOUND", "ALL", "")].concat()
}

fn guarded(net: &Guests, guest: &Guest) -> Vec<Change> {
    net.bring(&desired(guest, guard(guest, GROUP, &some())))
}

/// How many of the frames that are marked come from one guest to another.
fn passes(from: &Guest, to: &Guest, frames: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> usize {
    let mark = b"a mark that nobody else makes";
    arrives(from, to, &frames(mark), mark)
}

#[test]
fn what_is_for_others_never_comes_to_a_guarded_guest() {
    let net = Guests::new(&[Some(50), Some(50), Some(60), None]);
    let [a, b, c, d] = [&net.all[0], &net.all[1], &net.all[2], &net.all[3]];
    guarded(&net, a);
    // Others of its network reach it by its own address and by that of all, nobody by an address that is not its own.
    let strange = |from: &Guest, to: [u8; 6], tags: &[u16]| {
        passes(from, a, |mark| vec![frame(to, from.mac, tags, STRANGE, mark)])
    };
    let none = |from: &Guest, all: &[&[u16]]| {
        let frames = |mark: &[u8]| {
            let both = |tags: &&[u16]| [MANY, a.mac.0].map(|to| frame(to, from.mac, tags, STRANGE, mark));
            all.iter().flat_map(both).collect()
        };
        assert_eq!(passes(from, a, frames), 0, "from {}", from.tap);
    };
    assert_eq!((strange(b, a.mac.0, &[]), strange(b, MANY, &[])), (1, 1));
    assert_eq!(strange(b, [2, 9, 9, 9, 9, 9], &[]), 0);
    // An access port's frames bear no tag, whatever it says, but a priority.
    assert_eq!((strange(b, a.mac.0, &[0x6000]), strange(b, MANY, &[0x6000])), (1, 1));
    none(b, &[&[50], &[60], &[4095], &[0x6000, 50], &[50, 50]]);
    // From another VLAN.
    none(c, &[&[], &[50], &[60], &[60, 50], &[4095]]);
    // A port of all VLANs is in this one with its tag, and with nothing below it.
    assert_eq!((strange(d, a.mac.0, &[50]), strange(d, MANY, &[50])), (1, 1));
    none(d, &[&[], &[60], &[4095], &[60, 50], &[50, 60], &[50, 50], &[50, 60, 70]]);
    // A list of VLANs: with this one, and without it; and a port that has it as its own.
    let set = |settings: &[&str]| {
        net.switch.tool("ovs-vsctl", &[&["set", "port", d.tap.as_str()][..], settings].concat());
    };
    set(&["vlan_mode=trunk", "trunks=60,70"]);
    none(d, &[&[50], &[]]);
    set(&["vlan_mode=native-untagged", "tag=50"]);
    assert_eq!((strange(d, MANY, &[]), strange(d, a.mac.0, &[]), strange(d, a.mac.0, &[60])), (1, 1, 0));
    set(&["vlan_mode=dot1q-tunnel", "tag=50", "trunks=[]"]);
    assert_eq!((strange(d, MANY, &[]), strange(d, a.mac.0, &[]), strange(d, a.mac.0, &[50])), (1, 1, 0));
}

#[test]
fn a_guarded_guest_is_heard_in_its_network_only() {
    let net = Guests::new(&[Some(50), Some(50), Some(60), None]);
    let [a, b, c, d] = [&net.all[0], &net.all[1], &net.all[2], &net.all[3]];
    guarded(&net, a);
    guarded(&net, c);
    let strange = |to: &Guest, at: [u8; 6], tags: &[u16]| {
        passes(a, to, |mark| vec![frame(at, a.mac, tags, STRANGE, mark)])
    };
    assert_eq!((strange(b, b.mac.0, &[]), strange(b, MANY, &[]), strange(b, MANY, &[0x2000])), (1, 1, 1));
    assert_eq!((strange(c, c.mac.0, &[]), strange(c, MANY, &[])), (0, 0));
    assert_eq!((strange(d, MANY, &[]), strange(a, MANY, &[])), (1, 1), "once: what it sent itself");
    for to in [b, c, d] {
        let frames = |mark: &[u8]| {
            let tags = [&[50][..], &[60], &[4095], &[0x2000, 60], &[60, 60]];
            let both = |tags: &&[u16]| [MANY, to.mac.0].map(|at| frame(at, a.mac, tags, STRANGE, mark));
            tags.iter().flat_map(both).collect()
        };
        assert_eq!(passes(a, to, frames), 0, "to {}", to.tap);
    }
    // What is for the next bridge alone goes no further, and comes to nobody: not even to another guarded guest.
    let mut near = desired(d, guard(d, GROUP, &some()));
    near.seats[0].vlans = Vlans::Access(50);
    net.bring(&near);
    assert_eq!(strange(d, MANY, &[]), 1);
    for to in [b, d] {
        assert_eq!(strange(to, [1, 0x80, 0xc2, 0, 0, 0], &[]), 0);
    }
    // Nor from an address that is not its own: connections are known by those of IP.
    let other = b.mac;
    assert_eq!(passes(a, b, |mark| vec![frame(MANY, other, &[], STRANGE, mark)]), 0);
}

/// The switch forgets all flows when it restarts, and begins to do what it does by itself.
#[test]
fn a_restart_of_the_switch_opens_nobody() {
    let mut net = Guests::new(&[Some(50), Some(50), Some(50), None]);
    for guest in [0, 1] {
        guarded(&net, &net.all[guest]);
    }
    let [a, b, c, d]: [Guest; 4] = std::mem::take(&mut net.all).try_into().ok().unwrap();
    until("they find each other", || c.udp(&a, 50) && b.udp(&a, 50));
    assert!(!c.udp(&a, 51) && a.udp(&c, 51));

    net.switch.kill_switch();
    net.switch.start_switch();
    until("the switch serves again", || hears(&d, &c));
    let frames = |from: &Guest, to: &Guest, mark: &[u8]| {
        let at =
            |to: [u8; 6], tags: &[u16]| frame(to, from.mac, tags, 0x0800, &udp(from.four, a.four, 50, mark));
        vec![at(MANY, &[]), at(to.mac.0, &[]), at(MANY, &[50]), at(to.mac.0, &[50]), at(MANY, &[60])]
    };
    for (from, to) in [(&c, &a), (&d, &a), (&b, &a), (&a, &b), (&a, &c), (&a, &d)] {
        let heard = passes(from, to, |mark| frames(from, to, mark));
        assert_eq!(heard, 0, "from {} to {}", from.tap, to.tap);
    }
    // The number that no VLAN has is no way from one closed port to another either.
    let reserved = |from: &Guest, mark: &[u8]| vec![frame(MANY, from.mac, &[4095], STRANGE, mark)];
    assert_eq!(
        (passes(&a, &b, |mark| reserved(&a, mark)), passes(&a, &c, |mark| reserved(&a, mark))),
        (0, 0)
    );

    guarded(&net, &a);
    guarded(&net, &b);
    until("they find each other", || c.udp(&a, 50) && b.udp(&a, 50));
    assert!(!c.udp(&a, 51) && b.udp(&a, 50) && a.udp(&c, 51));
}

fn hears(to: &Guest, from: &Guest) -> bool {
    passes(from, to, |mark| vec![frame(MANY, from.mac, &[], STRANGE, mark)]) > 0
}

/// Somebody takes all flows away.
#[test]
fn without_its_flows_a_guest_is_cut_off() {
    let net = Guests::new(&[Some(50), Some(50)]);
    let [a, b] = [&net.all[0], &net.all[1]];
    guarded(&net, a);
    until("they find each other", || b.udp(a, 50) && a.ping(b.four));
    net.switch.tool("ovs-ofctl", &["del-flows", "br0"]);
    net.switch.tool("ovs-ofctl", &["add-flow", "br0", "priority=0,actions=NORMAL"]);
    assert!(!b.udp(a, 50) && !a.ping(b.four) && !b.ping(a.four));
    // Its row is as it was: only flows are put back.
    let changes = guarded(&net, a);
    assert!(matches!(&changes[..], [Change::Flows { .. }]), "{changes:?}");
    until("they find each other", || b.udp(a, 50) && a.ping(b.four));
}

#[test]
fn filters_hold_on_a_port_of_several_vlans() {
    let net = Guests::new(&[None, Some(50), Some(60), Some(70)]);
    let [a, b, c, d] = [&net.all[0], &net.all[1], &net.all[2], &net.all[3]];
    let filters =
        "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING><FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>";
    let mut state = desired(a, guard(a, filters, ""));
    state.seats[0].vlans = Vlans::Trunk { untagged: Some(50), tagged: Some([60].into()) };
    net.bring(&state);
    let from_it = |to: &Guest, tags: &[u16], mac, ip| {
        passes(a, to, |mark| vec![frame(MANY, mac, tags, 0x0800, &udp(ip, to.four, 9, mark))])
    };
    assert_eq!((from_it(b, &[], a.mac, a.four), from_it(c, &[60], a.mac, a.four)), (1, 1));
    assert_eq!((from_it(c, &[], a.mac, a.four), from_it(b, &[60], a.mac, a.four)), (0, 0));
    assert_eq!((from_it(d, &[70], a.mac, a.four), from_it(d, &[], a.mac, a.four)), (0, 0));
    for (mac, ip) in [(b.mac, a.four), (a.mac, b.four)] {
        assert_eq!((from_it(b, &[], mac, ip), from_it(c, &[60], mac, ip)), (0, 0));
    }
    let to_it =
        |from: &Guest, to: [u8; 6]| passes(from, a, |mark| vec![frame(to, from.mac, &[], STRANGE, mark)]);
    assert_eq!((to_it(b, MANY), to_it(c, MANY), to_it(d, MANY)), (1, 1, 0));
    assert_eq!((to_it(b, a.mac.0), to_it(c, a.mac.0), to_it(d, a.mac.0)), (1, 1, 0));
    // Rules know connections of one network only.
    state.guards = vec![guard(a, GROUP, "")];
    let observed = net.observe(&state);
    let conflict = difference(&state, &observed, &Surroundings::default()).unwrap_err().to_string();
    assert!(conflict.contains("NIC 0") && conflict.contains("VLAN_TAGGED_ID"), "{conflict}");
}

/// A guest that only its addresses of IP are asked of may have several of Ethernet.
#[test]
fn a_guest_with_several_addresses_is_found_by_each() {
    let net = Guests::new(&[Some(50), Some(50), Some(50)]);
    let [a, b, c] = [&net.all[0], &net.all[1], &net.all[2]];
    net.bring(&desired(a, guard(a, "<FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>", "")));
    guarded(&net, c);
    let inner = [2, 0, 10, 7, 7, 7];
    a.sends(&[frame(MANY, causeway_core::names::Mac(inner), &[], STRANGE, b"it is here")]);
    for from in [b, c] {
        let heard = passes(from, a, |mark| vec![frame(inner, from.mac, &[], STRANGE, mark)]);
        assert_eq!(heard, 1, "{}", from.tap);
    }
    assert_eq!(passes(b, c, |mark| vec![frame(inner, b.mac, &[], STRANGE, mark)]), 0);
    let spoofed = |mark: &[u8]| vec![frame(MANY, a.mac, &[], 0x0800, &udp(b.four, c.four, 50, mark))];
    assert_eq!(passes(a, b, spoofed), 0);
    assert_eq!(passes(a, b, |mark| vec![frame(MANY, a.mac, &[], 0x0800, &udp(a.four, b.four, 9, mark))]), 1);
}

/// The guest's own tags, within one of ours.
#[test]
fn filters_hold_below_an_outer_tag() {
    let net = Guests::new(&[None, None, Some(70), Some(50)]);
    let [a, b, c, d] = [&net.all[0], &net.all[1], &net.all[2], &net.all[3]];
    let filters =
        "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING><FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>";
    for guest in [a, b] {
        let mut state = desired(guest, guard(guest, filters, ""));
        let (inner, ethertype) = ([5, 6].into(), "802.1q".to_owned());
        state.seats[0].vlans = Vlans::Tunnel { outer: 70, inner, ethertype };
        net.bring(&state);
    }
    let from = |from: &Guest, to: &Guest, tags: &[u16], ip| {
        passes(from, to, |mark| vec![frame(MANY, from.mac, tags, 0x0800, &udp(ip, to.four, 9, mark))])
    };
    assert_eq!((from(a, b, &[5], a.four), from(a, b, &[6], a.four)), (1, 1));
    assert_eq!((from(a, b, &[5], b.four), from(a, b, &[7], a.four), from(a, b, &[], a.four)), (0, 0, 0));
    assert_eq!((from(a, c, &[5], a.four), from(a, d, &[5], a.four), from(c, a, &[], c.four)), (0, 0, 0));
    // Whoever has all VLANs tags twice.
    net.switch.tool("ovs-vsctl", &["clear", "port", &d.tap, "tag"]);
    assert_eq!(
        (from(d, a, &[70, 5], d.four), from(d, a, &[71, 5], d.four), from(a, d, &[6], a.four)),
        (1, 0, 1)
    );
}

/// Reports of listeners belong to no connection; without them a switch that looks for listeners cuts IPv6 off.
#[test]
fn listeners_are_heard() {
    let net = Guests::new(&[None, None]);
    let [a, b] = [&net.all[0], &net.all[1]];
    let report = |mark: &[u8]| {
        let mut ip = vec![0x60, 0, 0, 0, 0, u8::try_from(mark.len() + 8).unwrap(), 58, 1];
        ip.extend(a.six.octets());
        ip.extend("ff02::16".parse::<std::net::Ipv6Addr>().unwrap().octets());
        ip.extend([143, 0, 0, 0, 0, 0, 0, 0]);
        ip.extend(mark);
        vec![frame([0x33, 0x33, 0, 0, 0, 0x16], a.mac, &[], 0x86dd, &ip)]
    };
    guarded(&net, a);
    assert_eq!(passes(a, b, report), 1);
    net.bring(&desired(a, guard(a, GROUP, &rule("OUTBOUND", "ICMPV6", "<ICMPV6_TYPE>128</ICMPV6_TYPE>"))));
    assert_eq!(passes(a, b, report), 0);
}

/// `update_nic` and `update_sg` while the guest runs: another VLAN, no guard, and one again.
#[test]
fn a_guest_changes_its_network_and_its_guard() {
    let net = Guests::new(&[Some(50), Some(50), Some(60)]);
    let [a, b, c] = [&net.all[0], &net.all[1], &net.all[2]];
    let mut state = desired(a, guard(a, GROUP, &some()));
    net.bring(&state);
    until("it is in the first network", || b.udp(a, 50));
    assert!(!c.udp(a, 50) && !b.udp(a, 51));
    state.seats[0].vlans = Vlans::Access(60);
    net.bring(&state);
    until("it is in the second network", || c.udp(a, 50));
    assert!(!b.udp(a, 50) && !c.udp(a, 51));
    let open = guard(a, "", "");
    state.guards = vec![open];
    net.bring(&state);
    until("it is open", || c.udp(a, 51));
    assert!(!b.udp(a, 50) && !b.udp(a, 51));
    assert_eq!(net.switch.tool("ovs-vsctl", &["list-ports", "br0"]).lines().count(), 3, "the patch has gone");
    let flows = net.switch.tool("ovs-ofctl", &["--no-stats", "dump-flows", "br0"]);
    assert_eq!(flows.trim(), "priority=0 actions=NORMAL");
    state.guards = vec![guard(a, GROUP, &some())];
    net.bring(&state);
    until("it is guarded again", || c.udp(a, 50));
    assert!(!c.udp(a, 51) && !b.udp(a, 50));
}
