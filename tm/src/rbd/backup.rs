//! `prebackup`: what a disk held at one moment goes into a file that a backup datastore's driver fetches (contract TM 2.3).
//!
//! ```text
//! whole       @one_backup ──> raw ──> disk.N.0                             the snapshot goes
//! first       @one_backup_0 ──> raw ──> disk.N.0                           it stays, protected
//! next        @one_backup_2 ── what has changed since @one_backup_1 ──> disk.N.2        both stay
//! ```
//!
//! The snapshot that an increment began with stays when the increment has been made: it has not arrived yet. The next
//! backup removes it, which is told by `LAST_INCREMENT_ID` what has arrived (W13). An increment that did not arrive is
//! made again with the same beginning.

use super::BackupPart;
use super::error::RbdError;
use super::increment;
use super::model::{Family, Snapshot};
use super::name::{SnapshotName, Volume};
use super::place::{protected, sweep};
use super::tool::Rbd;
use crate::facts::Extent;
use crate::host::{BackupDisk, BackupPlace, During, StorageError, backup_folder, check_backup, raw_to_qcow2};

pub(super) fn perform(
    rbd: &Rbd<'_>,
    disk: &Volume,
    extent: Extent,
    part: &BackupPart,
) -> Result<(), StorageError> {
    match part {
        BackupPart::Ready => ready(rbd, disk, extent),
        BackupPart::Snapshot { running } => snapshot(rbd, disk, extent, *running),
        BackupPart::Copy { place, file } => {
            let file =
                BackupDisk { file: file.clone(), kept: crate::host::Kept::Beside, qcow2: false, extent };
            copy(rbd, disk, place, &file)
        }
        BackupPart::Drop => forget(rbd, disk, |name| *name == own(extent)),
    }
}

/// The snapshot of this backup.
fn own(extent: Extent) -> SnapshotName {
    match extent {
        Extent::Full => SnapshotName::Backup(None),
        Extent::First | Extent::Since(_) => SnapshotName::Backup(Some(extent.increment())),
    }
}

/// The snapshot that it begins with.
fn base(extent: Extent) -> Option<SnapshotName> {
    match extent {
        Extent::Full | Extent::First => None,
        Extent::Since(last) => Some(SnapshotName::Backup(Some(last))),
    }
}

/// Removes the snapshots of earlier backups, but for the one that this one begins with, which must be there.
fn ready(rbd: &Rbd<'_>, disk: &Volume, extent: Extent) -> Result<(), StorageError> {
    let family = Family::read(rbd, disk)?;
    let (current, base) = (family.expect()?, base(extent));
    if let Some(missing) = base.as_ref().filter(|base| current.snapshot(base).is_none()) {
        let why = format!(
            "it has no snapshot {missing}, which would tell what has changed since the last increment: begin a new \
             chain, by `onevm backup --reset`"
        );
        return Err(RbdError::Volumes { volume: current.volume.clone(), why }.into());
    }
    rbd.worker().at("volumes read");
    sweep(rbd, &family);
    let old = |name: &SnapshotName| matches!(name, SnapshotName::Backup(_)) && Some(name) != base.as_ref();
    forget_those(rbd, &current.volume, &current.snapshots, old)
}

fn forget(rbd: &Rbd<'_>, disk: &Volume, which: impl Fn(&SnapshotName) -> bool) -> Result<(), StorageError> {
    let snapshots = rbd.snapshots(disk)?;
    rbd.worker().at("snapshots read");
    forget_those(rbd, disk, &snapshots, which)
}

fn forget_those(
    rbd: &Rbd<'_>,
    volume: &Volume,
    snapshots: &[Snapshot],
    which: impl Fn(&SnapshotName) -> bool,
) -> Result<(), StorageError> {
    let going = snapshots.iter().filter(|snapshot| which(&snapshot.name));
    going.into_iter().try_for_each(|snapshot| rbd.unsnap(volume, snapshot))
}

fn snapshot(rbd: &Rbd<'_>, disk: &Volume, extent: Extent, running: bool) -> Result<(), StorageError> {
    if !running {
        rbd.idle(disk)?;
    }
    let name = own(extent);
    // Made by a call whose end nobody learnt of, at another moment than the other disks' of this one.
    forget(rbd, disk, |there| *there == name)?;
    rbd.snap(disk, &name)?;
    rbd.worker().at("snapshot made");
    if extent == Extent::Full {
        return Ok(());
    }
    protected(rbd, disk, &Snapshot { name, protected: false })
}

fn copy(rbd: &Rbd<'_>, disk: &Volume, place: &BackupPlace, file: &BackupDisk) -> Result<(), StorageError> {
    let (worker, name) = (rbd.worker(), own(file.extent));
    let from = format!("{disk}@{name}");
    let size = rbd.info_at(&from)?.size;
    let (folder, result) = (backup_folder(place)?, file.result());
    folder.sweep(&result)?;
    worker.at("leftovers removed");
    let made = folder.temporary(&result);
    match base(file.extent) {
        Some(base) => increment::copy(rbd, disk, (&base, &name), &made)?,
        None => {
            let raw = folder.temporary(format!("{result}.raw"));
            rbd.export(&from, &raw.path())?;
            worker.at("exported");
            let found = raw.path().metadata().during("look at", raw.path())?.len();
            if found != size {
                let why = format!("{found} of {size} bytes");
                return Err(StorageError::Incomplete { path: raw.path(), why });
            }
            raw_to_qcow2(&raw, size, &made, worker)?;
        }
    }
    check_backup(&made.path(), size)?;
    made.publish(result.as_str())?;
    worker.at("copy in place");
    folder.sync()
}
