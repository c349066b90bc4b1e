//! Putting a new volume in the place of an old one, and removing what is left of volumes.

use super::error::RbdError;
use super::model::{Family, Member, Parent, Snapshot};
use super::name::{GIVEN_UP, Role, SnapshotName, Volume};
use super::tool::Rbd;
use crate::host::StorageError;

/// What becomes of volumes that are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    Gone,
    /// Into the trash, each whole in itself and with its snapshots.
    Trash,
}

/// Removes volumes, each before the one that it stands on; what has something open is waited for.
pub(super) fn remove_all(rbd: &Rbd<'_>, members: &[&Member], removal: Removal) -> Result<(), StorageError> {
    for member in members {
        let volume = &member.volume;
        // Nothing half-made and nothing that was given up is worth keeping.
        let keep = removal == Removal::Trash && matches!(member.role, Role::Current | Role::Renamed);
        if keep {
            make_whole(rbd, member)?;
            rbd.patiently(|| rbd.trash(volume))?;
        } else {
            give_up(rbd, member)?;
            member
                .snapshots
                .iter()
                .try_for_each(|snapshot| rbd.patiently(|| rbd.unsnap(volume, snapshot)))?;
            rbd.patiently(|| rbd.remove(volume))?;
        }
        if member.twin {
            // The other one of that name, which the tool finds only now.
            rbd.patiently(|| rbd.remove(volume))?;
        }
        rbd.worker().at("volume removed");
    }
    Ok(())
}

/// Sees to it that a volume, with its snapshots, needs nothing else: in the trash it would hold up its image for ever (W24).
fn make_whole(rbd: &Rbd<'_>, member: &Member) -> Result<(), StorageError> {
    let volume = &member.volume;
    if member.info.parent.is_some() {
        rbd.flatten(volume)?;
        rbd.worker().at("volume made whole");
    }
    for snapshot in &member.snapshots {
        let on = format!("{volume}@{}", snapshot.name);
        let own = matches!(snapshot.name, SnapshotName::Own(_));
        // Without the feature `deep-flatten` only the volume is made whole, and its snapshots stand where they stood.
        let parent = if own { None } else { rbd.info_at(&on)?.parent };
        if let Some(Parent { pool, image, snapshot, .. }) = &parent {
            tracing::warn!(
                "{on} does not go to the trash with its volume: without deep-flatten it would hold up \
                 {pool}/{image}@{snapshot}"
            );
            give_up(rbd, member)?;
        }
        if own || parent.is_some() {
            rbd.patiently(|| rbd.unsnap(volume, snapshot))?;
        }
    }
    Ok(())
}

/// Marks a volume whose snapshots show whose it is, before the last of them goes.
pub(super) fn give_up(rbd: &Rbd<'_>, member: &Member) -> Result<(), StorageError> {
    if member.role == Role::Renamed && !member.numbers().is_empty() {
        rbd.set_mark(&member.volume, GIVEN_UP, "yes")?;
        rbd.worker().at("volume marked");
    }
    Ok(())
}

/// Ends what killed removals have begun: of a volume there may be no more than a name in the pool's list, while the
/// snapshot that it stood on is held by it still.
pub(super) fn finish(rbd: &Rbd<'_>, family: &Family) -> Result<(), StorageError> {
    for (_, volume) in family.unfinished() {
        rbd.patiently(|| rbd.remove(volume))?;
        rbd.worker().at("removal finished");
    }
    Ok(())
}

/// Removes what killed calls left half-made, as far as nobody holds it any more: the cluster may take a dead client for a
/// living one, and what stays is removed by the next call.
pub(super) fn sweep(rbd: &Rbd<'_>, family: &Family) {
    for (role, volume) in family.unfinished() {
        // What is half-made is in nobody's way.
        let removed = match role {
            Role::HalfMade => rbd.remove(volume),
            _ => rbd.patiently(|| rbd.remove(volume)),
        };
        match removed {
            Ok(()) => rbd.worker().at("removal finished"),
            Err(error) => tracing::debug!(%volume, %error, "left for the next call"),
        }
    }
    for member in family.of(Role::HalfMade) {
        match discard(rbd, &member.volume, &member.snapshots) {
            Ok(()) => rbd.worker().at("leftover removed"),
            Err(error) => tracing::debug!(volume = %member.volume, %error, "left for the next call"),
        }
    }
    for member in family.of(Role::Current) {
        for snapshot in member.snapshots.iter().filter(|s| matches!(s.name, SnapshotName::Own(_))) {
            if let Err(error) = rbd.unsnap(&member.volume, snapshot) {
                tracing::debug!(volume = %member.volume, %error, "left for the next call");
            }
        }
    }
}

/// Removes a volume that nobody needs, with its snapshots: one made of a backup came with them.
fn discard(rbd: &Rbd<'_>, volume: &Volume, snapshots: &[Snapshot]) -> Result<(), StorageError> {
    snapshots.iter().try_for_each(|snapshot| rbd.unsnap(volume, snapshot))?;
    rbd.remove(volume)
}

/// Removes what calls left half-made days ago that were killed and never run again: of an image that never was nobody
/// speaks any more.
pub(super) fn sweep_strays(rbd: &Rbd<'_>, family: &Family) {
    for volume in family.strays() {
        match rbd.remove(volume) {
            Ok(()) => rbd.worker().at("stray removed"),
            // Open: it is no stray.
            Err(error) => tracing::debug!(%volume, %error, "left as it is"),
        }
    }
}

/// Makes a volume under a name of its own, and removes it again if that fails.
pub(super) fn half_made(
    rbd: &Rbd<'_>,
    volume: &Volume,
    make: impl FnOnce(&Volume) -> Result<(), StorageError>,
) -> Result<Volume, StorageError> {
    let made = volume.half_made();
    match make(&made) {
        Ok(()) => Ok(made),
        Err(error) => {
            // The failure is what is told; what can't be removed now is removed by the next call.
            let _ = rbd.remove(&made).or_else(|_| discard(rbd, &made, &rbd.snapshots(&made)?));
            Err(error)
        }
    }
}

/// Whether a new volume is what was asked for: where it comes from, and its size, bytes.
pub(super) fn check(
    rbd: &Rbd<'_>,
    made: &Volume,
    parent: Option<(&Volume, &SnapshotName)>,
    size: u64,
) -> Result<(), StorageError> {
    let info = rbd.info(made)?;
    let wrong = |why: String| Err(RbdError::Incomplete { volume: made.clone(), why }.into());
    if info.size != size {
        return wrong(format!("{} bytes where {size} were wanted", info.size));
    }
    let found = info.parent.map(|parent| format!("{}/{}@{}", parent.pool, parent.image, parent.snapshot));
    let wanted = parent.map(|(volume, snapshot)| format!("{volume}@{snapshot}"));
    if found != wanted {
        return wrong(format!("it stands on {found:?} where {wanted:?} was wanted"));
    }
    Ok(())
}

/// Gives a new volume its name in place of whatever has it, and removes all that there was: for a disk that begins anew.
///
/// ```text
///  disk ──> disk.causeway-old     new ──> disk     remove the old family, leaves first
/// ```
pub(super) fn replace(
    rbd: &Rbd<'_>,
    family: &Family,
    made: &Volume,
    volume: &Volume,
) -> Result<(), StorageError> {
    if let Some(old) = family.current() {
        rbd.rename(&old.volume, &volume.aside())?;
        rbd.worker().at("old volume aside");
    }
    rbd.rename(made, volume)?;
    rbd.worker().at("volume in place");
    let old =
        [Role::Current, Role::Renamed, Role::Aside].iter().any(|role| family.of(*role).next().is_some());
    if old {
        // Read again: names have changed.
        let family = Family::read(rbd, volume)?;
        remove_all(rbd, &family.leaves_first(false), Removal::Gone)?;
    }
    Ok(())
}

/// Protects a snapshot that a clone is to stand on.
pub(super) fn protected(rbd: &Rbd<'_>, volume: &Volume, snapshot: &Snapshot) -> Result<(), StorageError> {
    if !snapshot.protected {
        rbd.protect(volume, &snapshot.name)?;
        rbd.worker().at("snapshot protected");
    }
    Ok(())
}
