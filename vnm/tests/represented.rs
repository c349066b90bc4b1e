//! A function of a card that is a switch: the device that stands for it is a port like any guest's, on a real Open vSwitch. The
//! card itself is made of data, and a pair of virtual devices stands for the one that stands for the function.

#![cfg(test)]

mod common;

use std::collections::BTreeSet;

use causeway_core::document::VmDocument;
use causeway_core::names::{Mac, VmId};
use causeway_vnm::desired::{self, Datapath, Desired, Driver, Facts, Located, Settings, Vlans};
use causeway_vnm::fabric::linux::functions::FunctionSeen;
use causeway_vnm::fabric::linux::mark::Mark;
use causeway_vnm::fabric::linux::parse::LinkKind;
use causeway_vnm::fabric::linux::{Surroundings, difference};
use causeway_vnm::reservation::Reservation;
use common::guests::{Guest, Guests, rule};
use common::model::Model;
use common::switch::until;
use common::{document, ip};

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
    model.seen.functions.insert(card, [(3, unset)].into());
    let changes = difference(&state, &model.seen, &Surroundings::default()).unwrap().changes;
    let told: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["set ens1f0 vf 3 mac 02:00:00:00:00:07", "set ens1f0 up", "set rep3 up"]);
    changes.iter().for_each(|change| model.apply(change));
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
