//! `mkimage`, `mkswap`: an empty disk, made beside and renamed.

use std::path::Path;

use super::snapshot::disk_not_in_use;
use super::{
    Blank, During, Home, Recipient, StorageError, Temporary, Tool, Worker, lock, remove, while_growing,
};
use crate::place::{FileName, VmFile};
use crate::store::file::MIB;
use crate::store::header::Header;

/// Makes a disk.
///
/// # Errors
/// It can't be made; whatever had the name is then as it was.
pub(crate) fn make(
    to: &Recipient<'_>,
    size_mb: u64,
    qcow2: bool,
    blank: &Blank,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let file = to.file;
    let _locks = lock::hold(worker, file.dir().vm(), None)?;
    let home = to.home(worker)?;
    disk_not_in_use(&home, file.name())?;
    home.sweep(file.name())?;
    worker.at("leftovers removed");
    home.or_gone(put(&home, file, size_mb.saturating_mul(MIB), qcow2, blank, worker))
}

fn put(
    home: &Home,
    file: &VmFile,
    size: u64,
    qcow2: bool,
    blank: &Blank,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let name = file.name();
    let made = build(home, name, size, qcow2, blank, worker)?;
    made.publish(name.as_str())?;
    worker.at("disk in place");
    // Snapshots of another disk that had the number are gone after it (contract TM 5).
    let snap = name.snap();
    remove(home.handle(), &snap, &home.path().join(&snap))?;
    worker.at("old snapshots removed");
    home.sync()
}

/// Makes it under a temporary name, whole and on the disk.
pub(super) fn build<'a>(
    home: &'a Home,
    name: &FileName,
    size: u64,
    qcow2: bool,
    blank: &Blank,
    worker: &Worker<'_>,
) -> Result<Temporary<'a>, StorageError> {
    let plain = home.temporary(name);
    let made = match (qcow2, blank) {
        (true, Blank::Empty) => {
            empty_qcow2(&plain, size, worker)?;
            plain
        }
        (false, _) => {
            fill(&plain, size, blank, worker)?;
            plain
        }
        (true, _) => {
            fill(&plain, size, blank, worker)?;
            let image = home.temporary(name);
            let mut tool = Tool::convert((&plain.path(), "raw"), &image.path(), worker)?;
            tool.args(["-O", "qcow2"]).arg(plain.path()).arg(image.path()).run(worker)?;
            worker.at("converted");
            image
        }
    };
    check(&made, size, qcow2)?;
    worker.at("data on disk");
    Ok(made)
}

fn empty_qcow2(made: &Temporary<'_>, size: u64, worker: &Worker<'_>) -> Result<(), StorageError> {
    let mut tool = Tool::qemu_img("create", &made.path());
    tool.args(["-f", "qcow2"]).arg(made.path()).arg(size.to_string()).run(worker)?;
    worker.at("file made");
    Ok(())
}

/// A plain file with what is to be in it.
///
/// # Errors
/// It can't be made; what was made goes with `made`.
pub(crate) fn fill(
    made: &Temporary<'_>,
    size: u64,
    blank: &Blank,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    made.create(0o666)?.set_len(size).map_err(while_growing(made.path(), size))?;
    worker.at("file made");
    format(&made.path(), &made.path(), blank, worker)
}

/// Puts into an empty file what is to be in it. `told` is the file for people, or the directory of one that has no name.
///
/// # Errors
/// The program that does it failed.
pub(crate) fn format(
    path: &Path,
    told: &Path,
    blank: &Blank,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let mut tool = match blank {
        Blank::Empty => return Ok(()),
        Blank::Swap => {
            let mut tool = Tool::new("mkswap", told);
            tool.args(["-L", "swap"]);
            tool
        }
        Blank::FileSystem { kind, options } => {
            let mut tool = Tool::new(&format!("mkfs.{kind}"), told);
            if kind == "xfs" {
                // It goes on with how it is called.
                tool.first_words();
            }
            // Both force it upon what is no block device; mke2fs would ask.
            tool.arg(if kind == "xfs" { "-f" } else { "-F" }).args(options);
            tool
        }
    };
    tool.arg(path).run(worker)?;
    worker.at("formatted");
    Ok(())
}

fn check(made: &Temporary<'_>, size: u64, qcow2: bool) -> Result<(), StorageError> {
    let path = made.path();
    let file = std::fs::File::options().read(true).write(true).open(&path).during("open", &path)?;
    file.sync_all().during("write out", &path)?;
    let found = if qcow2 {
        let header = Header::read(&file).map_err(|why| StorageError::Image { path: path.clone(), why })?;
        header.map(|header| header.size)
    } else {
        Some(file.metadata().during("look at", &path)?.len())
    };
    if found == Some(size) {
        return Ok(());
    }
    let why = format!("{found:?} bytes where {size} were wanted");
    Err(StorageError::Incomplete { path, why })
}
