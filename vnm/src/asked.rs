//! When an action was asked for, by the clock of the host that does it: so that of two actions of a VM the older one is known,
//! in whatever order they are done.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// The name of the time from one start of the host to the next.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// A moment, in microseconds since the host was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// This one. The clock goes on while the host sleeps, and nobody can set it.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let micros = u64::try_from(now.tv_nsec).unwrap_or(0) / 1000;
        Moment(seconds.saturating_mul(1_000_000).saturating_add(micros))
    }
}

/// A moment that can be compared across starts of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Since which start of the host it is counted.
    boot: String,
    at: Moment,
}

impl Asked {
    /// The moment `at` of this start of the host, or now, if it is said to be later; none where the host has no name for it.
    pub fn at(at: Moment) -> Option<Self> {
        let boot = std::fs::read_to_string(BOOT).ok()?;
        Some(Asked { boot: boot.trim().to_owned(), at: at.min(Moment::now()) })
    }

    /// Whether this is later than another moment of the same start.
    pub fn is_after(&self, other: &Asked) -> bool {
        self.boot == other.boot && self.at > other.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_one_start_are_compared_and_none_is_to_come() {
        let (first, second) = (Asked::at(Moment::now()).unwrap(), Asked::at(Moment(u64::MAX)).unwrap());
        assert!(second.is_after(&first) && !first.is_after(&second) && !first.is_after(&first));
        assert!(second.at <= Moment::now());
        let elsewhen = Asked { boot: "another".to_owned(), ..second };
        assert!(!elsewhen.is_after(&first));
    }
}
