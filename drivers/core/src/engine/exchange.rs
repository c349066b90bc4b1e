//! One conversation with one place: what is sent, what comes back, and how long it may take.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::{Engine, Events, Log, Progress, Reach, Stop};
use crate::answer::{Failure, Kind};
use crate::journal::Note;
use crate::names::RequestId;
use crate::plan::{OnFailure, Place, Plan, Step, inputs_of};
use crate::reach::wire::{Done, Exchange, FromResident, Owner, Severity, StepEnd, WireStep};

/// What a place is given on top of a step's deadline before it is taken to be stuck: the place keeps the deadline itself.
const GRACE: Duration = Duration::from_secs(30);

/// What an exchange may wait for its turn on a host where much is going on.
const QUEUE: Duration = Duration::from_secs(600);

/// How a conversation about one step ended.
pub(super) enum Single {
    Done,
    /// The step said so.
    Failed(Failure),
    /// Nobody said anything: it may have been done.
    Lost(Failure),
}

/// What a place said next.
enum Heard {
    Event(FromResident),
    /// oned cancels the request.
    Cancel,
    /// The place is silent for longer than it may be.
    Overdue,
    /// The session is lost.
    Nothing,
}

/// The listener's end of an exchange.
struct Conversation {
    events: Events,
    limit: Instant,
    /// Whether the place was told to stop because it had been silent for too long.
    overdue: bool,
}

impl Conversation {
    fn new(events: Events, allowance: Duration) -> Self {
        Conversation { events, limit: Instant::now() + QUEUE + allowance, overdue: false }
    }

    /// A step began: it has its own time.
    fn allow(&mut self, deadline: Duration) {
        self.limit = Instant::now() + deadline + GRACE;
    }

    async fn hear(&mut self) -> Heard {
        tokio::select! {
            // What was said before the limit counts, however late we come to hear it.
            biased;
            event = self.events.receiver.recv() => event.map_or(Heard::Nothing, Heard::Event),
            () = tokio::time::sleep_until(self.limit) => Heard::Overdue,
        }
    }
}

impl<R: Reach, L: Log> Engine<'_, R, L> {
    /// Runs the steps at the head of `rest` that share a place, in one exchange.
    pub(super) async fn stretch(
        &self,
        plan: &Plan,
        rest: &[Step],
        first: usize,
        request: &RequestId,
        progress: &mut Progress,
    ) -> Result<(), Stop> {
        let steps = stretch_of(rest);
        let Some(head) = steps.first() else { return Ok(()) };
        let unbegun = |failure| Stop { index: first, failure, begun: false, foreign: false };
        if self.is_cancelled() {
            return Err(unbegun(Failure::new(Kind::Cancelled, "cancelled")));
        }
        let exchange = self.exchange(plan, steps, request, &progress.outputs);
        let names = steps.iter().map(|step| step.name.clone()).collect();
        self.journal.note(request, &Note::Sent { steps: names });
        let events = self.reach.start(&head.place, exchange).await.map_err(unbegun)?;
        let mut talk = Conversation::new(events, head.deadline);
        let mut cancelled = self.cancelled.clone();
        let mut told_to_stop = false;
        let mut at = 0;
        let mut begun = false;
        loop {
            let heard = tokio::select! {
                heard = talk.hear() => heard,
                Ok(_) = cancelled.wait_for(|c| *c), if !told_to_stop => Heard::Cancel,
            };
            let stop = |failure, begun, foreign| Stop { index: first + at, failure, begun, foreign };
            match heard {
                Heard::Event(FromResident::Started { step, .. }) => {
                    begun = true;
                    talk.allow(steps.get(at).map_or(GRACE, |s| s.deadline));
                    self.journal.note(request, &Note::Started { step });
                }
                Heard::Event(FromResident::Ended { end, .. }) => {
                    let Some(step) = steps.get(at).filter(|s| s.name == end.step) else { continue };
                    self.journal.note(request, &Note::ended(&end));
                    self.report(plan, step, request, &end);
                    match end.result {
                        Ok(done) => progress.take(first + at, step, done),
                        Err(failure) => {
                            // One that was refused before it began has changed nothing.
                            if begun || progress.is_doubtful(first + at) {
                                progress.fail(first + at, step);
                            }
                            if step.on_failure == OnFailure::Stop {
                                let stop = stop(failure, begun, end.owner == Owner::Foreign);
                                self.hear_out(plan, &mut talk).await;
                                return Err(stop);
                            }
                        }
                    }
                    at += 1;
                    begun = false;
                    talk.allow(steps.get(at).map_or(GRACE, |s| s.deadline));
                }
                Heard::Event(FromResident::Log { severity, text, .. }) => self.tell(plan, severity, &text),
                Heard::Event(FromResident::End { .. }) if at >= steps.len() => return Ok(()),
                Heard::Event(FromResident::End { .. }) => {
                    let step = steps.get(at).filter(|_| begun);
                    step.into_iter().for_each(|step| progress.fail(first + at, step));
                    return Err(stop(stopped(&head.place, talk.overdue, told_to_stop), begun, false));
                }
                Heard::Event(FromResident::Hello(_) | FromResident::Located { .. }) => {}
                Heard::Cancel => {
                    told_to_stop = true;
                    self.reach.cancel(&head.place, request).await;
                }
                Heard::Overdue if !talk.overdue => {
                    talk.overdue = true;
                    talk.limit = Instant::now() + GRACE;
                    self.reach.cancel(&head.place, request).await;
                }
                Heard::Nothing | Heard::Overdue => {
                    progress.doubt(first + at..first + steps.len());
                    return Err(stop(lost(&head.place), true, false));
                }
            }
        }
    }

    /// Listens on to the end of an exchange that has failed. Left unheard, that end would be taken for the end of the
    /// request's next exchange on the same session, whose step would then be run again.
    async fn hear_out(&self, plan: &Plan, talk: &mut Conversation) {
        talk.allow(Duration::ZERO);
        while let Heard::Event(event) = talk.hear().await {
            match event {
                FromResident::End { .. } => return,
                FromResident::Log { severity, text, .. } => self.tell(plan, severity, &text),
                _ => {}
            }
        }
    }

    /// Runs one step that belongs to no run of steps: an undo, or what brings a guest to rest.
    pub(super) async fn single(
        &self,
        plan: &Plan,
        step: &Step,
        request: &RequestId,
        outputs: &BTreeMap<String, Done>,
    ) -> Single {
        let exchange = self.exchange(plan, std::slice::from_ref(step), request, outputs);
        let events = match self.reach.start(&step.place, exchange).await {
            Ok(events) => events,
            Err(failure) => return Single::Lost(failure),
        };
        let mut talk = Conversation::new(events, step.deadline);
        let mut result = None;
        loop {
            match talk.hear().await {
                Heard::Event(FromResident::Started { .. }) => talk.allow(step.deadline),
                Heard::Event(FromResident::Ended { end, .. }) if end.step == step.name => {
                    self.report(plan, step, request, &end);
                    result = Some(end.result);
                }
                Heard::Event(FromResident::Log { severity, text, .. }) => self.tell(plan, severity, &text),
                Heard::Event(FromResident::End { .. }) => break,
                Heard::Event(_) | Heard::Cancel => {}
                Heard::Overdue if !talk.overdue => {
                    talk.overdue = true;
                    talk.limit = Instant::now() + GRACE;
                    self.reach.cancel(&step.place, request).await;
                }
                Heard::Nothing | Heard::Overdue => break,
            }
        }
        match result {
            Some(Ok(_)) => Single::Done,
            Some(Err(failure)) => Single::Failed(failure),
            None => Single::Lost(lost(&step.place)),
        }
    }

    /// Waits until nothing runs in `place` for the VM any more.
    pub(super) async fn at_rest(
        &self,
        plan: &Plan,
        request: &RequestId,
        place: &Place,
    ) -> Result<(), Failure> {
        // Children of the front-end die with the exchange that started them, and a session that was opened for one
        // action may be gone: the one that is kept sees the same host.
        let Some(host) = place.host() else { return Ok(()) };
        let place = Place::Host(host.clone());
        let exchange = self.exchange(plan, &[], request, &BTreeMap::new());
        let mut events = self.reach.start(&place, exchange).await?;
        // As long as it takes: what still runs has deadlines of its own, and a dead session ends the wait.
        while let Some(event) = events.receiver.recv().await {
            match event {
                FromResident::End { .. } => return Ok(()),
                // The host can't say: its lock is out of reach.
                FromResident::Ended { end: StepEnd { result: Err(failure), .. }, .. } => return Err(failure),
                _ => {}
            }
        }
        Err(lost(&place))
    }

    fn exchange(
        &self,
        plan: &Plan,
        steps: &[Step],
        request: &RequestId,
        outputs: &BTreeMap<String, Done>,
    ) -> Exchange {
        let wanted: Vec<&str> = steps.iter().flat_map(inputs_of).collect();
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
            outputs: outputs
                .iter()
                .map(|(name, done)| (name.clone(), done.first_word().to_owned()))
                .collect(),
        }
    }

    fn report(&self, plan: &Plan, step: &Step, request: &RequestId, end: &StepEnd) {
        let ms = Duration::from_micros(end.micros).as_secs_f64() * 1e3;
        tracing::info!(vm = plan.vm.0, %request, step = step.name, place = %step.place, elapsed_ms = ms, ok = end.result.is_ok());
        let by = if end.owner == Owner::Foreign { " (not ours)" } else { "" };
        match &end.result {
            Ok(_) => {
                self.tell(
                    plan,
                    Severity::Info,
                    &format!("{}: done on {} in {ms:.1} ms{by}", step.name, step.place),
                );
            }
            Err(failure) => {
                let severity =
                    if step.on_failure == OnFailure::Warn { Severity::Warning } else { Severity::Error };
                self.tell(plan, severity, &format!("{}: failed on {}{by}: {failure}", step.name, step.place));
            }
        }
    }
}

/// The steps at the head of `rest` that share a place.
pub(super) fn stretch_of(rest: &[Step]) -> &[Step] {
    let place = rest.first().map(|step| &step.place);
    let length = rest.iter().take_while(|step| Some(&step.place) == place).count();
    rest.get(..length).unwrap_or_default()
}

fn lost(place: &Place) -> Failure {
    Failure::new(Kind::Unreachable, format!("the answer from {place} is lost"))
}

/// Why an exchange ended before its last step did.
fn stopped(place: &Place, overdue: bool, cancelled: bool) -> Failure {
    match (overdue, cancelled) {
        (true, _) => Failure::new(Kind::Timeout, format!("no end within its deadline on {place}; stopped")),
        (false, true) => Failure::new(Kind::Cancelled, "cancelled"),
        (false, false) => Failure::new(Kind::HostState, format!("{place} stopped it")),
    }
}
