//! QEMU's pre-copy loop, followed window by window.
//!
//! QEMU does not copy rounds until nothing is left. It sends in windows of a tenth of a second, and as
//! soon as what is pending falls below *measured bandwidth × downtime limit* it reads the dirty log;
//! if it is still below after that, it stops the guest. Hence a limit is used up rather than kept
//! away from, a small set dirtied far faster than the path still converges, and a large one does not.
//!
//! ```text
//!        ┌──────────────► send until the window's bytes or time are used ──┐
//!        │                                                                 │
//!   pending ≥ limit                                              pending < limit
//!        │                                                                 ▼
//!        └───────────────────────────────────────────── read the dirty log (sync)
//!                                                                          │ pending < limit
//!                                                                          ▼
//!                                                     stop, send the rest, resume
//! ```
//!
//! Between two syncs everything shrinks in proportion, so equal windows are taken in one step, and a
//! loop that has come back to a state it was in before is followed by counting its laps (`skip`).
//! Both are exact up to rounding: the loop itself is only shortened where nothing can happen.

mod limit;
mod pages;
mod skip;
mod throttle;
mod windows;

use serde::{Deserialize, Serialize};

pub use limit::downtime_limit_needed;
pub(crate) use pages::PAGE_HEADER;

use crate::error::{self, Error};
use crate::guest::Memory;
use crate::tuning::Tuning;
use windows::Run;

/// What the path gives the migration.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Payload rate while the guest runs, bytes/s.
    #[serde(rename = "B_run")]
    pub run_rate: f64,
    /// Payload rate while it is stopped, when QEMU lifts the cap, bytes/s.
    #[serde(rename = "B_switch")]
    pub switch_rate: f64,
    /// Round trip, seconds.
    #[serde(default)]
    pub rtt_s: f64,
    /// Cost of TCP's slow start, seconds.
    #[serde(default)]
    pub slow_start_s: f64,
    /// Is the running rate a cap that was set, rather than what the path carries?
    #[serde(default)]
    pub capped: bool,
}

impl Rates {
    pub(crate) fn check(&self) -> Result<(), Error> {
        error::rate("B_run", self.run_rate)?;
        error::rate("B_switch", self.switch_rate)?;
        error::seconds("rtt_s", self.rtt_s)?;
        error::seconds("slow_start_s", self.slow_start_s)
    }
}

/// A running migration as its statistics show it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    /// `ram.remaining`, bytes.
    pub pending_bytes: f64,
    /// `ram.dirty-sync-count`; 1 during the first pass.
    pub syncs: u64,
    /// Time since the last sync, seconds.
    pub since_sync_s: f64,
    /// `cpu-throttle-percentage`.
    pub throttle_pct: f64,
}

impl Observed {
    fn check(&self) -> Result<(), Error> {
        error::bytes("remaining", self.pending_bytes)?;
        error::seconds("since_sync_s", self.since_sync_s)?;
        error::throttle("throttle_pct", self.throttle_pct)
    }
}

/// In which way the memory moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The guest ran on the source until the end.
    PreCopy,
    /// The guest was resumed on the destination before its memory was there.
    PostCopy,
}

/// How a migration of memory goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Outcome {
    /// Does it end within the horizon?
    pub converged: bool,
    /// Pre-copy to the end, or post-copy.
    pub mode: Mode,
    /// From the command to a running guest with all its memory, seconds; infinite if it does not end.
    #[serde(serialize_with = "crate::number::serialize")]
    pub total_s: f64,
    /// From stopped to running vCPUs, seconds.
    #[serde(serialize_with = "crate::number::serialize")]
    pub downtime_s: f64,
    /// Longest silence an outside observer must expect, seconds: the downtime and the network's share, or
    /// the sleep that auto-converge imposes, whichever is longer.
    #[serde(serialize_with = "crate::number::serialize")]
    pub service_gap_s: f64,
    /// Bytes on the wire; without an end, those sent up to the horizon.
    #[serde(serialize_with = "crate::number::serialize")]
    pub wire_bytes: f64,
    /// One sleep of a throttled vCPU, seconds.
    pub throttle_stall_s: f64,
    /// Auto-converge's throttle at the end, per cent.
    pub throttle_pct: f64,
    /// `dirty-sync-count` at the end.
    pub syncs: u64,
    /// When the dirty log was read for the first time, seconds; 0 if never.
    pub first_pass_s: f64,
    /// Bytes of pages pending at the end.
    pub residual_bytes: f64,
    /// Downtime limit at which the pending pages would have been sent, seconds.
    pub downtime_needed_s: f64,
    /// The bandwidth QEMU would report, bytes/s.
    #[serde(rename = "rate_est_Bps")]
    pub measured_rate: f64,
    /// Time during which the guest ran without all its memory, seconds.
    pub postcopy_s: f64,
    /// What the guest waited for pages in that time, seconds.
    pub fault_stall_s: f64,
}

impl Outcome {
    /// A migration that has no end and of which nothing else is known.
    pub(crate) fn never() -> Self {
        Self {
            converged: false,
            mode: Mode::PreCopy,
            total_s: f64::INFINITY,
            downtime_s: f64::INFINITY,
            service_gap_s: f64::INFINITY,
            wire_bytes: f64::INFINITY,
            throttle_stall_s: 0.0,
            throttle_pct: 0.0,
            syncs: 0,
            first_pass_s: 0.0,
            residual_bytes: 0.0,
            downtime_needed_s: 0.0,
            measured_rate: 0.0,
            postcopy_s: 0.0,
            fault_stall_s: 0.0,
        }
    }
}

/// Follow a pre-copy migration from its start to its end, or to the horizon.
///
/// # Errors
/// [`Error`] names the first number that makes no sense.
pub fn simulate(memory: &Memory, rates: &Rates, tuning: &Tuning) -> Result<Outcome, Error> {
    memory.check()?;
    rates.check()?;
    tuning.check()?;
    Ok(follow(memory, rates, tuning, TO_THE_HORIZON))
}

/// Follow a migration that is already running; times in the answer count from now. One that does not end is
/// followed only until that is clear.
///
/// # Errors
/// [`Error`] names the first number that makes no sense.
pub fn resume(
    memory: &Memory,
    rates: &Rates,
    tuning: &Tuning,
    observed: &Observed,
) -> Result<Outcome, Error> {
    memory.check()?;
    rates.check()?;
    tuning.check()?;
    observed.check()?;
    Ok(Run::observed(memory, rates, tuning, observed).with_patience(LONG).finish())
}

/// How many reads of the dirty log may fail to end a migration before it is taken never to converge. A loop
/// that hovers just above its limit reads the log up to twenty times a second for as long as it is watched.
pub(crate) type Patience = u32;

/// Every read up to the horizon is followed: for answers that say what was sent until then.
pub(crate) const TO_THE_HORIZON: Patience = Patience::MAX;

/// Enough where only the end matters: of 235,000 random guests that did converge, the slowest took 1,730.
pub(crate) const LONG: Patience = 2048;

/// As [`simulate`], for numbers that have been checked.
pub(crate) fn follow(memory: &Memory, rates: &Rates, tuning: &Tuning, patience: Patience) -> Outcome {
    Run::from_start(memory, rates, tuning).with_patience(patience).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Class;

    const LAN: Rates =
        Rates { run_rate: 117e6, switch_rate: 117e6, rtt_s: 0.0005, slow_start_s: 0.0, capped: false };

    fn guest(working_set: f64, touch_rate: f64) -> Memory {
        let classes = vec![Class { working_set, touch_rate, pattern: Default::default(), cpu_share: 0.0 }];
        Memory { ram_bytes: 2e9, zero_frac: 0.0, classes }
    }

    #[test]
    fn a_longer_horizon_does_not_change_a_divergent_loop_but_for_its_length() {
        let memory = guest(500e6, 400e6);
        let at = |horizon_s| simulate(&memory, &LAN, &Tuning { horizon_s, ..Tuning::default() }).unwrap();
        let (day, week) = (at(86_400.0), at(7.0 * 86_400.0));
        assert!(!week.converged);
        let rate = (week.wire_bytes - day.wire_bytes) / (6.0 * 86_400.0);
        assert!((rate / 117e6 - 1.0).abs() < 0.01, "{rate}");
    }

    #[test]
    fn a_running_migration_near_its_end_ends_soon() {
        let observed = Observed { pending_bytes: 50e6, syncs: 3, since_sync_s: 0.4, throttle_pct: 0.0 };
        let rest = resume(&guest(100e6, 10e6), &LAN, &Tuning::default(), &observed).unwrap();
        assert!(rest.converged && rest.total_s < 1.0, "{rest:?}");
    }

    #[test]
    fn a_running_migration_with_nothing_left_is_at_its_end() {
        let observed = Observed { pending_bytes: 0.0, syncs: 2, since_sync_s: 0.0, throttle_pct: 0.0 };
        let rest = resume(&guest(0.0, 0.0), &LAN, &Tuning::default(), &observed).unwrap();
        assert!(rest.converged && rest.total_s < 0.1, "{rest:?}");
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused_before_the_loop() {
        let nan = guest(f64::NAN, 1.0);
        assert!(simulate(&nan, &LAN, &Tuning::default()).is_err());
        let dead = Rates { run_rate: 0.0, ..LAN };
        assert!(simulate(&guest(1e6, 1e6), &dead, &Tuning::default()).is_err());
        let too_large = guest(3e9, 1e6);
        assert!(matches!(
            simulate(&too_large, &LAN, &Tuning::default()),
            Err(Error::ClassesExceedRam { .. })
        ));
    }
}
