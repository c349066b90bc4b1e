//! What one probe asked and what came back, in the order in which it happened.
//!
//! The ledger is a pure record: the thread that owns the socket writes it, and everything that a report says about a
//! probe is computed from it by [`crate::silence`].

use std::time::Duration;

use crate::moment::Moment;

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it was handed to the kernel.
    pub sent: Moment,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// No answer (yet).
    Lost,
    /// The kernel did not take it: no route, no neighbour, a full queue, a broken connection.
    NotSent,
    /// The first answer was read at this moment.
    Answered(Moment),
}

impl Sample {
    /// From the question to its first answer.
    pub fn round_trip(&self) -> Option<Duration> {
        match self.fate {
            Fate::Answered(at) => Some(at.since(self.sent)),
            Fate::Lost | Fate::NotSent => None,
        }
    }
}

/// One answer as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When the observer read it.
    pub at: Moment,
    /// The question it answers.
    pub sequence: u64,
    /// What it adds to what was known.
    pub kind: ArrivalKind,
}

/// What an answer adds to what was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrivalKind {
    /// The first answer to its question, and no later question was answered before it.
    InOrder,
    /// The first answer to its question, after the answer to a later one.
    OutOfOrder,
    /// Its question was answered before.
    Duplicate,
}

/// A tick that the observer itself took late; without this list its own hiccups would pass for the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// When the tick was taken.
    pub at: Moment,
    /// How long after its due moment.
    pub by: Duration,
}

/// The record of one probe. Question numbers are indices: the first is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    samples: Vec<Sample>,
    arrivals: Vec<Arrival>,
    lags: Vec<Lag>,
    breaks: Vec<Moment>,
    highest_answered: Option<u64>,
    strays: u64,
}

impl Ledger {
    /// The number the next question will get.
    pub fn next_sequence(&self) -> u64 {
        u64::try_from(self.samples.len()).unwrap_or(u64::MAX)
    }

    /// Records the next question, sent at `at`; `taken` is whether the kernel took it.
    pub fn asked(&mut self, at: Moment, taken: bool) {
        let fate = if taken { Fate::Lost } else { Fate::NotSent };
        self.samples.push(Sample { sent: at, fate });
    }

    /// Records an answer to question `sequence`; `true` if it is the first to it. An answer to a question never asked is
    /// a stray and counts as nothing.
    pub fn answered(&mut self, sequence: u64, at: Moment) -> bool {
        let index = usize::try_from(sequence).unwrap_or(usize::MAX);
        let Some(sample) = self.samples.get_mut(index) else {
            self.strays += 1;
            return false;
        };
        let kind = match (sample.fate, self.highest_answered) {
            (Fate::Answered(_), _) => ArrivalKind::Duplicate,
            (_, Some(highest)) if sequence < highest => ArrivalKind::OutOfOrder,
            _ => ArrivalKind::InOrder,
        };
        let first = kind != ArrivalKind::Duplicate;
        if first {
            sample.fate = Fate::Answered(at);
            self.highest_answered = self.highest_answered.max(Some(sequence));
        }
        self.arrivals.push(Arrival { at, sequence, kind });
        first
    }

    /// Records something that came back and answers no question of ours.
    pub fn stray(&mut self) {
        self.strays += 1;
    }

    /// Records that the observer took a tick late.
    pub fn lagged(&mut self, at: Moment, by: Duration) {
        self.lags.push(Lag { at, by });
    }

    /// Records that a connection broke.
    pub fn broke(&mut self, at: Moment) {
        self.breaks.push(at);
    }

    /// Every question, by number.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Every answer, in the order of reading.
    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    /// Every tick that was noticeably late.
    pub fn lags(&self) -> &[Lag] {
        &self.lags
    }

    /// When connections broke (TCP only).
    pub fn breaks(&self) -> &[Moment] {
        &self.breaks
    }

    /// What came back and answered nothing.
    pub fn strays(&self) -> u64 {
        self.strays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_told_apart() {
        let mut ledger = Ledger::default();
        for at in 0..4 {
            ledger.asked(Moment(at * 10), at != 3);
        }
        assert_eq!(ledger.next_sequence(), 4);
        assert!(ledger.answered(0, Moment(5)));
        assert!(ledger.answered(2, Moment(25)));
        assert!(ledger.answered(1, Moment(26)));
        assert!(!ledger.answered(2, Moment(27)), "a duplicate is no answer");
        assert!(!ledger.answered(9, Moment(28)), "nor is what answers nothing");
        let kinds: Vec<_> = ledger.arrivals().iter().map(|a| a.kind).collect();
        use ArrivalKind::{Duplicate, InOrder, OutOfOrder};
        assert_eq!(kinds, [InOrder, InOrder, OutOfOrder, Duplicate]);
        assert_eq!(ledger.strays(), 1);
        let fates: Vec<_> = ledger.samples().iter().map(|s| s.fate).collect();
        assert_eq!(
            fates,
            [
                Fate::Answered(Moment(5)),
                Fate::Answered(Moment(26)),
                Fate::Answered(Moment(25)),
                Fate::NotSent
            ]
        );
        assert_eq!(ledger.samples()[1].round_trip(), Some(Duration::from_nanos(16)));
    }
}
