//! `ln`: a VM gets the image itself. The volume is its disk already; what goes is the `@snap` that clones were made from,
//! or the next clone of the image would hold what the image held before this VM wrote into it.

use super::base::absent;
use super::ghost::listed;
use super::name::{SnapshotName, Volume};
use super::tool::Rbd;
use crate::host::StorageError;

pub(super) fn link(rbd: &Rbd<'_>, image: &Volume) -> Result<(), StorageError> {
    // What only leads to a volume, and is not its name, would be given up under the guest's feet.
    listed(image, &rbd.names(image.pool())?)?;
    let snapshots = rbd.snapshots(image).map_err(|error| absent(rbd, image, error))?;
    rbd.worker().at("snapshots read");
    match snapshots.iter().find(|snapshot| snapshot.name == SnapshotName::Base) {
        Some(base) => rbd.unsnap(image, base),
        None => Ok(()),
    }
}
