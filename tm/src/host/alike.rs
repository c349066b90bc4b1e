//! What takes a file's place takes its permissions and its owner, too: an admin's groups and other programs rely on them.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

use rustix::fs::{Mode, fchmod};

use super::{During, Home, StorageError};

/// Gives a new file the permissions of another one, whatever the umask says, and its owner where we may.
///
/// # Errors
/// The permissions can't be set.
pub(crate) fn make_alike(made: &File, path: &Path, model: &Metadata) -> Result<(), StorageError> {
    let found = made.metadata().during("look at", path)?;
    if (found.uid(), found.gid()) != (model.uid(), model.gid()) {
        match fchown(made, Some(model.uid()), Some(model.gid())) {
            // Only root gives files away.
            Err(e) if e.kind() != io::ErrorKind::PermissionDenied => return Err(e).during("change", path),
            _ => {}
        }
    }
    fchmod(made, Mode::from_raw_mode(model.mode() & 0o777)).during("change", path)
}

/// The same for all layers or snapshots in a directory.
///
/// # Errors
/// As [`make_alike`]; the directory can't be read.
pub(crate) fn make_all_alike(folder: &Home, model: &Metadata) -> Result<(), StorageError> {
    for name in folder.names()?.into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
        make_alike(&folder.open(&name)?, &folder.path().join(&name), model)?;
    }
    Ok(())
}
