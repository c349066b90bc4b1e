//! A guest at rest, and back.
//!
//! ```text
//!             freeze: done                          thaw
//!   running ────────────────────────────> frozen ───────────> running
//!      │  no agent, or it fails                                  ^
//!      └─────────────────────────────> suspended ────────────────┘
//!                                                   resume, and a thaw where a freeze may have been heard
//! ```
//!
//! The way back is never left to one process: before a guest is brought to rest, a [`Watchdog`] that outlives this
//! process is told, and it stands down only when the guest has been seen to be back.

use std::thread;
use std::time::Duration;

use causeway_core::names::DeployId;

use super::AgentAnswer;
use crate::domain::{PauseReason, State};
use crate::error::{Cause, Code, DomainError, Operation};
use crate::hypervisor::Hypervisor;

/// How often the way back is tried here before it is left to the watchdog.
const TRIES: u32 = 5;

/// How long it is left alone between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What a watchdog has to take back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hold {
    /// Its file systems are frozen, or may be.
    pub frozen: bool,
    /// Its processors are stopped.
    pub suspended: bool,
}

/// Brings a guest back when whoever brought it to rest does not.
pub trait Watchdog {
    /// From now on it takes this back when its time is over, or when this process ends; instead of what it was told
    /// before.
    ///
    /// # Errors
    /// There is no watchdog to be had: then no guest may be brought to rest.
    fn arm(&self, hold: Hold) -> Result<(), String>;

    /// The guest is back. False if it had been let go before: its rest was shorter than was thought.
    fn disarm(&self) -> bool;
}

/// How a guest is to be brought to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct How {
    /// How long the guest's agent is waited for.
    pub agent: Duration,
    /// Stop its processors if no agent freezes it.
    pub or_suspend: bool,
}

/// In which way a guest is at rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Its agent has frozen its file systems.
    Frozen,
    /// Its processors were stopped.
    Suspended {
        /// An agent was asked first, and may have heard it.
        thaw: bool,
    },
    /// It was paused before, by somebody else; it is left so.
    Still,
    /// Not at all: it has no agent, and was not to be suspended.
    Running,
}

/// Brings the guest to rest.
///
/// # Errors
/// The guest is absent or off, there is no watchdog, or libvirt refused or could not be asked. Then the guest runs, or
/// the watchdog sees to it.
pub fn bring(
    host: &dyn Hypervisor,
    id: &DeployId,
    how: How,
    watchdog: &dyn Watchdog,
) -> Result<Rest, DomainError> {
    if is_paused(host, id)? {
        return Ok(Rest::Still);
    }
    arm(id, watchdog, Hold { frozen: true, suspended: false })?;
    let thaw = match host.freeze(id, how.agent) {
        Ok(AgentAnswer::Done(_)) => return Ok(Rest::Frozen),
        Ok(AgentAnswer::NoAgent(said)) => {
            tracing::info!(%id, said, "no agent freezes the guest");
            false
        }
        Err(error) => {
            tracing::warn!(%id, %error, cause = %error.cause, "the guest's agent did not freeze it");
            // Once it is suspended, nobody in it answers.
            thaw(host, id, how.agent).is_err()
        }
    };
    if how.or_suspend {
        return stop(host, id, thaw, how, watchdog);
    }
    if !thaw {
        watchdog.disarm();
    }
    Ok(Rest::Running)
}

/// Brings the guest to rest without its agent, which may have heard a freeze before and then is to `thaw` it.
///
/// # Errors
/// As [`bring`].
pub fn suspend(
    host: &dyn Hypervisor,
    id: &DeployId,
    thaw: bool,
    how: How,
    watchdog: &dyn Watchdog,
) -> Result<Rest, DomainError> {
    match is_paused(host, id)? {
        true => Ok(Rest::Still),
        false => stop(host, id, thaw, how, watchdog),
    }
}

fn stop(
    host: &dyn Hypervisor,
    id: &DeployId,
    thaw: bool,
    how: How,
    watchdog: &dyn Watchdog,
) -> Result<Rest, DomainError> {
    arm(id, watchdog, Hold { frozen: thaw, suspended: true })?;
    let rest = Rest::Suspended { thaw };
    match host.suspend(id) {
        Ok(()) => Ok(rest),
        Err(error) => {
            // It may have been stopped all the same.
            if let Err(back) = release(host, id, rest, how, watchdog) {
                tracing::warn!(%id, error = %back, cause = %back.cause, "left to the watchdog");
            }
            Err(error)
        }
    }
}

/// Lets the guest run again, and sees that it does. Says whether it had rested until now.
///
/// A thaw that is owed to a freeze of which nobody knows whether it was heard is tried once, and else left to the
/// watchdog: the guest runs.
///
/// # Errors
/// It does not run, or stays frozen, after several tries: the watchdog goes on trying. A guest that has gone meanwhile
/// needs nothing.
pub fn release(
    host: &dyn Hypervisor,
    id: &DeployId,
    rest: Rest,
    how: How,
    watchdog: &dyn Watchdog,
) -> Result<bool, DomainError> {
    let frozen = Hold { frozen: true, suspended: false };
    match rest {
        Rest::Still | Rest::Running => return Ok(true),
        Rest::Frozen => take_back(host, id, frozen, how.agent, TRIES)?,
        Rest::Suspended { thaw } => {
            take_back(host, id, Hold { frozen: false, suspended: true }, how.agent, TRIES)?;
            if thaw && let Err(error) = take_back(host, id, frozen, how.agent, 1) {
                tracing::warn!(%id, %error, cause = %error.cause, "a thaw is left to the watchdog");
                let in_time = watchdog.disarm();
                // Whoever suspends the guest from now on has reasons of its own.
                arm(id, watchdog, frozen)?;
                return Ok(in_time);
            }
        }
    }
    Ok(watchdog.disarm())
}

/// Takes a hold back: the last act of every rest, and the only one of a watchdog. Tries so often.
///
/// # Errors
/// What the last try failed of.
pub fn take_back(
    host: &dyn Hypervisor,
    id: &DeployId,
    hold: Hold,
    agent: Duration,
    tries: u32,
) -> Result<(), DomainError> {
    let mut left = tries;
    loop {
        let done = (if hold.suspended { resume(host, id) } else { Ok(()) })
            .and_then(|()| if hold.frozen { thaw(host, id, agent) } else { Ok(()) });
        left = left.saturating_sub(1);
        match done {
            Ok(()) => return Ok(()),
            Err(error) if error.is_absent() => return Ok(()),
            Err(error) if left == 0 => return Err(error),
            Err(error) => tracing::warn!(%id, %error, cause = %error.cause, "the guest is not back yet"),
        }
        thread::sleep(PAUSE);
    }
}

fn thaw(host: &dyn Hypervisor, id: &DeployId, agent: Duration) -> Result<(), DomainError> {
    match host.thaw(id, agent)? {
        AgentAnswer::Done(_) => Ok(()),
        // Whoever froze it can't do so again without an agent; what is left is the guest's own affair.
        AgentAnswer::NoAgent(said) => {
            tracing::info!(%id, said, "no agent to thaw the guest");
            Ok(())
        }
    }
}

/// Resumes a guest that we have suspended, and no other: one that stands for a migration or a broken disk has its reasons.
fn resume(host: &dyn Hypervisor, id: &DeployId) -> Result<(), DomainError> {
    let tried = match state(host, id)? {
        State::Paused(PauseReason::User | PauseReason::Snapshot | PauseReason::Unknown) => host.resume(id),
        _ => return Ok(()),
    };
    match state(host, id)? {
        State::Paused(_) => {
            let still = Cause::libvirt(Code::WrongState, "it is still paused");
            Err(tried.err().unwrap_or_else(|| DomainError::new(Operation::Resume, id, still)))
        }
        _ => Ok(()),
    }
}

fn is_paused(host: &dyn Hypervisor, id: &DeployId) -> Result<bool, DomainError> {
    match state(host, id)? {
        State::Paused(_) | State::PmSuspended => Ok(true),
        state if state.is_active() => Ok(false),
        _ => {
            let off = Cause::libvirt(Code::WrongState, "domain is not running");
            Err(DomainError::new(Operation::Freeze, id, off))
        }
    }
}

pub(super) fn state(host: &dyn Hypervisor, id: &DeployId) -> Result<State, DomainError> {
    let gone = || DomainError::new(Operation::Lookup, id, Cause::libvirt(Code::NoDomain, "Domain not found"));
    Ok(host.lookup(id)?.ok_or_else(gone)?.state)
}

pub(super) fn arm(id: &DeployId, watchdog: &dyn Watchdog, hold: Hold) -> Result<(), DomainError> {
    watchdog.arm(hold).map_err(|said| {
        let none = format!("no watchdog, without which no guest is brought to rest: {said}");
        DomainError::new(Operation::Freeze, id, Cause::Input(none))
    })
}
