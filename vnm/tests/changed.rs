//! A VM's network is changed while its guest is away: the next `pre` makes the new place and takes the old one away, and where it dies
//! between any two steps, whoever comes next does the rest.

#![cfg(test)]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use causeway_core::names::VmId;
use causeway_vnm::desired::{Service, Settings};
use causeway_vnm::root::{Outcome, Reconcile, Request, Verb, server};
use common::bridged::{GROUP, rule};
use common::stage::Stage;
use common::{Host, assert_same, dies_before, document, ip, nic, request};
use nix::mount::{MsFlags, mount};

/// A VM of that driver on the bridge of that name, which has services where it is one of Linux.
fn vm(driver: &str, bridge: &str) -> String {
    let more = format!("<VN_MAD>{driver}</VN_MAD><NETWORK_ID>3</NETWORK_ID><BRIDGE>{bridge}</BRIDGE>{GROUP}");
    let more = match driver {
        "ovswitch" => format!(
            "{more}<PHYDEV/><BRIDGE_TYPE>openvswitch</BRIDGE_TYPE><OVS_BRIDGE_CONF>datapath_type=netdev</OVS_BRIDGE_CONF>"
        ),
        "vxlan" => more,
        _ => format!("{more}<PHYDEV/>"),
    };
    let vni = if bridge == "old" { 4 } else { 5 };
    document(7, &format!("{}{}", nic(7, 0, vni, &more), rule("INBOUND", "TCP", "<RANGE>22</RANGE>")))
}

fn settings() -> Settings {
    let service = Service {
        service_port: 5030,
        remote_addr: "10.77.0.1".parse().unwrap(),
        remote_port: 5031,
        networks: Vec::new(),
    };
    Settings { tproxy: vec![service], ..Settings::default() }
}

fn asked(verb: Verb, document: &str) -> Request {
    Request { settings: settings(), ..request(verb, document) }
}

fn done(host: &Host, verb: Verb, document: &str) {
    let response = server::answer(&host.places, &asked(verb, document));
    assert_eq!(response.outcome, Outcome::Done, "{verb:?} {response:?}");
}

fn reconcile(host: &Host) {
    let ask = Reconcile { reconcile: "test-1".parse().unwrap(), settings: settings(), dry_run: false };
    let response = server::reconcile(&host.places, &ask);
    assert_eq!((response.outcome, response.notes), (Outcome::Done, vec![]));
}

/// Devices, namespaces, rules, and what the switch has: lines that are equal where the hosts are.
fn seen(stage: &Stage) -> Vec<String> {
    let mut out = stage.host.links();
    // The datapath's own, which stays.
    out.retain(|link| link != "ovs-netdev");
    let spaces = std::fs::read_dir("/run/netns").unwrap();
    out.extend(spaces.map(|it| format!("namespace {:?}", it.unwrap().file_name())));
    let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    // Each bridge has another address.
    let rules = String::from_utf8(rules.stdout).unwrap();
    out.extend(rules.lines().filter(|line| !line.contains(" return comment \"bridge ")).map(str::to_owned));
    for bridge in stage.ask(&["list-br"]).lines() {
        out.extend(stage.ask(&["list-ports", bridge]).lines().map(|port| format!("{port} on {bridge}")));
        let dump = ["-O", "OpenFlow14", "dump-flows", bridge, "--no-stats"];
        out.extend(stage.switch.tool("ovs-ofctl", &dump).lines().map(str::to_owned));
    }
    out.sort();
    out
}

/// A switch's devices outlive their bridge by a moment.
fn is_as(stage: &Stage, wanted: &[String]) {
    let begun = Instant::now();
    while seen(stage) != wanted && begun.elapsed() < Duration::from_secs(10) {}
    assert_same(&seen(stage), wanted);
}

/// Whoever finishes, and whether the VM is there afterwards.
type Finish = fn(&Host, &str);

#[test]
fn a_death_while_a_network_is_changed_leaves_nothing_of_the_old_one() {
    let stage = Stage::new();
    let host = &stage.host;
    let none: Option<&str> = None;
    std::fs::create_dir_all("/run/netns").unwrap();
    mount(Some("changed"), "/run/netns", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    ip("link set lo up");
    let empty = seen(&stage);
    let finishes: [(&str, Finish); 2] =
        [("pre", |host, new| done(host, Verb::Pre, new)), ("reconcile", |host, _| reconcile(host))];
    for driver in ["fw", "vxlan", "ovswitch"] {
        let (old, new) = (vm(driver, "old"), vm(driver, "new"));
        done(host, Verb::Pre, &new);
        let wanted = seen(&stage);
        done(host, Verb::Clean, &new);
        is_as(&stage, &empty);
        let mut points = 0;
        let dies = |point: usize| {
            done(host, Verb::Pre, &old);
            dies_before(host, &asked(Verb::Pre, &new), point)
        };
        while dies(points) {
            let reserved = host.reservation(VmId(7)).unwrap();
            let is_new = reserved["nics"]["0"]["port"]["bridge"] == "new";
            for (index, (who, finish)) in finishes.into_iter().enumerate() {
                if index > 0 {
                    assert!(dies(points));
                }
                finish(host, &new);
                if is_new || who == "pre" {
                    println!("{driver}, {who}, died before step {points}");
                    is_as(&stage, &wanted);
                    assert!(host.reservation(VmId(7)).unwrap().get("former").is_none());
                }
                done(host, Verb::Clean, &new);
                is_as(&stage, &empty);
            }
            // With nobody in between.
            assert!(dies(points));
            done(host, Verb::Clean, &new);
            is_as(&stage, &empty);
            host.assert_no_trace();
            points += 1;
        }
        assert!(points > 4, "{driver}: {points}");
        is_as(&stage, &wanted);
        done(host, Verb::Clean, &new);
        is_as(&stage, &empty);
        host.assert_no_trace();
    }
}
