//! `reconcile`: after a switch, a firewall or a network has forgotten all, everything is as it was reserved, and nothing more is there.

#![cfg(test)]

mod common;

use std::process::Command;

use causeway_core::names::VmId;
use causeway_vnm::desired::Settings;
use causeway_vnm::fabric::ovs;
use causeway_vnm::root::{Outcome, Reconcile, Verb, server};
use common::bridged::{GROUP, enter, guest, rule};
use common::guests::Guest;
use common::switch::{Switch, until};
use common::{Host, document, ip, nic};

fn reconcile(host: &Host, dry_run: bool) -> Vec<String> {
    let ask = Reconcile { reconcile: "test-1".parse().unwrap(), settings: Settings::default(), dry_run };
    let response = server::reconcile(&host.places, &ask);
    assert_eq!((response.outcome, response.notes), (Outcome::Done, vec![]));
    response.changes
}

fn vm(number: u32, more: &str, rules: &str) -> String {
    let addresses = format!("<MAC>02:00:0a:00:00:{number:02x}</MAC><IP>10.0.0.{number}</IP>");
    let place = "<VN_MAD>fw</VN_MAD><PHYDEV/><BRIDGE>br0</BRIDGE>";
    document(number, &format!("{}{rules}", nic(number, 0, 0, &format!("{more}{addresses}{place}"))))
}

fn nft(words: &[&str]) -> String {
    let out = Command::new("nft").args(words).output().unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn rules_that_somebody_flushed_are_back() {
    enter();
    let host = Host::here();
    let guarded = vm(1, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>"));
    host.done(Verb::Pre, &vm(2, "", ""));
    let b = guest("br0", 2, 2);
    host.done(Verb::Pre, &guarded);
    let a = guest("br0", 1, 1);
    until("the port is up", || b.tcp(&a, 22));
    let before = nft(&["list", "ruleset"]);
    assert_eq!(reconcile(&host, false), [""; 0], "all is there");
    nft(&["flush", "ruleset"]);
    assert!(b.tcp(&a, 23), "so does a firewall's restart");
    let told = reconcile(&host, true);
    assert_eq!((told.len(), nft(&["list", "ruleset"])), (1, String::new()), "{told:?}");
    assert_eq!(reconcile(&host, false), told);
    assert_eq!(nft(&["list", "ruleset"]), before);
    assert!(b.tcp(&a, 22) && !b.tcp(&a, 23));
}

#[test]
fn devices_that_went_are_back_and_strays_go() {
    enter();
    let host = Host::here();
    let tunnelled = document(7, &nic(7, 0, 4, ""));
    host.done(Verb::Pre, &tunnelled);
    ip("link del up0.4");
    assert_eq!(
        reconcile(&host, false).first().unwrap(),
        "create vxlan up0.4 vni 4 dev up0 group 239.0.0.4 dstport 8472 mtu 1500 in onebr.4"
    );
    assert_eq!(host.links(), ["onebr.4", "up0.4"]);
    // A network whose reservation was lost, and one of the operator's.
    host.done(Verb::Pre, &document(8, &nic(8, 0, 5, "")));
    std::fs::remove_file(host.places.reservations.join("8.json")).unwrap();
    ip("link add mine type bridge");
    assert_eq!(reconcile(&host, true), ["delete up0.5", "delete onebr.5"]);
    assert_eq!(reconcile(&host, false), ["delete up0.5", "delete onebr.5"]);
    assert_eq!(host.links(), ["mine", "onebr.4", "up0.4"]);
    assert!(host.reservation(VmId(7)).is_some());
    assert_eq!(reconcile(&host, false), [""; 0]);
    // Its guest was to come more than an hour ago.
    host.age(7, 4000);
    assert_eq!(reconcile(&host, false), ["delete up0.4", "delete onebr.4"]);
    assert!(host.reservation(VmId(7)).is_none());
}

#[test]
fn a_switch_that_has_forgotten_its_flows_gets_them_back_and_loses_strays() {
    enter();
    let mut switch = Switch::start();
    let mut host = Host::here();
    host.places.switch = ovs::Places { database: switch.database(), run: switch.dir().to_owned() };
    let place = "<VN_MAD>ovswitch</VN_MAD><BRIDGE_TYPE>openvswitch</BRIDGE_TYPE><OVS_BRIDGE_CONF>datapath_type=netdev</OVS_BRIDGE_CONF>";
    let vm = |number, more: &str| {
        let more = format!("{more}{place}");
        vm(number, &more, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>")).replace("<VN_MAD>fw</VN_MAD>", "")
    };
    let comes = |number, document: &str| {
        host.done(Verb::Pre, document);
        let guest = Guest::device(number, Some(50));
        switch.tool("ovs-vsctl", &["--may-exist", "add-port", "br0", &guest.tap]);
        host.done(Verb::Post, document);
        guest
    };
    let b = comes(2, &vm(2, ""));
    let a = comes(1, &vm(1, GROUP));
    until("the port is up", || b.tcp(&a, 22));
    assert_eq!(reconcile(&host, false), [""; 0], "all is there");
    // A guest that never came, and whose reservation was lost.
    host.done(Verb::Pre, &vm(3, GROUP));
    std::fs::remove_file(host.places.reservations.join("3.json")).unwrap();
    switch.kill_switch();
    switch.start_switch();
    let bridge = switch.dir().join("br0.mgmt");
    until("the switch is back", || std::os::unix::net::UnixStream::connect(&bridge).is_ok());
    assert!(!b.tcp(&a, 22), "closed");
    assert!(!reconcile(&host, false).is_empty());
    assert!(!switch.tool("ovs-vsctl", &["list-ports", "br0"]).contains("one-3-0"));
    until("the guests hear each other", || b.tcp(&a, 22));
    assert!(!b.tcp(&a, 23));
    assert_eq!(reconcile(&host, false), [""; 0]);
    // libvirt makes the port anew when a guest is stopped and started behind our back.
    switch.tool("ovs-vsctl", &["del-port", "br0", "one-1-0", "--", "add-port", "br0", "one-1-0"]);
    assert!(!reconcile(&host, false).is_empty());
    until("the guests hear each other", || b.tcp(&a, 22));
    assert!(!b.tcp(&a, 23));
}

#[test]
fn rules_of_a_guest_that_is_gone_go_and_those_of_one_that_is_here_stay() {
    enter();
    let host = Host::here();
    for number in [1, 2] {
        host.done(Verb::Pre, &vm(number, GROUP, &rule("INBOUND", "TCP", "<RANGE>22</RANGE>")));
        guest("br0", number, u8::try_from(number).unwrap());
        std::fs::remove_file(host.places.reservations.join(format!("{number}.json"))).unwrap();
    }
    ip("link del one-1-0");
    reconcile(&host, false);
    let left = nft(&["list", "ruleset"]);
    assert!(left.contains("one-2-0") && !left.contains("one-1-0"), "{left}");
    let numbers = host.places.reservations.join("numbers");
    assert_eq!(std::fs::read_dir(numbers).unwrap().count(), 1, "the one that is here goes by its number");
}
