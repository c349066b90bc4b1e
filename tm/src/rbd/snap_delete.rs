//! `snap_delete`: a snapshot goes, wherever earlier reverts have left it. Of a volume that is the disk no more the name says
//! which snapshots it holds, so it is renamed with each of them, and goes with the last.

use super::error::code;
use super::model::{Family, Member, Snapshot};
use super::name::{GIVEN_UP, Role, SnapshotName, Volume};
use super::place::{Removal, give_up, remove_all, sweep};
use super::tool::Rbd;
use crate::host::StorageError;

pub(super) fn delete(rbd: &Rbd<'_>, disk: &Volume, id: u32) -> Result<(), StorageError> {
    let family = Family::read(rbd, disk)?;
    // A snapshot that is nowhere is gone only if its disk is there.
    let current = family.expect()?;
    rbd.worker().at("volumes read");
    // First: what is left of a killed removal may stand on the snapshot.
    sweep(rbd, &family);
    // Also of a guest that runs: its own volume is only rid of the snapshot.
    let holder = family.holder(id);
    if let Some(holder) = holder {
        let name = SnapshotName::Numbered(id);
        if let Some(snapshot) = holder.snapshot(&name) {
            forget(rbd, holder, snapshot)?;
        }
    }
    let tidy = holder.is_some_and(|holder| holder.volume != current.volume);
    // Renamed as it should have been by a call that was killed, too.
    let wrong = |member: &Member| disk.renamed(&member.numbers()) != member.volume;
    if tidy || family.of(Role::Renamed).any(wrong) || family.of(Role::Aside).next().is_some() {
        return put_in_order(rbd, disk);
    }
    Ok(())
}

/// Removes a snapshot that oned counts. Without its last one a volume that is the disk no more is found by a mark only, which
/// must be there before; but not if the snapshot stays.
fn forget(rbd: &Rbd<'_>, holder: &Member, snapshot: &Snapshot) -> Result<(), StorageError> {
    // What others stand on the cluster refuses here, when nothing is marked yet.
    rbd.unprotect(&holder.volume, snapshot)?;
    let last = holder.numbers().len() == 1;
    if last {
        give_up(rbd, holder)?;
    }
    let free = Snapshot { protected: false, ..snapshot.clone() };
    rbd.unsnap(&holder.volume, &free).inspect_err(|error| {
        // Somebody has protected it again. Of any other failure nobody knows whether the snapshot has gone.
        if last && matches!(error, StorageError::Rbd(error) if error.is(code::EBUSY)) {
            let _ = rbd.unmark(&holder.volume, GIVEN_UP);
        }
    })
}

/// Gives every volume that was the disk once the name that goes with its snapshots, and removes those without any. Where
/// somebody else's volume has that name, the old one still tells of all snapshots.
fn put_in_order(rbd: &Rbd<'_>, disk: &Volume) -> Result<(), StorageError> {
    let family = Family::read(rbd, disk)?;
    for member in family.of(Role::Renamed) {
        let numbers = member.numbers();
        let name = disk.renamed(&numbers);
        if numbers.is_empty() {
            remove_all(rbd, &[member], Removal::Gone)?;
        } else if name != member.volume && family.free(&name).is_ok() {
            rbd.rename(&member.volume, &name)?;
            rbd.worker().at("volume renamed");
        }
    }
    let given_up: Vec<&Member> = family.of(Role::Aside).collect();
    remove_all(rbd, &given_up, Removal::Gone)
}
