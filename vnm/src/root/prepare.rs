//! `pre`: the host is made ready for a guest that is to come.

use std::collections::BTreeSet;

use causeway_core::document::VmDocument;

use super::action::Action;
use super::error::ActionError;
use super::host::{Terms, Way};
use super::left::Left;
use super::step::Step;
use crate::desired::Desired;
use crate::desired::driver::selects_all;
use crate::fabric::linux;
use crate::reservation::Reservation;

impl Action<'_, '_> {
    pub(super) fn pre(&mut self, vm: &VmDocument) -> Result<(), ActionError> {
        let (mut desired, terms) = self.work_out(vm)?;
        // A guest that is moved here may still run elsewhere while its device is here: only `post` says where it is.
        desired.fdb.clear();
        let lock = self.lock_vm(vm.id)?;
        let before = self.host.reservations.load(vm.id)?;
        let bridges = before.bridges().chain(desired.places()).cloned().collect();
        before.take_back_trust(&mut desired);
        let _locks = self.lock_all(lock, &bridges)?;
        let way = self.compare_numbered(&mut desired, &before, &terms, self.dry_run)?;
        nowhere_else(&desired, &way)?;
        if self.dry_run {
            return self.host.tell(way, self.log).map(|_| ());
        }
        let way = self.take_numbers(&mut desired, &terms, way)?;
        let mut after = before.clone();
        if selects_all(vm) {
            after.release_all_of(self.driver.name(), &desired);
        }
        after.reserve(self.driver.name(), &desired);
        let functions = desired.functions.iter().map(|function| function.nic);
        let prepared = desired.ports.iter().map(|port| port.nic).chain(functions);
        after.prepare(prepared, self.asked.as_ref());
        after.replace(&before);
        self.prepare(&before, &after, &desired, &terms, way)?;
        self.log.reserved = (&after.nics, &after.functions) != (&before.nics, &before.functions);
        Ok(())
    }

    fn prepare(
        &mut self,
        before: &Reservation,
        after: &Reservation,
        desired: &Desired,
        terms: &Terms,
        first: Way,
    ) -> Result<(), ActionError> {
        self.log.begin(&Step::Reserve);
        self.host.reservations.replace(before, after)?;
        // As long as the bridges that they leave have zones.
        self.forget_connections(&after.moved());
        if let Err(error) = self.host.make(desired, terms, first, self.log) {
            return Err(self.take_back(before, after, desired, terms, error));
        }
        // What the VM had and wants no more: its network was changed while it was not running.
        let lingers = self.leave_former(after)?;
        if lingers != after.former {
            self.log.begin(&Step::Release);
            self.host.reservations.replace(after, &after.with_former(lingers))?;
        }
        Ok(())
    }

    /// Takes back what a failed `pre` made, as far as nobody else has come to use it.
    fn take_back(
        &mut self,
        before: &Reservation,
        after: &Reservation,
        desired: &Desired,
        terms: &Terms,
        first: ActionError,
    ) -> ActionError {
        let keep = before.bridges().cloned().collect();
        let mut left = Left::all_of(desired);
        // `pre` says nothing of where the guest is, so there is nothing to take back.
        left.linux.fdb.clear();
        left.spare(before.nics.values().map(|old| &old.port));
        left.linux.functions.retain(|function| !before.has_function(function));
        left.linux.spare_vlans(before.nics.values().filter_map(|old| old.tags.as_ref()));
        let undone = self.leave(desired.vm, &left, keep).and_then(|_| self.guard_again(before, terms));
        self.log.begin(&Step::Release);
        let undone = undone.and(self.host.reservations.replace(after, before).map_err(ActionError::from));
        match undone {
            Ok(()) => first,
            Err(undo) => ActionError::Undo { first: Box::new(first), undo: Box::new(undo) },
        }
    }

    /// What guarded the VM before.
    fn guard_again(&mut self, before: &Reservation, terms: &Terms) -> Result<(), ActionError> {
        let old = before.desired(&before.nics.keys().copied().collect());
        if old.guards.is_empty() {
            return Ok(());
        }
        let seen = linux::observe(&mut self.host.netlink, &linux::Scope::from(&old))?;
        let fences = self.host.fences(&old)?;
        self.host.fence(&fences, self.log)?;
        if old.switches.is_empty() {
            return Ok(());
        }
        let (_, difference) = self.host.compare_switch(&old, &seen, terms)?;
        difference.changes.into_iter().try_for_each(|change| self.host.change(change.into(), self.log))
    }

    /// Finds the way, with the numbers that the NICs have or would get; none is taken yet.
    pub(super) fn compare_numbered(
        &mut self,
        desired: &mut Desired,
        before: &Reservation,
        terms: &Terms,
        all_tunnels: bool,
    ) -> Result<Way, ActionError> {
        for nic in numbered(desired) {
            let known = before.nics.get(&nic).and_then(|reserved| reserved.number);
            desired.numbers.insert(nic, self.host.reservations.number_to_be(desired.vm, nic, known)?);
        }
        self.host.compare(desired, terms, all_tunnels)
    }

    /// Takes those numbers: the first effect of an action. Where another VM was quicker, the way is another. One that is taken and then
    /// not reserved does no harm: it is found again, or collected.
    pub(super) fn take_numbers(
        &mut self,
        desired: &mut Desired,
        terms: &Terms,
        way: Way,
    ) -> Result<Way, ActionError> {
        let expected = desired.numbers.clone();
        for (nic, number) in &mut desired.numbers {
            *number = self.host.reservations.number(desired.vm, *nic, Some(*number))?;
        }
        if desired.numbers == expected { Ok(way) } else { self.host.compare(desired, terms, true) }
    }
}

/// Refuses a guest whose device is in another bridge: it runs, and what guards it there would be taken away.
fn nowhere_else(desired: &Desired, way: &Way) -> Result<(), ActionError> {
    let on_bridges =
        desired.ports.iter().filter(|port| desired.seats.iter().all(|seat| seat.nic != port.nic));
    for port in on_bridges {
        let is_plugged = way.observed.named(&port.tap).is_some_and(|link| link.bridge.is_some());
        if is_plugged && !way.observed.is_port_of(&port.tap, &port.bridge) {
            let state = format!("is plugged in, and not into {}", port.bridge);
            return Err(ActionError::Tap { tap: port.tap.clone(), nic: port.nic, state });
        }
    }
    Ok(())
}

fn numbered(desired: &Desired) -> BTreeSet<u32> {
    let seats = desired.seats.iter().map(|seat| seat.nic);
    seats.chain(desired.guards.iter().map(|guard| guard.nic)).collect()
}
