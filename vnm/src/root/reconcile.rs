//! `reconcile`: what is reserved for guests is there again, and what belongs to no VM is not (contract VNM 5, W19).
//!
//! After a restart of Open vSwitch or of the firewall, or of the host's network, this is the way back: the switch has kept its rows and
//! forgotten its flows, and a guarded guest is closed until they are there.

use std::collections::BTreeSet;

use causeway_core::answer::Failure;
use causeway_core::names::{LinkName, VmId};

use super::action::Action;
use super::error::ActionError;
use super::host::Terms;
use super::left::Left;
use super::place::Places;
use super::step::Log;
use super::uplinks;
use super::wire::Reconcile;
use crate::desired::{Desired, Driver, Facts};
use crate::fabric::linux::observe::{all_links, by_name, uplinks};
use crate::fabric::linux::parse::{Link, LinkKind};
use crate::fabric::{firewall, ovs};
use crate::lock::Lock;
use crate::reservation::{Reservations, now};

/// Brings this host's networks back to what is reserved; what can't be brought back is noted, and the rest goes on.
///
/// # Errors
/// The reservations can't be read, or the kernel not at all.
pub fn run(places: &Places, ask: &Reconcile, log: &mut Log<'_>) -> Result<(), Failure> {
    let vms = Reservations::new(&places.reservations).vms().map_err(ActionError::from)?;
    let mut action = Action::reconciling(places, ask, log)?;
    for vm in vms {
        // A guest that never came, or went with its host, is not waited for.
        let collected = if ask.dry_run { Ok(()) } else { action.collect_one(vm, now()) };
        if let Err(error) = collected.and_then(|()| action.restore(vm)) {
            let failure = Failure::from(error);
            action.log.notes.push(format!("VM {vm}: {failure}"));
        }
    }
    action.collect_strays()?;
    Ok(())
}

impl Action<'_, '_> {
    /// Makes again what is reserved for a VM, driver by driver: what stands in the way of one hinders no other.
    fn restore(&mut self, vm: VmId) -> Result<(), ActionError> {
        for (driver, _) in Driver::NAMES {
            // Between two drivers another action may have its turn.
            let lock = self.lock_vm(vm)?;
            let reserved = self.host.reservations.load(vm)?;
            let here = reserved.nics.iter().filter(|(nic, _)| !reserved.leaving.contains(nic));
            let mut nics: BTreeSet<u32> =
                here.filter(|(_, nic)| nic.driver == driver).map(|(nic, _)| *nic).collect();
            nics.extend(reserved.functions_of(driver).map(|function| function.nic));
            if nics.is_empty() {
                continue;
            }
            if let Err(error) = self.restore_nics(lock, &reserved.desired(&nics)) {
                let failure = Failure::from(error);
                self.log.notes.push(format!("VM {vm}, {driver}: {failure}"));
            }
        }
        Ok(())
    }

    fn restore_nics(&mut self, lock: Lock, desired: &Desired) -> Result<(), ActionError> {
        let named: BTreeSet<LinkName> = desired
            .tunnels
            .iter()
            .map(|tunnel| &tunnel.uplink)
            .chain(desired.vlans.iter().map(|vlan| &vlan.uplink))
            .chain(desired.bridges.iter().filter_map(|bridge| bridge.uplink.as_ref()))
            .cloned()
            .collect();
        let facts = Facts {
            listed: uplinks::read(&self.host.places.uplinks)?,
            uplinks: uplinks(&mut self.host.netlink, &named)?,
            filtered: self.host.hands_all_over(),
            ..Facts::default()
        };
        let terms = Terms { facts, arp: self.settings.arp_cache_poisoning, ..Terms::default() };
        let _locks = self.lock_all(lock, &desired.places().cloned().collect())?;
        let way = self.host.compare(desired, &terms, true)?;
        match self.dry_run {
            true => self.host.tell(way, self.log).map(|_| ()),
            false => self.host.make(desired, &terms, way, self.log),
        }
    }

    /// Removes what no VM has reserved: numbers, rules of devices that are not there, empty bridges and their tunnels.
    fn collect_strays(&mut self) -> Result<(), ActionError> {
        self.collect_fences()?;
        self.collect_numbers()?;
        self.collect_seats()?;
        self.collect_links()
    }

    /// Ports and flows of NICs on Open vSwitch that nobody has reserved and whose device is not there.
    fn collect_seats(&mut self) -> Result<(), ActionError> {
        let Some(switch) = self.host.switch_if_any()? else { return Ok(()) };
        for ((bridge, vm, nic), found) in switch.census()? {
            let names = (bridge.parse::<LinkName>(), format!("one-{vm}-{nic}").parse::<LinkName>());
            let (Ok(bridge), Ok(tap)) = names else { continue };
            let Some(lock) = Lock::attempt(&self.host.places.locks, &format!("vm-{vm}"))? else { continue };
            let reserved = self.host.reservations.load(vm)?;
            if found.plugged || reserved.nics.get(&nic).is_some_and(|nic| nic.port.bridge == bridge) {
                continue;
            }
            let _locks = self.lock_all(lock, &[bridge.clone()].into())?;
            let mut left = Left::nothing(vm);
            left.add_port(nic, &tap, bridge);
            self.leave(vm, &left, BTreeSet::new())?;
        }
        Ok(())
    }

    fn collect_numbers(&mut self) -> Result<(), ActionError> {
        let census = self.host.switch_if_any()?.map(ovs::Ovs::census).transpose()?.unwrap_or_default();
        let on_switch = census.into_iter().filter(|(_, found)| found.plugged);
        let on_switch: BTreeSet<(VmId, u32)> = on_switch.map(|((_, vm, nic), _)| (vm, nic)).collect();
        for (number, vm, nic) in self.host.reservations.taken()? {
            let Some(_lock) = Lock::attempt(&self.host.places.locks, &format!("vm-{vm}"))? else { continue };
            let reserved = self.host.reservations.load(vm)?.numbers().contains(&(nic, number));
            // A guest that is still there goes by it.
            let is_here = on_switch.contains(&(vm, nic)) || self.has_device(vm, nic)?;
            if !reserved && !is_here && !self.dry_run {
                self.host.reservations.give_back(number, vm, nic)?;
            }
        }
        Ok(())
    }

    fn collect_fences(&mut self) -> Result<(), ActionError> {
        let owners = self.host.nft.observe(&firewall::Scope::default())?.owners();
        for (tap, owner) in owners {
            let Some((tap, owner)) = tap.parse::<LinkName>().ok().zip(owner) else { continue };
            let Some(_lock) = Lock::attempt(&self.host.places.locks, &format!("vm-{}", owner.vm))? else {
                continue;
            };
            let reserved = self.host.reservations.load(owner.vm)?.nics.contains_key(&owner.nic);
            if !reserved && by_name(&mut self.host.netlink, &tap)?.is_none() {
                self.host.unfence(owner.vm, &[tap].into(), self.dry_run, self.log)?;
            }
        }
        Ok(())
    }

    /// Bridges and tunnels with our mark that nobody has reserved; what a guest is plugged into stays.
    fn collect_links(&mut self) -> Result<(), ActionError> {
        let links = all_links(&mut self.host.netlink)?;
        let mut left = Left::nothing(VmId(0));
        for link in links.iter().filter(|link| link.mark.is_ours()) {
            let Ok(name) = link.name.parse::<LinkName>() else { continue };
            match link.kind {
                LinkKind::Bridge(_) => drop(left.linux.bridges.insert(name)),
                LinkKind::Vxlan(_) | LinkKind::Vlan(_) => self.stray_way(&links, link, name, &mut left)?,
                _ => {}
            }
        }
        let bridges = left.bridges();
        let lock = |name| Lock::take(&self.host.places.locks, &format!("bridge-{name}"), self.deadline);
        let _locks: Vec<Lock> = bridges.iter().map(lock).collect::<Result<_, _>>()?;
        // Nobody reserves one of them from here on.
        let mut reserved = BTreeSet::new();
        for vm in self.host.reservations.vms()? {
            reserved.extend(self.host.reservations.load(vm)?.bridges().cloned());
        }
        left.linux.bridges.retain(|bridge| !reserved.contains(bridge));
        left.linux.tunnels.retain(|way| !reserved.contains(&way.bridge));
        self.leave(VmId(0), &left, reserved).map(|_| ())
    }

    /// A tunnel goes with its bridge; one in no bridge goes if nobody's network on Open vSwitch has it.
    fn stray_way(
        &mut self,
        links: &[Link],
        link: &Link,
        name: LinkName,
        left: &mut Left,
    ) -> Result<(), ActionError> {
        let master = link.bridge.and_then(|index| links.iter().find(|link| link.index == index));
        match master.map(|master| (master.name.parse::<LinkName>(), &master.kind)) {
            Some((Ok(bridge), LinkKind::Bridge(_))) => left.linux.give_up(&name, &bridge),
            Some(_) => {}
            None => {
                for vm in self.host.reservations.vms()? {
                    let reserved = self.host.reservations.load(vm)?;
                    if reserved.nics.values().any(|nic| nic.ways_out().any(|way| *way == name)) {
                        return Ok(());
                    }
                }
                left.linux.loose.insert(name);
            }
        }
        Ok(())
    }
}
