//! The numbers that would change a verdict.
//!
//! Each number is found by putting the question again with one lever moved: doubling until the verdict is
//! another one, then halving the gap to one per cent. The number reported is one at which the verdict
//! *was* another one, not an extrapolation. Forecast slots are left out of these questions: they ask
//! about now.

use std::fmt;

use serde::Serialize;

use super::{Decision, How, Request, Verdict, settle};
use crate::error::Error;
use crate::preflight::{self, Check};

/// Levers are moved by at most this many doublings, alone and together.
const ALONE: u32 = 10;
const TOGETHER: u32 = 20;
/// Halvings of the last doubling: a gap of 2^(1/64), one per cent.
const HALVINGS: u32 = 6;

/// Something whose value the verdict hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lever {
    /// The hypervisor's downtime limit, seconds; the silence that the policy bears moves in proportion.
    DowntimeLimit,
    /// The link's rate, bytes/s, and with it any share of it.
    Bandwidth,
    /// What all classes touch, bytes/s.
    DirtyRate,
    /// The deadline, seconds from now.
    Deadline,
    /// The guest's disk writes, bytes/s.
    DiskWrites,
    /// The budget, in the unit of the price.
    Budget,
    /// The throttle that is bearable, per cent.
    Throttle,
    /// The wait for pages that is bearable, seconds.
    FaultStall,
    /// The probability asked for.
    MinProbability,
    /// The share of the link it may take.
    AllowedShare,
    /// The start, seconds from now.
    Start,
    /// A check of the destination; the number is in the check's unit.
    Preflight(Check),
}

/// The levers that are moved in search, in the order in which they are reported.
const SEARCHED: [Lever; 10] = [
    Lever::DowntimeLimit,
    Lever::Bandwidth,
    Lever::DirtyRate,
    Lever::Deadline,
    Lever::DiskWrites,
    Lever::Budget,
    Lever::Throttle,
    Lever::FaultStall,
    Lever::MinProbability,
    Lever::AllowedShare,
];

impl Lever {
    /// What it is called, with its unit.
    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::DowntimeLimit => ("downtime limit", " s"),
            Self::Bandwidth => ("link rate", " bytes/s"),
            Self::DirtyRate => ("dirty rate", " bytes/s"),
            Self::Deadline => ("deadline", " s"),
            Self::DiskWrites => ("disk writes", " bytes/s"),
            Self::Budget => ("budget", ""),
            Self::Throttle => ("bearable throttle", " %"),
            Self::FaultStall => ("bearable wait for pages", " s"),
            Self::MinProbability => ("probability asked for", ""),
            Self::AllowedShare => ("share of the link", ""),
            Self::Start => ("start in", " s"),
            Self::Preflight(check) => (check.code(), ""),
        }
    }
}

/// A silence, wait or deadline of nothing cannot be doubled: levers start from at least this, seconds.
const LEAST_S: f64 = 0.001;

impl Lever {
    /// Where it is in `request`; nothing if it has no part in it.
    fn value(self, request: &Request) -> Option<f64> {
        let (migration, policy) = (&request.migration, &request.policy);
        let moving = |value: f64| (value > 0.0).then_some(value);
        match self {
            Self::DowntimeLimit => Some(migration.tuning.downtime_limit_s.min(policy.max_downtime_s)),
            Self::Bandwidth => Some(migration.path.link_rate),
            Self::DirtyRate => moving(migration.memory.classes.iter().map(|class| class.touch_rate).sum()),
            Self::Deadline => Some(policy.deadline_s),
            Self::DiskWrites => moving(if migration.disk.shared { 0.0 } else { migration.disk.write_rate }),
            Self::Budget => policy.budget,
            Self::Throttle => request.features.auto_converge.then_some(policy.max_throttle_pct),
            Self::FaultStall => policy.max_fault_stall_s.filter(|_| request.features.postcopy),
            Self::MinProbability => Some(policy.min_p),
            Self::AllowedShare => Some(policy.allowed_share),
            Self::Start | Self::Preflight(_) => None,
        }
    }

    /// Move it by `factor`: above 1 to where more is permitted. Values stay in the range that is accepted.
    fn apply(self, request: &mut Request, factor: f64) {
        let (migration, policy) = (&mut request.migration, &mut request.policy);
        let seconds = |value: f64| (value.max(LEAST_S) * factor).min(2e8);
        match self {
            Self::DowntimeLimit => {
                let limit_s = migration.tuning.downtime_limit_s.min(policy.max_downtime_s);
                migration.tuning.downtime_limit_s = seconds(limit_s);
                policy.max_downtime_s = seconds(policy.max_downtime_s);
            }
            Self::Bandwidth => {
                migration.path.link_rate = (migration.path.link_rate * factor).min(1e15);
                migration.path.max_bandwidth = (migration.path.max_bandwidth * factor).min(1e15);
            }
            Self::DirtyRate => {
                for class in &mut migration.memory.classes {
                    class.touch_rate = (class.touch_rate / factor).min(1e15);
                }
            }
            Self::Deadline => policy.deadline_s = seconds(policy.deadline_s),
            Self::DiskWrites => migration.disk.write_rate = (migration.disk.write_rate / factor).min(1e15),
            Self::Budget => policy.budget = policy.budget.map(|budget| budget.max(0.01) * factor),
            Self::Throttle => {
                policy.max_throttle_pct = (policy.max_throttle_pct.max(1.0) * factor).min(100.0)
            }
            Self::FaultStall => policy.max_fault_stall_s = policy.max_fault_stall_s.map(seconds),
            Self::MinProbability => policy.min_p = (policy.min_p / factor).min(1.0),
            Self::AllowedShare => policy.allowed_share = (policy.allowed_share * factor).min(1.0),
            Self::Start | Self::Preflight(_) => {}
        }
    }
}

/// A lever, where it is, and where the verdict would be another one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// What is moved.
    pub lever: Lever,
    /// Where it is.
    pub now: f64,
    /// Where the verdict changes.
    pub at: f64,
    /// What it changes to.
    pub to: Decision,
    /// Is this enough alone? Otherwise all changes listed as not enough alone are needed together.
    pub alone: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = self.lever.describe();
        let together = if self.alone { "" } else { ", with the others," };
        write!(
            f,
            "{name} {}{unit} instead of {}{unit}{together}: {}",
            short(self.at),
            short(self.now),
            self.to
        )
    }
}

/// A number with four significant digits, without an exponent where a person would not use one.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e7 => format!("{value:.3e}"),
        size if size >= 1000.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Which way a lever is moved: to where more is permitted, or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Toward {
    Yes,
    No,
}

impl Toward {
    /// The factor of the `exponent`-th doubling; above 1 a lever is moved to where more is permitted.
    fn factor(self, exponent: f64) -> f64 {
        match self {
            Self::Yes => exponent.exp2(),
            Self::No => (-exponent).exp2(),
        }
    }
}

/// What would make a failed placement pass.
pub(super) fn of_preflight(report: &preflight::Report) -> Vec<Change> {
    let hard = report.failures.iter().filter(|failure| !failure.check.is_warning());
    let alone = hard.clone().count() == 1;
    hard.map(|failure| Change {
        lever: Lever::Preflight(failure.check),
        now: failure.has,
        at: failure.wants,
        to: Decision::Proceed,
        alone,
    })
    .collect()
}

/// What would change `verdict` on `request`.
pub(super) fn of_verdict(request: &Request, verdict: &Verdict) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    if let Some(until_s) = verdict.until_s {
        let plain = verdict.how == Some(How::PreCopy) && request.policy.allowed_share >= 1.0;
        let to = if plain { Decision::Proceed } else { Decision::ProceedWith };
        changes.push(Change { lever: Lever::Start, now: 0.0, at: until_s, to, alone: true });
    }
    let request = Request { forecast: Vec::new(), ..request.clone() };
    let settled = settle(&request)?;
    let search = Search { answer: (settled.decision, settled.how), request };
    let directions: &[Toward] = match verdict.decision {
        Decision::Proceed => &[Toward::No],
        Decision::ProceedWith => &[Toward::Yes, Toward::No],
        Decision::Defer | Decision::Refuse => &[Toward::Yes],
    };
    for toward in directions {
        changes.extend(SEARCHED.iter().flat_map(|lever| search.find(&[*lever], ALONE, *toward)));
    }
    if changes.is_empty() {
        changes.extend(search.find(&SEARCHED, TOGETHER, Toward::Yes));
    }
    Ok(changes)
}

/// A request and the answer to it, against which moved requests are held.
struct Search {
    request: Request,
    answer: (Decision, Option<How>),
}

impl Search {
    /// Move `levers` together until the answer is another one; nothing if it stays the same.
    fn find(&self, levers: &[Lever], doublings: u32, toward: Toward) -> Vec<Change> {
        let movable: Vec<Lever> =
            levers.iter().copied().filter(|lever| lever.value(&self.request).is_some()).collect();
        if movable.is_empty() {
            return Vec::new();
        }
        let Some(last) = (1..=doublings).find(|k| self.ask(&movable, toward, f64::from(*k)).is_some()) else {
            return Vec::new();
        };
        let (mut same, mut other) = (f64::from(last - 1), f64::from(last));
        for _ in 0..HALVINGS {
            let middle = 0.5 * (same + other);
            if self.ask(&movable, toward, middle).is_some() {
                other = middle;
            } else {
                same = middle;
            }
        }
        let needed = self.without_idle(movable, toward, other);
        let Some((moved, to)) = self.ask(&needed, toward, other) else { return Vec::new() };
        let change = |lever: &Lever| {
            let (now, at) = (lever.value(&self.request)?, lever.value(&moved)?);
            Some(Change { lever: *lever, now, at, to, alone: needed.len() == 1 })
        };
        needed.iter().filter_map(change).collect()
    }

    /// `levers` without those that change nothing where they are moved to.
    fn without_idle(&self, mut levers: Vec<Lever>, toward: Toward, exponent: f64) -> Vec<Lever> {
        for lever in levers.clone() {
            let others: Vec<Lever> = levers.iter().copied().filter(|other| *other != lever).collect();
            if self.ask(&others, toward, exponent).is_some() {
                levers = others;
            }
        }
        levers
    }

    /// The request with `levers` moved, and its answer if that is another one.
    fn ask(&self, levers: &[Lever], toward: Toward, exponent: f64) -> Option<(Request, Decision)> {
        let mut moved = self.request.clone();
        for lever in levers {
            lever.apply(&mut moved, toward.factor(exponent));
        }
        // A value at the end of its range stays where it is, and so does the answer.
        if levers.iter().all(|lever| lever.value(&moved) == lever.value(&self.request)) {
            return None;
        }
        let verdict = settle(&moved).ok()?;
        ((verdict.decision, verdict.how) != self.answer).then_some((moved, verdict.decision))
    }
}
