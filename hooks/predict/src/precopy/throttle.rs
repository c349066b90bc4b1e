//! Auto-converge: QEMU's rule for slowing a guest that dirties too fast.
//!
//! The rule looks at most once per second, and only when the dirty log is read: if the pages dirtied
//! since the last look are more than `throttle-trigger-threshold` of the bytes sent, that is one
//! strike; two strikes, not necessarily in a row, raise the throttle by a step.

use crate::PAGE;
use crate::tuning::Tuning;

/// QEMU refreshes its dirty rate at most this often, seconds.
const PERIOD_S: f64 = 1.0;

/// The state of the rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Throttle {
    /// The throttle in force, per cent.
    pub(super) pct: f64,
    strikes: u32,
    /// When the current period began, and what had been sent by then.
    pub(super) period_start_s: f64,
    pub(super) period_wire: f64,
    /// Pages dirtied in the current period.
    dirtied: f64,
}

impl Throttle {
    pub(super) fn new(pct: f64, now_s: f64) -> Self {
        Self { pct, strikes: 0, period_start_s: now_s, period_wire: 0.0, dirtied: 0.0 }
    }

    /// The share of its time that the guest's vCPU may run.
    pub(super) fn running(&self) -> f64 {
        1.0 - self.pct / 100.0
    }

    /// One sleep of a vCPU, seconds: it runs 10 ms slices, each followed by a sleep in proportion.
    pub(super) fn stall_s(&self) -> f64 {
        0.01 * self.pct / (100.0 - self.pct)
    }

    /// A sync at `now_s` has added `pages`; `wire` bytes have been sent so far. Did the throttle change?
    pub(super) fn after_sync(&mut self, now_s: f64, pages: f64, wire: f64, tuning: &Tuning) -> bool {
        self.dirtied += pages;
        if now_s - self.period_start_s < PERIOD_S {
            return false;
        }
        let sent = wire - self.period_wire;
        let too_fast = self.dirtied * PAGE > sent * tuning.throttle_trigger / 100.0;
        (self.period_start_s, self.period_wire, self.dirtied) = (now_s, wire, 0.0);
        if !(tuning.auto_converge && too_fast) {
            return false;
        }
        self.strikes += 1;
        if self.strikes < 2 {
            return false;
        }
        self.strikes = 0;
        let before = self.pct;
        self.pct = if self.pct > 0.0 {
            tuning.throttle_max.min(self.pct + tuning.throttle_increment)
        } else {
            tuning.throttle_initial
        };
        self.pct.to_bits() != before.to_bits()
    }

    /// The state, relative to now: see `Pages::state`.
    pub(super) fn state(&self, now_s: f64, wire: f64) -> [f64; 5] {
        let (since_s, sent) = (now_s - self.period_start_s, wire - self.period_wire);
        [self.pct, f64::from(self.strikes), self.dirtied, since_s, sent]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_strikes_raise_it_and_at_the_top_nothing_changes() {
        let tuning = Tuning { auto_converge: true, throttle_initial: 90.0, ..Tuning::default() };
        let mut throttle = Throttle::new(0.0, 0.0);
        // Every second a gigabyte is sent and 600 MB are dirtied.
        let mut steps = (1..=8).map(|second| {
            let now_s = f64::from(second);
            let changed = throttle.after_sync(now_s, 600e6 / PAGE, now_s * 1e9, &tuning);
            (changed, throttle.pct)
        });
        let changed: Vec<(bool, f64)> = steps.by_ref().collect();
        let at = |second: usize| changed[second - 1];
        assert_eq!([at(1), at(2), at(3)], [(false, 0.0), (true, 90.0), (false, 90.0)]);
        assert_eq!([at(4), at(6), at(8)], [(true, 99.0), (false, 99.0), (false, 99.0)]);
    }

    #[test]
    fn a_guest_that_dirties_less_than_half_of_what_is_sent_is_left_alone() {
        let tuning = Tuning { auto_converge: true, ..Tuning::default() };
        let mut throttle = Throttle::new(0.0, 0.0);
        for second in 1..20 {
            let now_s = f64::from(second);
            assert!(!throttle.after_sync(now_s, 400e6 / PAGE, now_s * 1e9, &tuning));
        }
        assert!((throttle.stall_s(), throttle.running()) == (0.0, 1.0));
    }
}
