//! Walks the undo backwards, on every place that the action touched.

use std::collections::BTreeSet;
use std::time::Duration;

// The runtime's clock, so that a test can stop it.
use tokio::time::Instant;

use super::exchange::Single;
use super::{Engine, Log, Progress, REPEATS, Reach, Stop};
use crate::answer::Failure;
use crate::journal::Note;
use crate::names::RequestId;
use crate::plan::{Goal, Plan, Step};

/// How long an undo is tried again on a host that can't be reached: a switch that starts anew is back sooner. After that
/// the failure is told, with what it leaves there.
const OUT_OF_REACH: Duration = Duration::from_secs(90);

impl<R: Reach, L: Log> Engine<'_, R, L> {
    /// Undoes in reverse what was done, half done or perhaps done, back to the point of no return. Never stops at an
    /// error of its own, but never touches what a guest that could not be ended uses; returns what it left. What still
    /// runs in a lost exchange is waited for by the hosts themselves: they run one exchange of a VM at a time.
    pub(super) async fn roll_back(
        &self,
        plan: &Plan,
        request: &RequestId,
        progress: &Progress,
    ) -> Vec<String> {
        if progress.to_undo(plan).next().is_some() {
            self.journal.note(request, &Note::Undo);
        }
        let mut trouble = Vec::new();
        // Hosts where the guest could not be ended: what was made for it there is in use.
        let mut in_use = BTreeSet::new();
        for undo in progress.to_undo(plan).flat_map(|step| &step.undo) {
            if let Some(host) = undo.place.host().filter(|host| in_use.contains(*host)) {
                trouble.push(format!("{}: left alone, the guest runs on {host}", undo.name));
                continue;
            }
            if let Err(failure) = self.undo(plan, request, progress, undo).await {
                trouble.push(format!("{}: {failure}", undo.name));
                if let Some(Goal::Gone { host, .. }) = &undo.goal {
                    in_use.insert(host.clone());
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
        let begun = Instant::now();
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
            let enough = repeats > REPEATS && (!lost || begun.elapsed() > OUT_OF_REACH);
            if enough || (!lost && undo.goal.is_none()) {
                return Err(stop.failure);
            }
            self.warn(plan, &format!("{}: {}; trying again", undo.name, stop.failure));
            tokio::time::sleep(self.patience.first * repeats.min(REPEATS)).await;
        }
    }
}
