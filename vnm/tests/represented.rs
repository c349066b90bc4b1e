//! A function of a card that is a switch: the device that stands for it is a port like any guest's, on a real Open vSwitch. The
//! card itself is made of data, and a pair of virtual devices stands for the one that stands for the function.

#![cfg(test)]

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use causeway_core::document::VmDocument;
use causeway_core::names::{Mac, VmId};
use causeway_vnm::desired::{self, Datapath, Desired, Driver, Facts, Located, Settings, Vlans};
use causeway_vnm::fabric::linux::ethtool::{self, Ethtool, Offload};
use causeway_vnm::fabric::linux::functions::FunctionSeen;
use causeway_vnm::fabric::linux::mark::Mark;
use causeway_vnm::fabric::linux::parse::LinkKind;
use causeway_vnm::fabric::linux::{Surroundings, difference};
use causeway_vnm::reservation::Reservation;
use common::guests::{Guest, Guests, rule};
use common::model::Model;
use common::switch::until;
use common::{Host, document, ip};
use proptest::prelude::*;

fn work_out(driver: Driver, more: &str, rules: &str) -> Result<Desired, String> {
    let pci = format!(
        "<TEMPLATE><PCI>{more}<PCI_ID>0</PCI_ID><NIC_ID>1</NIC_ID><VN_MAD>{}</VN_MAD><BRIDGE>br0</BRIDGE>\
         <BRIDGE_TYPE>openvswitch</BRIDGE_TYPE><MAC>02:00:00:00:00:07</MAC><VLAN_ID>50</VLAN_ID>\
         <SHORT_ADDRESS>85:02.3</SHORT_ADDRESS></PCI></TEMPLATE>{rules}",
        driver.name()
    );
    let located = Located::Virtual {
        device: "ens1f0".parse().unwrap(),
        index: 3,
        representor: Some("rep3".parse().unwrap()),
    };
    let facts = Facts {
        listed: ["ens1f0".parse().unwrap(), "up0".parse().unwrap()].into(),
        functions: [(1, located)].into(),
        ..Facts::default()
    };
    let vm = VmDocument::parse(document(7, &pci).as_bytes()).map_err(|e| e.to_string())?;
    let answer = desired::desired(driver, &vm, &Settings::default(), &facts).map_err(|r| r.to_string())?;
    Ok(answer.desired)
}

#[test]
fn the_host_has_the_vlans_and_the_card_the_address() {
    let state = work_out(Driver::OvSwitch, "", "").unwrap();
    let (seat, function) = (&state.seats[0], &state.functions[0]);
    assert_eq!((seat.nic, seat.tap.as_str(), seat.vlans.clone()), (1, "rep3", Vlans::Access(50)));
    assert_eq!((state.ports[0].tap.as_str(), state.ports[0].bridge.as_str()), ("rep3", "br0"));
    assert_eq!(state.switches[0].uplinks, BTreeSet::from(["ens1f0".parse().unwrap()]));
    assert_eq!((function.vlan, function.spoofchk, function.trust), (0, None, None));
    let list = work_out(Driver::OvSwitch, "<VLAN_TAGGED_ID>60-61</VLAN_TAGGED_ID>", "").unwrap();
    let tagged = Some([60, 61].into());
    assert_eq!(list.seats[0].vlans, Vlans::Trunk { untagged: Some(50), tagged });

    let mut model = Model::new();
    for name in ["ens1f0", "rep3"] {
        model.add(name, LinkKind::Outer("hardware".into()), None, Mark::Foreign);
        model.at(&name.parse().unwrap()).up = false;
    }
    let unset = FunctionSeen { mac: Mac([0; 6]), vlan: 0, spoofchk: false, trust: false };
    let card = model.index("ens1f0").unwrap();
    let offload = [("ens1f0", Offload::Off), ("rep3", Offload::Never)];
    model.seen.offload.extend(offload.map(|(name, offload)| (name.parse().unwrap(), offload)));
    model.seen.functions.insert(card, [(3, unset)].into());
    let found = difference(&state, &model.seen, &Surroundings::default()).unwrap();
    let told: Vec<String> = found.changes.iter().map(ToString::to_string).collect();
    let up = ["set ens1f0 up", "set ens1f0 hw-tc-offload on", "set rep3 up"];
    assert_eq!(told, [&["set ens1f0 vf 3 mac 02:00:00:00:00:07"], &up[..]].concat());
    assert_eq!(found.notes, ["rep3 can't hand frames to its card: the host moves them"]);
    found.changes.iter().for_each(|change| model.apply(change));
    assert_eq!(difference(&state, &model.seen, &Surroundings::default()).unwrap().changes, []);

    // What is reserved is the same state.
    let mut reserved = Reservation::empty(VmId(7));
    reserved.reserve("ovswitch", &state);
    let text = serde_json::to_string(&reserved).unwrap();
    let read: Reservation = serde_json::from_str(&text).unwrap();
    let again = read.desired(&[1].into());
    assert_eq!((again.seats, again.functions), (state.seats, state.functions));
}

#[test]
fn what_is_not_the_cards_is_refused_by_name() {
    for (driver, more, words) in [
        (
            Driver::Bridge,
            "<BRIDGE_TYPE>linux</BRIDGE_TYPE>",
            "only networks of ovswitch have a bridge for it",
        ),
        (Driver::Fw, "", "`devlink dev eswitch set pci/ADDRESS mode legacy`"),
        (Driver::OvSwitch, "<SPOOFCHK>on</SPOOFCHK>", "SPOOFCHK is \"on\""),
        (Driver::OvSwitch, "<TRUST>no</TRUST>", "TRUST is \"off\""),
        (Driver::OvSwitch, "<PHYDEV>up0</PHYDEV>", "PHYDEV is \"up0\", not ens1f0"),
        (Driver::OvSwitch, "<BRIDGE>one-8-0</BRIDGE>", "BRIDGE is \"one-8-0\""),
    ] {
        let text = work_out(driver, more, "").unwrap_err();
        assert!(text.contains(words), "{more}: {text}");
    }
}

/// The port is guarded as a guest's own device would be, and goes with its guest although its device stays.
#[test]
fn the_device_that_stands_for_it_is_a_guarded_port() {
    let net = Guests::new(&[Some(50)]);
    let b = &net.all[0];
    ip("link add ens1f0 type veth peer name wire");
    let mut a = Guest::device(7, Some(50));
    for words in [
        format!("link set {} down", a.tap),
        format!("link set {} name rep3", a.tap),
        "link set rep3 up".into(),
    ] {
        ip(&words);
    }
    a.tap = "rep3".into();
    let rules = rule("OUTBOUND", "UDP", "<RANGE>60</RANGE>") + &rule("INBOUND", "UDP", "<RANGE>50</RANGE>");
    let more = format!("<SECURITY_GROUPS>5</SECURITY_GROUPS><MAC>{}</MAC>", a.mac);
    let mut state = work_out(Driver::OvSwitch, &more, &rules).unwrap();
    state.switches[0].datapath = Datapath::Userspace;
    state.numbers.insert(1, u16::try_from(a.port).unwrap().try_into().unwrap());
    net.bring(&state);
    let ports = net.switch.tool("ovs-vsctl", &["list-ports", "br0"]);
    assert!(
        ports.lines().any(|port| port == "rep3") && ports.lines().any(|port| port == "ens1f0"),
        "{ports}"
    );
    until("the guest is heard", || a.udp(b, 60));
    assert_eq!([a.udp(b, 60), a.udp(b, 61), b.udp(&a, 50), b.udp(&a, 51)], [true, false, true, false]);
    let gone = net.take_away(&state);
    assert_eq!(gone.lingering, BTreeSet::new());
    let ports = net.switch.tool("ovs-vsctl", &["list-ports", "br0"]);
    assert!(!ports.contains("rep3") && ports.contains("ens1f0"), "another guest needs the way out: {ports}");
    assert!(ip("link show rep3").contains("rep3"));
    // A guest's own device that is there says that its guest may be.
    net.bring(&state);
    state.functions.clear();
    assert_eq!(net.take_away(&state).lingering, BTreeSet::from(["rep3".parse().unwrap()]));
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn requests_are_those_of_ethtool() {
    // ethtool 6.1: ethtool -K p0 hw-tc-offload on
    let family = "20000000 10000500 01000000 00000000 03010000 0c000200 65746874 6f6f6c00";
    assert_eq!(ethtool::family_request(0, 1), hex(family));
    // The two bytes behind the name are whatever ethtool had there (74 74); here they are zero.
    let offload = "4c000000 15000500 03000000 00000000 0c010000 14000180 07000200 70300000 08000300 01000000 24000380 20000380 \
                   1c000180 12000200 68772d74 632d6f66 666c6f61 64000000 04000300";
    assert_eq!(ethtool::offload_request(0x15, 3, &"p0".parse().unwrap()), hex(offload));
}

/// The features of a real device are those that ethtool tells.
#[test]
fn features_are_read_from_the_kernel() {
    let _host = Host::new();
    let name = "up0".parse().unwrap();
    let mut kernel = Ethtool::open().unwrap();
    let features = kernel.features(&name).unwrap().unwrap();
    let told = Command::new("ethtool").args(["-k", "up0"]).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    // The names that ethtool has from the kernel; others sum up several.
    let single = ["hw-tc-offload", "highdma", "loopback", "tx-gre-segmentation", "rx-udp-gro-forwarding"];
    let lines = told.lines().filter_map(|line| line.trim().split_once(": "));
    let lines: Vec<_> = lines.filter(|(feature, _)| single.contains(feature)).collect();
    assert_eq!(lines.len(), single.len(), "{told}");
    for (feature, line) in lines {
        assert_eq!(features.active.contains(feature), line.starts_with("on"), "{feature}: {line}");
        assert_eq!(features.changeable.contains(feature), !line.contains("[fixed]"), "{feature}: {line}");
    }
    // No card is behind this device, so that it does not do as it is asked.
    let refused = kernel.offload("set up0 hw-tc-offload on", &name).unwrap_err().to_string();
    assert!(refused.contains("the device does not do so"), "{refused}");
    assert_eq!(kernel.features(&"none".parse().unwrap()).unwrap(), None);
}

proptest! {
    #[test]
    fn no_answer_about_features_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let features = ethtool::read(&bytes);
        prop_assert!(features.active.len() + features.changeable.len() <= bytes.len());
    }
}
