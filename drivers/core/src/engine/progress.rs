//! How far a plan has come, and how the hosts are paced when that is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

// The runtime's clock, so that a test can stop it.
use tokio::time::Instant;

use super::Patience;
use crate::plan::{Goal, OnFailure, Plan, Step};
use crate::reach::wire::{Done, Effect};

/// What has been done so far, by the steps' places in the plan.
#[derive(Default)]
pub(super) struct Progress {
    /// Steps that changed something, or began to.
    made: BTreeSet<usize>,
    /// Steps that found their work done when they were first asked: nothing of it is ours to undo.
    found: BTreeSet<usize>,
    /// Steps that may have begun in an exchange whose answer was lost.
    doubtful: BTreeSet<usize>,
    /// What the steps printed, by their names.
    pub outputs: BTreeMap<String, Done>,
    /// The step that closed the way back.
    no_return: Option<usize>,
    /// Steps beyond it whose host could not be reached when it was their turn.
    later: Vec<usize>,
}

impl Progress {
    /// Notes that a step is done. One that finds its work done already may have done it itself, in an exchange that was
    /// lost.
    pub fn take(&mut self, index: usize, step: &Step, done: Done) {
        let doubtful = self.doubtful.remove(&index);
        if done.effect == Effect::Made || (doubtful && !self.found.contains(&index)) {
            self.made.insert(index);
        } else {
            self.found.insert(index);
        }
        self.outputs.insert(step.name.clone(), done);
        if closes_the_way_back(step) {
            self.no_return = Some(index);
        }
    }

    /// Notes that a step said itself that it failed. One with a goal is asked about; another may have been half done.
    pub fn fail(&mut self, index: usize, step: &Step) {
        self.doubtful.remove(&index);
        if step.goal.is_none() {
            self.made.insert(index);
        }
    }

    /// Notes that the answer of these steps was lost.
    pub fn doubt(&mut self, steps: impl IntoIterator<Item = usize>) {
        self.doubtful.extend(steps);
    }

    /// Where to begin again when the answer of the step at `index` is lost: at the first step on its host, for a host
    /// that was away may have lost what was made there. What lies before a step with a goal is left alone: that was
    /// proved. So is what lies before a step that must not be done twice.
    pub fn again(&mut self, plan: &Plan, index: usize) -> usize {
        let steps = plan.steps.get(..=index).unwrap_or_default();
        let host = steps.last().and_then(|step| step.place.host());
        let unproved =
            steps.iter().enumerate().rev().take_while(|(_, step)| step.goal.is_none() && !step.once);
        let of_host = unproved.filter(|(_, step)| step.place.host() == host).map(|(index, _)| index);
        let first = of_host
            .inspect(|index| {
                self.doubtful.insert(*index);
            })
            .last();
        first.unwrap_or(index)
    }

    /// Puts a step off to the plan's end.
    pub fn put_off(&mut self, index: usize) {
        self.later.push(index);
    }

    /// The steps that were put off.
    pub fn later<'p>(&self, plan: &'p Plan) -> impl Iterator<Item = &'p Step> {
        self.later.iter().filter_map(|index| plan.steps.get(*index))
    }

    /// Notes that a step is proved not to be done.
    pub fn disprove(&mut self, index: usize) {
        self.doubtful.remove(&index);
    }

    /// Whether the step may have begun in a lost exchange.
    pub fn is_doubtful(&self, index: usize) -> bool {
        self.doubtful.contains(&index)
    }

    /// The first step that a plan can still be taken up with.
    pub fn first_open(&self) -> usize {
        self.no_return.map_or(0, |index| index + 1)
    }

    /// Whether the guest has moved, or has ended: what is left can only warn.
    pub fn is_past_return(&self) -> bool {
        self.no_return.is_some()
    }

    /// The steps to undo, last first: back to the point of no return.
    pub fn to_undo<'p>(&self, plan: &'p Plan) -> impl Iterator<Item = &'p Step> {
        let steps: BTreeSet<usize> = self.made.union(&(&self.doubtful - &self.found)).copied().collect();
        let end = self.first_open();
        steps
            .into_iter()
            .rev()
            .take_while(move |index| *index >= end)
            .filter_map(|index| plan.steps.get(index))
    }
}

/// Whether a step after `index` on the same host must succeed.
pub(super) fn is_relied_on(plan: &Plan, index: usize) -> bool {
    let host = plan.steps.get(index).and_then(|step| step.place.host());
    let mut later = plan.steps.iter().skip(index + 1).filter(|step| step.place.host() == host);
    later.any(|step| step.on_failure == OnFailure::Stop)
}

/// Whether nothing before this step can be taken back once it is done.
fn closes_the_way_back(step: &Step) -> bool {
    matches!(step.goal, Some(Goal::Gone { .. } | Goal::RunsOn { from: Some(_), .. }))
}

/// What a step is taken to have printed when the hosts proved that it is done.
pub(super) fn assumed(step: &Step) -> Done {
    let output = step.goal.as_ref().map(|goal| goal.id().to_string()).unwrap_or_default();
    Done { output, effect: Effect::Made }
}

/// Paces the questions to the hosts and the lines in the log.
pub(super) struct Pace {
    patience: Patience,
    pause: Duration,
    told: Instant,
}

impl Pace {
    pub fn new(patience: Patience) -> Self {
        Pace { patience, pause: patience.first, told: Instant::now() }
    }

    /// Waits; true when the log is to be told.
    pub async fn wait(&mut self) -> bool {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.patience.longest);
        let due = self.told.elapsed() >= self.patience.tell;
        if due {
            self.told = Instant::now();
        }
        due
    }
}
