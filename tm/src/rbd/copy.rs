//! A whole volume of what a snapshot holds.
//!
//! `rbd copy` of a snapshot leaves out what its volume has from the image that it was cloned of, where the volume has an
//! object map: so at least version 16.2.15, and it says success. The difference of the snapshot from nothing holds it.

use super::model::Snapshot;
use super::name::{PoolName, SnapshotName, Volume};
use super::tool::Rbd;
use crate::host::{During, StorageError};

/// What is said of a reader that went away.
const BROKEN: &str = "Broken pipe";

impl Rbd<'_> {
    /// Makes a volume, which must not be there, of what a snapshot holds; it stands on nothing. What is zeros takes no room.
    pub(super) fn copy(
        &self,
        from: (&Volume, &SnapshotName),
        volume: &Volume,
        data: Option<&PoolName>,
    ) -> Result<(), StorageError> {
        let (of, snapshot) = from;
        let (from, on) = (format!("{of}@{snapshot}"), volume.to_string());
        self.create(volume, self.info_at(&from)?.size, data)?;
        self.worker().at("volume made");
        let mut taker = self.tool(self.program, "rbd import-diff", &on);
        taker.args(["import-diff", "--no-progress", "-", &on]);
        let (mut taken, deadline) = (None, self.worker().deadline);
        let given = self.stream("export-diff", &from, &["--no-progress", &from, "-"], |pipe| {
            taken = Some(taker.run_on(pipe, deadline));
            Ok(())
        });
        match (given, taken) {
            // The end that broke off is the reason.
            (Err(StorageError::Tool { said, .. }), Some(Err(error))) if said.contains(BROKEN) => {
                return Err(error);
            }
            (given, taken) => {
                given?.during("copy", &from)?;
                taken.transpose()?;
            }
        }
        self.worker().at("bytes copied");
        // The difference brings it along.
        self.unsnap(volume, &Snapshot { name: snapshot.clone(), protected: false })
    }
}
