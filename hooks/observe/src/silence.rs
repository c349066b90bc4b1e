//! Silence: what an outside observer sees of a move.
//!
//! Let *a*₁ ≤ *a*₂ ≤ … be the moments at which the observer read the **first** answer to each question of a probe
//! (duplicates prove nothing new and are left out), over the whole run. The silence of a window is the longest
//! *a*ᵢ₊₁ − *a*ᵢ of two consecutive answers whose interval touches the window. Nothing is subtracted: neither the
//! probe's interval nor the round trip. An undisturbed probe therefore has a silence of about its interval, and a
//! silence may begin before the window or end after it.
//!
//! Where no answer exists before the window's start (or after its end), the window's edge takes its place and the
//! silence is *open* there: its length is then a lower bound.
//!
//! The moments are those at which our thread read the answer. A thread that the observer's machine kept waiting reads
//! late, and no observer can tell its own hiccup from the guest's; [`Watch::lag`] is the worst hiccup seen in the same
//! window and bounds that error.

use std::time::Duration;

use crate::ledger::{Arrival, ArrivalKind, Fate, Ledger, Sample};
use crate::moment::Moment;

/// A span of the time line, `from` included and `to` not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first moment inside.
    pub from: Moment,
    /// The first moment after it.
    pub to: Moment,
}

impl Window {
    /// Whether `moment` lies inside.
    pub fn holds(&self, moment: Moment) -> bool {
        self.from <= moment && moment < self.to
    }
}

/// A longest gap between answers; see the module for the definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// The last answer before it, or the window's start.
    pub from: Moment,
    /// The first answer after it, or the window's end.
    pub to: Moment,
    /// No answer is known before it: it may have begun earlier.
    pub open_start: bool,
    /// No answer is known after it: it may have lasted longer.
    pub open_end: bool,
}

impl Silence {
    /// How long it was; a lower bound if it is open.
    pub fn length(&self) -> Duration {
        self.to.since(self.from)
    }

    /// Whether [`length`](Silence::length) is only a lower bound.
    pub fn is_open(&self) -> bool {
        self.open_start || self.open_end
    }
}

/// The silence of `window` in `ledger`. Of two equally long gaps the earlier is given.
pub fn silence(ledger: &Ledger, window: Window) -> Silence {
    let arrivals = ledger.arrivals();
    // Arrivals are read in order of time, so the ones that matter are one run of the list, plus a neighbour at each end.
    let begin = arrivals.partition_point(|a| a.at <= window.from);
    let end = arrivals.partition_point(|a| a.at < window.to).max(begin);
    let first = |a: &&Arrival| a.kind != ArrivalKind::Duplicate;
    let part = |from: usize, to: usize| arrivals.get(from..to).unwrap_or_default();

    let before = part(0, begin).iter().rev().find(first).map(|a| a.at);
    let after = part(end, arrivals.len()).iter().find(first).map(|a| a.at);
    let inside = part(begin, end).iter().filter(first).map(|a| a.at);

    let mut last = before.unwrap_or(window.from);
    let mut open_start = before.is_none();
    let mut longest: Option<Silence> = None;
    for (at, open_end) in inside.map(|at| (at, false)).chain([(after.unwrap_or(window.to), after.is_none())])
    {
        let gap = Silence { from: last, to: at, open_start, open_end };
        if longest.is_none_or(|l| gap.length() > l.length()) {
            longest = Some(gap);
        }
        (last, open_start) = (at, false);
    }
    longest.unwrap_or(Silence { from: window.from, to: window.to, open_start: true, open_end: true })
}

/// All that one probe says about one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// Questions that fell due and were written down: answered, lost and not sent.
    pub asked: u64,
    /// Questions that were answered, however late.
    pub answered: u64,
    /// Questions that the kernel took and nobody answered.
    pub lost: u64,
    /// Questions that the kernel did not take (no route, no neighbour, connection stalled or broken).
    pub not_sent: u64,
    /// Answers read in the window whose question had been answered before.
    pub duplicates: u64,
    /// First answers read in the window after the answer to a later question.
    pub out_of_order: u64,
    /// Connections that broke in the window (TCP only).
    pub breaks: u64,
    /// Median round trip of the questions of the window that were answered.
    pub round_trip: Option<Duration>,
    /// The longest silence that touches the window.
    pub silence: Silence,
    /// The latest tick of the observer itself in the window or in the silence; zero if it was always on time.
    pub lag: Duration,
}

/// Computes everything that `ledger` says about `window`. Questions count by when they were sent, answers by when they
/// were read.
pub fn watch(ledger: &Ledger, window: Window) -> Watch {
    let samples = ledger.samples();
    let begin = samples.partition_point(|s| s.sent < window.from);
    let end = samples.partition_point(|s| s.sent < window.to);
    let inside = samples.get(begin..end).unwrap_or_default();
    let fated = |want: fn(&Sample) -> bool| count(inside.iter().filter(|s| want(s)));
    let read = |kind: ArrivalKind| {
        let matching = |a: &&Arrival| a.kind == kind && window.holds(a.at);
        count(ledger.arrivals().iter().filter(matching))
    };
    let silence = silence(ledger, window);
    let span = Window { from: window.from.min(silence.from), to: window.to.max(silence.to) };
    let mut trips: Vec<_> = inside.iter().filter_map(Sample::round_trip).collect();
    Watch {
        asked: count(inside.iter()),
        answered: fated(|s| matches!(s.fate, Fate::Answered(_))),
        lost: fated(|s| s.fate == Fate::Lost),
        not_sent: fated(|s| s.fate == Fate::NotSent),
        duplicates: read(ArrivalKind::Duplicate),
        out_of_order: read(ArrivalKind::OutOfOrder),
        breaks: count(ledger.breaks().iter().filter(|at| window.holds(**at))),
        round_trip: median(&mut trips),
        silence,
        lag: ledger
            .lags()
            .iter()
            // The late tick comes just after the answers that waited with it, so its whole wait is what must touch.
            .filter(|lag| lag.at.minus(lag.by) < span.to && lag.at >= span.from)
            .map(|lag| lag.by)
            .max()
            .unwrap_or_default(),
    }
}

/// The middle value, or the mean of the two middle values; `None` of nothing. Sorts its input.
pub fn median(values: &mut [Duration]) -> Option<Duration> {
    values.sort_unstable();
    let upper = values.get(values.len() / 2).copied()?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = values.get((values.len() / 2).checked_sub(1)?).copied()?;
    Some(lower + (upper - lower) / 2)
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(from: u64, to: u64) -> Window {
        Window { from: Moment(from), to: Moment(to) }
    }

    /// Questions at 0, 10, 20, …; `answers` are (question, moment of reading).
    fn ledger(questions: u64, answers: &[(u64, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        for k in 0..questions {
            ledger.asked(Moment(k * 10), true);
        }
        for (sequence, at) in answers {
            ledger.answered(*sequence, Moment(*at));
        }
        ledger
    }

    #[test]
    fn the_gap_of_a_move_has_a_known_length() {
        let book = ledger(12, &[(0, 2), (1, 12), (2, 22), (8, 83), (9, 92), (9, 95), (10, 102), (11, 112)]);
        let seen = watch(&book, window(15, 100));
        assert_eq!(
            seen.silence,
            Silence { from: Moment(22), to: Moment(83), open_start: false, open_end: false }
        );
        assert_eq!(seen.silence.length(), Duration::from_nanos(61));
        assert_eq!((seen.asked, seen.answered, seen.lost), (8, 3, 5));
        assert_eq!((seen.duplicates, seen.out_of_order), (1, 0));
        assert_eq!(seen.round_trip, Some(Duration::from_nanos(2)));
    }

    #[test]
    fn a_silence_may_reach_over_both_edges() {
        let book = ledger(10, &[(0, 2), (9, 92)]);
        let gap = silence(&book, window(40, 50));
        assert_eq!((gap.from, gap.to), (Moment(2), Moment(92)));
        assert!(!gap.is_open());
    }

    #[test]
    fn without_answers_beyond_it_is_a_lower_bound() {
        let book = ledger(10, &[(3, 31)]);
        let gap = silence(&book, window(10, 90));
        assert_eq!((gap.from, gap.to), (Moment(31), Moment(90)));
        assert!(gap.open_end && !gap.open_start);
        let gap = silence(&ledger(10, &[(3, 80)]), window(10, 90));
        assert_eq!((gap.from, gap.to), (Moment(10), Moment(80)));
        assert!(gap.open_start && !gap.open_end);
        let gap = silence(&Ledger::default(), window(10, 90));
        assert!(gap.open_start && gap.open_end);
        assert_eq!(gap.length(), Duration::from_nanos(80));
    }

    #[test]
    fn a_duplicate_does_not_end_a_silence() {
        let book = ledger(10, &[(0, 2), (0, 50), (9, 92)]);
        assert_eq!(silence(&book, window(10, 90)).length(), Duration::from_nanos(90));
        let book = ledger(10, &[(0, 20), (0, 30)]);
        let gap = silence(&book, window(25, 90));
        assert_eq!((gap.from, gap.to, gap.open_end), (Moment(20), Moment(90), true));
    }

    #[test]
    fn a_gap_that_ends_as_the_window_begins_does_not_touch_it() {
        let book = ledger(10, &[(0, 2), (4, 40), (5, 51), (9, 95)]);
        let gap = silence(&book, window(40, 51));
        assert_eq!((gap.from, gap.to), (Moment(40), Moment(51)));
    }

    #[test]
    fn the_observers_own_hiccup_is_told() {
        let mut book = ledger(10, &[(0, 2), (9, 92)]);
        book.lagged(Moment(30), Duration::from_nanos(25));
        book.lagged(Moment(195), Duration::from_nanos(99));
        // The silence began before the window; a hiccup inside it counts, one after it does not.
        assert_eq!(watch(&book, window(40, 50)).lag, Duration::from_nanos(25));
        // A hiccup that held up the very answer that ends the silence.
        book.lagged(Moment(93), Duration::from_nanos(40));
        assert_eq!(watch(&book, window(40, 50)).lag, Duration::from_nanos(40));
    }

    #[test]
    fn medians_have_known_answers() {
        let ms = |list: &[u64]| -> Vec<_> { list.iter().map(|n| Duration::from_millis(*n)).collect() };
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut ms(&[7])), Some(Duration::from_millis(7)));
        assert_eq!(median(&mut ms(&[9, 1, 4])), Some(Duration::from_millis(4)));
        assert_eq!(median(&mut ms(&[1, 2, 100, 4])), Some(Duration::from_millis(3)));
    }

    proptest! {
        /// The definition, written down naively: try every pair of consecutive answers.
        #[test]
        fn agrees_with_the_definition(
            mut at in prop::collection::vec(0u64..2_000, 0..40),
            from in 0u64..2_000,
            length in 1u64..800,
        ) {
            at.sort_unstable();
            at.dedup();
            let to = from + length;
            let answers: Vec<_> = at.iter().enumerate().map(|(k, at)| (k as u64, *at)).collect();
            let found = silence(&ledger(40, &answers), window(from, to));

            let mut points = at.clone();
            if points.first().is_none_or(|first| *first > from) { points.insert(0, from); }
            if points.last().is_none_or(|last| *last < to) { points.push(to); }
            let naive = points.windows(2)
                .filter(|pair| pair[0] < to && pair[1] > from)
                .map(|pair| pair[1] - pair[0])
                .max()
                .unwrap_or(0);
            prop_assert_eq!(found.length(), Duration::from_nanos(naive));
            prop_assert_eq!(found.open_start, !at.contains(&found.from.0));
            prop_assert_eq!(found.open_end, !at.contains(&found.to.0));
        }

        #[test]
        fn every_question_has_one_fate(
            answers in prop::collection::vec((0u64..30, 0u64..400), 0..60),
            from in 0u64..300, length in 0u64..300,
        ) {
            let mut answers = answers;
            answers.sort_by_key(|(_, at)| *at);
            let seen = watch(&ledger(25, &answers), window(from, from + length));
            prop_assert_eq!(seen.asked, seen.answered + seen.lost + seen.not_sent);
        }
    }
}
