//! Disks that are volumes of a Ceph cluster (contract TM 2.2), by the tool `rbd`.
//!
//! Promises, for every call, beside those of [`host`](crate::host):
//! - **The old volume goes last.** What is to take a volume's name is made whole under another one; then the old volume
//!   gives up the name, the new one takes it, and the old one is removed. There is no rename over another in RBD: between
//!   the two renames nobody has the name, and the same call run again goes on from there.
//! - **What is open is left alone.** A volume that a guest or a tool has open is neither replaced nor removed, and of its
//!   snapshots none is; who died without a word is waited for.
//! - **Absence is proved**: by a pool that could be listed, never by one exit code.
//! - **Names are the stock driver's**, so that it can remove what is made here, and the reverse. Names of half-made things
//!   begin with the volume's and a dot, which no pattern of the stock driver finds.
//!
//! The locks of [`host`](crate::host) hold on one host. Clones of one image are made on all: what concerns an image's `@snap` is so done
//! that it may be done by several at once (W36).

mod backup;
mod base;
mod bytes;
mod clone;
mod cluster;
mod delete;
mod diff;
mod error;
#[cfg(test)]
mod fuzz;
mod ghost;
mod image;
mod increment;
mod link;
mod local;
mod make;
mod model;
mod name;
mod new;
mod place;
mod resize;
mod restore;
mod save;
mod snap_create;
mod snap_delete;
mod snap_revert;
mod tool;
mod usage;
mod whole;

use causeway_core::locks::Mode;
use causeway_core::names::VmId;
use serde::{Deserialize, Serialize};

use crate::facts::Extent;
use crate::host::{BackupPlace, Blank, Datastore, SnapshotOrder, StorageError, Worker, hold_named};
use crate::place::{VmDir, VmFile};

pub use cluster::Cluster;
pub use error::RbdError;
pub(crate) use image::perform as perform_on_image;
pub use image::{ImageCall, ImageWork, New};
pub use name::{PoolName, UserName, Volume};

use tool::Rbd;

/// MiB in bytes.
const MIB: u64 = 1 << 20;

/// One piece of work on a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RbdCall {
    /// The cluster.
    pub cluster: Cluster,
    /// Whose disk it is about.
    pub vm: VmId,
    /// What is to be done.
    pub work: RbdWork,
}

/// What can be done to volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RbdWork {
    /// Gives a VM a copy of an image: a clone of its `@snap`.
    Clone {
        /// The image.
        image: Volume,
        /// The VM's disk; whatever has the name is replaced.
        disk: Volume,
        /// The VM's directory, in which its other files will be.
        dir: VmDir,
        /// Size to grow it to, MiB; none means that of the image.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grown_mb: Option<u64>,
        /// The pool for its data (`EC_POOL_NAME`), where that is not its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data_pool: Option<PoolName>,
    },
    /// Gives a VM the image itself: the `@snap` of what it was before goes, so that nothing is cloned from it later.
    Link {
        /// The image.
        image: Volume,
        /// The VM's directory, in which its other files will be.
        dir: VmDir,
    },
    /// Makes an image of what a disk holds at one point in time.
    Save {
        /// The disk.
        disk: Volume,
        /// A snapshot of the disk; none means what it holds now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<u32>,
        /// The image, which is not there yet.
        image: Volume,
        /// The pool for its data, where that is not its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data_pool: Option<PoolName>,
    },
    /// Gives a VM on its host's own disk a file of an image's bytes.
    Fetch {
        /// The image.
        image: Volume,
        /// The VM's disk.
        file: VmFile,
        /// The image is the VM's alone, and its `@snap` goes; else it is read as its `@snap` has it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        persistent: bool,
        /// Size to grow it to, MiB; none means that of the image.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grown_mb: Option<u64>,
    },
    /// Puts such a file in the place of its image.
    TakeBack {
        /// The VM's disk.
        file: VmFile,
        /// The image.
        image: Volume,
    },
    /// Makes an image of such a file.
    SaveFile {
        /// The VM's disk.
        file: VmFile,
        /// Of the copy that was made of it while its guest ran, which goes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        copied: bool,
        /// The image, which is not there yet.
        image: Volume,
        /// The pool for its data, where that is not its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data_pool: Option<PoolName>,
    },
    /// Removes a volume with all its snapshots and all that came from them.
    Remove {
        /// The volume.
        volume: Volume,
        /// Into the trash, each whole in itself (`CEPH_TRASH`).
        trash: bool,
    },
    /// Gives a VM an empty disk.
    Make {
        /// The disk; whatever has the name is replaced.
        disk: Volume,
        /// Its size, MiB.
        size_mb: u64,
        /// What is in it.
        blank: Blank,
        /// A file of the VM: what is in the disk is made beside it first.
        beside: VmFile,
        /// The pool for its data, where that is not its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data_pool: Option<PoolName>,
    },
    /// Grows a disk.
    Resize {
        /// The disk.
        disk: Volume,
        /// Its new size, MiB.
        size_mb: u64,
    },
    /// Makes a snapshot of a disk, goes back to one, or forgets one.
    Snapshot {
        /// The disk.
        disk: Volume,
        /// What is to be done.
        order: SnapshotOrder,
        /// The snapshot.
        id: u32,
        /// A guest has the disk open, and writes it unless it was brought to rest.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        running: bool,
    },
    /// Works for a backup of a disk.
    Backup {
        /// The disk.
        disk: Volume,
        /// What the backup is to hold of it.
        extent: Extent,
        /// Which part of the work.
        part: BackupPart,
    },
    /// Works for a disk that is taken out of a backup.
    Restore {
        /// The disk; whatever has the name is replaced.
        disk: Volume,
        /// The number of the backup image.
        backup: u32,
        /// Which part of the work.
        part: RestorePart,
    },
}

/// The parts of a backup that are about one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BackupPart {
    /// Removes the snapshots of earlier backups that nothing will begin with any more.
    Ready,
    /// Makes the snapshot that is the backup.
    Snapshot {
        /// A guest has the disk open, and writes it unless it was brought to rest.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        running: bool,
    },
    /// Copies it into the directory.
    Copy {
        /// The directory.
        place: BackupPlace,
        /// What the disk's file would be called, by which that in the directory is.
        file: VmFile,
    },
    /// Removes the snapshot of this backup.
    Drop,
}

/// The parts of a restore that are about one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RestorePart {
    /// Sees to it that the disk may be replaced, before anything is fetched.
    Look,
    /// Makes a volume of what was fetched and staged, beside the disk.
    Make {
        /// The disk's name among the VM's files, beside which it was staged.
        file: VmFile,
        /// What oned says of the disk's size, MiB: it may have grown since the backup.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_mb: Option<u64>,
        /// The pool for its data, where no volume of the disk is left that says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        data_pool: Option<PoolName>,
    },
    /// Makes that volume the disk.
    Put,
    /// Removes that volume; the disk is what it was.
    Drop,
}

/// Measures a pool; the text says how full it is.
///
/// # Errors
/// It could not be asked for.
pub(crate) fn usage(
    cluster: &Cluster,
    pool: &PoolName,
    disks: bool,
    worker: &Worker<'_>,
) -> Result<String, StorageError> {
    usage::usage(&Rbd::new(cluster, worker), pool, disks)
}

/// Does it.
///
/// # Errors
/// What it failed of; it can be done again.
pub(crate) fn perform(call: &RbdCall, worker: &Worker<'_>) -> Result<(), StorageError> {
    use RbdWork::{
        Backup, Clone, Fetch, Link, Make, Remove, Resize, Restore, Save, SaveFile, Snapshot, TakeBack,
    };
    let rbd = Rbd::new(&call.cluster, worker);
    let hold = |image: Option<(&Volume, Mode)>| {
        hold_named(worker, call.vm, image.map(|(volume, mode)| (volume.to_string(), mode)))
    };
    match &call.work {
        Clone { image, disk, dir, grown_mb, data_pool } => {
            let _locks = hold(Some((image, Mode::Shared)))?;
            Datastore::prepare(dir.datastore(), worker)?;
            clone::clone(&rbd, image, disk, *grown_mb, data_pool.as_ref())
        }
        Link { image, dir } => {
            let _locks = hold(Some((image, Mode::Exclusive)))?;
            // What is made here first proves the datastore to whoever removes the VM's directory, even if no file of it
            // was ever made.
            Datastore::prepare(dir.datastore(), worker)?;
            link::link(&rbd, image)
        }
        Save { disk, snapshot, image, data_pool } => {
            let _locks = hold(Some((image, Mode::Exclusive)))?;
            save::save(&rbd, disk, *snapshot, image, data_pool.as_ref())
        }
        Fetch { image, file, persistent, grown_mb } => {
            let mode = if *persistent { Mode::Exclusive } else { Mode::Shared };
            let _locks = hold(Some((image, mode)))?;
            local::fetch(&rbd, image, file, *persistent, *grown_mb)
        }
        TakeBack { file, image } => {
            let _locks = hold(Some((image, Mode::Exclusive)))?;
            local::take_back(&rbd, file, image)
        }
        SaveFile { file, copied, image, data_pool } => {
            let _locks = hold(Some((image, Mode::Exclusive)))?;
            local::save(&rbd, file, *copied, image, data_pool.as_ref())
        }
        Remove { volume, trash } => {
            let _locks = hold(None)?;
            delete::delete(&rbd, volume, *trash)
        }
        Make { disk, size_mb, blank, beside, data_pool } => {
            let _locks = hold(None)?;
            make::make(&rbd, disk, size_mb.saturating_mul(MIB), blank, beside, data_pool.as_ref())
        }
        Resize { disk, size_mb } => {
            let _locks = hold(None)?;
            resize::resize(&rbd, disk, size_mb.saturating_mul(MIB))
        }
        Backup { disk, extent, part } => {
            let _locks = hold(None)?;
            backup::perform(&rbd, disk, *extent, part)
        }
        Restore { disk, backup, part } => {
            let _locks = hold(Some((disk, Mode::Exclusive)))?;
            restore::perform(&rbd, disk, *backup, part)
        }
        Snapshot { disk, order, id, running } => {
            let _locks = hold(None)?;
            match order {
                SnapshotOrder::Create => snap_create::create(&rbd, disk, *id, *running),
                SnapshotOrder::Revert => snap_revert::revert(&rbd, disk, *id),
                SnapshotOrder::Delete => snap_delete::delete(&rbd, disk, *id),
            }
        }
    }
}
