//! What each VM needs on this host, on disk: so that taking one VM's network away never takes what another's `pre` has
//! just prepared and no guest uses yet (contract VNM 5, W5 and W6).
//!
//! One file per VM, `<VM id>.json`, replaced whole. It is written before the first device is made and dropped after the
//! last one is removed; a death in between leaves a file, and a later action finishes the work. Written and read under
//! the locks of every bridge it names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_core::names::{LinkName, VmId};
use serde::{Deserialize, Serialize};

use crate::desired::{Bridge, Desired, Port, Vxlan};

/// Raised with every change of the file that an older release could misread.
const SCHEMA: u32 = 1;

/// How long a reservation without a guest's device keeps its bridges. A guest that is to come has its device within
/// seconds of `pre`, a restored one within minutes.
pub const GRACE: Duration = Duration::from_secs(3600);

/// Larger than any reservation we write.
const SIZE: u64 = 1 << 20;

/// Why reservations could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ReservationError {
    /// The file system said no.
    #[error("{what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file that is none of ours.
    #[error("{} is no reservation: {why}: remove it when its VM is not on this host", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

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

    /// Whether so much time has passed that a guest which is to come would be there.
    pub fn is_old(&self, now: u64) -> bool {
        now.saturating_sub(self.written) > GRACE.as_secs()
    }
}

/// The directory of the reservations.
#[derive(Debug, Clone)]
pub struct Reservations {
    dir: PathBuf,
}

impl Reservations {
    /// Those in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Reservations { dir: dir.into() }
    }

    fn path(&self, vm: VmId) -> PathBuf {
        self.dir.join(format!("{vm}.json"))
    }

    /// The VM's reservation, empty if there is none.
    ///
    /// # Errors
    /// A file that cannot be read, or is no reservation.
    pub fn load(&self, vm: VmId) -> Result<Reservation, ReservationError> {
        let path = self.path(vm);
        let failed = |source| ReservationError::File { what: "read", path: path.clone(), source };
        let bytes = match std::fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reservation::empty(vm)),
            Err(error) => return Err(failed(error)),
            Ok(found) if found.len() > SIZE => return Err(content(&path, "it is too large")),
            Ok(_) => std::fs::read(&path).map_err(failed)?,
        };
        let read: Reservation = serde_json::from_slice(&bytes).map_err(|e| content(&path, &e.to_string()))?;
        match read.vm == vm && read.schema == SCHEMA {
            true => Ok(read),
            false => Err(content(&path, "it is of another VM or release")),
        }
    }

    /// Replaces the VM's reservation in one step; an empty one is dropped.
    ///
    /// # Errors
    /// The file system's; the old reservation then stands.
    pub fn store(&self, reservation: &Reservation) -> Result<(), ReservationError> {
        let path = self.path(reservation.vm);
        let failed = |what| {
            let path = path.clone();
            move |source| ReservationError::File { what, path, source }
        };
        if reservation.nics.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove")(error)),
                _ => Ok(()),
            };
        }
        let stamped = Reservation { written: now(), ..reservation.clone() };
        let bytes = serde_json::to_vec(&stamped).map_err(|e| failed("write")(e.into()))?;
        // Only the holder of the VM's lock writes, so one name for the unfinished file is enough.
        let unfinished = self.dir.join(format!(".{}.new", reservation.vm));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(failed("make the directory of"))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&unfinished).map_err(failed("write"))?;
        file.write_all(&bytes).map_err(failed("write"))?;
        drop(file);
        std::fs::rename(&unfinished, &path).map_err(failed("write"))
    }

    /// The VMs that have a reservation.
    ///
    /// # Errors
    /// The directory cannot be read; one that is not there holds none.
    pub fn vms(&self) -> Result<Vec<VmId>, ReservationError> {
        let failed = |source| ReservationError::File { what: "list", path: self.dir.clone(), source };
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut vms = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let id: Option<VmId> =
                name.to_str().and_then(|name| name.strip_suffix(".json")).and_then(|id| id.parse().ok());
            vms.extend(id);
        }
        vms.sort_unstable();
        Ok(vms)
    }

    /// The reservations of all VMs but `vm`.
    ///
    /// # Errors
    /// As for [`vms`](Reservations::vms). A file that cannot be read is in [`Others::unreadable`].
    pub fn others(&self, vm: VmId) -> Result<Others, ReservationError> {
        let mut others = Others::default();
        for other in self.vms()?.into_iter().filter(|other| *other != vm) {
            match self.load(other) {
                Ok(reservation) => others.reservations.push(reservation),
                Err(error) => others.unreadable.push(error),
            }
        }
        Ok(others)
    }
}

/// What other VMs have reserved.
#[derive(Debug, Default)]
pub struct Others {
    /// Their reservations.
    pub reservations: Vec<Reservation>,
    /// Files that might reserve anything.
    pub unreadable: Vec<ReservationError>,
}

impl Others {
    /// Those of `bridges` that another VM has a right to. A guest's device that is plugged in protects its bridge by
    /// itself; what counts here is the guest that is still to come.
    pub fn reserved(&self, bridges: &BTreeSet<LinkName>, now: u64) -> BTreeSet<LinkName> {
        if !self.unreadable.is_empty() {
            return bridges.clone();
        }
        let counts = |r: &&Reservation| !r.is_old(now);
        let held = self.reservations.iter().filter(counts).flat_map(|r| {
            r.nics
                .iter()
                .filter(|(nic, _)| !r.leaving.contains(nic))
                .map(|(_, reserved)| &reserved.bridge.name)
        });
        held.filter(|name| bridges.contains(*name)).cloned().collect()
    }
}

fn content(path: &Path, why: &str) -> ReservationError {
    ReservationError::Content { path: path.to_owned(), why: why.to_owned() }
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}
