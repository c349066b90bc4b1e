//! The ways to move a guest, in the order of the harm they do, and whether one of them keeps the policy.

use serde::Serialize;

use super::policy::{Features, Policy, Request};
use crate::error::Error;
use crate::migration::{self, Diverges, Migration, Prediction};
use crate::path;
use crate::precopy::{LONG, Mode};
use crate::preflight::Check;
use crate::uncertainty::{self, Odds};

/// How a guest is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Plain pre-copy.
    #[serde(rename = "precopy")]
    PreCopy,
    /// Pre-copy with a cap on its bandwidth.
    ThrottledBandwidth,
    /// Pre-copy over several connections.
    Multifd,
    /// Pre-copy with compression.
    Compress,
    /// Pre-copy that throttles the guest.
    AutoConverge,
    /// Post-copy.
    #[serde(rename = "postcopy")]
    PostCopy,
    /// Suspended, moved and started again.
    Cold,
}

/// The candidates, least harmful first.
const CANDIDATES: [How; 5] = [How::PreCopy, How::Multifd, How::Compress, How::AutoConverge, How::PostCopy];

/// The candidates that `features` permit, least harmful first.
pub(super) fn permitted(features: &Features) -> impl Iterator<Item = How> {
    let permitted = [true, features.multifd, features.compress, features.auto_converge, features.postcopy];
    CANDIDATES.into_iter().zip(permitted).filter_map(|(how, is)| is.then_some(how))
}

/// Why a way of moving is not good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The guest writes its memory faster than the path carries.
    NoConvergenceMemory,
    /// The guest writes its disk faster than the mirror follows.
    NoConvergenceDisk,
    /// It ends too late.
    Deadline,
    /// The silence is too long.
    Downtime,
    /// The guest would wait too long for pages after post-copy began.
    PostcopyStall,
    /// It costs too much.
    Price,
    /// The guest would be throttled too much.
    GuestSlowdown,
    /// It keeps the policy as things look, but they may be otherwise too often.
    Probability,
    /// The destination fails a check.
    Preflight(Check),
}

impl Reason {
    /// Its name, as reported.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoConvergenceMemory => "NO_CONVERGENCE_MEMORY",
            Self::NoConvergenceDisk => "NO_CONVERGENCE_DISK",
            Self::Deadline => "DEADLINE",
            Self::Downtime => "DOWNTIME",
            Self::PostcopyStall => "POSTCOPY_STALL",
            Self::Price => "PRICE",
            Self::GuestSlowdown => "GUEST_SLOWDOWN",
            Self::Probability => "PROBABILITY",
            Self::Preflight(check) => check.code(),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.code())
    }
}

/// What the policy makes of one way of moving.
#[derive(Debug, Clone)]
pub(super) struct Judgement {
    /// Empty if it is good enough.
    pub(super) reasons: Vec<Reason>,
    pub(super) prediction: Prediction,
    /// Only worked out for what is good enough as things look.
    pub(super) odds: Option<Odds>,
}

/// `request`'s migration done in the way `how`, under the policy's share of the link.
pub(super) fn variant(request: &Request, how: How) -> Migration {
    let (policy, features) = (&request.policy, &request.features);
    let mut migration = request.migration.clone();
    let (tuning, path) = (&mut migration.tuning, &mut migration.path);
    tuning.downtime_limit_s = tuning.downtime_limit_s.min(policy.max_downtime_s);
    // Beyond this it is "never"; from the deadline to here it is "too late", which is a different answer.
    tuning.horizon_s = 4.0 * policy.deadline_s;
    if policy.allowed_share < 1.0 {
        path.max_bandwidth = lower_limit(path.max_bandwidth, policy.allowed_share * path.link_rate);
    }
    match how {
        How::PreCopy | How::ThrottledBandwidth | How::Cold => {}
        How::Multifd => path.streams = features.multifd_channels,
        How::Compress => {
            tuning.compress_ratio = features.compress_ratio;
            // The compressor limits the pages that go in; the path is told what comes out.
            let out_rate = features.compress_rate / features.compress_ratio;
            path.copy_rate = lower_limit(path.copy_rate, out_rate);
        }
        How::AutoConverge => tuning.auto_converge = true,
        How::PostCopy => {
            migration.mode = Mode::PostCopy;
            migration.switch_after_s = policy.postcopy_after_s.unwrap_or(0.25 * policy.deadline_s);
        }
    }
    migration
}

/// The lower of a limit, where 0 is none, and another.
fn lower_limit(limit: f64, other: f64) -> f64 {
    if limit > 0.0 { limit.min(other) } else { other }
}

/// Judge one way of moving, with `policy`'s figures.
pub(super) fn judge(migration: &Migration, policy: &Policy) -> Result<Judgement, Error> {
    migration.check()?;
    let throughput = path::throughput(&migration.path)?;
    let prediction = migration::over(migration, &throughput, LONG);
    let mut reasons = shortcomings(&prediction, policy);
    let mut odds = None;
    if reasons.is_empty() {
        let found = uncertainty::odds(
            migration,
            policy.deadline_s,
            policy.max_downtime_s,
            &policy.noise,
            policy.points,
        )?;
        if found.p_both < policy.min_p {
            reasons.push(Reason::Probability);
        }
        odds = Some(found);
    }
    Ok(Judgement { reasons, prediction, odds })
}

/// What is wrong with a prediction as it stands.
fn shortcomings(prediction: &Prediction, policy: &Policy) -> Vec<Reason> {
    match prediction.diverges {
        Diverges::Memory => return vec![Reason::NoConvergenceMemory],
        Diverges::Disk => return vec![Reason::NoConvergenceDisk],
        Diverges::No => {}
    }
    let outcome = &prediction.outcome;
    let exceeds = |value: f64, limit: Option<f64>| limit.is_some_and(|limit| value > limit);
    [
        (Reason::Deadline, outcome.total_s > policy.deadline_s),
        (Reason::Downtime, outcome.service_gap_s > policy.max_downtime_s),
        (Reason::PostcopyStall, exceeds(outcome.fault_stall_s, policy.max_fault_stall_s)),
        (Reason::Price, exceeds(policy.price(outcome.wire_bytes), policy.budget)),
        (Reason::GuestSlowdown, outcome.throttle_pct > policy.max_throttle_pct),
    ]
    .into_iter()
    .filter_map(|(reason, applies)| applies.then_some(reason))
    .collect()
}
