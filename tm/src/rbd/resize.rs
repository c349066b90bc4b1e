//! `resize`: a disk grows; it never shrinks.

use super::error::RbdError;
use super::model::Family;
use super::name::Volume;
use super::place::sweep;
use super::tool::Rbd;
use crate::host::StorageError;

pub(super) fn resize(rbd: &Rbd<'_>, disk: &Volume, want: u64) -> Result<(), StorageError> {
    let family = Family::read(rbd, disk)?;
    let have = family.expect()?.info.size;
    if have > want {
        return Err(RbdError::Shrinks { volume: disk.clone(), have, want }.into());
    }
    rbd.worker().at("volumes read");
    sweep(rbd, &family);
    if have < want {
        rbd.resize(disk, want)?;
        rbd.worker().at("grown");
    }
    Ok(())
}
