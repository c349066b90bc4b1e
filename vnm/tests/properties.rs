//! Difference and removal against a kernel made of data: any order of any VMs' actions.

#![cfg(test)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::document::VmDocument;
use causeway_core::names::{LinkName, VmId};
use causeway_vnm::desired::{self, Desired, Driver, Facts, Settings, Uplink};
use causeway_vnm::fabric::linux::mark::Mark;
use causeway_vnm::fabric::linux::parse::LinkKind;
use causeway_vnm::fabric::linux::{Leaving, Surroundings, difference, removal};
use common::model::Model;
use common::{document, nic};
use proptest::prelude::*;

/// The driver of a VM's networks. This kernel has no VLAN devices, so the model is where they are tried.
fn driver(vm: u32) -> Driver {
    if vm < 2 { Driver::Vxlan } else { Driver::Dot1q }
}

/// The network of a VM with NICs in these networks; network 3 is network 0 on another uplink: a conflict.
fn desired(vm: u32, networks: &BTreeSet<u8>) -> Option<Desired> {
    let name = driver(vm).name();
    let mad = format!("<VN_MAD>{name}</VN_MAD>");
    let bridge = |network: u32| format!("{mad}<BRIDGE>{name}.{network}</BRIDGE>");
    let one = |(id, network): (u32, &u8)| match network {
        3 => nic(vm, id, 10, &format!("{}<PHYDEV>up1</PHYDEV>", bridge(10))),
        2 => {
            let more = "<MTU>1300</MTU><BRIDGE_CONF>ageing_time=100</BRIDGE_CONF>";
            nic(vm, id, 12, &format!("{}{more}", bridge(12)))
        }
        n => nic(vm, id, 10 + u32::from(*n), &bridge(10 + u32::from(*n))),
    };
    let nics: String = (0..).zip(networks).map(one).collect();
    let uplink = Uplink { mtu: 1600, up: true, addresses: vec!["10.77.0.1".parse().unwrap()] };
    let listed: BTreeSet<LinkName> = ["up0", "up1"].iter().map(|n| n.parse().unwrap()).collect();
    let uplinks = listed.iter().map(|name| (name.clone(), uplink.clone())).collect();
    let document = VmDocument::parse(document(vm, &nics).as_bytes()).unwrap();
    desired::desired(
        Driver::Vxlan,
        &document,
        &Settings::default(),
        &Facts { listed, uplinks, ..Facts::default() },
    )
    .ok()
    .map(|answer| answer.desired)
}

#[derive(Debug, Clone)]
enum Event {
    Pre(u32, BTreeSet<u8>),
    Plug(u32),
    Unplug(u32),
    Clean(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let networks = prop::collection::btree_set(0u8..4, 1..3);
    prop_oneof![
        3 => (0u32..4, networks).prop_map(|(vm, n)| Event::Pre(vm, n)),
        2 => (0u32..4).prop_map(Event::Plug),
        2 => (0u32..4).prop_map(Event::Unplug),
        3 => (0u32..4).prop_map(Event::Clean),
    ]
}

/// A host with what its VMs have reserved.
struct World {
    model: Model,
    reserved: BTreeMap<u32, Desired>,
}

impl World {
    fn bridges_of_others(&self, vm: u32) -> BTreeSet<LinkName> {
        let others = self.reserved.iter().filter(|(other, _)| **other != vm);
        others.flat_map(|(_, state)| state.bridges.iter().map(|b| b.name.clone())).collect()
    }

    fn plugged(&self, vm: u32) -> bool {
        self.model.seen.links.values().any(|link| link.name.starts_with(&format!("one-{vm}-")))
    }

    /// Every reserved NIC has its bridge and its tunnel in it.
    fn check(&self) {
        for (vm, state) in &self.reserved {
            for vlan in &state.vlans {
                assert!(self.model.seen.is_port_of(&vlan.name, &vlan.bridge), "VM {vm} lost {}", vlan.name);
            }
            for tunnel in &state.tunnels {
                assert!(
                    self.model.seen.is_port_of(&tunnel.name, tunnel.bridge.as_ref().unwrap()),
                    "VM {vm} lost {}",
                    tunnel.name
                );
            }
        }
    }

    fn step(&mut self, event: &Event) {
        match event {
            // oned runs one action of a VM at a time, and `pre` only of one that is not here.
            Event::Pre(vm, networks) if !self.plugged(*vm) && !self.reserved.contains_key(vm) => {
                let Some(state) = desired(*vm, networks) else { return };
                let around = Surroundings {
                    listed: BTreeSet::new(),
                    shared: self.bridges_of_others(*vm),
                    ..Surroundings::default()
                };
                let Ok(found) = difference(&state, &self.model.seen, &around) else { return };
                found.changes.iter().for_each(|change| self.model.apply(change));
                let again = difference(&state, &self.model.seen, &around).unwrap();
                assert_eq!(again.changes, [], "apply twice is apply once");
                self.reserved.insert(*vm, state);
            }
            Event::Plug(vm) if !self.plugged(*vm) => {
                for port in self.reserved.get(vm).map(|state| state.ports.clone()).unwrap_or_default() {
                    let bridge = self.model.index(port.bridge.as_str());
                    self.model.add(port.tap.as_str(), LinkKind::Tap, bridge, Mark::Foreign);
                }
            }
            Event::Unplug(vm) => {
                let own = format!("one-{vm}-");
                let taps: Vec<String> = self
                    .model
                    .seen
                    .links
                    .values()
                    .map(|l| l.name.clone())
                    .filter(|n| n.starts_with(&own))
                    .collect();
                taps.iter().for_each(|tap| self.model.delete(tap));
            }
            Event::Clean(vm) => {
                let Some(state) = self.reserved.get(vm).cloned() else { return };
                let gone = removal(&Leaving::from(&state), &self.model.seen, &self.bridges_of_others(*vm));
                gone.changes.iter().for_each(|change| self.model.apply(change));
                if gone.lingering.is_empty() {
                    self.reserved.remove(vm);
                }
            }
            _ => {}
        }
        self.check();
    }
}

proptest! {
    #[test]
    fn any_order_of_actions_serves_every_guest_and_ends_with_nothing(events in prop::collection::vec(event(), 1..40)) {
        let mut world = World { model: Model::new(), reserved: BTreeMap::new() };
        let empty = world.model.seen.clone();
        events.iter().for_each(|event| world.step(event));
        for vm in 0..4 {
            world.step(&Event::Unplug(vm));
            world.step(&Event::Clean(vm));
        }
        prop_assert_eq!(world.model.seen, empty);
    }

    #[test]
    fn a_killed_run_is_finished_by_the_next(
        vm in 1u32..3,
        networks in prop::collection::btree_set(0u8..3, 1..3),
        kill in 0usize..9,
    ) {
        let state = desired(vm, &networks).unwrap();
        let mut model = Model::new();
        let around = Surroundings::default();
        let changes = difference(&state, &model.seen, &around).unwrap().changes;
        changes.iter().take(kill).for_each(|change| model.apply(change));
        let rest = difference(&state, &model.seen, &around).unwrap().changes;
        prop_assert_eq!(rest.len(), changes.len().saturating_sub(kill));
        rest.iter().for_each(|change| model.apply(change));
        prop_assert_eq!(difference(&state, &model.seen, &around).unwrap().changes, []);
        prop_assert_eq!(state.vm, VmId(vm));
    }
}
