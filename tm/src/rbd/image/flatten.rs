//! `snap_flatten`: an image holds again what it held when a snapshot was made, and all its snapshots go.
//!
//! ```text
//!  clone of the snapshot under another name ──> made whole ──> mark ──> takes the image's name
//!    ──> all that there was is removed, leaves first ──> the mark goes
//! ```
//!
//! The mark says which snapshot of which volume it was made of: a call that is run again, when that snapshot may have gone
//! already, removes what is left and nothing that it should not.

use super::super::error::RbdError;
use super::super::model::{Family, Member};
use super::super::name::{SnapshotName, Volume};
use super::super::place::{Removal, check, finish, half_made, protected, remove_all, replace, sweep};
use super::super::tool::Rbd;
use super::delete;
use crate::host::StorageError;

/// Under this name an image says that it takes the place of what it was made of.
const FLATTENED: &str = "causeway.flattened";

pub(super) fn flatten(rbd: &Rbd<'_>, image: &Volume, id: u32) -> Result<(), StorageError> {
    let family = Family::read(rbd, image)?;
    let mark = |holder: &Member| format!("{image} from snapshot {id} of {}", holder.info.id);
    let found = match family.current() {
        Some(current) => rbd.mark(&current.volume, FLATTENED)?,
        None => None,
    };
    let holder = family.holder(id);
    let swapped = match (&found, holder) {
        (Some(found), Some(holder)) => *found == mark(holder),
        (Some(found), None) => found.starts_with(&format!("{image} from snapshot {id} of ")),
        (None, _) => false,
    };
    if !swapped {
        let holder = holder.ok_or(RbdError::NoSnapshot { volume: image.clone(), id })?;
        // All looked at before any is touched.
        delete::refuse_in_use(rbd, &family)?;
        rbd.worker().at("volumes read");
        sweep(rbd, &family);
        let made = made_of(rbd, image, holder, id, &mark(holder))?;
        replace(rbd, &family, &made, image)?;
    } else {
        rbd.worker().at("volumes read");
        finish(rbd, &family)?;
        remove_all(rbd, &family.leaves_first(false), Removal::Gone)?;
    }
    rbd.worker().at("snapshots gone");
    rbd.unmark(image, FLATTENED)
}

/// A volume that holds what the snapshot does, and stands on nothing.
fn made_of(
    rbd: &Rbd<'_>,
    image: &Volume,
    holder: &Member,
    id: u32,
    mark: &str,
) -> Result<Volume, StorageError> {
    let name = SnapshotName::Numbered(id);
    if let Some(snapshot) = holder.snapshot(&name) {
        protected(rbd, &holder.volume, snapshot)?;
    }
    half_made(rbd, image, |made| {
        rbd.clone(&format!("{}@{name}", holder.volume), made, holder.info.data_pool.as_ref())?;
        rbd.worker().at("cloned");
        let size = rbd.info(made)?.size;
        rbd.flatten(made)?;
        rbd.worker().at("volume made whole");
        check(rbd, made, None, size)?;
        rbd.set_mark(made, FLATTENED, mark)?;
        rbd.worker().at("marked");
        Ok(())
    })
}
