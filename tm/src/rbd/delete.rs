//! `delete`: a VM's disk goes, with its snapshots and with the volumes that earlier reverts have left; what was gone
//! already is success (W23), for the pool was listed.
//!
//! The image's `@snap` stays. The stock driver drops it with the last clone, while another host may be about to clone it
//! (W36); `ln` removes it when it is in the way, and so does the removal of the image.

use super::error::RbdError;
use super::model::{Family, Member};
use super::name::{Role, Volume};
use super::place::{Removal, finish, remove_all};
use super::tool::Rbd;
use crate::host::StorageError;

pub(super) fn delete(rbd: &Rbd<'_>, volume: &Volume, trash: bool) -> Result<(), StorageError> {
    let family = Family::read(rbd, volume)?;
    // All looked at before any is touched: nothing goes of a disk that can't go.
    refuse_in_use(rbd, &family)?;
    rbd.worker().at("volumes read");
    let removal = if trash { Removal::Trash } else { Removal::Gone };
    if trash {
        // One that was cut off on its way there is no leftover: removed by its name it would be gone, or its snapshots be in the
        // way for ever.
        for (role, moving) in family.unfinished() {
            if matches!(role, Role::Current | Role::Renamed) {
                rbd.patiently(|| rbd.trash(moving))?;
            }
        }
    }
    finish(rbd, &family)?;
    remove_all(rbd, &family.leaves_first(true), removal)?;
    if family.current().is_none() && !family.is_gone() {
        // Of a renaming that was cut off its name may be left, and be in the way of the next disk that has it.
        rbd.free(volume)?;
    }
    Ok(())
}

/// Refuses what somebody has open, or whose snapshots somebody else has cloned.
pub(super) fn refuse_in_use(rbd: &Rbd<'_>, family: &Family) -> Result<(), StorageError> {
    if let Some(current) = family.current() {
        rbd.idle(&current.volume)?;
    }
    strangers(rbd, family)
}

/// Refuses a disk whose snapshots somebody else has cloned.
pub(super) fn strangers(rbd: &Rbd<'_>, family: &Family) -> Result<(), StorageError> {
    strangers_on(rbd, family, &family.leaves_first(true))
}

/// Refuses volumes of a disk whose snapshots somebody else has cloned.
pub(super) fn strangers_on(rbd: &Rbd<'_>, family: &Family, volumes: &[&Member]) -> Result<(), StorageError> {
    let members = family.leaves_first(true);
    let unfinished = family.unfinished().iter().map(|(_, volume)| volume);
    let ours = members.iter().map(|member| &member.volume).chain(unfinished);
    let ours: Vec<String> = ours.map(Volume::to_string).collect();
    for member in volumes {
        // Of an unprotected one, too: newer clusters clone those.
        for snapshot in &member.snapshots {
            let clones = rbd.clones(&member.volume, &snapshot.name)?;
            let others: Vec<String> = clones.into_iter().filter(|clone| !ours.contains(clone)).collect();
            if !others.is_empty() {
                let snapshot = format!("{}@{}", member.volume, snapshot.name);
                return Err(RbdError::Clones { snapshot, clones: others.join(", ") }.into());
            }
        }
    }
    Ok(())
}
