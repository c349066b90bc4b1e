//! Walks the undo backwards, on every place that the action touched.

use super::exchange::Single;
use super::{Engine, Log, Progress, REPEATS, Reach, Stop};
use crate::answer::Failure;
use crate::names::RequestId;
use crate::plan::{Plan, Step};

impl<R: Reach, L: Log> Engine<'_, R, L> {
    /// Undoes in reverse what was done, half done or perhaps done, back to the point of no return. Never stops at an
    /// error of its own; returns them.
    pub(super) async fn roll_back(
        &self,
        plan: &Plan,
        request: &RequestId,
        progress: &Progress,
    ) -> Vec<String> {
        // What still runs in a lost exchange would do again what is undone here. A host that stays silent is not waited
        // for: nothing of the guest is at stake in a step without a goal.
        for step in progress.doubtful_steps(plan) {
            let quiet = tokio::time::timeout(step.deadline, self.at_rest(plan, request, &step.place)).await;
            tracing::debug!(step = step.name, place = %step.place, ?quiet, "waited before the undo");
        }
        let mut trouble = Vec::new();
        for step in progress.to_undo(plan) {
            for undo in &step.undo {
                if let Err(failure) = self.undo(plan, request, progress, undo).await {
                    trouble.push(format!("{}: {failure}", undo.name));
                }
            }
        }
        trouble
    }

    /// Runs one undo, again when its answer is lost: like every step it may run twice. With a goal it is done when the
    /// hosts say so, whatever the step says.
    async fn undo(
        &self,
        plan: &Plan,
        request: &RequestId,
        progress: &Progress,
        undo: &Step,
    ) -> Result<(), Failure> {
        let mut repeats = 0;
        loop {
            let (failure, lost) = match self.single(plan, undo, request, &progress.outputs).await {
                Single::Done => return Ok(()),
                Single::Failed(failure) => (failure, false),
                Single::Lost(failure) => (failure, true),
            };
            let stop = Stop { index: 0, failure, begun: true, foreign: false };
            if undo.goal.is_some() && self.reached(plan, undo, request, &stop, lost).await {
                return Ok(());
            }
            repeats += 1;
            if repeats > REPEATS || (!lost && undo.goal.is_none()) {
                return Err(stop.failure);
            }
            self.warn(plan, &format!("{}: {}; trying again", undo.name, stop.failure));
            tokio::time::sleep(self.patience.first * repeats).await;
        }
    }
}
