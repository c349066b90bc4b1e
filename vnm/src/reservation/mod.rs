//! What each VM needs on this host, on disk: so that taking one VM's network away never takes what another's `pre` has
//! just prepared and no guest uses yet (contract VNM 5, W5 and W6).
//!
//! ```text
//! 7.json                 what VM 7 needs, one file per VM, replaced whole
//! by-bridge/onebr.4/7    VM 7 may need bridge onebr.4: an index, so that nobody reads the files of a whole host
//! numbers/17001          whose number that is: a link to nowhere called `7-0`, for NIC 0 of VM 7
//! .collected             when reservations of guests that never came were last looked for
//! ```
//!
//! A reservation is written before the first device is made and dropped after the last one is removed; a death in
//! between leaves it, and a later action finishes the work. Index entries and numbers come first and go last, so that one may
//! name a VM that needs nothing, but none is ever lacking. All of it is read and written under the locks of the VM and of
//! every bridge named.

mod former;
#[cfg(test)]
mod fuzz;
mod numbers;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_core::names::{LinkName, VmId};
use serde::{Deserialize, Serialize};

use crate::asked::Asked;
use crate::desired::{
    Bridge, Desired, Function, Guard, Number, Port, Services, Switch, SwitchPort, Tags, Vlan, Vxlan,
};

pub use former::Former;
pub use store::{Claims, OthersTags, ReservationError, Reservations};

/// Raised with every change of the file that an older release could misread.
const SCHEMA: u32 = 2;

/// How long a reservation without a guest's device keeps its bridges. A guest that is to come has its device within
/// seconds of `pre`, a restored one within minutes; one that has been there has as long to come back, from when it was missed.
pub const GRACE: Duration = Duration::from_secs(3600);

/// What one NIC needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicReservation {
    /// The driver that reserved it.
    pub driver: String,
    /// The guest's device.
    pub port: Port,
    /// What it is plugged into.
    pub place: Place,
    /// The tunnel of its network.
    pub tunnel: Option<Vxlan>,
    /// The VLAN device of its network.
    pub vlan: Option<Vlan>,
    /// What its guest reaches in its own network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Services>,
    /// The VLANs within its bridge, where the bridge filters by them.
    #[serde(default)]
    pub tags: Option<Tags>,
    /// What may pass by it, if not everything may.
    pub guard: Option<Guard>,
    /// Its number on this host, where something is known by number.
    pub number: Option<Number>,
}

/// What a guest's device is plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// A Linux bridge.
    Bridge(Bridge),
    /// A bridge of Open vSwitch, and the port on it.
    Switch(Switch, SwitchPort),
}

impl NicReservation {
    /// The devices by which its bridge leads out of the host.
    pub fn ways_out(&self) -> impl Iterator<Item = &LinkName> {
        let (uplink, uplinks) = match &self.place {
            Place::Bridge(bridge) => (bridge.uplink.as_ref(), None),
            Place::Switch(switch, _) => (None, Some(&switch.uplinks)),
        };
        let tunnel = self.tunnel.as_ref().map(|tunnel| &tunnel.name);
        let vlan = self.vlan.as_ref().map(|vlan| &vlan.name);
        tunnel.into_iter().chain(vlan).chain(uplink).chain(uplinks.into_iter().flatten())
    }

    /// Whether it is in the same place, and leads out the same way.
    pub fn is_where(&self, other: &NicReservation) -> bool {
        (&self.place, &self.tunnel, &self.vlan, &self.tags)
            == (&other.place, &other.tunnel, &other.vlan, &other.tags)
    }

    /// Whether what may pass by it depends on connections.
    pub fn is_stateful(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_stateful)
    }

    /// Whether its bridge is kept when the last guest has left.
    pub fn keep(&self) -> bool {
        match &self.place {
            Place::Bridge(bridge) => bridge.keep,
            Place::Switch(switch, _) => switch.keep,
        }
    }
}

/// What one VM needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    schema: u32,
    /// Whose it is.
    pub vm: VmId,
    /// When it was last written, in seconds since the epoch.
    pub written: u64,
    /// NICs, by number.
    pub nics: BTreeMap<u32, NicReservation>,
    /// Virtual functions that the guest has for itself, by `NIC_ID`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub functions: BTreeMap<u32, FunctionReservation>,
    /// NICs that left while their device was still plugged in: removed as soon as it is not.
    pub leaving: BTreeSet<u32>,
    /// Of NICs whose device has been there: what the last look found. The others are still to come.
    #[serde(default)]
    pub presence: BTreeMap<u32, Presence>,
    /// When the `pre` of each NIC was asked for, where that is known.
    #[serde(default)]
    pub prepared: BTreeMap<u32, Asked>,
    /// Ways out that an update is about to take from its bridges: whoever finishes or clears up after it takes them.
    #[serde(default)]
    pub given_up: BTreeSet<GivenUp>,
    /// What its NICs had and have no more.
    #[serde(default, skip_serializing_if = "Former::is_empty")]
    pub former: Former,
}

/// Whether the device of a guest that has come was there when it was last looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It was.
    Here,
    /// It was not, for the first time then, in seconds since the epoch: a guest that is stopped and started at once has none
    /// for a moment.
    MissedSince(u64),
}

/// A virtual function that is a guest's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionReservation {
    /// The driver that reserved it.
    pub driver: String,
    /// The function, as it was set.
    pub function: Function,
    /// When it was last prepared for its guest, in seconds since the epoch; 0 where an older release did.
    #[serde(default)]
    pub since: u64,
}

/// A way out of a bridge that is given up for another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GivenUp {
    /// The tunnel, or the uplink.
    pub name: LinkName,
    /// The bridge.
    pub bridge: LinkName,
}

impl Reservation {
    /// Nothing reserved.
    pub fn empty(vm: VmId) -> Self {
        Reservation {
            schema: SCHEMA,
            vm,
            written: 0,
            nics: BTreeMap::new(),
            functions: BTreeMap::new(),
            leaving: BTreeSet::new(),
            presence: BTreeMap::new(),
            prepared: BTreeMap::new(),
            given_up: BTreeSet::new(),
            former: Former::default(),
        }
    }

    /// Reserves what `desired` has, in place of what its NICs had.
    pub fn reserve(&mut self, driver: &str, desired: &Desired) {
        for port in &desired.ports {
            let seat = desired.seats.iter().find(|seat| seat.nic == port.nic).cloned();
            let bridge = desired.bridges.iter().find(|b| b.name == port.bridge).cloned().map(Place::Bridge);
            let switch = desired.switches.iter().find(|s| s.name == port.bridge).cloned();
            let Some(place) = bridge.or_else(|| Some(Place::Switch(switch?, seat?))) else { continue };
            let tunnel = desired.tunnels.iter().find(|tunnel| match &place {
                Place::Bridge(bridge) => tunnel.bridge.as_ref() == Some(&bridge.name),
                Place::Switch(switch, _) => switch.uplinks.contains(&tunnel.name),
            });
            let reserved = NicReservation {
                driver: driver.to_owned(),
                port: port.clone(),
                tunnel: tunnel.cloned(),
                vlan: desired.vlans.iter().find(|vlan| vlan.bridge == port.bridge).cloned(),
                services: self.services(port, desired),
                tags: desired.tags.iter().find(|tags| tags.nic == port.nic).cloned(),
                guard: desired.guards.iter().find(|guard| guard.nic == port.nic).cloned(),
                number: desired.numbers.get(&port.nic).copied(),
                place,
            };
            self.leaving.remove(&port.nic);
            self.nics.insert(port.nic, reserved);
        }
        for function in &desired.functions {
            let before = self.functions.get(&function.nic).filter(|old| old.function.is_same(function));
            let since = before.map_or_else(now, |old| old.since);
            let reserved =
                FunctionReservation { driver: driver.to_owned(), function: function.clone(), since };
            self.functions.insert(function.nic, reserved);
        }
    }

    /// The virtual functions of that driver's networks.
    pub fn functions_of<'r>(&'r self, driver: &'r str) -> impl Iterator<Item = &'r Function> {
        self.functions
            .values()
            .filter(move |reserved| reserved.driver == driver)
            .map(|reserved| &reserved.function)
    }

    /// Whether that virtual function is one of its guest's.
    pub fn has_function(&self, function: &Function) -> bool {
        self.functions.values().any(|reserved| reserved.function.is_same(function))
    }

    /// Since when that virtual function has been one of its guest's, in seconds since the epoch, or was until what it left is
    /// taken away.
    pub fn has_had_since(&self, function: &Function) -> Option<u64> {
        let all = self.functions.values().chain(&self.former.functions);
        let same = all.filter(|reserved| reserved.function.is_same(function));
        same.map(|reserved| if reserved.since == 0 { self.written } else { reserved.since }).max()
    }

    /// Has `desired` take back what its functions were allowed before and are not any more.
    pub fn take_back_trust(&self, desired: &mut Desired) {
        for function in &mut desired.functions {
            if let Some(before) = self.functions.get(&function.nic) {
                *function = function.after(&before.function);
            }
        }
    }

    /// Whether nothing is reserved.
    pub fn is_empty(&self) -> bool {
        self.nics.is_empty() && self.functions.is_empty() && self.former.is_empty()
    }

    /// Gives up all that a driver has reserved, but for the NICs that `desired` is about to reserve in its place.
    pub fn release_all_of(&mut self, driver: &str, desired: &Desired) {
        let comes = |nic: u32| desired.ports.iter().any(|port| port.nic == nic);
        self.nics.retain(|nic, reserved| reserved.driver != driver || comes(*nic));
        self.functions.retain(|_, reserved| reserved.driver != driver);
    }

    /// The services of a NIC's bridge. Those that the file lists no more stay until the guest leaves, and are taken away then.
    fn services(&self, port: &Port, desired: &Desired) -> Option<Services> {
        let here = |it: &&Services| it.bridge == port.bridge;
        let before = self.nics.get(&port.nic).and_then(|nic| nic.services.as_ref());
        desired.services.iter().find(here).or(before.filter(here)).cloned()
    }

    /// What these of its NICs need, as it was reserved.
    pub fn desired(&self, nics: &BTreeSet<u32>) -> Desired {
        let mut out = Desired::nothing(self.vm);
        for (nic, reserved) in self.nics.iter().filter(|(nic, _)| nics.contains(nic)) {
            out.ports.push(reserved.port.clone());
            match &reserved.place {
                Place::Bridge(bridge) => {
                    keep_one(&mut out.bridges, bridge, |known| &known.name);
                    // What one NIC needs of it, the bridge has for all.
                    let known = out.bridges.iter_mut().find(|known| known.name == bridge.name);
                    known.into_iter().for_each(|known| known.options.extend(&bridge.options));
                }
                Place::Switch(switch, seat) => {
                    keep_one(&mut out.switches, switch, |known| &known.name);
                    out.seats.push(seat.clone());
                }
            }
            reserved.tunnel.iter().for_each(|tunnel| keep_one(&mut out.tunnels, tunnel, |known| &known.name));
            reserved.vlan.iter().for_each(|vlan| keep_one(&mut out.vlans, vlan, |known| &known.name));
            let services = reserved.services.iter();
            services.for_each(|services| keep_one(&mut out.services, services, |known| &known.bridge));
            out.tags.extend(reserved.tags.clone());
            out.guards.extend(reserved.guard.clone());
            out.numbers.extend(reserved.number.map(|number| (*nic, number)));
        }
        let functions = self.functions.values().map(|reserved| &reserved.function);
        out.functions.extend(functions.filter(|function| nics.contains(&function.nic)).cloned());
        // Whatever another NIC was told of the bridge: it filters where one needs that.
        for tags in &out.tags {
            let known = out.bridges.iter_mut().find(|known| known.name == tags.bridge);
            known.into_iter().for_each(|known| known.options.extend(tags.options()));
        }
        out
    }

    /// Gives up a NIC.
    pub fn release(&mut self, nic: u32) {
        self.nics.remove(&nic);
        self.functions.remove(&nic);
        self.leaving.remove(&nic);
        self.presence.remove(&nic);
        self.prepared.remove(&nic);
    }

    /// Writes down when the `pre` of these NICs was asked for, and forgets all that is not reserved.
    pub fn prepare(&mut self, nics: impl IntoIterator<Item = u32>, asked: Option<&Asked>) {
        for nic in nics {
            self.functions.get_mut(&nic).into_iter().for_each(|reserved| reserved.since = now());
            match asked {
                Some(asked) => drop(self.prepared.insert(nic, asked.clone())),
                None => drop(self.prepared.remove(&nic)),
            }
        }
        self.prepared.retain(|nic, _| self.nics.contains_key(nic) || self.functions.contains_key(nic));
        self.presence.retain(|nic, _| self.nics.contains_key(nic));
    }

    /// Whether the NIC was prepared for a guest that came to be wanted only after that moment.
    pub fn is_prepared_after(&self, nic: u32, asked: &Asked) -> bool {
        self.prepared.get(&nic).is_some_and(|prepared| prepared.is_after(asked))
    }

    /// Writes down that the NIC's device is there.
    pub fn meet(&mut self, nic: u32) {
        self.presence.insert(nic, Presence::Here);
    }

    /// Writes down that the NIC's device is not there; whether its guest is waited for no longer.
    pub fn miss(&mut self, nic: u32, now: u64) -> bool {
        if self.presence.get(&nic) == Some(&Presence::Here) {
            self.presence.insert(nic, Presence::MissedSince(now));
        }
        self.leaving.contains(&nic) || self.is_over(nic, now)
    }

    /// Whether so much time has passed that a guest which is to come, or to come back, would be there.
    fn is_over(&self, nic: u32, now: u64) -> bool {
        match self.presence.get(&nic) {
            None => self.is_old(now),
            Some(Presence::Here) => false,
            Some(Presence::MissedSince(since)) => now.saturating_sub(*since) > GRACE.as_secs(),
        }
    }

    /// The bridges it names, and the physical functions of its virtual ones: what an action has to lock.
    pub fn bridges(&self) -> impl Iterator<Item = &LinkName> {
        let devices = self.functions.values().map(|reserved| &reserved.function.device);
        self.nics.values().map(|nic| &nic.port.bridge).chain(devices).chain(self.former.bridges())
    }

    /// Whether a guest that is here, or still to come, needs that bridge.
    pub fn needs(&self, bridge: &LinkName, now: u64) -> bool {
        self.nics.iter().any(|(nic, reserved)| {
            reserved.port.bridge == *bridge && !self.leaving.contains(nic) && !self.is_over(*nic, now)
        })
    }

    /// Whether it was written so long ago that it is time to look for its guest's devices.
    pub fn is_old(&self, now: u64) -> bool {
        now.saturating_sub(self.written) > GRACE.as_secs()
    }
}

/// Adds what no other NIC has brought yet.
fn keep_one<T: Clone>(all: &mut Vec<T>, one: &T, name: fn(&T) -> &LinkName) {
    if !all.iter().any(|known| name(known) == name(one)) {
        all.push(one.clone());
    }
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}
