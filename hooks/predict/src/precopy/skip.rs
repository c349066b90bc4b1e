//! Shortcuts through stretches of the loop in which nothing can happen.
//!
//! *Equal windows.* Between two syncs each window sends the same share of what was pending, so a row of
//! them is one multiplication. The windows at both ends of the row are followed one by one.
//!
//! *Laps.* A migration that does not converge falls into a cycle: pass, sync, pass of the same length.
//! Once the whole state is, to a part in 10⁹, what it was one lap earlier, every further lap is like it,
//! and the loop goes to the last one before the horizon. The longest believable migration has fewer
//! than 10⁵ laps, so what is lost by that is below a part in 10⁴.

use std::time::Duration;

use super::windows::Run;

/// Two states are the same when no number differs by more than this share.
const SAME: f64 = 1e-9;

/// Finds a state that comes back: one state is remembered, and replaced from time to time, as it may have
/// been on the way into the cycle and not in it. The time grows with the way, so that a cycle of any
/// length is found in the end, and a short one soon after the loop has come into it.
#[derive(Debug, Default)]
pub(super) struct Laps {
    /// Was the log read since the last look?
    synced: bool,
    /// Looks in all, and since the state was remembered.
    looks: u32,
    age: u32,
    remembered: Option<Mark>,
    /// Where states are written down before they are compared.
    scratch: Vec<f64>,
}

/// A remembered moment.
#[derive(Debug, Default)]
struct Mark {
    /// Pages pending: asked first, as they differ most often.
    pending: f64,
    state: Vec<f64>,
    now_s: f64,
    wire: f64,
    syncs: u64,
}

/// A state is remembered for at least this many looks, and for an eighth of the way.
const LEAST_AGE: u32 = 16;
const SHARE_OF_WAY: u32 = 8;

impl Laps {
    pub(super) fn a_sync_happened(&mut self) {
        self.synced = true;
    }

    /// Is it time to remember another state?
    fn is_old(&self) -> bool {
        self.remembered.is_none() || self.age >= LEAST_AGE.max(self.looks / SHARE_OF_WAY)
    }
}

fn is_same(a: f64, b: f64) -> bool {
    (a - b).abs() <= SAME * a.abs().max(b.abs())
}

fn are_same(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(*a, *b))
}

impl Run<'_> {
    /// Pass the windows ahead that are all alike.
    pub(super) fn skip_equal_windows(&mut self) {
        let budget = self.rates.run_rate * self.window_s;
        let limit = |bytes: f64| self.limit_pages(self.measured.max(bytes * self.per_window));
        let Some(row) = self.pages.equal_windows(self.window_s, budget, limit) else { return };
        let to_horizon = ((self.tuning.horizon_s - self.now_s) * self.per_window).floor() - 1.0;
        let count = row.count.min(to_horizon);
        if count < 1.0 {
            return;
        }
        self.pages.pass_windows(count, &row, self.window_s);
        self.wire += count * row.bytes;
        self.measured = row.bytes * self.per_window;
        self.advance(count);
    }

    /// Let `count` windows go by.
    fn advance(&mut self, count: f64) {
        if !self.tuning.auto_converge || count > 1e5 {
            self.now_s += count * self.window_s;
            return;
        }
        // The throttle's period of one second is a whole number of windows: a sum that rounds otherwise
        // than the loop's own would move its decisions by a window.
        let mut passed = 0.0;
        while passed < count {
            self.now_s += self.window_s;
            passed += 1.0;
        }
    }

    /// If the loop is in a state it was in before, go on to the last lap before the horizon.
    pub(super) fn skip_laps(&mut self) {
        if !std::mem::take(&mut self.laps.synced) {
            return;
        }
        self.laps.looks = self.laps.looks.saturating_add(1);
        self.laps.age = self.laps.age.saturating_add(1);
        let pending = self.pages.pending();
        let maybe = self.laps.remembered.as_ref().is_some_and(|mark| is_same(mark.pending, pending));
        if !maybe && !self.laps.is_old() {
            return;
        }
        let mut state = std::mem::take(&mut self.laps.scratch);
        state.clear();
        state.push(self.measured);
        self.pages.state(&mut state);
        if self.tuning.auto_converge {
            state.extend(self.throttle.state(self.now_s, self.wire));
        }
        if let Some(mark) = self.laps.remembered.take_if(|mark| are_same(&mark.state, &state)) {
            self.pass_laps(&mark);
        } else if self.laps.is_old() {
            let mark = self.laps.remembered.get_or_insert_default();
            std::mem::swap(&mut mark.state, &mut state);
            (mark.pending, mark.now_s) = (pending, self.now_s);
            (mark.wire, mark.syncs) = (self.wire, self.syncs);
            self.laps.age = 0;
        }
        self.laps.scratch = state;
    }

    /// Repeat the lap since `mark` as often as fits before the horizon.
    fn pass_laps(&mut self, mark: &Mark) {
        let (lap_s, lap_wire) = (self.now_s - mark.now_s, self.wire - mark.wire);
        let laps = ((self.tuning.horizon_s - self.now_s) / lap_s).floor();
        if laps.is_nan() || laps < 1.0 {
            return;
        }
        self.now_s += laps * lap_s;
        self.wire += laps * lap_wire;
        self.throttle.period_start_s += laps * lap_s;
        self.throttle.period_wire += laps * lap_wire;
        let lap_syncs = self.syncs.saturating_sub(mark.syncs);
        self.syncs = self.syncs.saturating_add(lap_syncs.saturating_mul(whole(laps)));
    }
}

/// A number of laps as an integer. `Duration` is where the standard library converts with a check.
fn whole(laps: f64) -> u64 {
    Duration::try_from_secs_f64(laps).map_or(u64::MAX, |d| d.as_secs())
}
