//! A domain as libvirt sees it at one moment.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A domain that libvirt knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    /// Its UUID, the deploy id.
    pub uuid: Uuid,
    /// Its name; `one-<VM id>` for OpenNebula's.
    pub name: String,
    /// libvirt's running number, absent while the domain is not active.
    pub id: Option<u32>,
    /// What it does.
    pub state: State,
    /// Whether a definition stays behind when it stops. OpenNebula's domains never should be.
    pub persistent: bool,
}

/// What a domain does (`virDomainState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its virtual CPUs run.
    Running,
    /// It runs here, and pages of its memory still lie on the host it came from: it dies if that host dies.
    RunningPostCopy,
    /// Its virtual CPUs are stopped, for that reason.
    Paused(PauseReason),
    /// The guest is shutting down.
    ShuttingDown,
    /// It is off; libvirt still has a definition.
    ShutOff,
    /// It crashed.
    Crashed,
    /// The guest sleeps (ACPI S3).
    PmSuspended,
    /// libvirt does not say.
    NoState,
}

impl State {
    /// Whether a guest's memory exists here: everything but off and crashed.
    pub fn is_active(self) -> bool {
        !matches!(self, State::ShutOff | State::Crashed)
    }

    /// Whether the guest executes here now.
    pub fn is_running(self) -> bool {
        matches!(self, State::Running | State::RunningPostCopy | State::ShuttingDown)
    }

    /// From libvirt's state and reason numbers (`virDomainState`, `virDomainRunningReason`, `virDomainPausedReason`).
    pub fn from_libvirt(state: u32, reason: i32) -> Self {
        match (state, reason) {
            (1, 10 | 11) => State::RunningPostCopy,
            (1 | 2, _) => State::Running,
            (3, reason) => State::Paused(PauseReason::from_libvirt(reason)),
            (4, _) => State::ShuttingDown,
            (5, _) => State::ShutOff,
            (6, _) => State::Crashed,
            (7, _) => State::PmSuspended,
            _ => State::NoState,
        }
    }
}

/// Why a domain is paused (`virDomainPausedReason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// libvirt does not say.
    Unknown,
    /// Somebody asked for it.
    User,
    /// A migration, in or out.
    Migration,
    /// It is being saved to a file.
    Save,
    /// Its core is being dumped.
    Dump,
    /// A disk answered with an error.
    IoError,
    /// Its watchdog fired.
    Watchdog,
    /// It was restored from a snapshot.
    FromSnapshot,
    /// It is shutting down.
    ShuttingDown,
    /// A snapshot is being made.
    Snapshot,
    /// The guest crashed.
    Crashed,
    /// It is being created.
    StartingUp,
    /// It runs on the other host, which still fetches pages from here.
    PostCopy,
    /// Post-copy broke off; both halves are needed to recover.
    PostCopyFailed,
}

impl PauseReason {
    fn from_libvirt(reason: i32) -> Self {
        match reason {
            1 => PauseReason::User,
            2 => PauseReason::Migration,
            3 => PauseReason::Save,
            4 => PauseReason::Dump,
            5 => PauseReason::IoError,
            6 => PauseReason::Watchdog,
            7 => PauseReason::FromSnapshot,
            8 => PauseReason::ShuttingDown,
            9 => PauseReason::Snapshot,
            10 => PauseReason::Crashed,
            11 => PauseReason::StartingUp,
            12 => PauseReason::PostCopy,
            13 => PauseReason::PostCopyFailed,
            _ => PauseReason::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virt::sys;

    #[test]
    fn numbers_are_those_of_the_header() {
        let of = |state: u32, reason: u32| State::from_libvirt(state, i32::try_from(reason).unwrap());
        assert_eq!(of(sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_RUNNING_BOOTED), State::Running);
        for reason in [sys::VIR_DOMAIN_RUNNING_POSTCOPY, sys::VIR_DOMAIN_RUNNING_POSTCOPY_FAILED] {
            assert_eq!(of(sys::VIR_DOMAIN_RUNNING, reason), State::RunningPostCopy);
        }
        let paused = [
            (sys::VIR_DOMAIN_PAUSED_UNKNOWN, PauseReason::Unknown),
            (sys::VIR_DOMAIN_PAUSED_USER, PauseReason::User),
            (sys::VIR_DOMAIN_PAUSED_MIGRATION, PauseReason::Migration),
            (sys::VIR_DOMAIN_PAUSED_SAVE, PauseReason::Save),
            (sys::VIR_DOMAIN_PAUSED_DUMP, PauseReason::Dump),
            (sys::VIR_DOMAIN_PAUSED_IOERROR, PauseReason::IoError),
            (sys::VIR_DOMAIN_PAUSED_WATCHDOG, PauseReason::Watchdog),
            (sys::VIR_DOMAIN_PAUSED_FROM_SNAPSHOT, PauseReason::FromSnapshot),
            (sys::VIR_DOMAIN_PAUSED_SHUTTING_DOWN, PauseReason::ShuttingDown),
            (sys::VIR_DOMAIN_PAUSED_SNAPSHOT, PauseReason::Snapshot),
            (sys::VIR_DOMAIN_PAUSED_CRASHED, PauseReason::Crashed),
            (sys::VIR_DOMAIN_PAUSED_STARTING_UP, PauseReason::StartingUp),
            (sys::VIR_DOMAIN_PAUSED_POSTCOPY, PauseReason::PostCopy),
            (sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED, PauseReason::PostCopyFailed),
        ];
        for (number, reason) in paused {
            assert_eq!(of(sys::VIR_DOMAIN_PAUSED, number), State::Paused(reason));
        }
        assert_eq!(of(sys::VIR_DOMAIN_SHUTDOWN, 0), State::ShuttingDown);
        assert_eq!(of(sys::VIR_DOMAIN_SHUTOFF, 0), State::ShutOff);
        assert_eq!(of(sys::VIR_DOMAIN_CRASHED, 0), State::Crashed);
        assert_eq!(of(sys::VIR_DOMAIN_PMSUSPENDED, 0), State::PmSuspended);
        assert_eq!(of(sys::VIR_DOMAIN_NOSTATE, 0), State::NoState);
    }
}
