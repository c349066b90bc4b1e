//! Difference and removal against a switch made of data: any order of any VMs' actions.

#![cfg(test)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::{LinkName, VmId};
use causeway_vnm::desired::guard::{Pass, Passage, Traffic};
use causeway_vnm::desired::{Datapath, Desired, Guard, Number, Switch, SwitchPort, Vlans};
use causeway_vnm::fabric::ovs::change::{Edit, Expected, Table};
use causeway_vnm::fabric::ovs::observe::{BridgeSeen, FlowsSeen, PortSeen};
use causeway_vnm::fabric::ovs::openflow::{Flow, FlowChange};
use causeway_vnm::fabric::ovs::ovsdb::{Datum, Row, RowId};
use causeway_vnm::fabric::ovs::row::Columns;
use causeway_vnm::fabric::ovs::{Change, Leaving, Observed, Surroundings, difference, flows, mark, removal};
use proptest::prelude::*;

/// A switch that does as it is told.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    seen: Observed,
    flows: BTreeMap<String, Vec<Flow>>,
    next: u32,
}

fn known(id: &str) -> RowId {
    RowId::Known(id.to_owned())
}

impl Model {
    /// With a bridge `br0` of the operator's.
    fn new() -> Self {
        let mut model = Model {
            seen: Observed { vlan_limit: 1, ..Observed::default() },
            flows: BTreeMap::new(),
            next: 0,
        };
        model.edit(&Edit::AddBridge { name: "br0".to_owned(), bridge: Columns::default() });
        model
    }

    fn id(&mut self) -> String {
        self.next += 1;
        format!("{:08}", self.next)
    }

    fn add_port(&mut self, bridge: &str, name: &str, port: Row, interface: Row) {
        assert!(!self.seen.ports.contains_key(name), "{name} is there");
        let id = self.id();
        let port = port.with("_uuid", Datum::Row(known(&id))).with("name", Datum::text(name));
        let of = self.seen.bridges.get_mut(bridge).unwrap();
        let mut ports: Vec<Datum> = of.row.rows("ports").into_iter().map(Datum::Row).collect();
        ports.push(Datum::Row(known(&id)));
        of.row = of.row.clone().with("ports", Datum::Set(ports));
        let mut interface = interface.with("name", Datum::text(name));
        // A patch is there at once, a guest's device only when it is plugged in.
        if interface.text("type") == Some("patch") {
            let number = interface.get("ofport_request").unwrap().clone();
            interface = interface.with("ofport", number);
        }
        let seen = PortSeen { bridge: Some(bridge.to_owned()), port, interface: Some(interface) };
        self.seen.ports.insert(name.to_owned(), seen);
    }

    fn remove_port(&mut self, name: &str) {
        let gone = self.seen.ports.remove(name).unwrap();
        let of = self.seen.bridges.get_mut(&gone.bridge.unwrap()).unwrap();
        let id = gone.port.id().unwrap();
        let ports = of.row.rows("ports").into_iter().filter(|port| *port != id).map(Datum::Row).collect();
        of.row = of.row.clone().with("ports", Datum::Set(ports));
    }

    fn edit(&mut self, edit: &Edit) {
        match edit {
            Edit::AddBridge { name, bridge } => {
                let id = self.id();
                let row = bridge.as_row().with("_uuid", Datum::Row(known(&id)));
                self.seen.bridges.insert(name.clone(), BridgeSeen { row, flows: None });
                self.flows.insert(name.clone(), Vec::new());
                self.add_port(name, name, Row::default(), Row::default());
            }
            Edit::AddPort { bridge, name, port, interface, .. } => {
                self.add_port(bridge, name, port.as_row(), interface.as_row());
            }
            Edit::SetPort { name, port, interface } => {
                let seen = self.seen.ports.get_mut(name).unwrap();
                seen.port = merged(&seen.port, port);
                seen.interface = Some(merged(seen.interface.as_ref().unwrap(), interface));
            }
            Edit::RemovePort { name, .. } => self.remove_port(name),
            Edit::RemoveBridge { name, .. } => {
                self.seen.bridges.remove(name).unwrap();
                self.flows.remove(name).unwrap();
                self.seen.ports.retain(|_, port| port.bridge.as_ref() != Some(name));
            }
            Edit::ReadTwoTags => self.seen.vlan_limit = 2,
        }
    }

    fn holds(&self, expected: &Expected) -> bool {
        let id = |row: Option<&Row>| row.and_then(Row::id);
        match expected {
            Expected::Named { table: Table::Bridge, name, row } => {
                id(self.seen.bridges.get(name).map(|seen| &seen.row)) == row.as_deref().map(known)
            }
            Expected::Named { table: Table::Port, name, row } => {
                id(self.seen.ports.get(name).map(|seen| &seen.port)) == row.as_deref().map(known)
            }
            Expected::Ports { bridge, ports } => {
                let there = self.seen.bridges[bridge].row.rows("ports");
                there == ports.iter().map(|port| known(port)).collect::<Vec<_>>()
            }
        }
    }

    fn apply(&mut self, changes: &[Change]) {
        let transactions = changes.iter().filter(|change| matches!(change, Change::Database(_))).count();
        assert!(transactions <= 1);
        let text = serde_json::to_string(changes).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Change>>(&text).unwrap(), changes);
        assert!(changes.iter().all(|change| !change.to_string().contains('\n')));
        for change in changes {
            match change {
                Change::Database(transaction) => {
                    assert!(transaction.expect.iter().all(|expected| self.holds(expected)), "{change:?}");
                    transaction.edits.iter().for_each(|edit| self.edit(edit));
                }
                Change::Flows { bridge, changes, .. } => {
                    let flows = self.flows.get_mut(bridge).unwrap();
                    for change in changes {
                        match change {
                            FlowChange::Put(flow) => {
                                flows.retain(|old| old.key != flow.key);
                                flows.push(flow.clone());
                            }
                            FlowChange::Remove(key) => flows.retain(|old| old.key != *key),
                            // The stock driver is not here: it is what was lent to a guest that brought connections.
                            FlowChange::RemoveAll(which) => {
                                assert_eq!(which.cookies.mask, u64::MAX);
                                flows.retain(|old| old.cookie.0 != which.cookies.value);
                            }
                            FlowChange::Lend(..) => panic!("no guest brings connections"),
                        }
                    }
                }
            }
        }
    }

    /// What is to be seen of a VM; with everything that could be asked for by name.
    fn of(&self, vm: u32, numbers: impl Iterator<Item = u32>) -> Observed {
        let mut seen = self.seen.clone();
        for (name, bridge) in &mut seen.bridges {
            let some = |fits: &dyn Fn(u64) -> bool| {
                self.flows[name].iter().filter(|flow| fits(flow.cookie.0)).cloned().collect::<Vec<_>>()
            };
            let of_vm = some(&|cookie| (0..8).any(|nic| flows::cookie(VmId(vm), nic).0 == cookie));
            let shared = some(&|cookie| cookie == flows::of_all().value);
            let strays = some(&|cookie| cookie != flows::of_all().value);
            bridge.flows = Some(FlowsSeen { of_vm, shared, strays, ..FlowsSeen::default() });
        }
        let numbers: BTreeSet<u32> = numbers.collect();
        for (name, port) in &self.seen.ports {
            if let Some(number) = port.number().filter(|number| numbers.contains(number)) {
                seen.taken.insert((port.bridge.clone().unwrap(), number, name.clone()));
            }
            if name.starts_with("one-") {
                let Some(RowId::Known(id)) = port.port.id() else { panic!("{port:?}") };
                seen.guests.insert(id);
            }
        }
        seen
    }
}

fn merged(row: &Row, columns: &Columns) -> Row {
    let whole = columns.whole.columns();
    let row = whole.fold(row.clone(), |row, (column, value)| row.with(column, value.clone()));
    columns.maps.iter().fold(row, |row, (column, keys)| {
        let mut map = row.map(column).clone();
        for (key, value) in keys {
            map.remove(key);
            map.extend(value.clone().map(|value| (key.clone(), value)));
        }
        row.with(column, Datum::Map(map))
    })
}

/// How a NIC is: its bridge, its VLANs, and what guards it.
type Kind = (bool, u8, u8);

fn desired(vm: u32, kinds: &[Kind]) -> Desired {
    let mut state = Desired::nothing(VmId(vm));
    for (nic, (own, vlans, guarded)) in (0..).zip(kinds) {
        let name: LinkName = if *own { "br1" } else { "br0" }.parse().unwrap();
        if !state.switches.iter().any(|switch| switch.name == name) {
            state.switches.push(Switch {
                name: name.clone(),
                datapath: Datapath::Any,
                options: BTreeMap::new(),
                uplinks: [if *own { "up1" } else { "up0" }.parse().unwrap()].into(),
                keep: false,
            });
        }
        let tap: LinkName = format!("one-{vm}-{nic}").parse().unwrap();
        state.seats.push(SwitchPort {
            nic,
            tap: tap.clone(),
            switch: name,
            vlans: match (vlans, guarded) {
                (0, _) => Vlans::Access(0),
                (1, _) | (_, 2) => Vlans::Access(50),
                (2, _) => Vlans::Trunk { untagged: Some(50), tagged: Some([60, 61, 62].into()) },
                (3, _) => Vlans::Trunk { untagged: None, tagged: None },
                _ => Vlans::Tunnel { outer: 70, inner: [5].into(), ethertype: "802.1ad".to_owned() },
            },
            mtu: None,
            socket: None,
        });
        let mac = common::mac(vm, nic).parse().unwrap();
        let only =
            Passage::Only([Pass { traffic: Traffic::Udp(Some([(50, 60)].into())), peers: None }].into());
        let passage = || if *guarded == 2 { only.clone() } else { Passage::Open };
        state.guards.push(Guard {
            nic,
            tap,
            mac,
            macs: (*guarded == 1).then(|| [mac].into()),
            senders: (*guarded == 3).then(|| ["10.0.0.1".parse().unwrap()].into()),
            inbound: passage(),
            outbound: passage(),
        });
        let number = u16::try_from(0x4000 + vm * 8 + nic).unwrap();
        state.numbers.insert(nic, Number::try_from(number).unwrap());
    }
    state
}

#[derive(Debug, Clone)]
enum Event {
    /// `pre`, or an update of what is there.
    Bring(u32, Vec<Kind>),
    /// Libvirt; the number is the one that is asked for, or another.
    Plug(u32, bool),
    Unplug(u32),
    Clean(u32),
}

fn event() -> impl Strategy<Value = Event> {
    let kinds = prop::collection::vec((any::<bool>(), 0_u8..5, 0_u8..4), 1..3);
    prop_oneof![
        4 => (1_u32..4, kinds).prop_map(|(vm, kinds)| Event::Bring(vm, kinds)),
        2 => (1_u32..4, any::<bool>()).prop_map(|(vm, number)| Event::Plug(vm, number)),
        2 => (1_u32..4).prop_map(Event::Unplug),
        2 => (1_u32..4).prop_map(Event::Clean),
    ]
}

struct World {
    model: Model,
    there: BTreeMap<u32, Desired>,
}

impl World {
    fn seen(&self, state: &Desired) -> Observed {
        let seen = self.model.of(state.vm.0, state.numbers.values().map(|number| number.get().into()));
        let text = serde_json::to_string(&seen).unwrap();
        assert_eq!(serde_json::from_str::<Observed>(&text).unwrap(), seen);
        seen
    }

    fn bring(&mut self, state: &Desired) {
        let around = Surroundings { arp: true, ..Surroundings::default() };
        let found = difference(state, &self.seen(state), &around).unwrap();
        self.model.apply(&found.changes);
        let again = difference(state, &self.seen(state), &around).unwrap();
        assert_eq!(again.changes, [], "apply twice is apply once");
    }

    fn step(&mut self, event: &Event) {
        match event {
            Event::Bring(vm, kinds) => {
                let state = match self.there.get(vm) {
                    // Where it is stays as it is while it is here; what guards it changes.
                    Some(old) => {
                        let mut new = desired(*vm, kinds);
                        new.seats
                            .iter_mut()
                            .zip(&old.seats)
                            .for_each(|(new, old)| new.switch = old.switch.clone());
                        if new.seats.len() != old.seats.len() || new.switches != old.switches {
                            return;
                        }
                        new
                    }
                    None => desired(*vm, kinds),
                };
                self.bring(&state);
                self.there.insert(*vm, state);
            }
            Event::Plug(vm, right) => {
                for seat in self.there.get(vm).map(|state| state.seats.clone()).unwrap_or_default() {
                    let port = self.model.seen.ports.get_mut(seat.tap.as_str()).unwrap();
                    let interface = port.interface.take().unwrap();
                    let asked = interface.integer("ofport_request").unwrap();
                    let number = if *right { asked } else { i64::from(*vm) * 10 + i64::from(seat.nic) };
                    let number = interface.integer("ofport").unwrap_or(number);
                    port.interface = Some(interface.with("ofport", Datum::Integer(number)));
                }
                if let Some(state) = self.there.get(vm).cloned() {
                    self.bring(&state);
                }
            }
            Event::Unplug(vm) => {
                for seat in self.there.remove(vm).map(|state| state.seats).unwrap_or_default() {
                    self.model.remove_port(seat.tap.as_str());
                    self.clean(*vm, &seat);
                }
            }
            Event::Clean(vm) => {
                let Some(state) = self.there.get(vm).cloned() else { return };
                let gone = removal(&Leaving::from(&state), &self.seen(&state), &self.reserved(*vm));
                self.model.apply(&gone.changes);
                if gone.lingering.is_empty() {
                    self.there.remove(vm);
                }
            }
        }
        self.check();
    }

    /// Bridges that other VMs have reserved.
    fn reserved(&self, vm: u32) -> BTreeSet<LinkName> {
        let others = self.there.iter().filter(|(other, _)| **other != vm);
        others.flat_map(|(_, state)| state.switches.iter().map(|switch| switch.name.clone())).collect()
    }

    /// One NIC leaves, as when it is unplugged from a guest that stays.
    fn clean(&mut self, vm: u32, seat: &SwitchPort) {
        let state = desired(vm, &[(seat.switch.as_str() == "br1", 0, 0)]);
        let mut leaving = Leaving::nothing(VmId(vm));
        leaving.add(seat.nic, &seat.tap, None, &state.switches[0]);
        let gone = removal(&leaving, &self.seen(&state), &self.reserved(vm));
        assert!(gone.lingering.is_empty());
        self.model.apply(&gone.changes);
        let again = removal(&leaving, &self.seen(&state), &self.reserved(vm));
        assert_eq!(again.changes, [], "remove twice is remove once");
    }

    /// Every guest is as it should be, whatever the others did; and there is nothing of anybody else.
    fn check(&self) {
        for state in self.there.values() {
            for (seat, guard) in state.seats.iter().zip(&state.guards) {
                let port = &self.model.seen.ports[seat.tap.as_str()];
                let closed =
                    port.port.integers("trunks") == [4095] && port.port.text("vlan_mode") == Some("trunk");
                assert_eq!(closed, !guard.is_open(), "{}", seat.tap);
                let switch = state.switches.iter().find(|switch| switch.name == seat.switch).unwrap();
                for uplink in &switch.uplinks {
                    assert!(self.model.seen.on(seat.switch.as_str(), uplink.as_str()).is_some(), "{uplink}");
                }
                let cookie = flows::cookie(state.vm, seat.nic);
                let own = self.model.flows[seat.switch.as_str()].iter().filter(|flow| flow.cookie == cookie);
                assert_eq!(own.count() > 0, !guard.is_open(), "{}", seat.tap);
                let shared = &self.model.flows[seat.switch.as_str()];
                let shared = shared.iter().filter(|flow| flow.cookie.0 == flows::of_all().value);
                let named = format!("SetRegister(1, {})", port.number_to_come().unwrap());
                assert_eq!(
                    shared.filter(|flow| format!("{flow:?}").contains(&named)).count() > 0,
                    !guard.is_open()
                );
            }
        }
        let owners: BTreeSet<VmId> = self.there.values().map(|state| state.vm).collect();
        let marked = self.model.seen.ports.values().filter_map(|port| mark::owner(&port.port));
        assert!(marked.map(|owner| owner.0).all(|vm| owners.contains(&vm)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_order_of_actions_guards_every_guest_and_ends_with_nothing(events in prop::collection::vec(event(), 1..25)) {
        let mut world = World { model: Model::new(), there: BTreeMap::new() };
        let empty = world.model.clone();
        events.iter().for_each(|event| world.step(event));
        for vm in 1..4 {
            world.step(&Event::Unplug(vm));
        }
        let names = |model: &Model| model.seen.ports.keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(names(&world.model), names(&empty));
        prop_assert_eq!(&world.model.flows, &empty.flows);
        prop_assert_eq!(world.model.seen.bridges.len(), 1);
    }

    #[test]
    fn a_killed_run_is_finished_by_the_next(kinds in prop::collection::vec((any::<bool>(), 0_u8..5, 0_u8..4), 1..4), kill in 0_usize..4) {
        let mut world = World { model: Model::new(), there: BTreeMap::new() };
        let (first, other) = (desired(1, &kinds), desired(2, &[(true, 1, 2), (false, 2, 1)]));
        world.bring(&other);
        let before = world.model.clone();
        let changes = difference(&first, &world.seen(&first), &Surroundings::default()).unwrap().changes;
        let done: Vec<Change> = changes.iter().take(kill).cloned().collect();
        world.model.apply(&done);
        world.bring(&first);
        // The same the other way: what was begun to be taken away.
        let leaving = Leaving::from(&first);
        let gone = removal(&leaving, &world.seen(&first), &BTreeSet::new()).changes;
        let done: Vec<Change> = gone.iter().take(kill).cloned().collect();
        world.model.apply(&done);
        let rest = removal(&leaving, &world.seen(&first), &BTreeSet::new()).changes;
        world.model.apply(&rest);
        prop_assert_eq!(removal(&leaving, &world.seen(&first), &BTreeSet::new()).changes, []);
        prop_assert_eq!(world.model.seen.ports.keys().collect::<Vec<_>>(), before.seen.ports.keys().collect::<Vec<_>>());
        let sorted = |model: &Model| {
            let mut flows: Vec<Flow> = model.flows.values().flatten().cloned().collect();
            flows.sort();
            flows
        };
        prop_assert_eq!(sorted(&world.model), sorted(&before));
    }
}
