//! `resize`: a disk that nobody has open grows; it never shrinks.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use super::snapshot::not_in_use;
use super::{
    Datastore, During, Inside, Kept, Size, StorageError, Tool, Worker, expect_qcow2, lock, while_growing,
};
use crate::place::{VmFile, named_at_last};
use crate::store::file::MIB;
use crate::store::layers::Layers;

/// Grows a disk.
///
/// # Errors
/// The disk is not there, is open, or larger already; it is then as it was.
pub(crate) fn resize(
    file: &VmFile,
    kept: &Kept,
    qcow2: bool,
    size: Size,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let _locks = lock::of_disk(worker, file, kept)?;
    let path = place(file, kept, qcow2)?;
    not_in_use(&path)?;
    let want = size.grown_mb.unwrap_or(0).saturating_mul(MIB);
    let disk = File::options().read(true).write(true).open(&path).during("open", &path)?;
    let have = if qcow2 {
        expect_qcow2(&disk, &path)?.size
    } else {
        disk.metadata().during("look at", &path)?.len()
    };
    if have > want {
        return Err(StorageError::Shrinks { path, have, want });
    }
    worker.at("disk read");
    if have == want {
        return Ok(());
    }
    if qcow2 {
        let mut tool = Tool::qemu_img("resize", &path);
        tool.args(["-f", "qcow2"]);
        if !size.sparse {
            // QEMU would fill the file system before it found out.
            expect_room(&disk, &path, want - have)?;
            tool.arg("--preallocation=falloc");
        }
        tool.arg(&path).arg(want.to_string()).run(worker)?;
    } else if size.sparse {
        disk.set_len(want).map_err(while_growing(&path, want))?;
    } else {
        // Room first: a disk that is larger than its file system has room for is no disk.
        expect_room(&disk, &path, want - have)?;
        let grown = fallocate(&disk, FallocateFlags::empty(), have, want - have);
        grown.map_err(|e| while_growing(&path, want)(e.into()))?;
    }
    worker.at("grown");
    disk.sync_all().during("write out", &path)?;
    worker.at("data on disk");
    Ok(())
}

/// Sees to it that so many bytes can be set aside.
pub(crate) fn expect_room(disk: &File, path: &Path, bytes: u64) -> Result<(), StorageError> {
    let found = fstatvfs(disk).during("look at", path)?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free < bytes {
        return Err(StorageError::NoRoom { path: named_at_last(path), bytes, free });
    }
    Ok(())
}

/// The file that holds what the guest writes, proved to be this disk's.
fn place(file: &VmFile, kept: &Kept, qcow2: bool) -> Result<PathBuf, StorageError> {
    let no_disk = || StorageError::NoDisk { path: file.path() };
    let home = Datastore::open(file.dir().datastore())?.home(file.dir())?.ok_or_else(no_disk)?;
    match (home.link(file.name().as_str()), kept) {
        // A volatile disk, or a copy of plain bytes.
        (Err(StorageError::NotALink { .. }), Kept::Beside) => {
            home.open(file.name().as_str())?;
            if qcow2 {
                Inside::new(file.dir().datastore())?.check_chain(&file.path(), &file.path())?;
            }
            Ok(file.path())
        }
        (Err(e), _) => Err(e),
        (Ok(None), _) => Err(no_disk()),
        (Ok(Some(_)), Kept::WithImage(image)) if !qcow2 => {
            Inside::new(image.datastore())?.resolve(&image.path(), &image.to_string())
        }
        (Ok(Some(_)), _) => {
            let layers = Layers::read(file, kept)?;
            let active = layers.path(layers.active());
            // The first layer of a persistent disk is a link to its image.
            match kept {
                Kept::Beside => Ok(active),
                Kept::WithImage(image) => {
                    Inside::new(image.datastore())?.resolve(&active, &active.display().to_string())
                }
            }
        }
    }
}
