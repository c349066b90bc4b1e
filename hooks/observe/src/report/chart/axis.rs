//! Where a value lies on a plot, and which values get a line and a label.

/// A range of values (nanoseconds) laid over a range of pixels; either may run backwards on the screen.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    low: i64,
    high: i64,
    start: i32,
    end: i32,
}

impl Axis {
    /// `low` lies at pixel `start` and `high` at `end`; an empty range is widened to one.
    pub fn new(low: i64, high: i64, start: i32, end: i32) -> Axis {
        Axis { low, high: high.max(low.saturating_add(1)), start, end }
    }

    /// The pixel of `value`; one outside the range lies at its edge.
    pub fn at(&self, value: i64) -> i32 {
        let value = i128::from(value.clamp(self.low, self.high));
        let span = i128::from(self.high) - i128::from(self.low);
        let pixels = i128::from(self.end) - i128::from(self.start);
        let offset = (value - i128::from(self.low)) * pixels / span.max(1);
        let place = i128::from(self.start) + offset;
        // It lies between two pixels that are 32 bits each.
        i32::try_from(place).unwrap_or(self.start)
    }

    /// Whether `value` is in the range.
    pub fn holds(&self, value: i64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// At most `limit` round values within the range, with equal steps of 1, 2 or 5 times a power of ten, and the step.
    pub fn ticks(&self, limit: i64) -> (Vec<i64>, i64) {
        let step = round_step(self.high.saturating_sub(self.low), limit);
        let first = self.low.div_euclid(step).saturating_mul(step);
        let mut ticks = Vec::new();
        let mut value = first;
        while value <= self.high {
            if value >= self.low {
                ticks.push(value);
            }
            match value.checked_add(step) {
                Some(next) => value = next,
                None => break,
            }
        }
        (ticks, step)
    }
}

/// The smallest of 1, 2, 5, 10, … with at most `limit` steps in `span`.
fn round_step(span: i64, limit: i64) -> i64 {
    let limit = limit.max(2);
    let mut power: i64 = 1;
    loop {
        for factor in [1, 2, 5] {
            let step = power.saturating_mul(factor);
            // One less, because both ends of the range may be round.
            if span / step < limit {
                return step;
            }
        }
        match power.checked_mul(10) {
            Some(next) => power = next,
            None => return power,
        }
    }
}

/// The label of a tick on an axis with `step`: no more digits than tell neighbours apart, and one unit for all.
pub fn label(value: i64, step: i64) -> String {
    let (unit, name) = match step {
        1_000_000_000.. => (1_000_000_000, "s"),
        100_000.. => (1_000_000, "ms"),
        _ => (1_000, "µs"),
    };
    let whole = value / unit;
    if step % unit == 0 {
        return format!("{whole} {name}");
    }
    let tenths = (value % unit).abs() / (unit / 10);
    let sign = if value < 0 && whole == 0 { "-" } else { "" };
    format!("{sign}{whole}.{tenths} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_ticks() {
        let ms = 1_000_000;
        assert_eq!(Axis::new(0, 312 * ms, 0, 100).ticks(5).0, [0, 100 * ms, 200 * ms, 300 * ms]);
        assert_eq!(Axis::new(-150 * ms, 140 * ms, 0, 100).ticks(4).0, [-100 * ms, 0, 100 * ms]);
        for (value, step, text) in [
            (300 * ms, 100 * ms, "300 ms"),
            (2_000 * ms, 1_000 * ms, "2 s"),
            (2_500 * ms, 500 * ms, "2500 ms"),
            (ms / 2, ms / 2, "0.5 ms"),
            (-ms / 2, ms / 2, "-0.5 ms"),
            (50_000, 50_000, "50 µs"),
            (0, ms, "0 ms"),
        ] {
            assert_eq!(label(value, step), text);
        }
    }

    proptest! {
        #[test]
        fn ticks_are_few_round_and_inside(low in -1i64 << 50..1i64 << 50, span in 1i64..1 << 50, limit in 2i64..20) {
            let axis = Axis::new(low, low + span, 0, 1000);
            let (ticks, step) = axis.ticks(limit);
            prop_assert!(i64::try_from(ticks.len()).unwrap() <= limit);
            prop_assert!(ticks.iter().all(|t| axis.holds(*t) && t % step == 0));
            prop_assert!(ticks.windows(2).all(|pair| pair[1] - pair[0] == step));
        }

        #[test]
        fn pixels_keep_the_order(low: i32, a in 0i64..1 << 40, b in 0i64..1 << 40, start in -100i32..2000, end in -100i32..2000) {
            let axis = Axis::new(i64::from(low), i64::from(low) + (1 << 40), start, end);
            let (x, y) = (axis.at(i64::from(low) + a.min(b)), axis.at(i64::from(low) + a.max(b)));
            let kept = if start <= end { x <= y } else { x >= y };
            prop_assert!(kept, "{} {}", x, y);
            prop_assert!((start.min(end)..=start.max(end)).contains(&x));
            prop_assert_eq!(axis.at(i64::MIN), start);
            prop_assert_eq!(axis.at(i64::MAX), end);
        }
    }
}
