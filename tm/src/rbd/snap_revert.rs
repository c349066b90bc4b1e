//! `snap_revert`: a disk holds again what it held when the snapshot was made.
//!
//! ```text
//!  clone of the snapshot, under another name
//!    │ the disk has snapshots: it gets the name that says which     else: it is set aside
//!    v
//!  the clone gets the disk's name ──> what was set aside is removed
//! ```
//!
//! Nothing that the disk holds is given up before the clone is whole (W9). Between the two renames the disk is missing: a
//! guest can't start from the wrong one, and the same call run again goes on.
//!
//! A disk that was grown since goes back to the size that it had, too: oned gives it the SIZE of the snapshot when the action
//! has succeeded, and a disk that is larger than its SIZE could not be given the next one.

use super::delete::strangers_on;
use super::error::RbdError;
use super::model::{Family, Member};
use super::name::{Role, SnapshotName, Volume};
use super::place::{Removal, half_made, protected, remove_all, sweep};
use super::tool::Rbd;
use crate::host::StorageError;

pub(super) fn revert(rbd: &Rbd<'_>, disk: &Volume, id: u32) -> Result<(), StorageError> {
    let family = Family::read(rbd, disk)?;
    let holder = family.holder(id).ok_or(RbdError::NoSnapshot { volume: disk.clone(), id })?;
    let name = SnapshotName::Numbered(id);
    if let Some(current) = family.current() {
        rbd.idle(&current.volume)?;
    }
    // What goes in the end must be able to go.
    let going = family.current().filter(|current| current.numbers().is_empty());
    let going: Vec<&Member> = going.into_iter().chain(family.of(Role::Aside)).collect();
    strangers_on(rbd, &family, &going)?;
    let away = family.current().map(|current| match current.numbers().as_slice() {
        [] => disk.aside(),
        numbers => disk.renamed(numbers),
    });
    away.iter().try_for_each(|name| family.free(name))?;
    rbd.worker().at("volumes read");
    sweep(rbd, &family);
    if let Some(snapshot) = holder.snapshot(&name) {
        protected(rbd, &holder.volume, snapshot)?;
    }
    let data = family.current().unwrap_or(holder).info.data_pool.as_ref();
    let made = half_made(rbd, disk, |made| {
        rbd.clone(&format!("{}@{name}", holder.volume), made, data)?;
        rbd.worker().at("cloned");
        let parent = rbd.info(made)?.parent.map(|parent| format!("{}@{}", parent.image, parent.snapshot));
        if parent.as_deref() == Some(format!("{}@{name}", holder.volume.name()).as_str()) {
            return Ok(());
        }
        let why = format!("it stands on {parent:?}");
        Err(RbdError::Incomplete { volume: made.clone(), why }.into())
    })?;
    if let (Some(current), Some(away)) = (family.current(), away) {
        rbd.rename(&current.volume, &away)?;
        rbd.worker().at("old volume renamed");
    }
    rbd.rename(&made, disk)?;
    rbd.worker().at("volume in place");
    let family = Family::read(rbd, disk)?;
    let given_up: Vec<&Member> = family.of(Role::Aside).collect();
    remove_all(rbd, &given_up, Removal::Gone)
}
