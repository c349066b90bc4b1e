//! The clients of Open vSwitch, on a real one: its own tools read back what they did.

#![cfg(test)]

mod common;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use causeway_vnm::fabric::ovs::openflow::{
    Action, Cookie, Cookies, Field, Flow, FlowChange, FlowKey, Match, Openflow, OpenflowError, ct, ethertype,
};
use causeway_vnm::fabric::ovs::ovsdb::{
    Condition, Datum, Mutation, Operation, Ovsdb, OvsdbError, Row, RowId,
};
use common::ip;
use common::switch::Switch;
use nix::sched::{CloneFlags, unshare};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn private() -> Switch {
    assert!(rustix::process::geteuid().is_root(), "these tests need root: they make network namespaces");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    Switch::start()
}

fn bridge(switch: &Switch, name: &str) {
    switch.tool("ovs-vsctl", &["add-br", name, "--", "set", "bridge", name, "datapath_type=netdev"]);
}

#[test]
fn a_transaction_makes_all_of_it_or_nothing() {
    let switch = private();
    bridge(&switch, "br0");
    let mut database = Ovsdb::connect(&switch.database(), soon()).unwrap();
    let columns = ["_uuid", "ports", "datapath_type"];
    let read = [Operation::select("Bridge", &[Condition::named("br0")], &columns)];
    let rows = database.select(&read).unwrap().remove(0);
    assert_eq!((rows.len(), rows[0].text("datapath_type")), (1, Some("netdev")));
    let id = rows[0].id().unwrap();

    let port = |name: &str| Row::default().with("name", Datum::text(name));
    let add = |name: &str, tag: i64| {
        let interface = Datum::Row(RowId::Inserted("i".to_owned()));
        let row = port(name).with("tag", Datum::Integer(tag)).with("interfaces", interface);
        let new = Datum::Row(RowId::Inserted("p".to_owned()));
        [
            Operation::insert("Interface", "i", &port(name).with("ofport_request", Datum::Integer(7))),
            Operation::insert("Port", "p", &row).called(format!("add port {name}")),
            Operation::mutate("Bridge", &[Condition::row(&id)], &[Mutation::Insert("ports", new)]),
        ]
    };
    database.transact(&add("one-1-0", 50)).unwrap();
    assert_eq!(switch.tool("ovs-vsctl", &["get", "port", "one-1-0", "tag"]), "50");

    // A tag that no VLAN has: the database refuses, and nothing of it is there.
    let error = database.transact(&add("one-2-0", 5000)).unwrap_err();
    assert!(matches!(&error, OvsdbError::Refused { what, .. } if what == "add port one-2-0"), "{error}");
    assert_eq!(switch.tool("ovs-vsctl", &["list-ports", "br0"]), "one-1-0");

    // Somebody was first.
    let expected = [Row::default().with("tag", Datum::Integer(51))];
    let named = [Condition::named("one-1-0")];
    let error = database.transact(&[Operation::expect("Port", &named, &["tag"], &expected)]).unwrap_err();
    assert!(error.is_stale(), "{error}");
    let expected = [Row::default().with("tag", Datum::Integer(50))];
    database
        .transact(&[
            Operation::expect("Port", &named, &["tag"], &expected),
            Operation::update("Port", &named, &Row::default().with("trunks", Datum::integers([10, 20]))),
            Operation::comment("by a test"),
        ])
        .unwrap();
    assert_eq!(switch.tool("ovs-vsctl", &["get", "port", "one-1-0", "trunks"]), "[10, 20]");
}

#[test]
fn a_database_that_is_not_there_or_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db.sock");
    let error = Ovsdb::connect(&path, soon()).err().unwrap().to_string();
    assert!(error.contains("is openvswitch-switch running?"), "{error}");
    let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut database = Ovsdb::connect(&path, Instant::now() + Duration::from_millis(50)).unwrap();
    let error = database.transact(&[]).unwrap_err();
    assert!(matches!(error, OvsdbError::Deadline), "{error}");
}

const OURS: u64 = 0x0ca0_0000_0000_0000;

fn flow(table: u8, priority: u16, matches: Match, actions: Vec<Action>) -> Flow {
    Flow { key: FlowKey { table, priority, matches }, cookie: Cookie(OURS | 0x0001_0000), actions }
}

fn all() -> Cookies {
    Cookies { value: OURS, mask: 0xffff_0000_0000_0000 }
}

/// One flow of every form that we make.
fn flows() -> Vec<Flow> {
    let mac = "02:00:0a:00:00:01".parse().unwrap();
    let from = |kind| Match::any().in_port(7).short(Field::ETH_TYPE, kind);
    let ip = from(ethertype::IPV4);
    let six = from(ethertype::IPV6);
    let track = |zone, commit, table| Action::Track { zone, commit, table };
    let state = |value| Match::any().long_masked(Field::CT_STATE, value | ct::TRACKED, value | ct::TRACKED);
    vec![
        flow(0, 100, Match::any().in_port(7), vec![Action::Note([0, 0, 0, 1, 0, 1]), Action::Resubmit(10)]),
        flow(10, 45_000, Match::any().in_port(7).mac(Field::ETH_SRC, mac), vec![Action::Resubmit(20)]),
        flow(10, 40_000, Match::any().in_port(7), vec![]),
        flow(
            20,
            50_000,
            from(ethertype::ARP).ipv4(Field::ARP_SPA, Ipv4Addr::new(10, 0, 0, 1), 32),
            vec![Action::Normal],
        ),
        flow(
            20,
            45_000,
            ip.clone().ipv4(Field::IPV4_SRC, Ipv4Addr::new(10, 0, 3, 1), 22),
            vec![Action::Normal],
        ),
        flow(
            20,
            45_000,
            six.clone().ipv6(Field::IPV6_SRC, "fe80::1".parse().unwrap(), 128),
            vec![track(9, false, Some(30))],
        ),
        flow(
            20,
            44_000,
            ip.clone().byte(Field::IP_PROTO, 17).short(Field::UDP_SRC, 68).short(Field::UDP_DST, 67),
            vec![Action::Normal],
        ),
        flow(20, 44_000, six.byte(Field::IP_PROTO, 58).byte(Field::ICMPV6_TYPE, 135), vec![Action::Normal]),
        flow(30, 50, state(ct::ESTABLISHED).short(Field::ETH_TYPE, ethertype::IPV4), vec![Action::Normal]),
        flow(
            30,
            40,
            state(ct::NEW).short(Field::ETH_TYPE, ethertype::IPV4).byte(Field::IP_PROTO, 6).short_masked(
                Field::TCP_DST,
                80,
                0xfff0,
            ),
            vec![track(9, true, None), Action::Output(7)],
        ),
        flow(
            60,
            10,
            Match::any().long(Field::register(0), 50).multicast().short_masked(
                Field::VLAN_VID,
                0x1000,
                0x1000,
            ),
            vec![Action::SetRegister(1, 7), Action::Resubmit(70), Action::PopVlan, Action::Normal],
        ),
    ]
}

#[test]
fn flows_are_read_as_they_were_made() {
    let switch = private();
    bridge(&switch, "br0");
    let mut flows_of = Openflow::connect(switch.dir(), "br0", soon()).unwrap();
    let mut made = flows();
    let puts: Vec<FlowChange> = made.iter().cloned().map(FlowChange::Put).collect();
    flows_of.change(&puts).unwrap();
    let mut found = flows_of.flows(all()).unwrap();
    made.sort();
    found.sort();
    assert_eq!(found, made);
    let dump = switch.tool("ovs-ofctl", &["-O", "OpenFlow14", "dump-flows", "br0"]);
    for told in [
        "table=0, n_packets=0, n_bytes=0, priority=100,in_port=7 actions=note:00.00.00.01.00.01,resubmit(,10)",
        "table=20, n_packets=0, n_bytes=0, priority=50000,arp,in_port=7,arp_spa=10.0.0.1 actions=NORMAL",
        "priority=45000,ip,in_port=7,nw_src=10.0.0.0/22 actions=NORMAL",
        "priority=45000,ipv6,in_port=7,ipv6_src=fe80::1 actions=ct(table=30,zone=9)",
        "priority=40,ct_state=+new+trk,tcp,tp_dst=0x50/0xfff0 actions=ct(commit,zone=9),output:7",
        "priority=40000,in_port=7 actions=drop",
    ] {
        assert!(dump.contains(told), "{told}\n{dump}");
    }
    // The flow that every bridge has is nobody's.
    assert!(dump.contains("priority=0 actions=NORMAL"), "{dump}");

    // Half of them go, one is another; a bundle that can't be made whole changes nothing.
    let other = flow(10, 40_000, Match::any().in_port(7), vec![Action::Normal]);
    let impossible = flow(255, 1, Match::any(), vec![]);
    let error = flows_of.change(&[
        FlowChange::RemoveAll(all().into()),
        FlowChange::Put(impossible),
        FlowChange::Put(other.clone()),
    ]);
    assert!(matches!(error, Err(OpenflowError::Refused { .. })), "{error:?}");
    let mut flows_of = Openflow::connect(switch.dir(), "br0", soon()).unwrap();
    assert_eq!(flows_of.flows(all()).unwrap().len(), made.len());
    flows_of.change(&[FlowChange::Remove(made[0].key.clone()), FlowChange::Put(other.clone())]).unwrap();
    let found = flows_of.flows(all()).unwrap();
    assert_eq!(found.len(), made.len() - 1);
    assert!(found.contains(&other));
    flows_of.change(&[FlowChange::RemoveAll(all().into())]).unwrap();
    assert_eq!(flows_of.flows(all()).unwrap(), []);
    assert!(switch.tool("ovs-ofctl", &["dump-flows", "br0"]).contains("priority=0 actions=NORMAL"));
}

#[test]
fn a_thousand_flows_at_once() {
    let switch = private();
    bridge(&switch, "br0");
    let mut flows_of = Openflow::connect(switch.dir(), "br0", soon()).unwrap();
    let made = |port| flow(0, 100, Match::any().in_port(port), vec![Action::Resubmit(10)]);
    let puts: Vec<FlowChange> = (1..=4000).map(|port| FlowChange::Put(made(port))).collect();
    flows_of.change(&puts).unwrap();
    assert_eq!(flows_of.flows(all()).unwrap().len(), 4000);
}

#[test]
fn a_bridge_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Openflow::connect(dir.path(), "br9", soon()).err().unwrap().to_string();
    assert!(error.starts_with("bridge br9 can't be reached at "), "{error}");
}
