//! `clone`: a VM's own copy of an image, as a clone of the image's `@snap`.
//!
//! A volume that has the name already is what a prolog that failed has left, or an earlier disk of that number: it is
//! replaced, never taken for the new disk (W11), unless somebody has it open.

use super::MIB;
use super::base::Base;
use super::delete::refuse_in_use;
use super::error::RbdError;
use super::model::Family;
use super::name::{PoolName, SnapshotName, Volume};
use super::place::{check, half_made, replace, sweep};
use super::tool::Rbd;
use crate::host::StorageError;

pub(super) fn clone(
    rbd: &Rbd<'_>,
    image: &Volume,
    disk: &Volume,
    grown_mb: Option<u64>,
    data: Option<&PoolName>,
) -> Result<(), StorageError> {
    let names = rbd.names(image.pool())?;
    let base = Base::read(rbd, image, &names)?;
    let have = base.size;
    if have == 0 {
        // The cluster makes no clone of it, and says no more than "invalid argument".
        let why = "it, or its @snap, is empty (0 bytes): nothing can be cloned from it".to_owned();
        return Err(RbdError::Volumes { volume: image.clone(), why }.into());
    }
    let size = grown_mb.map_or(have, |size_mb| size_mb.saturating_mul(MIB));
    if size < have {
        return Err(RbdError::Shrinks { volume: image.clone(), have, want: size }.into());
    }
    let family = match image.pool() == disk.pool() {
        true => Family::among(rbd, disk, names)?,
        false => Family::read(rbd, disk)?,
    };
    // Before anything changes: what can't go can't be replaced.
    refuse_in_use(rbd, &family)?;
    rbd.worker().at("volumes read");
    sweep(rbd, &family);
    let made = half_made(rbd, disk, |made| {
        stand_on_base(rbd, image, base, made, data)?;
        rbd.worker().at("cloned");
        if size > have {
            rbd.resize(made, size)?;
            rbd.worker().at("grown");
        }
        check(rbd, made, Some((image, &SnapshotName::Base)), size)
    })?;
    replace(rbd, &family, &made, disk)
}

/// Clones an image's `@snap`.
fn stand_on_base(
    rbd: &Rbd<'_>,
    image: &Volume,
    base: Base,
    made: &Volume,
    data: Option<&PoolName>,
) -> Result<(), StorageError> {
    let tried = std::cell::Cell::new(false);
    base.make(rbd, image, |from| {
        if tried.replace(true) {
            rbd.remove(made)?;
        }
        rbd.clone(from, made, data)
    })
}
