//! The fabrics of this host, together: what they have, the way to what must be, and the steps of that way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use causeway_core::names::{LinkName, VmId};
use rustix::io::Errno;

use super::error::ActionError;
use super::fences::Fences;
use super::place::Places;
use super::step::{Log, Step};
use crate::desired::{Desired, Facts, Services};
use crate::fabric::Change;
use crate::fabric::firewall::Nft;
use crate::fabric::linux::parse::Link;
use crate::fabric::linux::{self, Rtnetlink, Scope, Surroundings};
use crate::fabric::ovs::{self, Ovs};
use crate::reservation::{OthersTags, Reservations};

/// How often a state is looked at anew when somebody else made a device in between.
pub(super) const TRIES: u32 = 4;

/// The fabrics, and who else has a claim to them.
pub(super) struct Host<'a> {
    pub(super) netlink: Rtnetlink,
    pub(super) nft: Nft,
    pub(super) switch: Option<Ovs>,
    pub(super) deadline: Instant,
    pub(super) places: &'a Places,
    pub(super) reservations: Reservations,
}

/// On which terms the way is looked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    /// What is known of the host.
    pub(super) facts: Facts,
    /// Ways out that the networks give up for others.
    pub(super) given_up: BTreeSet<LinkName>,
    /// VLANs that ports of their bridges carry for them, and are to carry no more.
    pub(super) vlans_given_up: BTreeMap<linux::Place, BTreeSet<u16>>,
    /// Whether the networks themselves change, with all of their guests, not only what one guest finds there.
    pub(super) whole: bool,
    /// `arp_cache_poisoning`: guests on Open vSwitch are held to their addresses in ARP too.
    pub(super) arp: bool,
}

/// The way from what is to what must be.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// What the kernel has.
    pub(super) observed: linux::Observed,
    /// What the switch has, where the state is about one.
    pub(super) switch: Option<ovs::Observed>,
    /// In order.
    pub(super) changes: Vec<Change>,
    /// The guards on its bridges, which come after them.
    pub(super) fences: Fences,
    /// The services on its bridges, which come after them too.
    pub(super) services: Vec<Services>,
    /// What stays otherwise than it was asked for.
    pub(super) notes: Vec<String>,
}

impl<'a> Host<'a> {
    pub(super) fn open(places: &'a Places, deadline: Instant) -> Result<Self, ActionError> {
        Ok(Host {
            netlink: Rtnetlink::open()?,
            nft: Nft::new(places.nft.clone(), deadline),
            switch: None,
            deadline,
            places,
            reservations: Reservations::new(&places.reservations),
        })
    }

    /// Whether the kernel hands the frames of every bridge to IP.
    pub(super) fn hands_all_over(&self) -> bool {
        ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"].iter().all(|switch| {
            std::fs::read_to_string(self.places.bridges.join(switch)).is_ok_and(|text| text.trim() == "1")
        })
    }

    /// Looks, and finds the way.
    ///
    /// # Errors
    /// There is no way without harm to somebody else; nothing was changed.
    pub(super) fn compare(
        &mut self,
        desired: &Desired,
        terms: &Terms,
        all_tunnels: bool,
    ) -> Result<Way, ActionError> {
        let mut scope = Scope { all_tunnels, ..Scope::from(desired) };
        scope.links.extend(terms.given_up.iter().cloned());
        scope.vlans |= !terms.vlans_given_up.is_empty();
        let mut vlans_given_up = terms.vlans_given_up.clone();
        let mut others = OthersTags::default();
        if scope.vlans {
            others = self.reservations.tags(scope.bridges.iter(), desired.vm)?;
        }
        if !others.unreadable.is_empty() {
            // What can't be read may need any VLAN of an uplink.
            vlans_given_up.retain(|place, _| desired.ports.iter().any(|port| port.tap == place.name));
        }
        let observed = linux::observe(&mut self.netlink, &scope)?;
        let shared = if terms.whole { BTreeSet::new() } else { self.shared(desired, &observed)? };
        let around = Surroundings {
            listed: terms.facts.listed.clone(),
            shared,
            filtered: terms.facts.filtered,
            given_up: terms.given_up.clone(),
            vlans_given_up,
            tags: others.tags,
        };
        let linux::Difference { changes, mut notes } = linux::difference(desired, &observed, &around)
            .map_err(|conflict| {
                let nics = desired.nics_of(conflict.device());
                ActionError::from(conflict).of(nics)
            })?;
        notes.extend(others.unreadable.iter().map(ToString::to_string));
        let mut changes: Vec<Change> = changes.into_iter().map(Change::from).collect();
        let fences = self.fences(desired)?;
        let mut switch = None;
        if !desired.switches.is_empty() {
            let (seen, difference) = self.compare_switch(desired, &observed, terms)?;
            changes.extend(difference.changes.into_iter().map(Change::from));
            notes.extend(difference.notes);
            switch = Some(seen);
        }
        // Whatever stands in the way of services is found before anything is changed.
        let services = desired.services.clone();
        self.unserved(&services)?;
        Ok(Way { observed, switch, changes, fences, services, notes })
    }

    /// All that would be done, for whoever only asks.
    pub(super) fn tell(&mut self, way: Way, log: &mut Log<'_>) -> Result<linux::Observed, ActionError> {
        log.changes.extend(way.changes);
        log.notes.extend(way.notes);
        log.changes.extend(self.fence_change(&way.fences)?.map(Change::from));
        log.changes.extend(self.unserved(&way.services)?.into_iter().map(Change::from));
        Ok(way.observed)
    }

    /// The bridges that other VMs have reserved, or are plugged into: of those whose way out is made for the network, for that may not
    /// change under them.
    fn shared(
        &self,
        desired: &Desired,
        observed: &linux::Observed,
    ) -> Result<BTreeSet<LinkName>, ActionError> {
        let bridges = desired.bridges.iter().map(|bridge| &bridge.name);
        let bridges: BTreeSet<LinkName> =
            bridges.filter(|bridge| desired.has_device(bridge)).cloned().collect();
        let own = |name: &str| desired.ports.iter().any(|port| port.tap.as_str() == name);
        let (mut shared, unused): (BTreeSet<LinkName>, BTreeSet<LinkName>) =
            bridges.into_iter().partition(|name| {
                let bridge = observed.named(name).map(|link| link.index);
                let guests = |link: &Link| link.is_guests() && link.bridge == bridge && !own(&link.name);
                bridge.is_some() && observed.links.values().any(guests)
            });
        shared.extend(self.reservations.claims(&unused, desired.vm)?.bridges);
        Ok(shared)
    }

    /// Goes the way that was found; where somebody else made a device in between, looks and goes again (W21).
    pub(super) fn make(
        &mut self,
        desired: &Desired,
        terms: &Terms,
        first: Way,
        log: &mut Log<'_>,
    ) -> Result<(), ActionError> {
        let mut way = first;
        for left in (0..TRIES).rev() {
            match way.changes.into_iter().try_for_each(|change| self.change(change, log)) {
                Err(error) if is_outdated(&error) && left > 0 => {}
                other => {
                    log.notes.extend(way.notes);
                    other?;
                    self.fence(&way.fences, log)?;
                    self.serve(&way.services, log)?;
                    return self.raise(desired, way.switch.as_ref(), log);
                }
            }
            way = self.compare(desired, terms, true)?;
        }
        Ok(())
    }

    /// Takes one step.
    pub(super) fn change(&mut self, change: Change, log: &mut Log<'_>) -> Result<(), ActionError> {
        log.begin(&Step::Change(&change));
        let made = match &change {
            Change::Switch(change) => self.switch()?.apply(change).map_err(ActionError::from),
            Change::Fence(change) => self.nft.apply(change).map_err(ActionError::from),
            Change::Services(change) => self.change_services(change).map_err(ActionError::from),
            Change::Track(change) => self.nft.track(change).map_err(ActionError::from),
            Change::Linux(change) => match linux::apply::apply(&mut self.netlink, change) {
                Err(error) if change.is_advisory() => {
                    log.notes.push(error.to_string());
                    return Ok(());
                }
                other => other.map_err(ActionError::from),
            },
        };
        made.map(|()| log.changes.push(change))
    }

    /// Those of `bridges` that other VMs have reserved; what could not be read is noted, and counts as reserved.
    pub(super) fn claims(
        &self,
        bridges: &BTreeSet<LinkName>,
        vm: VmId,
        log: &mut Log<'_>,
    ) -> Result<BTreeSet<LinkName>, ActionError> {
        let claims = self.reservations.claims(bridges, vm)?;
        log.notes.extend(claims.unreadable.iter().map(ToString::to_string));
        Ok(claims.bridges)
    }
}

/// Whether a step failed because what it was worked out from has changed.
fn is_outdated(error: &ActionError) -> bool {
    match error {
        ActionError::Netlink(error) => error.errno() == Some(Errno::EXIST),
        ActionError::Switch(error) => error.is_stale(),
        _ => false,
    }
}
