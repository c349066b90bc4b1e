//! What each VM needs on this host, on disk: so that taking one VM's network away never takes what another's `pre` has
//! just prepared and no guest uses yet (contract VNM 5, W5 and W6).
//!
//! ```text
//! 7.json                 what VM 7 needs, one file per VM, replaced whole
//! by-bridge/onebr.4/7    VM 7 may need bridge onebr.4: an index, so that nobody reads the files of a whole host
//! .collected             when reservations of guests that never came were last looked for
//! ```
//!
//! A reservation is written before the first device is made and dropped after the last one is removed; a death in
//! between leaves it, and a later action finishes the work. The index entry comes first and goes last, so that it may
//! name a VM that needs nothing, but never lacks one. All of it is read and written under the locks of the VM and of
//! every bridge named.

mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_core::names::{LinkName, VmId};
use serde::{Deserialize, Serialize};

use crate::desired::{Bridge, Desired, Port, Vxlan};

pub use store::{Claims, ReservationError, Reservations};

/// Raised with every change of the file that an older release could misread.
const SCHEMA: u32 = 1;

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
    /// Its bridge.
    pub bridge: Bridge,
    /// The bridge's tunnel.
    pub tunnel: Option<Vxlan>,
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
            let Some(bridge) = desired.bridges.iter().find(|b| b.name == port.bridge) else {
                continue;
            };
            self.leaving.remove(&port.nic);
            self.nics.insert(
                port.nic,
                NicReservation {
                    driver: driver.to_owned(),
                    port: port.clone(),
                    bridge: bridge.clone(),
                    tunnel: desired.tunnels.iter().find(|t| t.bridge == port.bridge).cloned(),
                },
            );
        }
    }

    /// Gives up a NIC.
    pub fn release(&mut self, nic: u32) {
        self.nics.remove(&nic);
        self.leaving.remove(&nic);
    }

    /// The bridges it names.
    pub fn bridges(&self) -> impl Iterator<Item = &LinkName> {
        self.nics.values().map(|nic| &nic.bridge.name)
    }

    /// Whether a guest that is still to come needs that bridge.
    pub fn needs(&self, bridge: &LinkName, now: u64) -> bool {
        let coming = |(nic, reserved): (&u32, &NicReservation)| {
            reserved.bridge.name == *bridge && !self.leaving.contains(nic)
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
