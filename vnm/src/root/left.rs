//! What NICs leave behind, in every fabric, and how it is taken away.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::{LinkName, VmId};

use super::action::Action;
use super::error::ActionError;
use super::host::TRIES;
use crate::desired::nics::Names;
use crate::desired::{Datapath, Desired, Function, Number, Port, Switch};
use crate::fabric::{linux, ovs};
use crate::reservation::{Former, NicReservation, Place, Reservation};

/// What is left.
#[derive(Debug, Clone)]
pub(super) struct Left {
    /// On Linux bridges.
    pub(super) linux: linux::Leaving,
    /// On Open vSwitch.
    pub(super) switch: ovs::Leaving,
    /// Tunnels that are ports of Open vSwitch.
    tunnels: BTreeSet<LinkName>,
    /// Guests on Linux bridges whose connections are known: the device, the bridge, the number.
    tracked: Vec<(LinkName, LinkName, Number)>,
}

impl Left {
    /// Nothing yet.
    pub(super) fn nothing(vm: VmId) -> Self {
        Left {
            linux: linux::Leaving::default(),
            switch: ovs::Leaving::nothing(vm),
            tunnels: BTreeSet::new(),
            tracked: Vec::new(),
        }
    }

    /// What a state comes to that was made, or was about to be.
    pub(super) fn all_of(desired: &Desired) -> Self {
        let tunnels = desired.tunnels.iter().filter(|tunnel| tunnel.bridge.is_none());
        Left {
            linux: desired.into(),
            switch: desired.into(),
            tunnels: tunnels.map(|tunnel| tunnel.name.clone()).collect(),
            tracked: Vec::new(),
        }
    }

    /// Adds what a NIC leaves, as it was reserved.
    pub(super) fn add(&mut self, nic: u32, reserved: &NicReservation) {
        let tunnel = reserved.tunnel.as_ref().map(|tunnel| &tunnel.name);
        match &reserved.place {
            Place::Bridge(bridge) => {
                let made = tunnel.or(reserved.vlan.as_ref().map(|vlan| &vlan.name));
                self.linux.add(&reserved.port, bridge.keep, made, bridge.uplink.as_ref());
                let served = reserved.services.iter().map(|services| services.bridge.clone());
                self.linux.services.extend(served);
                reserved.tags.iter().for_each(|tags| self.linux.add_vlans(tags));
                if let Some(number) = reserved.number.filter(|_| reserved.is_stateful()) {
                    self.tracked.push((reserved.port.tap.clone(), reserved.port.bridge.clone(), number));
                }
            }
            Place::Switch(switch, _) => {
                self.switch.add(nic, &reserved.port.tap, reserved.number, switch);
                self.tunnels.extend(tunnel.filter(|_| !switch.keep).cloned());
            }
        }
    }

    /// Adds what a NIC leaves of which no reservation can be read: the stock driver prepared it, or no more than its number is known.
    pub(super) fn add_unreserved(&mut self, switched: bool, names: &Names, number: Option<Number>) {
        let Names { port, keep, tunnel, uplink } = names;
        if !switched {
            self.tracked.extend(number.map(|number| (port.tap.clone(), port.bridge.clone(), number)));
            return self.linux.add(port, *keep, tunnel.as_ref(), uplink.as_ref());
        }
        let switch = Switch {
            name: port.bridge.clone(),
            datapath: Datapath::Any,
            options: BTreeMap::new(),
            uplinks: tunnel.iter().chain(uplink.iter().filter(|_| tunnel.is_none())).cloned().collect(),
            keep: *keep,
        };
        self.switch.add(port.nic, &port.tap, number, &switch);
        self.tunnels.extend(tunnel.iter().filter(|_| !keep).cloned());
    }

    /// Adds a virtual function that a NIC leaves; its device on the host, if it has one, does not go with its guest.
    pub(super) fn add_function(&mut self, function: &Function) {
        self.switch.stays(function.nic);
        self.linux.functions.push(function.clone());
    }

    /// What one NIC had before it came to have what is reserved for it now.
    fn former(nic: u32, old: &NicReservation, reservation: &Reservation) -> Self {
        let mut left = Left::nothing(reservation.vm);
        left.add(nic, old);
        // A virtual function's device is there with or without a guest.
        let functions = reservation.former.functions.iter().map(|reserved| reserved.function.nic);
        if functions.chain(reservation.functions.keys().copied()).any(|function| function == nic) {
            left.switch.stays(nic);
        }
        // The devices themselves are those of the NICs that are here, or to come.
        left.spare(reservation.nics.values().map(|reserved| &reserved.port));
        left.linux.spare_vlans(reservation.nics.values().filter_map(|reserved| reserved.tags.as_ref()));
        left
    }

    /// Adds a port on Open vSwitch of which nothing but the name is known.
    pub(super) fn add_port(&mut self, nic: u32, tap: &LinkName, bridge: LinkName) {
        let switch = Switch {
            name: bridge,
            datapath: Datapath::Any,
            options: BTreeMap::new(),
            uplinks: BTreeSet::new(),
            keep: false,
        };
        self.switch.add(nic, tap, None, &switch);
    }

    /// Spares the devices of these ports, and what guards them: their NICs are not leaving, only what they were plugged into.
    pub(super) fn spare<'p>(&mut self, ports: impl IntoIterator<Item = &'p Port>) {
        for port in ports {
            self.linux.taps.retain(|tap| tap.name != port.tap);
            self.tracked.retain(|(tap, ..)| *tap != port.tap);
            self.switch.seats.retain(|_, seat| seat.tap != port.tap || seat.switch != port.bridge);
        }
    }

    /// The bridges that it is about.
    pub(super) fn bridges(&self) -> BTreeSet<LinkName> {
        let taps = self.linux.taps.iter().map(|tap| &tap.bridge);
        let seats = self.switch.seats.values().map(|seat| &seat.switch);
        let devices = self.linux.functions.iter().map(|function| &function.device);
        taps.chain(&self.linux.bridges)
            .chain(&self.linux.services)
            .chain(devices)
            .chain(seats)
            .chain(self.switch.switches.keys())
            .cloned()
            .collect()
    }
}

impl Action<'_, '_> {
    /// Removes what `left` names as far as nobody needs it; the VM's own devices that are still there come back.
    pub(super) fn leave(
        &mut self,
        vm: VmId,
        left: &Left,
        keep: BTreeSet<LinkName>,
    ) -> Result<BTreeSet<LinkName>, ActionError> {
        let mut reserved = self.host.claims(&left.bridges(), vm, self.log)?;
        reserved.extend(keep);
        let mut lingering = BTreeSet::new();
        let mut linux = left.linux.clone();
        self.spare_vlans_of_others(vm, &mut linux)?;
        self.spare_functions_of_others(vm, &mut linux)?;
        if !left.switch.seats.is_empty() || !left.switch.switches.is_empty() {
            lingering = self.leave_switch(left, &reserved)?;
            linux.loose.extend(self.loose(left)?);
        }
        if linux.is_empty() && left.tracked.is_empty() {
            return Ok(lingering);
        }
        let observed = linux::observe(&mut self.host.netlink, &linux::Scope::from(&linux))?;
        self.unserve(&linux.services, &observed, &reserved)?;
        let removal = linux::removal(&linux, &observed, &reserved);
        self.log.notes.extend(removal.notes);
        self.take(removal.changes)?;
        // A guest that is still here stays guarded.
        let mut gone: BTreeSet<LinkName> = linux.taps.iter().map(|tap| tap.name.clone()).collect();
        gone.retain(|tap| !removal.lingering.contains(tap));
        let left_behind = left.tracked.iter().filter(|(tap, ..)| !removal.lingering.contains(tap));
        let left_behind: Vec<_> = left_behind.map(|(_, bridge, number)| (bridge.clone(), *number)).collect();
        // While the bridge's zone is still its own.
        self.forget_connections(&left_behind);
        self.host.unfence(vm, &gone, self.dry_run, self.log)?;
        lingering.extend(removal.lingering);
        Ok(lingering)
    }

    /// Takes away what the VM's NICs had before. Their bridges are locked. Gives back what stays, because its device is there.
    pub(super) fn leave_former(&mut self, reservation: &Reservation) -> Result<Former, ActionError> {
        let keep = || reservation.nics.values().map(|reserved| reserved.port.bridge.clone()).collect();
        let mut lingers = Former::default();
        for (nic, old) in &reservation.former.nics {
            let lingering = self.leave(reservation.vm, &Left::former(*nic, old, reservation), keep())?;
            lingers.nics.extend(lingering.contains(&old.port.tap).then(|| (*nic, old.clone())));
        }
        if !reservation.former.functions.is_empty() {
            let mut left = Left::nothing(reservation.vm);
            let functions = reservation.former.functions.iter().map(|reserved| reserved.function.clone());
            left.linux.functions.extend(functions);
            self.leave(reservation.vm, &left, keep())?;
        }
        Ok(lingers)
    }

    /// Spares the VLANs that other VMs' guests have in the same bridges. Where that can't be known, all stay.
    fn spare_vlans_of_others(&self, vm: VmId, leaving: &mut linux::Leaving) -> Result<(), ActionError> {
        let bridges: BTreeSet<LinkName> = leaving.vlans.keys().map(|place| place.bridge.clone()).collect();
        let others = self.host.reservations.tags(&bridges, vm)?;
        leaving.spare_vlans(&others.tags);
        if !others.unreadable.is_empty() {
            leaving.vlans.clear();
        }
        Ok(())
    }

    /// Spares the virtual functions that are another VM's by now.
    fn spare_functions_of_others(&self, vm: VmId, leaving: &mut linux::Leaving) -> Result<(), ActionError> {
        if leaving.functions.is_empty() {
            return Ok(());
        }
        // What nothing is known of is not ours to reset, if somebody has it.
        let reservation = self.host.reservations.load(vm).unwrap_or_else(|_| Reservation::empty(vm));
        let mut own = Vec::new();
        for function in leaving.functions.drain(..) {
            let since = reservation.has_had_since(&function).unwrap_or(0);
            if !self.host.reservations.has_since(&function, vm, since)? {
                own.push(function);
            }
        }
        leaving.functions = own;
        Ok(())
    }

    fn leave_switch(
        &mut self,
        left: &Left,
        reserved: &BTreeSet<LinkName>,
    ) -> Result<BTreeSet<LinkName>, ActionError> {
        for tries in (0..TRIES).rev() {
            let Some(switch) = self.host.switch_if_any()? else { break };
            let observed = switch.observe(&ovs::Scope::from(&left.switch))?;
            let ours = |name: &&LinkName| {
                observed.bridges.get(name.as_str()).is_some_and(ovs::observe::BridgeSeen::is_ours)
            };
            let may_go = left.switch.switches.keys().filter(|name| !reserved.contains(name)).filter(ours);
            let mut kept = reserved.clone();
            kept.extend(self.host.with_addresses(&may_go.cloned().collect(), self.log)?);
            let removal = ovs::removal(&left.switch, &observed, &kept);
            match self.take(removal.changes) {
                Err(ActionError::Switch(error)) if error.is_stale() && tries > 0 => continue,
                other => other?,
            }
            self.log.notes.extend(removal.notes);
            return Ok(removal.lingering);
        }
        Ok(BTreeSet::new())
    }

    /// The tunnels that no bridge of the switch has any more.
    fn loose(&mut self, left: &Left) -> Result<BTreeSet<LinkName>, ActionError> {
        let Some(switch) = self.host.switch_if_any()? else { return Ok(left.tunnels.clone()) };
        let seen = switch.observe(&ovs::Scope::from(&left.switch))?;
        let used = |name: &LinkName| seen.ports.get(name.as_str()).is_some_and(|port| port.bridge.is_some());
        Ok(left.tunnels.iter().filter(|name| !used(name)).cloned().collect())
    }

    /// Makes changes, or only says them.
    pub(super) fn take<C: Into<crate::fabric::Change>>(
        &mut self,
        changes: Vec<C>,
    ) -> Result<(), ActionError> {
        changes.into_iter().try_for_each(|change| self.make_or_say(change))
    }
}
