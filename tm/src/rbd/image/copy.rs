//! `clone`: an image made of what another one holds at one moment.
//!
//! ```text
//!  snapshot of the original ──> copy under another name ──> mark ──> rename to the image ──> remove the snapshot
//! ```
//!
//! The copy is whole and needs the original no more. The snapshot is called after the new image: clones of one original on
//! several hosts have one each.

use super::super::error::RbdError;
use super::super::model::{Family, Snapshot};
use super::super::name::{SnapshotName, Volume};
use super::super::tool::Rbd;
use super::{New, is_made, new_image};
use crate::host::StorageError;

pub(super) fn copy(rbd: &Rbd<'_>, original: &Volume, image: &Volume, new: &New) -> Result<(), StorageError> {
    let done = is_made(rbd, image, new)?;
    let family = match Family::read(rbd, original) {
        // What the copy was made of may have gone since.
        Ok(family) if done && family.current().is_none() => return Ok(()),
        other => other?,
    };
    let current = family.expect()?;
    let name = SnapshotName::for_copy(image);
    if let Some(left) = current.snapshot(&name) {
        // A killed call's: what it holds is of that time.
        rbd.unsnap(&current.volume, left)?;
    }
    if done {
        return Ok(());
    }
    rbd.snap(&current.volume, &name)?;
    rbd.worker().at("snapshot made");
    let made = new_image(rbd, image, new, Some(current.info.size), |made| {
        rbd.copy((&current.volume, &name), made, new.data_pool.as_ref())?;
        rbd.worker().at("copied");
        // Had somebody removed it meanwhile, the copy would have holes.
        if rbd.snapshots(&current.volume)?.iter().any(|snapshot| snapshot.name == name) {
            return Ok(());
        }
        let why = format!("{original}@{name}, which it was copied from, has been removed meanwhile");
        Err(RbdError::Incomplete { volume: made.clone(), why }.into())
    });
    let removed = rbd.unsnap(&current.volume, &Snapshot { name, protected: false });
    made.and(removed)
}
