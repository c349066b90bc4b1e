//! What was counted, and what it says.

use serde::{Deserialize, Serialize};

/// The result of one trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Bytes of payload that arrived.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// The rate once the stream was in full flow, bytes per second.
    pub rate: f64,
    /// Standard deviation of the intervals' rates divided by their mean.
    pub cv: f64,
    /// How many intervals that rests on.
    pub intervals: usize,
    /// The round trip before the stream began, seconds; the median of several.
    pub rtt_s: f64,
}

/// Intervals at the start that TCP's slow start may have spoilt; left out where enough others remain.
const START: usize = 2;
/// So many must remain.
const ENOUGH: usize = 4;

impl Throughput {
    /// From intervals of (seconds, bytes) in order, and a round trip in seconds.
    ///
    /// The first two intervals are left out if at least four remain: TCP speeds up first. The rate is that of the bytes
    /// over the time, not the mean of the rates, so that a long interval weighs more.
    pub fn of(intervals: &[(f64, u64)], rtt_s: f64) -> Self {
        let sum = |part: &[(f64, u64)]| {
            part.iter().fold((0.0, 0_u64), |(s, b), (t, n)| (s + t, b.saturating_add(*n)))
        };
        let flowing = match intervals.get(START..) {
            Some(rest) if rest.len() >= ENOUGH => rest,
            _ => intervals,
        };
        let (seconds, bytes) = sum(intervals);
        let (flow_seconds, flow_bytes) = sum(flowing);
        let rate = if flow_seconds > 0.0 { flow_bytes as f64 / flow_seconds } else { 0.0 };
        Throughput { bytes, seconds, rate, cv: variation(flowing, rate), intervals: flowing.len(), rtt_s }
    }

    /// Standard deviation of [`rate`](Throughput::rate) itself divided by it, as far as one trial can tell.
    pub fn mean_cv(&self) -> f64 {
        match self.intervals {
            0 => 0.0,
            n => self.cv / (n as f64).sqrt(),
        }
    }
}

fn variation(intervals: &[(f64, u64)], rate: f64) -> f64 {
    let rates: Vec<f64> = intervals
        .iter()
        .filter(|(seconds, _)| *seconds > 0.0)
        .map(|(seconds, bytes)| *bytes as f64 / seconds)
        .collect();
    if rates.len() < 2 || rate <= 0.0 {
        return 0.0;
    }
    let squares: f64 = rates.iter().map(|r| (r - rate).powi(2)).sum();
    (squares / (rates.len() - 1) as f64).sqrt() / rate
}

/// The median of some round trips, 0 without any.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_even_stream_has_its_rate_and_no_variation() {
        let found = Throughput::of(&[(0.1, 1_000_000); 10], 0.01);
        assert!((found.rate - 10e6).abs() < 1.0);
        assert!(found.cv < 1e-9 && found.mean_cv() < 1e-9);
        assert_eq!((found.bytes, found.intervals), (10_000_000, 8));
    }

    #[test]
    fn the_slow_start_does_not_count_where_enough_remains() {
        let mut intervals = vec![(0.1, 10_000), (0.1, 200_000)];
        intervals.extend([(0.1, 1_000_000); 5]);
        assert!((Throughput::of(&intervals, 0.0).rate - 10e6).abs() < 1.0);
        let short = Throughput::of(&intervals[..4], 0.0);
        assert_eq!(short.intervals, 4);
        assert!(short.rate < 10e6);
    }

    #[test]
    fn an_uneven_stream_says_so() {
        let intervals: Vec<_> =
            (0..10).map(|n| (0.1, if n % 2 == 0 { 500_000 } else { 1_500_000 })).collect();
        let found = Throughput::of(&intervals, 0.0);
        assert!((found.rate - 10e6).abs() < 1.0);
        assert!((0.5..0.6).contains(&found.cv), "{}", found.cv);
        assert!(found.mean_cv() < found.cv / 2.0);
    }

    #[test]
    fn nothing_is_nothing() {
        let none = Throughput::of(&[], 0.0);
        assert_eq!((none.rate, none.cv, none.bytes), (0.0, 0.0, 0));
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }

    proptest! {
        #[test]
        fn a_rate_lies_between_its_slowest_and_fastest_interval(
            intervals in proptest::collection::vec((0.01..0.5_f64, 0..10_000_000_u64), 1..40)
        ) {
            let found = Throughput::of(&intervals, 0.0);
            let rates = intervals.iter().map(|(s, b)| *b as f64 / s);
            let (low, high) = rates.fold((f64::MAX, 0.0_f64), |(l, h), r| (l.min(r), h.max(r)));
            prop_assert!(found.rate >= low * 0.999_999 && found.rate <= high * 1.000_001);
            prop_assert!(found.cv.is_finite());
        }
    }
}
