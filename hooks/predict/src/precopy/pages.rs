//! Which pages are pending, what they cost, and what the guest writes meanwhile.

use super::{Observed, Rates};
use crate::PAGE;
use crate::dirty::{self, Pattern};
use crate::guest::{Class, Memory};
use crate::tuning::Tuning;

/// QEMU's header of one page in the stream, when the block's name is not repeated.
pub(crate) const PAGE_HEADER: f64 = 8.0;
/// A zero page in the stream: the header and one byte.
const ZERO_PAGE: f64 = 9.0;
/// What counts as "sent before": all but a millionth of the group, which is rounding.
const ALL: f64 = 0.999_999;

/// Pages that are written and sent alike.
#[derive(Debug, Clone, Copy)]
struct Group {
    /// How many there are.
    size: f64,
    /// How many are touched per second when nothing slows the writer.
    rate: f64,
    pattern: Pattern,
    cpu_share: f64,
    zero: bool,
    /// Pages waiting to be sent when the current stretch began.
    pending: f64,
    /// Pages sent so far, again counting repeats.
    sent: f64,
    /// Pages in the dirty log when the current stretch began.
    log: f64,
}

impl Group {
    fn new(class: &Class, zero: bool) -> Self {
        let size = class.working_set / PAGE;
        Self {
            size,
            rate: class.touch_rate / PAGE,
            pattern: class.pattern,
            cpu_share: class.cpu_share,
            zero,
            pending: size,
            sent: 0.0,
            log: 0.0,
        }
    }

    fn unwritten(bytes: f64, zero: bool) -> Self {
        let class = Class { working_set: bytes, touch_rate: 0.0, pattern: Pattern::Uniform, cpu_share: 0.0 };
        Self::new(&class, zero)
    }

    fn is_written(&self) -> bool {
        self.rate > 0.0 && self.size > 0.0
    }

    /// The log after `elapsed_s` of writing with `running` of the vCPU left.
    fn log_after(&self, elapsed_s: f64, running: f64) -> f64 {
        if !self.is_written() {
            return self.log;
        }
        let slowed = running < 1.0 && self.cpu_share > running;
        let rate = if slowed { self.rate * running / self.cpu_share } else { self.rate };
        dirty::grown(self.log, self.size, rate, elapsed_s, self.pattern)
    }

    /// Of what was pending, `left` still is.
    fn settle(&mut self, left: f64) {
        self.sent += self.pending * (1.0 - left);
        self.pending *= left;
    }

    fn all_sent(&self) -> bool {
        self.sent >= self.size * ALL
    }
}

/// What one page costs.
#[derive(Debug, Clone, Copy)]
struct Price {
    /// Bytes on the wire.
    wire: f64,
    /// Time on the link, or to find out that it is zero, seconds.
    time: f64,
}

/// What pages cost on this path.
#[derive(Debug, Clone, Copy)]
struct Prices {
    zero: Price,
    /// Sent for the first time.
    first: Price,
    /// Sent before.
    again: Price,
}

impl Prices {
    fn new(link_rate: f64, tuning: &Tuning) -> Self {
        let price = |wire: f64, least_s: f64| Price { wire, time: least_s.max(wire / link_rate) };
        Self {
            zero: price(ZERO_PAGE, PAGE / tuning.scan_rate),
            first: price(PAGE_HEADER + PAGE / tuning.compress_ratio, 0.0),
            again: price(PAGE_HEADER + PAGE / (tuning.compress_ratio * tuning.xbzrle_ratio), 0.0),
        }
    }

    fn of(&self, group: &Group) -> Price {
        if group.zero {
            self.zero
        } else if group.all_sent() {
            self.again
        } else {
            self.first
        }
    }

    /// Does a page cost something else once it was sent?
    fn change(&self) -> bool {
        self.again.wire.to_bits() != self.first.wire.to_bits()
    }
}

/// All pages of the guest, and how far the current stretch has come.
///
/// A *stretch* lies between two changes of proportion: a sync, or a group whose pages have all been sent
/// once and now cost less. Within a stretch every group loses the same share of its pending pages, so a
/// single number, `left`, tells how far it has come, and sums are taken once per stretch.
#[derive(Debug)]
pub(super) struct Pages {
    groups: Vec<Group>,
    prices: Prices,
    /// Share of the stretch's pending pages that is still pending, from 1 down to 0.
    left: f64,
    /// Time since the dirty logs were last written down, seconds.
    pub(super) since_s: f64,
    /// Share of its time that the guest's vCPU may run.
    running: f64,
    stretch: Stretch,
}

/// Sums over the pages that were pending when a stretch began.
#[derive(Debug)]
struct Stretch {
    total: f64,
    /// Their wire bytes and time on the link, and the inverses of these: the loop would divide by them at
    /// every step otherwise, and does little else.
    wire: f64,
    time: f64,
    per_wire: f64,
    per_time: f64,
    /// The share left at which the next group becomes cheaper; negative when none will.
    reprice_at: f64,
}

impl Stretch {
    /// Before any group was added.
    const EMPTY: Self =
        Self { total: 0.0, wire: 0.0, time: 0.0, per_wire: 0.0, per_time: 0.0, reprice_at: -1.0 };

    /// Add a group whose progress is settled.
    fn add(&mut self, group: &Group, prices: &Prices) {
        if group.pending <= 0.0 {
            return;
        }
        let price = prices.of(group);
        self.total += group.pending;
        self.wire += group.pending * price.wire;
        self.time += group.pending * price.time;
        if prices.change() && !group.zero && !group.all_sent() {
            let at = 1.0 - (group.size * ALL - group.sent) / group.pending;
            self.reprice_at = self.reprice_at.max(at);
        }
    }

    /// All groups were added.
    fn complete(mut self) -> Self {
        (self.per_wire, self.per_time) = (1.0 / self.wire, 1.0 / self.time);
        self
    }
}

impl Pages {
    /// Everything pending, nothing dirty.
    pub(super) fn all(memory: &Memory, rates: &Rates, tuning: &Tuning) -> Self {
        let zero = memory.ram_bytes * memory.zero_frac;
        let cold = (memory.ram_bytes - zero - memory.working_set()).max(0.0);
        let mut groups = Vec::with_capacity(memory.classes.len() + 2);
        groups.extend(memory.classes.iter().map(|class| Group::new(class, false)));
        groups.push(Group::unwritten(zero, true));
        groups.push(Group::unwritten(cold, false));
        let prices = Prices::new(rates.switch_rate, tuning);
        let mut pages =
            Self { groups, prices, left: 1.0, since_s: 0.0, running: 1.0, stretch: Stretch::EMPTY };
        pages.begin_stretch();
        pages
    }

    /// What an outside observer must assume to be pending and dirty in a running migration.
    pub(super) fn observed(memory: &Memory, rates: &Rates, tuning: &Tuning, observed: &Observed) -> Self {
        let mut pages = Self::all(memory, rates, tuning);
        let ram = memory.ram_bytes / PAGE;
        let pending = observed.pending_bytes / PAGE;
        let written: f64 = pages.groups.iter().filter(|g| g.rate > 0.0).map(|g| g.size).sum();
        let share = if ram > 0.0 { (pending / ram).min(1.0) } else { 0.0 };
        let mut unexplained = pending;
        for group in &mut pages.groups {
            group.log = dirty::curve(group.size, group.rate, observed.since_sync_s, group.pattern);
            if observed.syncs <= 1 {
                // The first pass thins everything out evenly.
                (group.pending, group.sent) = (group.size * share, group.size * (1.0 - share));
                continue;
            }
            // Later, what is pending was written to.
            let part = if group.is_written() { pending * group.size / written } else { 0.0 };
            (group.pending, group.sent) = (part.min(group.size), group.size);
            unexplained -= group.pending;
        }
        if observed.syncs > 1
            && unexplained > 0.0
            && let Some(cold) = pages.groups.last_mut()
        {
            cold.pending = unexplained.min(cold.size);
        }
        pages.begin_stretch();
        pages
    }

    /// Pages pending now.
    pub(super) fn pending(&self) -> f64 {
        self.stretch.total * self.left
    }

    /// Send what fits into `seconds` and `bytes`; the answer is the wire bytes and the time it took.
    pub(super) fn send(&mut self, seconds: f64, bytes: f64) -> (f64, f64) {
        let stretch = &self.stretch;
        let share = self.left.min(seconds * stretch.per_time).min(bytes * stretch.per_wire);
        let sent = (stretch.wire * share, stretch.time * share);
        self.left -= share;
        self.since_s += sent.1;
        if self.left <= self.stretch.reprice_at {
            self.begin_stretch();
        }
        sent
    }

    /// Read the dirty log: what it holds becomes pending unless it is already. The answer is how many
    /// pages that added.
    pub(super) fn sync(&mut self) -> f64 {
        let mut added = 0.0;
        let mut stretch = Stretch::EMPTY;
        for group in &mut self.groups {
            group.settle(self.left);
            let log = group.log_after(self.since_s, self.running);
            if log > 0.0 && group.size > 0.0 {
                // The log knows nothing of what is pending: the overlap is in proportion.
                let new = log - group.pending * log / group.size;
                group.pending += new;
                group.log = 0.0;
                added += new;
            }
            stretch.add(group, &self.prices);
        }
        self.since_s = 0.0;
        self.left = 1.0;
        self.stretch = stretch.complete();
        added
    }

    /// Leave the guest `running` of its vCPU time from now on.
    pub(super) fn throttle(&mut self, running: f64) {
        for group in &mut self.groups {
            group.log = group.log_after(self.since_s, self.running);
        }
        self.since_s = 0.0;
        self.running = running;
    }

    /// Wire bytes of everything that is pending.
    pub(super) fn pending_wire(&self) -> f64 {
        self.groups.iter().map(|g| g.pending * self.left * self.prices.of(g).wire).sum()
    }

    /// Write the progress of the stretch down in its groups and begin the next with what is left.
    fn begin_stretch(&mut self) {
        let mut stretch = Stretch::EMPTY;
        for group in &mut self.groups {
            group.settle(self.left);
            stretch.add(group, &self.prices);
        }
        self.left = 1.0;
        self.stretch = stretch.complete();
    }

    /// How many whole windows of `window_s` seconds and `budget` bytes are alike from here on: those
    /// after which at least `limit` pages are still pending and no price has changed. Nothing if there is
    /// no such row. `limit` is asked with the bytes that such a window sends.
    pub(super) fn equal_windows(
        &self,
        window_s: f64,
        budget: f64,
        limit: impl Fn(f64) -> f64,
    ) -> Option<Row> {
        let stretch = &self.stretch;
        let share = (window_s * stretch.per_time).min(budget * stretch.per_wire);
        let (bytes, pages) = (share * stretch.wire, share * stretch.total);
        let to_limit = self.pending() - limit(bytes);
        let to_reprice = (self.left - stretch.reprice_at) * stretch.total;
        let room = to_limit.min(to_reprice);
        // Near the limit, where a loop that hovers spends its time, there is nothing to divide. With nothing
        // pending there are no numbers either (NaN), and no row.
        if room.is_nan() || room <= pages {
            return None;
        }
        // A row that ends on the limit to the last bit ends one window before it.
        let count = (room / pages - 1e-9).floor();
        (count >= 1.0).then_some(Row { count, share, bytes })
    }

    /// Pass the first `count` windows of a row.
    pub(super) fn pass_windows(&mut self, count: f64, row: &Row, window_s: f64) {
        self.left -= count * row.share;
        self.since_s += count * window_s;
    }

    /// Append numbers to `state` that are equal when the loop will go on equally.
    pub(super) fn state(&self, state: &mut Vec<f64>) {
        state.extend([self.since_s, self.running]);
        state.extend(self.groups.iter().flat_map(|g| [g.pending * self.left, g.log]));
        // While a price change lies ahead, progress towards it belongs to the state.
        if self.prices.change() && self.groups.iter().any(|g| g.is_written() && !g.all_sent()) {
            state.extend(self.groups.iter().map(|g| g.sent));
        }
    }
}

/// A row of equal windows.
#[derive(Debug)]
pub(super) struct Row {
    /// How many.
    pub(super) count: f64,
    /// Share of the stretch's pages that each of them sends.
    share: f64,
    /// Wire bytes that each of them sends.
    pub(super) bytes: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(tuning: &Tuning) -> Pages {
        let class =
            Class { working_set: 40.96e6, touch_rate: 1e6, pattern: Pattern::Uniform, cpu_share: 0.5 };
        let memory = Memory { ram_bytes: 409.6e6, zero_frac: 0.5, classes: vec![class] };
        let rates = Rates { run_rate: 1e8, switch_rate: 1e8, rtt_s: 0.0, slow_start_s: 0.0, capped: false };
        Pages::all(&memory, &rates, tuning)
    }

    #[test]
    fn everything_is_pending_at_first_and_nothing_after_sending_all() {
        let mut pages = pages(&Tuning::default());
        assert!((pages.pending() - 1e5).abs() < 1e-6);
        let (bytes, _) = pages.send(f64::INFINITY, f64::INFINITY);
        assert!((bytes - 5e4 * (4104.0 + 9.0)).abs() < 1.0, "{bytes}");
        assert!(pages.pending() < 1e-9);
    }

    #[test]
    fn a_row_of_equal_windows_is_what_following_them_gives() {
        let (mut followed, mut passed) = (pages(&Tuning::default()), pages(&Tuning::default()));
        let row = passed.equal_windows(0.1, 1e7, |_| 1e4).unwrap();
        assert!(row.count >= 10.0, "{row:?}");
        passed.pass_windows(row.count, &row, 0.1);
        let mut count = 0.0;
        while count < row.count {
            count += 1.0;
            let (sent, took) = followed.send(0.1, 1e7);
            assert!((sent - row.bytes).abs() < 1.0, "{sent} {row:?}");
            followed.since_s += 0.1 - took;
        }
        assert!((followed.pending() - passed.pending()).abs() < 1e-3);
        assert!((followed.since_s - passed.since_s).abs() < 1e-9);
    }

    #[test]
    fn a_throttle_slows_only_a_writer_that_needs_the_time() {
        let dirty = |running: f64| {
            let mut pages = pages(&Tuning::default());
            pages.send(f64::INFINITY, f64::INFINITY);
            pages.sync();
            pages.throttle(running);
            pages.since_s = 1.0;
            pages.sync()
        };
        assert!((dirty(0.6) / dirty(1.0) - 1.0).abs() < 0.1);
        assert!(dirty(0.05) < 0.5 * dirty(1.0));
    }
}
