//! Setting limits, and putting back those that there were.

use causeway_core::answer::Failure;
use causeway_core::names::DeployId;

use super::{Change, Guests};

/// Makes `changes`, in their order.
///
/// # Errors
/// The first that fails, with NIC and reason; the limits that there were have been put back then, as far as the text does
/// not say otherwise.
pub fn set(guests: &dyn Guests, guest: &DeployId, changes: &[Change]) -> Result<(), Failure> {
    for (index, change) in changes.iter().enumerate() {
        if let Err(failure) = guests.limit(guest, &change.device, &change.after) {
            let first = failure.context(format!("NIC {}: {change}", change.nic));
            // The one that failed as well: traffic control takes several steps, and libvirt leaves those that were made.
            let made = changes.get(..=index).unwrap_or(changes);
            return Err(take_back(guests, guest, made, first));
        }
    }
    Ok(())
}

/// Puts the limits back that there were before `changes`, the last one first, because of the failure `first`; it comes back with
/// what could not be put back.
pub fn take_back(guests: &dyn Guests, guest: &DeployId, changes: &[Change], first: Failure) -> Failure {
    let mut text = first.text;
    for change in changes.iter().rev() {
        if let Err(failure) = guests.limit(guest, &change.device, &change.before) {
            let nic = change.nic;
            text = format!("{text}; putting the limits of NIC {nic} back failed as well: {failure}");
        }
    }
    Failure { kind: first.kind, text }
}
