//! The question most callers have: one guest, one path, what will happen, and how sure is that?
//!
//! Every input that is not known exactly carries its spread. The model is run once with the central
//! values and once per point of a low-discrepancy sequence with all inputs moved within their spreads;
//! the intervals are the 5th to the 95th percentile of those runs. Nothing is assumed about the shape
//! of the answer, which matters near the edge of convergence, where one half of the runs ends soon and
//! the other never: a run without an end counts as infinite, and [`Estimate::p_converge`] says how many
//! there were.

mod cloud;
mod facts;

use serde::Serialize;

pub use facts::{Bandwidth, Correction, Dirty, Facts, Uncertainty};

use crate::error::{self, Error};
use crate::migration::{self, Prediction};
use crate::precopy::LONG;
use crate::uncertainty::quantile;
use cloud::Cloud;

/// A 90 % interval: one in twenty lies below it, one in twenty above.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Half lie below.
    #[serde(serialize_with = "crate::number::serialize")]
    pub median: f64,
    /// The 5th percentile.
    #[serde(serialize_with = "crate::number::serialize")]
    pub low: f64,
    /// The 95th percentile.
    #[serde(serialize_with = "crate::number::serialize")]
    pub high: f64,
}

impl Interval {
    /// Does a measured value lie in it, ends included?
    #[must_use]
    pub fn contains(&self, measured: f64) -> bool {
        self.low <= measured && measured <= self.high
    }

    /// How far the farther end lies from the median, as a share of the median; infinite for an interval
    /// without end.
    #[must_use]
    pub fn relative_width(&self) -> f64 {
        if self.high.is_infinite() {
            return f64::INFINITY;
        }
        let farther = (self.high - self.median).max(self.median - self.low);
        if farther > 0.0 { farther / self.median } else { 0.0 }
    }

    fn of(values: &mut [f64]) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        Self { median: quantile(values, 500), low: quantile(values, 50), high: quantile(values, 950) }
    }
}

/// What will happen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Does the migration converge, with the central values?
    pub converges: bool,
    /// The chance that it converges within the horizon, 0 to 1.
    pub p_converge: f64,
    /// Total time, seconds.
    pub time_s: Interval,
    /// Downtime, from stopped to running vCPUs, seconds.
    pub downtime_s: Interval,
    /// Longest silence an outside observer must expect, seconds.
    pub service_gap_s: Interval,
    /// Bytes on the wire.
    pub bytes: Interval,
    /// The run with the central values, before the correction.
    pub central: Prediction,
}

/// Predict what `facts` lead to.
///
/// # Errors
/// [`Error`] names the first number that makes no sense.
pub fn estimate(facts: &Facts) -> Result<Estimate, Error> {
    facts.uncertainty.check()?;
    for (name, ratio) in [
        ("correction.time", facts.correction.time),
        ("correction.downtime", facts.correction.downtime),
        ("correction.bytes", facts.correction.bytes),
    ] {
        error::factor(name, ratio)?;
    }
    let base = facts.migration()?;
    let throughput = facts.throughput(&base.path)?;
    let central = migration::over(&base, &throughput, LONG);
    let mut cloud = Cloud::around(facts, &base, &throughput, &central.outcome);
    Ok(Estimate {
        converges: central.outcome.converged,
        p_converge: cloud.converged(),
        time_s: Interval::of(&mut cloud.time),
        downtime_s: Interval::of(&mut cloud.downtime),
        service_gap_s: Interval::of(&mut cloud.gap),
        bytes: Interval::of(&mut cloud.bytes),
        central,
    })
}

#[cfg(test)]
mod tests;
