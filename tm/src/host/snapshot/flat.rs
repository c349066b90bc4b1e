//! Snapshots that are whole copies: of disks that are plain bytes.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;

use super::super::{
    Datastore, During, Home, Inside, Kept, StorageError, Worker, copy_data, make_alike, remove,
};
use super::not_in_use;
use crate::place::{FileName, Image, VmFile};

/// A disk of plain bytes: the directory and the name under which its bytes lie, a link not followed.
struct Flat {
    folder: Home,
    name: FileName,
}

impl Flat {
    fn of(file: &VmFile, kept: &Kept) -> Result<Self, StorageError> {
        match kept {
            Kept::Beside => {
                let no_disk = || StorageError::NoDisk { path: file.path() };
                let home = Datastore::open(file.dir().datastore())?.home(file.dir())?.ok_or_else(no_disk)?;
                Ok(Flat { folder: home, name: file.name().clone() })
            }
            // The image, wherever the VM's link leads: the snapshot is oned's of the image (W2).
            Kept::WithImage(image) => {
                Inside::new(image.datastore())?.resolve(&image.path(), &image.to_string())?;
                Flat::of_image(image)
            }
        }
    }

    fn of_image(image: &Image) -> Result<Self, StorageError> {
        let folder = Datastore::open(image.datastore())?.into_folder();
        Ok(Flat { folder, name: image.name().clone() })
    }

    fn open(&self) -> Result<File, StorageError> {
        let file = self.folder.open(self.name.as_str())?;
        not_in_use(&self.folder.path().join(self.name.as_str()))?;
        Ok(file)
    }

    /// The directory of its snapshots, if it is there.
    fn snapshots(&self) -> Result<Option<Home>, StorageError> {
        self.folder.folder(&self.name.snap())
    }
}

/// The directory of the disk's snapshots, made if it is missing.
pub(in crate::host) fn snapshots(file: &VmFile, kept: &Kept) -> Result<Home, StorageError> {
    made(&Flat::of(file, kept)?)
}

fn made(disk: &Flat) -> Result<Home, StorageError> {
    let snap = disk.name.snap();
    match mkdirat(disk.folder.handle(), snap.as_str(), Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).during("make", disk.folder.path().join(&snap)),
    }
    let missing = || StorageError::NotADirectory { path: disk.folder.path().join(&snap) };
    disk.snapshots()?.ok_or_else(missing)
}

/// Copies what the disk holds to snapshot `id`.
pub(super) fn create(file: &VmFile, kept: &Kept, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let disk = Flat::of(file, kept)?;
    let bytes = disk.open()?;
    let snapshots = made(&disk)?;
    worker.at("snapshot directory made");
    replace(&bytes, &snapshots, &FileName::from(id), worker)
}

/// Makes the disk hold again what it held when snapshot `id` was made.
pub(super) fn revert(file: &VmFile, kept: &Kept, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    back_to(&Flat::of(file, kept)?, id, worker)
}

/// The same of an image that no VM has.
pub(super) fn revert_image(image: &Image, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    back_to(&Flat::of_image(image)?, id, worker)
}

fn back_to(disk: &Flat, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let none = || {
        let path = disk.folder.path().join(disk.name.as_str());
        StorageError::Disk { path, why: format!("there is no snapshot {id} of it") }
    };
    let snapshots = disk.snapshots()?.ok_or_else(none)?;
    let bytes = match snapshots.open(&id.to_string()) {
        Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(none());
        }
        other => other?,
    };
    // A disk that was lost is given back; one that is there must be a file of its own that nobody has open.
    match disk.open() {
        Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        other => drop(other?),
    }
    worker.at("snapshot opened");
    replace(&bytes, &disk.folder, &disk.name, worker)
}

/// Forgets snapshot `id`.
pub(super) fn delete(file: &VmFile, kept: &Kept, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    forget(&Flat::of(file, kept)?, id, worker)
}

/// The same of an image that no VM has.
pub(super) fn delete_image(image: &Image, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    forget(&Flat::of_image(image)?, id, worker)
}

fn forget(disk: &Flat, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let Some(snapshots) = disk.snapshots()? else { return Ok(()) };
    worker.at("snapshots opened");
    let name = FileName::from(id);
    snapshots.sweep(&name)?;
    worker.at("leftovers removed");
    remove(snapshots.handle(), name.as_str(), &snapshots.path().join(name.as_str()))?;
    worker.at("snapshot removed");
    snapshots.sync()
}

/// Puts a copy of `bytes` in the place of whatever file has the name.
fn replace(bytes: &File, folder: &Home, name: &FileName, worker: &Worker<'_>) -> Result<(), StorageError> {
    folder.sweep(name)?;
    worker.at("leftovers removed");
    let path = folder.path().join(name.as_str());
    let found = bytes.metadata().during("look at", &path)?;
    let model = match folder.open(name.as_str()) {
        Ok(old) => old.metadata().during("look at", &path)?,
        Err(_) => found.clone(),
    };
    let made = folder.temporary(name);
    let copy = made.create(model.mode() & 0o777)?;
    make_alike(&copy, &made.path(), &model)?;
    worker.at("file made");
    copy_data((&path, bytes), &copy, found.len(), worker).during("copy", &path)?;
    worker.at("data copied");
    copy.sync_all().during("write out", made.path())?;
    worker.at("data on disk");
    made.publish(name.as_str())?;
    worker.at("copy in place");
    folder.sync()
}
