//! The points around the central values, and what came of each of them.

use super::facts::{Facts, Uncertainty, zero_frac};
use crate::migration::{self, Migration};
use crate::path::{self, Throughput};
use crate::precopy::{Outcome, Patience};
use crate::uncertainty::{POINTS, log_sigma, normal_point};

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

/// Futile reads of the dirty log that all points together may take, and the least for one of them. Points
/// that converge leave theirs to those that hover: near the edge, where it matters, a point has several
/// hundred, and where no point converges the answer does not wait for them.
const ALL_READS: Patience = 8192;
const LEAST_READS: Patience = 64;

/// Reads of the dirty log that a run has taken.
fn reads(outcome: &Outcome) -> Patience {
    Patience::try_from(outcome.syncs).unwrap_or(Patience::MAX)
}

/// The answers of all points.
#[derive(Debug, Default)]
pub(super) struct Cloud {
    converged: u32,
    pub(super) time: Vec<f64>,
    pub(super) downtime: Vec<f64>,
    pub(super) gap: Vec<f64>,
    pub(super) bytes: Vec<f64>,
}

impl Cloud {
    /// Follow all points around `base`, whose own run was `central`.
    pub(super) fn around(facts: &Facts, base: &Migration, thought: &Throughput, central: &Outcome) -> Self {
        // What the central run needed the points may need, and half as much again for worse inputs.
        let least = if central.converged { reads(central) / 2 * 3 } else { 0 }.max(LEAST_READS);
        let mut left = ALL_READS;
        let mut cloud = Self::default();
        let mut moved = base.clone();
        for index in 1..=POINTS {
            let point = Point::new(&facts.uncertainty, index);
            point.apply(base, facts.nonzero_bytes, &mut moved);
            // A path so slow that it is not modelled is a path that does not carry the guest.
            let Ok(throughput) = path::scaled(&base.path, thought, point.bandwidth) else {
                cloud.never();
                continue;
            };
            let patience = (left / (POINTS + 1 - index)).max(least);
            let outcome = migration::over(&moved, &throughput, patience).outcome;
            left = left.saturating_sub(reads(&outcome).min(patience));
            cloud.add(&outcome, facts, &point);
        }
        cloud
    }

    /// The share of the points that converged.
    pub(super) fn converged(&self) -> f64 {
        f64::from(self.converged) / f64::from(POINTS)
    }

    fn add(&mut self, outcome: &Outcome, facts: &Facts, point: &Point) {
        if !outcome.converged {
            return self.never();
        }
        let correction = &facts.correction;
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
    use crate::estimate::{Bandwidth, Dirty, estimate};
    use crate::guest::Class;
    use crate::precopy::LONG;

    #[test]
    fn nine_in_ten_worlds_drawn_from_the_spread_lie_in_the_interval() {
        let class = Class { working_set: 200e6, touch_rate: 20e6, pattern: Pattern::Uniform, cpu_share: 0.0 };
        let path = Bandwidth::Measured { rate: 117e6, cap: None, rtt_s: 0.0005 };
        let facts = Facts::new(4e9, Dirty::Classes(vec![class]), path);
        let answer = estimate(&facts).unwrap();
        let base = facts.migration().unwrap();
        let thought = facts.throughput(&base.path).unwrap();
        let mut world = base.clone();
        let (mut in_time, mut in_downtime, mut in_bytes) = (0, 0, 0);
        // Points that the estimate has not used.
        let worlds = 1000;
        for index in 1..=worlds {
            let point = Point::new(&facts.uncertainty, 64 + index);
            point.apply(&base, facts.nonzero_bytes, &mut world);
            let throughput = path::scaled(&base.path, &thought, point.bandwidth).unwrap();
            let truth = migration::over(&world, &throughput, LONG).outcome;
            in_time += i32::from(answer.time_s.contains(truth.total_s * point.time));
            in_downtime += i32::from(answer.downtime_s.contains(truth.downtime_s * point.downtime));
            in_bytes += i32::from(answer.bytes.contains(truth.wire_bytes * point.bytes));
        }
        for inside in [in_time, in_downtime, in_bytes] {
            assert!((860..=940).contains(&inside), "{in_time} {in_downtime} {in_bytes} of {worlds}");
        }
    }
}
