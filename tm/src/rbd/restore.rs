//! `restore`: what was fetched of a backup becomes a VM's disk (contract TM 2.3).
//!
//! ```text
//! look    is the disk open? then nothing is fetched
//! make    staged qcow2 ──> raw ──> disk.causeway-tmp. ── compare ── grow ── mark ──> disk.new.00000013
//! put     disk ──> disk.old.00000013     disk.new.00000013 ──> disk     the old one goes, with its snapshots
//! drop    disk.new.00000013 goes; disk.old.00000013 gets its name back if nothing has it
//! ```
//!
//! A call that is cut off between the two renames leaves both volumes whole and nobody with the name; `put` and a
//! restore that begins anew go on from there, and `drop` goes back (W27).

use std::fs::File;

use super::MIB;
use super::RestorePart;
use super::delete::refuse_in_use;
use super::error::RbdError;
use super::model::{Family, Member};
use super::name::{FROM_BACKUP, GIVEN_UP, PoolName, Role, Volume};
use super::place::{Removal, check, finish, half_made, remove_all, sweep};
use super::tool::Rbd;
use crate::host::{Datastore, During, StorageError, qcow2_to_raw, staged};
use crate::place::VmFile;

pub(super) fn perform(
    rbd: &Rbd<'_>,
    disk: &Volume,
    backup: u32,
    part: &RestorePart,
) -> Result<(), StorageError> {
    match part {
        RestorePart::Look => refuse_in_use(rbd, &Family::read(rbd, disk)?),
        RestorePart::Make { file, size_mb, data_pool } => {
            make(rbd, disk, backup, file, *size_mb, data_pool.as_ref())
        }
        RestorePart::Put => put(rbd, disk, backup),
        RestorePart::Drop => drop_made(rbd, disk, backup),
    }
}

fn make(
    rbd: &Rbd<'_>,
    disk: &Volume,
    backup: u32,
    file: &VmFile,
    size_mb: Option<u64>,
    data: Option<&PoolName>,
) -> Result<(), StorageError> {
    let worker = rbd.worker();
    let home = Datastore::open(file.dir().datastore())?.home(file.dir())?;
    let home = home.ok_or_else(|| StorageError::NoDisk { path: file.path() })?;
    let family = Family::read(rbd, disk)?;
    refuse_in_use(rbd, &family)?;
    [disk.restored(backup), disk.replaced(backup)].iter().try_for_each(|name| family.free(name))?;
    worker.at("volumes read");
    sweep(rbd, &family);
    let raw = home.temporary(format!("{}.raw", file.name()));
    home.sweep_but(file.name(), &staged(file.name()))?;
    worker.at("leftovers removed");
    let size = qcow2_to_raw(&home, &staged(file.name()), &raw, worker)?;
    let bytes = File::open(raw.path()).during("open", raw.path())?;
    let there = [Role::Current, Role::Aside].iter().find_map(|role| family.of(*role).next());
    let data = there.map_or(data, |member: &Member| member.info.data_pool.as_ref());
    let made = half_made(rbd, disk, |made| {
        rbd.import(&raw.path(), made, data)?;
        worker.at("volume made");
        check(rbd, made, None, size)?;
        rbd.compare(made, &bytes, &raw.path())?;
        if let Some(wanted) = size_mb.map(|mb| mb.saturating_mul(MIB)).filter(|wanted| *wanted > size) {
            rbd.resize(made, wanted)?;
            worker.at("grown");
        }
        rbd.set_mark(made, FROM_BACKUP, &backup.to_string())?;
        worker.at("marked");
        // Of an earlier try.
        rbd.patiently(|| rbd.remove(&disk.restored(backup)))?;
        rbd.rename(made, &disk.restored(backup))
    })?;
    tracing::debug!(%made, %disk, "restored beside the disk");
    worker.at("volume whole");
    Ok(())
}

fn put(rbd: &Rbd<'_>, disk: &Volume, backup: u32) -> Result<(), StorageError> {
    let family = Family::read(rbd, disk)?;
    let (made, old) = (disk.restored(backup), disk.replaced(backup));
    refuse_in_use(rbd, &family)?;
    rbd.worker().at("volumes read");
    finish(rbd, &family)?;
    if family.of(Role::HalfMade).any(|member| member.volume == made) {
        if let Some(current) = family.current() {
            // One that a restore from the same backup has left, which had come to its end but for that.
            let left: Vec<&Member> = family.of(Role::Aside).filter(|member| member.volume == old).collect();
            remove_all(rbd, &left, Removal::Gone)?;
            rbd.set_mark(&current.volume, GIVEN_UP, "yes")?;
            rbd.worker().at("old volume marked");
            rbd.rename(&current.volume, &old)?;
            rbd.worker().at("old volume aside");
        }
        rbd.rename(&made, disk)?;
        rbd.worker().at("volume in place");
    } else if !is_restored(rbd, &family, backup)? {
        return Err(RbdError::NoVolume { volume: made, hint: "" }.into());
    }
    // Read again: names have changed.
    let family = Family::read(rbd, disk)?;
    remove_all(rbd, &family.leaves_first(false), Removal::Gone)
}

/// Whether the disk is what was made of the backup: by a call whose end nobody learnt of.
fn is_restored(rbd: &Rbd<'_>, family: &Family, backup: u32) -> Result<bool, StorageError> {
    let Some(current) = family.current() else { return Ok(false) };
    Ok(rbd.mark(&current.volume, FROM_BACKUP)?.as_deref() == Some(backup.to_string().as_str()))
}

fn drop_made(rbd: &Rbd<'_>, disk: &Volume, backup: u32) -> Result<(), StorageError> {
    let family = Family::read(rbd, disk)?;
    rbd.worker().at("volumes read");
    finish(rbd, &family)?;
    let old = disk.replaced(backup);
    if family.current().is_none() && family.of(Role::Aside).any(|member| member.volume == old) {
        rbd.rename(&old, disk)?;
        rbd.worker().at("old volume back");
        rbd.unmark(disk, GIVEN_UP)?;
    }
    let made = family.of(Role::HalfMade).filter(|member| member.volume == disk.restored(backup));
    remove_all(rbd, &made.collect::<Vec<_>>(), Removal::Gone)
}
