//! Virtual functions: where they are, what is set on them and taken back, and what no card can keep. The machines of ours have none,
//! so that trees and answers are made of files and data; what is sent is compared byte for byte with what `ip` of iproute2 6.1 was
//! recorded to send.

#![cfg(test)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;

use causeway_core::document::VmDocument;
use causeway_core::names::{LinkName, Mac, VmId};
use causeway_vnm::desired::{self, Answer, Driver, Facts, Function, Located, Settings};
use causeway_vnm::fabric::linux::functions::{self, FunctionSeen, FunctionSetting};
use causeway_vnm::fabric::linux::mark::Mark;
use causeway_vnm::fabric::linux::netlink::bytes;
use causeway_vnm::fabric::linux::parse::LinkKind;
use causeway_vnm::fabric::linux::sysfs::locate;
use causeway_vnm::fabric::linux::{Change, Leaving, Observed, Surroundings, difference, removal};
use causeway_vnm::root::{Outcome, Verb};
use common::model::Model;
use common::{Host, document};
use netlink_packet_core::{NLM_F_ACK, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use proptest::prelude::*;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

/// A card at 0000:85:00.0 with functions 0 to 3, as the kernel shows it; its network devices with their port names.
fn card(dir: &Path, devices: &[(&str, &str)]) {
    let physical = dir.join("0000:85:00.0");
    std::fs::create_dir_all(physical.join("net")).unwrap();
    for index in 0..4 {
        let name = format!("0000:85:02.{index}");
        std::fs::create_dir(dir.join(&name)).unwrap();
        symlink("../0000:85:00.0", dir.join(&name).join("physfn")).unwrap();
        symlink(format!("../{name}"), physical.join(format!("virtfn{index}"))).unwrap();
    }
    for (device, port) in devices {
        let dir = physical.join("net").join(device);
        std::fs::create_dir(&dir).unwrap();
        if !port.is_empty() {
            std::fs::write(dir.join("phys_port_name"), format!("{port}\n")).unwrap();
        }
    }
}

fn found(devices: &[(&str, &str)], address: &str) -> Result<Located, String> {
    let dir = tempfile::tempdir().unwrap();
    card(dir.path(), devices);
    std::fs::create_dir(dir.path().join("0000:86:00.0")).unwrap();
    locate(dir.path(), address.parse().unwrap()).map_err(|error| error.to_string())
}

fn virtual_function(representor: Option<&str>) -> Located {
    let representor = representor.map(|name| name.parse().unwrap());
    Located::Virtual { device: "ens1f0".parse().unwrap(), index: 3, representor }
}

#[test]
fn a_function_says_whose_it_is() {
    let legacy = [("ens1f0", "")];
    for address in ["85:02.3", "0000:85:02:3", "0000:85:02.3"] {
        assert_eq!(found(&legacy, address), Ok(virtual_function(None)), "{address}");
    }
    assert_eq!(found(&[("ens1f0", "p0")], "85:02.3"), Ok(virtual_function(None)));
    assert_eq!(found(&legacy, "86:00.0"), Ok(Located::Whole));
    // A card that is a switch has a device for each function.
    for port in ["pf0vf3", "vf3", "c1pf0vf3"] {
        let devices = [("ens1f0", "p0"), ("rep0", "pf0vf0"), ("rep3", port), ("rep13", "pf0vf13")];
        assert_eq!(found(&devices, "85:02.3"), Ok(virtual_function(Some("rep3"))), "{port}");
    }
    for (devices, address, words) in [
        (&legacy[..], "85:02.4", "no PCI device 85:02.4"),
        (&legacy, "0001:85:02.3", "no PCI device 0001:85:02.3"),
        (&[], "85:02.3", "has no network device: load its driver"),
        (&[("ens1f0", ""), ("ens1f1", "")], "85:02.3", "devices ens1f0 and ens1f1"),
        (&[("ens1f0", "p0"), ("rep0", "pf0vf0")], "85:02.3", "has no network device"),
        (&[("ens1f0", "p0"), ("ens1f1", "p1")], "85:02.3", "devices ens1f0 and ens1f1"),
    ] {
        let text = found(devices, address).unwrap_err();
        assert!(text.contains(words), "{address}: {text}");
    }
}

#[test]
fn a_tree_that_does_not_fit_is_told() {
    let dir = tempfile::tempdir().unwrap();
    card(dir.path(), &[("ens1f0", "")]);
    let look = |address: &str| locate(dir.path(), address.parse().unwrap()).unwrap_err().to_string();
    std::fs::remove_file(dir.path().join("0000:85:00.0/virtfn3")).unwrap();
    assert!(look("85:02.3").contains("does not lead back to PCI device 0000:85:02.3"));
    std::fs::create_dir(dir.path().join("0001:85:02.3")).unwrap();
    assert!(look("85:02.3").contains("names both: the VM needs the ADDRESS"));
    let nowhere = locate(Path::new("/nonexistent"), "85:02.3".parse().unwrap()).unwrap_err();
    assert_eq!(nowhere.to_string(), "read /nonexistent");
}

fn pci(driver: Driver, more: &str) -> String {
    let given = |name: &str| more.contains(&format!("<{name}>")) || more.contains(&format!("<{name}/>"));
    let mut attributes = more.to_owned();
    for (name, value) in [
        ("PCI_ID", "0"),
        ("NIC_ID", "1"),
        ("VN_MAD", driver.name()),
        ("BRIDGE", "br"),
        ("NETWORK_ID", "3"),
        ("MAC", "02:00:00:00:00:07"),
        ("VLAN_ID", "50"),
        ("SECURITY_GROUPS", "0"),
        ("SHORT_ADDRESS", "85:02.3"),
    ] {
        if !given(name) {
            attributes.push_str(&format!("<{name}>{value}</{name}>"));
        }
    }
    format!("<TEMPLATE><PCI>{attributes}</PCI></TEMPLATE>")
}

fn work_out(driver: Driver, more: &str, located: Located) -> Result<Answer, String> {
    let facts = Facts {
        listed: ["ens1f0".parse().unwrap()].into(),
        functions: [(1, located)].into(),
        ..Facts::default()
    };
    let vm = VmDocument::parse(document(7, &pci(driver, more)).as_bytes()).map_err(|e| e.to_string())?;
    desired::desired(driver, &vm, &Settings::default(), &facts).map_err(|refusal| refusal.to_string())
}

const BUILT: [Driver; 4] = [Driver::Bridge, Driver::Fw, Driver::Dot1q, Driver::OvSwitch];

fn function() -> Function {
    let device = "ens1f0".parse().unwrap();
    Function { nic: 1, device, index: 3, mac: MAC, vlan: 50, spoofchk: None, trust: None, representor: None }
}

#[test]
fn a_network_sets_address_and_vlan_of_a_function() {
    for driver in BUILT {
        let answer = work_out(driver, "", virtual_function(None)).unwrap();
        assert_eq!(answer.desired.functions, [function()], "{}", driver.name());
        assert_eq!(
            (answer.desired.bridges.len(), answer.desired.switches.len(), answer.notes.len()),
            (0, 0, 0)
        );
        let more = "<SPOOFCHK>yes</SPOOFCHK><TRUST>off</TRUST>";
        let answer = work_out(driver, more, virtual_function(None)).unwrap();
        let set = &answer.desired.functions[0];
        assert_eq!((set.spoofchk, set.trust), (Some(true), Some(false)));
        // A device that is passed through as a whole stays as it is, as with stock; it is said.
        let whole = work_out(driver, "", Located::Whole).unwrap();
        assert_eq!((whole.desired.functions.len(), whole.notes.len()), (0, 1));
    }
    let open = work_out(Driver::Bridge, "<VLAN_ID/>", virtual_function(None)).unwrap();
    assert_eq!(open.desired.functions[0].vlan, 0);
    assert!(open.notes[0].contains("can tag frames as it likes"), "{:?}", open.notes);
    // What `fw` filters by address, the card does.
    let more = "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>";
    let checked = work_out(Driver::Fw, more, virtual_function(None)).unwrap();
    assert_eq!(checked.desired.functions[0].spoofchk, Some(true));
}

#[test]
fn what_no_card_keeps_is_refused_by_name() {
    let filter = "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>";
    for driver in BUILT {
        for (more, words) in [
            ("<VLAN_TAGGED_ID>5</VLAN_TAGGED_ID>", "VLAN_TAGGED_ID is \"5\""),
            ("<CVLANS>5</CVLANS>", "CVLANS is \"5\""),
            ("<MAC>01:00:00:00:00:07</MAC>", "MAC is"),
            ("<MAC>00:00:00:00:00:00</MAC>", "MAC is"),
            ("<VLAN_ID>4095</VLAN_ID>", "VLAN_ID is"),
            ("<TRUST>maybe</TRUST>", "TRUST is"),
            ("<SHORT_ADDRESS>../../85:02.3</SHORT_ADDRESS>", "SHORT_ADDRESS is"),
        ] {
            let text = work_out(driver, more, virtual_function(None)).unwrap_err();
            assert!(text.contains(words), "{more}: {text}");
        }
        let text = work_out(driver, "<SPOOFCHK>on</SPOOFCHK>", Located::Whole).unwrap_err();
        assert!(text.contains("SPOOFCHK is \"set\", not absent: PCI device 85:02.3 is no virtual"), "{text}");
        let other = Located::Virtual { device: "eth9".parse().unwrap(), index: 0, representor: None };
        assert!(work_out(driver, "", other).unwrap_err().contains("eth9 is not listed"));
    }
    for driver in [Driver::Fw, Driver::Dot1q, Driver::OvSwitch] {
        for (more, words) in [
            ("<SECURITY_GROUPS>100</SECURITY_GROUPS>".to_owned(), "SECURITY_GROUPS is \"100\""),
            ("<FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>".to_owned(), "do not come by the host"),
            (format!("{filter}<SPOOFCHK>off</SPOOFCHK>"), "FILTER_MAC_SPOOFING"),
            (format!("{filter}<TRUST>on</TRUST>"), "FILTER_MAC_SPOOFING"),
        ] {
            let text = work_out(driver, &more, virtual_function(None)).unwrap_err();
            assert!(text.contains(words), "{more}: {text}");
        }
    }
    assert!(
        work_out(Driver::Dot1q, "<VLAN_ID/>", virtual_function(None))
            .unwrap_err()
            .contains("VLAN_ID is missing")
    );
    for driver in [Driver::Vxlan, Driver::OvSwitchVxlan] {
        let text = work_out(driver, "", virtual_function(None)).unwrap_err();
        assert!(
            text.contains(&format!("VN_MAD is \"{}\", not possible for a PCI device", driver.name())),
            "{text}"
        );
    }
}

#[test]
fn requests_are_those_of_ip() {
    let sent = |setting: FunctionSetting| {
        bytes(RouteNetlinkMessage::NewLink(functions::set(4, 3, &setting)), NLM_F_ACK, 0x6b02_c150)
    };
    let all = FunctionSetting { mac: Some(MAC), vlan: Some(50), spoofchk: Some(true), trust: Some(false) };
    // ip link set p0 vf 3 mac 02:00:00:00:00:07 vlan 50 spoofchk on trust off
    let recorded = "78000000 10000500 50c1026b 00000000 00000000 04000000 00000000 00000000 58001600 54000100 28000100 03000000 \
                    02000000 00070000 00000000 00000000 00000000 00000000 00000000 00000000 10000200 03000000 32000000 00000000 \
                    0c000400 03000000 01000000 0c000900 03000000 00000000";
    assert_eq!(sent(all), hex(recorded));
    // ip link set p0 vf 3 mac 02:00:00:00:00:07
    let recorded = "50000000 10000500 50c1026b 00000000 00000000 04000000 00000000 00000000 30001600 2c000100 28000100 03000000 \
                    02000000 00070000 00000000 00000000 00000000 00000000 00000000 00000000";
    assert_eq!(sent(FunctionSetting { mac: Some(MAC), ..FunctionSetting::default() }), hex(recorded));
}

fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// What a card told of its first function; the list is as it was captured for the tests of netlink-packet-route.
const ANSWER: &str = "\
    54010000 10000000 01000000 00000000 00000100 04000000 00000000 00000000 07000300 70300000 2c011600 28010100 28000100 00000000 \
    4e607172 bd1d0000 00000000 00000000 00000000 00000000 00000000 00000000 24000d00 ffffffff ffff0000 00000000 00000000 00000000 \
    00000000 00000000 00000000 10000200 00000000 00000000 00000000 10000600 00000000 00000000 00000000 0c000300 00000000 00000000 \
    0c000400 00000000 01000000 0c000500 00000000 00000000 0c000700 00000000 00000000 0c000900 00000000 00000000 18000c00 14000100 \
    00000000 00000000 00000000 81000000 64000800 0c000000 00000000 00000000 0c000100 00000000 00000000 0c000200 00000000 00000000 \
    0c000300 00000000 00000000 0c000400 00000000 00000000 0c000500 00000000 00000000 0c000700 00000000 00000000 0c000800 00000000 \
    00000000";

fn read(bytes: &[u8]) -> Option<BTreeMap<u32, FunctionSeen>> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = message.payload else {
        return None;
    };
    Some(functions::read(&link))
}

#[test]
fn a_recorded_answer_is_read() {
    let seen = FunctionSeen {
        mac: Mac([0x4e, 0x60, 0x71, 0x72, 0xbd, 0x1d]),
        vlan: 0,
        spoofchk: true,
        trust: false,
    };
    assert_eq!(read(&hex(ANSWER)), Some([(0, seen)].into()));
}

proptest! {
    #[test]
    fn no_answer_is_too_strange(changes in prop::collection::vec((40usize..340, any::<u8>()), 1..6)) {
        let mut bytes = hex(ANSWER);
        changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        if let Some(seen) = read(&bytes) {
            prop_assert!(seen.len() <= 16);
        }
    }

    #[test]
    fn what_is_set_is_what_is_read(index in 0u32..256, mac: [u8; 6], vlan in 0u16..4095, spoofchk: bool, trust: bool) {
        let mac = Mac(mac);
        let setting = FunctionSetting { mac: Some(mac), vlan: Some(vlan), spoofchk: Some(spoofchk), trust: Some(trust) };
        let sent = bytes(RouteNetlinkMessage::NewLink(functions::set(4, index, &setting)), NLM_F_ACK, 1);
        prop_assert_eq!(read(&sent), Some([(index, FunctionSeen { mac, vlan, spoofchk, trust })].into()));
    }
}

/// A host with that card.
fn seen(functions: &[(u32, FunctionSeen)]) -> Observed {
    let mut model = Model::new();
    model.add("ens1f0", LinkKind::Outer("hardware".into()), None, Mark::Foreign);
    let device = model.index("ens1f0").unwrap();
    model.seen.functions.insert(device, functions.iter().copied().collect());
    model.seen
}

fn told(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn only_what_differs_is_set_and_all_of_it_is_taken_back() {
    let unset = FunctionSeen { mac: Mac([0; 6]), vlan: 0, spoofchk: true, trust: false };
    let more = "<SPOOFCHK>off</SPOOFCHK><TRUST>on</TRUST>";
    let desired = work_out(Driver::Bridge, more, virtual_function(None)).unwrap().desired;
    let around = Surroundings::default();
    let first = difference(&desired, &seen(&[(3, unset)]), &around).unwrap();
    assert_eq!(told(&first.changes), ["set ens1f0 vf 3 mac 02:00:00:00:00:07 vlan 50 spoofchk off trust on"]);
    let set = FunctionSeen { mac: MAC, vlan: 50, spoofchk: false, trust: true };
    assert_eq!(difference(&desired, &seen(&[(3, set)]), &around).unwrap().changes, []);
    // What another guest left is set anew, whoever has it.
    let other = FunctionSeen { vlan: 60, ..set };
    assert_eq!(
        told(&difference(&desired, &seen(&[(3, other)]), &around).unwrap().changes),
        ["set ens1f0 vf 3 vlan 50"]
    );
    for none in [seen(&[(2, set)]), Model::new().seen] {
        let conflict = difference(&desired, &none, &around).unwrap_err().to_string();
        assert!(conflict.contains("ens1f0 has no virtual function 3"), "{conflict}");
    }

    let leaving = Leaving::from(&desired);
    let gone = removal(&leaving, &seen(&[(3, set)]), &[].into()).changes;
    let expected =
        ["reset ens1f0 vf 3 vlan 0 spoofchk on trust off", "reset ens1f0 vf 3 mac 00:00:00:00:00:00"];
    assert_eq!(told(&gone), expected);
    assert!(gone.iter().all(Change::is_advisory), "a guest that has gone is not held by its card");
    assert_eq!(removal(&leaving, &seen(&[(3, unset)]), &[].into()).changes, [], "again");
    let others = FunctionSeen { mac: Mac([2, 0, 0, 0, 0, 8]), ..set };
    assert_eq!(
        removal(&leaving, &seen(&[(3, others)]), &[].into()).changes,
        [],
        "another guest has it by now"
    );
}

/// On a host with that card, whose only network device is `up0`: a veth, whose kernel knows of no functions.
fn host_with_card() -> Host {
    let mut host = Host::new();
    host.places.pci = host.places.uplinks.with_file_name("pci");
    std::fs::create_dir(&host.places.pci).unwrap();
    card(&host.places.pci, &[("up0", "")]);
    host
}

#[test]
fn a_host_without_functions_says_so_and_lets_go() {
    let host = host_with_card();
    let vm = document(7, &pci(Driver::Bridge, ""));
    let text = host.refused(Verb::Pre, &vm);
    assert_eq!(
        text,
        "NIC 1: up0 has no virtual function 3: its driver does not tell of any, or not of so many"
    );
    host.done(Verb::Clean, &vm);
    assert_eq!(host.reservation(VmId(7)), None);
    host.list("");
    assert!(host.refused(Verb::Pre, &vm).contains("up0 is not listed"));
    let gone = document(7, &pci(Driver::Bridge, "<SHORT_ADDRESS>85:02.7</SHORT_ADDRESS>"));
    assert_eq!(host.refused(Verb::Pre, &gone), "NIC 1: this host has no PCI device 85:02.7");
    let response = host.run(Verb::Clean, &gone);
    assert_eq!(response.outcome, Outcome::Done, "a guest that has gone is not held by a card that has");
    let vxlan = document(7, &pci(Driver::Vxlan, ""));
    assert!(host.refused(Verb::Pre, &vxlan).contains("not possible for a PCI device"));
}

#[test]
fn a_function_is_its_guests_until_it_is_another_ones() {
    use causeway_vnm::desired::Desired;
    use causeway_vnm::reservation::{Reservation, Reservations};
    let dir = tempfile::tempdir().unwrap();
    let book = Reservations::new(dir.path());
    let reserve = |vm: u32, function: Option<Function>| {
        let before = book.load(VmId(vm)).unwrap();
        let mut after = Reservation::empty(VmId(vm));
        let functions = function.into_iter().collect();
        after.reserve("bridge", &Desired { functions, ..Desired::nothing(VmId(vm)) });
        book.replace(&before, &after).unwrap();
        book.load(VmId(vm)).unwrap()
    };
    let first = reserve(7, Some(function()));
    assert_eq!(first.bridges().map(LinkName::as_str).collect::<Vec<_>>(), ["ens1f0"]);
    assert_eq!(first.desired(&[1].into()).functions, [function()]);
    assert!(!book.has_since(&function(), VmId(7), first.written).unwrap());
    // Another VM has come to it: nothing of what it has is the first one's to reset.
    reserve(8, Some(function()));
    assert!(book.has_since(&function(), VmId(7), first.written).unwrap());
    assert!(!book.has_since(&Function { index: 4, ..function() }, VmId(7), first.written).unwrap());
    // One that lost it long ago, with its host, has nothing to say.
    assert!(!book.has_since(&function(), VmId(8), first.written + 2).unwrap());
    assert!(reserve(7, None).is_empty() && reserve(8, None).is_empty());
    assert_eq!(book.vms().unwrap(), []);
}
