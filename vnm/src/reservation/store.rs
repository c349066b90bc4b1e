//! The files of the reservations.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use causeway_core::names::{LinkName, VmId};

use super::{Reservation, SCHEMA, now};
use crate::desired::{Function, Number, Tags};

/// The most bytes of a reservation: some 200 NICs with 700 rules each.
const SIZE: usize = 8 << 20;

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
    /// More than is kept.
    #[error(
        "the networks and rules of VM {vm} would take {size} bytes of this host's reservations: {SIZE} are accepted"
    )]
    Large {
        /// The VM.
        vm: VmId,
        /// Bytes.
        size: usize,
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

    /// The file of a VM's reservation; there is none where nothing is reserved.
    pub fn path(&self, vm: VmId) -> PathBuf {
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
            Ok(found) if found.len() > SIZE as u64 => return Err(content(&path, "it is too large")),
            Ok(_) => std::fs::read(&path).map_err(failed("read", &path))?,
        };
        read(&bytes, vm).map_err(|why| content(&path, &why))
    }

    /// Replaces a VM's reservation `before` by `after` in one step; an empty one is dropped.
    ///
    /// # Errors
    /// It is too large; the file system's. The old reservation then stands.
    pub fn replace(&self, before: &Reservation, after: &Reservation) -> Result<()> {
        let file = after.vm.to_string();
        let path = self.path(after.vm);
        let text = serde_json::to_vec(&Reservation { written: now(), ..after.clone() });
        let text = text.map_err(|error| failed("write", &path)(error.into()))?;
        if text.len() > SIZE {
            return Err(ReservationError::Large { vm: after.vm, size: text.len() });
        }
        for bridge in after.bridges() {
            let index = self.index(bridge);
            enter(&index, &file).map_err(failed("write", &index))?;
        }
        if after.is_empty() {
            remove(&path).map_err(failed("remove", &path))?;
        } else {
            self.write(after.vm, &text, &path).map_err(failed("write", &path))?;
        }
        let kept: BTreeSet<&LinkName> = after.bridges().collect();
        for bridge in before.bridges().filter(|bridge| !kept.contains(bridge)) {
            let index = self.index(bridge);
            remove(&index.join(&file)).map_err(failed("remove", &index))?;
            // Goes with its last entry.
            let _ = std::fs::remove_dir(&index);
        }
        let (had, has) = (before.numbers(), after.numbers());
        had.difference(&has).try_for_each(|(nic, number)| self.give_back(*number, after.vm, *nic))
    }

    /// Gives back what a reservation has left that could not be read and is gone: these numbers, and its VM's places in the index.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget(&self, vm: VmId, numbers: &BTreeMap<u32, Number>) -> Result<()> {
        numbers.iter().try_for_each(|(nic, number)| self.give_back(*number, vm, *nic))?;
        let index = self.dir.join("by-bridge");
        let bridges = match std::fs::read_dir(&index) {
            Err(error) if is_absent(&error) => return Ok(()),
            other => other.map_err(failed("list", &index))?,
        };
        for bridge in bridges {
            let bridge = bridge.map_err(failed("list", &index))?.path();
            let entry = bridge.join(vm.to_string());
            remove(&entry).map_err(failed("remove", &entry))?;
            let _ = std::fs::remove_dir(&bridge);
        }
        Ok(())
    }

    fn write(&self, vm: VmId, text: &[u8], path: &Path) -> io::Result<()> {
        // Only the holder of the VM's lock writes, so one name for the unfinished file is enough.
        let unfinished = self.dir.join(format!(".{vm}.new"));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(text)?;
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

    /// Whether another VM than `vm` has come to have that virtual function since then, in seconds since the epoch. (One that lost it
    /// without a word, with its host, has nothing to say.)
    ///
    /// # Errors
    /// The index, or a reservation of that physical function's, cannot be read.
    pub fn has_since(&self, function: &Function, vm: VmId, since: u64) -> Result<bool> {
        for claimant in self.on(&function.device)?.into_iter().filter(|claimant| *claimant != vm) {
            let reservation = self.load(claimant)?;
            if reservation.has_function(function) && reservation.has_had_since(function) >= Some(since) {
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

/// Makes an entry, with its directory, which may go with somebody else's last entry just now.
fn enter(index: &Path, file: &str) -> io::Result<()> {
    let made = || make_dir(index).and_then(|()| touch(&index.join(file)));
    made().or_else(|error| if is_absent(&error) { made() } else { Err(error) })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reservation::GivenUp;

    #[test]
    fn what_is_too_large_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let book = Reservations::new(dir.path());
        let before = Reservation::empty(VmId(7));
        let mut after = before.clone();
        let names = (0..300_000).map(|number| format!("x{number}").parse::<LinkName>().unwrap());
        after.given_up = names.map(|name| GivenUp { bridge: name.clone(), name }).collect();
        let error = book.replace(&before, &after).unwrap_err().to_string();
        assert!(error.starts_with("the networks and rules of VM 7 would take "), "{error}");
        assert!(error.ends_with(" bytes of this host's reservations: 8388608 are accepted"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
