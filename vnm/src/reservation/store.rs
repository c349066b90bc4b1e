//! The files of the reservations.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use causeway_core::names::{LinkName, VmId};

use super::{Reservation, SCHEMA, now};
use crate::desired::{Function, Tags};

/// Larger than any reservation we write.
const SIZE: u64 = 1 << 20;

/// How often reservations of guests that never came are looked for, at most.
const COLLECT: Duration = Duration::from_secs(60);

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

/// Which of some bridges other VMs have a right to.
#[derive(Debug, Default)]
pub struct Claims {
    /// The bridges.
    pub bridges: BTreeSet<LinkName>,
    /// Reservations that cannot be read: what they may need counts as needed.
    pub unreadable: Vec<ReservationError>,
}

/// The VLANs that other VMs' guests have in some bridges.
#[derive(Debug, Default)]
pub struct OthersTags {
    /// The VLANs.
    pub tags: Vec<Tags>,
    /// Reservations that cannot be read: they may name any.
    pub unreadable: Vec<ReservationError>,
}

/// The directory of the reservations.
#[derive(Debug, Clone)]
pub struct Reservations {
    dir: PathBuf,
}

pub(super) type Result<T> = std::result::Result<T, ReservationError>;

impl Reservations {
    /// Those in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Reservations { dir: dir.into() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, vm: VmId) -> PathBuf {
        self.dir.join(format!("{vm}.json"))
    }

    /// The directory of the VMs that may need a bridge.
    fn index(&self, bridge: &LinkName) -> PathBuf {
        self.dir.join("by-bridge").join(bridge.as_str())
    }

    /// The VM's reservation, empty if there is none.
    ///
    /// # Errors
    /// A file that cannot be read, or is no reservation.
    pub fn load(&self, vm: VmId) -> Result<Reservation> {
        let path = self.path(vm);
        let bytes = match std::fs::metadata(&path) {
            Err(error) if is_absent(&error) => return Ok(Reservation::empty(vm)),
            Err(error) => return Err(failed("read", &path)(error)),
            Ok(found) if found.len() > SIZE => return Err(content(&path, "it is too large")),
            Ok(_) => std::fs::read(&path).map_err(failed("read", &path))?,
        };
        read(&bytes, vm).map_err(|why| content(&path, &why))
    }

    /// Replaces a VM's reservation `before` by `after` in one step; an empty one is dropped.
    ///
    /// # Errors
    /// The file system's; the old reservation then stands.
    pub fn replace(&self, before: &Reservation, after: &Reservation) -> Result<()> {
        let file = after.vm.to_string();
        for bridge in after.bridges() {
            let index = self.index(bridge);
            make_dir(&index).and_then(|()| touch(&index.join(&file))).map_err(failed("write", &index))?;
        }
        let path = self.path(after.vm);
        if after.is_empty() {
            remove(&path).map_err(failed("remove", &path))?;
        } else {
            self.write(after, &path).map_err(failed("write", &path))?;
        }
        let kept: BTreeSet<&LinkName> = after.bridges().collect();
        for bridge in before.bridges().filter(|bridge| !kept.contains(bridge)) {
            let index = self.index(bridge);
            remove(&index.join(&file)).map_err(failed("remove", &index))?;
            // Goes with its last entry.
            let _ = std::fs::remove_dir(&index);
        }
        for (nic, old) in &before.nics {
            let kept = after.nics.get(nic).and_then(|nic| nic.number);
            if let Some(number) = old.number.filter(|number| kept != Some(*number)) {
                self.give_back(number, after.vm, *nic)?;
            }
        }
        Ok(())
    }

    fn write(&self, reservation: &Reservation, path: &Path) -> io::Result<()> {
        let stamped = Reservation { written: now(), ..reservation.clone() };
        // Only the holder of the VM's lock writes, so one name for the unfinished file is enough.
        let unfinished = self.dir.join(format!(".{}.new", reservation.vm));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(&stamped)?)?;
        drop(file);
        std::fs::rename(&unfinished, path)
    }

    /// Those of `bridges` that another VM than `vm` has reserved for a guest that is still to come. (A guest that is
    /// here protects its bridge by its device.)
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn claims<'a>(&self, bridges: impl IntoIterator<Item = &'a LinkName>, vm: VmId) -> Result<Claims> {
        let mut claims = Claims::default();
        let now = now();
        for bridge in bridges {
            for claimant in self.on(bridge)?.into_iter().filter(|claimant| *claimant != vm) {
                match self.load(claimant) {
                    Ok(reservation) if !reservation.needs(bridge, now) => continue,
                    Ok(_) => {}
                    Err(error) => claims.unreadable.push(error),
                }
                claims.bridges.insert(bridge.clone());
                break;
            }
        }
        Ok(claims)
    }

    /// The VLANs that guests of other VMs than `vm` have in `bridges`, or are to have.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn tags<'a>(&self, bridges: impl IntoIterator<Item = &'a LinkName>, vm: VmId) -> Result<OthersTags> {
        let mut others = OthersTags::default();
        for bridge in bridges {
            for claimant in self.on(bridge)?.into_iter().filter(|claimant| *claimant != vm) {
                match self.load(claimant) {
                    Ok(reservation) => {
                        let tags = reservation.nics.into_values().filter_map(|nic| nic.tags);
                        others.tags.extend(tags.filter(|tags| tags.bridge == *bridge));
                    }
                    Err(error) => others.unreadable.push(error),
                }
            }
        }
        Ok(others)
    }

    /// Whether another VM than `vm` has come to have that virtual function since `written`. (One that lost it without a word, with its
    /// host, has nothing to say.)
    ///
    /// # Errors
    /// The index, or a reservation of that physical function's, cannot be read.
    pub fn has_since(&self, function: &Function, vm: VmId, written: u64) -> Result<bool> {
        for claimant in self.on(&function.device)?.into_iter().filter(|claimant| *claimant != vm) {
            let reservation = self.load(claimant)?;
            if reservation.written >= written && reservation.has_function(function) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The VMs that may have reserved a bridge.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn on(&self, bridge: &LinkName) -> Result<Vec<VmId>> {
        numbers(&self.index(bridge), "").map_err(failed("list", &self.dir))
    }

    /// The VMs that have a reservation.
    ///
    /// # Errors
    /// The directory cannot be read; one that is not there holds none.
    pub fn vms(&self) -> Result<Vec<VmId>> {
        numbers(&self.dir, ".json").map_err(failed("list", &self.dir))
    }

    /// Whether it is time to look for reservations of guests that never came; says no for the next minute.
    pub fn collect_now(&self) -> bool {
        let stamp = self.dir.join(".collected");
        let age = std::fs::metadata(&stamp).and_then(|found| found.modified()).ok();
        let due =
            age.is_none_or(|then| SystemTime::now().duration_since(then).is_ok_and(|age| age > COLLECT));
        if due {
            let _ = remove(&stamp).and_then(|()| touch(&stamp));
        }
        due
    }

    /// Has the next action look, whoever's it is.
    pub fn collect_next_time(&self) {
        let _ = remove(&self.dir.join(".collected"));
    }
}

/// The reservation that a file of that VM holds, or what is wrong with it.
pub(super) fn read(bytes: &[u8], vm: VmId) -> std::result::Result<Reservation, String> {
    let read: Reservation = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match read.vm == vm && read.schema == SCHEMA {
        true => Ok(read),
        false => Err("it is of another VM or release".to_owned()),
    }
}

/// The names in `dir` that are a VM's number with `end` behind it; none if there is no such directory.
fn numbers(dir: &Path, end: &str) -> io::Result<Vec<VmId>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        other => other?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_suffix(end)).and_then(|id| id.parse::<VmId>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn touch(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map(drop)
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

pub(super) fn failed<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ReservationError + use<'a> {
    move |source| ReservationError::File { what, path: path.to_owned(), source }
}

fn content(path: &Path, why: &str) -> ReservationError {
    ReservationError::Content { path: path.to_owned(), why: why.to_owned() }
}
