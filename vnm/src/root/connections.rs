//! `connections` and `admit`: what a guest has under way is told by the host that it leaves, and goes on where it comes to.
//!
//! The kernel is told of a connection as one that it has always known. A switch can't be told: it lets begin once more what
//! belongs to one, for some minutes. Both only concern NICs whose rules know connections, and only what has an address of the
//! guest's own at one end: one who lies about them can have nothing more pass than a document can.
//!
//! Whose connections are admitted is about to come, so its devices are watched from then on until `post` ([`watch`](super::watch)).

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_core::names::VmId;

use super::action::Action;
use super::error::ActionError;
use super::fences::LOCK;
use crate::connections::{Connection, Connections, MOST};
use crate::desired::{Number, Port, Refusal, Switch};
use crate::fabric::firewall::Tracking;
use crate::fabric::ovs::flows::{Seat, admit};
use crate::fabric::ovs::{self, Scope};
use crate::lock::Lock;
use crate::reservation::{NicReservation, Place, Reservation};

/// The seat of a guest as it is on its switch now.
struct Seated {
    datapath: String,
    port: u32,
}

impl Action<'_, '_> {
    pub(super) fn connections(&mut self, vm: VmId) -> Result<Connections, ActionError> {
        let _lock = self.lock_vm(vm)?;
        let reservation = self.host.reservations.load(vm)?;
        let mut out = Connections::default();
        for (nic, reserved) in self.tracked(&reservation) {
            let mut known = self.connections_of(&reservation, nic, reserved)?;
            if known.len() > MOST {
                let count = known.len();
                self.log.notes.push(format!("NIC {nic} has {count} connections: {MOST} of them go with it"));
                // What was heard of last has the most time left.
                known.sort_by_key(|connection| std::cmp::Reverse(connection.seconds));
                known.truncate(MOST);
            }
            out.0.insert(nic, known);
        }
        Ok(out)
    }

    /// The NICs of this driver whose connections are known.
    fn tracked<'r>(&self, reservation: &'r Reservation) -> Vec<(u32, &'r NicReservation)> {
        let of_driver = |reserved: &NicReservation| reserved.driver == self.driver.name();
        let nics = reservation.nics.iter().map(|(nic, reserved)| (*nic, reserved));
        nics.filter(|(_, reserved)| of_driver(reserved) && reserved.is_stateful()).collect()
    }

    fn connections_of(
        &mut self,
        reservation: &Reservation,
        nic: u32,
        reserved: &NicReservation,
    ) -> Result<Vec<Connection>, ActionError> {
        match (&reserved.place, reserved.number) {
            (Place::Bridge(_), _) => self.connections_on_bridge(&reserved.port),
            (Place::Switch(switch, _), Some(number)) => {
                let Some(seated) = self.seated(reservation, nic, &reserved.port, switch, number)? else {
                    return Ok(Vec::new());
                };
                Ok(self.host.switch()?.connections(&seated.datapath, number.get())?)
            }
            (Place::Switch(..), None) => Ok(Vec::new()),
        }
    }

    fn connections_on_bridge(&mut self, port: &Port) -> Result<Vec<Connection>, ActionError> {
        let Some(zone) = self.host.nft.zone(&port.bridge)? else { return Ok(Vec::new()) };
        let mut known = self.host.nft.connections(zone)?;
        known.retain(|connection| connection.is_of(&port.addresses));
        Ok(known)
    }

    /// Where a NIC is on its switch, or will be; none while the switch does not know it.
    fn seated(
        &mut self,
        reservation: &Reservation,
        nic: u32,
        port: &Port,
        switch: &Switch,
        number: Number,
    ) -> Result<Option<Seated>, ActionError> {
        let scope = Scope::from(&reservation.desired(&[nic].into()));
        let observed = self.host.switch()?.observe(&scope)?;
        let bridge = switch.name.as_str();
        let Some(seen) = observed.bridges.get(bridge) else { return Ok(None) };
        let known = observed.on(bridge, port.tap.as_str());
        let port = known.map(|known| known.number().unwrap_or_else(|| u32::from(number.get())));
        Ok(port.map(|port| Seated { datapath: seen.datapath().to_owned(), port }))
    }

    pub(super) fn admit(&mut self, vm: VmId, args: &[String]) -> Result<(), ActionError> {
        let missing = || Refusal::Argument {
            value: String::new(),
            accepted: "the connections of a VM, as a host tells them",
        };
        let told: Connections = args.first().ok_or_else(missing)?.parse()?;
        let _lock = self.lock_vm(vm)?;
        let reservation = self.host.reservations.load(vm)?;
        for reserved in reservation.nics.values().filter(|reserved| reserved.driver == self.driver.name()) {
            if !self.dry_run {
                self.host.places.watches.begin(&reserved.port.tap);
            }
        }
        for (nic, reserved) in self.tracked(&reservation) {
            let Some(connections) = told.0.get(&nic).filter(|connections| !connections.is_empty()) else {
                continue;
            };
            match (&reserved.place, reserved.number) {
                (Place::Bridge(_), _) => self.admit_on_bridge(&reserved.port, connections)?,
                (Place::Switch(switch, seat), Some(number)) => {
                    let seated = self.seated(&reservation, nic, &reserved.port, switch, number)?;
                    let Some(Seated { port, .. }) = seated else { continue };
                    let vlans = seat.vlans.clone();
                    let seat = Seat { vm, port, zone: number.get(), vlans };
                    let changes = admit(&seat, nic, &reserved.port.addresses, connections);
                    let bridge = switch.name.to_string();
                    self.make_or_say(ovs::Change::Flows { bridge, forget: Vec::new(), changes })?;
                }
                (Place::Switch(..), None) => {}
            }
        }
        Ok(())
    }

    fn admit_on_bridge(&mut self, port: &Port, connections: &[Connection]) -> Result<(), ActionError> {
        // The zone stays that bridge's.
        let _lock = Lock::take(&self.host.places.locks, LOCK, self.deadline)?;
        let Some(zone) = self.host.nft.zone(&port.bridge)? else { return Ok(()) };
        let theirs = connections.iter().filter(|connection| connection.is_of(&port.addresses));
        let connections: Vec<Connection> = theirs.cloned().collect();
        if connections.is_empty() {
            return Ok(());
        }
        self.make_or_say(Tracking { bridge: port.bridge.clone(), zone, known: true, connections })
    }

    /// Has the kernel forget what guests that have gone from a bridge had under way: who gets their addresses there is to
    /// begin anew. What another guest of the bridge has a part in stays, for that one may go on with it elsewhere. It can fail nothing.
    pub(super) fn forget_connections(&mut self, vm: VmId, ports: &[Port]) {
        for port in ports {
            if let Err(error) = self.forget_connections_of(vm, port) {
                let failure = causeway_core::answer::Failure::from(error);
                self.log.notes.push(format!("connections of {} are not forgotten: {failure}", port.tap));
            }
        }
    }

    fn forget_connections_of(&mut self, vm: VmId, port: &Port) -> Result<(), ActionError> {
        let Some(zone) = self.host.nft.zone(&port.bridge)? else { return Ok(()) };
        let mut connections = self.connections_on_bridge(port)?;
        if !connections.is_empty() {
            match self.addresses_beside(vm, port)? {
                Some(others) => connections.retain(|connection| !connection.is_of(&others)),
                None => connections.clear(),
            }
        }
        if connections.is_empty() {
            return Ok(());
        }
        self.make_or_say(Tracking { bridge: port.bridge.clone(), zone, known: false, connections })
    }

    /// The addresses of the other guests on its bridge that need their connections to be known; none where those of one are not.
    fn addresses_beside(&self, vm: VmId, port: &Port) -> Result<Option<Vec<IpAddr>>, ActionError> {
        let mut out = BTreeSet::new();
        for other in self.host.reservations.on(&port.bridge)? {
            let reservation = self.host.reservations.load(other)?;
            let beside =
                reservation.nics.values().filter(|nic| nic.is_stateful() && nic.port.bridge == port.bridge);
            for nic in beside.filter(|nic| other != vm || nic.port.tap != port.tap) {
                if nic.port.addresses.is_empty() {
                    return Ok(None);
                }
                out.extend(&nic.port.addresses);
            }
        }
        Ok(Some(out.into_iter().collect()))
    }
}
