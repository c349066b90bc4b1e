//! One exchange of a VM at a time on a host, whichever process carries it.
//!
//! A resident that lost its driver goes on with what must not be cut short, beside the next driver's resident; a
//! delegated one works beside the kept one. The engine takes "the guest is not here" for proved only when nobody is at
//! work on it, so the exchanges of one VM wait for each other: by a file lock, which dies with its process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::VmId;

/// How often a taken lock is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// The locks' directory.
pub struct Turns(PathBuf);

/// The right to work on a VM.
pub struct Turn {
    _file: File,
}

impl Turns {
    /// Locks below `state`; not where the transfer manager has its own.
    pub fn new(state: &Path) -> Self {
        Turns(state.join("turns"))
    }

    /// Waits until nobody else on this host works on `vm`. Dropping the future gives up the wait.
    ///
    /// # Errors
    /// The lock's file can't be made.
    pub async fn of(&self, vm: VmId) -> Result<Turn, Failure> {
        let path = self.0.join(format!("vm-{vm}"));
        let failed = |e: io::Error| Failure::new(Kind::HostState, format!("lock {}: {e}", path.display()));
        let file = match open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&self.0).map_err(failed)?;
                open(&path).map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Turn { _file: file }),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(RETRY).await,
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_had_by_one_and_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (one, two) = (Turns::new(dir.path()), Turns::new(dir.path()));
            let first = one.of(VmId(7)).await.unwrap();
            two.of(VmId(8)).await.unwrap();
            let waiting = two.of(VmId(7));
            let late = tokio::time::timeout(Duration::from_millis(100), waiting).await;
            assert!(late.is_err());
            drop(first);
            two.of(VmId(7)).await.unwrap();
        });
    }
}
