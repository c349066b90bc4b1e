//! `connections` and `admit`: what a guest has under way is told by the host that it leaves, and goes on where it comes to.
//!
//! The kernel is told of a connection as one that the guest's own rules have let be. A switch can't be told: it lets begin once more
//! what belongs to one, for as long. Both only concern NICs whose rules know connections, and of a guest that is held to its addresses
//! only what has one of them at an end; what another guest's rules let be is for those to say.
//!
//! Whose connections are admitted is about to come, so its devices are watched from then on until `post` ([`watch`](super::watch)).

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::{LinkName, VmId};

use super::action::Action;
use super::error::ActionError;
use super::fences::LOCK;
use crate::connections::{Connection, Connections, MOST, MOST_OF_ALL};
use crate::desired::{Number, Port, Refusal};
use crate::fabric::firewall::{Tracked, Tracking};
use crate::fabric::ovs::flows::{self, Seat};
use crate::fabric::ovs::openflow::FlowChange;
use crate::fabric::ovs::{self, Scope};
use crate::lock::Lock;
use crate::reservation::{NicReservation, Place, Reservation};

impl Action<'_, '_> {
    pub(super) fn connections(&mut self, vm: VmId) -> Result<Connections, ActionError> {
        let _lock = self.lock_vm(vm)?;
        let reservation = self.host.reservations.load(vm)?;
        let mut out = Connections::default();
        let tracked = self.tracked(&reservation);
        let most = MOST.min(MOST_OF_ALL.checked_div(tracked.len()).unwrap_or(MOST));
        for (nic, reserved) in tracked {
            let mut known = self.connections_of(&reservation, nic, reserved)?;
            if known.len() > most {
                let count = known.len();
                self.log.notes.push(format!("NIC {nic} has {count} connections: {most} of them go with it"));
                // What was heard of last has the most time left.
                known.sort_by_key(|connection| std::cmp::Reverse(connection.seconds));
                known.truncate(most);
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
            (Place::Bridge(_), Some(number)) => match self.host.nft.zone(&reserved.port.bridge)? {
                Some(zone) => Ok(self.host.nft.connections(zone, number)?),
                None => Ok(Vec::new()),
            },
            (Place::Switch(switch, _), Some(number)) => {
                // A guest that has just gone has no port any more, and its connections are there all the same.
                let observed = self.switch_of(reservation, nic)?;
                let Some(seen) = observed.bridges.get(switch.name.as_str()) else { return Ok(Vec::new()) };
                let mut known = self.host.switch()?.connections(seen.datapath(), number.get())?;
                // By some that it brought with it nothing has come yet: they go on with it.
                let brought = self.host.switch()?.admitted(switch.name.as_str(), reservation.vm, nic)?;
                let mut heard: BTreeSet<_> = known.iter().map(Connection::ends).collect();
                known.extend(brought.into_iter().filter(|one| heard.insert(one.ends())));
                Ok(known)
            }
            (_, None) => Ok(Vec::new()),
        }
    }

    /// What the switch has of a NIC.
    fn switch_of(&mut self, reservation: &Reservation, nic: u32) -> Result<ovs::Observed, ActionError> {
        let scope = Scope::from(&reservation.desired(&[nic].into()));
        Ok(self.host.switch()?.observe(&scope)?)
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
                self.host.places.watches.begin(&reserved.port.tap, self.host.reservations.path(vm));
            }
        }
        for (nic, reserved) in self.tracked(&reservation) {
            let Some(connections) = told.0.get(&nic) else { continue };
            let (Some(number), port) = (reserved.number, &reserved.port) else { continue };
            // Who is held to some addresses has no connection of others; else they are those of the template, or any that it gave itself.
            let held = reserved.guard.as_ref().and_then(|guard| guard.senders.as_ref());
            let theirs = |connection: &&Connection| held.is_none_or(|own| connection.is_of(own));
            let own: Vec<Connection> = connections.iter().filter(theirs).cloned().collect();
            match &reserved.place {
                Place::Bridge(_) => self.admit_on_bridge(port, number, own)?,
                Place::Switch(switch, seat) => {
                    let observed = self.switch_of(&reservation, nic)?;
                    let bridge = switch.name.to_string();
                    let Some(known) = observed.on(&bridge, port.tap.as_str()) else { continue };
                    // The one that it has, or that it will get when its device is there.
                    let at = known.number().unwrap_or_else(|| number.get().into());
                    let is_anothers = |(on, taken, by): &(String, u32, String)| {
                        *on == bridge && *taken == at && by != port.tap.as_str()
                    };
                    let lent = observed.bridges.get(&bridge).and_then(|seen| seen.flows.as_ref());
                    let lent = lent.is_some_and(|flows| flows.lent.contains(&nic));
                    if observed.taken.iter().any(is_anothers) || own.is_empty() && !lent {
                        continue;
                    }
                    let seat = Seat { vm, port: at, zone: number.get(), vlans: seat.vlans.clone() };
                    // What an earlier list has lent and this one does not name has ended meanwhile.
                    let old = lent.then(|| FlowChange::RemoveAll(flows::lent(vm, nic).into()));
                    let changes =
                        old.into_iter().chain(flows::admit(&seat, nic, &port.addresses, &own)).collect();
                    // Nothing that only lets more pass need be waited for.
                    let (forget, settle) = (Vec::new(), false);
                    self.make_or_say(ovs::Change::Flows { bridge, forget, changes, settle })?;
                }
            }
        }
        Ok(())
    }

    fn admit_on_bridge(
        &mut self,
        port: &Port,
        number: Number,
        own: Vec<Connection>,
    ) -> Result<(), ActionError> {
        if own.is_empty() {
            return Ok(());
        }
        // The zone stays that bridge's.
        let _lock = Lock::take(&self.host.places.locks, LOCK, self.deadline)?;
        let Some(zone) = self.host.nft.zone(&port.bridge)? else { return Ok(()) };
        let what = Tracked::Known(number, own, port.addresses.clone());
        self.make_or_say(Tracking { bridge: port.bridge.clone(), zone, what })
    }

    /// Has the kernel forget what guests that have gone from their bridges had under way: who gets their numbers begins anew. It can
    /// fail nothing.
    pub(super) fn forget_connections(&mut self, gone: &[(LinkName, Number)]) {
        let mut by_bridge: BTreeMap<&LinkName, Vec<Number>> = BTreeMap::new();
        for (bridge, number) in gone {
            by_bridge.entry(bridge).or_default().push(*number);
        }
        for (bridge, numbers) in by_bridge {
            if let Err(error) = self.forget_connections_of(bridge, numbers) {
                let failure = causeway_core::answer::Failure::from(error);
                self.log
                    .notes
                    .push(format!("connections of a guest on {bridge} are not forgotten: {failure}"));
            }
        }
    }

    fn forget_connections_of(&mut self, bridge: &LinkName, numbers: Vec<Number>) -> Result<(), ActionError> {
        let Some(zone) = self.host.nft.zone(bridge)? else { return Ok(()) };
        let entries = self.host.nft.entries(zone, &numbers)?;
        if entries.is_empty() {
            return Ok(());
        }
        let what = Tracked::Forgotten(numbers, entries);
        self.make_or_say(Tracking { bridge: bridge.clone(), zone, what })
    }
}
