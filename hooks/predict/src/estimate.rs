//! The question most callers have: one guest, one path, what will happen, and how sure is that?
//!
//! Every input that is not known exactly carries its spread. The model is run once with the central
//! values and once per point of a low-discrepancy sequence with all inputs moved within their spreads;
//! the intervals are the 5th to the 95th percentile of those runs. Nothing is assumed about the shape
//! of the answer, which matters near the edge of convergence, where one half of the runs ends soon and
//! the other never: a run without an end counts as infinite, and [`Estimate::p_converge`] says how many
//! there were.

use serde::{Deserialize, Serialize};

use crate::dirty::{self, Sample};
use crate::disk::Disk;
use crate::error::{self, Error};
use crate::guest::{Class, Memory};
use crate::migration::{self, Migration, Prediction};
use crate::path::{self, Path, Throughput};
use crate::precopy::{Mode, Outcome, Patience};
use crate::tuning::Tuning;
use crate::uncertainty::{POINTS, log_sigma, normal_point, quantile};

/// What is known about the guest's writing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dirty {
    /// Classes that were worked out already; none for an idle guest.
    Classes(Vec<Class>),
    /// Measured points of the dirty curve, to which one class is fitted.
    Samples(Vec<Sample>),
}

/// What is known about the path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bandwidth {
    /// Its description; the payload rate follows from it.
    Described(Path),
    /// A measured payload rate.
    Measured {
        /// What a probe got through, bytes/s.
        rate: f64,
        /// The cap to be set on the migration, bytes/s.
        cap: Option<f64>,
        /// Round trip, seconds.
        rtt_s: f64,
    },
}

/// The learned remainder: measured divided by predicted, from earlier moves between the same hosts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Correction {
    /// Of the total time.
    pub time: f64,
    /// Of the downtime.
    pub downtime: f64,
    /// Of the bytes on the wire.
    pub bytes: f64,
}

impl Default for Correction {
    fn default() -> Self {
        Self { time: 1.0, downtime: 1.0, bytes: 1.0 }
    }
}

/// How far off each input can be: coefficients of variation of log-normal factors with median 1, unless a
/// name says otherwise. The defaults of the model's own errors are those it had on real migrations
/// with known inputs; a pair of hosts with a record should use its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uncertainty {
    /// Of the path's rate; a cap is a setting and has none.
    pub bandwidth_cv: f64,
    /// Of the touch rates.
    pub rate_cv: f64,
    /// Of the working sets.
    pub working_set_cv: f64,
    /// Of the bytes that are not zero.
    pub nonzero_cv: f64,
    /// Of the fixed costs: set-up, stop, resume and the reading of the dirty log.
    pub fixed_cv: f64,
    /// Standard deviation of what a busy host adds to or takes from the stop phase, seconds.
    pub pause_sd_s: f64,
    /// Of what the model itself gets wrong in the total time.
    pub model_time_cv: f64,
    /// Of what the model itself gets wrong in the downtime.
    pub model_downtime_cv: f64,
    /// Of what the model itself gets wrong in the bytes.
    pub model_bytes_cv: f64,
}

impl Default for Uncertainty {
    fn default() -> Self {
        Self {
            bandwidth_cv: 0.1,
            rate_cv: 0.2,
            working_set_cv: 0.2,
            nonzero_cv: 0.02,
            fixed_cv: 0.2,
            pause_sd_s: 0.01,
            model_time_cv: 0.06,
            model_downtime_cv: 0.1,
            model_bytes_cv: 0.05,
        }
    }
}

impl Uncertainty {
    /// Everything is known exactly: the interval is a point.
    pub const NONE: Self = Self {
        bandwidth_cv: 0.0,
        rate_cv: 0.0,
        working_set_cv: 0.0,
        nonzero_cv: 0.0,
        fixed_cv: 0.0,
        pause_sd_s: 0.0,
        model_time_cv: 0.0,
        model_downtime_cv: 0.0,
        model_bytes_cv: 0.0,
    };

    fn check(&self) -> Result<(), Error> {
        error::variation("bandwidth_cv", self.bandwidth_cv)?;
        error::variation("rate_cv", self.rate_cv)?;
        error::variation("working_set_cv", self.working_set_cv)?;
        error::variation("nonzero_cv", self.nonzero_cv)?;
        error::variation("fixed_cv", self.fixed_cv)?;
        error::seconds("pause_sd_s", self.pause_sd_s)?;
        error::variation("model_time_cv", self.model_time_cv)?;
        error::variation("model_downtime_cv", self.model_downtime_cv)?;
        error::variation("model_bytes_cv", self.model_bytes_cv)
    }
}

/// Everything known about one guest, one path and one pair of hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// RAM, bytes.
    pub ram_bytes: f64,
    /// RAM that is not zero pages, bytes; the hypervisor's resident size is an upper bound.
    pub nonzero_bytes: f64,
    /// The guest's writing.
    pub dirty: Dirty,
    /// The path.
    pub bandwidth: Bandwidth,
    /// Settings (downtime limit, horizon, …) and calibrated constants (stop, resume, device state, …).
    #[serde(default)]
    pub tuning: Tuning,
    /// The guest's disk.
    #[serde(default = "Disk::shared")]
    pub disk: Disk,
    /// When to switch to post-copy, seconds after the memory phase began; absent: not at all.
    #[serde(default)]
    pub postcopy_after_s: Option<f64>,
    /// The learned remainder.
    #[serde(default)]
    pub correction: Correction,
    /// How far off all this can be.
    #[serde(default)]
    pub uncertainty: Uncertainty,
}

impl Facts {
    /// A guest of which nothing but its memory is known, over a measured path: no zero pages, shared disk,
    /// defaults for the rest.
    #[must_use]
    pub fn new(ram_bytes: f64, dirty: Dirty, bandwidth: Bandwidth) -> Self {
        Self {
            ram_bytes,
            nonzero_bytes: ram_bytes,
            dirty,
            bandwidth,
            tuning: Tuning::default(),
            disk: Disk::shared(),
            postcopy_after_s: None,
            correction: Correction::default(),
            uncertainty: Uncertainty::default(),
        }
    }

    /// The migration with central values: what [`migration::predict`] follows, and what
    /// [`crate::decide::decide`] judges.
    ///
    /// # Errors
    /// [`Error`] names the first number that makes no sense.
    pub fn migration(&self) -> Result<Migration, Error> {
        error::bytes("ram_bytes", self.ram_bytes)?;
        error::bytes("nonzero_bytes", self.nonzero_bytes)?;
        let mut memory = Memory {
            ram_bytes: self.ram_bytes,
            zero_frac: zero_frac(self.ram_bytes, self.nonzero_bytes),
            classes: match &self.dirty {
                Dirty::Classes(classes) => classes.clone(),
                Dirty::Samples(samples) => vec![fitted(samples, self.ram_bytes)?],
            },
        };
        memory.fit_classes(memory.nonzero_bytes());
        let migration = Migration {
            tuning: self.tuning.clone(),
            disk: self.disk.clone(),
            mode: if self.postcopy_after_s.is_some() { Mode::PostCopy } else { Mode::PreCopy },
            switch_after_s: self.postcopy_after_s.unwrap_or(0.0),
            ..Migration::new(memory, self.path())
        };
        migration.check()?;
        Ok(migration)
    }

    fn path(&self) -> Path {
        match &self.bandwidth {
            Bandwidth::Described(path) => path.clone(),
            Bandwidth::Measured { rate, cap, rtt_s } => {
                Path { rtt_s: *rtt_s, max_bandwidth: cap.unwrap_or(0.0), ..Path::ethernet(*rate) }
            }
        }
    }

    /// What the path carries when its rate is `factor` times what was thought.
    fn throughput(&self, factor: f64) -> Result<Throughput, Error> {
        let mut path = self.path();
        path.link_rate *= factor;
        match self.bandwidth {
            Bandwidth::Described(_) => path::throughput(&path),
            Bandwidth::Measured { .. } => path::measured(&path),
        }
    }
}

fn zero_frac(ram_bytes: f64, nonzero_bytes: f64) -> f64 {
    if ram_bytes > 0.0 { (1.0 - nonzero_bytes / ram_bytes).max(0.0) } else { 0.0 }
}

/// One class through measured samples. Where the samples show only a full set, its rate is taken to be five
/// sets per shortest interval: more than the least that fits, and nothing measured speaks against it.
fn fitted(samples: &[Sample], ram_bytes: f64) -> Result<Class, Error> {
    let mut class = Class::from(dirty::fit(samples, ram_bytes)?);
    if dirty::rate_is_lower_bound(samples) {
        let shortest_s = samples.iter().map(|s| s.interval_s).fold(f64::INFINITY, f64::min);
        class.touch_rate = class.touch_rate.max(5.0 * class.working_set / shortest_s);
    }
    Ok(class)
}

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
        let farther = (self.high - self.median).max(self.median - self.low);
        if farther > 0.0 {
            farther / self.median
        } else if self.median.is_finite() {
            0.0
        } else {
            f64::INFINITY
        }
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
    /// The run with the central values, before the correction. One that does not converge was not followed
    /// to the horizon: its bytes are those sent until that was clear.
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
    let central = migration::over(&base, &facts.throughput(1.0)?, CENTRAL_READS);
    let mut cloud = Cloud::default();
    let mut moved = base.clone();
    for index in 1..=POINTS {
        let point = Point::new(&facts.uncertainty, index);
        point.apply(&base, facts.nonzero_bytes, &mut moved);
        // A path so slow that it is not modelled is a path that does not carry the guest.
        let Ok(throughput) = facts.throughput(point.bandwidth) else {
            cloud.never();
            continue;
        };
        let patience = cloud.patience(POINTS + 1 - index);
        let outcome = migration::over(&moved, &throughput, patience).outcome;
        cloud.reads += Patience::try_from(outcome.syncs).map_or(patience, |reads| reads.min(patience));
        cloud.add(&outcome, facts, &point);
    }
    Ok(Estimate {
        converges: central.outcome.converged,
        p_converge: f64::from(cloud.converged) / f64::from(POINTS),
        time_s: Interval::of(&mut cloud.time),
        downtime_s: Interval::of(&mut cloud.downtime),
        service_gap_s: Interval::of(&mut cloud.gap),
        bytes: Interval::of(&mut cloud.bytes),
        central,
    })
}

/// One point of the sequence: a factor for each input. Each has its own prime, so that they move
/// independently of each other; the three remainders of the model share one, as they are never combined.
#[derive(Debug)]
struct Point {
    bandwidth: f64,
    rate: f64,
    working_set: f64,
    nonzero: f64,
    fixed: f64,
    pause_s: f64,
    time: f64,
    downtime: f64,
    bytes: f64,
}

impl Point {
    fn new(spread: &Uncertainty, index: u32) -> Self {
        let factor = |cv: f64, z: f64| (log_sigma(cv) * z).exp();
        let drawn = |cv: f64, base: u32| factor(cv, normal_point(index, base));
        let model = normal_point(index, 17);
        Self {
            bandwidth: drawn(spread.bandwidth_cv, 2),
            rate: drawn(spread.rate_cv, 3),
            working_set: drawn(spread.working_set_cv, 5),
            nonzero: drawn(spread.nonzero_cv, 7),
            fixed: drawn(spread.fixed_cv, 11),
            pause_s: spread.pause_sd_s * normal_point(index, 13),
            time: factor(spread.model_time_cv, model),
            downtime: factor(spread.model_downtime_cv, model),
            bytes: factor(spread.model_bytes_cv, model),
        }
    }

    /// Turn `moved` into `base` seen from this point.
    fn apply(&self, base: &Migration, nonzero_bytes: f64, moved: &mut Migration) {
        moved.memory.scale_from(&base.memory, self.rate, self.working_set);
        moved.memory.zero_frac = zero_frac(base.memory.ram_bytes, nonzero_bytes * self.nonzero);
        let room = moved.memory.nonzero_bytes();
        moved.memory.fit_classes(room);
        let (from, to) = (&base.tuning, &mut moved.tuning);
        to.setup_s = from.setup_s * self.fixed;
        to.sync_s_per_gib = from.sync_s_per_gib * self.fixed;
        // The stop phase is one pause to an observer: where in it the host was busy does not matter.
        to.stop_s = ((from.stop_s + from.resume_s) * self.fixed + self.pause_s).max(0.0);
        to.resume_s = 0.0;
    }
}

/// Reads of the dirty log after which the central run is taken never to converge. Of 235,000 random guests
/// that did converge, the slowest took 1,730.
const CENTRAL_READS: Patience = 2048;

/// The same for all points together, and the least for one of them. Points that converge leave theirs to those
/// that hover: near the edge, where it matters, a point has several hundred, and where no point
/// converges the answer does not wait for them.
const CLOUD_READS: Patience = 8192;
const LEAST_READS: Patience = 64;

/// The answers of all points.
#[derive(Debug, Default)]
struct Cloud {
    /// Reads of the dirty log followed so far.
    reads: Patience,
    converged: u32,
    time: Vec<f64>,
    downtime: Vec<f64>,
    gap: Vec<f64>,
    bytes: Vec<f64>,
}

impl Cloud {
    /// What the next of `points_left` points may take: its share of what is left.
    fn patience(&self, points_left: u32) -> Patience {
        (CLOUD_READS.saturating_sub(self.reads) / points_left.max(1)).max(LEAST_READS)
    }

    fn add(&mut self, outcome: &Outcome, facts: &Facts, point: &Point) {
        let correction = &facts.correction;
        if !outcome.converged {
            return self.never();
        }
        let downtime_s = outcome.downtime_s * correction.downtime * point.downtime;
        self.converged += 1;
        self.time.push(outcome.total_s * correction.time * point.time);
        self.downtime.push(downtime_s);
        self.gap.push(outcome.throttle_stall_s.max(downtime_s + facts.tuning.net_cutover_s));
        self.bytes.push(outcome.wire_bytes * correction.bytes * point.bytes);
    }

    fn never(&mut self) {
        for values in [&mut self.time, &mut self.downtime, &mut self.gap, &mut self.bytes] {
            values.push(f64::INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::Pattern;
    use crate::path::Bound;

    fn facts(working_set: f64, touch_rate: f64) -> Facts {
        let class = Class { working_set, touch_rate, pattern: Pattern::Uniform, cpu_share: 0.0 };
        let path = Bandwidth::Measured { rate: 117e6, cap: None, rtt_s: 0.0005 };
        Facts::new(4e9, Dirty::Classes(vec![class]), path)
    }

    #[test]
    fn exact_inputs_give_a_point_at_the_central_value() {
        let facts = Facts { uncertainty: Uncertainty::NONE, ..facts(100e6, 10e6) };
        let answer = estimate(&facts).unwrap();
        assert_eq!(answer.p_converge, 1.0);
        let total_s = answer.central.outcome.total_s;
        for value in [answer.time_s.low, answer.time_s.median, answer.time_s.high] {
            assert!((value / total_s - 1.0).abs() < 1e-9, "{value} {total_s}");
        }
        assert!(answer.downtime_s.relative_width() < 1e-9);
    }

    #[test]
    fn the_interval_is_as_wide_as_its_only_cause() {
        let only_bandwidth = Uncertainty { bandwidth_cv: 0.1, ..Uncertainty::NONE };
        let idle = Facts { dirty: Dirty::Classes(vec![]), uncertainty: only_bandwidth, ..facts(0.0, 0.0) };
        let time = estimate(&idle).unwrap().time_s;
        // exp(1.645 × 0.0998): the time of an idle guest is its size over the rate.
        assert!((time.high / time.median - 1.178).abs() < 0.02, "{time:?}");
        assert!((time.median / time.low - 1.178).abs() < 0.02, "{time:?}");
    }

    #[test]
    fn a_busy_host_widens_the_downtime_only() {
        let jittery = Uncertainty { pause_sd_s: 0.02, ..Uncertainty::NONE };
        let answer = estimate(&Facts { uncertainty: jittery, ..facts(100e6, 10e6) }).unwrap();
        assert!(answer.downtime_s.high - answer.downtime_s.low > 0.03);
        assert!(answer.time_s.relative_width() < 0.01);
        assert_eq!(answer.bytes.low, answer.bytes.high);
    }

    #[test]
    fn a_guest_near_the_edge_converges_with_a_chance_and_a_hopeless_one_without() {
        let at = |touch_rate: f64| {
            let mut facts = facts(1e9, touch_rate);
            facts.tuning.horizon_s = 300.0;
            estimate(&facts).unwrap()
        };
        let (edge, hopeless) = (at(105e6), at(900e6));
        assert!(edge.p_converge > 0.1 && edge.p_converge < 0.9, "{}", edge.p_converge);
        assert_eq!((hopeless.p_converge, hopeless.converges), (0.0, false));
        assert_eq!(hopeless.time_s.low, f64::INFINITY);
        let written = serde_json::to_string(&hopeless.time_s).unwrap();
        assert_eq!(written, r#"{"median":"inf","low":"inf","high":"inf"}"#);
    }

    #[test]
    fn samples_and_the_class_behind_them_give_the_same_answer() {
        let known = facts(200e6, 30e6);
        let class = Class { working_set: 200e6, touch_rate: 30e6, pattern: Pattern::Uniform, cpu_share: 0.0 };
        let samples = [1.0, 2.0, 5.0].map(|t| Sample { interval_s: t, dirtied: class.dirtied(t) });
        let sampled = Facts { dirty: Dirty::Samples(samples.to_vec()), ..known.clone() };
        let (a, b) = (estimate(&known).unwrap(), estimate(&sampled).unwrap());
        assert!((a.time_s.median / b.time_s.median - 1.0).abs() < 1e-3);
    }

    #[test]
    fn the_correction_moves_the_intervals_and_not_the_model() {
        let mut corrected = facts(100e6, 10e6);
        corrected.correction = Correction { time: 1.2, downtime: 2.0, bytes: 1.0 };
        let (plain, corrected) = (estimate(&facts(100e6, 10e6)).unwrap(), estimate(&corrected).unwrap());
        assert!((corrected.time_s.median / plain.time_s.median - 1.2).abs() < 1e-9);
        assert!((corrected.downtime_s.high / plain.downtime_s.high - 2.0).abs() < 1e-9);
        assert_eq!(corrected.central, plain.central);
    }

    #[test]
    fn a_measured_cap_is_exact_and_ends_with_the_running_phase() {
        let mut capped =
            Facts { uncertainty: Uncertainty { bandwidth_cv: 0.2, ..Uncertainty::NONE }, ..facts(0.0, 0.0) };
        capped.bandwidth = Bandwidth::Measured { rate: 1e9, cap: Some(50e6), rtt_s: 0.0 };
        let answer = estimate(&capped).unwrap();
        assert!(answer.time_s.relative_width() < 0.01, "{:?}", answer.time_s);
        assert_eq!(answer.central.binding, Bound::MaxBandwidth);
        assert!(answer.downtime_s.high < 0.1);
    }
}
