//! The dirty curve: how many distinct bytes a writer dirties within an interval, and how to find the
//! writer behind measured points of that curve.

use serde::{Deserialize, Serialize};

use crate::error::{self, Error};
use crate::guest::Class;

/// In which order a writer touches its working set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// At random: pages are touched again before all have been touched once.
    #[default]
    Uniform,
    /// One after the other: no page twice before the end is reached.
    Sweep,
}

/// Distinct bytes dirtied within `interval_s` by a writer that touches `touch_rate` bytes/s of pages over
/// `working_set` bytes.
#[must_use]
pub fn curve(working_set: f64, touch_rate: f64, interval_s: f64, pattern: Pattern) -> f64 {
    if working_set <= 0.0 || touch_rate <= 0.0 || interval_s <= 0.0 {
        return 0.0;
    }
    grown(0.0, working_set, touch_rate, interval_s, pattern)
}

/// What `dirty` of `size` becomes when the writer goes on for `interval_s`. Growing twice is the same as
/// growing once for the sum, which is what lets the loop look at the log only when QEMU does.
pub(crate) fn grown(dirty: f64, size: f64, rate: f64, interval_s: f64, pattern: Pattern) -> f64 {
    match pattern {
        Pattern::Uniform => size - (size - dirty) * (-rate * interval_s / size).exp(),
        Pattern::Sweep => size.min(dirty + rate * interval_s),
    }
}

/// One measurement: distinct bytes dirtied within an interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "(f64, f64)", into = "(f64, f64)")]
pub struct Sample {
    /// The interval, seconds.
    pub interval_s: f64,
    /// Distinct bytes dirtied in it.
    pub dirtied: f64,
}

impl From<(f64, f64)> for Sample {
    fn from((interval_s, dirtied): (f64, f64)) -> Self {
        Self { interval_s, dirtied }
    }
}

impl From<Sample> for (f64, f64) {
    fn from(sample: Sample) -> Self {
        (sample.interval_s, sample.dirtied)
    }
}

impl Sample {
    fn rate(self) -> f64 {
        self.dirtied / self.interval_s
    }
}

/// The writer behind a set of samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fit {
    /// Its working set, bytes.
    #[serde(rename = "w")]
    pub working_set: f64,
    /// Its touch rate, bytes/s.
    #[serde(rename = "r")]
    pub touch_rate: f64,
    /// Its pattern.
    pub pattern: Pattern,
}

impl From<Fit> for Class {
    fn from(fit: Fit) -> Self {
        Self {
            working_set: fit.working_set,
            touch_rate: fit.touch_rate,
            pattern: fit.pattern,
            cpu_share: 0.0,
        }
    }
}

/// Below this ratio of the long to the short interval's rate a curve has visibly bent.
const BENT: f64 = 0.98;

/// A curve that a random toucher leaves, by its shortest and longest measured interval.
///
/// Through two points goes exactly one such curve. Where the points show no bend the set is as large
/// as the RAM (`ram_bytes`); where they show nothing but the end of the curve the rate is the one that
/// fills the set to 99.9 % within the shortest interval.
///
/// # Errors
/// [`Error::Empty`] without a sample, [`Error::OutOfRange`] for an interval or amount that makes no sense.
pub fn fit_uniform(samples: &[Sample], ram_bytes: f64) -> Result<Fit, Error> {
    let (first, last) = ends(samples, ram_bytes)?;
    let (working_set, touch_rate) = through(first, last, ram_bytes);
    Ok(Fit { working_set, touch_rate, pattern: Pattern::Uniform })
}

/// The writer behind `samples`: as [`fit_uniform`], but of three samples or more the one of the two
/// patterns that lies closer to them all.
///
/// # Errors
/// As [`fit_uniform`].
pub fn fit(samples: &[Sample], ram_bytes: f64) -> Result<Fit, Error> {
    let (first, last) = ends(samples, ram_bytes)?;
    let largest = samples.iter().map(|s| s.dirtied).fold(0.0, f64::max);
    if largest <= 0.0 {
        return Ok(Fit { working_set: 0.0, touch_rate: 0.0, pattern: Pattern::Uniform });
    }
    let (working_set, touch_rate) = through(first, last, ram_bytes);
    let uniform = Fit { working_set, touch_rate, pattern: Pattern::Uniform };
    if last.rate() >= BENT * first.rate() {
        // A straight line: both patterns give the same set and rate, a sweep describes it.
        return Ok(Fit { pattern: Pattern::Sweep, ..uniform });
    }
    let fastest = samples.iter().map(|s| s.rate()).fold(0.0, f64::max);
    let sweep = Fit { working_set: largest, touch_rate: fastest, pattern: Pattern::Sweep };
    if samples.len() >= 3 && misfit(&sweep, samples) < misfit(&uniform, samples) {
        return Ok(sweep);
    }
    Ok(uniform)
}

/// Is the rate behind `samples` only known from below, because the set was full within the shortest
/// interval already? Then the working set is good and the rate can be anything above.
#[must_use]
pub fn rate_is_lower_bound(samples: &[Sample]) -> bool {
    let Some((first, last)) = shortest_and_longest(samples) else { return false };
    first.dirtied > 0.0
        && last.interval_s > first.interval_s
        && last.rate() < 0.3 * first.dirtied / first.interval_s
}

/// Sum of squared relative errors over the samples that saw anything.
fn misfit(fit: &Fit, samples: &[Sample]) -> f64 {
    samples
        .iter()
        .filter(|s| s.dirtied > 0.0)
        .map(|s| {
            ((curve(fit.working_set, fit.touch_rate, s.interval_s, fit.pattern) - s.dirtied) / s.dirtied)
                .powi(2)
        })
        .sum()
}

fn shortest_and_longest(samples: &[Sample]) -> Option<(Sample, Sample)> {
    let order = |a: &&Sample, b: &&Sample| {
        a.interval_s.total_cmp(&b.interval_s).then(a.dirtied.total_cmp(&b.dirtied))
    };
    Some((*samples.iter().min_by(order)?, *samples.iter().max_by(order)?))
}

fn ends(samples: &[Sample], ram_bytes: f64) -> Result<(Sample, Sample), Error> {
    error::bytes("ram", ram_bytes)?;
    for sample in samples {
        error::factor("a sample's interval", sample.interval_s)?;
        error::bytes("a sample's dirty bytes", sample.dirtied)?;
    }
    shortest_and_longest(samples).ok_or(Error::Empty { list: "the list of dirty samples" })
}

/// Working set and touch rate of the random toucher through two points.
fn through(first: Sample, last: Sample, ram_bytes: f64) -> (f64, f64) {
    if first.dirtied <= 0.0 {
        let rate = if last.dirtied <= 0.0 { return (0.0, 0.0) } else { last.rate() };
        return (ram_bytes, rate);
    }
    if last.interval_s <= first.interval_s || last.rate() >= BENT * first.rate() {
        return (ram_bytes, first.rate().max(last.rate()));
    }
    if last.dirtied <= first.dirtied * 1.001 {
        return (last.dirtied, -last.dirtied * 0.001_f64.ln() / first.interval_s);
    }
    // The touch rate that a set of `w` bytes needs to pass through a point.
    let needed = |w: f64, point: Sample| -w * (1.0 - point.dirtied / w).ln() / point.interval_s;
    // Just above the longer point that rate has no bound; it falls below the shorter point's as w grows.
    let (mut low, mut high) = (last.dirtied * (1.0 + 1e-9), ram_bytes.max(last.dirtied * 2.0 * (1.0 + 1e-9)));
    if needed(high, first) < needed(high, last) {
        return (high, needed(high, first));
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if needed(middle, first) < needed(middle, last) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let working_set = 0.5 * (low + high);
    (working_set, needed(working_set, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: &[(f64, f64)]) -> Vec<Sample> {
        of.iter().map(|&pair| pair.into()).collect()
    }

    #[test]
    fn an_idle_guest_fits_to_nothing() {
        let fit = fit(&samples(&[(1.0, 0.0), (5.0, 0.0)]), 1e9).unwrap();
        assert_eq!((fit.working_set, fit.touch_rate), (0.0, 0.0));
    }

    #[test]
    fn a_straight_line_is_a_sweep_over_everything() {
        let fit = fit(&samples(&[(1.0, 10e6), (5.0, 50e6)]), 1e9).unwrap();
        assert_eq!((fit.working_set, fit.touch_rate, fit.pattern), (1e9, 10e6, Pattern::Sweep));
    }

    #[test]
    fn a_flat_curve_says_that_its_rate_is_a_lower_bound() {
        assert!(rate_is_lower_bound(&samples(&[(1.0, 16e6), (5.0, 16e6)])));
        assert!(!rate_is_lower_bound(&samples(&[(1.0, 16e6), (5.0, 60e6)])));
        assert!(!rate_is_lower_bound(&[]));
    }

    #[test]
    fn nonsense_samples_are_named() {
        assert!(matches!(fit(&[], 1e9), Err(Error::Empty { .. })));
        assert!(fit(&samples(&[(0.0, 1.0)]), 1e9).is_err());
        assert!(fit(&samples(&[(1.0, f64::NAN)]), 1e9).is_err());
    }
}
