//! Says where a guest is, and brings one whose migration broke to rest.

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::DeployId;
use causeway_core::outcome::Sighting;
use causeway_core::plan::Order;
use causeway_core::reach::wire::{Done, Effect};
use causeway_domain::{Code, Hypervisor, JobOperation, JobPhase, PauseReason, State};

use super::failure;

/// What this host's libvirt says of a guest.
pub fn sighting(hypervisor: &dyn Hypervisor, id: &DeployId) -> Sighting {
    let domain = match hypervisor.lookup(id) {
        Ok(Some(domain)) => domain,
        Ok(None) => return Sighting::Absent,
        Err(e) => return Sighting::Unreachable(failure(&e).text),
    };
    let moving = || match hypervisor.job(id) {
        Ok(job) if matches!(job.phase, JobPhase::Bounded | JobPhase::Unbounded) => Ok(Some(job.operation)),
        Ok(_) => Ok(None),
        Err(e) if e.is_absent() => Ok(None),
        // A hypervisor that knows no jobs moves nothing: libvirt's own test driver.
        Err(e) if e.code() == Some(Code::Unsupported) => Ok(None),
        Err(e) => Err(Sighting::Unreachable(failure(&e).text)),
    };
    match domain.state {
        State::Running | State::RunningPostCopy | State::ShuttingDown => match moving() {
            Ok(Some(JobOperation::MigrationOut)) => Sighting::Migrating,
            Ok(_) => Sighting::Running,
            Err(unknown) => unknown,
        },
        State::Paused(PauseReason::Migration | PauseReason::PostCopy | PauseReason::PostCopyFailed) => {
            match moving() {
                Ok(Some(JobOperation::MigrationIn)) => Sighting::Incoming,
                // The switch-over: pages are still on their way.
                Ok(Some(JobOperation::MigrationOut)) => Sighting::Migrating,
                Ok(_) => Sighting::PausedByMigration,
                Err(unknown) => unknown,
            }
        }
        State::Paused(PauseReason::StartingUp) => Sighting::Incoming,
        // One that its owner paused can be sent as it is, and stands still all the way.
        State::Paused(_) | State::PmSuspended => match moving() {
            Ok(Some(JobOperation::MigrationOut)) => Sighting::Migrating,
            Ok(Some(JobOperation::MigrationIn)) => Sighting::Incoming,
            Ok(_) => Sighting::Paused,
            Err(unknown) => unknown,
        },
        State::ShutOff | State::Crashed => Sighting::Ended,
        State::NoState => Sighting::Unreachable(format!("libvirt does not say what {id} does")),
    }
}

/// Carries out an order about a guest whose place was proved.
///
/// # Errors
/// libvirt refused, or the guest is not as the order needs it any more: then the hosts must be asked again.
pub fn settle(hypervisor: &dyn Hypervisor, id: &DeployId, order: Order) -> Result<Done, Failure> {
    let already = Done { output: String::new(), effect: Effect::Already };
    let now = sighting(hypervisor, id);
    match (order, now) {
        (Order::Resume, Sighting::Running) | (Order::Discard, Sighting::Absent) => Ok(already),
        (Order::Resume, Sighting::PausedByMigration | Sighting::Incoming) => {
            hypervisor.resume(id).map_err(|e| failure(&e))?;
            Ok(Done::quiet())
        }
        // Only a copy that stands still is ever discarded.
        (Order::Discard, Sighting::PausedByMigration | Sighting::Incoming | Sighting::Ended) => {
            hypervisor.destroy(id).map_err(|e| failure(&e))?;
            Ok(Done::quiet())
        }
        (_, Sighting::Unreachable(why)) => Err(Failure::new(Kind::Unreachable, why)),
        (order, now) => {
            let text = format!("{id} is {now:?} now: {order:?} does not apply").to_lowercase();
            Err(Failure::new(Kind::HostState, text))
        }
    }
}
