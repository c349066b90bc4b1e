//! The loop itself: one rate-limit window after the other.

use super::pages::Pages;
use super::skip::Laps;
use super::throttle::Throttle;
use super::{Mode, Observed, Outcome, Patience, Rates, TO_THE_HORIZON};
use crate::PAGE;
use crate::guest::Memory;
use crate::tuning::Tuning;

/// QEMU looks at the clock and the threshold after at most this much sending, seconds.
const ITERATION_S: f64 = 0.05;
/// Fewer pages than this are none.
const NOTHING: f64 = 1e-9;
/// How many sending iterations are followed one by one before the answer is "never". Equal windows and
/// repeated laps do not count, so no plausible migration comes near; input made to last does.
const MAX_ITERATIONS: u32 = 2_000_000;

/// One migration being followed.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) rates: &'a Rates,
    pub(super) tuning: &'a Tuning,
    pub(super) pages: Pages,
    pub(super) throttle: Throttle,
    pub(super) laps: Laps,
    sync_s: f64,
    pub(super) window_s: f64,
    /// Windows per second.
    pub(super) per_window: f64,
    /// Now, seconds from the start (or from the observation).
    pub(super) now_s: f64,
    /// Bytes sent in finished windows.
    pub(super) wire: f64,
    /// The bandwidth that QEMU has measured over the last window, bytes/s.
    pub(super) measured: f64,
    pub(super) syncs: u64,
    first_pass_s: f64,
    iterations: u32,
    /// Reads of the log, since the start or since the guest was last slowed down, that did not end it.
    futile_reads: u32,
    patience: Patience,
}

impl<'a> Run<'a> {
    pub(super) fn from_start(memory: &Memory, rates: &'a Rates, tuning: &'a Tuning) -> Self {
        let sync_s = tuning.sync_s(memory.ram_bytes);
        let now_s = tuning.setup_s + rates.slow_start_s + sync_s;
        Self {
            rates,
            tuning,
            pages: Pages::all(memory, rates, tuning),
            throttle: Throttle::new(0.0, now_s),
            laps: Laps::default(),
            sync_s,
            window_s: tuning.window_s(),
            per_window: 1.0 / tuning.window_s(),
            now_s,
            wire: 0.0,
            measured: 0.0,
            syncs: 1,
            first_pass_s: 0.0,
            iterations: 0,
            futile_reads: 0,
            patience: TO_THE_HORIZON,
        }
    }

    pub(super) fn observed(
        memory: &Memory,
        rates: &'a Rates,
        tuning: &'a Tuning,
        observed: &Observed,
    ) -> Self {
        let throttle = Throttle::new(observed.throttle_pct, 0.0);
        let mut pages = Pages::observed(memory, rates, tuning, observed);
        // What is in the log was observed, not throttled in hindsight.
        pages.throttle(throttle.running());
        Self {
            pages,
            throttle,
            now_s: 0.0,
            measured: rates.run_rate,
            syncs: observed.syncs,
            ..Self::from_start(memory, rates, tuning)
        }
    }

    pub(super) fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// Is there a reason to stop following it, other than its end and the horizon?
    fn is_given_up(&self) -> bool {
        self.iterations >= MAX_ITERATIONS || self.futile_reads >= self.patience
    }

    /// Follow the loop to its end and account for the stop phase.
    pub(super) fn finish(mut self) -> Outcome {
        let mut converged = false;
        while !converged && self.now_s < self.tuning.horizon_s && !self.is_given_up() {
            self.skip_laps();
            self.skip_equal_windows();
            converged = self.window();
        }
        self.outcome(converged)
    }

    /// Pending pages at which QEMU looks at the log, and stops the guest if they are still fewer.
    pub(super) fn limit_pages(&self, measured: f64) -> f64 {
        let rate = if self.tuning.switchover_rate > 0.0 { self.tuning.switchover_rate } else { measured };
        rate * self.tuning.downtime_limit_s * (1.0 / PAGE)
    }

    fn is_below(&self, limit: f64) -> bool {
        let pending = self.pages.pending();
        pending < limit || pending <= NOTHING
    }

    /// One window: its bytes leave in bursts at link speed, then the sender sleeps to the window's end.
    /// The answer is whether the guest was stopped.
    fn window(&mut self) -> bool {
        let start_s = self.now_s;
        let end_s = start_s + self.window_s;
        let budget = self.rates.run_rate * self.window_s;
        let limit = self.limit_pages(self.measured);
        let mut used = 0.0;
        loop {
            self.iterations += 1;
            if self.is_below(limit) {
                self.sync(used);
                if self.is_below(limit) {
                    self.wire += used;
                    return true;
                }
                self.futile_reads = self.futile_reads.saturating_add(1);
            }
            let room_s = ITERATION_S.min((end_s - self.now_s).max(1e-6));
            let (bytes, took_s) = self.pages.send(room_s, budget - used);
            used += bytes;
            self.now_s += took_s;
            if used >= budget * 0.999_999 || self.now_s >= end_s - 1e-6 {
                break;
            }
            if self.is_given_up() {
                self.wire += used;
                self.measured = used / (self.now_s - start_s).max(1e-6);
                return false;
            }
        }
        self.wire += used;
        self.measured = used * self.per_window;
        if self.now_s < end_s {
            self.pages.since_s += end_s - self.now_s;
            self.now_s = end_s;
        }
        false
    }

    /// Read the dirty log, which takes a while during which the guest goes on writing.
    fn sync(&mut self, used: f64) {
        let added = self.pages.sync();
        self.laps.a_sync_happened();
        self.syncs += 1;
        self.now_s += self.sync_s;
        self.pages.since_s += self.sync_s;
        if self.first_pass_s == 0.0 {
            self.first_pass_s = self.now_s;
        }
        if self.throttle.after_sync(self.now_s, added, self.wire + used, self.tuning) {
            self.pages.throttle(self.throttle.running());
            self.futile_reads = 0;
        }
    }

    fn outcome(&self, converged: bool) -> Outcome {
        let pending_bytes = self.pages.pending() * PAGE;
        let last_bytes = self.pages.pending_wire() + self.tuning.device_state_bytes;
        let downtime_s = self.tuning.stop_s
            + self.sync_s
            + last_bytes / self.rates.switch_rate
            + self.rates.rtt_s
            + self.tuning.resume_s;
        let stall_s = self.throttle.stall_s();
        // One that was given up goes on as it did at last.
        let unseen_s = (self.tuning.horizon_s - self.now_s).max(0.0);
        let if_it_ends = |value: f64| if converged { value } else { f64::INFINITY };
        Outcome {
            converged,
            mode: Mode::PreCopy,
            total_s: if_it_ends(self.now_s + downtime_s),
            downtime_s: if_it_ends(downtime_s),
            service_gap_s: if_it_ends(stall_s.max(downtime_s + self.tuning.net_cutover_s)),
            wire_bytes: self.wire + if converged { last_bytes } else { unseen_s * self.measured },
            throttle_stall_s: stall_s,
            throttle_pct: self.throttle.pct,
            // The stop phase reads the log once more.
            syncs: self.syncs + u64::from(converged),
            first_pass_s: self.first_pass_s,
            residual_bytes: pending_bytes,
            downtime_needed_s: pending_bytes / self.rates.switch_rate,
            measured_rate: self.measured,
            postcopy_s: 0.0,
            fault_stall_s: 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::Pattern;
    use crate::guest::Class;
    use proptest::prelude::*;

    /// The loop without its shortcuts.
    fn step_by_step(mut run: Run<'_>) -> Outcome {
        let mut converged = false;
        while !converged && run.now_s < run.tuning.horizon_s {
            converged = run.window();
        }
        run.outcome(converged)
    }

    fn is_close(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || (a - b).abs() <= 1e-4 * a.abs().max(b.abs())
    }

    proptest! {
        #[test]
        fn the_shortcuts_lead_where_the_long_way_leads(
            sets in prop::collection::vec((0.001..0.4_f64, 0.01..4.0_f64, any::<bool>()), 0..3),
            ram_bytes in 1e8..2e10_f64,
            zero_frac in 0.0..0.2_f64,
            link in 1e7..1e9_f64,
            cap in 0.1..1.5_f64,
            limit_s in 0.03..1.0_f64,
            xbzrle_ratio in prop_oneof![Just(1.0), 1.0..10.0_f64],
            auto_converge in any::<bool>(),
        ) {
            let classes = sets.iter().map(|(share, rate, sweep)| Class {
                working_set: share * 0.99 * ram_bytes * (1.0 - zero_frac) / sets.len() as f64,
                touch_rate: rate * link,
                pattern: if *sweep { Pattern::Sweep } else { Pattern::Uniform },
                cpu_share: 0.5,
            });
            let memory = Memory { ram_bytes, zero_frac, classes: classes.collect() };
            let run_rate = link * cap.min(1.0);
            let rates = Rates { run_rate, switch_rate: link, rtt_s: 0.0, slow_start_s: 0.0, capped: false };
            let tuning = Tuning {
                downtime_limit_s: limit_s,
                xbzrle_ratio,
                auto_converge,
                horizon_s: 300.0,
                ..Tuning::default()
            };
            let short = Run::from_start(&memory, &rates, &tuning).finish();
            let long = step_by_step(Run::from_start(&memory, &rates, &tuning));
            prop_assert_eq!((short.converged, short.throttle_pct), (long.converged, long.throttle_pct));
            prop_assert!(is_close(short.total_s, long.total_s), "{} {}", short.total_s, long.total_s);
            // The horizon may cut a lap at another place, by one window.
            let window = run_rate * tuning.window_s();
            prop_assert!((short.wire_bytes - long.wire_bytes).abs() <= 2.0 * window + 1e-4 * long.wire_bytes);
        }
    }
}
