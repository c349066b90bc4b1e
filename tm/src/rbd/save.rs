//! `cpds`: an image is made of what a disk holds, at one point in time (W12).
//!
//! ```text
//!  snapshot of the disk ──> copy under another name ──> mark ──> rename to the image ──> remove the snapshot
//! ```
//!
//! The mark says what the image was made of: a call that is run again after it was done finds its own image, and any other
//! volume of that name is refused.

use super::error::RbdError;
use super::model::Family;
use super::name::{PoolName, Role, SnapshotName, Volume};
use super::place::{check, half_made, sweep, sweep_strays};
use super::tool::Rbd;
use crate::host::StorageError;

/// Under this name a volume says what it was made of, itself included: a copy of it has the mark too.
pub(super) const MARK: &str = "causeway.saved";

/// The volumes of an image that is to be made; none if it was made already by a call with that mark.
///
/// # Errors
/// Another volume has the name.
pub(super) fn saved(rbd: &Rbd<'_>, image: &Volume, mark: &str) -> Result<Option<Family>, StorageError> {
    let target = Family::read(rbd, image)?;
    if let Some(there) = target.current() {
        if rbd.mark(&there.volume, MARK)?.as_deref() == Some(mark) {
            return Ok(None);
        }
        return Err(RbdError::Taken { volume: image.clone() }.into());
    }
    if target.of(Role::Renamed).next().is_some() {
        return Err(RbdError::Taken { volume: image.clone() }.into());
    }
    Ok(Some(target))
}

pub(super) fn save(
    rbd: &Rbd<'_>,
    disk: &Volume,
    snapshot: Option<u32>,
    image: &Volume,
    data: Option<&PoolName>,
) -> Result<(), StorageError> {
    let family = Family::read(rbd, disk)?;
    sweep(rbd, &family);
    rbd.worker().at("volumes read");
    let what = snapshot.map_or_else(|| "now".to_owned(), |id| id.to_string());
    let mark = format!("{image} from {disk}@{what}");
    let Some(target) = saved(rbd, image, &mark)? else { return Ok(()) };
    sweep(rbd, &target);
    sweep_strays(rbd, &target);
    let ((from, name), size, own) = match snapshot {
        Some(id) => {
            let holder = family.holder(id).ok_or(RbdError::NoSnapshot { volume: disk.clone(), id })?;
            ((&holder.volume, SnapshotName::Numbered(id)), None, false)
        }
        None => {
            let current = family.expect()?;
            let own = SnapshotName::own();
            rbd.snap(&current.volume, &own)?;
            rbd.worker().at("snapshot made");
            ((&current.volume, own), Some(current.info.size), true)
        }
    };
    let made = half_made(rbd, image, |made| {
        rbd.copy((from, &name), made, data)?;
        rbd.worker().at("copied");
        if let Some(size) = size {
            check(rbd, made, None, size)?;
        }
        rbd.set_mark(made, MARK, &mark)?;
        rbd.worker().at("marked");
        rbd.rename(made, image)?;
        rbd.worker().at("image in place");
        Ok(())
    });
    if own {
        let snapshot = super::model::Snapshot { name, protected: false };
        let removed = rbd.unsnap(from, &snapshot);
        if made.is_ok() {
            removed?;
        }
    }
    made.map(drop)
}
