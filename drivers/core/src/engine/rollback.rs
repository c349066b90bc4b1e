//! Walks the undo backwards, on every place that the action touched; and comes back to what was put off.

use std::collections::BTreeSet;
use std::time::Duration;

// The runtime's clock, so that a test can stop it.
use tokio::time::Instant;

use super::exchange::Single;
use super::{Engine, Log, Progress, REPEATS, Reach, Stop};
use crate::answer::{Failure, Kind};
use crate::journal::Note;
use crate::names::RequestId;
use crate::plan::{Goal, Plan, Step};

/// How long an undo, or a step that was put off, is tried again on a host that can't be reached: a switch that starts anew is back sooner. After that
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
            if let Err(failure) = self.insist(plan, request, progress, undo, || false).await {
                trouble.push(format!("{}: {failure}", undo.name));
                if let Some(Goal::Gone { host, .. }) = &undo.goal {
                    in_use.insert(host.clone());
                }
            }
        }
        trouble
    }

    /// Runs the steps that were put off because their hosts could not be reached. What fails now can only be told.
    pub(super) async fn catch_up(&self, plan: &Plan, request: &RequestId, progress: &Progress) {
        for step in progress.later(plan) {
            if let Err(failure) = self.insist(plan, request, progress, step, || self.is_cancelled()).await {
                self.warn(plan, &format!("{}: {failure} (ignored)", step.name));
            }
        }
    }

    /// Runs one step, again when its answer is lost: like every step it may run twice. With a goal it is done when the
    /// hosts say so, whatever the step says. Asked before each try whether it is not wanted any more.
    async fn insist(
        &self,
        plan: &Plan,
        request: &RequestId,
        progress: &Progress,
        step: &Step,
        not_wanted: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut repeats = 0;
        loop {
            if not_wanted() {
                return Err(Failure::new(Kind::Cancelled, "cancelled"));
            }
            let (failure, lost) = match self.single(plan, step, request, &progress.outputs).await {
                Single::Done => return Ok(()),
                Single::Failed(failure) => (failure, false),
                Single::Lost(failure) => (failure, true),
            };
            let stop = Stop { index: 0, failure, begun: true, foreign: false };
            if step.goal.is_some() && self.reached(plan, step, request, &stop, lost).await {
                return Ok(());
            }
            repeats += 1;
            let enough = repeats > REPEATS && (!lost || begun.elapsed() > OUT_OF_REACH);
            if enough || (!lost && step.goal.is_none()) {
                return Err(stop.failure);
            }
            self.warn(plan, &format!("{}: {}; trying again", step.name, stop.failure));
            tokio::time::sleep(self.patience.first * repeats.min(REPEATS)).await;
        }
    }
}
