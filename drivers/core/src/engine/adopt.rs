//! Takes up a plan whose driver process died, from what its journal says.

use std::collections::BTreeSet;

use super::progress::{Progress, assumed};
use super::{Engine, Log, Outcome, Reach, Repeats, Stop};
use crate::answer::{Failure, Kind};
use crate::journal::Note;
use crate::names::RequestId;
use crate::plan::{OnFailure, Plan};

impl<R: Reach, L: Log> Engine<'_, R, L> {
    /// Goes on with a plan whose process died, given its notes. What was in flight then is taken for a lost answer; an
    /// undo that had begun is done again from its beginning.
    pub async fn adopt(&self, plan: &Plan, request: &RequestId, notes: &[Note]) -> Outcome {
        let mut past = Past::default();
        for note in notes {
            past.hear(plan, note);
        }
        let Past { mut progress, passed, undoing } = past;
        let steps = progress.first_open()..plan.steps.len();
        let first = steps.clone().find(|index| !passed.contains(index)).unwrap_or(steps.end);
        let died = |text| Failure::new(Kind::Unreachable, text);
        let end = if undoing {
            Err(died("it failed, and its driver process died while it was undone"))
        } else if progress.is_doubtful(first) {
            let failure = died("its driver process died meanwhile");
            let stop = Stop { index: first, failure, begun: true, foreign: false };
            match self.past(plan, request, &mut progress, &stop, &mut Repeats::default()).await {
                Ok(next) => self.forward(plan, request, &mut progress, next).await,
                Err(failure) => Err(failure),
            }
        } else {
            self.forward(plan, request, &mut progress, first).await
        };
        self.conclude(plan, request, &progress, end).await
    }

    /// As [`adopt`](Engine::adopt) by one who kept only the names of the steps that were done: every other step may have
    /// been in flight.
    pub async fn resume(&self, plan: &Plan, request: &RequestId, done: &[String]) -> Outcome {
        let sent = Note::Sent { steps: plan.steps.iter().map(|step| step.name.clone()).collect() };
        let ended = done.iter().map(|step| Note::Ended { step: step.clone(), ok: true });
        let notes: Vec<Note> = std::iter::once(sent).chain(ended).collect();
        self.adopt(plan, request, &notes).await
    }
}

/// What the notes add up to.
#[derive(Default)]
struct Past {
    progress: Progress,
    /// Steps that need not be run again.
    passed: BTreeSet<usize>,
    undoing: bool,
}

impl Past {
    fn hear(&mut self, plan: &Plan, note: &Note) {
        let find = |name: &String| plan.steps.iter().enumerate().find(|(_, step)| step.name == *name);
        match note {
            Note::Sent { steps } => {
                for (index, _) in steps.iter().filter_map(find) {
                    self.passed.remove(&index);
                    self.progress.doubt([index]);
                }
            }
            Note::Ended { step, ok } => {
                let Some((index, step)) = find(step) else { return };
                match (*ok, &step.goal) {
                    (true, _) => self.progress.take(index, step, assumed(step)),
                    (false, None) => self.progress.fail(index, step),
                    // Nobody lived to ask whether the goal was reached all the same.
                    (false, Some(_)) => self.progress.doubt([index]),
                }
                if *ok || step.on_failure == OnFailure::Warn {
                    self.passed.insert(index);
                }
            }
            Note::Undo => self.undoing = true,
            Note::Begin { .. } | Note::Started { .. } | Note::End { .. } => {}
        }
    }
}
