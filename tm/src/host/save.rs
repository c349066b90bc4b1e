//! `cpds`: a disk, or a snapshot of it, becomes an image: flat, complete, and only then under the image's name.

use std::fs::File;
use std::path::{Path, PathBuf};

use causeway_core::locks::Mode;

use super::snapshot::not_in_use;
use super::{
    Datastore, During, Home, Inside, Kept, StorageError, Temporary, Tool, Worker, copy_data, expect_qcow2,
    lock, while_copying,
};
use crate::place::{Image, VmFile};
use crate::store::header::Header;
use crate::store::layers::Layers;

/// What is to be saved.
pub(crate) struct Disk<'a> {
    /// The VM's disk.
    pub file: &'a VmFile,
    /// Where its files lie.
    pub kept: &'a Kept,
    /// Whether it is qcow2.
    pub qcow2: bool,
    /// The snapshot; none means what the disk holds now.
    pub snapshot: Option<u32>,
}

/// Saves it. An image that is this very disk is saved already.
///
/// # Errors
/// The disk is not there, is open, or is not what it should be; the image's name is then as it was.
pub(crate) fn save(disk: &Disk<'_>, image: &Image, worker: &Worker<'_>) -> Result<(), StorageError> {
    let _locks = lock::hold(worker, disk.file.dir().vm(), Some((image, Mode::Exclusive)))?;
    let from = disk.source()?;
    if disk.snapshot.is_none() {
        not_in_use(&from)?;
    }
    let folder = Datastore::open(image.datastore())?.into_folder();
    if from.canonicalize().ok() == image.path().canonicalize().ok() {
        return Ok(());
    }
    if disk.qcow2 {
        expect_qcow2(&File::open(&from).during("open", &from)?, &from)?;
    }
    disk.is_not_on(&from, image)?;
    worker.at("disk read");
    folder.sweep(image.name())?;
    worker.at("leftovers removed");
    let made = folder.temporary(image.name());
    if disk.qcow2 {
        convert(&from, &made, worker)?
    } else {
        copy(&from, &made, worker)?
    }
    made.publish(image.name().as_str())?;
    worker.at("image in place");
    folder.sync()
}

impl Disk<'_> {
    /// The file to read: proved to be this disk's.
    pub(super) fn source(&self) -> Result<PathBuf, StorageError> {
        let no_disk = || StorageError::NoDisk { path: self.file.path() };
        let home =
            Datastore::open(self.file.dir().datastore())?.home(self.file.dir())?.ok_or_else(no_disk)?;
        match (home.link(self.file.name().as_str()), self.qcow2) {
            // A volatile disk: one file, on which nothing stands.
            (Err(StorageError::NotALink { path }), true) if *self.kept == Kept::Beside => {
                Inside::new(self.file.dir().datastore())?.check_chain(&path, &path)?;
                expect_qcow2(&home.open(self.file.name().as_str())?, &path)?;
                // Snapshots are layers, and it has none.
                if self.snapshot.is_some() { self.layer() } else { Ok(path) }
            }
            (Ok(Some(_)), true) => self.layer(),
            (Ok(Some(_)) | Err(StorageError::NotALink { .. }), false) => self.plain(&home),
            (Ok(None), _) => Err(no_disk()),
            (Err(e), _) => Err(e),
        }
    }

    /// Refuses an image that the disk needs itself: to replace it would take the disk's own bytes, or its snapshots, away.
    fn is_not_on(&self, from: &Path, image: &Image) -> Result<(), StorageError> {
        let refused = |why: &str| Err(StorageError::Image { path: image.path(), why: why.to_owned() });
        let Ok(target) = image.path().canonicalize() else { return Ok(()) };
        if image.path().with_file_name(image.name().snap()).exists() {
            return refused("it has snapshots: a disk is saved as an image of its own");
        }
        let (mut next, mut seen) = (Some(from.to_owned()), Vec::new());
        while let Some(path) = next.take() {
            if seen.contains(&path) {
                return refused("the disk's chain of files does not end");
            }
            if path.canonicalize().ok().as_ref() == Some(&target) {
                return refused("the disk that is to be saved stands on it");
            }
            if !self.qcow2 {
                return Ok(());
            }
            let file = File::open(&path).during("open", &path)?;
            let header =
                Header::read(&file).map_err(|why| StorageError::Image { path: path.clone(), why })?;
            next = header.and_then(|header| header.backing).and_then(|name| Some(path.parent()?.join(name)));
            seen.push(path);
        }
        Ok(())
    }

    fn layer(&self) -> Result<PathBuf, StorageError> {
        let layers = Layers::read(self.file, self.kept)?;
        let number = match self.snapshot {
            None => Some(layers.active()),
            Some(id) => layers.of_snapshot(id),
        };
        let number = number.ok_or_else(|| self.no_snapshot(self.snapshot.unwrap_or_default()))?;
        Ok(layers.path(number))
    }

    fn no_snapshot(&self, id: u32) -> StorageError {
        StorageError::Disk { path: self.file.path(), why: format!("there is no snapshot {id} of it") }
    }

    fn plain(&self, home: &Home) -> Result<PathBuf, StorageError> {
        let (folder, name) = match self.kept {
            Kept::Beside => (None, self.file.name()),
            Kept::WithImage(image) => {
                Inside::new(image.datastore())?.resolve(&image.path(), &image.to_string())?;
                (Some(Datastore::open(image.datastore())?.into_folder()), image.name())
            }
        };
        let folder = folder.as_ref().unwrap_or(home);
        let Some(id) = self.snapshot else {
            folder.open(name.as_str())?;
            return Ok(folder.path().join(name.as_str()));
        };
        let none = || self.no_snapshot(id);
        let snapshots = folder.folder(&name.snap())?.ok_or_else(none)?;
        match snapshots.open(&id.to_string()) {
            Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(none());
            }
            other => drop(other?),
        }
        Ok(snapshots.path().join(id.to_string()))
    }
}

fn convert(from: &Path, made: &Temporary<'_>, worker: &Worker<'_>) -> Result<(), StorageError> {
    let mut tool = Tool::convert((from, "qcow2"), from, worker)?;
    // A frozen layer may be open below the one that a guest writes.
    tool.args(["-U", "-O", "qcow2"]).arg(from).arg(made.path()).run(worker)?;
    worker.at("converted");
    let wanted = expect_qcow2(&File::open(from).during("open", from)?, from)?;
    let path = made.path();
    let file = File::options().read(true).write(true).open(&path).during("open", &path)?;
    file.sync_all().during("write out", &path)?;
    let found = expect_qcow2(&file, &path)?;
    if found.size != wanted.size || found.backing.is_some() {
        let why = format!("{found:?}, where {} bytes without a backing file were wanted", wanted.size);
        return Err(StorageError::Incomplete { path: from.to_owned(), why });
    }
    worker.at("data on disk");
    Ok(())
}

fn copy(from: &Path, made: &Temporary<'_>, worker: &Worker<'_>) -> Result<(), StorageError> {
    let source = File::open(from).during("open", from)?;
    let length = source.metadata().during("look at", from)?.len();
    let copy = made.create(0o666)?;
    worker.at("file made");
    copy_data((from, &source), &copy, length, worker).map_err(while_copying(from, made.path()))?;
    worker.at("data copied");
    copy.sync_all().during("write out", made.path())?;
    worker.at("data on disk");
    Ok(())
}
