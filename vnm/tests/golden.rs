//! The desired state of every recorded document, against the committed one.
//!
//! For the vxlan NIC of `five_drivers_*` the stock driver was recorded to run
//! `ip link add eth0.4 mtu 1500 type vxlan id 4 group 239.0.0.4 ttl 16 dev eth0`; the MTU is where we differ (W23).

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use causeway_core::document::{VmDocument, decode};
use causeway_vnm::desired::{self, Driver, Facts, Settings, Uplink};

/// A host with the uplink that the recordings name.
fn facts() -> Facts {
    let eth0: causeway_core::names::LinkName = "eth0".parse().unwrap();
    let uplink = Uplink { mtu: 1500, up: true, addresses: vec!["10.77.0.1".parse().unwrap()] };
    Facts {
        listed: BTreeSet::from([eth0.clone()]),
        uplinks: BTreeMap::from([(eth0, uplink)]),
        ..Facts::default()
    }
}

fn recorded(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
}

#[test]
fn every_recorded_document() {
    for name in [
        "five_drivers_post",
        "five_drivers_clean",
        "ovswitch_vxlan_post",
        "ovswitch_vxlan_clean",
        "ovswitch_vxlan_update_nic",
        "ovswitch_vxlan_update_sg",
    ] {
        let vm = VmDocument::parse(&recorded(&format!("{name}.xml"))).unwrap();
        for (word, driver) in Driver::NAMES {
            if driver.selected(&vm).is_empty() {
                continue;
            }
            let answer = desired::desired(driver, &vm, &Settings::default(), &facts()).unwrap();
            assert_eq!(answer.notes, [""; 0], "{name} {word}");
            insta::assert_json_snapshot!(format!("{word}_{name}"), answer.desired);
        }
    }
}

#[test]
fn base64_in_lines_is_the_same_document() {
    let lines = decode(&recorded("update_nic.base64")).unwrap();
    assert_eq!(
        VmDocument::parse(&lines).unwrap(),
        VmDocument::parse(&recorded("ovswitch_vxlan_update_nic.xml")).unwrap()
    );
}
