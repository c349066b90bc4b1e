//! `delete`: a disk or a whole VM directory goes; what was gone already is success, where that can be known.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::home::Datastore;
use super::snapshot::none_in_use;
use super::{During, StorageError, Worker, lock, remove};
use crate::place::{VmDir, VmFile};

/// How often a removal is tried, and the pause between. Files that another NFS client still has open stay for a while
/// under another name; the stock driver waits as long (contract TM 2.1). So is a guest that is about to end waited for.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Removes a disk and the snapshots beside it, if nobody has them open.
///
/// The stock script leaves `disk.N.snap` to the end of the VM (W20). What lies in it belongs to this disk alone: the
/// snapshots of a persistent image lie beside the image.
pub(crate) fn file(file: &VmFile, worker: &Worker<'_>) -> Result<(), StorageError> {
    if file.name().disk().is_none() {
        return Err(StorageError::NotADisk { path: file.path() });
    }
    let _locks = lock::hold(worker, file.dir().vm(), None)?;
    let datastore = Datastore::open(file.dir().datastore())?;
    let Some(home) = datastore.home(file.dir())? else {
        return datastore.prove();
    };
    let disk = [file.name().to_string(), file.name().snap()];
    patiently(worker, || none_in_use(&home, |name| disk.iter().any(|own| own == name)))?;
    datastore.mark()?;
    worker.at("datastore marked");
    home.sweep(file.name())?;
    worker.at("leftovers removed");
    // The link first: one into a directory that is half gone would be a disk that opens and is none.
    for name in disk {
        patiently(worker, || remove(home.handle(), &name, &home.path().join(&name)))?;
        worker.at("removed");
    }
    home.sync()
}

/// Removes a VM's directory, if nobody has a disk in it open.
pub(crate) fn dir(dir: &VmDir, keep: Option<&VmDir>, worker: &Worker<'_>) -> Result<(), StorageError> {
    let _locks = lock::hold(worker, dir.vm(), None)?;
    let datastore = Datastore::open(dir.datastore())?;
    let Some(home) = datastore.home(dir)? else {
        return datastore.prove();
    };
    if let Some(new) = keep {
        // Two datastores may be one place by two names. Where the new one is not on this host, they are not.
        let other = match Datastore::open(new.datastore()) {
            Ok(other) => other.home(new)?,
            Err(StorageError::NoDatastore { .. }) => None,
            Err(e) => return Err(e),
        };
        if let Some(other) = other
            && other.identity()? == home.identity()?
        {
            return Err(StorageError::SameDirectory { old: dir.clone(), new: new.clone() });
        }
    }
    // Whoever removes a VM has seen it end; a guest that nobody knew of would lose its disks under its feet.
    patiently(worker, || none_in_use(&home, |name| name.starts_with("disk.")))?;
    datastore.mark()?;
    worker.at("datastore marked");
    patiently(worker, || remove::empty(home.handle(), home.path()))?;
    worker.at("emptied");
    let name = dir.vm().to_string();
    patiently(worker, || match unlinkat(datastore.handle(), name.as_str(), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // Something was put in meanwhile.
        Err(Errno::NOTEMPTY | Errno::EXIST) => {
            remove::empty(home.handle(), home.path())?;
            Err(Errno::NOTEMPTY).during("remove", home.path())
        }
        Err(e) => Err(e).during("remove", home.path()),
    })?;
    worker.at("removed");
    Ok(())
}

fn patiently(
    worker: &Worker<'_>,
    attempt: impl Fn() -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let mut tries = 1;
    loop {
        let error = match attempt() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if tries == TRIES || !passes(&error) || Instant::now() + PAUSE > worker.deadline {
            return Err(error);
        }
        tries += 1;
        sleep(PAUSE);
    }
}

/// Whether waiting may help.
fn passes(error: &StorageError) -> bool {
    let source = match error {
        StorageError::Io { source, .. } => source,
        StorageError::InUse { .. } => return true,
        _ => return false,
    };
    let code = source.raw_os_error();
    [Errno::NOTEMPTY, Errno::EXIST, Errno::BUSY].iter().any(|e| Some(e.raw_os_error()) == code)
}
