//! The one time line of a run.
//!
//! Everything a run records is a [`Moment`]: nanoseconds since the run's zero, read from the kernel's monotonic clock,
//! which no time daemon can set back. The wall clock is read once, together with the zero, so that a result can say
//! when it was taken and a captured frame (whose stamp is wall-clock time) can be put on the same line.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point on a run's time line, in nanoseconds since its zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `span` later; stays at the end of the line (584 years) rather than wrap.
    pub fn plus(self, span: Duration) -> Moment {
        Moment(self.0.saturating_add(nanos(span)))
    }

    /// The moment `span` earlier, at the earliest the zero.
    pub fn minus(self, span: Duration) -> Moment {
        Moment(self.0.saturating_sub(nanos(span)))
    }

    /// The time from `earlier` to here; zero if `earlier` is in fact later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Whole nanoseconds of a span, capped at `u64::MAX`.
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// The zero of a run, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    zero: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Starts a time line now.
    pub fn start() -> Clock {
        Clock { zero: Instant::now(), wall: SystemTime::now() }
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        Moment(nanos(self.zero.elapsed()))
    }

    /// The wall-clock time of the zero.
    pub fn wall_zero(&self) -> SystemTime {
        self.wall
    }

    /// The wall-clock time `moment` would have if the wall clock had run as steadily as the monotonic one,
    /// in nanoseconds since 1970.
    pub fn unix_nanos(&self, moment: Moment) -> u64 {
        let zero = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        nanos(zero).saturating_add(moment.0)
    }
}

/// A wall-clock time as `2026-11-21 10:53:07 UTC`; a time before 1970 prints as 1970.
pub fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month and day of the `days`-th day after 1970-01-01 in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    // Whole 400-year cycles (146,097 days) first, so that the loop below is short for any input.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_known_answers() {
        // From `date -u -d @N`.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_258_387, "2026-11-21 10:53:07 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (13_574_649_599, "2400-02-29 23:59:59 UTC"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn arithmetic_stays_on_the_line() {
        let m = Moment(1_000);
        assert_eq!(m.minus(Duration::from_secs(1)), Moment(0));
        assert_eq!(Moment(0).since(m), Duration::ZERO);
        assert_eq!(m.plus(Duration::from_nanos(5)), Moment(1_005));
        assert_eq!(m.plus(Duration::MAX), Moment(u64::MAX));
    }

    #[test]
    fn both_clocks_share_the_zero() {
        let clock = Clock::start();
        let wall = clock.wall_zero().duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(clock.unix_nanos(Moment(7)), nanos(wall) + 7);
        assert!(clock.now() <= clock.now());
    }
}
