//! What is the operator's, or another network's, is refused by name and left as it is.

#![cfg(test)]

mod common;

use causeway_core::answer::Kind;
use causeway_core::names::VmId;
use causeway_vnm::root::{Outcome, Verb, server};
use common::{Host, document, ip, nic, request, vm};

fn assert_says(text: &str, words: &[&str]) {
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn the_operators_bridge_is_not_used_unless_listed() {
    let host = Host::new();
    ip("link add onebr.4 type bridge");
    ip("link set onebr.4 up");
    let text = host.refused(Verb::Pre, &vm(7, 4));
    assert_says(&text, &["NIC 0: bridge onebr.4 was not made by causeway", "list it"]);
    assert!(host.reservation(VmId(7)).is_none());

    host.list("up0\nonebr.4\n");
    host.done(Verb::Pre, &vm(7, 4));
    assert_eq!(host.link("up0.4")["master"], "onebr.4");
    assert!(host.link("onebr.4").get("ifalias").is_none(), "a bridge that we did not make is not marked");
    host.done(Verb::Clean, &vm(7, 4));
    assert_eq!(host.links(), ["onebr.4"], "our tunnel goes, the operator's bridge stays (W34)");
}

#[test]
fn the_operators_bridge_keeps_what_the_operator_plugged_in() {
    let host = Host::new();
    host.list("up0\nonebr.4\n");
    ip("link add onebr.4 type bridge");
    ip("link add op0 type veth peer name op1");
    ip("link set op0 master onebr.4");
    ip("addr add 192.0.2.1/24 dev onebr.4");
    host.done(Verb::Pre, &vm(7, 4));
    host.plug("one-7-0", "onebr.4");
    host.done(Verb::Pre, &vm(8, 4));
    host.done(Verb::Clean, &vm(8, 4));
    assert_eq!(host.link("up0.4")["master"], "onebr.4", "guest 7 runs");
    ip("link del one-7-0");
    host.done(Verb::Clean, &vm(7, 4));
    assert_eq!(host.links(), ["onebr.4", "op0", "op1"]);
    assert_eq!(host.link("op0")["master"], "onebr.4");
    assert!(ip("addr show onebr.4").contains("192.0.2.1"));
}

#[test]
fn what_stock_left_is_shared_and_not_removed() {
    let host = Host::new();
    for words in [
        "link add name onebr.4 type bridge",
        "link set onebr.4 up",
        "link add up0.4 mtu 1500 type vxlan id 4 group 239.0.0.4 ttl 16 dev up0",
        "link set up0.4 up",
        "link set up0.4 master onebr.4",
    ] {
        ip(words);
    }
    assert_eq!(host.done(Verb::Pre, &vm(7, 4)), [""; 0]);
    host.done(Verb::Clean, &vm(7, 4));
    assert_eq!(host.links(), ["onebr.4", "up0.4"]);
}

#[test]
fn an_alias_of_the_operators_takes_a_device_out_of_our_hands() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    ip("link set onebr.4 alias mine");
    ip("link set up0.4 alias mine");
    host.done(Verb::Clean, &vm(7, 4));
    assert_eq!(host.links(), ["onebr.4", "up0.4"]);
}

#[test]
fn a_bridge_with_an_address_stays() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    ip("addr add 192.0.2.1/24 dev onebr.4");
    let response = host.run(Verb::Clean, &vm(7, 4));
    assert_eq!(response.outcome, Outcome::Done);
    assert!(response.notes[0].contains("it has the address 192.0.2.1"), "{:?}", response.notes);
    assert_eq!(host.links(), ["onebr.4"]);
}

#[test]
fn anything_plugged_into_our_bridge_keeps_it() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    ip("link add onebr.4c type veth peer name inside");
    ip("link set onebr.4c master onebr.4");
    assert_eq!(host.done(Verb::Clean, &vm(7, 4)), [""; 0]);
    assert_eq!(host.links(), ["inside", "onebr.4", "onebr.4c", "up0.4"]);
}

#[test]
fn a_second_uplink_is_refused() {
    let host = Host::new();
    host.list("up0\nup1\n");
    ip("link add up1 type veth peer name far1");
    host.done(Verb::Pre, &vm(7, 4));
    // Equal VLAN_ID on another PHYDEV gives the same default bridge (W25).
    let other = "<PHYDEV>up1</PHYDEV>";
    let text = host.refused(Verb::Pre, &document(8, &nic(8, 0, 4, other)));
    assert_says(&text, &["NIC 0: bridge onebr.4 already leads out by up0.4", "up1.4"]);
    // In the document of one VM as well.
    let both = format!("{}{}", nic(9, 0, 4, ""), nic(9, 1, 4, other));
    assert_says(&host.refused(Verb::Pre, &document(9, &both)), &["NIC 1 and NIC 0", "two different things"]);
    // A hand that plugged a real device into our bridge.
    ip("link add link up0 name hw.5 type macvlan");
    host.done(Verb::Pre, &document(8, &nic(8, 0, 6, "")));
    ip("link set hw.5 master onebr.6");
    assert_says(&host.refused(Verb::Pre, &vm(10, 6)), &["onebr.6 already leads out by hw.5"]);
}

#[test]
fn a_taken_number_is_refused() {
    let host = Host::new();
    host.list("up0\nup1\n");
    ip("link add up1 type veth peer name far1");
    host.done(Verb::Pre, &vm(7, 4));
    let other = "<PHYDEV>up1</PHYDEV><BRIDGE>elsewhere</BRIDGE>";
    let taken = document(8, &nic(8, 0, 4, other));
    let mut dry = request(Verb::Pre, &taken);
    dry.dry_run = true;
    let words = ["NIC 0: VNI 4 with UDP port 8472 is taken", "by up0.4", "up1.4"];
    let Outcome::Failed(planned) = server::answer(&host.places, &dry).outcome else { panic!("planned") };
    assert_says(&planned.text, &words);
    // The kernel finds it out after the bridge is made, and the bridge is taken back.
    let (text, changes) = host.taken_back(Verb::Pre, &taken);
    assert_says(&text, &words);
    assert_eq!(changes.len(), 3, "create, mark, delete: {changes:?}");
    assert!(host.reservation(VmId(8)).is_none());
    // Another port is another network for the kernel.
    let port = format!("{other}<IP_LINK_CONF>dstport=4789</IP_LINK_CONF>");
    host.done(Verb::Pre, &document(8, &nic(8, 0, 4, &port)));
}

#[test]
fn two_bridges_for_one_tunnel_are_refused() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    let text = host.refused(Verb::Pre, &document(8, &nic(8, 0, 4, "<BRIDGE>other</BRIDGE>")));
    assert_says(&text, &["NIC 0: up0.4 is a port of onebr.4, not of other"]);
}

#[test]
fn a_tunnel_with_another_identity_is_refused() {
    let host = Host::new();
    host.done(Verb::Pre, &vm(7, 4));
    for (more, words) in [
        ("<VXLAN_MC>239.1.0.0</VXLAN_MC>", ["group 239.0.0.4", "group 239.1.0.4"]),
        ("<IP_LINK_CONF>dstport=4789</IP_LINK_CONF>", ["dstport 8472", "dstport 4789"]),
        ("<VXLAN_MODE>evpn</VXLAN_MODE>", ["group 239.0.0.4", "wants vni 4 dev up0 dstport"]),
        ("<IP_LINK_CONF>noudpcsum=</IP_LINK_CONF>", ["dstport 8472", "udpcsum false"]),
    ] {
        let text = host.refused(Verb::Pre, &document(8, &nic(8, 0, 4, more)));
        assert_says(&text, &words);
        assert_says(&text, &["NIC 0: up0.4 exists with"]);
    }
}

#[test]
fn names_that_something_else_bears_are_refused() {
    let host = Host::new();
    ip("link add up0.4 type veth peer name x0");
    assert_says(&host.refused(Verb::Pre, &vm(7, 4)), &["up0.4 is a virtual device", "not a vxlan device"]);
    ip("link add onebr.5 type veth peer name x1");
    assert_says(&host.refused(Verb::Pre, &vm(7, 5)), &["onebr.5 is a virtual device", "not a bridge"]);
    ip("link add up0.6 type vxlan id 6 group 239.0.0.6 ttl 16 dev up0 dstport 8472");
    assert_says(&host.refused(Verb::Pre, &vm(7, 6)), &["NIC 0: up0.6 was not made by causeway"]);
    host.done(Verb::Clean, &vm(7, 4));
    host.done(Verb::Clean, &vm(7, 6));
    assert_eq!(host.links(), ["onebr.5", "up0.4", "up0.6", "x0", "x1"]);
}

#[test]
fn uplinks_must_be_listed_and_there() {
    let host = Host::new();
    let text = host.refused(Verb::Pre, &document(7, &nic(7, 0, 4, "<PHYDEV>far0</PHYDEV>")));
    assert_says(&text, &["NIC 0: uplink far0 is not listed in /etc/causeway/uplinks", "add a line \"far0\""]);
    host.list("up0\ngone0\n");
    let text = host.refused(Verb::Pre, &document(7, &nic(7, 0, 4, "<PHYDEV>gone0</PHYDEV>")));
    assert_says(&text, &["NIC 0: uplink gone0 does not exist on this host"]);
    std::fs::remove_file(&host.places.uplinks).unwrap();
    let text = host.refused(Verb::Pre, &vm(7, 4));
    assert_says(&text, &["NIC 0: ", "uplinks does not exist", "as root, create it"]);
    assert_eq!(host.done(Verb::Clean, &vm(7, 4)), [""; 0], "nothing to take away needs no list");
    std::fs::write(&host.places.uplinks, "up0\n").unwrap();
    std::os::unix::fs::chown(&host.places.uplinks, Some(9999), None).unwrap();
    assert_says(&host.refused(Verb::Pre, &vm(7, 4)), &["uplinks is not trusted", "owner is not root"]);
}

#[test]
fn the_kernels_refusal_is_taken_back_and_told() {
    let host = Host::new();
    std::fs::write("/proc/sys/net/ipv4/igmp_max_memberships", "1").unwrap();
    ip("link add m0 up type vxlan id 99 group 239.9.9.9 dev up0 dstport 8472");
    let response = host.run(Verb::Pre, &vm(7, 4));
    let Outcome::Failed(failure) = response.outcome else {
        panic!("the kernel took it: {:?}", host.links());
    };
    assert_eq!(failure.kind, Kind::Refused);
    assert_says(&failure.text, &["create vxlan up0.4", "igmp_max_memberships"]);
    assert_eq!(host.links(), ["m0"], "the bridge that was made first is taken back");
    assert!(host.reservation(VmId(7)).is_none());
    assert_eq!(response.changes.len(), 3, "create, mark, delete: {:?}", response.changes);
}
