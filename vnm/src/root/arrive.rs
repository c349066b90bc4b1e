//! `post` and `update_sg`: the guest is here. What `pre` made is looked at again and mended, and the fabric is told.

use std::time::SystemTime;

use causeway_core::document::VmDocument;

use super::action::Action;
use super::error::ActionError;
use super::host::Way;
use super::step::Step;
use crate::announce;
use crate::desired::{Desired, Port, SwitchPort};
use crate::fabric::linux::Observed;
use crate::fabric::ovs;

impl Action<'_, '_> {
    pub(super) fn post(&mut self, vm: &VmDocument) -> Result<(), ActionError> {
        let (mut desired, terms) = self.work_out(vm)?;
        let bridges = desired.places().cloned().collect();
        let lock = self.lock_vm(vm.id)?;
        let locks = self.lock_all(lock, &bridges)?;
        let way = self.compare_numbered(&mut desired, &terms, self.dry_run)?;
        plugged_in(&desired, &way)?;
        if self.dry_run {
            return self.host.tell(way, self.log).map(|_| ());
        }
        let way = self.take_numbers(&mut desired, &terms, way)?;
        let here: Vec<u32> = desired.ports.iter().map(|port| port.nic).collect();
        self.reserve_anew(&desired, &here)?;
        let seats = numbers_of(&desired, &way);
        self.host.make(&desired, &terms, way, self.log)?;
        drop(locks);
        self.announce(&desired, seats);
        let told = SystemTime::now();
        let watches = &self.host.places.watches;
        let arrivals = desired.ports.iter().filter_map(|port| watches.end(&port.tap, port.nic, told));
        self.log.arrivals.extend(arrivals);
        Ok(())
    }

    /// Tells the fabric where the guest is. It is there whatever comes of this, so it can fail nothing.
    pub(super) fn announce(&mut self, desired: &Desired, seats: Vec<(&Port, u32)>) {
        self.log.begin(&Step::Announce);
        self.log.notes.extend(announce::announce(desired));
        for (port, number) in seats {
            let frames = announce::all(port);
            let sent = self
                .host
                .switch()
                .and_then(|switch| Ok(switch.announce(port.bridge.as_str(), number, &frames)?));
            if let Err(error) = sent {
                self.log.notes.push(format!("announcement by {} failed: {error}", port.tap));
            }
        }
    }

    /// The rules of the VM's security groups have changed; nothing else has (contract VNM 4.5).
    pub(super) fn update_sg(&mut self, vm: &VmDocument) -> Result<(), ActionError> {
        if !self.driver.guards() {
            return Ok(());
        }
        let (mut desired, terms) = self.work_out(vm)?;
        // Where the guest is has not changed, and a table that has forgotten it is not this action's.
        desired.fdb.clear();
        desired.functions.clear();
        let bridges = desired.places().cloned().collect();
        let lock = self.lock_vm(vm.id)?;
        let _locks = self.lock_all(lock, &bridges)?;
        let way = self.compare_numbered(&mut desired, &terms, self.dry_run)?;
        if self.dry_run {
            return self.host.tell(way, self.log).map(|_| ());
        }
        let way = self.take_numbers(&mut desired, &terms, way)?;
        self.reserve_anew(&desired, &[])?;
        self.host.make(&desired, &terms, way, self.log)
    }

    /// Writes down what is to hold from now on, and which NICs are here: `reconcile` restores it, `clean` takes it away.
    fn reserve_anew(&mut self, desired: &Desired, here: &[u32]) -> Result<(), ActionError> {
        let before = self.host.reservations.load(desired.vm)?;
        let mut after = before.clone();
        after.reserve(self.driver.name(), desired);
        here.iter().for_each(|nic| after.meet(*nic));
        if after == before {
            return Ok(());
        }
        self.log.begin(&Step::Reserve);
        self.host.reservations.replace(&before, &after)?;
        Ok(())
    }
}

/// The ports of the switch by which its guests are announced, with their numbers there.
pub(super) fn numbers_of<'d>(desired: &'d Desired, way: &Way) -> Vec<(&'d Port, u32)> {
    let number = |port: &Port| way.switch.as_ref()?.on(port.bridge.as_str(), port.tap.as_str())?.number();
    let seated = |port: &&Port| desired.seats.iter().any(|seat| seat.nic == port.nic);
    desired.ports.iter().filter(seated).filter_map(|port| Some((port, number(port)?))).collect()
}

/// Refuses a guest whose devices are not in their bridges: it would be cut off.
fn plugged_in(desired: &Desired, way: &Way) -> Result<(), ActionError> {
    for port in &desired.ports {
        let state = match desired.seats.iter().find(|seat| seat.nic == port.nic) {
            Some(seat) => way.switch.as_ref().and_then(|switch| lacks_on_switch(seat, switch)),
            None => lacks_on_bridge(port, &way.observed),
        };
        if let Some(state) = state {
            return Err(ActionError::Tap { tap: port.tap.clone(), nic: port.nic, state });
        }
    }
    Ok(())
}

fn lacks_on_switch(seat: &SwitchPort, switch: &ovs::Observed) -> Option<String> {
    // A port of DPDK waits for its guest; libvirt starts none whose socket can't be made.
    if seat.socket.is_some() {
        return None;
    }
    let found = switch.ports.get(seat.tap.as_str());
    match found.and_then(|found| Some((found.bridge.as_deref()?, found.number()))) {
        Some((bridge, Some(_))) if bridge == seat.switch.as_str() => None,
        Some((bridge, None)) if bridge == seat.switch.as_str() => Some("does not exist".to_owned()),
        Some((bridge, _)) => Some(format!("is plugged into {bridge}, not into {}", seat.switch)),
        None => Some(format!("is not plugged into {}", seat.switch)),
    }
}

fn lacks_on_bridge(port: &Port, observed: &Observed) -> Option<String> {
    if observed.is_port_of(&port.tap, &port.bridge) {
        return None;
    }
    Some(match observed.named(&port.tap) {
        None => "does not exist".to_owned(),
        Some(link) => match link.bridge.and_then(|index| observed.links.get(&index)) {
            Some(other) => format!("is plugged into {}, not into {}", other.name, port.bridge),
            None => format!("is not plugged into {}", port.bridge),
        },
    })
}
