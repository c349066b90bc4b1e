//! A guest that stood still for a moment is behind: its clock is set from the hardware clock, by its agent (contract
//! VMM 3.3, *clock sync*).

use std::time::Duration;

use causeway_core::names::DeployId;
use causeway_domain::{Code, DomainError, Hypervisor};

/// How often it is tried: the agent of a guest that has just arrived may not listen yet.
const TRIES: u32 = 4;

/// Sets the guest's clock (`virDomainSetTime` with `SYNC`), in at most four tries with `pause` between them. Given up at
/// once where no later try could do better: the guest has no agent or is gone, or the agent swallows what it is told.
///
/// # Errors
/// The last try's. Nothing depends on it.
pub fn sync_clock(hypervisor: &dyn Hypervisor, id: &DeployId, pause: Duration) -> Result<(), DomainError> {
    let mut left = TRIES;
    loop {
        left = left.saturating_sub(1);
        match hypervisor.sync_time(id) {
            Err(error) if left > 0 && may_pass(&error) => std::thread::sleep(pause),
            result => return result,
        }
    }
}

/// Whether a later try may do better.
fn may_pass(error: &DomainError) -> bool {
    matches!(error.code(), Some(Code::Agent | Code::Timeout | Code::WrongState | Code::Other))
}
