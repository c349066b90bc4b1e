//! `update_nic`: a network has other attributes now, and its guests stay (contract VNM 4.7).
//!
//! A tunnel can't be given another number or uplink, so its bridge gets a new one in place of the old one; until both steps are
//! done, the network's guests on this host hear only each other. Where a step fails, what was reserved is made again.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::document::{Form, Nic, Pci, TagRanges, VmDocument};
use causeway_core::names::LinkName;

use super::action::Action;
use super::arrive::numbers_of;
use super::error::ActionError;
use super::host::Terms;
use super::step::Step;
use crate::desired::port::device_name;
use crate::desired::vxlan::tunnel_name;
use crate::desired::{Desired, Driver, Refusal};
use crate::fabric::linux::Place;
use crate::fabric::linux::vlans::carried;
use crate::reservation::{GivenUp, Reservation};

impl Action<'_, '_> {
    pub(super) fn update_nic(&mut self, vm: &VmDocument, args: &[String]) -> Result<(), ActionError> {
        let mut vm = vm.clone();
        let network = network(args)?;
        vm.nics.retain(|nic| nic.network_id == Some(network));
        let here = |pci: &Pci| pci.nic.as_ref().is_some_and(|nic| nic.network_id == Some(network));
        vm.pcis.retain(here);
        let (mut desired, mut terms) = self.work_out(&vm)?;
        let lock = self.lock_vm(vm.id)?;
        let before = self.host.reservations.load(vm.id)?;
        let given_up = self.given_up(&vm, &desired, &before);
        terms.whole = true;
        terms.given_up = given_up.iter().map(|way| way.name.clone()).collect();
        terms.vlans_given_up = vlans_before(self.driver, &vm, &desired, &before);
        let bridges = before.bridges().chain(desired.places()).cloned().collect();
        before.take_back_trust(&mut desired);
        let locks = self.lock_all(lock, &bridges)?;
        // A number that is taken is found before the old tunnel goes.
        let way = self.compare_numbered(&mut desired, &before, &terms, true)?;
        if self.dry_run {
            return self.host.tell(way, self.log).map(|_| ());
        }
        let way = self.take_numbers(&mut desired, &terms, way)?;
        let mut under_way = before.clone();
        under_way.given_up = given_up;
        under_way.reserve(self.driver.name(), &desired);
        let seats = numbers_of(&desired, &way);
        self.log.begin(&Step::Reserve);
        self.host.reservations.replace(&before, &under_way)?;
        if let Err(error) = self.host.make(&desired, &terms, way, self.log) {
            return Err(self.go_back(&before, &under_way, &desired, terms, error));
        }
        let mut after = under_way.clone();
        after.given_up.clear();
        self.log.begin(&Step::Reserve);
        self.host.reservations.replace(&under_way, &after)?;
        drop(locks);
        self.announce(&desired, seats);
        Ok(())
    }

    /// The ways out that these NICs had and have no more: as reserved, and (the stock driver made them) as the document tells of
    /// what was before.
    fn given_up(&self, vm: &VmDocument, desired: &Desired, before: &Reservation) -> BTreeSet<GivenUp> {
        let mut old = before.given_up.clone();
        for port in &desired.ports {
            let way = |name: LinkName| GivenUp { name, bridge: port.bridge.clone() };
            let nic = vm.nics.iter().find(|nic| nic.nic_id == port.nic);
            old.extend(nic.and_then(|nic| self.way_out_before(vm, nic)).map(way));
            if let Some(reserved) = before.nics.get(&port.nic) {
                old.extend(reserved.ways_out().cloned().map(way));
            }
        }
        let kept: BTreeSet<&LinkName> = desired.ways_out().collect();
        old.retain(|way| !kept.contains(&way.name));
        old
    }

    fn way_out_before(&self, vm: &VmDocument, nic: &Nic) -> Option<LinkName> {
        let number = if self.driver.is_switch() { "OUTER_VLAN_ID" } else { "VLAN_ID" };
        let old = |attribute: &str| vm.vnet_update.get(attribute);
        let uplink = match old("PHYDEV") {
            Some(name) => name.parse().ok()?,
            None => nic.phydev.clone()?,
        };
        if !self.driver.needs_uplink() {
            return Some(uplink);
        }
        if self.driver == Driver::Dot1q {
            let tag = old(number).and_then(|tag| tag.parse::<u16>().ok()).or(nic.vlan_tag())?;
            return device_name(nic.nic_id, &uplink, number, &tag).ok();
        }
        let vni = match old(number) {
            Some(text) => text.parse::<u32>().ok()?.try_into().ok()?,
            None => nic.vni()?,
        };
        tunnel_name(self.driver, nic.nic_id, &uplink, vni).ok()
    }

    /// Makes what was reserved before, in place of what could not be made whole.
    fn go_back(
        &mut self,
        before: &Reservation,
        after: &Reservation,
        desired: &Desired,
        terms: Terms,
        first: ActionError,
    ) -> ActionError {
        let ports = desired.ports.iter().map(|port| port.nic);
        let nics = ports.chain(desired.functions.iter().map(|function| function.nic)).collect();
        let old = before.desired(&nics);
        let kept: BTreeSet<&LinkName> = old.ways_out().collect();
        let given_up = desired.ways_out().filter(|name| !kept.contains(name)).cloned().collect();
        let terms = Terms { given_up, vlans_given_up: carried(&desired.tags), ..terms };
        let back = self.host.compare(&old, &terms, true);
        let back = back.and_then(|way| self.host.make(&old, &terms, way, self.log));
        self.log.begin(&Step::Release);
        let back = back.and(self.host.reservations.replace(after, before).map_err(ActionError::from));
        match back {
            Ok(()) => first,
            Err(undo) => ActionError::Undo { first: Box::new(first), undo: Box::new(undo) },
        }
    }
}

/// The VLANs that these NICs had and have no more, at their devices and at the ways out: as reserved, and as the document tells of
/// what was before.
fn vlans_before(
    driver: Driver,
    vm: &VmDocument,
    desired: &Desired,
    before: &Reservation,
) -> BTreeMap<Place, BTreeSet<u16>> {
    let reserved = desired.ports.iter().filter_map(|port| before.nics.get(&port.nic)?.tags.as_ref());
    let mut out = carried(reserved);
    let attribute = if driver == Driver::Dot1q { "CVLANS" } else { "VLAN_TAGGED_ID" };
    let old = vm.vnet_update.get(attribute).and_then(|list| TagRanges::read(list)).unwrap_or_default();
    if driver.is_switch() || driver == Driver::Vxlan || old.is_empty() {
        return out;
    }
    for port in &desired.ports {
        let uplinks = desired.bridges.iter().filter(|bridge| bridge.name == port.bridge);
        let vlans = desired.vlans.iter().filter(|vlan| vlan.bridge == port.bridge).map(|vlan| &vlan.name);
        let ways_out = uplinks.filter_map(|bridge| bridge.uplink.as_ref()).chain(vlans);
        for name in ways_out.chain([&port.tap]) {
            out.entry(Place { name: name.clone(), bridge: port.bridge.clone() })
                .or_default()
                .extend(old.tags());
        }
    }
    out
}

/// The network that has changed: the second argument, after the deploy id (contract VNM 1.3).
///
/// # Errors
/// There is none.
pub fn network(args: &[String]) -> Result<u32, Refusal> {
    let found = args.get(1).map_or("", String::as_str);
    let accepted = "the id of the network, as oned gives it after the deploy id";
    found.parse().map_err(|_| Refusal::Argument { value: found.to_owned(), accepted })
}
