//! Walks the undo backwards, on every place that the action touched.

use super::{Engine, Events, Log, Progress, Reach};
use crate::names::RequestId;
use crate::plan::{Plan, Step};
use crate::reach::wire::{Effect, FromResident};

impl<R: Reach, L: Log> Engine<'_, R, L> {
    /// Undoes `half_done` and then every done step in reverse. Never stops at an error of its own; returns them.
    pub(super) async fn roll_back(
        &self,
        plan: &Plan,
        request: &RequestId,
        progress: &Progress,
        half_done: Option<&Step>,
    ) -> Vec<String> {
        let changed = progress.done.iter().rev().filter(|(_, effect)| *effect == Effect::Made);
        let done = changed.filter_map(|(index, _)| plan.steps.get(*index));
        let mut trouble = Vec::new();
        for step in half_done.into_iter().chain(done) {
            for undo in &step.undo {
                if let Some(error) = self.undo(plan, request, progress, undo).await {
                    trouble.push(error);
                }
            }
        }
        trouble
    }

    async fn undo(&self, plan: &Plan, request: &RequestId, progress: &Progress, undo: &Step) -> Option<String> {
        let exchange = self.exchange(plan, std::slice::from_ref(undo), request, &progress.outputs);
        let Events { mut receiver, carrier: _carrier } = match self.reach.start(&undo.place, exchange).await {
            Ok(events) => events,
            Err(failure) => return Some(format!("{}: {failure}", undo.name)),
        };
        let mut error = Some(format!("{}: the answer from {} is lost", undo.name, undo.place));
        while let Some(event) = receiver.recv().await {
            match event {
                FromResident::Ended { end, .. } => {
                    self.report(plan, undo, request, &end);
                    error = end.result.err().map(|failure| format!("{}: {failure}", undo.name));
                }
                FromResident::Log { severity, text, .. } => self.tell(plan, severity, &text),
                _ => {}
            }
        }
        error
    }
}
