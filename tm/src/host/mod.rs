//! What a worker does on a host: blocking, in a child that can be killed at any instant.
//!
//! Promises, for every call:
//! - **Killed anywhere, run again, same end.** New files are made beside under a name that begins with
//!   [`TEMPORARY`](crate::place::TEMPORARY), brought to the disk, compared, then renamed; the next call for the same
//!   file removes what a killed one left.
//! - **Nothing is written through a link** that stands under a final name, and nothing is removed through one.
//! - **Nothing is removed in a datastore that may not be there**: an absent file is success only where the datastore
//!   was proved present.
//! - **One call at a time** for a VM and for an image's snapshot directory on this host, by file locks that die with
//!   the process: the VM's first, then the image's.
//!
//! A child of the worker (`qemu-img`) stays in the worker's process group: whoever ends a worker kills the group.

use std::path::Path;
use std::time::Instant;

use causeway_core::answer::{Failure, Kind};
use causeway_core::locks::Mode;
use causeway_core::protocol::Severity;

mod alike;
mod backup;
mod call;
mod confine;
mod context;
mod copy;
mod datastore;
mod delete;
mod error;
mod give_back;
mod home;
mod idle;
mod image;
mod lend;
mod live;
mod lock;
mod make;
mod meter;
mod mount;
mod move_dir;
mod remove;
mod resize;
mod restore;
mod save;
mod scratch;
mod snapshot;
mod take_back;
mod tool;

pub(crate) use alike::{make_alike, make_all_alike};
pub use backup::{BackupCall, BackupDisk, BackupPlace};
pub(crate) use backup::{check as check_backup, checkpoint, open_folder as backup_folder};
pub use call::{Blank, Call, CopyKind, CopyOf, Kept, Layout, LivePart, SnapshotOrder};
pub use confine::{RUNTIME_DIR, prefix, runtime_dir};
pub(crate) use datastore::raw_to_qcow2;
pub use datastore::{
    Checksum, DatastoreCall, Dirs, DiskSizes, Exported, Fetch, ImageOrder, Origin, Stored, VmSizes, receive,
    send,
};
pub(crate) use datastore::{Upload, compare, expect_qcow2, is_encrypted, kind, pour};
pub use error::StorageError;
pub use idle::Idle;
pub(crate) use live::{copy_name as live_copy, copy_path};
pub use meter::Copying;
pub use restore::{RestoreCall, RestoreDisk, Staged};
pub(crate) use restore::{qcow2_to_raw, staged};
pub(crate) use snapshot::not_in_use;

pub(crate) use copy::{copy_data, next_data, same_data};
pub(crate) use error::{During, while_copying, while_growing};
pub(crate) use home::{Datastore, Home, Temporary};
pub(crate) use image::{CHAIN_LIMIT, ImageFile, Inside, too_long};
pub(crate) use lock::{hold, hold_named, images as hold_images};
pub(crate) use make::{fill, format};
pub(crate) use meter::Meter;
pub(crate) use move_dir::{ORIGIN, make_relative, retire};
pub(crate) use remove::remove;
pub(crate) use resize::expect_room;
pub(crate) use scratch::Scratch;
pub(crate) use tool::{Tool, without_log};

use image::Reading;

use crate::place::{Image, VmFile};
use crate::rbd;
use crate::store::{file, qcow2};

/// What a worker works with.
pub struct Worker<'a> {
    /// A directory of this host, writable by us, for the lock files and for notes of mounts. Made if it is missing.
    pub locks: &'a Path,
    /// The `qemu-img` program.
    pub qemu_img: &'a Path,
    /// When to give up. Whoever started the worker kills it soon after.
    pub deadline: Instant,
    /// How much of this host's disks copies may take.
    pub copying: Copying<'a>,
    /// Called between any two effects with the name of the point reached; kill tests end the process there.
    pub between: &'a dyn Fn(&'static str),
}

impl<'a> Worker<'a> {
    /// One that copies as fast as it can.
    pub fn new(locks: &'a Path, deadline: Instant) -> Self {
        Worker {
            locks,
            qemu_img: Path::new("qemu-img"),
            deadline,
            copying: Copying::default(),
            between: &|_| {},
        }
    }

    /// Passes a point between two effects.
    pub(crate) fn at(&self, point: &'static str) {
        tracing::trace!(point);
        (self.between)(point);
    }
}

/// Performs one call; the text is what the slot prints on success.
///
/// `inputs` are the bytes that travel beside the call, in the order in which its step names them.
///
/// # Errors
/// A [`StorageError`] as a [`Failure`]; the call can be repeated.
pub fn perform(call: &Call, inputs: &[Vec<u8>], worker: &Worker<'_>) -> Result<String, Failure> {
    use Mode::{Exclusive, Shared};
    let done = match call {
        Call::CloneImage { image, file, copy, grown_mb, sparse, local } => {
            let size = Size { grown_mb: *grown_mb, sparse: *sparse };
            let reading = if *copy == CopyKind::Flat { Reading::Bytes } else { Reading::Newest };
            let give_to = Recipient { file, local: *local };
            give(image, &give_to, Shared, reading, worker, |image, home| match copy {
                CopyKind::Flat => file::copy(image, home, file.name(), size, worker),
                CopyKind::Overlay { options } => {
                    qcow2::copy(image, home, file.name(), size, Some(options), worker)
                }
                CopyKind::Standalone => qcow2::copy(image, home, file.name(), size, None, worker),
            })
        }
        Call::LinkImage { image, file, layout: Layout::Image } => {
            give(image, &Recipient::of(file), Shared, Reading::Bytes, worker, |image, home| {
                file::link(&image.place().path(), home, file.name(), worker)
            })
        }
        Call::LinkImage { image, file, layout: Layout::Chain } => {
            give(image, &Recipient::of(file), Exclusive, Reading::Chain, worker, |image, home| {
                file::link(&qcow2::newest(image, &file.path(), worker)?, home, file.name(), worker)
            })
        }
        Call::LendImage { image, file, layout } => lend::lend(image, file, *layout, worker),
        Call::TakeBack { file, image, layout } => take_back::take_back(file, image, *layout, worker),
        Call::GiveBack { file, image } => give_back::give_back(file, image, worker),
        Call::MoveDir { from, to } => move_dir::move_dir(from, to, worker),
        Call::MakeImage { file, size_mb, qcow2, blank, local } => {
            let to = Recipient { file, local: *local };
            make::make(&to, *size_mb, *qcow2, blank, worker)
        }
        Call::Resize { file, kept, qcow2, size_mb, sparse } => {
            let size = Size { grown_mb: Some(*size_mb), sparse: *sparse };
            resize::resize(file, kept, *qcow2, size, worker)
        }
        Call::ReadChain { file, kept } => return live::read(file, kept).map_err(Failure::from),
        Call::Live { file, kept, part } => live::perform(file, kept, part, worker),
        Call::SaveDisk { file, kept, qcow2, snapshot, image } => {
            let disk = save::Disk { file, kept, qcow2: *qcow2, snapshot: *snapshot };
            save::save(&disk, image, worker)
        }
        Call::Snapshot { file, kept, chain, order, id } => {
            snapshot::perform(file, kept, *chain, *order, *id, worker)
        }
        Call::Restore(call) => restore::perform(call, worker),
        Call::Backup(call) => backup::perform(call, inputs, worker),
        Call::DeleteFile { file } => delete::file(file, worker),
        Call::DeleteDir { dir, keep } => delete::dir(dir, keep.as_ref(), worker),
        Call::BuildContext { file, names, local } => {
            context::build(&Recipient { file, local: *local }, names, inputs, worker)
        }
        Call::Rbd(call) => rbd::perform(call, worker),
        Call::PoolUsage { cluster, pool, disks } => {
            return rbd::usage(cluster, pool, *disks, worker).map_err(Failure::from);
        }
        Call::Datastore(call) => return datastore::perform(call, worker).map_err(Failure::from),
        Call::Nothing { .. } => Ok(()),
        Call::Tell { text } => {
            (worker.copying.log)(Severity::Warning, text);
            Ok(())
        }
        Call::Mounted(order) => return mount::mounted(order, inputs, worker),
        Call::Confined(confined) => {
            let text = format!(
                "what {} allows takes a process of its own",
                confined.limits.told(&confined.limits.names())
            );
            return Err(Failure::new(Kind::Bug, text));
        }
        Call::CarryDir(carry) => {
            let text = format!("{} cannot be carried to {} without a session", carry.from, carry.to);
            return Err(Failure::new(Kind::Bug, text));
        }
    };
    done.map(|()| String::new()).map_err(Failure::from)
}

/// How large a copy is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// MiB; none means that of the image.
    pub grown_mb: Option<u64>,
    /// Whether what is added takes no room until it is written.
    pub sparse: bool,
}

/// Who is given a disk.
struct Recipient<'a> {
    file: &'a VmFile,
    local: bool,
}

impl<'a> Recipient<'a> {
    /// In a datastore that every host sees.
    fn of(file: &'a VmFile) -> Self {
        Recipient { file, local: false }
    }

    /// The VM's directory, made if it is missing.
    fn home(&self, worker: &Worker<'_>) -> Result<Home, StorageError> {
        let ensure = if self.local { Home::ensure_local } else { Home::ensure };
        ensure(self.file.dir(), worker)
    }
}

/// Opens an image and the VM's directory, both locked, for whoever makes the one from the other.
fn give(
    image: &Image,
    to: &Recipient<'_>,
    mode: Mode,
    reading: Reading,
    worker: &Worker<'_>,
    make: impl FnOnce(&ImageFile, &Home) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let file = to.file;
    let _locks = lock::hold(worker, file.dir().vm(), Some((image, mode)))?;
    // Before anything is made: an image that cannot be used leaves no trace.
    let image = ImageFile::open(image, reading)?;
    worker.at("image opened");
    let home = to.home(worker)?;
    snapshot::disk_not_in_use(&home, file.name())?;
    home.sweep(file.name())?;
    worker.at("leftovers removed");
    home.or_gone(make(&image, &home))
}
