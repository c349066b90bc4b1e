//! What is not known exactly: log-normal factors on the inputs, and the chances that follow.
//!
//! The factors are drawn from a Halton sequence pushed through the inverse normal distribution. It
//! covers the space evenly with few points and gives the same points in every language, so a verdict
//! can be repeated and audited.

use serde::{Deserialize, Serialize};

use crate::error::{self, Error};
use crate::migration::{self, Migration};
use crate::path;
use crate::precopy::LONG;

/// How many points a prediction takes unless told otherwise.
pub const POINTS: u32 = 64;

/// The largest number of points that is accepted.
const MAX_POINTS: u32 = 4096;

/// The `index`-th number, from 1, of the Halton (van der Corput) sequence in a prime `base`; in (0, 1).
#[must_use]
pub fn halton(index: u32, base: u32) -> f64 {
    let base = base.max(2);
    let (mut rest, mut weight, mut value) = (index, 1.0, 0.0);
    while rest > 0 {
        weight /= f64::from(base);
        value += weight * f64::from(rest % base);
        rest /= base;
    }
    value
}

/// `c[0]·x^(n-1) + … + c[n-1]`.
fn polynomial(x: f64, coefficients: &[f64]) -> f64 {
    coefficients.iter().fold(0.0, |sum, c| sum * x + c)
}

/// The inverse of the standard normal distribution for `p` in (0, 1), to a relative error of about 10⁻⁹: the rational
/// approximation of P. J. Acklam, with the coefficients he published.
#[must_use]
pub fn inverse_normal(p: f64) -> f64 {
    const CENTRE_OVER: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const CENTRE_UNDER: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const TAIL_OVER: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const TAIL_UNDER: [f64; 5] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    /// Below this, and above its complement, lie the tails.
    const TAIL: f64 = 0.02425;
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        polynomial(q, &TAIL_OVER) / polynomial(q, &TAIL_UNDER)
    };
    if p < TAIL {
        tail(p)
    } else if p <= 1.0 - TAIL {
        let q = p - 0.5;
        polynomial(q * q, &CENTRE_OVER) * q / polynomial(q * q, &CENTRE_UNDER)
    } else {
        -tail(1.0 - p)
    }
}

/// The `index`-th point's standard normal number in the dimension of a prime `base`.
#[must_use]
pub fn normal_point(index: u32, base: u32) -> f64 {
    inverse_normal(halton(index, base))
}

/// The spread of a log-normal factor with median 1 and coefficient of variation `cv`.
#[must_use]
pub fn log_sigma(cv: f64) -> f64 {
    (1.0 + cv * cv).ln().sqrt()
}

/// The coefficient of variation that page sampling alone puts on a dirty amount: `dirty` of the pages
/// (0 to 1) found dirty among `sampled` pages. Infinite where sampling could not have seen anything.
#[must_use]
pub fn sampling_cv(dirty: f64, sampled: f64) -> f64 {
    let seen = dirty * sampled;
    if seen > 0.0 { ((1.0 - dirty).max(0.0) / seen).sqrt() } else { f64::INFINITY }
}

/// The entry of an ascending list below which `permille` of it lies.
pub(crate) fn quantile(ascending: &[f64], permille: usize) -> f64 {
    let last = ascending.len().saturating_sub(1);
    ascending.get((ascending.len() * permille / 1000).min(last)).copied().unwrap_or(f64::INFINITY)
}

/// Coefficients of variation of the inputs that matter most. Names in JSON are those of the known-answer files.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Of the link's rate.
    #[serde(rename = "cv_bw")]
    pub bandwidth_cv: f64,
    /// Of the touch rates.
    #[serde(rename = "cv_rate")]
    pub rate_cv: f64,
    /// Of the working sets.
    #[serde(rename = "cv_ws")]
    pub working_set_cv: f64,
}

impl Default for Noise {
    fn default() -> Self {
        Self { bandwidth_cv: 0.1, rate_cv: 0.2, working_set_cv: 0.2 }
    }
}

impl Noise {
    pub(crate) fn check(&self) -> Result<(), Error> {
        error::variation("cv_bw", self.bandwidth_cv)?;
        error::variation("cv_rate", self.rate_cv)?;
        error::variation("cv_ws", self.working_set_cv)
    }
}

/// The chances of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Odds {
    /// That it ends by the deadline.
    pub p_deadline: f64,
    /// That it ends by the deadline and its silence is bearable.
    pub p_both: f64,
    /// The total time that one in ten stays below, seconds; infinite counts as never.
    #[serde(rename = "t10", serialize_with = "crate::number::serialize")]
    pub total_10_s: f64,
    /// The median total time, seconds.
    #[serde(rename = "t50", serialize_with = "crate::number::serialize")]
    pub total_50_s: f64,
    /// The total time that nine in ten stay below, seconds.
    #[serde(rename = "t90", serialize_with = "crate::number::serialize")]
    pub total_90_s: f64,
}

/// The chances of `migration` to end within `deadline_s` with a silence of at most `max_downtime_s`, from
/// `points` points.
///
/// # Errors
/// [`Error`] names the first number that makes no sense.
pub fn odds(
    migration: &Migration,
    deadline_s: f64,
    max_downtime_s: f64,
    noise: &Noise,
    points: u32,
) -> Result<Odds, Error> {
    noise.check()?;
    error::seconds("deadline_s", deadline_s)?;
    error::limit("max_downtime_s", max_downtime_s)?;
    if points == 0 || points > MAX_POINTS {
        return Err(Error::OutOfRange {
            quantity: "n",
            value: f64::from(points),
            accepted: "1 to 4096 points",
        });
    }
    // What ends after the deadline need not be followed.
    let mut at_point = migration.clone();
    at_point.tuning.horizon_s = deadline_s;
    at_point.check()?;
    let [link, rate, set] = [noise.bandwidth_cv, noise.rate_cv, noise.working_set_cv].map(log_sigma);
    let (mut in_time, mut good) = (0_u32, 0_u32);
    let mut totals = Vec::new();
    for index in 1..=points {
        let factor = |sigma: f64, base: u32| (sigma * normal_point(index, base)).exp();
        at_point.path.link_rate = migration.path.link_rate * factor(link, 2);
        at_point.memory.scale_from(&migration.memory, factor(rate, 3), factor(set, 5));
        let throughput = path::throughput(&at_point.path)?;
        let outcome = migration::over(&at_point, &throughput, LONG).outcome;
        // Infinite without an end.
        totals.push(outcome.total_s);
        if outcome.total_s <= deadline_s {
            in_time += 1;
            good += u32::from(outcome.service_gap_s <= max_downtime_s);
        }
    }
    totals.sort_by(f64::total_cmp);
    Ok(Odds {
        p_deadline: f64::from(in_time) / f64::from(points),
        p_both: f64::from(good) / f64::from(points),
        total_10_s: quantile(&totals, 100),
        total_50_s: quantile(&totals, 500),
        total_90_s: quantile(&totals, 900),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_fills_the_interval_evenly() {
        let first: Vec<f64> = (1..=4).map(|i| halton(i, 2)).collect();
        assert_eq!(first, [0.5, 0.25, 0.75, 0.125]);
        assert!((halton(5, 3) - 7.0 / 9.0).abs() < 1e-15);
    }

    #[test]
    fn the_inverse_normal_has_its_known_values() {
        for (p, z) in [(0.5, 0.0), (0.95, 1.644_853_627), (0.05, -1.644_853_627), (0.001, -3.090_232_306)] {
            assert!((inverse_normal(p) - z).abs() < 1e-8, "{p}");
        }
    }

    #[test]
    fn a_factor_has_the_variation_it_was_given() {
        let sigma = log_sigma(0.3);
        let factors: Vec<f64> = (1..=4000).map(|i| (sigma * normal_point(i, 2)).exp()).collect();
        let mean = factors.iter().sum::<f64>() / 4000.0;
        let variance = factors.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / 4000.0;
        assert!((variance.sqrt() / mean - 0.3).abs() < 0.01);
    }

    #[test]
    fn sampling_nothing_says_nothing() {
        assert_eq!(sampling_cv(0.0, 8192.0), f64::INFINITY);
        assert!((sampling_cv(0.5, 400.0) - 0.05).abs() < 1e-12);
    }
}
