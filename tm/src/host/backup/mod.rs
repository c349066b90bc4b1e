//! Backups: what a backup datastore's driver is to fetch, made ready in a directory (contract TM 2.3).
//!
//! ```text
//! begin            the directory anew, vm.xml, disk.tpm.0
//! disk             nobody has it open: copied whole, or what a bitmap says has changed        disk.N.INCREMENT
//! target, publish  a guest runs: an empty file, which its hypervisor fills; then its name     disk.N.INCREMENT
//! clear            the directory is gone
//! ```
//!
//! A disk's data get their name in the directory when they are whole; a driver takes all that is there. Nothing of the
//! VM's own disks is changed but the bitmaps of a chain of increments: the bitmap that the next increment begins with
//! goes last, so that a call that is repeated finds the one that it begins with.

mod bitmap;
mod call;
mod folder;
mod increment;
mod qmp;
mod tpm;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::datastore::{Stored, convert};
use super::save::Disk;
use super::snapshot::not_in_use;
use super::{During, Home, StorageError, Temporary, Tool, Worker, expect_qcow2, lock};
use crate::facts::Extent;
use crate::store::header::{expect_memory, expect_plain};

pub(super) use bitmap::forget_all as forget_bitmaps;
pub(crate) use call::checkpoint;
pub use call::{BackupCall, BackupDisk, BackupPlace};
pub(crate) use folder::open as open_folder;

/// Performs one call.
///
/// # Errors
/// [`StorageError`]; the call can be repeated.
pub(super) fn perform(
    call: &BackupCall,
    inputs: &[Vec<u8>],
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    match call {
        BackupCall::Begin { place, tpm, guest } => {
            let _locks = lock::hold(worker, place.dir.vm(), None)?;
            worker.at("VM locked");
            let folder = folder::make(place, worker)?;
            write(&folder, "vm.xml", &inputs.concat(), worker)?;
            if *tpm {
                tpm::save(place, guest.as_ref(), &folder, worker)?;
            }
            folder.sync()
        }
        BackupCall::Disk { place, disk } => {
            let _locks = lock::of_disk(worker, &disk.file, &disk.kept)?;
            worker.at("disk locked");
            copy(place, disk, worker)
        }
        BackupCall::Target { place, disk } => {
            let _locks = lock::of_disk(worker, &disk.file, &disk.kept)?;
            worker.at("disk locked");
            make_target(place, disk, worker)
        }
        BackupCall::Publish { place, disk } => {
            let _locks = lock::of_disk(worker, &disk.file, &disk.kept)?;
            worker.at("disk locked");
            publish(place, disk, worker)
        }
        BackupCall::Clear { place } => {
            let _locks = lock::hold(worker, place.dir.vm(), None)?;
            worker.at("VM locked");
            folder::clear(place, worker)
        }
    }
}

/// Writes a small file, which nobody but us is to read: a VM's document may hold passwords.
fn write(folder: &Home, name: &str, bytes: &[u8], worker: &Worker<'_>) -> Result<(), StorageError> {
    let made = folder.temporary(name);
    let mut file = made.create(0o600)?;
    file.write_all(bytes).during("write", made.path())?;
    file.sync_all().during("write out", made.path())?;
    worker.at("document written");
    made.publish(name)
}

/// Copies a disk that nobody has open.
fn copy(place: &BackupPlace, disk: &BackupDisk, worker: &Worker<'_>) -> Result<(), StorageError> {
    let from = source(disk)?;
    not_in_use(&from)?;
    not_aside(disk)?;
    let size = size(&from, disk.qcow2)?;
    remembers(&from, disk)?;
    if disk.qcow2 {
        expect_plain(&from)?;
    }
    let folder = folder::open(place)?;
    worker.at("disk read");
    folder.sweep(disk.result())?;
    worker.at("leftovers removed");
    let made = folder.temporary(disk.result());
    let whole = |made: &Temporary<'_>| {
        let format = if disk.qcow2 { "qcow2" } else { "raw" };
        convert((&from, format), size, (made, Stored::Qcow2), true, worker)
    };
    match disk.extent {
        Extent::Full | Extent::First => whole(&made)?,
        Extent::Since(last) => {
            bitmap::usable(&from, &disk.bitmap(last), worker)?;
            empty(&made.path(), size, worker)?;
            increment::copy(&from, &disk.bitmap(last), &made.path(), worker)?;
            check(&made.path(), size)?;
        }
    }
    made.publish(disk.result().as_str())?;
    worker.at("copy in place");
    folder.sync()?;
    // From here on the disk remembers what changes.
    match disk.extent {
        Extent::Full => Ok(()),
        Extent::First => bitmap::begin(&from, None, &disk.bitmap(0), worker),
        Extent::Since(last) => {
            let next = disk.bitmap(disk.extent.increment());
            bitmap::begin(&from, Some(&disk.bitmap(last)), &next, worker)
        }
    }
}

fn make_target(place: &BackupPlace, disk: &BackupDisk, worker: &Worker<'_>) -> Result<(), StorageError> {
    let from = source(disk)?;
    let size = size(&from, disk.qcow2)?;
    remembers(&from, disk)?;
    let folder = folder::open(place)?;
    folder.sweep(disk.result())?;
    worker.at("leftovers removed");
    empty(&place.target(disk), size, worker)?;
    worker.at("file made");
    folder.sync()
}

fn publish(place: &BackupPlace, disk: &BackupDisk, worker: &Worker<'_>) -> Result<(), StorageError> {
    let folder = folder::open(place)?;
    let (target, result) = (disk.target(), disk.result());
    if !folder.has(&target)? {
        // Given its name by a call whose end nobody learnt of.
        return folder.open(result.as_str()).map(drop);
    }
    // A guest's disk may have been grown since the file was made, but not while it was copied.
    check(&place.target(disk), size(&source(disk)?, disk.qcow2)?)?;
    worker.at("data on disk");
    folder.rename(&target, result.as_str())?;
    worker.at("copy in place");
    folder.sync()
}

/// An increment needs a disk that remembers what changes.
fn remembers(from: &Path, disk: &BackupDisk) -> Result<(), StorageError> {
    if disk.qcow2 && disk.extent != Extent::Full { expect_memory(from) } else { Ok(()) }
}

/// The file that holds what the disk is now, proved to be the disk's.
fn source(disk: &BackupDisk) -> Result<PathBuf, StorageError> {
    Disk { file: &disk.file, kept: &disk.kept, qcow2: disk.qcow2, snapshot: None }.source()
}

/// The size that the guest sees, bytes.
fn size(path: &Path, qcow2: bool) -> Result<u64, StorageError> {
    let file = File::open(path).during("open", path)?;
    if !qcow2 {
        return Ok(file.metadata().during("look at", path)?.len());
    }
    Ok(expect_qcow2(&file, path)?.size)
}

fn empty(path: &Path, size: u64, worker: &Worker<'_>) -> Result<(), StorageError> {
    let mut tool = Tool::qemu_img("create", path);
    tool.args(["-f", "qcow2"]).arg(path).arg(size.to_string()).run(worker)
}

/// Sees to it that a result stands alone, has the disk's size, and is on the disk.
pub(crate) fn check(path: &Path, size: u64) -> Result<(), StorageError> {
    let file = File::options().read(true).write(true).open(path).during("open", path)?;
    file.sync_all().during("write out", path)?;
    let found = expect_qcow2(&file, path)?;
    // QEMU counts in sectors of 512 bytes.
    if found.backing.is_none() && found.size.checked_sub(size).is_some_and(|more| more < 512) {
        return Ok(());
    }
    let why = format!("{found:?}, where {size} bytes without a backing file were wanted");
    Err(StorageError::Incomplete { path: path.to_owned(), why })
}

/// The stock driver puts an overlay aside while a guest runs, and may fail to bring it back (W8): the disk is then not
/// what the guest wrote last.
fn not_aside(disk: &BackupDisk) -> Result<(), StorageError> {
    let Some(home) = super::Datastore::open(disk.file.dir().datastore())?.home(disk.file.dir())? else {
        return Ok(());
    };
    let name = format!("overlay_{}.qcow2", disk.file.name().disk().unwrap_or_default());
    let Some(aside) = home.folder("tmp")? else { return Ok(()) };
    if !aside.has(&name)? {
        return Ok(());
    }
    let path = aside.path().join(&name);
    let why = "the stock driver left it in a backup, and it may hold what the guest wrote last: commit it into the disk \
               (qemu-img commit), or remove it if the guest never used it";
    Err(StorageError::Disk { path, why: why.to_owned() })
}
