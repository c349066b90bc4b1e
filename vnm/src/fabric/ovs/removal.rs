//! What may be taken away when a VM leaves: only what we made, and only what nobody else uses. Pure.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::{LinkName, VmId};

use super::change::{Change, Edit, Expected, Table, Transaction};
use super::company::{close_hatch, flow_changes, hatch, id, members, remove_port};
use super::flows::{self, cookie};
use super::mark::{self, hatch_names};
use super::observe::{BridgeSeen, Observed, PortSeen};
use super::openflow::FlowChange;
use crate::desired::{Desired, Number, Switch};

/// What a VM, or some of its NICs, leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// Whose it was.
    pub vm: VmId,
    /// The guest's ports, by NIC.
    pub seats: BTreeMap<u32, Left>,
    /// Its bridges with their uplinks, but those bridges that are kept when they are empty.
    pub switches: BTreeMap<LinkName, BTreeSet<LinkName>>,
}

/// A device and the bridge it was in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The device.
    pub tap: LinkName,
    /// The bridge.
    pub switch: LinkName,
    /// The number that was reserved: in its zone are the NIC's connections.
    pub number: Option<Number>,
    /// The device is a card's and there with or without a guest.
    pub stays: bool,
}

impl Leaving {
    /// Nothing yet.
    pub fn nothing(vm: VmId) -> Self {
        Leaving { vm, seats: BTreeMap::new(), switches: BTreeMap::new() }
    }

    /// Adds what one NIC leaves on a bridge.
    pub fn add(&mut self, nic: u32, tap: &LinkName, number: Option<Number>, switch: &Switch) {
        let left = Left { tap: tap.clone(), switch: switch.name.clone(), number, stays: false };
        self.seats.insert(nic, left);
        if !switch.keep {
            self.switches.entry(switch.name.clone()).or_default().extend(switch.uplinks.clone());
        }
    }
}

impl Leaving {
    /// Says that the device of a NIC is there with or without a guest.
    pub fn stays(&mut self, nic: u32) {
        if let Some(left) = self.seats.get_mut(&nic) {
            left.stays = true;
        }
    }
}

impl From<&Desired> for Leaving {
    fn from(state: &Desired) -> Self {
        let mut leaving = Leaving::nothing(state.vm);
        for seat in &state.seats {
            if let Some(switch) = state.switches.iter().find(|switch| switch.name == seat.switch) {
                leaving.add(seat.nic, &seat.tap, state.numbers.get(&seat.nic).copied(), switch);
            }
        }
        state.functions.iter().for_each(|function| leaving.stays(function.nic));
        leaving
    }
}

/// What a removal comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// At most one transaction, and after it at most one bundle for each bridge.
    pub changes: Vec<Change>,
    /// What stays although the VM leaves, and why.
    pub notes: Vec<String>,
    /// Taps of the VM itself whose device is there: its guest may still run, and what guards it stays.
    pub lingering: BTreeSet<LinkName>,
}

/// The changes that take away `leaving` as far as nothing else needs it. `reserved` holds the bridges of other VMs.
pub fn removal(leaving: &Leaving, observed: &Observed, reserved: &BTreeSet<LinkName>) -> Removal {
    let mut out = Removal::default();
    let mut transaction = Transaction::default();
    let mut bundles = Vec::new();
    for (name, bridge) in &observed.bridges {
        let mut work =
            Work { leaving, observed, name, bridge, gone: BTreeMap::new(), lingers: BTreeSet::new() };
        work.sort_out(&mut out);
        if work.is_done_with(reserved) {
            work.remove_bridge(&mut transaction);
            continue;
        }
        work.remove_ports(reserved, &mut transaction);
        bundles.extend(work.remove_flows());
    }
    if !transaction.edits.is_empty() {
        out.changes.push(Change::Database(transaction));
    }
    out.changes.extend(bundles);
    out
}

/// One bridge.
struct Work<'a> {
    leaving: &'a Leaving,
    observed: &'a Observed,
    name: &'a str,
    bridge: &'a BridgeSeen,
    /// NICs of which nothing stays, with their ports that are still there.
    gone: BTreeMap<u32, Option<(&'a str, &'a PortSeen)>>,
    /// NICs whose device is still there.
    lingers: BTreeSet<u32>,
}

impl Work<'_> {
    fn sort_out(&mut self, out: &mut Removal) {
        for (nic, left) in self.leaving.seats.iter().filter(|(_, left)| left.switch.as_str() == self.name) {
            let tap = left.tap.as_str();
            let seen = self.observed.on(self.name, tap);
            // A name may have come to be somebody else's.
            let owner = seen.and_then(|seen| mark::owner(&seen.port));
            let seen = seen.filter(|_| owner.is_none_or(|owner| owner == (self.leaving.vm, *nic)));
            if seen.is_some_and(has_device) && !left.stays {
                self.lingers.insert(*nic);
                out.lingering.insert(left.tap.clone());
            } else {
                self.gone.insert(*nic, seen.map(|seen| (tap, seen)));
            }
        }
    }

    fn uplinks(&self) -> impl Iterator<Item = (&String, &PortSeen)> {
        self.observed.ports.iter().filter(|(_, seen)| {
            let of =
                seen.port.map("external_ids").get(mark::UPLINK).is_some_and(|bridge| bridge == self.name);
            of && seen.bridge.as_deref() == Some(self.name)
        })
    }

    /// Identities of ports that stay when these NICs have left, but the bridge's own, its patch and its uplinks.
    fn others(&self) -> BTreeSet<String> {
        let listed = self.leaving.switches.iter().filter(|(name, _)| name.as_str() == self.name);
        let mut known: BTreeSet<String> =
            listed.flat_map(|(_, all)| all.iter().map(ToString::to_string)).collect();
        known.insert(self.name.to_owned());
        known.extend(hatch_names(self.name));
        known.extend(self.uplinks().map(|(name, _)| name.clone()));
        known.extend(self.gone.values().flatten().map(|(name, _)| (*name).to_owned()));
        let known = known.iter().filter_map(|name| self.observed.on(self.name, name));
        let known: BTreeSet<String> = known.filter_map(|seen| id(&seen.port)).collect();
        self.ports().into_iter().filter(|port| !known.contains(port)).collect()
    }

    fn ports(&self) -> Vec<String> {
        let rows = self.bridge.row.rows("ports");
        rows.into_iter()
            .filter_map(|row| match row {
                super::ovsdb::RowId::Known(id) => Some(id),
                super::ovsdb::RowId::Inserted(_) => None,
            })
            .collect()
    }

    fn may_go(&self, reserved: &BTreeSet<LinkName>) -> bool {
        let named = |set: &BTreeSet<LinkName>| set.iter().any(|name| name.as_str() == self.name);
        let listed = self.leaving.switches.keys().any(|name| name.as_str() == self.name);
        listed && !named(reserved)
    }

    fn is_done_with(&self, reserved: &BTreeSet<LinkName>) -> bool {
        self.bridge.is_ours() && self.may_go(reserved) && self.others().is_empty()
    }

    fn remove_bridge(&self, into: &mut Transaction) {
        let Some(row) = id(&self.bridge.row) else { return };
        into.expect.push(Expected::Ports { bridge: self.name.to_owned(), ports: self.ports() });
        let edit = Edit::RemoveBridge { name: self.name.to_owned(), row: row.clone() };
        into.edit(Table::Bridge, self.name, Some(row), edit);
    }

    fn remove_ports(&self, reserved: &BTreeSet<LinkName>, into: &mut Transaction) {
        for (tap, seen) in self.gone.values().flatten() {
            remove_port(self.name, tap, seen, into);
        }
        if self.members().is_empty() {
            close_hatch(self.observed, self.name, into);
        }
        // A way out that we gave to the operator's bridge goes with the last guest.
        let guests = self.others().iter().any(|port| self.observed.guests.contains(port));
        if self.may_go(reserved) && !guests {
            for (name, seen) in self.uplinks() {
                remove_port(self.name, name, seen, into);
            }
        }
    }

    fn members(&self) -> Vec<flows::Member> {
        let gone = self.gone.keys().map(|nic| (self.leaving.vm, *nic)).collect();
        let mut members = members(self.observed, self.name, &gone);
        members.sort_by_key(|member| member.port);
        members
    }

    fn remove_flows(&self) -> Option<Change> {
        let seen = self.bridge.flows.as_ref()?;
        let gone: Vec<_> = self.gone.keys().map(|nic| cookie(self.leaving.vm, *nic)).collect();
        let of_nics = seen.of_vm.iter().filter(|flow| gone.contains(&flow.cookie));
        // Somebody else's port may have got the number by now: the stock driver's flows about the guest are not about that.
        let kept: BTreeSet<u32> = self.lingering_numbers();
        let stock: BTreeSet<u32> = seen.stock.difference(&kept).copied().collect();
        let wanted = flows::shared(&self.members(), hatch(self.observed, self.name));
        let mut changes = flow_changes(of_nics.chain(&seen.shared), wanted, &stock);
        let lent = self.gone.keys().filter(|nic| seen.lent.contains(nic));
        let lent = lent.map(|nic| flows::lent(self.leaving.vm, *nic));
        changes.extend(lent.map(|lent| FlowChange::RemoveAll(lent.into())));
        let had_flows =
            |nic: &&u32| seen.of_vm.iter().any(|flow| flow.cookie == cookie(self.leaving.vm, **nic));
        let numbers =
            self.gone.keys().filter(had_flows).filter_map(|nic| self.leaving.seats.get(nic)?.number);
        let forget = numbers.map(Number::get).collect();
        let stays = self.gone.values().flatten().any(|(_, seen)| seen.number().is_some());
        let settle = stays || !stock.is_empty();
        (!changes.is_empty()).then(|| Change::Flows { bridge: self.name.to_owned(), forget, changes, settle })
    }

    fn lingering_numbers(&self) -> BTreeSet<u32> {
        let left = self.lingers.iter().filter_map(|nic| self.leaving.seats.get(nic));
        left.filter_map(|left| self.observed.on(self.name, left.tap.as_str())?.number()).collect()
    }
}

/// Whether the guest's device is there. A port of DPDK says nothing of that: it waits for a guest as it serves one.
fn has_device(seen: &PortSeen) -> bool {
    let kind = seen.interface.as_ref().and_then(|interface| interface.text("type")).unwrap_or_default();
    seen.number().is_some() && !kind.starts_with("dpdk")
}
