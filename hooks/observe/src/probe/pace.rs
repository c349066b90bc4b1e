//! When the next question is due.
//!
//! Tick *k* is due at `start + k * interval`, whatever happened before it: lateness of one tick never moves the next, so
//! the pace does not drift. Ticks that passed while the thread was kept from running are skipped, not sent in a burst,
//! because a burst would say nothing about the moments it was meant for; how late a tick was is kept as the observer's
//! own error.

use std::time::Duration;

use crate::moment::{Moment, nanos};

/// A steady sequence of due moments.
#[derive(Debug, Clone)]
pub struct Pace {
    start: Moment,
    interval: u64,
    next: u64,
}

/// One tick that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// How long after its due moment the (first) tick was taken: the observer's own delay.
    pub lag: Duration,
    /// Due ticks skipped because they had passed as well.
    pub skipped: u64,
}

impl Pace {
    /// A pace with its first tick at `start`; an interval of zero counts as one nanosecond.
    pub fn new(start: Moment, interval: Duration) -> Pace {
        Pace { start, interval: nanos(interval).max(1), next: 0 }
    }

    /// When the next tick is due.
    pub fn due(&self) -> Moment {
        Moment(self.start.0.saturating_add(self.next.saturating_mul(self.interval)))
    }

    /// Takes the tick that is due at `now`, or `None` if none is yet.
    pub fn take(&mut self, now: Moment) -> Option<Tick> {
        let due = self.due();
        if now < due {
            return None;
        }
        let index = now.0.saturating_sub(self.start.0) / self.interval;
        let skipped = index.saturating_sub(self.next);
        self.next = index.saturating_add(1);
        Some(Tick { lag: now.since(due), skipped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_late_tick_does_not_move_the_next() {
        let mut pace = Pace::new(Moment(100), 5 * MS);
        assert_eq!(pace.take(Moment(99)), None);
        let on_time = Tick { lag: Duration::ZERO, skipped: 0 };
        assert_eq!(pace.take(Moment(100)), Some(on_time));
        assert_eq!(pace.due(), Moment(5_000_100));
        let late = Tick { lag: 3 * MS, skipped: 0 };
        assert_eq!(pace.take(Moment(8_000_100)), Some(late));
        assert_eq!(pace.due(), Moment(10_000_100));
        // 21 ms after the start: the ticks of 10 and 15 ms passed, that of 20 ms is taken.
        let stalled = Tick { lag: 11 * MS, skipped: 2 };
        assert_eq!(pace.take(Moment(21_000_100)), Some(stalled));
        assert_eq!(pace.due(), Moment(25_000_100));
    }

    proptest! {
        #[test]
        fn every_due_moment_lies_on_the_grid(
            start in 0u64..1 << 40,
            interval in 1u64..1 << 30,
            steps in prop::collection::vec(0u64..1 << 31, 1..60),
        ) {
            let mut pace = Pace::new(Moment(start), Duration::from_nanos(interval));
            let (mut now, mut ticks) = (start, 0u64);
            for step in steps {
                now += step;
                let due = pace.due();
                prop_assert_eq!((due.0 - start) % interval, 0);
                if let Some(tick) = pace.take(Moment(now)) {
                    ticks += 1 + tick.skipped;
                    prop_assert!(tick.lag >= Duration::from_nanos(interval) * u32::try_from(tick.skipped).unwrap_or(0));
                    prop_assert!(pace.due().0 > now, "the next tick lies ahead");
                    prop_assert!(pace.due().0 - now <= interval, "and not more than one interval");
                } else {
                    prop_assert!(now < due.0);
                }
                prop_assert_eq!(pace.due().0, start + ticks * interval, "none is lost from the count");
            }
        }
    }
}
