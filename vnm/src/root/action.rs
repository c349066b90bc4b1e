//! The actions of one VM for one driver.
//!
//! ```text
//! pre        check ─ lock ─ compare ─ reserve ─ change... ─(failed)─> change back ─ release
//! post       check ─ lock ─ compare ─ change... ─ announce
//! update_sg  check ─ lock ─ compare ─ reserve ─ change...
//! update_nic check ─ lock ─ compare ─ reserve ─ change... ─(failed)─> make what was reserved
//! clean              lock ─ removal ─ change... ─ release ─ collect what others left
//! admit              lock ─ change...
//! ```
//!
//! Everything that can be refused is refused before the first step; every action may run twice, and finishes what a
//! killed one left half done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{Pci, VmDocument};
use causeway_core::names::{LinkName, VmId};

use super::error::ActionError;
use super::host::{Host, Terms};
use super::place::Places;
use super::step::Log;
use super::uplinks::{self, UplinksError};
use super::wire::{Reconcile, Request, Seen, Verb};
use crate::asked::Asked;
use crate::connections::Connections;
use crate::desired::{self, Desired, Driver, Facts, Located, Refusal, Settings};
use crate::fabric::Change;
use crate::fabric::linux::observe::uplinks;
use crate::fabric::linux::sysfs::locate;
use crate::lock::{Lock, LockError};

/// The longest wait for locks, whatever the request says.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does what `request` asks for; `log` gets every step, also of an action that fails.
///
/// # Errors
/// A failure whose text names the object and what would be accepted.
pub fn run(places: &Places, request: &Request, log: &mut Log<'_>) -> Result<Found, Failure> {
    let driver = Driver::try_from(&request.driver).map_err(|text| Failure::new(Kind::NotBuilt, text))?;
    let bytes =
        request.document().map_err(|e| Failure::from_chain(Kind::Input, &e).context("the VM's document"))?;
    let mut action = Action::open(driver, places, request, log)?;
    match request.verb {
        Verb::Pre => action.pre(&strict(&bytes)?)?,
        Verb::Post => action.post(&strict(&bytes)?)?,
        Verb::UpdateSg => action.update_sg(&strict(&bytes)?)?,
        Verb::Clean => {
            let (vm, faults) = VmDocument::parse_tolerant(&bytes).map_err(ActionError::from)?;
            action.log.notes.extend(faults.iter().map(ToString::to_string));
            action.clean(&vm)?;
        }
        Verb::Observe => return Ok(Found::States(Box::new(action.observe(&strict(&bytes)?)?))),
        Verb::UpdateNic => action.update_nic(&strict(&bytes)?, &request.args)?,
        Verb::Connections => return Ok(Found::Connections(action.connections(strict(&bytes)?.id)?)),
        Verb::Admit => action.admit(strict(&bytes)?.id, &request.args)?,
    }
    Ok(Found::Nothing)
}

/// What was asked for, where something is to be told.
#[derive(Debug)]
pub enum Found {
    /// Nothing is.
    Nothing,
    /// By `observe`.
    States(Box<Seen>),
    /// By `connections`.
    Connections(Connections),
}

fn strict(bytes: &[u8]) -> Result<VmDocument, ActionError> {
    Ok(VmDocument::parse(bytes)?)
}

/// The attribute that says where a PCI device is; `ADDRESS` says it with the domain.
pub(super) fn address_of(pci: &Pci) -> Option<(&'static str, &str)> {
    let whole = pci.address.as_deref().map(|text| ("ADDRESS", text));
    whole.or(pci.short_address.as_deref().map(|text| ("SHORT_ADDRESS", text)))
}

/// An action under way.
pub(super) struct Action<'a, 'l> {
    pub(super) driver: Driver,
    pub(super) host: Host<'a>,
    pub(super) settings: &'a Settings,
    pub(super) dry_run: bool,
    pub(super) deadline: Instant,
    pub(super) asked: Option<Asked>,
    pub(super) log: &'a mut Log<'l>,
}

/// Locks of one action; freed when it is dropped.
pub(super) struct Locks {
    _vm: Lock,
    _bridges: Vec<Lock>,
}

impl<'a, 'l> Action<'a, 'l> {
    fn open(
        driver: Driver,
        places: &'a Places,
        request: &'a Request,
        log: &'a mut Log<'l>,
    ) -> Result<Self, ActionError> {
        let deadline = Instant::now() + Duration::from_millis(request.deadline_ms).min(PATIENCE);
        Ok(Action {
            driver,
            host: Host::open(places, deadline)?,
            settings: &request.settings,
            dry_run: request.dry_run,
            deadline,
            asked: request.asked.and_then(Asked::at),
            log,
        })
    }

    /// For what no VM has asked for: it is about the NICs of every driver, so which one it is called by means nothing.
    pub(super) fn reconciling(
        places: &'a Places,
        ask: &'a Reconcile,
        log: &'a mut Log<'l>,
    ) -> Result<Self, ActionError> {
        let deadline = Instant::now() + PATIENCE;
        let host = Host::open(places, deadline)?;
        let driver = Driver::Bridge;
        Ok(Action { driver, host, settings: &ask.settings, dry_run: ask.dry_run, deadline, asked: None, log })
    }

    /// What must exist for the document's NICs on this host.
    pub(super) fn work_out(&mut self, vm: &VmDocument) -> Result<(Desired, Terms), ActionError> {
        let named: BTreeSet<LinkName> =
            self.driver.selected(vm).iter().filter_map(|nic| nic.phydev.clone()).collect();
        let mut facts = Facts { filtered: self.host.hands_all_over(), ..Facts::default() };
        facts.functions = self.locate(vm)?;
        let needs_none = named.is_empty() && facts.functions.is_empty();
        facts.listed = match uplinks::read(&self.host.places.uplinks) {
            // Who names no device of the operator's can do without the list.
            Err(UplinksError::Missing { .. }) if needs_none => BTreeSet::new(),
            other => other.map_err(|error| {
                let nics = self.driver.selected(vm).into_iter().filter(|nic| nic.phydev.is_some());
                ActionError::from(error).of(nics.map(|nic| nic.nic_id).collect())
            })?,
        };
        let permitted = named.intersection(&facts.listed).cloned().collect();
        facts.uplinks = uplinks(&mut self.host.netlink, &permitted)?;
        let answer = desired::desired(self.driver, vm, self.settings, &facts)?;
        self.log.notes.extend(answer.notes);
        let terms = Terms { facts, arp: self.settings.arp_cache_poisoning, ..Terms::default() };
        Ok((answer.desired, terms))
    }

    /// Where the PCI devices of this driver's networks are.
    fn locate(&self, vm: &VmDocument) -> Result<BTreeMap<u32, Located>, ActionError> {
        // What no PCI device can have is refused before one is looked for.
        let devices = if self.driver.has_tunnels() { Vec::new() } else { self.driver.selected_pcis(vm) };
        let mut found = BTreeMap::new();
        for (pci, nic) in devices {
            let Some((attribute, text)) = address_of(pci) else { continue };
            let address = text.parse().map_err(|_| {
                Refusal::malformed(nic.nic_id, attribute, text, "the address of a PCI device such as 02:00.0")
            })?;
            let located = locate(&self.host.places.pci, address);
            let located = located.map_err(|source| ActionError::Function { nic: nic.nic_id, source })?;
            found.insert(nic.nic_id, located);
        }
        Ok(found)
    }

    /// Makes a change; with a dry run, it is only said.
    pub(super) fn make_or_say(&mut self, change: impl Into<Change>) -> Result<(), ActionError> {
        match self.dry_run {
            true => self.log.changes.push(change.into()),
            false => self.host.change(change.into(), self.log)?,
        }
        Ok(())
    }

    pub(super) fn lock_vm(&self, vm: VmId) -> Result<Lock, LockError> {
        Lock::take(&self.host.places.locks, &format!("vm-{vm}"), self.deadline)
    }

    /// Locks the bridges in the order of their names.
    pub(super) fn lock_all(&self, vm: Lock, bridges: &BTreeSet<LinkName>) -> Result<Locks, LockError> {
        let lock = |name| Lock::take(&self.host.places.locks, &format!("bridge-{name}"), self.deadline);
        Ok(Locks { _vm: vm, _bridges: bridges.iter().map(lock).collect::<Result<_, LockError>>()? })
    }

    fn observe(&mut self, vm: &VmDocument) -> Result<Seen, ActionError> {
        let (mut desired, terms) = self.work_out(vm)?;
        let way = self.compare_numbered(&mut desired, &terms, true)?;
        Ok(Seen { observed: self.host.tell(way, self.log)?, desired })
    }
}
