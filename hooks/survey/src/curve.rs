//! The dirty curve: distinct bytes that a guest makes dirty within intervals of several lengths.
//!
//! One rate is not enough: a guest that writes the same page a thousand times looks fast over a short interval and idle
//! over a long one, and a migration sees both. The model fits the size of the written set and the rate of touching to
//! the points measured here.

use std::time::Duration;

use causeway_core::names::DeployId;
use causeway_domain::dirty::{self, DirtyRate, SAMPLES_PER_GIB};
use causeway_domain::{Cause, DomainError, Hypervisor, Operation, Version};
use causeway_predict::dirty::Sample;
use serde::{Deserialize, Serialize};

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Interval lengths, measured one after the other. Those shorter than the QEMU can measure are left out.
    pub periods: Vec<Duration>,
    /// Sampled pages per GiB of RAM, 128 to 16384.
    pub samples_per_gib: u16,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            periods: vec![
                Duration::from_millis(100),
                Duration::from_millis(300),
                Duration::from_secs(1),
                Duration::from_secs(2),
                Duration::from_secs(5),
            ],
            samples_per_gib: SAMPLES_PER_GIB,
        }
    }
}

/// One measured point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Length of the interval.
    pub period: Duration,
    /// Distinct bytes made dirty in it.
    pub distinct_bytes: f64,
    /// Standard deviation of that figure divided by itself: what sampling and rounding alone leave open.
    pub cv: f64,
}

/// The measured points, shortest interval first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirtyCurve {
    /// The points.
    pub points: Vec<Point>,
}

/// Doubt up to which a point is used beside others. A point of twice this doubt moves a fit more than it tells.
const USABLE_CV: f64 = 0.2;

impl DirtyCurve {
    /// The points as the model takes them: all that are sharp enough, and the sharpest one if none is.
    ///
    /// Short intervals of a small or quiet guest rest on a handful of sampled pages; they are left out rather than
    /// believed.
    pub fn samples(&self) -> Vec<Sample> {
        let used = self.used();
        let sample = |p: &Point| Sample { interval_s: p.period.as_secs_f64(), dirtied: p.distinct_bytes };
        used.iter().map(sample).collect()
    }

    /// The doubt that the used points leave in a rate fitted to them, as a coefficient of variation.
    pub fn cv(&self) -> f64 {
        let used = self.used();
        let precision: f64 = used.iter().filter(|p| p.cv > 0.0).map(|p| p.cv.powi(-2)).sum();
        if precision > 0.0 { precision.sqrt().recip() } else { 0.0 }
    }

    fn used(&self) -> Vec<Point> {
        let sharp: Vec<Point> = self.points.iter().filter(|p| p.cv <= USABLE_CV).copied().collect();
        if !sharp.is_empty() {
            return sharp;
        }
        let sharpest = self.points.iter().min_by(|a, b| a.cv.total_cmp(&b.cv));
        sharpest.copied().into_iter().collect()
    }
}

/// Measures the curve; takes the sum of the periods and a little more.
///
/// # Errors
/// As [`dirty::calc_dirty_rate`]; [`Cause::Input`] if no period is left that this QEMU can measure.
pub fn dirty_curve(
    host: &dyn Hypervisor,
    id: &DeployId,
    emulator: Version,
    ram_bytes: u64,
    plan: &Plan,
) -> Result<DirtyCurve, DomainError> {
    let shortest = dirty::shortest_period(emulator);
    let mut periods = plan.periods.clone();
    periods.retain(|period| *period >= shortest);
    periods.sort();
    periods.dedup();
    if periods.is_empty() {
        let text = format!("no period of at least {shortest:?} is planned");
        return Err(DomainError::new(Operation::Monitor, id, Cause::Input(text)));
    }
    let mut points = Vec::with_capacity(periods.len());
    for period in periods {
        let rate = dirty::calc_dirty_rate(host, id, emulator, period, plan.samples_per_gib)?;
        points.push(point(rate, ram_bytes, plan.samples_per_gib));
    }
    Ok(DirtyCurve { points })
}

/// A measurement with its doubt: binomial from the sampled pages, uniform from QEMU's rounding to whole MiB per second.
fn point(rate: DirtyRate, ram_bytes: u64, samples_per_gib: u16) -> Point {
    let ram = ram_bytes.max(1) as f64;
    let distinct = rate.distinct_bytes().min(ram);
    let looked_at = (ram / f64::from(1 << 30) * f64::from(samples_per_gib)).max(1.0);
    let cv = if distinct > 0.0 {
        let share = distinct / ram;
        let sampling = ((1.0 - share) / (share * looked_at)).sqrt();
        let rounding = 1.0 / 12.0_f64.sqrt() / (rate.mib_per_second as f64 + 0.5);
        sampling.hypot(rounding)
    } else {
        0.0
    };
    Point { period: rate.period, distinct_bytes: distinct, cv }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_domain::fake::Fake;
    use serde_json::json;

    const MIB: f64 = 1048576.0;

    fn measured(milliseconds: u64, mib_per_second: u64) -> DirtyRate {
        DirtyRate { period: Duration::from_millis(milliseconds), mib_per_second }
    }

    #[test]
    fn doubt_grows_with_a_small_guest_and_a_short_interval() {
        // 128 MiB are 1024 samples: 8 MiB/s over 100 ms dirty about six of them.
        let short = point(measured(100, 8), 128 << 20, SAMPLES_PER_GIB);
        assert!(short.cv > 0.3, "{}", short.cv);
        let long = point(measured(5000, 6), 128 << 20, SAMPLES_PER_GIB);
        assert!(long.cv < 0.08, "{}", long.cv);
        let large = point(measured(100, 800), 64 << 30, SAMPLES_PER_GIB);
        assert!(large.cv < 0.05, "{}", large.cv);
    }

    #[test]
    fn only_sharp_points_reach_the_model() {
        let of = |ms, rate| point(measured(ms, rate), 128 << 20, SAMPLES_PER_GIB);
        let curve = DirtyCurve { points: vec![of(100, 9), of(1000, 7), of(2000, 8), of(5000, 6)] };
        let samples = curve.samples();
        let intervals: Vec<f64> = samples.iter().map(|s| s.interval_s).collect();
        assert_eq!(intervals, [1.0, 2.0, 5.0]);
        assert_eq!(samples[0].dirtied, 7.5 * MIB);
        assert!(curve.cv() < curve.points[3].cv, "three points tell more than one");
    }

    #[test]
    fn a_quiet_guest_keeps_its_sharpest_point_and_an_idle_one_is_certain() {
        let of = |ms, rate| point(measured(ms, rate), 128 << 20, SAMPLES_PER_GIB);
        let quiet = DirtyCurve { points: vec![of(1000, 1), of(2000, 1)] };
        assert_eq!(quiet.samples().len(), 1);
        assert_eq!(quiet.samples()[0].interval_s, 2.0);
        let idle = DirtyCurve { points: vec![of(1000, 0), of(5000, 0)] };
        assert!(idle.samples().iter().all(|s| s.dirtied == 0.0));
        assert_eq!(idle.cv(), 0.0);
    }

    #[test]
    fn no_guest_dirties_more_than_it_has() {
        let beyond = point(measured(5000, 100), 128 << 20, SAMPLES_PER_GIB);
        assert_eq!(beyond.distinct_bytes, 128.0 * MIB);
    }

    #[test]
    fn periods_that_the_qemu_cannot_measure_are_left_out() {
        let host = Fake::new("node1");
        host.create("<domain type='kvm'><name>one-7</name><memory>131072</memory></domain>").unwrap();
        let id = "one-7".parse().unwrap();
        let old = Version { major: 7, minor: 2, release: 0 };
        let plan = Plan { periods: vec![Duration::from_millis(100)], ..Plan::default() };
        let error = dirty_curve(&host, &id, old, 128 << 20, &plan).unwrap_err();
        assert!(matches!(error.cause, Cause::Input(_)));
        let new = Version { major: 10, ..old };
        host.queue_monitor("calc-dirty-rate", json!({}));
        let answer = json!({"status": "measured", "dirty-rate": 8, "calc-time": 100});
        host.queue_monitor("query-dirty-rate", answer);
        let curve = dirty_curve(&host, &id, new, 128 << 20, &plan).unwrap();
        assert_eq!(curve.points.len(), 1);
    }

    #[test]
    fn the_model_finds_the_writer_behind_exact_points() {
        // 32 MiB swept at 7.8 MiB/s, as it would be measured on a guest large enough not to doubt it.
        let of = |ms: u64, mib: f64| Point {
            period: Duration::from_millis(ms),
            distinct_bytes: mib * MIB,
            cv: 0.01,
        };
        let curve = DirtyCurve { points: vec![of(1000, 7.8), of(2000, 15.6), of(5000, 32.0)] };
        let fit = causeway_predict::dirty::fit(&curve.samples(), 128.0 * MIB).unwrap();
        assert!((fit.working_set / MIB - 32.0).abs() < 1.0, "{fit:?}");
        assert!((fit.touch_rate / MIB - 7.8).abs() < 0.2, "{fit:?}");
    }
}
