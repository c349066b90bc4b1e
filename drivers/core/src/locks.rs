//! Locks of one host for things that have numbers: each is one byte of one file, locked by an open file description
//! (`F_OFD_SETLK`, fcntl(2)).
//!
//! They end with the process that holds them, however it ends. A file for each lock would have to be made and removed
//! with it, and waiters would have to find out that theirs has gone; under a thousand actions at once, making and
//! removing files was also most of their cost. The file must lie on the host itself, never on a datastore.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;

/// Whom else a lock lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Others that share it.
    Shared,
    /// Nobody.
    Exclusive,
}

/// The locks of one kind of thing.
#[derive(Debug, Clone)]
pub struct Locks {
    path: PathBuf,
}

/// A lock that is held; dropping it frees it.
#[derive(Debug)]
pub struct Held {
    // In no other hands: two locks on one description would be one.
    file: File,
    number: u64,
}

impl Drop for Held {
    /// Told, and not left to the file's end: a child that is just being started has it too, until it begins its program.
    fn drop(&mut self) {
        if let Ok(region) = region(libc::F_UNLCK, self.number) {
            let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&region));
        }
    }
}

impl Locks {
    /// Locks in the file `path`, which is made, with its directory, when the first is taken.
    pub fn new(path: PathBuf) -> Self {
        Locks { path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the lock of the thing with that number, or gives `None` if others hold it. The lowest 62 bits of the number count.
    ///
    /// # Errors
    /// The file can't be made, or its file system has no such locks.
    pub fn attempt(&self, number: u64, mode: Mode) -> io::Result<Option<Held>> {
        let file = self.open()?;
        let kind = match mode {
            Mode::Shared => libc::F_RDLCK,
            Mode::Exclusive => libc::F_WRLCK,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&region(kind, number)?)) {
            Ok(_) => Ok(Some(Held { file, number })),
            Err(Errno::EAGAIN | Errno::EACCES | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        match (options.open(&self.path), self.path.parent()) {
            (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
                options.open(&self.path)
            }
            (result, _) => result,
        }
    }
}

/// Whether anybody else holds a lock on one of these bytes of a file (`F_OFD_GETLK`). QEMU tells so that it has an image
/// open.
///
/// # Errors
/// The file system has no such locks.
pub fn held_by_others(file: &File, bytes: std::ops::Range<u64>) -> io::Result<bool> {
    let length = bytes.end.saturating_sub(bytes.start);
    let mut wanted = libc::flock {
        l_len: length.try_into().map_err(io::Error::other)?,
        ..region(libc::F_WRLCK, bytes.start)?
    };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut wanted))?;
    Ok(libc::c_int::from(wanted.l_type) != libc::F_UNLCK)
}

/// The byte of a thing. One may be locked that the file does not have.
fn region(kind: libc::c_int, number: u64) -> io::Result<libc::flock> {
    Ok(libc::flock {
        l_type: kind.try_into().map_err(io::Error::other)?,
        l_whence: libc::SEEK_SET.try_into().map_err(io::Error::other)?,
        l_start: (number & (u64::MAX >> 2)).try_into().map_err(io::Error::other)?,
        l_len: 1,
        l_pid: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use Mode::{Exclusive, Shared};

    #[test]
    fn what_others_hold_is_seen_and_our_own_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::new(dir.path().join("image"));
        let seven = locks.attempt(7, Shared).unwrap().unwrap();
        let file = File::open(locks.path()).unwrap();
        assert!(held_by_others(&file, 0..100).unwrap());
        assert!(!held_by_others(&file, 0..7).unwrap());
        assert!(!held_by_others(&file, 8..100).unwrap());
        assert!(!held_by_others(&seven.file, 0..100).unwrap());
        drop(seven);
        assert!(!held_by_others(&file, 0..100).unwrap());
    }

    #[test]
    fn each_number_is_a_lock_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::new(dir.path().join("not/yet/there"));
        let seven = locks.attempt(7, Exclusive).unwrap().unwrap();
        assert!(locks.attempt(7, Exclusive).unwrap().is_none());
        assert!(locks.attempt(7, Shared).unwrap().is_none());
        for other in [0, 6, 8, u64::MAX] {
            assert!(locks.attempt(other, Exclusive).unwrap().is_some(), "{other}");
        }
        drop(seven);
        assert!(locks.attempt(7, Exclusive).unwrap().is_some());
        let readers =
            [locks.attempt(9, Shared).unwrap().unwrap(), locks.attempt(9, Shared).unwrap().unwrap()];
        assert!(locks.attempt(9, Exclusive).unwrap().is_none());
        drop(readers);
        assert!(locks.attempt(9, Exclusive).unwrap().is_some());
        assert_eq!(fs::metadata(locks.path()).unwrap().len(), 0);
    }

    #[test]
    fn a_lock_ends_with_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let locks = Locks::new(dir.path().join("vms"));
        let held = locks.attempt(7, Exclusive).unwrap().unwrap();
        // A child that lives on does not inherit it.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        drop(held);
        assert!(locks.attempt(7, Exclusive).unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_link_planted_under_the_name_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vms");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(Locks::new(path).attempt(7, Exclusive).is_err());
    }
}
