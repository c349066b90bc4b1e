//! `mvds.ssh`: an image that was copied to a host's own disk comes back with what the guest wrote and with its snapshots.
//!
//! ```text
//!  copy beside ── compare every byte ── in the image's place ── word ── the VM's disk goes ── the word goes
//! ```
//!
//! The word says that the image is whole, and of which disk: without it a disk that is half removed would be taken for one
//! that lost its files. A retry of the whole script finds no disk at all, and an image; that is success.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use causeway_core::locks::Mode;

use super::snapshot::not_in_use;
use super::{
    Datastore, During, Home, Kept, Layout, StorageError, Worker, lock, make_alike, make_all_alike, remove,
};
use crate::place::{FileName, Image, TEMPORARY, VmFile};
use crate::store::layers::Layers;
use crate::store::stack::{self, Proof, Stack};

/// Brings it back.
///
/// # Errors
/// The disk is not what it should be, is open, or there is no room; the image is then what it was, and the disk is there.
pub(crate) fn take_back(
    file: &VmFile,
    image: &Image,
    layout: Layout,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let _locks = lock::hold(worker, file.dir().vm(), Some((image, Mode::Exclusive)))?;
    let store = Datastore::open(image.datastore())?.into_folder();
    let local = Datastore::open(file.dir().datastore())?;
    let Some(home) = local.home(file.dir())? else {
        local.prove()?;
        return came_back(&store, image);
    };
    let name = file.name();
    let word = Word::of(name);
    home.sweep_but(name, &word.name)?;
    worker.at("leftovers removed");
    match (home.has(name.as_str())?, home.has(&name.snap())?, word.read(&home)?) {
        (false, false, None) => came_back(&store, image),
        (false, true, None) => {
            let why =
                format!("there is no {name}, but there is {}: put it right, then try again", name.snap());
            Err(StorageError::Disk { path: file.path(), why })
        }
        (false, _, Some(text)) if text.starts_with(&format!("{image}\n")) => {
            leave(&home, name, &word, worker)
        }
        (true, _, Some(text)) if text == word.text(image, &home, name)? => leave(&home, name, &word, worker),
        (false, _, Some(text)) => {
            let why = format!("it went to another image: {text:?}");
            Err(StorageError::Disk { path: file.path(), why })
        }
        (true, _, _) => {
            local.mark()?;
            worker.at("datastore marked");
            match layout {
                Layout::Chain => chain(file, image, &store, worker)?,
                Layout::Image => flat(&home, name, image, &store, worker)?,
            }
            worker.at("image in place");
            word.leave(image, &home, name)?;
            worker.at("word left");
            leave(&home, name, &word, worker)
        }
    }
}

/// The VM has no such disk any more; that is as it should be if the image is there.
fn came_back(store: &Home, image: &Image) -> Result<(), StorageError> {
    // Through its link: one that leads nowhere is no image.
    if image.path().exists() && store.has(image.name().as_str())? {
        return Ok(());
    }
    Err(StorageError::NoDisk { path: image.path() })
}

fn chain(file: &VmFile, image: &Image, store: &Home, worker: &Worker<'_>) -> Result<(), StorageError> {
    let layers = Layers::read(file, &Kept::Beside)?;
    not_in_use(&layers.path(layers.active()))?;
    let (stack, name) = (Stack::of_layers(&layers)?, image.name());
    worker.at("disk read");
    // An image whose link leads nowhere is one that a killed call was exchanging: its layers are among what is left.
    let between = !store.has(&name.snap())? && !image.path().exists();
    if !between {
        store.sweep(name)?;
    }
    worker.at("leftovers of the image removed");
    // By whole names: where the datastore is shared, QEMU opens them by a link in a VM's directory.
    let prefix = format!("{}/", store.path().join(name.snap()).display());
    let made = stack.copy(store, name, &prefix, Proof::Bytes, worker)?;
    as_before(image, store, made.name())?;
    let old = stack::put(made, store, name, worker)?;
    stack::lead(store, name, layers.active(), old, worker)?;
    store.sweep(name)
}

fn flat(
    home: &Home,
    disk: &FileName,
    image: &Image,
    store: &Home,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let (path, name) = (home.path().join(disk.as_str()), image.name());
    if let Ok(Some(target)) = home.link(disk.as_str()) {
        let why = format!("it is a link to {target} where a copy of {image} should be");
        return Err(StorageError::Disk { path, why });
    }
    let bytes = home.open(disk.as_str())?;
    not_in_use(&path)?;
    let snapshots = Stack::of_copies(home.folder(&disk.snap())?.as_ref())?;
    worker.at("disk read");
    store.sweep(name)?;
    worker.at("leftovers of the image removed");
    let made = store.temporary(name);
    let copied = stack::copy_file(&bytes, &path, store, made.name(), Proof::Bytes, worker)?;
    if let Ok(model) = std::fs::metadata(image.path()) {
        make_alike(&copied, &made.path(), &model)?;
    }
    drop(copied);
    let old = match snapshots.newest() {
        Some(_) => {
            let copies = snapshots.copy(store, name, "", Proof::Bytes, worker)?;
            as_before(image, store, copies.name())?;
            stack::put(copies, store, name, worker)?
        }
        None => stack::aside(store, name, worker)?,
    };
    made.publish(name.as_str())?;
    worker.at("disk in its image's place");
    store.sync()?;
    remove(store.handle(), old.name(), &old.path())?;
    store.sync()
}

/// Gives what was copied into a directory the permissions and the owner that the image has, if it is there.
fn as_before(image: &Image, store: &Home, made: &str) -> Result<(), StorageError> {
    match (std::fs::metadata(image.path()), store.folder(made)?) {
        (Ok(model), Some(folder)) => make_all_alike(&folder, &model),
        _ => Ok(()),
    }
}

/// Removes the disk, and then the word that its image is whole.
fn leave(home: &Home, name: &FileName, word: &Word, worker: &Worker<'_>) -> Result<(), StorageError> {
    for name in [name.to_string(), name.snap()] {
        remove(home.handle(), &name, &home.path().join(&name))?;
        worker.at("removed");
    }
    home.sync()?;
    remove(home.handle(), &word.name, &home.path().join(&word.name))?;
    worker.at("word removed");
    home.sync()
}

/// What says that an image is whole. It has the name of something half-made: whoever makes or changes a disk of that number
/// removes it first, and it never speaks of another disk.
struct Word {
    name: String,
}

impl Word {
    fn of(name: &FileName) -> Self {
        Word { name: format!("{TEMPORARY}{name}.returned") }
    }

    fn read(&self, home: &Home) -> Result<Option<String>, StorageError> {
        home.text(&self.name)
    }

    /// The image, and what the disk was that it was made of: a guest that wrote since has made another one of it.
    fn text(&self, image: &Image, home: &Home, name: &FileName) -> Result<String, StorageError> {
        let path: PathBuf = home.path().join(name.as_str());
        let found = look(&path)?;
        let (seconds, nanoseconds) = (found.mtime(), found.mtime_nsec());
        Ok(format!("{image}\n{} {} {seconds}.{nanoseconds}\n", found.ino(), found.len()))
    }

    fn leave(&self, image: &Image, home: &Home, name: &FileName) -> Result<(), StorageError> {
        let text = self.text(image, home, name)?;
        remove(home.handle(), &self.name, &home.path().join(&self.name))?;
        // Written beside: a word that was cut off would be none.
        let made = home.temporary(name);
        let mut file: File = made.create(0o600)?;
        file.write_all(text.as_bytes()).during("write", made.path())?;
        file.sync_all().during("write out", made.path())?;
        made.publish(&self.name)?;
        home.sync()
    }
}

fn look(path: &Path) -> Result<std::fs::Metadata, StorageError> {
    std::fs::metadata(path).during("look at", path)
}
