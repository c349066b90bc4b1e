//! Renaming, and what is left of one that was cut off.
//!
//! To rename is three changes of the cluster:
//!
//! ```text
//!  the new name leads to the volume ──> the list has the new name instead of the old ──> the old name leads nowhere
//! ```
//!
//! Whoever is killed between two of them leaves a name that is in no list and leads to a volume all the same. No verb of
//! `rbd` takes such a name away, and none makes or renames another volume to it: it says that the name is there already.

use std::path::Path;

use super::error::{RbdError, code};
use super::name::Volume;
use super::tool::Rbd;
use crate::host::StorageError;

/// How the object is called that leads from a volume's name to the volume.
const LEADS: &str = "rbd_id.";
/// How `rados` says that an object is not there.
const NOT_THERE: &str = ": (2) ";

impl Rbd<'_> {
    /// Gives a volume another name, which no other one has. What a killed renaming left of that name is in its way no more.
    pub(crate) fn rename(&self, from: &Volume, to: &Volume) -> Result<(), StorageError> {
        match self.rename_once(from, to) {
            Err(StorageError::Rbd(error)) if error.is(code::EEXIST) && !self.is_listed(to)? => {
                self.free(to)?;
                self.rename_once(from, to)
            }
            other => other,
        }
    }

    /// Takes away a name that is in no list. Whoever is still about to give a volume that name has the volume open: he is
    /// waited for.
    pub(crate) fn free(&self, name: &Volume) -> Result<(), StorageError> {
        match self.idle(name) {
            // The volume that it led to has been removed since, under its other name.
            Err(StorageError::Rbd(error)) if error.is(code::ENOENT) => {}
            other => other?,
        }
        // Now that nobody is at it.
        if self.is_listed(name)? {
            return Ok(());
        }
        let (pool, object) = (name.pool().as_str(), format!("{LEADS}{}", name.name()));
        let words = ["--pool", pool, "rm", &object];
        match self.run(Path::new("rados"), "rados rm", &name.to_string(), &words) {
            // Unlike `rbd`, it ends with 1 whatever it was.
            Err(StorageError::Rbd(RbdError::Tool { said, .. })) if said.contains(NOT_THERE) => Ok(()),
            other => {
                other?;
                self.worker().at("name freed");
                Ok(())
            }
        }
    }

    fn is_listed(&self, volume: &Volume) -> Result<bool, StorageError> {
        Ok(self.names(volume.pool())?.iter().any(|name| name == volume.name()))
    }
}

/// Sees to it that a volume is in the list of its pool: a name that is not may lead to one that was given up.
pub(super) fn listed(volume: &Volume, names: &[String]) -> Result<(), RbdError> {
    if names.iter().any(|name| name == volume.name()) {
        return Ok(());
    }
    let family = names.iter().any(|name| volume.role(name).is_some());
    let hint = if family { super::model::UNFINISHED } else { "" };
    Err(RbdError::NoVolume { volume: volume.clone(), hint })
}
