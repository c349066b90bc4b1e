//! The directory of a backup: made anew for each, and never reached through a link of the VM's directory.

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;

use super::super::{Datastore, During, Home, StorageError, Worker, remove};
use super::BackupPlace;

/// Its name.
const NAME: &str = "backup";

/// Makes the directory, and removes what an earlier backup left there.
pub(super) fn make(place: &BackupPlace, worker: &Worker<'_>) -> Result<Home, StorageError> {
    let above = above(place, true)?;
    let above = above.ok_or_else(|| StorageError::NoDisk { path: place.dir.path() })?;
    remove(above.handle(), NAME, &place.path())?;
    worker.at("earlier backup removed");
    let folder = sub(&above, NAME)?;
    worker.at("directory made");
    Ok(folder)
}

/// Opens it.
pub(super) fn open(place: &BackupPlace) -> Result<Home, StorageError> {
    let folder = match above(place, false)? {
        Some(above) => above.folder(NAME)?,
        None => None,
    };
    folder.ok_or_else(|| StorageError::NoDisk { path: place.path() })
}

/// Removes it; one that is not there is gone.
pub(super) fn clear(place: &BackupPlace, worker: &Worker<'_>) -> Result<(), StorageError> {
    let Some(above) = above(place, false)? else { return Ok(()) };
    worker.at("directory found");
    remove(above.handle(), NAME, &place.path())?;
    worker.at("directory removed");
    let Some(base) = &place.base else { return above.sync() };
    // Below the admin's directory even that of the VM is the backup's own.
    let base = Home::at(&base.path())?;
    let name = place.dir.vm().to_string();
    remove(base.handle(), &name, &base.path().join(&name))
}

/// The directory that it lies in, if it is there.
fn above(place: &BackupPlace, make: bool) -> Result<Option<Home>, StorageError> {
    let Some(base) = &place.base else {
        return Datastore::open(place.dir.datastore())?.home(&place.dir);
    };
    let path = base.path();
    if make {
        std::fs::create_dir_all(&path).during("make", &path)?;
    }
    let base = match Home::at(&path) {
        Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        other => other?,
    };
    let name = place.dir.vm().to_string();
    if make { sub(&base, &name).map(Some) } else { base.folder(&name) }
}

fn sub(above: &Home, name: &str) -> Result<Home, StorageError> {
    let path = above.path().join(name);
    match mkdirat(above.handle(), name, Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).during("make", path),
    }
    above.folder(name)?.ok_or(StorageError::NotADirectory { path })
}
