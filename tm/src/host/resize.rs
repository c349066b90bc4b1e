//! `resize`: a disk that nobody has open grows; it never shrinks.

use std::fs::File;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

use super::snapshot::not_in_use;
use super::{Datastore, During, Inside, Kept, Size, StorageError, Tool, Worker, lock};
use crate::place::VmFile;
use crate::store::file::MIB;
use crate::store::header::Header;
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
        let header = Header::read(&disk).map_err(|why| StorageError::Image { path: path.clone(), why })?;
        let why = || StorageError::Image { path: path.clone(), why: "it is no qcow2 image".to_owned() };
        header.ok_or_else(why)?.size
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
            tool.arg("--preallocation=falloc");
        }
        tool.arg(&path).arg(want.to_string()).run(worker)?;
    } else if size.sparse {
        disk.set_len(want).during("grow", &path)?;
    } else {
        // Room first: a disk that is larger than its file system has room for is no disk.
        fallocate(&disk, FallocateFlags::empty(), have, want - have).during("grow", &path)?;
    }
    worker.at("grown");
    disk.sync_all().during("write out", &path)?;
    worker.at("data on disk");
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
