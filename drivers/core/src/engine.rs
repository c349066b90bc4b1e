//! Runs a plan: step after step, each in its place; undoes in reverse what was done when one fails; and never takes a
//! lost answer for an answer.
//!
//! ```text
//!            next run of steps in one place
//!   ┌──────> ──────────────────────────────> all done ──> reply SUCCESS
//!   │            │ failed        │ answer lost
//!   │            v               v
//!   │      step has a goal?   step has a goal?
//!   │        no │   │ yes       yes │   │ no: every step may be run twice, so run it again
//!   │           │   └──────┬────────┘   └──────────┐
//!   │           │          v                       │
//!   │           │   ask the hosts <── not proved ──┤ (a LOG line every minute, no reply)
//!   └───────────┼── reached │ not reached          │
//!               v           v                      │
//!            undo in reverse, on every place ──> reply FAILURE, first cause first
//! ```

mod locate;
mod rollback;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use crate::answer::{Failure, Kind};
use crate::journal::{Journal, Note};
use crate::names::{DeployId, HostName, RequestId, VmId};
use crate::outcome::Sighting;
use crate::plan::{Answer, OnFailure, Place, Plan, Step};
use crate::reach::wire::{Done, Effect, Exchange, FromResident, Owner, Severity, StepEnd, WireStep};

/// Events of one exchange. The session of a delegated action lives as long as this value.
pub struct Events {
    /// Ends with [`FromResident::End`], or without it when the answer is lost.
    pub receiver: mpsc::UnboundedReceiver<FromResident>,
    /// Held, not used: dropping it ends what carries the events.
    pub carrier: Option<Box<dyn std::any::Any>>,
}

/// The edge to the other hosts and to the front-end's scripts: the real one speaks ssh, the recording one is for tests.
pub trait Reach {
    /// Starts an exchange in `place`.
    ///
    /// # Errors
    /// The place can't be reached: none of the steps has begun.
    fn start(&self, place: &Place, exchange: Exchange) -> impl Future<Output = Result<Events, Failure>>;

    /// Has the steps of `request` in `place` stopped; the exchange then ends.
    fn cancel(&self, place: &Place, request: &RequestId) -> impl Future<Output = ()>;

    /// Asks `host` where the guest is.
    fn locate(&self, host: &HostName, id: &DeployId) -> impl Future<Output = Sighting>;
}

/// Where the lines for the VM's log go.
pub trait Log {
    /// One line of that severity.
    fn log(&self, vm: VmId, severity: Severity, text: &str);
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done; the text is the reply's payload.
    Success(String),
    /// It failed, and what it had changed was undone as far as the failure's text says.
    Failure(Failure),
    /// It was cancelled: no reply.
    Cancelled,
}

/// How often the hosts are asked again while the guest's place is not proved.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// First pause between two rounds of questions; doubled up to `longest`.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
    /// How often the VM's log is told that the place is not known.
    pub tell: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(10),
            tell: Duration::from_secs(60),
        }
    }
}

/// Everything one run of a plan needs.
pub struct Engine<'a, R, L> {
    /// The hosts.
    pub reach: &'a R,
    /// The VM's log.
    pub log: &'a L,
    /// What survives the death of this process.
    pub journal: &'a Journal,
    /// How lost answers are asked for again.
    pub patience: Patience,
    /// Turns true when oned cancels the request.
    pub cancelled: watch::Receiver<bool>,
}

/// What has been done so far.
struct Progress {
    /// Steps that are done, by index, and whether they changed anything.
    done: Vec<(usize, Effect)>,
    outputs: BTreeMap<String, Done>,
}

/// Why the forward run stopped.
struct Stop {
    /// The step.
    index: usize,
    failure: Failure,
    /// Whether the step had begun: if not, there is nothing of it to undo or to ask for.
    begun: bool,
    /// Whether the step itself said so, or its answer was lost.
    lost: bool,
    /// Whether a script of somebody else's said so: its word is taken (contract VMM 2.3 step 8).
    foreign: bool,
}

/// How often a step without a goal is run again when its answer is lost.
const REPEATS: u32 = 3;

impl<R: Reach, L: Log> Engine<'_, R, L> {
    /// Runs `plan` to its end. The caller notes [`Note::end`] in the journal once the reply is on its way: a death
    /// before that must be adopted.
    pub async fn run(&self, plan: &Plan, request: &RequestId) -> Outcome {
        self.journal.note(request, &Note::begin(plan));
        let mut progress = Progress { done: Vec::new(), outputs: BTreeMap::new() };
        self.forward(plan, request, &mut progress).await
    }

    async fn forward(&self, plan: &Plan, request: &RequestId, progress: &mut Progress) -> Outcome {
        let mut next = 0;
        let mut repeats = 0;
        while let Some(rest) = plan.steps.get(next..).filter(|rest| !rest.is_empty()) {
            let Err(stop) = self.stretch(plan, rest, next, request, progress).await else {
                next += stretch_of(rest).len();
                repeats = 0;
                continue;
            };
            let Some(step) = plan.steps.get(stop.index) else {
                return Outcome::Failure(Failure::new(Kind::Bug, "a step beyond the plan failed"));
            };
            let ask = stop.begun && !stop.foreign && step.goal.is_some();
            if ask && self.reached(plan, step, request, &stop).await {
                self.tell(plan, Severity::Warning, &format!("{}: done, although: {}", step.name, stop.failure));
                progress.take(stop.index, step, assumed(step));
                next = stop.index + 1;
                continue;
            }
            if stop.lost && step.goal.is_none() && repeats < REPEATS && !self.is_cancelled() {
                repeats += 1;
                next = stop.index;
                self.tell(plan, Severity::Warning, &format!("{}: {}; trying again", step.name, stop.failure));
                tokio::time::sleep(self.patience.first * repeats).await;
                continue;
            }
            if step.on_failure == OnFailure::Warn {
                self.tell(plan, Severity::Warning, &format!("{}: {} (ignored)", step.name, stop.failure));
                next = stop.index + 1;
                continue;
            }
            return self.fail(plan, step, request, progress, stop).await;
        }
        Outcome::Success(match &plan.answer {
            Answer::Empty => "-".to_owned(),
            Answer::Output(name) => progress.outputs.get(name).map(|d| d.output.clone()).unwrap_or_default(),
        })
    }

    async fn fail(
        &self,
        plan: &Plan,
        step: &Step,
        request: &RequestId,
        progress: &Progress,
        stop: Stop,
    ) -> Outcome {
        // A step with a goal was proved not done; one that never began changed nothing.
        let half_done = (stop.begun && step.goal.is_none()).then_some(step);
        let trouble = self.roll_back(plan, request, progress, half_done).await;
        if stop.failure.kind == Kind::Cancelled || self.is_cancelled() {
            return Outcome::Cancelled;
        }
        let mut failure = stop.failure.context(&step.name);
        if !trouble.is_empty() {
            failure.text = format!("{} (undo: {})", failure.text, trouble.join("; "));
        }
        Outcome::Failure(failure)
    }

    /// Runs the steps at the head of `rest` that share a place, in one exchange.
    async fn stretch(
        &self,
        plan: &Plan,
        rest: &[Step],
        first: usize,
        request: &RequestId,
        progress: &mut Progress,
    ) -> Result<(), Stop> {
        let steps = stretch_of(rest);
        let Some(head) = steps.first() else { return Ok(()) };
        let unbegun = |failure| Stop { index: first, failure, begun: false, lost: false, foreign: false };
        if self.is_cancelled() {
            return Err(unbegun(Failure::new(Kind::Cancelled, "cancelled")));
        }
        let exchange = self.exchange(plan, steps, request, &progress.outputs);
        let mut events = self.reach.start(&head.place, exchange).await.map_err(unbegun)?;
        let mut at = 0;
        let mut begun = false;
        let mut cancelled = self.cancelled.clone();
        let mut told_to_stop = false;
        loop {
            let event = tokio::select! {
                event = events.receiver.recv() => event,
                Ok(_) = cancelled.wait_for(|c| *c), if !told_to_stop => {
                    told_to_stop = true;
                    self.reach.cancel(&head.place, request).await;
                    continue;
                }
            };
            let stop = |at: usize, failure, lost, foreign| Stop { index: first + at, failure, begun, lost, foreign };
            match event {
                Some(FromResident::Started { step, .. }) => {
                    begun = true;
                    self.journal.note(request, &Note::Started { step });
                }
                Some(FromResident::Ended { end, .. }) => {
                    let Some(step) = steps.get(at).filter(|s| s.name == end.step) else { continue };
                    self.journal.note(request, &Note::ended(&end));
                    self.report(plan, step, request, &end);
                    match end.result {
                        Ok(done) => progress.take(first + at, step, done),
                        Err(failure) if step.on_failure == OnFailure::Stop => {
                            return Err(stop(at, failure, false, end.owner == Owner::Foreign));
                        }
                        Err(_) => {}
                    }
                    at += 1;
                    begun = false;
                }
                Some(FromResident::Log { severity, text, .. }) => self.tell(plan, severity, &text),
                Some(FromResident::End { .. }) if at >= steps.len() => return Ok(()),
                Some(FromResident::End { .. }) => {
                    return Err(stop(at, Failure::new(Kind::Cancelled, "stopped"), false, false));
                }
                Some(FromResident::Hello(_) | FromResident::Located { .. }) => {}
                None => {
                    let why = format!("the answer from {} is lost", head.place);
                    return Err(stop(at, Failure::new(Kind::Unreachable, why), true, false));
                }
            }
        }
    }

    fn exchange(
        &self,
        plan: &Plan,
        steps: &[Step],
        request: &RequestId,
        outputs: &BTreeMap<String, Done>,
    ) -> Exchange {
        let wanted: Vec<&str> = steps.iter().flat_map(crate::plan::inputs_of).collect();
        Exchange {
            request: request.clone(),
            action: plan.action.clone(),
            vm: plan.vm,
            steps: steps.iter().map(WireStep::from).collect(),
            inputs: plan
                .inputs
                .iter()
                .filter(|(name, _)| wanted.contains(&name.as_str()))
                .map(|(name, input)| (name.clone(), input.clone()))
                .collect(),
            outputs: outputs.iter().map(|(name, done)| (name.clone(), done.first_word().to_owned())).collect(),
        }
    }

    fn report(&self, plan: &Plan, step: &Step, request: &RequestId, end: &StepEnd) {
        let ms = Duration::from_micros(end.micros).as_secs_f64() * 1e3;
        tracing::info!(vm = plan.vm.0, %request, step = step.name, place = %step.place, elapsed_ms = ms, ok = end.result.is_ok());
        let by = if end.owner == Owner::Foreign { " (not ours)" } else { "" };
        match &end.result {
            Ok(_) => {
                self.tell(plan, Severity::Info, &format!("{}: done on {} in {ms:.1} ms{by}", step.name, step.place))
            }
            Err(failure) => {
                let severity =
                    if step.on_failure == OnFailure::Warn { Severity::Warning } else { Severity::Error };
                self.tell(plan, severity, &format!("{}: failed on {}{by}: {failure}", step.name, step.place));
            }
        }
    }

    fn tell(&self, plan: &Plan, severity: Severity, text: &str) {
        self.log.log(plan.vm, severity, text);
    }

    fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }
}

impl Progress {
    fn take(&mut self, index: usize, step: &Step, done: Done) {
        self.done.push((index, done.effect));
        self.outputs.insert(step.name.clone(), done);
    }
}

/// What a step is taken to have printed when the hosts proved that it is done.
fn assumed(step: &Step) -> Done {
    let output = step.goal.as_ref().map(|goal| goal.id().to_string()).unwrap_or_default();
    Done { output, effect: Effect::Made }
}

/// The steps at the head of `rest` that share a place.
fn stretch_of(rest: &[Step]) -> &[Step] {
    let place = rest.first().map(|step| &step.place);
    let length = rest.iter().take_while(|step| Some(&step.place) == place).count();
    rest.get(..length).unwrap_or_default()
}

/// Paces the questions to the hosts and the lines in the log.
struct Pace {
    patience: Patience,
    pause: Duration,
    told: Instant,
}

impl Pace {
    fn new(patience: Patience) -> Self {
        Pace { patience, pause: patience.first, told: Instant::now() }
    }

    /// Waits; true when the log is to be told.
    async fn wait(&mut self) -> bool {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.patience.longest);
        let due = self.told.elapsed() >= self.patience.tell;
        if due {
            self.told = Instant::now();
        }
        due
    }
}
