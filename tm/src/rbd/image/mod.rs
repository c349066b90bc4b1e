//! Images that are volumes: what `datastore/ceph` does with them (contract TM 3).
//!
//! Promises beside those of [`rbd`](super):
//! - **An image gets its name when it is whole** (W30), and says from then on by a mark which registration it was made
//!   for: a call that is run again finds its own image, and any other volume of the name is refused, never replaced.
//! - **Nothing lies in `STAGING_DIR` after a call**, however it ended (W26): files there have no name.
//! - **An image that is open, or has clones, keeps everything**; the refusal names them.

mod bytes;
mod copy;
mod flatten;
mod import;
mod make;
mod remove;
mod tarball;
mod unpack;

use std::io::Read;
use std::path::PathBuf;

use causeway_core::locks::Mode;
use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::error::RbdError;
use super::model::Family;
use super::name::{PoolName, Role, Volume};
use super::place::{check, half_made, sweep};
use super::save::MARK;
use super::tool::Rbd;
use super::{MIB, delete, snap_delete, snap_revert};
use crate::host::{Blank, Exported, ImageOrder, Origin, StorageError, Worker, hold_images};

/// One piece of work on an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageCall {
    /// The cluster.
    pub cluster: Cluster,
    /// The image.
    pub image: Volume,
    /// What is to be done.
    pub work: ImageWork,
}

/// What can be done to an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageWork {
    /// Makes it of what a user names (`cp`). Prints its format.
    Import {
        /// What it is made of.
        origin: Origin,
        /// Whether a packed image is unpacked. An archive of volumes, as backups are, always is.
        unpack: bool,
        /// A directory for what has no name yet (`STAGING_DIR`).
        staging: PathBuf,
        /// When it was registered.
        #[serde(flatten)]
        new: New,
    },
    /// Makes it of another one (`clone`). Prints its format.
    Copy {
        /// The other one.
        original: Volume,
        /// When it was registered.
        #[serde(flatten)]
        new: New,
    },
    /// Makes it empty (`mkfs`).
    Make {
        /// Its size, MiB.
        size_mb: u64,
        /// What is in it.
        blank: Blank,
        /// A directory for what has no name yet (`STAGING_DIR`).
        staging: PathBuf,
        /// When it was registered.
        #[serde(flatten)]
        new: New,
    },
    /// Removes it with its snapshots (`rm`).
    Remove {
        /// Into the trash, whole in itself (`CEPH_TRASH`).
        trash: bool,
        /// `REGTIME`: only what was made for that registration, of which oned knows no `SOURCE`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        registered: Option<u64>,
    },
    /// Adds its bytes up (`export`). Prints [`Exported`] as JSON.
    Sum,
    /// Goes back to one of its snapshots, or forgets one or all.
    Snapshot {
        /// What is to be done.
        order: ImageOrder,
        /// The snapshot.
        id: u32,
    },
}

/// What is said of every new image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct New {
    /// `REGTIME`, seconds since 1970.
    pub registered: u64,
    /// The pool for its data (`EC_POOL_NAME`), where that is not its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_pool: Option<PoolName>,
}

/// The format of every image in a cluster, for oned.
const FORMAT: &str = "raw";

/// Does it; what it prints. `stream` is what another machine sends.
///
/// # Errors
/// What it failed of; it can be done again.
pub(crate) fn perform(
    call: &ImageCall,
    stream: Option<&mut dyn Read>,
    worker: &Worker<'_>,
) -> Result<String, StorageError> {
    use ImageWork::{Copy, Import, Make, Remove, Snapshot, Sum};
    let rbd = Rbd::new(&call.cluster, worker);
    let image = &call.image;
    let quiet = |done: Result<(), StorageError>| done.map(|()| String::new());
    let made = |done: Result<(), StorageError>| done.map(|()| FORMAT.to_owned());
    if let Copy { original, new } = &call.work {
        if original == image {
            let why = "it would become a copy of itself".to_owned();
            return Err(RbdError::Volumes { volume: image.clone(), why }.into());
        }
        // The original's first, always: nobody waits for an original who holds a new image.
        let _locks = hold_images(worker, &[(original, Mode::Shared), (image, Mode::Exclusive)])?;
        return made(copy::copy(&rbd, original, image, new));
    }
    let mode = if call.work == Sum { Mode::Shared } else { Mode::Exclusive };
    let _locks = hold_images(worker, &[(image, mode)])?;
    match &call.work {
        Import { origin, unpack, staging, new } => {
            let upload = import::Sent { origin, unpack: *unpack, staging, stream };
            made(import::import(&rbd, image, upload, new))
        }
        Make { size_mb, blank, staging, new } => {
            quiet(make::make(&rbd, image, size_mb.saturating_mul(MIB), (blank, staging), new))
        }
        Remove { trash, registered: None } => quiet(delete::delete(&rbd, image, *trash)),
        Remove { trash, registered: Some(registered) } => {
            quiet(remove::remove_made_for(&rbd, image, *registered, *trash))
        }
        Snapshot { order, id } => quiet(match order {
            ImageOrder::Delete => snap_delete::delete(&rbd, image, *id),
            ImageOrder::Revert => snap_revert::revert(&rbd, image, *id),
            ImageOrder::Flatten => flatten::flatten(&rbd, image, *id),
        }),
        Sum | Copy { .. } => {
            let told = Exported {
                name: image.to_string(),
                md5: rbd.md5(image)?,
                format: FORMAT.to_owned(),
                dispose: false,
            };
            let wrong =
                |e: serde_json::Error| RbdError::Volumes { volume: image.clone(), why: e.to_string() };
            Ok(format!("exported {}", serde_json::to_string(&told).map_err(wrong)?))
        }
    }
}

/// What an image that was made for a registration says of itself.
fn mark_of(image: &Volume, registered: u64) -> String {
    format!("{image} registered at {registered}")
}

/// Whether a new image is there already, made by a call that came to its end. What a killed one left is removed.
///
/// # Errors
/// [`RbdError::Taken`]: the name is another volume's.
fn is_made(rbd: &Rbd<'_>, image: &Volume, new: &New) -> Result<bool, StorageError> {
    let family = Family::read(rbd, image)?;
    if let Some(there) = family.current() {
        if rbd.mark(&there.volume, MARK)?.is_some_and(|mark| mark == mark_of(image, new.registered)) {
            sweep(rbd, &family);
            return Ok(true);
        }
        return Err(RbdError::Taken { volume: image.clone() }.into());
    }
    if family.of(Role::Renamed).chain(family.of(Role::Aside)).next().is_some() {
        return Err(RbdError::Taken { volume: image.clone() }.into());
    }
    rbd.worker().at("volumes read");
    sweep(rbd, &family);
    Ok(false)
}

/// Makes a new image under another name, and gives it its own when it is whole; `size`, bytes, is compared where it is
/// known.
fn new_image(
    rbd: &Rbd<'_>,
    image: &Volume,
    new: &New,
    size: Option<u64>,
    make: impl FnOnce(&Volume) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let made = half_made(rbd, image, |made| {
        make(made)?;
        rbd.worker().at("volume made");
        if let Some(size) = size {
            check(rbd, made, None, size)?;
        }
        rbd.set_mark(made, MARK, &mark_of(image, new.registered))?;
        rbd.worker().at("marked");
        rbd.rename(made, image)
    });
    made?;
    rbd.worker().at("image in place");
    Ok(())
}
