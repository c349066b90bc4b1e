//! Removing a tree: never through a link, never into another file system.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatxAttributes, StatxFlags, openat, statx, unlinkat};
use rustix::io::Errno;

use super::{During, StorageError};

/// Deepest tree that is removed. The deepest that a VM directory holds is a TPM's state, four levels.
const DEPTH: usize = 32;

/// Removes an entry of a directory and all below it; nothing there is success. `path` is for messages.
///
/// # Errors
/// What could not be removed; the rest of its directory may still be there.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &str, path: &Path) -> Result<(), StorageError> {
    entry(dir, name.as_bytes(), path, DEPTH)
}

/// Removes what is in a directory, but not the directory.
///
/// # Errors
/// As for [`remove`].
pub(crate) fn empty(dir: BorrowedFd<'_>, path: &Path) -> Result<(), StorageError> {
    entries(dir, path, DEPTH)
}

fn entry(dir: BorrowedFd<'_>, name: &[u8], path: &Path, depth: usize) -> Result<(), StorageError> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // A directory. Some file systems say that it is not permitted, as they do of a file that can't be changed.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e).during("remove", path),
    }
    if depth == 0 {
        return Err(StorageError::Deep { path: path.to_owned() });
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = match openat(dir, name, flags, Mode::empty()) {
        Ok(inner) => inner,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(Errno::PERM).during("remove", path),
        Err(e) => return Err(e).during("open", path),
    };
    let found = statx(&inner, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).during("look at", path)?;
    if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(StorageError::Mounted { path: path.to_owned() });
    }
    entries(inner.as_fd(), path, depth - 1)?;
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e).during("remove", path),
    }
}

fn entries(dir: BorrowedFd<'_>, path: &Path, depth: usize) -> Result<(), StorageError> {
    // All names first: an entry removed while a directory is being read may make the reader skip another.
    let mut names = Vec::new();
    let mut reader = Dir::read_from(dir).during("read", path)?;
    while let Some(found) = reader.read() {
        let name = found.during("read", path)?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names
        .iter()
        .try_for_each(|name| entry(dir, name, &path.join(String::from_utf8_lossy(name).as_ref()), depth))
}
