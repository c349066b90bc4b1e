//! The VLANs within a Linux bridge: what a NIC asks for, and that no guest is ever in another one. The kernel of our machines has
//! no such bridges, so this one is made of data; what is sent to a real one is in `tagged_netlink.rs`.

#![cfg(test)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::document::VmDocument;
use causeway_core::names::{LinkName, VmId};
use causeway_vnm::desired::{self, BridgeOption, Desired, Driver, Facts, Settings, Uplink};
use causeway_vnm::fabric::linux::mark::Mark;
use causeway_vnm::fabric::linux::parse::LinkKind;
use causeway_vnm::fabric::linux::vlan_table::Tagging;
use causeway_vnm::fabric::linux::{Change, Leaving, Surroundings, difference, removal, vlans};
use causeway_vnm::reservation::{Reservation, Reservations};
use common::model::Model;
use common::{document, nic};
use proptest::prelude::*;

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn work_out(driver: Driver, templates: &str, vm: u32) -> Result<Desired, String> {
    let uplink = Uplink { mtu: 1500, up: true, addresses: Vec::new() };
    let facts = Facts {
        listed: [name("up0"), name("br")].into(),
        uplinks: [(name("up0"), uplink)].into(),
        ..Facts::default()
    };
    let vm = VmDocument::parse(document(vm, templates).as_bytes()).map_err(|e| e.to_string())?;
    let answer = desired::desired(driver, &vm, &Settings::default(), &facts).map_err(|r| r.to_string())?;
    Ok(answer.desired)
}

/// NIC 0 of a VM in bridge `br`.
fn one(driver: Driver, vm: u32, more: &str) -> Result<Desired, String> {
    let more = format!("{more}<VN_MAD>{}</VN_MAD><BRIDGE>br</BRIDGE>", driver.name());
    work_out(driver, &nic(vm, 0, 50, &more), vm)
}

fn listed(list: &str) -> String {
    format!("<VLAN_TAGGED_ID>{list}</VLAN_TAGGED_ID>")
}

fn told(changes: &[Change]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

fn go(model: &mut Model, desired: &Desired, around: &Surroundings) -> Vec<String> {
    let changes = difference(desired, &model.seen, around).unwrap().changes;
    changes.iter().for_each(|change| model.apply(change));
    assert_eq!(difference(desired, &model.seen, around).unwrap().changes, [], "apply twice is apply once");
    told(&changes)
}

fn plug(model: &mut Model, tap: &str) {
    let bridge = model.index("br");
    model.add(tap, LinkKind::Tap, bridge, Mark::Foreign);
}

#[test]
fn a_bridge_filters_before_its_guest_comes() {
    for driver in [Driver::Bridge, Driver::Fw] {
        let desired = one(driver, 7, &listed("10-12, 3")).unwrap();
        let mut model = Model::new();
        assert_eq!(
            go(&mut model, &desired, &Surroundings::default()),
            [
                "create bridge br vlan_filtering 1",
                "mark br",
                "set up0 bridge br",
                "set vlans of up0 tagged 3,10-12",
            ]
        );
        plug(&mut model, "one-7-0");
        assert_eq!(model.tags_of("one-7-0"), Some(BTreeSet::new()), "until `post` it can tag nothing");
        let mut changes = go(&mut model, &desired, &Surroundings::default());
        changes.retain(|change| change.contains("vlan"));
        assert_eq!(changes, ["set vlans of one-7-0 tagged 3,10-12"]);
    }
}

#[test]
fn the_tags_within_a_tag_have_a_bridge_of_their_own_default() {
    let desired = one(Driver::Dot1q, 7, "<CVLANS>7,8</CVLANS>").unwrap();
    let mut model = Model::new();
    assert_eq!(
        go(&mut model, &desired, &Surroundings::default()),
        [
            "create bridge br vlan_filtering 1 vlan_default_pvid 50",
            "mark br",
            "create vlan up0.50 protocol 802.1Q id 50 on up0 mtu 1500 in br",
            "mark up0.50",
            "set vlans of up0.50 untagged 50 tagged 7-8",
        ]
    );
    plug(&mut model, "one-7-0");
    // As stock leaves it: the bridge's old default, and the network's own.
    let index = model.index("one-7-0").unwrap();
    let old = [(1, Tagging { pvid: false, untagged: true }), (50, Tagging::NATIVE)];
    model.seen.vlans.insert(index, old.into());
    let changes = go(&mut model, &desired, &Surroundings::default());
    assert_eq!(changes[..2], ["forget vlans 1 of one-7-0", "set vlans of one-7-0 tagged 7-8"]);
    assert_eq!(model.tags_of("one-7-0"), Some([7, 8].into()));
}

#[test]
fn lists_that_no_bridge_keeps_are_refused_by_name() {
    let rules = "<SECURITY_GROUPS>100</SECURITY_GROUPS>";
    let addresses = "<FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING>";
    for (driver, more, words) in [
        (Driver::Bridge, listed("1-5"), "VLAN_TAGGED_ID is \"1-5\", not tags from 1 to 4094 without 1"),
        (Driver::Bridge, listed("0"), "VLAN_TAGGED_ID is \"0\""),
        (Driver::Bridge, listed("4095"), "NIC[NIC_ID=0]/VLAN_TAGGED_ID is \"4095\""),
        (Driver::Bridge, listed("7; reboot"), "VLAN_TAGGED_ID is \"7; reboot\""),
        (Driver::Dot1q, "<CVLANS>50</CVLANS>".into(), "CVLANS is \"50\", not tags from 1 to 4094 without 50"),
        (Driver::Dot1q, listed("7"), "the VLANs within a network of 802.1Q are its CVLANS"),
        (Driver::Fw, listed("7") + rules, "hidden from both"),
        (Driver::Fw, listed("7") + addresses, "hidden from both"),
        (Driver::Dot1q, format!("<CVLANS>7</CVLANS>{rules}"), "hidden from both"),
    ] {
        let text = one(driver, 7, &more).unwrap_err();
        assert!(text.contains(words), "{more}: {text}");
    }
    // The Ethernet address of a frame is seen whatever its tag is.
    let more = listed("7") + "<FILTER_MAC_SPOOFING>YES</FILTER_MAC_SPOOFING>";
    let desired = one(Driver::Fw, 7, &more).unwrap();
    assert_eq!((desired.guards.len(), desired.tags.len()), (1, 1));
    let native = listed("5") + "<BRIDGE_CONF>vlan_default_pvid=5</BRIDGE_CONF>";
    assert!(one(Driver::Bridge, 7, &native).unwrap_err().contains("without 5"));
}

#[test]
fn a_nic_that_wants_filtering_has_it_whatever_its_neighbour_says() {
    let mad = "<VN_MAD>bridge</VN_MAD><BRIDGE>br</BRIDGE>";
    let off = nic(7, 0, 50, &format!("{mad}<BRIDGE_CONF>vlan_filtering=0</BRIDGE_CONF>"));
    let on = nic(7, 1, 50, &format!("{mad}{}", listed("9")));
    for templates in [format!("{off}{on}"), format!("{on}{off}")] {
        let desired = work_out(Driver::Bridge, &templates, 7).unwrap();
        assert_eq!(desired.bridges[0].options.get(&BridgeOption::VlanFiltering), Some(&1));
        assert_eq!((desired.bridges.len(), desired.tags.len()), (1, 1));
    }
}

#[test]
fn guests_of_other_networks_lose_nothing_unasked() {
    let plain = one(Driver::Bridge, 8, "").unwrap();
    let tagged = one(Driver::Bridge, 7, &listed("9")).unwrap();
    let mut model = Model::new();
    go(&mut model, &plain, &Surroundings::default());
    plug(&mut model, "one-8-0");
    let conflict = difference(&tagged, &model.seen, &Surroundings::default()).unwrap_err().to_string();
    assert!(conflict.contains("does not filter by VLAN yet") && conflict.contains("one-8-0"), "{conflict}");
    // A guest that is here must not go on in every VLAN; the other one is named.
    plug(&mut model, "one-7-0");
    let found = difference(&tagged, &model.seen, &Surroundings::default()).unwrap();
    assert!(found.notes.iter().any(|note| note.contains("one-8-0")), "{:?}", found.notes);
    let mut changes = told(&found.changes);
    changes.retain(|change| change.contains("vlan"));
    assert_eq!(
        changes,
        ["set vlans of one-7-0 tagged 9", "set vlans of up0 tagged 9", "set bridge br vlan_filtering 1"],
        "its own VLANs are there when the bridge begins to look"
    );
    found.changes.iter().for_each(|change| model.apply(change));
    // A network that says it filters nothing comes: the bridge goes on.
    let off = one(Driver::Bridge, 9, "<BRIDGE_CONF>vlan_filtering=0</BRIDGE_CONF>").unwrap();
    let found = difference(&off, &model.seen, &Surroundings::default()).unwrap();
    assert_eq!(found.changes, []);
    assert!(found.notes[0].contains("goes on to filter"), "{:?}", found.notes);
}

#[test]
fn a_bridge_of_the_operators_is_used_as_it_is_or_not_at_all() {
    let around = Surroundings { listed: [name("br")].into(), ..Surroundings::default() };
    let mut model = Model::new();
    let options = BTreeMap::from([(BridgeOption::VlanFiltering, 0)]);
    model.add("br", LinkKind::Bridge(options), None, Mark::Foreign);
    let (tagged, inner) =
        (one(Driver::Bridge, 7, &listed("9")).unwrap(), one(Driver::Dot1q, 7, "<CVLANS>9</CVLANS>").unwrap());
    for desired in [&tagged, &inner] {
        let conflict = difference(desired, &model.seen, &around).unwrap_err().to_string();
        assert!(conflict.contains("`ip link set br type bridge vlan_filtering 1`"), "{conflict}");
    }
    let options = [(BridgeOption::VlanFiltering, 1), (BridgeOption::VlanDefaultPvid, 1)];
    model.at(&name("br")).kind = LinkKind::Bridge(options.into());
    let conflict = difference(&inner, &model.seen, &around).unwrap_err().to_string();
    assert!(conflict.contains("puts new ports into VLAN 1"), "{conflict}");
    // Its uplink is the operator's too: what it lacks is said, not mended.
    model.apply(&Change::SetBridgeOf { name: name("up0"), bridge: name("br") });
    plug(&mut model, "one-7-0");
    let found = difference(&tagged, &model.seen, &around).unwrap();
    let mut changes = told(&found.changes);
    changes.retain(|change| change.contains("vlan"));
    assert_eq!(changes, ["set vlans of one-7-0 tagged 9"]);
    assert_eq!(found.notes, ["up0 does not carry VLANs 9 in br, which causeway did not make"]);
    // A VLAN whose frames have no tag there can't be told from those of guests that tag nothing.
    model.apply(&Change::SetVlans { port: name("up0"), untagged: Some(9), tagged: BTreeSet::new() });
    let conflict = difference(&tagged, &model.seen, &around).unwrap_err().to_string();
    assert!(conflict.contains("VLAN 9 have no tag at up0"), "{conflict}");
}

/// Guests of the stock driver have nothing reserved: what their devices are in tells what they need. So does the bridge itself.
#[test]
fn what_other_devices_are_in_stays_at_the_uplink() {
    let state = one(Driver::Bridge, 7, &listed("10-14")).unwrap();
    let mut model = Model::new();
    go(&mut model, &state, &Surroundings::default());
    for tap in ["one-7-0", "one-9-0"] {
        plug(&mut model, tap);
    }
    go(&mut model, &state, &Surroundings::default());
    for (port, vlan) in [("one-9-0", 10), ("br", 12)] {
        model.apply(&Change::SetVlans { port: name(port), untagged: None, tagged: [vlan].into() });
    }
    let leaving = Leaving::from(&state);
    let gone = |model: &Model| {
        let mut gone = told(&removal(&leaving, &model.seen, &BTreeSet::new()).changes);
        gone.retain(|change| change.contains("vlans"));
        gone
    };
    assert_eq!(gone(&model), [""; 0], "its own device is still there");
    model.delete("one-7-0");
    assert_eq!(gone(&model), ["forget vlans 11,13-14 of up0"]);
    // An update spares them as well.
    let less = one(Driver::Bridge, 7, &listed("11")).unwrap();
    let around = Surroundings { vlans_given_up: vlans::carried(&state.tags), ..Surroundings::default() };
    let changes = told(&difference(&less, &model.seen, &around).unwrap().changes);
    assert_eq!(changes, ["forget vlans 13-14 of up0"]);
    // The bridge of somebody else, and so its uplink, stays as it is.
    model.at(&name("br")).mark = Mark::Foreign;
    assert_eq!(gone(&model), [""; 0]);
}

#[test]
fn reservations_tell_what_an_uplink_carries_for_whom() {
    let dir = tempfile::tempdir().unwrap();
    let book = Reservations::new(dir.path());
    let empty = |vm| Reservation::empty(VmId(vm));
    for (vm, list) in [(7, "9"), (8, "9-10")] {
        let mut after = empty(vm);
        after.reserve("bridge", &one(Driver::Bridge, vm, &listed(list)).unwrap());
        book.replace(&empty(vm), &after).unwrap();
    }
    let others = book.tags([&name("br")], VmId(7)).unwrap();
    assert_eq!(others.tags[0].tagged, [9, 10].into());
    assert_eq!((others.tags.len(), others.unreadable.len()), (1, 0));
    let mut leaving = Leaving::from(&one(Driver::Bridge, 7, &listed("8-9")).unwrap());
    leaving.spare_vlans(&others.tags);
    assert_eq!(leaving.vlans.into_values().collect::<Vec<_>>(), [[8].into()]);
    // The bridge is to filter whatever is reserved of it besides, and the file of an older release says nothing of VLANs.
    let path = dir.path().join("8.json");
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    file["nics"]["0"]["place"]["bridge"]["options"]["vlan_filtering"] = 0.into();
    std::fs::write(&path, file.to_string()).unwrap();
    let read = book.load(VmId(8)).unwrap().desired(&[0].into());
    assert_eq!(read.bridges[0].options.get(&BridgeOption::VlanFiltering), Some(&1));
    file["nics"]["0"].as_object_mut().unwrap().remove("tags");
    std::fs::write(&path, file.to_string()).unwrap();
    assert_eq!(book.load(VmId(8)).unwrap().desired(&[0].into()).tags, []);
    std::fs::write(&path, "{").unwrap();
    assert_eq!(book.tags([&name("br")], VmId(7)).unwrap().unreadable.len(), 1);
}

/// VMs 0 to 3 in one bridge; the index is that of their list.
const LISTS: [&str; 4] = ["10", "10-12", "12,20", "20-22"];

struct World {
    model: Model,
    reserved: BTreeMap<u32, Desired>,
}

impl World {
    fn others(&self, vm: u32) -> Surroundings {
        let others = self.reserved.iter().filter(|(other, _)| **other != vm).map(|(_, state)| state);
        let tags = others.flat_map(|state| state.tags.clone()).collect();
        Surroundings { tags, ..Surroundings::default() }
    }

    fn tap(&self, vm: u32) -> Option<String> {
        let tap = format!("one-{vm}-0");
        self.model.index(&tap).map(|_| tap)
    }

    /// Does it, and looks after each change at what every guest can tag.
    fn act(&mut self, vm: u32, list: usize, around: Surroundings) {
        let new = one(Driver::Bridge, vm, &listed(LISTS[list])).unwrap();
        let old = self.reserved.insert(vm, new.clone());
        let Ok(found) = difference(&new, &self.model.seen, &around) else {
            panic!("one list stands in the way")
        };
        for change in &found.changes {
            self.model.apply(change);
            for (other, state) in &self.reserved {
                let Some(tap) = self.tap(*other) else { continue };
                let mut may = state.tags[0].tagged.clone();
                may.extend(old.iter().filter(|_| *other == vm).flat_map(|old| &old.tags[0].tagged));
                let tags = self.model.tags_of(&tap).expect("a bridge that filters");
                assert!(tags.is_subset(&may), "{tap}: {tags:?}, not {may:?}, after {change}");
            }
        }
        assert_eq!(difference(&new, &self.model.seen, &around).unwrap().changes, []);
    }

    fn check(&self) {
        let wanted: BTreeSet<u16> =
            self.reserved.values().flat_map(|state| state.tags[0].tagged.clone()).collect();
        if !self.reserved.is_empty() {
            assert_eq!(self.model.tags_of("up0"), Some(wanted), "the uplink has what its guests need");
        }
    }

    fn step(&mut self, (vm, list, what): (u32, usize, u8)) {
        match (what, self.tap(vm), self.reserved.get(&vm).cloned()) {
            // `pre`, `post`, and `update_nic` with another list.
            (0, None, None) => self.act(vm, list, self.others(vm)),
            (1, None, Some(state)) => {
                plug(&mut self.model, &format!("one-{vm}-0"));
                assert_eq!(self.model.tags_of(&format!("one-{vm}-0")), Some(BTreeSet::new()));
                let list =
                    LISTS.iter().position(|l| one(Driver::Bridge, vm, &listed(l)) == Ok(state.clone()));
                self.act(vm, list.unwrap(), self.others(vm));
                assert_eq!(self.model.tags_of(&format!("one-{vm}-0")).as_ref(), Some(&state.tags[0].tagged));
            }
            (2, Some(tap), Some(old)) => {
                let around = Surroundings { vlans_given_up: vlans::carried(&old.tags), ..self.others(vm) };
                self.act(vm, list, around);
                assert_eq!(self.model.tags_of(&tap).as_ref(), Some(&self.reserved[&vm].tags[0].tagged));
            }
            (3, tap, Some(state)) => {
                tap.into_iter().for_each(|tap| self.model.delete(&tap));
                self.reserved.remove(&vm);
                let mut leaving = Leaving::from(&state);
                leaving.spare_vlans(&self.others(vm).tags);
                let bridges: BTreeSet<LinkName> = self.reserved.values().map(|_| name("br")).collect();
                let gone = removal(&leaving, &self.model.seen, &bridges);
                gone.changes.iter().for_each(|change| self.model.apply(change));
            }
            _ => {}
        }
        self.check();
    }
}

proptest! {
    #[test]
    fn no_order_of_actions_puts_a_guest_into_a_vlan_that_it_may_not_be_in(
        events in prop::collection::vec((0u32..4, 0usize..4, 0u8..4), 1..50),
    ) {
        let mut world = World { model: Model::new(), reserved: BTreeMap::new() };
        let empty = world.model.seen.clone();
        events.into_iter().for_each(|event| world.step(event));
        (0..4).for_each(|vm| world.step((vm, 0, 3)));
        // The bridge goes with its last guest, and takes the uplink's VLANs with it.
        let mut left = world.model.seen.clone();
        left.fdb.clear();
        prop_assert_eq!(left, empty);
    }
}
