//! Copying a directory: files with their holes, links as they are, directories; through no link.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, openat, readlinkat, statat, symlinkat};

use super::super::{During, StorageError, Worker, copy_data};

/// Deepest tree that is copied: as for removal.
const DEPTH: usize = 32;

/// Copies what is in `from` into `to`, to the disk. `path` is for messages.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    path: &Path,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    entries(from, to, path, DEPTH, worker)
}

fn entries(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    path: &Path,
    depth: usize,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    if depth == 0 {
        return Err(StorageError::Deep { path: path.to_owned() });
    }
    let mut reader = Dir::read_from(from).during("read", path)?;
    while let Some(found) = reader.read() {
        let found = found.during("read", path)?;
        let name = found.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let path = path.join(String::from_utf8_lossy(name).as_ref());
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).during("look at", &path)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => file(from, to, name, &path, worker)?,
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new()).during("look at", &path)?;
                symlinkat(target, to, name).during("copy", &path)?;
            }
            FileType::Directory => {
                mkdirat(to, name, Mode::from_raw_mode(stat.st_mode & 0o777)).during("copy", &path)?;
                let (inner, copied) = (directory(from, name, &path)?, directory(to, name, &path)?);
                entries(inner.as_fd(), copied.as_fd(), &path, depth - 1, worker)?;
            }
            // The socket of a backup or of a monitor that nobody listens on any more.
            FileType::Socket | FileType::Fifo => {}
            _ => return Err(StorageError::NotAFile { path }),
        }
        worker.at("entry copied");
    }
    rustix::fs::fsync(to).or_else(unless_unsupported).during("write out", path)
}

fn unless_unsupported(error: rustix::io::Errno) -> Result<(), rustix::io::Errno> {
    use rustix::io::Errno;
    if matches!(error, Errno::INVAL | Errno::NOTSUP) { Ok(()) } else { Err(error) }
}

fn file(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &[u8],
    path: &Path,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = File::from(openat(from, name, flags | OFlags::RDONLY, Mode::empty()).during("open", path)?);
    let found = source.metadata().during("look at", path)?;
    let mode = Mode::from_raw_mode(found.mode() & 0o777);
    let flags = flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let copy = File::from(openat(to, name, flags, mode).during("copy", path)?);
    copy_data((path, &source), &copy, found.len(), worker).during("copy", path)?;
    copy.sync_all().during("write out", path)
}

fn directory(parent: BorrowedFd<'_>, name: &[u8], path: &Path) -> Result<OwnedFd, StorageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).during("open", path)
}
