//! How far a job on a disk is, for people.

use std::fmt;
use std::time::{Duration, Instant};

use super::JobInfo;

/// What is known of a job at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done: u64,
    /// Bytes to do; grows while the guest writes.
    pub total: u64,
    /// Of a hundred, and never less than was said before; 100 only when the outcome has been seen.
    pub percent: u8,
    /// Bytes per second since the job was first seen, once there is a second to go by.
    pub rate: Option<u64>,
    /// What is left at that rate.
    pub remaining: Option<Duration>,
}

const MIB: u64 = 1 << 20;

impl fmt::Display for Progress {
    /// `45 %, 120 of 260 MiB, 31 MiB/s, 5 s left`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %, {} of {} MiB", self.percent, self.done / MIB, self.total.div_ceil(MIB))?;
        if let Some(rate) = self.rate {
            write!(f, ", {} MiB/s", rate / MIB)?;
        }
        match self.remaining {
            Some(left) => write!(f, ", {} s left", left.as_secs()),
            None => Ok(()),
        }
    }
}

/// Makes progress out of one look after the other.
#[derive(Debug)]
pub(super) struct Meter {
    begun: Instant,
    first: Option<u64>,
    last: Progress,
}

impl Meter {
    pub fn new() -> Self {
        let last = Progress { done: 0, total: 0, percent: 0, rate: None, remaining: None };
        Meter { begun: Instant::now(), first: None, last }
    }

    /// The progress at this look.
    pub fn look(&mut self, info: &JobInfo) -> Progress {
        self.at(info, self.begun.elapsed())
    }

    fn at(&mut self, info: &JobInfo, elapsed: Duration) -> Progress {
        // One that was under way when it was first seen was not done in the time since then.
        let first = *self.first.get_or_insert(info.current);
        let percent = info.current.saturating_mul(100).checked_div(info.end).unwrap_or(0).min(99);
        let percent = u8::try_from(percent).unwrap_or(99).max(self.last.percent);
        let moved = u128::from(info.current.saturating_sub(first)) * 1000;
        let rate = match elapsed.as_millis() {
            0..1000 => None,
            passed => u64::try_from(moved / passed).ok().filter(|rate| *rate > 0),
        };
        let left = info.end.saturating_sub(info.current);
        let remaining = rate.and_then(|rate| left.checked_div(rate)).map(Duration::from_secs);
        self.last = Progress { done: info.current, total: info.end, percent, rate, remaining };
        self.last
    }

    /// The last progress of a job that was seen to be done.
    pub fn done(&self) -> Progress {
        Progress { done: self.last.total, percent: 100, remaining: None, ..self.last }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::JobKind;

    #[test]
    fn a_percentage_never_falls_and_is_not_whole_before_the_end() {
        let mut meter = Meter::new();
        let mut at = |current, end, ms| {
            let info = JobInfo { kind: JobKind::Copy, bandwidth: 0, current, end };
            meter.at(&info, Duration::from_millis(ms))
        };
        assert_eq!(at(0, 0, 0).percent, 0);
        assert_eq!(at(60 * MIB, 100 * MIB, 500).percent, 60);
        let third = at(80 * MIB, 200 * MIB, 2000);
        assert_eq!((third.percent, third.rate, third.remaining.unwrap().as_secs()), (60, Some(40 * MIB), 3));
        assert_eq!(third.to_string(), "60 %, 80 of 200 MiB, 40 MiB/s, 3 s left");
        assert_eq!(at(200 * MIB, 200 * MIB, 4000).percent, 99);
        assert_eq!(meter.done().percent, 100);
    }

    #[test]
    fn a_job_that_was_under_way_has_no_head_start() {
        let mut meter = Meter::new();
        let info = |current| JobInfo { kind: JobKind::Copy, bandwidth: 0, current, end: 1000 * MIB };
        meter.at(&info(900 * MIB), Duration::ZERO);
        let later = meter.at(&info(910 * MIB), Duration::from_secs(10));
        assert_eq!(later.rate, Some(MIB));
    }
}
