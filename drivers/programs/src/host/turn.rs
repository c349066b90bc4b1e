//! One exchange of a VM at a time on a host, whichever process carries it.
//!
//! A resident that lost its driver goes on with what must not be cut short, beside the next driver's resident; a
//! delegated one works beside the kept one. The engine takes "the guest is not here" for proved only when nobody is at
//! work on it, so the exchanges of one VM wait for each other: by a file lock, which dies with its process.

use std::path::Path;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::locks::{Held, Locks, Mode};
use causeway_core::names::VmId;

/// How often a taken lock is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// The turns of all VMs.
pub struct Turns(Locks);

/// The right to work on a VM.
pub struct Turn {
    _held: Held,
}

impl Turns {
    /// Locks below `state`; not those of the transfer manager.
    pub fn new(state: &Path) -> Self {
        Turns(Locks::new(state.join("turns")))
    }

    /// Waits until nobody else on this host works on `vm`. Dropping the future gives up the wait.
    ///
    /// # Errors
    /// The lock's file can't be made.
    pub async fn of(&self, vm: VmId) -> Result<Turn, Failure> {
        let path = self.0.path().display();
        loop {
            match self.0.attempt(vm.0.into(), Mode::Exclusive) {
                Ok(Some(held)) => return Ok(Turn { _held: held }),
                Ok(None) => tokio::time::sleep(RETRY).await,
                Err(e) => return Err(Failure::new(Kind::HostState, format!("lock VM {vm} in {path}: {e}"))),
            }
        }
    }
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
