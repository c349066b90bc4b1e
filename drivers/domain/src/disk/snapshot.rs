//! An overlay over one disk of a guest that runs.

use causeway_core::names::DeployId;

use super::rest::{self, Hold, How};
use super::{Chain, Control, Ended, Overlay};
use crate::error::{Cause, Code, DomainError, Operation};
use crate::hypervisor::Hypervisor;

/// Puts `overlay`, a file that exists and has the disk's present file as its backing, over the disk: from then on the
/// guest writes into it, and what lies below stays as it is (contract TM 2.2, `snap_create_live`).
///
/// With `quiesce` the guest's agent freezes its file systems around the moment; where it does not, the guest's processors
/// are stopped instead. Found in its place already, it is left there: an answer that was lost is no second snapshot.
///
/// # Errors
/// The overlay lies in the chain elsewhere, QEMU refused it, the guest is absent or off, or libvirt could not be asked.
/// The guest is back, or the watchdog sees to it; with [`is_unknown`](DomainError::is_unknown) ask
/// [`disks`](Hypervisor::disks) before anything is deleted.
pub fn snapshot(
    host: &dyn Hypervisor,
    id: &DeployId,
    disk: &str,
    overlay: &str,
    quiesce: Option<How>,
    control: &Control<'_>,
) -> Result<Ended, DomainError> {
    let fail = |cause| DomainError::new(Operation::SnapshotDisk, format!("{id}, disk {disk}"), cause);
    let chains = host.disks(id)?;
    let before = of_disk(&chains, disk).ok_or_else(|| fail(no_disk()))?;
    match before.position(overlay, control.names) {
        Some(0) => return Ok(Ended::Already),
        Some(depth) => {
            let text =
                format!("{overlay} lies in the chain already, {depth} below the file that the guest writes");
            return Err(fail(Cause::libvirt(Code::WrongState, text)));
        }
        None => {}
    }
    if (control.cancelled)() {
        return Err(fail(Cause::Cancelled));
    }
    let mut wanted = Overlay {
        disk: disk.to_owned(),
        file: overlay.to_owned(),
        others: chains.iter().map(|c| c.target.clone()).filter(|target| target != disk).collect(),
        quiesce: None,
    };
    let done = match quiesce {
        None => host.snapshot_disk(id, &wanted),
        Some(how) => {
            wanted.quiesce = Some(how.agent);
            let (frozen, thaw) = by_agent(host, id, &wanted, how, control);
            wanted.quiesce = None;
            match frozen {
                Err(error) if !error.is_unknown() && how.or_suspend => {
                    tracing::info!(%id, %error, cause = %error.cause, "not by the agent");
                    at_rest(host, id, &wanted, thaw, how, control)
                }
                other => other,
            }
        }
    };
    let now = chain_now(host, id, disk).unwrap_or_else(|error| {
        tracing::warn!(%id, %error, cause = %error.cause, "what came of a snapshot is not known");
        None
    });
    let now = now.map(|chain| chain.files(control.names));
    let expected: Vec<String> =
        std::iter::once(control.names.name(overlay)).chain(before.files(control.names)).collect();
    match (now, done) {
        (Some(now), _) if now == expected => Ok(Ended::Done),
        (_, Err(error)) => Err(error),
        (None, Ok(())) => Err(fail(Cause::Lost)),
        (Some(now), Ok(())) => {
            let text = format!("the chain is {}, and was to be {}", now.join(" on "), expected.join(" on "));
            Err(fail(Cause::Answer(text)))
        }
    }
}

/// libvirt freezes, takes the snapshot and thaws in one call, which ends whatever becomes of us. Also says whether a thaw
/// is still owed.
fn by_agent(
    host: &dyn Hypervisor,
    id: &DeployId,
    overlay: &Overlay,
    how: How,
    control: &Control<'_>,
) -> (Result<(), DomainError>, bool) {
    let hold = Hold { frozen: true, suspended: false };
    if let Err(error) = rest::arm(id, control.watchdog, hold) {
        return (Err(error), false);
    }
    let done = host.snapshot_disk(id, overlay);
    if done.is_err() {
        // An agent that was too slow for libvirt may have frozen the guest after all.
        if let Err(error) = rest::take_back(host, id, hold, how.agent, 1) {
            tracing::warn!(%id, %error, cause = %error.cause, "left to the watchdog");
            return (done, true);
        }
    }
    control.watchdog.disarm();
    (done, false)
}

fn at_rest(
    host: &dyn Hypervisor,
    id: &DeployId,
    overlay: &Overlay,
    thaw: bool,
    how: How,
    control: &Control<'_>,
) -> Result<(), DomainError> {
    let rest = rest::suspend(host, id, thaw, how, control.watchdog)?;
    let done = host.snapshot_disk(id, overlay);
    if let Err(error) = rest::release(host, id, rest, how, control.watchdog) {
        // The watchdog goes on; what has become of the disk is the answer here.
        (control.warn)(&format!("the guest is not back yet: {error}: {}", error.cause));
    }
    done
}

fn chain_now(host: &dyn Hypervisor, id: &DeployId, disk: &str) -> Result<Option<Chain>, DomainError> {
    Ok(of_disk(&host.disks(id)?, disk).cloned())
}

/// The chain of that disk.
pub(super) fn of_disk<'c>(chains: &'c [Chain], disk: &str) -> Option<&'c Chain> {
    chains.iter().find(|chain| chain.target == disk)
}

pub(super) fn no_disk() -> Cause {
    Cause::libvirt(Code::WrongState, "the domain has no such disk")
}
