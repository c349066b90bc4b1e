//! The part of a desired state that Open vSwitch has to keep, and the way there.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::LinkName;

use super::error::ActionError;
use super::host::{Host, Terms};
use super::step::Log;
use crate::desired::Desired;
use crate::fabric::linux::observe::{addresses, by_name};
use crate::fabric::linux::parse::{Link, LinkKind};
use crate::fabric::linux::{self, Conflict};
use crate::fabric::ovs::{self, Observed, Ovs, Surroundings};

impl Host<'_> {
    /// The connection to the switch, made when it is first needed.
    pub(super) fn switch(&mut self) -> Result<&mut Ovs, ActionError> {
        let switch = match self.switch.take() {
            Some(switch) => switch,
            None => Ovs::open(&self.places.switch, self.deadline)?,
        };
        Ok(self.switch.insert(switch))
    }

    /// The same; none where this host has no switch, and so nothing on one.
    pub(super) fn switch_if_any(&mut self) -> Result<Option<&mut Ovs>, ActionError> {
        match self.places.switch.database.exists() {
            true => self.switch().map(Some),
            false => Ok(None),
        }
    }

    /// Looks, and finds the way.
    ///
    /// # Errors
    /// There is no way without harm to somebody else; nothing was changed.
    pub(super) fn compare_switch(
        &mut self,
        desired: &Desired,
        seen: &linux::Observed,
        terms: &Terms,
    ) -> Result<(Observed, ovs::Difference), ActionError> {
        let bridges: BTreeSet<LinkName> = desired.switches.iter().map(|s| s.name.clone()).collect();
        let shared = match terms.whole {
            true => BTreeSet::new(),
            false => self.reservations.claims(&bridges, desired.vm)?.bridges,
        };
        let observed = self.switch()?.observe(&ovs::Scope::from(desired))?;
        permitted(desired, &observed, terms).map_err(|conflict| {
            let nics = desired.nics_of(conflict.device());
            ActionError::from(conflict).of(nics)
        })?;
        let (devices, linux_ports) = on_linux(desired, seen);
        let around = Surroundings { shared, devices, linux_ports, arp: terms.arp };
        let difference = ovs::difference(desired, &observed, &around).map_err(|conflict| {
            let nics = conflict.device().map(|device| desired.nics_of(device)).unwrap_or_default();
            ActionError::from(conflict).of(nics)
        })?;
        Ok((observed, difference))
    }
}

impl Host<'_> {
    /// Brings the devices of our own bridges up, as the stock driver does; they come with the bridge, and down.
    pub(super) fn raise(
        &mut self,
        desired: &Desired,
        before: Option<&Observed>,
        log: &mut Log<'_>,
    ) -> Result<(), ActionError> {
        for switch in &desired.switches {
            let seen = before.and_then(|seen| seen.bridges.get(switch.name.as_str()));
            if seen.is_some_and(|bridge| !bridge.is_ours()) {
                continue;
            }
            if by_name(&mut self.netlink, &switch.name)?.is_some_and(|link| !link.up) {
                self.change(linux::Change::SetUp { name: switch.name.clone() }.into(), log)?;
            }
        }
        Ok(())
    }

    /// Those of `bridges` whose device has an address: somebody uses them for the host itself.
    pub(super) fn with_addresses(
        &mut self,
        bridges: &BTreeSet<LinkName>,
        log: &mut Log<'_>,
    ) -> Result<BTreeSet<LinkName>, ActionError> {
        let mut out = BTreeSet::new();
        for name in bridges {
            let Some(link) = by_name(&mut self.netlink, name)? else { continue };
            if let Some(address) = addresses(&mut self.netlink, link.index)?.first() {
                log.notes.push(format!("bridge {name} stays: it has the address {address}"));
                out.insert(name.clone());
            }
        }
        Ok(out)
    }
}

/// A bridge of the operator's is used where it is listed, or leads out by what the network names already: that is the state which
/// the stock driver leaves.
fn permitted(desired: &Desired, observed: &Observed, terms: &Terms) -> Result<(), Conflict> {
    for switch in &desired.switches {
        let Some(found) = observed.bridges.get(switch.name.as_str()) else { continue };
        let carries = |uplink: &LinkName| observed.on(switch.name.as_str(), uplink.as_str()).is_some();
        let carries = !switch.uplinks.is_empty() && switch.uplinks.iter().all(carries);
        if !found.is_ours() && !carries && !terms.facts.listed.contains(&switch.name) {
            return Err(Conflict::ForeignBridge { name: switch.name.clone() });
        }
    }
    Ok(())
}

/// Devices that bear the names of its bridges and that no switch has made, and ways out that are ports of a bridge of Linux.
fn on_linux(
    desired: &Desired,
    seen: &linux::Observed,
) -> (BTreeMap<LinkName, String>, BTreeMap<LinkName, String>) {
    let (mut devices, mut ports) = (BTreeMap::new(), BTreeMap::new());
    for switch in &desired.switches {
        if let Some(link) = seen.named(&switch.name).filter(|link| !may_be_a_switchs(link)) {
            let bridge = matches!(link.kind, LinkKind::Bridge(_));
            let what = if bridge { "a bridge of Linux".to_owned() } else { link.what() };
            devices.insert(switch.name.clone(), what);
        }
        for name in switch.uplinks.iter().chain([&switch.name]) {
            let master = seen.named(name).and_then(|link| seen.links.get(&link.bridge?));
            if let Some(master) = master.filter(|master| matches!(master.kind, LinkKind::Bridge(_))) {
                ports.insert(name.clone(), master.name.clone());
            }
        }
    }
    (devices, ports)
}

/// Whether a device could be that of a bridge which has just left the database: it outlives its row by a moment.
fn may_be_a_switchs(link: &Link) -> bool {
    match &link.kind {
        LinkKind::Tap => true,
        LinkKind::Outer(kind) => kind == "openvswitch",
        _ => false,
    }
}
