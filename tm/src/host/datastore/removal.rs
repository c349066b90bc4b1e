//! `rm`: an image goes, with its snapshots and its checksum, and nothing else. What is gone already is success where
//! that can be known (W31).

use causeway_core::locks::Mode;
use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use super::super::snapshot::not_in_use;
use super::{Datastore, During, Home, StorageError, Worker, lock, remove};
use crate::place::{Image, TEMPORARY};

/// Removes an image.
pub(super) fn remove_image(image: &Image, worker: &Worker<'_>) -> Result<(), StorageError> {
    let _locks = lock::images(worker, &[(image, Mode::Exclusive)])?;
    let datastore = Datastore::open(image.datastore())?;
    let folder = datastore.as_folder()?;
    let name = image.name();
    let names = [name.to_string(), name.snap(), format!("{name}.md5sum")];
    let ours = format!("{TEMPORARY}{name}.");
    let found = folder.names()?;
    if !found.iter().any(|entry| names.contains(entry) || entry.starts_with(&ours)) {
        return datastore.prove();
    }
    refuse_open(image, &folder)?;
    worker.at("image looked at");
    datastore.mark()?;
    worker.at("datastore marked");
    folder.sweep(name)?;
    worker.at("leftovers removed");
    // The image first: a layer that is left has nothing to stand on, and nobody takes it for an image.
    for name in &names {
        remove(folder.handle(), name, &folder.path().join(name))?;
        worker.at("removed");
    }
    folder.sync()
}

/// Removes the checksum of an image that has changed.
pub(super) fn forget_sum(image: &Image, worker: &Worker<'_>) -> Result<(), StorageError> {
    let folder = Datastore::open(image.datastore())?.into_folder();
    let name = format!("{}.md5sum", image.name());
    remove(folder.handle(), &name, &folder.path().join(&name))?;
    worker.at("checksum removed");
    folder.sync()
}

/// Refuses an image that QEMU has open: oned asks for the removal of unused ones only, and may be wrong.
fn refuse_open(image: &Image, folder: &Home) -> Result<(), StorageError> {
    let regular = |at: &Home, name: &str| match statat(at.handle(), name, AtFlags::empty()) {
        Ok(found) => Ok(FileType::from_raw_mode(found.st_mode) == FileType::RegularFile),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(e).during("look at", at.path().join(name)),
    };
    if regular(folder, image.name().as_str())? {
        not_in_use(&image.path())?;
    }
    let layers = match folder.folder(&image.name().snap()) {
        // Something of that name that is no directory is removed as what it is.
        Err(StorageError::NotADirectory { .. }) | Ok(None) => return Ok(()),
        Err(e) => return Err(e),
        Ok(Some(layers)) => layers,
    };
    for name in layers.names()?.into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        if regular(&layers, &name)? {
            not_in_use(&layers.path().join(&name))?;
        }
    }
    Ok(())
}
