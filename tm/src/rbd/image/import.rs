//! `cp`: an image made of what another machine sends.
//!
//! ```text
//!  stream ──> file without a name ──> its sum ──> what is it?
//!    an archive of a backup's volumes ──> import, differences in order, snapshots removed ─┐
//!    packed ──> unpacked ─┐                                                                 ├─> mark ──> rename
//!    qcow2, vdi, ... ─────┴──> converted to plain bytes ──> import ──> its size ────────────┘
//! ```
//!
//! What it is, its content tells (W32): stock takes every gzip file for such an archive, and imports what is packed
//! otherwise as it came.

use std::io::Read;
use std::path::Path;

use super::super::name::Volume;
use super::super::tool::Rbd;
use super::tarball::{self, Part};
use super::unpack::{Packing, extract, unpack};
use super::{New, is_made, new_image};
use crate::host::{
    During, Origin, Scratch, StorageError, Tool, Upload, Worker, compare, is_encrypted, kind, pour,
};

/// What `qemu-img check` says of an image that is whole and has space that nothing refers to.
const LEAKS: i32 = 3;
/// QEMU counts in sectors of so many bytes.
const SECTOR: u64 = 512;

/// What is sent, and what is done with it.
pub(super) struct Sent<'a, 'r> {
    pub origin: &'a Origin,
    pub unpack: bool,
    pub staging: &'a Path,
    pub stream: Option<&'r mut dyn Read>,
}

/// An upload, ready to become a volume.
enum Ready {
    /// Plain bytes.
    Bytes(Scratch),
    /// A volume with its snapshots, and the differences that follow.
    Parts { whole: Scratch, later: Vec<Scratch> },
}

pub(super) fn import(
    rbd: &Rbd<'_>,
    image: &Volume,
    sent: Sent<'_, '_>,
    new: &New,
) -> Result<(), StorageError> {
    let (Origin::Stream { checksum, .. }, Some(stream)) = (sent.origin, sent.stream) else {
        let why = "a volume is made of a stream only".to_owned();
        return Err(StorageError::Upload { path: asked().into(), why });
    };
    if is_made(rbd, image, new)? {
        // Who sends it would else believe that it was not taken.
        std::io::copy(stream, &mut std::io::sink()).during("receive", asked())?;
        return Ok(());
    }
    let dir = sent.staging;
    let staged = Scratch::new(dir)?;
    let length = pour(stream, staged.file(), true).during("receive into", dir)?;
    staged.file().set_len(length).during("grow a file in", dir)?;
    rbd.worker().at("received");
    if let Some(wanted) = checksum {
        compare(wanted, staged.file(), Path::new(asked()))?;
    }
    let data = new.data_pool.as_ref();
    match ready(staged, dir, sent.unpack, rbd.worker())? {
        Ready::Bytes(bytes) => {
            let size = bytes.length()?;
            new_image(rbd, image, new, Some(size), |made| rbd.import(&bytes.path(), made, data))
        }
        Ready::Parts { whole, later } => new_image(rbd, image, new, None, |made| {
            rbd.import_whole(&whole.path(), made, data)?;
            rbd.worker().at("volume imported");
            for part in &later {
                rbd.import_diff(&part.path(), made)?;
                rbd.worker().at("difference imported");
            }
            // They are the backup's, not the image's.
            rbd.snapshots(made)?.iter().try_for_each(|snapshot| rbd.unsnap(made, snapshot))
        }),
    }
}

/// What was sent, for messages: it may have come from an address that holds a password.
fn asked() -> &'static str {
    "what was sent"
}

fn refused(why: impl Into<String>) -> StorageError {
    StorageError::Upload { path: asked().into(), why: why.into() }
}

fn empty_disk() -> StorageError {
    refused("it is empty: an image of a disk of 0 bytes")
}

/// Looks what it is, and makes plain bytes of it.
fn ready(staged: Scratch, dir: &Path, unpacks: bool, worker: &Worker<'_>) -> Result<Ready, StorageError> {
    let packing = Packing::of(staged.file());
    if let Some(packing) = packing
        && tarball::begins(&packing.first_block(staged.file()))
    {
        return in_parts(extract(&staged, dir, packing, worker)?);
    }
    let staged = match packing.filter(|_| unpacks) {
        Some(packing) => unpack(&staged, dir, packing, worker)?,
        None => staged,
    };
    let length = staged.length()?;
    if length == 0 {
        return Err(refused("it is empty"));
    }
    let (name, size) = match kind(staged.file(), Path::new(asked()))? {
        Upload::Plain => return Ok(Ready::Bytes(staged)),
        Upload::Qcow2(header) if header.size == 0 => return Err(empty_disk()),
        Upload::Qcow2(_) if is_encrypted(staged.file(), Path::new(asked()))? => {
            return Err(refused(
                "it is a qcow2 image with encrypted content, and a volume holds plain bytes, which can't be made of it \
                 without its key: make it a raw LUKS image (`qemu-img convert -O luks`), and upload that",
            ));
        }
        Upload::Qcow2(header) => {
            // What is missing at the end of a file would be read as zeros.
            let mut tool = Tool::qemu_img("check", Path::new(asked()));
            tool.allow(LEAKS).args(["-f", "qcow2"]).arg(staged.path()).run(worker)?;
            worker.at("image checked");
            ("qcow2", Some(header.size))
        }
        Upload::Other(name) => (name, None),
    };
    let plain = Scratch::new(dir)?;
    let mut tool = Tool::qemu_img("convert", Path::new(asked()));
    tool.args(["-f", name, "-O", "raw"]).arg(staged.path()).arg(plain.path()).run(worker)?;
    worker.at("converted");
    let found = plain.length()?;
    // Of a format whose header we don't read, the size is QEMU's word.
    match size {
        None if found == 0 => return Err(empty_disk()),
        Some(size) if found.checked_sub(size).is_none_or(|more| more >= SECTOR) => {
            let why = format!("{found} bytes where {size} were wanted");
            return Err(StorageError::Incomplete { path: asked().into(), why });
        }
        _ => {}
    }
    Ok(Ready::Bytes(plain))
}

/// Puts the parts of a backup in their order.
fn in_parts(mut found: Vec<(Part, Scratch)>) -> Result<Ready, StorageError> {
    found.sort_by_key(|(part, _)| *part);
    let wrong = || {
        refused(
            "it is an archive of volumes, but not one of a single disk: it must hold one disk.N.rbd2, and the \
             disk.N.K.rbdiff that follow, each once",
        )
    };
    let whole = found.first().is_some_and(|(first, _)| first.increment == 0);
    let in_turn = found
        .iter()
        .zip(found.iter().skip(1))
        .all(|((one, _), (next, _))| one.disk == next.disk && one.increment < next.increment);
    if !(whole && in_turn) {
        return Err(wrong());
    }
    let mut parts = found.into_iter().map(|(_, staged)| staged);
    let whole = parts.next().ok_or_else(wrong)?;
    Ok(Ready::Parts { whole, later: parts.collect() })
}
