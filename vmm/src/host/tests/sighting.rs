//! Where a guest is, and what settles it: every state with every job.

use causeway_core::outcome::Sighting;
use causeway_core::plan::Order;
use causeway_domain::fake::Lie;
use causeway_domain::{Cause, JobOperation, JobPhase, JobStats, PauseReason, State};

use super::*;
use crate::host::{settle, sighting};

const PAUSES: [PauseReason; 14] = [
    PauseReason::Unknown,
    PauseReason::User,
    PauseReason::Migration,
    PauseReason::Save,
    PauseReason::Dump,
    PauseReason::IoError,
    PauseReason::Watchdog,
    PauseReason::FromSnapshot,
    PauseReason::ShuttingDown,
    PauseReason::Snapshot,
    PauseReason::Crashed,
    PauseReason::StartingUp,
    PauseReason::PostCopy,
    PauseReason::PostCopyFailed,
];

const OPERATIONS: [JobOperation; 11] = [
    JobOperation::Unknown,
    JobOperation::Start,
    JobOperation::Save,
    JobOperation::Restore,
    JobOperation::MigrationIn,
    JobOperation::MigrationOut,
    JobOperation::Snapshot,
    JobOperation::SnapshotRevert,
    JobOperation::Dump,
    JobOperation::Backup,
    JobOperation::SnapshotDelete,
];

const PHASES: [JobPhase; 6] = [
    JobPhase::None,
    JobPhase::Bounded,
    JobPhase::Unbounded,
    JobPhase::Completed,
    JobPhase::Failed,
    JobPhase::Cancelled,
];

fn states() -> Vec<State> {
    use State::*;
    let others = [Running, RunningPostCopy, ShuttingDown, ShutOff, Crashed, PmSuspended, NoState];
    others.into_iter().chain(PAUSES.map(Paused)).collect()
}

fn in_state(state: State, phase: JobPhase, operation: JobOperation) -> Bench {
    let bench = Bench::with_guest();
    bench.host.set_state(&id(), state);
    bench.host.set_job(&id(), JobStats { phase, operation, ..JobStats::default() });
    bench
}

fn everything() -> impl Iterator<Item = (State, JobPhase, JobOperation)> {
    states().into_iter().flat_map(|state| {
        PHASES.into_iter().flat_map(move |phase| OPERATIONS.map(|operation| (state, phase, operation)))
    })
}

/// The table: without a migration, with one that sends, with one that receives.
fn expected(state: State) -> [Sighting; 3] {
    use Sighting::*;
    match state {
        State::Running | State::RunningPostCopy | State::ShuttingDown => [Running, Migrating, Running],
        State::Paused(PauseReason::StartingUp) => [Incoming, Incoming, Incoming],
        State::Paused(PauseReason::Migration | PauseReason::PostCopy | PauseReason::PostCopyFailed) => {
            [PausedByMigration, Migrating, Incoming]
        }
        State::Paused(_) | State::PmSuspended => [Paused, Migrating, Incoming],
        State::ShutOff | State::Crashed => [Ended, Ended, Ended],
        State::NoState => [(); 3].map(|()| Unreachable(format!("libvirt does not say what {UUID} does"))),
    }
}

#[test]
fn every_state_with_every_job_is_seen_for_what_it_is() {
    for (state, phase, operation) in everything() {
        let bench = in_state(state, phase, operation);
        let runs = matches!(phase, JobPhase::Bounded | JobPhase::Unbounded);
        let column = match operation {
            JobOperation::MigrationOut if runs => 1,
            JobOperation::MigrationIn if runs => 2,
            _ => 0,
        };
        let seen = sighting(&bench.host, &id());
        assert_eq!(seen, expected(state)[column], "{state:?} {phase:?} {operation:?}");
    }
}

#[test]
fn absent_is_libvirts_own_word_and_silence_is_not() {
    let bench = Bench::new();
    assert_eq!(sighting(&bench.host, &id()), Sighting::Absent);
    bench.host.set_unreachable(true);
    assert!(
        matches!(sighting(&bench.host, &id()), Sighting::Unreachable(why) if why.contains("cannot reach"))
    );
    for state in states() {
        let bench = in_state(state, JobPhase::Unbounded, JobOperation::MigrationOut);
        bench.host.lie(Operation::Job, 1, Lie::Instead(Cause::Silent(Duration::from_secs(5))));
        let seen = sighting(&bench.host, &id());
        let needs_job = bench.count(Operation::Job) == 1;
        assert!(!needs_job || matches!(seen, Sighting::Unreachable(_)), "{state:?}: {seen:?}");
    }
}

/// Whatever a host is told to do with a guest, one that lives or moves here is left as it is.
#[test]
fn no_order_ends_or_starts_a_guest_that_lives_here() {
    for (state, phase, operation) in everything() {
        for order in [Order::Resume, Order::Discard] {
            let bench = in_state(state, phase, operation);
            let before = bench.host.truth(&id());
            let seen = sighting(&bench.host, &id());
            let result = settle(&bench.host, &id(), order);
            let after = bench.host.truth(&id());
            let at = format!("{order:?} {seen:?}: {state:?} {phase:?} {operation:?}: {result:?}");
            match (order, &seen) {
                (Order::Resume, Sighting::Running) => {
                    done(result, Effect::Already);
                    assert_eq!(after, before, "{at}");
                }
                (Order::Resume, Sighting::PausedByMigration | Sighting::Incoming) => {
                    done(result, Effect::Made);
                    assert_eq!(after.unwrap().state, State::Running, "{at}");
                }
                (Order::Discard, Sighting::PausedByMigration | Sighting::Incoming) => {
                    done(result, Effect::Made);
                    assert_eq!(after, None, "{at}");
                }
                // libvirt has nothing to destroy where no guest is left; the fake says so.
                (Order::Discard, Sighting::Ended) => {
                    refused(result, Kind::HostState, "destroy");
                    assert_eq!(after, before, "{at}");
                }
                (_, Sighting::Unreachable(why)) => {
                    refused(result, Kind::Unreachable, why);
                    assert_eq!(after, before, "{at}");
                }
                _ => {
                    refused(result, Kind::HostState, "does not apply");
                    assert_eq!(after, before, "{at}");
                }
            }
            let asked = [Operation::Destroy, Operation::Resume];
            let lives = matches!(seen, Sighting::Running | Sighting::Migrating | Sighting::Paused);
            assert!(!lives || !bench.host.operations().iter().any(|o| asked.contains(o)), "{at}");
        }
    }
}

#[test]
fn an_order_about_a_guest_that_is_gone_or_a_host_that_is_silent() {
    let bench = Bench::new();
    done(settle(&bench.host, &id(), Order::Discard), Effect::Already);
    refused(settle(&bench.host, &id(), Order::Resume), Kind::HostState, "is absent now");
    let bench = in_state(State::Paused(PauseReason::Migration), JobPhase::None, JobOperation::Unknown);
    bench.host.set_unreachable(true);
    for order in [Order::Resume, Order::Discard] {
        refused(settle(&bench.host, &id(), order), Kind::Unreachable, "cannot reach libvirt");
    }
    assert!(bench.host.truth(&id()).is_some());
}

#[test]
fn what_libvirt_refuses_of_an_order_is_said() {
    for (order, operation) in [(Order::Resume, Operation::Resume), (Order::Discard, Operation::Destroy)] {
        let bench = in_state(State::Paused(PauseReason::Migration), JobPhase::None, JobOperation::Unknown);
        bench.host.lie(operation, 1, Lie::Instead(Cause::unreachable()));
        refused(settle(&bench.host, &id(), order), Kind::Unreachable, "cannot reach libvirt");
    }
}
