//! `clean`: what a VM needed goes, as far as nobody else needs it; so does what others left behind.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::answer::Failure;
use causeway_core::document::{Nic, Pci, VmDocument};
use causeway_core::names::{LinkName, VmId};

use super::action::{Action, address_of};
use super::error::ActionError;
use super::left::Left;
use super::step::Step;
use super::uplinks;
use crate::desired::driver::selects_all;
use crate::desired::nics::names;
use crate::desired::{Driver, Function, Located, Number, Refusal};
use crate::fabric::linux::observe::{by_name, tap_exists};
use crate::fabric::linux::sysfs::locate;
use crate::lock::Lock;
use crate::reservation::{NicReservation, Place, Reservation, ReservationError, now};

impl Action<'_, '_> {
    pub(super) fn clean(&mut self, vm: &VmDocument) -> Result<(), ActionError> {
        if vm.aliases.iter().any(|alias| alias.attach) {
            // Its device stays; what the alias was allowed there goes (W29).
            let mut without = vm.clone();
            without.aliases.retain(|alias| !alias.attach);
            let of_aliases =
                vm.aliases.iter().filter(|alias| alias.attach).filter_map(|alias| alias.parent_id);
            let mut parents: BTreeSet<u32> = of_aliases.collect();
            self.spare_newer(&mut parents, &self.host.reservations.load(vm.id)?);
            without.nics.retain(|nic| parents.contains(&nic.nic_id));
            return self.update_sg(&without);
        }
        let lock = self.lock_vm(vm.id)?;
        let reservation = match self.host.reservations.load(vm.id) {
            Err(error @ ReservationError::Content { .. }) => {
                self.log.notes.push(error.to_string());
                Reservation::empty(vm.id)
            }
            other => other?,
        };
        // One that is lost, or can't be read and goes with this action, has left the numbers of its NICs.
        let numbers = match reservation.is_empty() {
            true => Some(self.host.reservations.numbers_of(vm.id)?),
            false => None,
        };
        let mut nics = self.leaving_nics(vm, &reservation);
        self.spare_newer(&mut nics, &reservation);
        let numbers =
            numbers.map(|numbers| numbers.into_iter().filter(|(nic, _)| nics.contains(nic)).collect());
        let mut left = self.what_is_left(vm, &reservation, &nics, numbers.as_ref());
        let staying = reservation.nics.iter().filter(|(nic, _)| !nics.contains(nic));
        left.linux.spare_vlans(staying.filter_map(|(_, reserved)| reserved.tags.as_ref()));
        let former = reservation.former.bridges().cloned();
        let locks = self.lock_all(lock, &left.bridges().into_iter().chain(former).collect())?;
        self.forget_connections(&reservation.moved());
        let lingers = self.leave_former(&reservation)?;
        // Another NIC of this VM may be in the same bridge.
        let stays = reservation.nics.iter().filter(|(nic, _)| !nics.contains(nic));
        let keep = stays.map(|(_, reserved)| reserved.port.bridge.clone()).collect();
        let lingering = self.leave(vm.id, &left, keep)?;
        if self.dry_run {
            return Ok(());
        }
        let mut after = reservation.with_former(lingers);
        for nic in nics {
            let tap = reservation.nics.get(&nic).map(|reserved| &reserved.port.tap);
            if tap.is_some_and(|tap| lingering.contains(tap)) {
                after.leaving.insert(nic);
            } else {
                after.release(nic);
            }
        }
        self.log.begin(&Step::Release);
        self.host.reservations.replace(&reservation, &after)?;
        if let Some(mut numbers) = numbers {
            let nics: Vec<u32> = numbers.keys().copied().collect();
            for nic in nics {
                if self.has_device(vm.id, nic)? {
                    numbers.remove(&nic);
                }
            }
            self.host.reservations.forget(vm.id, &numbers)?;
        }
        drop(locks);
        // A guest that did not come is not waited for.
        reservation.nics.values().for_each(|reserved| self.host.places.watches.give_up(&reserved.port.tap));
        self.collect(vm.id);
        if !lingering.is_empty() {
            self.host.reservations.collect_next_time();
        }
        for tap in lingering {
            self.log.notes.push(format!("{tap} is still plugged in: what it needs stays until it is gone"));
        }
        Ok(())
    }

    /// The numbers of the NICs that `clean` is about: of the document where it singles one out, else all reserved ones.
    fn leaving_nics(&self, vm: &VmDocument, reservation: &Reservation) -> BTreeSet<u32> {
        let mut nics: BTreeSet<u32> = self.driver.selected(vm).iter().map(|nic| nic.nic_id).collect();
        nics.extend(self.driver.selected_pcis(vm).iter().map(|(_, nic)| nic.nic_id));
        if selects_all(vm) {
            let reserved = reservation.nics.iter().filter(|(_, nic)| nic.driver == self.driver.name());
            nics.extend(reserved.map(|(nic, _)| *nic));
            nics.extend(reservation.functions_of(self.driver.name()).map(|function| function.nic));
        }
        nics
    }

    /// Spares what was prepared after this `clean` was asked for: it is late, and of a guest that was there before. One that takes a
    /// `pre` back is asked for after that.
    fn spare_newer(&mut self, nics: &mut BTreeSet<u32>, reservation: &Reservation) {
        let Some(asked) = &self.asked else { return };
        let (newer, older) = nics.iter().partition(|nic| reservation.is_prepared_after(**nic, asked));
        *nics = older;
        let newer: BTreeSet<u32> = newer;
        let note = |nic| {
            format!("NIC {nic} stays: it was prepared for another guest after this clean was asked for")
        };
        self.log.notes.extend(newer.into_iter().map(note));
    }

    /// What those NICs leave: as reserved; where nothing is (the stock driver prepared it), as the document has it.
    fn what_is_left(
        &mut self,
        vm: &VmDocument,
        reservation: &Reservation,
        nics: &BTreeSet<u32>,
        numbers: Option<&BTreeMap<u32, Number>>,
    ) -> Left {
        let mut left = Left::nothing(vm.id);
        // An update died, and so does its VM.
        let given_up = reservation.given_up.iter().filter(|_| !nics.is_empty());
        given_up.for_each(|way| left.linux.give_up(&way.name, &way.bridge));
        for nic in nics {
            if let Some(reserved) = reservation.nics.get(nic) {
                left.add(*nic, reserved);
            }
            let function = reservation.functions.get(nic).map(|reserved| &reserved.function);
            function.into_iter().for_each(|function| left.add_function(function));
        }
        let unknown =
            self.driver.selected(vm).into_iter().filter(|nic| !reservation.nics.contains_key(&nic.nic_id));
        for nic in unknown {
            match names(self.driver, nic, vm.id, self.settings) {
                Ok(names) => {
                    let number = numbers.and_then(|numbers| numbers.get(&nic.nic_id)).copied();
                    left.add_unreserved(self.driver.is_switch(), &names, number);
                }
                Err(refusal) => self.log.notes.push(format!("nothing to remove: {refusal}")),
            }
        }
        let devices = self.driver.selected_pcis(vm).into_iter();
        for (pci, nic) in devices.filter(|(_, nic)| !reservation.functions.contains_key(&nic.nic_id)) {
            match self.unreserved_function(pci, nic) {
                Ok(Some(function)) => {
                    if let Some((tap, bridge)) = function.representor.as_ref().zip(nic.bridge.clone()) {
                        left.add_port(nic.nic_id, tap, bridge);
                    }
                    left.add_function(&function);
                }
                Ok(None) => {}
                Err(error) => {
                    let failure = Failure::from(error);
                    self.log.notes.push(format!("nothing to reset: {failure}"));
                }
            }
        }
        left
    }

    /// The virtual function of a PCI device that nothing was reserved for, as far as the operator lets networks use it.
    fn unreserved_function(&self, pci: &Pci, nic: &Nic) -> Result<Option<Function>, ActionError> {
        let Some((_, text)) = address_of(pci) else { return Ok(None) };
        let Some((address, mac)) = text.parse().ok().zip(nic.mac) else { return Ok(None) };
        let located = locate(&self.host.places.pci, address);
        let located = located.map_err(|source| ActionError::Function { nic: nic.nic_id, source })?;
        let Located::Virtual { device, index, representor } = located else { return Ok(None) };
        let representor = representor.filter(|_| self.driver == Driver::OvSwitch);
        if !uplinks::read(&self.host.places.uplinks)?.contains(&device) {
            return Err(Refusal::not_listed(nic.nic_id, &device).into());
        }
        let (vlan, spoofchk, trust) = (nic.vlan_tag().unwrap_or(0), nic.spoofchk, nic.trust);
        Ok(Some(Function { nic: nic.nic_id, device, index, mac, vlan, spoofchk, trust, representor }))
    }

    /// Finishes what other VMs left: NICs whose device lingered, and guests that never came. It can fail nothing.
    fn collect(&mut self, vm: VmId) {
        if !self.host.reservations.collect_now() {
            return;
        }
        let now = now();
        let others =
            self.host.reservations.vms().unwrap_or_default().into_iter().filter(|other| *other != vm);
        for other in others {
            if let Err(error) = self.collect_one(other, now) {
                let failure = Failure::from(error);
                self.log.notes.push(format!("what VM {other} left could not be removed: {failure}"));
            }
        }
    }

    /// Whether a NIC's device is there. One of DPDK has none that the kernel knows, so only its VM's own actions take it away.
    fn is_here(&mut self, reserved: &NicReservation) -> Result<bool, ActionError> {
        if matches!(&reserved.place, Place::Switch(_, seat) if seat.socket.is_some()) {
            return Ok(true);
        }
        Ok(tap_exists(&mut self.host.netlink, &reserved.port.tap)?)
    }

    /// Whether a device is there that bears the name of a NIC's.
    pub(super) fn has_device(&mut self, vm: VmId, nic: u32) -> Result<bool, ActionError> {
        let Ok(tap) = format!("one-{vm}-{nic}").parse::<LinkName>() else { return Ok(false) };
        Ok(by_name(&mut self.host.netlink, &tap)?.is_some())
    }

    pub(super) fn collect_one(&mut self, vm: VmId, now: u64) -> Result<(), ActionError> {
        let due = |r: &Reservation| r.is_old(now) || !r.leaving.is_empty() || !r.former.is_empty();
        if !due(&self.host.reservations.load(vm)?) {
            return Ok(());
        }
        // An action of that VM is under way: it will see to it.
        let Some(lock) = Lock::attempt(&self.host.places.locks, &format!("vm-{vm}"))? else {
            return Ok(());
        };
        let reservation = self.host.reservations.load(vm)?;
        let old = reservation.is_old(now);
        let mut after = reservation.clone();
        let mut gone = BTreeSet::new();
        let mut left = Left::nothing(vm);
        for (nic, reserved) in &reservation.nics {
            if reservation.functions.contains_key(nic) || !old && !reservation.leaving.contains(nic) {
                continue;
            }
            if self.is_here(reserved)? {
                after.meet(*nic);
            } else if after.miss(*nic, now) {
                left.add(*nic, reserved);
                gone.insert(*nic);
            }
        }
        // A virtual function tells nothing of its guest; one whose devices are all gone is not here.
        let telling = reservation.nics.keys().filter(|nic| !reservation.functions.contains_key(nic)).count();
        if old && !gone.is_empty() && gone.len() == telling {
            for (nic, reserved) in &reservation.functions {
                reservation.nics.get(nic).into_iter().for_each(|seat| left.add(*nic, seat));
                left.add_function(&reserved.function);
                gone.insert(*nic);
            }
        }
        if gone.is_empty() && reservation.former.is_empty() {
            // It is looked for again when it is old again.
            return match old && !reservation.nics.is_empty() {
                true => Ok(self.host.reservations.replace(&reservation, &after)?),
                false => Ok(()),
            };
        }
        let stays = || reservation.nics.iter().filter(|(nic, _)| !gone.contains(nic));
        left.linux.spare_vlans(stays().filter_map(|(_, reserved)| reserved.tags.as_ref()));
        let stays = stays();
        let keep = stays.map(|(_, reserved)| reserved.port.bridge.clone()).collect();
        let former = reservation.former.bridges().cloned();
        let _locks = self.lock_all(lock, &left.bridges().into_iter().chain(former).collect())?;
        self.forget_connections(&reservation.moved());
        after.former = self.leave_former(&reservation)?;
        self.leave(vm, &left, keep)?;
        gone.iter().for_each(|nic| after.release(*nic));
        if after == reservation {
            return Ok(());
        }
        self.log.begin(&Step::Release);
        self.host.reservations.replace(&reservation, &after)?;
        Ok(())
    }
}
