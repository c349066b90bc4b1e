//! What a run found, and the files that say so.
//!
//! | file | holds |
//! |---|---|
//! | `report.html` | everything a person wants to see, in one file without scripts or outside references |
//! | `summary.csv` | median and worst silence of each probe, and of the network's share, over the moves that were made |
//! | `moves.csv` | one row per move and probe |
//! | `samples.csv` | one row per question |
//! | `move-NNNN.log` | what the move's command said; `capture-*-NNNN.log` what the captures said |
//!
//! Times in the CSV files are whole nanoseconds; points in time are counted from the run's zero ([`crate::moment`]). Every
//! file but the logs is written beside its place and renamed into it, so that a reader finds the old one or the new one,
//! never a part.

mod chart;
pub mod csv;
mod page;
mod write;

use std::fmt;
use std::time::Duration;

use crate::capture::CaptureError;
use crate::ledger::Ledger;
use crate::moment::{Clock, Moment};
use crate::mover::Outcome;
use crate::plan::{Leg, Plan, ProbePlan};
use crate::share::NetworkShare;
use crate::silence::{Watch, Window, median};

pub use page::page;
pub(crate) use write::prepare;
pub use write::write;

/// Everything a run found.
#[derive(Debug)]
pub struct Report {
    /// The plan that was run.
    pub plan: Plan,
    /// The run's time line.
    pub clock: Clock,
    /// Each probe with its whole ledger, in the plan's order.
    pub probes: Vec<ProbeRecord>,
    /// The moves that were begun.
    pub moves: Vec<MoveResult>,
    /// Why not every move of the plan was made, if so.
    pub stopped: Option<Stopped>,
}

/// One probe's share of a report.
#[derive(Debug)]
pub struct ProbeRecord {
    /// What it did.
    pub plan: ProbePlan,
    /// What it saw.
    pub ledger: Ledger,
}

/// One move.
#[derive(Debug)]
pub struct MoveResult {
    /// Its number, from 1.
    pub number: u32,
    /// Where from and where to, if the plan says.
    pub leg: Option<Leg>,
    /// From the start of the move to the end of watching it.
    pub window: Window,
    /// When whoever made the move said that it was over.
    pub ended: Moment,
    /// How it went.
    pub outcome: Outcome,
    /// What each probe saw of it, in the plan's order.
    pub watches: Vec<Watch>,
    /// The network's share of the silence: `None` if it was not asked for or the move was not made.
    pub network: Option<Result<NetworkShare, CaptureError>>,
}

impl MoveResult {
    /// How long the move took whoever made it.
    pub fn took(&self) -> Duration {
        self.ended.since(self.window.from)
    }

    /// The longest silence any probe saw, with the probe's place in the plan.
    pub fn worst(&self) -> Option<(usize, &Watch)> {
        self.watches.iter().enumerate().max_by_key(|(_, watch)| watch.silence.length())
    }

    /// The network's share, if it could be told.
    pub fn share(&self) -> Option<&NetworkShare> {
        self.network.as_ref()?.as_ref().ok()
    }

    /// `h1 to h2`, or nothing if the plan does not name the hosts.
    pub fn way(&self) -> String {
        match &self.leg {
            Some(leg) => format!("{} to {}", leg.from, leg.to),
            None => String::new(),
        }
    }
}

/// Why not every move of a plan was made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// A move failed, and the plan says to stop then.
    MoveFailed {
        /// The move.
        number: u32,
    },
    /// A probe was not answered in time before or after a move.
    NoAnswer {
        /// The probe.
        probe: String,
    },
    /// A capture could not be started.
    Capture {
        /// Why.
        why: String,
    },
    /// The deadline of the whole run passed.
    Deadline,
    /// The run was told to stop.
    Interrupted,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stopped::MoveFailed { number } => write!(f, "move {number} failed"),
            Stopped::NoAnswer { probe } => write!(f, "probe {probe} was not answered in time"),
            Stopped::Capture { why } => f.write_str(why),
            Stopped::Deadline => f.write_str("the deadline of the run passed"),
            Stopped::Interrupted => f.write_str("told to stop"),
        }
    }
}

/// Median and worst of one quantity over the moves that were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// How many moves have it.
    pub moves: usize,
    /// The middle value.
    pub median: Duration,
    /// The largest.
    pub worst: Duration,
    /// The move that has the largest; the first of several.
    pub worst_move: u32,
    /// Some of the values are lower bounds only.
    pub open: bool,
}

impl Report {
    /// Median and worst silence of the probe at `index` of the plan; `None` if no move was made.
    pub fn silence(&self, index: usize) -> Option<Spread> {
        self.spread(|result| {
            let silence = &result.watches.get(index)?.silence;
            Some((silence.length(), silence.is_open()))
        })
    }

    /// Median and worst network share; `None` if no move has one.
    pub fn network_share(&self) -> Option<Spread> {
        self.spread(|result| Some((result.share()?.share(), false)))
    }

    fn spread(&self, value: impl Fn(&MoveResult) -> Option<(Duration, bool)>) -> Option<Spread> {
        let made = self.moves.iter().filter(|m| m.outcome == Outcome::Done);
        let of = |result| value(result).map(|(span, open)| (result.number, span, open));
        let values: Vec<(u32, Duration, bool)> = made.filter_map(of).collect();
        let mut spans: Vec<Duration> = values.iter().map(|(_, span, _)| *span).collect();
        let worst = spans.iter().max().copied()?;
        Some(Spread {
            moves: spans.len(),
            median: median(&mut spans)?,
            worst,
            worst_move: values.iter().find(|(_, span, _)| *span == worst)?.0,
            open: values.iter().any(|(_, _, open)| *open),
        })
    }

    /// Whether every move of the plan was made.
    pub fn is_complete(&self) -> bool {
        self.stopped.is_none() && self.moves.iter().all(|m| m.outcome == Outcome::Done)
    }
}

/// A span for people, with about three digits: `9 µs`, `7.0 ms`, `312 ms`, `13.26 s`.
pub fn readable(span: Duration) -> String {
    let nanos = span.as_nanos();
    // The value in tenths or hundredths of its unit, rounded half up; each limit is where rounding reaches the next.
    match nanos {
        0..999_500 => format!("{} µs", (nanos + 500) / 1_000),
        999_500..99_950_000 => {
            let tenths = (nanos + 50_000) / 100_000;
            format!("{}.{} ms", tenths / 10, tenths % 10)
        }
        99_950_000..9_999_500_000 => format!("{} ms", (nanos + 500_000) / 1_000_000),
        _ => {
            let hundredths = (nanos + 5_000_000) / 10_000_000;
            format!("{}.{:02} s", hundredths / 100, hundredths % 100)
        }
    }
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
