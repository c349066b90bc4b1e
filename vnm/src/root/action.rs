//! The actions: `pre`, `post`, `clean` and `observe` of one VM for one driver.
//!
//! ```text
//! pre    check ─ lock ─ observe ─ difference ─ reserve ─ change... ─(failed)─> change back ─ release
//! post   check ─ lock ─ observe ─ difference ─ change... ─ announce
//! clean          lock ─ observe ─ removal ─── change... ─ release ─ collect what others left
//! ```
//!
//! Everything that can be refused is refused before the first step; every action may run twice, and finishes what a
//! killed one left half done.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::VmDocument;
use causeway_core::names::{LinkName, VmId};
use rustix::io::Errno;

use super::error::ActionError;
use super::place::Places;
use super::step::{Log, Step};
use super::uplinks;
use super::wire::{Request, Seen, Verb};
use crate::announce;
use crate::desired::vxlan::{self, DRIVER};
use crate::desired::{Desired, Facts, Settings};
use crate::fabric::linux::apply::apply;
use crate::fabric::linux::observe::uplinks;
use crate::fabric::linux::parse::Link;
use crate::fabric::linux::{
    Change, Difference, Leaving, NetlinkError, Observed, Rtnetlink, Scope, Surroundings, difference, observe,
};
use crate::lock::{Lock, LockError};
use crate::reservation::{Reservation, Reservations};

/// The longest wait for locks, whatever the request says.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a state is looked at anew when somebody else made a device in between.
const TRIES: u32 = 4;

/// Does what `request` asks for; `log` gets every step, also of an action that fails.
///
/// # Errors
/// A failure whose text names the object and what would be accepted.
pub fn run(places: &Places, request: &Request, log: &mut Log<'_>) -> Result<Option<Seen>, Failure> {
    if request.driver != DRIVER {
        let text = format!("network driver {} is not built yet: {DRIVER} is", request.driver);
        return Err(Failure::new(Kind::NotBuilt, text));
    }
    let bytes =
        request.document().map_err(|e| Failure::from_chain(Kind::Input, &e).context("the VM's document"))?;
    let mut action = Action::open(places, request, log)?;
    match request.verb {
        Verb::Pre => action.pre(&strict(&bytes)?)?,
        Verb::Post => action.post(&strict(&bytes)?)?,
        Verb::Clean => {
            // A VM with a malformed attribute must still be possible to take away.
            let (vm, faults) = VmDocument::parse_tolerant(&bytes).map_err(ActionError::from)?;
            action.log.notes.extend(faults.iter().map(ToString::to_string));
            action.clean(&vm)?;
        }
        Verb::Observe => return Ok(Some(action.observe(&strict(&bytes)?)?)),
        Verb::UpdateSg | Verb::UpdateNic => {
            let text = format!("{} of {DRIVER} is not built yet", request.verb.as_str());
            return Err(Failure::new(Kind::NotBuilt, text));
        }
    }
    Ok(None)
}

fn strict(bytes: &[u8]) -> Result<VmDocument, ActionError> {
    Ok(VmDocument::parse(bytes)?)
}

/// An action under way.
pub(super) struct Action<'a, 'l> {
    pub(super) netlink: Rtnetlink,
    pub(super) places: &'a Places,
    pub(super) reservations: Reservations,
    pub(super) settings: &'a Settings,
    pub(super) dry_run: bool,
    deadline: Instant,
    pub(super) log: &'a mut Log<'l>,
}

/// Locks of one action; freed when it is dropped.
pub(super) struct Locks {
    _vm: Lock,
    _bridges: Vec<Lock>,
}

impl<'a, 'l> Action<'a, 'l> {
    fn open(places: &'a Places, request: &'a Request, log: &'a mut Log<'l>) -> Result<Self, ActionError> {
        let patience = Duration::from_millis(request.deadline_ms).min(PATIENCE);
        Ok(Action {
            netlink: Rtnetlink::open()?,
            places,
            reservations: Reservations::new(&places.reservations),
            settings: &request.settings,
            dry_run: request.dry_run,
            deadline: Instant::now() + patience,
            log,
        })
    }

    /// What must exist for the document's NICs on this host.
    fn work_out(&mut self, vm: &VmDocument) -> Result<(Desired, Facts), ActionError> {
        let named: BTreeSet<LinkName> =
            vxlan::selected(vm).iter().filter_map(|nic| nic.phydev.clone()).collect();
        let mut facts = Facts::default();
        if !named.is_empty() {
            facts.listed = uplinks::read(&self.places.uplinks)?;
            let permitted = named.intersection(&facts.listed).cloned().collect();
            facts.uplinks = uplinks(&mut self.netlink, &permitted)?;
        }
        let answer = vxlan::desired(vm, self.settings, &facts)?;
        self.log.notes.extend(answer.notes);
        Ok((answer.desired, facts))
    }

    pub(super) fn lock_vm(&self, vm: VmId) -> Result<Lock, LockError> {
        Lock::take(&self.places.locks, &format!("vm-{vm}"), self.deadline)
    }

    /// Locks the bridges in the order of their names.
    pub(super) fn lock_all(&self, vm: Lock, bridges: &BTreeSet<LinkName>) -> Result<Locks, LockError> {
        let lock = |name| Lock::take(&self.places.locks, &format!("bridge-{name}"), self.deadline);
        Ok(Locks { _vm: vm, _bridges: bridges.iter().map(lock).collect::<Result<_, LockError>>()? })
    }

    fn pre(&mut self, vm: &VmDocument) -> Result<(), ActionError> {
        let (mut desired, facts) = self.work_out(vm)?;
        // A guest that is moved here may still run elsewhere while its device is here: only `post` says where it is.
        desired.fdb.clear();
        let lock = self.lock_vm(vm.id)?;
        let before = self.reservations.load(vm.id)?;
        let mut after = before.clone();
        if selects_all(vm) {
            after.nics.retain(|_, reserved| reserved.driver != DRIVER);
        }
        after.reserve(DRIVER, &desired);
        let bridges = before.bridges().chain(desired.bridges.iter().map(|b| &b.name)).cloned().collect();
        let _locks = self.lock_all(lock, &bridges)?;

        let first = self.compare(&desired, &facts, self.dry_run)?.1;
        if self.dry_run {
            self.log.changes.extend(first.changes);
            self.log.notes.extend(first.notes);
            return Ok(());
        }
        self.log.begin(&Step::Reserve);
        self.reservations.replace(&before, &after)?;
        if let Err(error) = self.make(&desired, &facts, first) {
            return Err(self.take_back(&before, &after, &desired, error));
        }
        // What the VM had and wants no more: its network was changed while it was not running.
        let mut left = Leaving::default();
        let changed = before.nics.iter().filter(|(nic, old)| after.nics.get(nic) != Some(old));
        for (_, old) in changed.filter(|(_, old)| old.driver == DRIVER) {
            left.add(&old.port, old.bridge.keep, old.tunnel.as_ref().map(|t| &t.name));
        }
        let keep = desired.bridges.iter().map(|b| b.name.clone()).collect();
        self.leave(vm.id, &left, keep)?;
        self.log.reserved = after.nics != before.nics;
        Ok(())
    }

    /// The kernel's state, and the way from it to the desired one.
    fn compare(
        &mut self,
        desired: &Desired,
        facts: &Facts,
        all_tunnels: bool,
    ) -> Result<(Observed, Difference), ActionError> {
        let scope = Scope { all_tunnels, ..Scope::from(desired) };
        let observed = observe(&mut self.netlink, &scope)?;
        let bridges: BTreeSet<LinkName> = desired.bridges.iter().map(|b| b.name.clone()).collect();
        let mut shared = self.reservations.claims(&bridges, desired.vm)?.bridges;
        let own = |name: &str| desired.ports.iter().any(|port| port.tap.as_str() == name);
        for name in bridges {
            let bridge = observed.named(&name).map(|link| link.index);
            let guests = |link: &Link| link.is_guests() && link.bridge == bridge && !own(&link.name);
            if bridge.is_some() && observed.links.values().any(guests) {
                shared.insert(name);
            }
        }
        let around = Surroundings { listed: facts.listed.clone(), shared };
        let difference = difference(desired, &observed, &around)?;
        Ok((observed, difference))
    }

    /// Brings the kernel to the desired state by the way that was found.
    fn make(&mut self, desired: &Desired, facts: &Facts, first: Difference) -> Result<(), ActionError> {
        let mut difference = first;
        for left in (0..TRIES).rev() {
            match difference.changes.into_iter().try_for_each(|change| self.change(change)) {
                // Somebody made it since we looked, or has its number: look again, and compare (W21).
                Err(error) if error.errno() == Some(Errno::EXIST) && left > 0 => {}
                other => {
                    self.log.notes.extend(difference.notes);
                    return Ok(other?);
                }
            }
            difference = self.compare(desired, facts, true)?.1;
        }
        Ok(())
    }

    pub(super) fn change(&mut self, change: Change) -> Result<(), NetlinkError> {
        self.log.begin(&Step::Change(change.clone()));
        match apply(&mut self.netlink, &change) {
            Ok(()) => self.log.changes.push(change),
            Err(error) if change.is_advisory() => self.log.notes.push(error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes back what a failed `pre` made, as far as nobody else has come to use it.
    fn take_back(
        &mut self,
        before: &Reservation,
        after: &Reservation,
        desired: &Desired,
        first: ActionError,
    ) -> ActionError {
        let keep = before.bridges().cloned().collect();
        let mut leaving = Leaving::from(desired);
        // `pre` says nothing of where the guest is, so there is nothing to take back.
        leaving.fdb.clear();
        let undone = self.leave(desired.vm, &leaving, keep).map(|_| ());
        self.log.begin(&Step::Release);
        let undone = undone.and(self.reservations.replace(after, before).map_err(ActionError::from));
        match undone {
            Ok(()) => first,
            Err(undo) => ActionError::Undo { first: Box::new(first), undo: Box::new(undo) },
        }
    }

    fn post(&mut self, vm: &VmDocument) -> Result<(), ActionError> {
        let (desired, facts) = self.work_out(vm)?;
        let bridges = desired.bridges.iter().map(|b| b.name.clone()).collect();
        let locks = self.lock_all(self.lock_vm(vm.id)?, &bridges)?;
        let (observed, difference) = self.compare(&desired, &facts, self.dry_run)?;
        plugged_in(&desired, &observed)?;
        if self.dry_run {
            self.log.changes.extend(difference.changes);
            self.log.notes.extend(difference.notes);
            return Ok(());
        }
        self.make(&desired, &facts, difference)?;
        drop(locks);
        // The guest is here whatever comes of this, so it can fail nothing.
        self.log.begin(&Step::Announce);
        self.log.notes.extend(announce::announce(&desired));
        Ok(())
    }

    fn observe(&mut self, vm: &VmDocument) -> Result<Seen, ActionError> {
        let (desired, facts) = self.work_out(vm)?;
        let (observed, difference) = self.compare(&desired, &facts, true)?;
        self.log.changes.extend(difference.changes);
        self.log.notes.extend(difference.notes);
        Ok(Seen { desired, observed })
    }
}

/// Whether an action is about the whole VM, not about one NIC that is plugged or unplugged.
pub(super) fn selects_all(vm: &VmDocument) -> bool {
    let nics = vm.nics.iter().chain(&vm.aliases).any(|nic| nic.attach);
    !nics && !vm.pcis.iter().any(|pci| pci.attach)
}

/// Refuses a guest whose devices are not in their bridges: it would be cut off.
fn plugged_in(desired: &Desired, observed: &Observed) -> Result<(), ActionError> {
    for port in &desired.ports {
        if observed.is_port_of(&port.tap, &port.bridge) {
            continue;
        }
        let state = match observed.named(&port.tap) {
            None => "does not exist".to_owned(),
            Some(link) => match link.bridge.and_then(|index| observed.links.get(&index)) {
                Some(other) => format!("is plugged into {}, not into {}", other.name, port.bridge),
                None => format!("is not plugged into {}", port.bridge),
            },
        };
        return Err(ActionError::Tap { tap: port.tap.clone(), nic: port.nic, state });
    }
    Ok(())
}
