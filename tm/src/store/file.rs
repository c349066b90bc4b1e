//! Disks that are files of bytes: copied as they are, or linked to.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, symlinkat};

use crate::host::{
    During, Home, ImageFile, Size, StorageError, Temporary, Worker, copy_data, remove, while_copying,
    while_growing,
};
use crate::place::FileName;

/// Bytes of a MiB, the unit of `SIZE`.
pub(crate) const MIB: u64 = 1 << 20;

/// Gives the VM a file of the image's bytes, grown if it is to be larger (contract TM 2.1, `clone`, not qcow2).
pub(crate) fn copy(
    image: &ImageFile,
    home: &Home,
    name: &FileName,
    size: Size,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let path = image.place().path();
    let Size { grown_mb, sparse } = size;
    let size = grown(image, grown_mb)?;
    let temporary = home.temporary(name);
    // As `cp` does: the image's permissions, less what the umask takes.
    let mode = image.file().metadata().during("look at", &path)?.mode() & 0o777;
    let made = temporary.create(mode)?;
    worker.at("file made");
    copy_data((&path, image.file()), &made, image.length(), worker)
        .map_err(while_copying(&path, temporary.path()))?;
    worker.at("data copied");
    if size > image.length() {
        made.set_len(size).map_err(while_growing(temporary.path(), size))?;
        if !sparse {
            let added = size - image.length();
            fallocate(&made, FallocateFlags::empty(), image.length(), added)
                .during("grow", temporary.path())?;
        }
        worker.at("grown");
    }
    made.sync_all().during("write out", temporary.path())?;
    worker.at("data on disk");
    let found = made.metadata().during("look at", temporary.path())?.len();
    if found != size {
        return Err(StorageError::Incomplete { path, why: format!("{found} of {size} bytes") });
    }
    take_place(temporary, home, name, worker)
}

/// Gives the VM a link (contract TM 2.1, `ln`).
pub(crate) fn link(
    target: &Path,
    home: &Home,
    name: &FileName,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let temporary = home.temporary(name);
    symlinkat(target, home.handle(), temporary.name()).during("make", temporary.path())?;
    worker.at("link made");
    take_place(temporary, home, name, worker)
}

/// The size of a copy, bytes.
pub(crate) fn grown(image: &ImageFile, grown_mb: Option<u64>) -> Result<u64, StorageError> {
    let have = image.virtual_size();
    let want = grown_mb.map_or(have, |mb| mb.saturating_mul(MIB));
    if want < have {
        return Err(StorageError::Shrinks { path: image.place().path(), have, want });
    }
    Ok(want)
}

/// Puts a disk made of one entry in its place. Snapshots of another disk that had the number are gone after it:
/// oned gives numbers out again (contract TM 5).
pub(crate) fn take_place(
    temporary: Temporary<'_>,
    home: &Home,
    name: &FileName,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    temporary.publish(name.as_str())?;
    worker.at("disk in place");
    let snap = name.snap();
    remove(home.handle(), &snap, &home.path().join(&snap))?;
    worker.at("old snapshots removed");
    home.sync()
}
