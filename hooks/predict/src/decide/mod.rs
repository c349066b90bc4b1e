//! May this guest move, how, and what would change the answer?
//!
//! ```text
//!  placement fails a check ─────────────────────────────► refuse
//!  a way of moving keeps the policy now ────────────────► proceed, or proceed-with it
//!  one does in a forecast slot before the deadline ─────► defer until then
//!  a cold move keeps the policy ────────────────────────► proceed-with it
//!  none of these ───────────────────────────────────────► refuse
//! ```
//!
//! Ways of moving are tried in the order of the harm they do; "keeps the policy" means as things look
//! *and* with the policy's probability when inputs are off. Every verdict carries numbers that would
//! change it ([`Verdict::changes`]), each found by asking the same question again with that number:
//! a refusal says what would be enough, a permission how close it was.

mod candidate;
mod change;
mod policy;

use std::fmt;

use serde::Serialize;

pub use candidate::{How, Reason};
pub use change::{Change, Lever};
pub use policy::{Features, Policy, Request, Slot};

use crate::disk;
use crate::error::Error;
use crate::path;
use crate::preflight;
use candidate::{Judgement, judge, permitted, variant};

/// The four answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Decision {
    /// Move, as asked.
    Proceed,
    /// Move, in the way named.
    ProceedWith,
    /// Not now; later.
    Defer,
    /// No.
    Refuse,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proceed => "proceed",
            Self::ProceedWith => "proceed-with",
            Self::Defer => "defer",
            Self::Refuse => "refuse",
        })
    }
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Which of the four.
    pub decision: Decision,
    /// How to move; nothing when refused.
    #[serde(serialize_with = "how_or_empty")]
    pub how: Option<How>,
    /// What speaks against plain pre-copy now or, when refused, against every way that is permitted.
    pub reasons: Vec<Reason>,
    /// When deferred: how long, seconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_s: Option<f64>,
    /// The expected total time, seconds, unless refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_s: Option<f64>,
    /// The expected downtime, seconds, unless refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_s: Option<f64>,
    /// The chance of keeping deadline and downtime, unless refused or cold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p_both: Option<f64>,
    /// Numbers that would change the answer.
    pub changes: Vec<Change>,
}

fn how_or_empty<S: serde::Serializer>(how: &Option<How>, out: S) -> Result<S::Ok, S::Error> {
    match how {
        Some(how) => how.serialize(out),
        None => out.serialize_str(""),
    }
}

impl Verdict {
    fn refuse(reasons: Vec<Reason>) -> Self {
        Self {
            decision: Decision::Refuse,
            how: None,
            reasons,
            until_s: None,
            total_s: None,
            downtime_s: None,
            p_both: None,
            changes: Vec::new(),
        }
    }

    fn accept(decision: Decision, how: How, judgement: &Judgement, reasons: Vec<Reason>) -> Self {
        let outcome = &judgement.prediction.outcome;
        Self {
            decision,
            how: Some(how),
            total_s: Some(outcome.total_s),
            downtime_s: Some(outcome.downtime_s),
            p_both: judgement.odds.map(|odds| odds.p_both),
            ..Self::refuse(reasons)
        }
    }
}

/// Answer `request`.
///
/// # Errors
/// [`Error`] names the first number of the request that makes no sense.
pub fn decide(request: &Request) -> Result<Verdict, Error> {
    request.check()?;
    if let Some((needs, host)) = &request.placement {
        let report = preflight::check(needs, host)?;
        if !report.ok {
            let reasons = report.fails.iter().copied().map(Reason::Preflight).collect();
            return Ok(Verdict { changes: change::of_preflight(&report), ..Verdict::refuse(reasons) });
        }
    }
    let mut verdict = settle(request)?;
    verdict.changes = change::of_verdict(request, &verdict)?;
    Ok(verdict)
}

/// The verdict on a request whose placement is fine, without the numbers that would change it.
fn settle(request: &Request) -> Result<Verdict, Error> {
    let Tried { good, against } = try_all(request)?;
    let against_precopy = against.first().cloned().unwrap_or_default();
    if let Some((how, judgement)) = good {
        let throttled = request.policy.allowed_share < 1.0;
        let (decision, how) = match how {
            How::PreCopy if throttled => (Decision::ProceedWith, How::ThrottledBandwidth),
            How::PreCopy => (Decision::Proceed, How::PreCopy),
            other => (Decision::ProceedWith, other),
        };
        return Ok(Verdict::accept(decision, how, &judgement, against_precopy));
    }
    for slot in &request.forecast {
        let Some(later) = seen_from(request, slot) else { continue };
        if let Some((how, judgement)) = try_all(&later)?.good {
            let deferred = Verdict::accept(Decision::Defer, how, &judgement, against_precopy);
            return Ok(Verdict { until_s: Some(slot.offset_s), ..deferred });
        }
    }
    if let Some(cold) = try_cold(request)? {
        return Ok(Verdict { reasons: against_precopy, ..cold });
    }
    let mut reasons: Vec<Reason> = against.into_iter().flatten().collect();
    reasons.sort_by_key(|reason| reason.code());
    reasons.dedup();
    Ok(Verdict::refuse(reasons))
}

/// What became of trying every permitted way of moving.
#[derive(Debug, Default)]
struct Tried {
    /// The first that keeps the policy.
    good: Option<(How, Judgement)>,
    /// What speaks against each that was tried before it; plain pre-copy comes first.
    against: Vec<Vec<Reason>>,
}

fn try_all(request: &Request) -> Result<Tried, Error> {
    let mut tried = Tried::default();
    for how in permitted(&request.features) {
        let judgement = judge(&variant(request, how), &request.policy)?;
        if judgement.reasons.is_empty() {
            tried.good = Some((how, judgement));
            break;
        }
        tried.against.push(judgement.reasons);
    }
    Ok(tried)
}

/// The request as it will be in `slot`; nothing if the deadline has passed by then.
fn seen_from(request: &Request, slot: &Slot) -> Option<Request> {
    let mut later = request.clone();
    later.policy.deadline_s -= slot.offset_s;
    later.migration.path.link_rate *= slot.link_factor;
    for class in &mut later.migration.memory.classes {
        class.touch_rate *= slot.dirty_factor;
    }
    (later.policy.deadline_s > 0.0).then_some(later)
}

/// A cold move, if the policy allows it and it keeps the policy.
fn try_cold(request: &Request) -> Result<Option<Verdict>, Error> {
    let policy = &request.policy;
    if !policy.allow_cold {
        return Ok(None);
    }
    let migration = variant(request, How::Cold);
    let rate = path::throughput(&migration.path)?.run_rate;
    let cold = disk::cold_move(&migration.memory, &migration.disk, rate, policy.boot_s)?;
    let bearable = policy.max_cold_downtime_s.is_none_or(|limit| cold.downtime_s <= limit);
    Ok((cold.total_s <= policy.deadline_s && bearable).then(|| Verdict {
        decision: Decision::ProceedWith,
        how: Some(How::Cold),
        total_s: Some(cold.total_s),
        downtime_s: Some(cold.downtime_s),
        ..Verdict::refuse(Vec::new())
    }))
}

#[cfg(test)]
mod tests;
