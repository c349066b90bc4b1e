//! The guards of NICs on Linux bridges: what of a desired state the firewall keeps, and the one batch that makes it so.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::{LinkName, Mac, VmId};

use super::error::ActionError;
use super::host::Host;
use super::step::Log;
use crate::desired::Desired;
use crate::fabric::firewall::change::Family;
use crate::fabric::firewall::{self, Fence, FirewallError, Scope};
use crate::fabric::linux::observe::by_name;
use crate::lock::Lock;

/// Held while the firewall is read and changed: two that did so at once could number two bridges alike.
pub(super) const LOCK: &str = "firewall";

/// Guards, and all devices of the VM that the action is about: one without a guard loses what it had.
#[derive(Debug, Default)]
pub(super) struct Fences {
    fences: Vec<Fence>,
    taps: BTreeSet<LinkName>,
    /// The uplinks of their bridges, by which frames reach the host as well.
    uplinks: BTreeMap<LinkName, LinkName>,
}

impl Host<'_> {
    /// What the firewall has to keep of a desired state.
    ///
    /// # Errors
    /// Connections are to be known, and can't be on this host; a bridge's name would be read as something else.
    pub(super) fn fences(&mut self, desired: &Desired) -> Result<Fences, ActionError> {
        let mut out = Fences::default();
        for port in &desired.ports {
            if desired.seats.iter().any(|seat| seat.nic == port.nic) {
                continue;
            }
            out.taps.insert(port.tap.clone());
            let Some(guard) = desired.guards.iter().find(|guard| guard.nic == port.nic) else { continue };
            firewall::plain(&port.bridge).map_err(|error| ActionError::from(error).of([port.nic].into()))?;
            let number = desired.numbers.get(&port.nic);
            let number = number.ok_or(ActionError::Unnumbered { nic: port.nic })?;
            out.fences.push(Fence {
                vm: desired.vm,
                deploy: desired.deploy.clone(),
                number: *number,
                bridge: port.bridge.clone(),
                hosts: BTreeSet::new(),
                guard: guard.clone(),
            });
        }
        let with_uplink = desired.bridges.iter().filter_map(|b| Some((b.name.clone(), b.uplink.clone()?)));
        out.uplinks.extend(with_uplink);
        let stateful = out.fences.iter().filter(|fence| fence.guard.is_stateful());
        let stateful: BTreeSet<u32> = stateful.map(|fence| fence.guard.nic).collect();
        if !stateful.is_empty() {
            self.can_track().map_err(|error| error.of(stateful))?;
        }
        Ok(out)
    }

    /// Asks the kernel once: where our rules that know connections stand, it can.
    fn can_track(&mut self) -> Result<(), ActionError> {
        if !self.nft.stands(Family::Inet)? {
            firewall::probe::require(&mut self.nft)?;
        }
        Ok(())
    }

    /// The batch that is missing, if any is.
    pub(super) fn fence_change(&mut self, fences: &Fences) -> Result<Option<firewall::Change>, ActionError> {
        let mut whole = fences.fences.clone();
        let mut hosts = BTreeMap::new();
        for fence in &mut whole {
            if !hosts.contains_key(&fence.bridge) {
                let own = self.own_addresses(&fence.bridge, fences.uplinks.get(&fence.bridge))?;
                hosts.insert(fence.bridge.clone(), own);
            }
            fence.hosts = hosts.get(&fence.bridge).cloned().unwrap_or_default();
        }
        let observed = self.nft.observe(&Scope::of(&whole, &fences.taps))?;
        firewall::difference(&whole, &fences.taps, &observed).map_err(|error| {
            let about = |fence: &&Fence| match &error {
                FirewallError::NoZone { bridge } => fence.bridge == *bridge,
                FirewallError::Name { name } => fence.bridge == *name || fence.guard.tap == *name,
                _ => false,
            };
            let nics = whole.iter().filter(about).map(|fence| fence.guard.nic).collect();
            ActionError::from(error).of(nics)
        })
    }

    /// The addresses of a bridge by which frames reach the host itself: those are the host's own connections. A bridge that
    /// somebody else made may have that of one of its ports, so it is looked up when those are there.
    fn own_addresses(
        &mut self,
        bridge: &LinkName,
        uplink: Option<&LinkName>,
    ) -> Result<BTreeSet<Mac>, ActionError> {
        let mut out = BTreeSet::new();
        for name in [Some(bridge), uplink].into_iter().flatten() {
            out.extend(by_name(&mut self.netlink, name)?.and_then(|link| link.mac));
        }
        Ok(out)
    }

    /// Makes the guards so.
    pub(super) fn fence(&mut self, fences: &Fences, log: &mut Log<'_>) -> Result<(), ActionError> {
        if fences.taps.is_empty() {
            return Ok(());
        }
        let _lock = Lock::take(&self.places.locks, LOCK, self.deadline)?;
        match self.fence_change(fences)? {
            Some(change) => self.change(change.into(), log),
            None => Ok(()),
        }
    }

    /// Takes the guards of devices away that are no more, and what the stock driver left of them.
    pub(super) fn unfence(
        &mut self,
        vm: VmId,
        taps: &BTreeSet<LinkName>,
        dry_run: bool,
        log: &mut Log<'_>,
    ) -> Result<(), ActionError> {
        if taps.is_empty() {
            return Ok(());
        }
        let _lock = Lock::take(&self.places.locks, LOCK, self.deadline)?;
        let observed = self.nft.observe(&Scope::of(&[], taps))?;
        let ours = firewall::removal(taps, &observed);
        let stock = self.nft.stock(vm, taps.iter().filter_map(nic_of))?.removal();
        for change in ours.into_iter().chain(stock) {
            match dry_run {
                true => log.changes.push(change.into()),
                false => self.change(change.into(), log)?,
            }
        }
        Ok(())
    }
}

/// The number of the NIC that a device is called after.
fn nic_of(tap: &LinkName) -> Option<u32> {
    tap.as_str().rsplit_once('-')?.1.parse().ok()
}
