//! `context`: the image with the VM's configuration, built where it is used.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::fstatfs;

use super::snapshot::disk_not_written;
use super::{During, Home, Recipient, StorageError, Worker, lock};
use crate::iso::{ContextFile, ContextImage};
use crate::place::FileName;

/// Builds the image and puts it in its place, over whatever file or link is there.
pub(crate) fn build(
    to: &Recipient<'_>,
    names: &[FileName],
    inputs: &[Vec<u8>],
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    if names.len() != inputs.len() {
        return Err(StorageError::Inputs { named: names.len(), found: inputs.len() });
    }
    let mut files: Vec<ContextFile<'_>> = Vec::with_capacity(names.len());
    for (name, content) in names.iter().zip(inputs) {
        files.retain(|file| file.name != name);
        files.push(ContextFile { name, content });
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let image = ContextImage { volume: "CONTEXT", files, seconds: now }.build().map_err(StorageError::Iso)?;

    let file = to.file;
    let _locks = lock::hold(worker, file.dir().vm(), None)?;
    let home = to.home(worker)?;
    disk_not_written(&home, file.name())?;
    home.sweep(file.name())?;
    worker.at("leftovers removed");
    home.or_gone(put(&image, &home, file.name(), worker))
}

fn put(image: &[u8], home: &Home, name: &FileName, worker: &Worker<'_>) -> Result<(), StorageError> {
    let temporary = home.temporary(name);
    let mut made = temporary.create(0o666)?;
    worker.at("file made");
    made.write_all(image).during("write", temporary.path())?;
    worker.at("data written");
    // A context is made anew for every boot, so it need not outlive the machine; but a file system that may take the
    // data now and find later that it has no room for it must be asked.
    if !tells_at_once(&made) {
        made.sync_all().during("write out", temporary.path())?;
        worker.at("data on disk");
    }
    temporary.publish(name.as_str())?;
    worker.at("disk in place");
    Ok(())
}

/// Whether a full disk shows when the data are written, and not only when they are written out.
fn tells_at_once(file: &std::fs::File) -> bool {
    // From linux/magic.h: ext2 to ext4, XFS, btrfs, tmpfs. All of them set room aside on write.
    const LOCAL: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];
    fstatfs(file).is_ok_and(|found| u64::try_from(found.f_type).is_ok_and(|kind| LOCAL.contains(&kind)))
}
