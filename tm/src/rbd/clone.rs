//! `clone`: a VM's own copy of an image, as a clone of the image's `@snap`.
//!
//! A volume that has the name already is what a prolog that failed has left, or an earlier disk of that number: it is
//! replaced, never taken for the new disk (W11), unless somebody has it open.

use super::MIB;
use super::error::{RbdError, code};
use super::ghost::listed;
use super::model::{Family, HALF_REMOVED};
use super::name::{PoolName, SnapshotName, Volume};
use super::place::{check, half_made, replace, sweep};
use super::tool::Rbd;
use crate::host::StorageError;

/// How often `@snap` is made anew when another host removes it under us.
const TRIES: u32 = 5;

pub(super) fn clone(
    rbd: &Rbd<'_>,
    image: &Volume,
    disk: &Volume,
    grown_mb: Option<u64>,
    data: Option<&PoolName>,
) -> Result<(), StorageError> {
    let names = rbd.names(image.pool())?;
    let source = source(rbd, image, &names)?;
    let size = grown_mb.map_or(source, |size_mb| size_mb.saturating_mul(MIB));
    if size < source {
        return Err(RbdError::Shrinks { volume: image.clone(), have: source, want: size }.into());
    }
    let family = match image.pool() == disk.pool() {
        true => Family::among(rbd, disk, names)?,
        false => Family::read(rbd, disk)?,
    };
    if let Some(old) = family.current() {
        rbd.idle(&old.volume)?;
    }
    rbd.worker().at("volumes read");
    sweep(rbd, &family);
    let made = half_made(rbd, disk, |made| {
        stand_on_base(rbd, image, made, data)?;
        rbd.worker().at("cloned");
        if size > source {
            rbd.resize(made, size)?;
            rbd.worker().at("grown");
        }
        check(rbd, made, Some((image, &SnapshotName::Base)), size)
    })?;
    replace(rbd, &family, &made, disk)
}

/// The image's size, bytes; `names` are those of its pool.
pub(super) fn source(rbd: &Rbd<'_>, image: &Volume, names: &[String]) -> Result<u64, StorageError> {
    listed(image, names)?;
    let info = rbd.info(image).map_err(|error| absent(rbd, image, error))?;
    if info.format == 2 {
        return Ok(info.size);
    }
    let why =
        format!("it is of format {}, which can't be cloned; copy it to a volume of format 2", info.format);
    Err(RbdError::Volumes { volume: image.clone(), why }.into())
}

/// Says whether it is the pool or the volume that is not there.
pub(super) fn absent(rbd: &Rbd<'_>, volume: &Volume, error: StorageError) -> StorageError {
    match error {
        StorageError::Rbd(found) if found.is(code::ENOENT) => match rbd.names(volume.pool()) {
            Ok(names) => listed(volume, &names).map_or_else(StorageError::from, |()| {
                RbdError::NoVolume { volume: volume.clone(), hint: HALF_REMOVED }.into()
            }),
            Err(error) => error,
        },
        other => other,
    }
}

/// Clones an image's `@snap`.
fn stand_on_base(
    rbd: &Rbd<'_>,
    image: &Volume,
    made: &Volume,
    data: Option<&PoolName>,
) -> Result<(), StorageError> {
    let tried = std::cell::Cell::new(false);
    from_base(rbd, image, |from| {
        if tried.replace(true) {
            rbd.remove(made)?;
        }
        rbd.clone(from, made, data)
    })
}

/// Makes something of an image's `@snap`, which is made and protected first if need be. Others may be doing the same on other hosts,
/// and a stock driver may remove it when its last clone goes: whatever of it is missing is made again (W36).
pub(super) fn from_base(
    rbd: &Rbd<'_>,
    image: &Volume,
    make: impl Fn(&str) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let base = SnapshotName::Base;
    let from = format!("{image}@{base}");
    let mut tries = 0;
    loop {
        let snapshots = rbd.snapshots(image)?;
        let found = snapshots.iter().find(|snapshot| snapshot.name == base);
        if found.is_none() {
            rbd.snap(image, &base)?;
            rbd.worker().at("base made");
        }
        if !found.is_some_and(|snapshot| snapshot.protected) {
            let protected = rbd.protect(image, &base);
            match protected {
                Err(StorageError::Rbd(error)) if error.is(code::ENOENT) && tries < TRIES => {
                    tries += 1;
                    continue;
                }
                other => other?,
            }
            rbd.worker().at("base protected");
        }
        match make(&from) {
            Err(StorageError::Rbd(error))
                if tries < TRIES && (error.is(code::ENOENT) || error.is(code::EINVAL)) =>
            {
                tries += 1;
            }
            other => return other,
        }
    }
}
