//! `snap_delete`: a snapshot goes, wherever earlier reverts have left it. Of a volume that is the disk no more the name says
//! which snapshots it holds, so it is renamed with each of them, and goes with the last.

use super::model::{Family, Member};
use super::name::{Role, SnapshotName, Volume};
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
            if holder.numbers() == [id] {
                give_up(rbd, holder)?;
            }
            rbd.unsnap(&holder.volume, snapshot)?;
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
