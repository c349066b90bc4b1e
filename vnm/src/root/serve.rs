//! The services of Linux bridges: made for the first guest that is to have them, gone with the last one.

use std::collections::BTreeSet;

use causeway_core::names::LinkName;

use super::action::Action;
use super::error::ActionError;
use super::host::Host;
use super::step::Log;
use crate::desired::Services;
use crate::desired::services::Parts;
use crate::fabric::linux;
use crate::fabric::linux::parse::LinkKind;
use crate::fabric::services::{Change, Hands, ServicesError, difference, removal};
use crate::lock::Lock;

/// Held while a bridge's services are read and changed: the tables of the firewall are of all bridges.
const LOCK: &str = "services";

impl Host<'_> {
    pub(super) fn hands(&mut self) -> Hands<'_> {
        Hands { netlink: &mut self.netlink, nft: &mut self.nft, namespaces: &self.places.namespaces }
    }

    /// What is missing of the services.
    ///
    /// # Errors
    /// There is no way to them without harm to somebody else; nothing was changed.
    pub(super) fn unserved(&mut self, services: &[Services]) -> Result<Vec<Change>, ActionError> {
        let mut changes = Vec::new();
        for wanted in services {
            let Some(parts) = Parts::of(&wanted.bridge) else { continue };
            let seen = self.hands().observe(&parts)?;
            changes.extend(difference(wanted, &parts, &seen)?);
        }
        Ok(changes)
    }

    /// Makes the services so. Their bridges are there.
    pub(super) fn serve(&mut self, services: &[Services], log: &mut Log<'_>) -> Result<(), ActionError> {
        if services.is_empty() {
            return Ok(());
        }
        log.services = true;
        let _lock = Lock::take(&self.places.locks, LOCK, self.deadline)?;
        for change in self.unserved(services)? {
            self.change(change.into(), log)?;
        }
        Ok(())
    }

    /// Takes one change of services.
    pub(super) fn change_services(&mut self, change: &Change) -> Result<(), ServicesError> {
        crate::fabric::services::apply(&mut self.hands(), change)
    }
}

impl Action<'_, '_> {
    /// Takes the services of bridges away that no guest is plugged into, and no other VM has reserved.
    pub(super) fn unserve(
        &mut self,
        bridges: &BTreeSet<LinkName>,
        observed: &linux::Observed,
        reserved: &BTreeSet<LinkName>,
    ) -> Result<(), ActionError> {
        let has_guests = |bridge: &LinkName| {
            let found = observed.named(bridge).filter(|link| matches!(link.kind, LinkKind::Bridge(_)));
            found.is_some_and(|link| observed.ports_of(link.index).any(linux::parse::Link::is_guests))
        };
        let left: Vec<Parts> =
            bridges.difference(reserved).filter(|bridge| !has_guests(bridge)).filter_map(Parts::of).collect();
        if left.is_empty() {
            return Ok(());
        }
        let _lock = Lock::take(&self.host.places.locks, LOCK, self.deadline)?;
        for parts in left {
            let seen = self.host.hands().observe(&parts)?;
            let changes = removal(&parts, &seen);
            self.log.services |= !changes.is_empty() && !self.dry_run;
            self.take(changes)?;
        }
        Ok(())
    }
}
