//! A copy of what a snapshot holds, which needs nothing else.
//!
//! `rbd copy` of a snapshot of a clone leaves out what the clone has from its parent, without a word, where the cluster keeps
//! maps of objects, as it does by default (seen with version 16.2.15). Of a clone itself it copies all. So:
//!
//! ```text
//!  snapshot of a volume that stands on nothing ──> copy
//!  snapshot of a clone ──> clone of it, for this call only ──> copy; the clone goes
//! ```

use super::error::RbdError;
use super::model::Snapshot;
use super::name::{PoolName, SnapshotName, Volume};
use super::place::protected;
use super::tool::Rbd;
use crate::host::StorageError;

/// Makes `made` of a snapshot. `between` is a name for the clone, of something half-made: what a killed call leaves of it is
/// swept with that.
pub(super) fn copy(
    rbd: &Rbd<'_>,
    (volume, snapshot): (&Volume, &Snapshot),
    between: &Volume,
    made: &Volume,
    data: Option<&PoolName>,
) -> Result<(), StorageError> {
    let from = format!("{volume}@{}", snapshot.name);
    if rbd.info_at(&from)?.parent.is_none() {
        rbd.copy(&from, made, data)?;
        rbd.worker().at("copied");
        return Ok(());
    }
    protected(rbd, volume, snapshot)?;
    let copied = rbd.clone(&from, between, None).and_then(|()| {
        rbd.worker().at("cloned");
        rbd.copy(&between.to_string(), made, data)?;
        rbd.worker().at("copied");
        // Whoever removed it meanwhile, for something left over, has left holes in the copy.
        let still = rbd.info(between)?.parent;
        if still.is_some_and(|parent| format!("{}/{}@{}", parent.pool, parent.image, parent.snapshot) == from)
        {
            return Ok(());
        }
        let why = format!("{between}, which it was copied from, has changed meanwhile");
        Err(RbdError::Incomplete { volume: made.clone(), why }.into())
    });
    let removed = rbd.remove(between);
    copied.and(removed)?;
    rbd.worker().at("clone removed");
    Ok(())
}

impl Rbd<'_> {
    /// Removes a snapshot that a copy was made of, and that was protected for it or not.
    pub(super) fn unsnap_any(&self, volume: &Volume, name: &SnapshotName) -> Result<(), StorageError> {
        let found = self.snapshots(volume)?.into_iter().find(|snapshot| snapshot.name == *name);
        found.map_or(Ok(()), |snapshot| self.unsnap(volume, &snapshot))
    }
}
