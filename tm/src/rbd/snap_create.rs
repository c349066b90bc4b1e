//! `snap_create`, `snap_create_live`: a disk gets a snapshot, protected as the stock driver leaves it. The cluster makes it of
//! one moment, whoever writes.

use super::error::RbdError;
use super::model::{Family, Snapshot};
use super::name::{SnapshotName, Volume};
use super::place::{protected, sweep};
use super::tool::Rbd;
use crate::host::StorageError;

pub(super) fn create(rbd: &Rbd<'_>, disk: &Volume, id: u32, running: bool) -> Result<(), StorageError> {
    let family = Family::read(rbd, disk)?;
    let current = family.expect()?;
    let name = SnapshotName::Numbered(id);
    if let Some(holder) = family.holder(id).filter(|holder| holder.volume != current.volume) {
        let why = format!("it holds a snapshot {id} of {disk} already");
        return Err(RbdError::Volumes { volume: holder.volume.clone(), why }.into());
    }
    if !running {
        rbd.idle(&current.volume)?;
    }
    rbd.worker().at("volumes read");
    sweep(rbd, &family);
    if let Some(there) = current.snapshot(&name) {
        // Made by a call that did not come to its end; oned gives no number twice.
        return protected(rbd, &current.volume, there);
    }
    rbd.snap(&current.volume, &name)?;
    rbd.worker().at("snapshot made");
    let made = Snapshot { name, protected: false };
    protected(rbd, &current.volume, &made).inspect_err(|_| {
        // oned will not know of it.
        let _ = rbd.unsnap(&current.volume, &made);
    })
}
