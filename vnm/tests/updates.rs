//! `update_nic` and the drivers that plug their uplink in, on the real kernel.

#![cfg(test)]

mod common;

use causeway_core::names::VmId;
use causeway_vnm::root::{Outcome, Request, Verb, server};
use common::{Host, dies_before, document, ip, nic, request};

/// NIC 0 of VM 7 in network 3.
fn vm(driver: &str, more: &str) -> String {
    let more = format!("{more}<VN_MAD>{driver}</VN_MAD><NETWORK_ID>3</NETWORK_ID><BRIDGE>net3</BRIDGE>");
    document(7, &nic(7, 0, 4, &more))
}

fn update(host: &Host, document: &str) -> causeway_vnm::root::Response {
    let args = vec!["7f6a3a3e-0000-0000-0000-000000000000".to_owned(), "3".to_owned()];
    server::answer(&host.places, &Request { args, ..request(Verb::UpdateNic, document) })
}

#[test]
fn a_network_gets_another_number_under_its_guests() {
    let host = Host::new();
    host.done(Verb::Pre, &vm("vxlan", ""));
    host.plug("one-7-0", "net3");
    let response = update(&host, &vm("vxlan", "<VLAN_ID>5</VLAN_ID>"));
    assert_eq!(response.outcome, Outcome::Done);
    assert_eq!(response.changes[0], "delete up0.4");
    assert_eq!(host.links(), ["net3", "one-7-0", "up0.5"]);
    assert_eq!(host.link("up0.5")["master"], "net3");
    assert_eq!(update(&host, &vm("vxlan", "<VLAN_ID>5</VLAN_ID>")).changes, [""; 0], "again");
    ip("link del one-7-0");
    host.done(Verb::Clean, &vm("vxlan", "<VLAN_ID>5</VLAN_ID>"));
    assert_eq!(host.links(), [""; 0]);
    host.assert_no_trace();
}

#[test]
fn the_mtu_of_a_network_changes_with_all_its_guests() {
    let host = Host::new();
    host.done(Verb::Pre, &vm("vxlan", ""));
    host.done(Verb::Pre, &document(8, &nic(8, 0, 4, "<BRIDGE>net3</BRIDGE>")));
    assert_eq!(update(&host, &vm("vxlan", "<MTU>1400</MTU>")).outcome, Outcome::Done);
    assert_eq!(host.link("up0.4")["mtu"], 1400);
}

#[test]
fn a_number_that_is_taken_leaves_the_old_one() {
    let host = Host::new();
    host.done(Verb::Pre, &vm("vxlan", ""));
    ip("link add other type vxlan id 5 dstport 8472 group 239.0.0.5 dev up0");
    let before = host.snapshot();
    let response = update(&host, &vm("vxlan", "<VLAN_ID>5</VLAN_ID>"));
    assert!(matches!(response.outcome, Outcome::Failed(_)), "{response:?}");
    common::assert_same(&host.snapshot(), &before);
    assert_eq!(host.reservation(VmId(7)).unwrap()["nics"]["0"]["tunnel"]["name"], "up0.4");
}

#[test]
fn what_stock_made_is_not_joined_to_what_is_wanted_now() {
    let host = Host::new();
    ip("link add net3 type bridge");
    ip("link add up0.4 mtu 1500 type vxlan id 4 group 239.0.0.4 ttl 16 dev up0");
    ip("link set up0.4 master net3");
    ip("link set net3 up");
    host.plug("one-7-0", "net3");
    host.list("up0\nnet3\n");
    let changed = vm("vxlan", "<VLAN_ID>5</VLAN_ID>")
        .replace("</VM>", "<TEMPLATE><VNET_UPDATE><VLAN_ID>4</VLAN_ID></VNET_UPDATE></TEMPLATE></VM>");
    let before = host.snapshot();
    let response = update(&host, &changed);
    let Outcome::Failed(failure) = response.outcome else { panic!("{response:?}") };
    assert!(
        failure.text.starts_with("NIC 0: up0.4 in bridge net3 was not made by causeway"),
        "{}",
        failure.text
    );
    common::assert_same(&host.snapshot(), &before);
}

#[test]
fn an_uplink_is_exchanged_in_its_bridge() {
    for driver in ["bridge", "fw"] {
        std::thread::spawn(move || {
            let host = Host::new();
            ip("link add up1 type veth peer name far1");
            host.list("up0\nup1\n");
            host.done(Verb::Pre, &vm(driver, ""));
            assert_eq!(host.link("up0")["master"], "net3");
            host.plug("one-7-0", "net3");
            host.done(Verb::Post, &vm(driver, ""));
            let response = update(&host, &vm(driver, "<PHYDEV>up1</PHYDEV>"));
            assert_eq!(response.outcome, Outcome::Done);
            assert_eq!(response.changes[..2], ["take up0 out of its bridge", "set up1 bridge net3"]);
            assert_eq!(
                (&host.link("up0")["master"], &host.link("up1")["master"]),
                (&().into(), &"net3".into())
            );
            ip("link del one-7-0");
            assert_eq!(host.done(Verb::Clean, &vm(driver, "<PHYDEV>up1</PHYDEV>")), ["delete net3"]);
            host.assert_no_trace();
        })
        .join()
        .unwrap();
    }
}

#[test]
fn an_uplink_in_another_bridge_is_a_conflict() {
    let host = Host::new();
    ip("link add mine type bridge");
    ip("link set up0 master mine");
    let text = host.refused(Verb::Pre, &vm("bridge", ""));
    assert!(text.contains("up0 is a port of mine"), "{text}");
}

#[test]
fn a_network_without_a_number_is_a_bridge_of_its_own() {
    let host = Host::new();
    host.done(Verb::Pre, &vm("bridge", "<PHYDEV/>"));
    assert_eq!(host.links(), ["net3"]);
    host.done(Verb::Clean, &vm("bridge", "<PHYDEV/>"));
    assert_eq!(host.links(), [""; 0]);
    host.assert_no_trace();
}

#[test]
fn an_update_that_dies_is_finished_by_the_next_or_cleared_away() {
    let args = vec!["-".to_owned(), "3".to_owned()];
    let changed = vm("vxlan", "<VLAN_ID>5</VLAN_ID>");
    let asked = Request { args, ..request(Verb::UpdateNic, &changed) };
    let mut points = 0;
    loop {
        let host = Host::new();
        host.done(Verb::Pre, &vm("vxlan", ""));
        host.plug("one-7-0", "net3");
        let dies = || dies_before(&host, &asked, points);
        if !dies() {
            break;
        }
        if points % 2 == 0 {
            assert_eq!(server::answer(&host.places, &asked).outcome, Outcome::Done, "step {points}");
            assert_eq!(host.links(), ["net3", "one-7-0", "up0.5"], "step {points}");
        }
        ip("link del one-7-0");
        host.done(Verb::Clean, &changed);
        assert_eq!(host.links(), [""; 0], "died before step {points}");
        host.assert_no_trace();
        points += 1;
    }
    assert!(points >= 6, "{points} steps");
}

#[test]
fn an_update_names_its_network() {
    let host = Host::new();
    let response = server::answer(&host.places, &request(Verb::UpdateNic, &vm("vxlan", "")));
    let Outcome::Failed(failure) = response.outcome else { panic!("{response:?}") };
    assert_eq!(
        failure.text,
        "argument \"\" is not the id of the network, as oned gives it after the deploy id"
    );
}
