//! One lock per object: a file that nobody but root can open, locked as long as the action lasts. The kernel frees it
//! when its holder dies.
//!
//! Order, so that no two actions wait for each other: first the VM, then its bridges by name.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long to pause between two tries. Holders keep a lock for a few milliseconds.
const PAUSE: Duration = Duration::from_millis(1);

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else kept it.
    #[error("{name} is in use by another action and was not free in time")]
    Busy {
        /// The object.
        name: String,
    },
    /// The file could not be made or locked.
    #[error("lock {}", path.display())]
    File {
        /// The lock file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// A held lock; dropping it frees it.
#[derive(Debug)]
pub struct Lock {
    // Open as long as the lock is held.
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Locks the object `name`, which must be a file name, waiting until `deadline`.
    ///
    /// # Errors
    /// [`LockError::Busy`] when the deadline passes.
    pub fn take(dir: &Path, name: &str, deadline: Instant) -> Result<Self, LockError> {
        loop {
            if let Some(lock) = Lock::attempt(dir, name)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(LockError::Busy { name: name.to_owned() });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Locks the object if nobody else has it.
    ///
    /// # Errors
    /// [`LockError::File`].
    pub fn attempt(dir: &Path, name: &str) -> Result<Option<Self>, LockError> {
        let path = dir.join(name);
        let failed = |source| LockError::File { path: path.clone(), source };
        // A holder may take the file away; what counts is a lock on the file that bears the name now.
        for _ in 0..64 {
            let file = open(dir, &path).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(failed(errno.into())),
            }
            if is_current(&file, &path).map_err(failed)? {
                return Ok(Some(Lock { _file: file, path }));
            }
        }
        Ok(None)
    }
}

impl Drop for Lock {
    /// Takes the file away, so that none outlives its object. The name goes while the lock is held: whoever waits for
    /// this file finds out when it has it. A file that stays after a death does no harm.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(dir: &Path, path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(nofollow());
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            options.open(path)
        }
        other => other,
    }
}

fn nofollow() -> i32 {
    // The flag's value is far below the sign bit on every architecture of Linux.
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

fn is_current(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn one_holder_at_a_time_though_files_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let inside = AtomicU32::new(0);
        let deadline = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (dir, inside) = (dir.path().join("locks"), &inside);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let lock = Lock::take(&dir, "bridge-br0", deadline).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }

    #[test]
    fn a_held_lock_is_busy_at_its_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let held = Lock::attempt(dir.path(), "vm-1").unwrap().unwrap();
        assert!(Lock::attempt(dir.path(), "vm-1").unwrap().is_none());
        let error = Lock::take(dir.path(), "vm-1", Instant::now()).unwrap_err();
        assert!(error.to_string().starts_with("vm-1 is in use"), "{error}");
        drop(held);
        assert!(Lock::attempt(dir.path(), "vm-1").unwrap().is_some());
    }

    #[test]
    fn a_link_planted_under_the_name_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("vm-1")).unwrap();
        assert!(Lock::attempt(dir.path(), "vm-1").is_err());
    }
}
