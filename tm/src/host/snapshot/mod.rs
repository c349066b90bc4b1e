//! Snapshots of a disk that nobody has open: `snap_create`, `snap_revert`, `snap_delete` (contract TM 2.1).
//!
//! A disk that was grown since goes back to the size that it had, too: oned gives it the SIZE of the snapshot when the action
//! has succeeded, and a disk that is larger than its SIZE could not be given the next one.

use causeway_core::locks::held_by_others;

use super::{During, Home, Kept, SnapshotOrder, StorageError, Worker, lock};
use crate::place::{FileName, Image, VmFile};
use crate::store::layers::Layers;

mod chain;
mod flat;

pub(super) use chain::{forget, make_layer};
pub(super) use flat::snapshots as flat_snapshots;

/// Bytes of an image that QEMU locks while it has it open: those of what it may do, and of what others may not (QEMU's
/// `block/file-posix.c`: 100 and 200 plus the number of a permission).
const QEMU_LOCKS: std::ops::Range<u64> = 100..300;

/// The one that says that whoever has it open may write it.
const QEMU_WRITES: std::ops::Range<u64> = 101..102;

/// Does what is ordered.
///
/// # Errors
/// The disk is not one that this can be done to, or is open; the disk is then as it was.
pub(crate) fn perform(
    file: &VmFile,
    kept: &Kept,
    chain: bool,
    order: SnapshotOrder,
    id: u32,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let _locks = lock::of_disk(worker, file, kept)?;
    if !chain {
        return match order {
            SnapshotOrder::Create => flat::create(file, kept, id, worker),
            SnapshotOrder::Revert => flat::revert(file, kept, id, worker),
            SnapshotOrder::Delete => flat::delete(file, kept, id, worker),
        };
    }
    let layers = Layers::read(file, kept)?;
    not_in_use(&layers.folder.path().join(layers.active().to_string()))?;
    worker.at("disk read");
    match order {
        SnapshotOrder::Create => chain::create(&layers, file.name(), id, worker),
        SnapshotOrder::Revert => chain::revert(&layers, id, worker),
        SnapshotOrder::Delete => chain::delete(&layers, id, worker),
    }
}

/// Makes an image that no VM has hold again what it held. The caller has locked it.
///
/// # Errors
/// There is no such snapshot, or the image is open.
pub(super) fn revert_image(
    image: &Image,
    chain: bool,
    id: u32,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    if !chain {
        return flat::revert_image(image, id, worker);
    }
    match of_image(image, worker)? {
        Some(layers) => chain::revert(&layers, id, worker),
        None => {
            let why = format!("there is no snapshot {id} of it");
            Err(StorageError::Disk { path: image.path(), why })
        }
    }
}

/// Forgets a snapshot of such an image.
///
/// # Errors
/// The image is open.
pub(super) fn delete_image(
    image: &Image,
    chain: bool,
    id: u32,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    if !chain {
        return flat::delete_image(image, id, worker);
    }
    match of_image(image, worker)? {
        Some(layers) => chain::delete(&layers, id, worker),
        None => Ok(()),
    }
}

fn of_image(image: &Image, worker: &Worker<'_>) -> Result<Option<Layers>, StorageError> {
    let Some(layers) = Layers::of_image(image)? else { return Ok(None) };
    not_in_use(&layers.path(layers.active()))?;
    worker.at("image read");
    Ok(Some(layers))
}

/// Whether QEMU has a file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// It has.
    Open,
    /// It has not.
    Closed,
    /// The file system has no locks that would tell.
    Unknown,
}

/// Looks whether QEMU has a file open, on this host or, where the file system carries locks, on another.
///
/// # Errors
/// The file can't be opened.
pub(super) fn usage(path: &std::path::Path) -> Result<Use, StorageError> {
    Ok(use_of(&std::fs::File::open(path).during("open", path)?, QEMU_LOCKS))
}

fn use_of(file: &std::fs::File, locks: std::ops::Range<u64>) -> Use {
    match held_by_others(file, locks) {
        Ok(true) => Use::Open,
        Ok(false) => Use::Closed,
        Err(_) => Use::Unknown,
    }
}

/// Refuses the disks of a directory, those of which `wanted` names the file or the directory of layers, if QEMU has one of
/// these files open. A link is somebody else's file, and what can't be opened is nobody's disk.
///
/// # Errors
/// [`StorageError::InUse`]; or the directory can't be read.
pub(super) fn none_in_use(folder: &Home, wanted: impl Fn(&str) -> bool) -> Result<(), StorageError> {
    none_locked(folder, wanted, QEMU_LOCKS)
}

/// Refuses a disk that is to be replaced, if QEMU has it open.
///
/// # Errors
/// As [`none_in_use`].
pub(super) fn disk_not_in_use(folder: &Home, disk: &FileName) -> Result<(), StorageError> {
    none_in_use(folder, |name| is_of(disk, name))
}

/// The same if QEMU may write it. A guest only reads its context, and is given a new one under way.
///
/// # Errors
/// As [`none_in_use`].
pub(super) fn disk_not_written(folder: &Home, disk: &FileName) -> Result<(), StorageError> {
    none_locked(folder, |name| is_of(disk, name), QEMU_WRITES)
}

fn is_of(disk: &FileName, name: &str) -> bool {
    name == disk.as_str() || name == disk.snap()
}

fn none_locked(
    folder: &Home,
    wanted: impl Fn(&str) -> bool,
    locks: std::ops::Range<u64>,
) -> Result<(), StorageError> {
    let look = |folder: &Home, name: &str| file_not_in_use(folder, name, locks.clone());
    for name in folder.names()?.into_iter().filter(|name| wanted(name)) {
        match folder.folder(&name) {
            Ok(Some(layers)) => {
                layers.names()?.iter().try_for_each(|layer| look(&layers, layer))?;
            }
            _ => look(folder, &name)?,
        }
    }
    Ok(())
}

fn file_not_in_use(folder: &Home, name: &str, locks: std::ops::Range<u64>) -> Result<(), StorageError> {
    match folder.open(name) {
        Ok(file) if use_of(&file, locks) == Use::Open => {
            Err(StorageError::InUse { path: folder.path().join(name) })
        }
        _ => Ok(()),
    }
}

/// Refuses a file that QEMU has open, on this host or, where the file system carries locks, on another.
///
/// # Errors
/// [`StorageError::InUse`].
pub(crate) fn not_in_use(path: &std::path::Path) -> Result<(), StorageError> {
    match usage(path)? {
        Use::Open => Err(StorageError::InUse { path: path.to_owned() }),
        // Nor could QEMU have locked it there.
        Use::Closed | Use::Unknown => Ok(()),
    }
}
