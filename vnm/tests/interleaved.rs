//! Fifty VMs of three drivers on the same bridges, their slots in any order and at once: the end is the same as one after the other.

#![cfg(test)]

mod common;

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use causeway_vnm::fabric::ovs;
use causeway_vnm::root::{Outcome, Verb, server};
use common::bridged::{FILTERS, GROUP, enter, rule};
use common::switch::Switch;
use common::{Host, document, nic, request};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const VMS: u32 = 50;

/// A VM of one of three drivers, on one of two bridges of it, guarded or not.
fn vm(number: u32) -> String {
    let network = number % 2;
    let place = match number % 3 {
        0 => format!("<VN_MAD>fw</VN_MAD><PHYDEV/><BRIDGE>fw{network}</BRIDGE>"),
        1 => format!("<VN_MAD>vxlan</VN_MAD><VLAN_ID>{}</VLAN_ID><BRIDGE>vx{network}</BRIDGE>", 4 + network),
        _ => format!(
            "<VN_MAD>ovswitch</VN_MAD><BRIDGE_TYPE>openvswitch</BRIDGE_TYPE><PHYDEV/><BRIDGE>ovs{network}</BRIDGE>\
             <OVS_BRIDGE_CONF>datapath_type=netdev</OVS_BRIDGE_CONF>"
        ),
    };
    let guard = ["", GROUP, FILTERS][(number / 3 % 3) as usize];
    let rules = rule("INBOUND", "TCP", &format!("<RANGE>{}</RANGE>", 1000 + number));
    document(number, &format!("{}{rules}", nic(number, 0, 50, &format!("{guard}{place}"))))
}

/// Whether a VM is there in the end.
fn stays(number: u32) -> bool {
    !number.is_multiple_of(4)
}

/// What is done with each VM, one after the other, as oned asks; the VMs in any order.
fn courses() -> impl Strategy<Value = Vec<(u32, Vec<Verb>)>> {
    let course = |number| {
        (0..3_usize, 0..3_usize).prop_map(move |(visits, updates)| {
            let mut verbs = [Verb::Pre, Verb::Clean].repeat(visits);
            verbs.push(Verb::Pre);
            verbs.extend(std::iter::repeat_n(Verb::UpdateSg, updates));
            verbs.extend((!stays(number)).then_some(Verb::Clean));
            (number, verbs)
        })
    };
    (1..=VMS).map(course).collect::<Vec<_>>().prop_shuffle()
}

fn ruleset() -> String {
    let out = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

fn round(seed: u32) {
    enter();
    let switch = Switch::start();
    let mut host = Host::here();
    host.places.switch = ovs::Places { database: switch.database(), run: switch.dir().to_owned() };
    let bytes: Vec<u8> = seed.to_be_bytes().repeat(8);
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let courses =
        courses().new_tree(&mut TestRunner::new_with_rng(Config::default(), random)).unwrap().current();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((number, course)) = courses.get(next.fetch_add(1, Ordering::SeqCst)) {
                    for verb in course {
                        let response = server::answer(&host.places, &request(*verb, &vm(*number)));
                        assert_eq!(response.outcome, Outcome::Done, "seed {seed}, VM {number} {verb:?}");
                    }
                }
            });
        }
    });
    for number in (1..=VMS).filter(|number| stays(*number)) {
        assert_eq!(host.done(Verb::Pre, &vm(number)), [""; 0], "seed {seed}: VM {number} lacks nothing");
    }
    let rules = ruleset();
    for number in (1..=VMS).filter(|number| !stays(*number)) {
        assert!(!rules.contains(&format!("one-{number}-0")), "seed {seed}: VM {number} has left rules");
    }
    for number in (1..=VMS).filter(|number| stays(*number)) {
        host.done(Verb::Clean, &vm(number));
    }
    assert_eq!(
        (ruleset(), switch.tool("ovs-vsctl", &["list-br"])),
        (String::new(), String::new()),
        "seed {seed}"
    );
    host.assert_no_trace();
}

/// `CAUSEWAY_TEST_LONG=1`: a thousand of them; `CAUSEWAY_TEST_SEED=N`: from that one on.
#[test]
fn slots_of_fifty_vms_in_any_order_and_at_once() {
    let rounds = if std::env::var_os("CAUSEWAY_TEST_LONG").is_some() { 1000 } else { 2 };
    let first = std::env::var("CAUSEWAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for done in 1..=rounds {
        let seed = first + done - 1;
        std::thread::scope(|scope| scope.spawn(|| round(seed)).join().unwrap());
        if done % 50 == 0 || done == rounds {
            println!("interleaved: {done} of {rounds} ended the same, the last by seed {seed}");
        }
    }
}
