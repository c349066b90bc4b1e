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

mod numbers;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_core::names::{LinkName, VmId};
use serde::{Deserialize, Serialize};

use crate::desired::{Bridge, Desired, Guard, Number, Port, Switch, SwitchPort, Vxlan};

pub use store::{Claims, ReservationError, Reservations};

/// Raised with every change of the file that an older release could misread.
const SCHEMA: u32 = 2;

/// How long a reservation without a guest's device keeps its bridges. A guest that is to come has its device within
/// seconds of `pre`, a restored one within minutes.
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
    /// NICs that left while their device was still plugged in: removed as soon as it is not.
    pub leaving: BTreeSet<u32>,
}

impl Reservation {
    /// Nothing reserved.
    pub fn empty(vm: VmId) -> Self {
        Reservation { schema: SCHEMA, vm, written: 0, nics: BTreeMap::new(), leaving: BTreeSet::new() }
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
                guard: desired.guards.iter().find(|guard| guard.nic == port.nic).cloned(),
                number: desired.numbers.get(&port.nic).copied(),
                place,
            };
            self.leaving.remove(&port.nic);
            self.nics.insert(port.nic, reserved);
        }
    }

    /// Gives up a NIC.
    pub fn release(&mut self, nic: u32) {
        self.nics.remove(&nic);
        self.leaving.remove(&nic);
    }

    /// The bridges it names.
    pub fn bridges(&self) -> impl Iterator<Item = &LinkName> {
        self.nics.values().map(|nic| &nic.port.bridge)
    }

    /// Whether a guest that is still to come needs that bridge.
    pub fn needs(&self, bridge: &LinkName, now: u64) -> bool {
        let coming = |(nic, reserved): (&u32, &NicReservation)| {
            reserved.port.bridge == *bridge && !self.leaving.contains(nic)
        };
        !self.is_old(now) && self.nics.iter().any(coming)
    }

    /// Whether so much time has passed that a guest which is to come would be there.
    pub fn is_old(&self, now: u64) -> bool {
        now.saturating_sub(self.written) > GRACE.as_secs()
    }
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}
