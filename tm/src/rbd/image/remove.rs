//! `rm` of an image that oned knows no `SOURCE` of: its `cp` failed, or nobody learnt of its end.

use super::super::model::Family;
use super::super::name::{Role, Volume};
use super::super::place::sweep;
use super::super::tool::Rbd;
use super::{MARK, delete, mark_of};
use crate::host::StorageError;

/// Removes the volume that was made for that registration, and what was half-made; a volume that only has the name stays:
/// it may be why the `cp` failed.
pub(super) fn remove_made_for(
    rbd: &Rbd<'_>,
    image: &Volume,
    registered: u64,
    trash: bool,
) -> Result<(), StorageError> {
    let family = Family::read(rbd, image)?;
    rbd.worker().at("volumes read");
    if let Some(there) = family.current()
        && rbd.mark(&there.volume, MARK)?.is_some_and(|mark| mark == mark_of(image, registered))
    {
        return delete::delete(rbd, image, trash);
    }
    if family.of(Role::HalfMade).next().is_some() || !family.unfinished().is_empty() {
        sweep(rbd, &family);
    }
    Ok(())
}
