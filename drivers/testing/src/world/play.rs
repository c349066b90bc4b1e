//! How a place plays an exchange: step after step, each with the fault that the script has for it.

use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::engine::{Events, Reach};
use causeway_core::names::{DeployId, HostName, RequestId};
use causeway_core::outcome::Sighting;
use causeway_core::plan::{Arg, DiskOrder, OnFailure, Place, Work};
use causeway_core::reach::wire::{Done, Exchange, FromResident, Owner, StepEnd, WireStep};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::state::{Open, Word};
use super::{Event, World};
use crate::faults::{Away, Fault, Took, is_slot};

/// What half a step takes.
const HALF: Duration = Duration::from_millis(500);

/// How much later a host ends a step that nobody listens to any more: longer than a driver tries again by itself.
const LATE: Duration = Duration::from_secs(45);

/// How long a host is down after a loss of power, at least.
const DOWN: Duration = Duration::from_secs(60);

/// How long it takes to learn that a host does not answer.
const SILENCE: Duration = Duration::from_secs(5);

impl Reach for World {
    async fn start(&self, place: &Place, exchange: Exchange) -> Result<Events, Failure> {
        if !self.answers(place.host()) {
            self.lock().events.push(Event::Refused { place: place.clone() });
            sleep(SILENCE).await;
            return Err(Failure::new(Kind::Unreachable, format!("cannot reach {place}")));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let (word, told) = watch::channel(Word::Go);
        {
            let mut state = self.lock();
            let steps = exchange.steps.iter().map(|step| step.name.clone()).collect();
            state.events.push(Event::Sent { place: place.clone(), steps });
            state.open.push(Open { place: place.clone(), request: exchange.request.clone(), word });
        }
        let run = Run {
            world: self.clone(),
            place: place.clone(),
            boot: self.boot(place),
            request: exchange.request.clone(),
            sender: Some(sender),
            told,
        };
        tokio::spawn(run.play(exchange.steps));
        Ok(Events { receiver, carrier: None })
    }

    async fn cancel(&self, place: &Place, request: &RequestId) {
        let answers = self.answers(place.host());
        let mut state = self.lock();
        state.events.push(Event::ToldToStop { place: place.clone() });
        for open in
            state.open.iter().filter(|open| answers && open.place == *place && open.request == *request)
        {
            // One that has just ended hears nothing any more.
            let _ = open.word.send(Word::Stop);
        }
    }

    async fn locate(&self, host: &HostName, _id: &DeployId) -> Sighting {
        let answers = self.answers(Some(host));
        sleep(if answers { Duration::from_millis(10) } else { SILENCE }).await;
        let mut state = self.lock();
        let sighting = if answers { state.at(host) } else { Sighting::Unreachable("no answer".to_owned()) };
        state.events.push(Event::Asked { host: host.clone(), sighting: sighting.clone() });
        sighting
    }
}

impl World {
    fn answers(&self, host: Option<&HostName>) -> bool {
        let mut state = self.lock();
        host.and_then(|host| state.hosts.get_mut(host)).is_none_or(|host| host.answers())
    }

    fn boot(&self, place: &Place) -> u32 {
        let state = self.lock();
        place.host().and_then(|host| state.hosts.get(host)).map_or(0, |host| host.boot)
    }
}

/// Whether an exchange goes on.
enum Flow {
    On,
    /// The last word is said, or can't be.
    Over,
}

/// One exchange under way.
struct Run {
    world: World,
    place: Place,
    boot: u32,
    request: RequestId,
    /// None once the session is lost.
    sender: Option<mpsc::UnboundedSender<FromResident>>,
    told: watch::Receiver<Word>,
}

impl Run {
    async fn play(mut self, steps: Vec<WireStep>) {
        let turn = {
            let state = self.world.lock();
            self.place.host().and_then(|host| state.hosts.get(host)).map(|host| host.turn.clone())
        };
        let _turn = match turn {
            Some(turn) => Some(turn.lock_owned().await),
            None => None,
        };
        for step in &steps {
            if !self.is_alive() {
                return;
            }
            if self.is_stopped() {
                break;
            }
            if let Flow::Over = self.step(step).await {
                break;
            }
        }
        if self.is_alive() {
            self.send(FromResident::End { request: self.request.clone() });
        }
    }

    async fn step(&mut self, step: &WireStep) -> Flow {
        let fault = self.world.lock().faults.get_mut(&step.name).and_then(|faults| faults.pop_front());
        let began = Event::Began { place: self.place.clone(), step: step.name.clone() };
        self.world.lock().events.push(began);
        if !matches!(fault, Some(Fault::Loses { heard: false, .. })) {
            self.send(FromResident::Started { request: self.request.clone(), step: step.name.clone() });
        }
        self.depart(step);
        match fault {
            None => self.undisturbed(step).await,
            Some(Fault::Fails { took, owner }) => {
                sleep(HALF).await;
                self.maybe(step, took);
                let failure = Failure::new(Kind::Refused, "scripted to fail");
                self.end(step, Err(failure), owner).await
            }
            Some(Fault::Loses { took, goes_on, away, .. }) => self.lose(step, took, goes_on, away).await,
            Some(Fault::Hangs { took, obeys }) => self.hang(step, took, obeys).await,
            Some(Fault::Outlives { took }) => {
                sleep(HALF).await;
                self.end(step, Err(Failure::new(Kind::Timeout, "scripted to be late")), Owner::Ours).await;
                self.send(FromResident::End { request: self.request.clone() });
                self.sender = None;
                sleep(LATE).await;
                self.maybe(step, took && self.is_alive());
                Flow::Over
            }
            Some(Fault::Dies { took, away }) => {
                sleep(HALF).await;
                self.maybe(step, took);
                if let Some(host) = self.place.host() {
                    self.world.lock().die(host, Instant::now() + DOWN);
                    self.world.goes_away(host, away);
                }
                self.sender = None;
                Flow::Over
            }
            Some(Fault::Tears { source, destination, later, lost, source_away, destination_away }) => {
                sleep(HALF).await;
                if let (Some(here), Some(there)) = (self.place.host().cloned(), destination_of(step)) {
                    self.tear([here.clone(), there.clone()], (source, destination), later);
                    self.world.goes_away(&here, source_away);
                    self.world.goes_away(&there, destination_away);
                }
                if lost {
                    self.sender = None;
                    return Flow::Over;
                }
                self.end(step, Err(Failure::new(Kind::Refused, "scripted to tear")), Owner::Ours).await
            }
        }
    }

    /// Breaks a migration. With `later` the hypervisors go on by themselves, unless somebody else acts first.
    fn tear(&self, ends: [HostName; 2], to: (Sighting, Sighting), later: Option<(Sighting, Sighting)>) {
        let [here, there] = ends;
        let mut state = self.world.lock();
        state.tear(&here, &there, to.clone());
        let Some(later) = later else { return };
        state.adrift = true;
        let world = self.world.clone();
        tokio::spawn(async move {
            sleep(LATE).await;
            let mut state = world.lock();
            state.adrift = false;
            if (state.at(&here), state.at(&there)) == to {
                state.tear(&here, &there, later);
            }
        });
    }

    async fn undisturbed(&mut self, step: &WireStep) -> Flow {
        let cancelled = || Err(Failure::new(Kind::Cancelled, "stopped"));
        if self.stopped_within(HALF, step).await {
            self.turn_back(step);
            return self.end(step, cancelled(), Owner::Ours).await;
        }
        if !self.is_alive() {
            return Flow::Over;
        }
        let result = self.take(step);
        let stopped = self.stopped_within(HALF, step).await;
        self.end(step, if stopped { cancelled() } else { result }, Owner::Ours).await
    }

    async fn lose(&mut self, step: &WireStep, took: Took, goes_on: bool, away: Away) -> Flow {
        sleep(HALF).await;
        self.maybe(step, took == Took::Before);
        self.sender = None;
        self.goes_away(away);
        if took == Took::Late {
            sleep(LATE).await;
            self.depart(step);
            self.maybe(step, self.is_alive());
        }
        // What failed stops the rest, whether or not anybody listens.
        let goes_on = goes_on && (took != Took::Never || step.on_failure == OnFailure::Warn);
        if goes_on { Flow::On } else { Flow::Over }
    }

    async fn hang(&mut self, step: &WireStep, took: bool, obeys: bool) -> Flow {
        sleep(HALF).await;
        self.maybe(step, took);
        // Nothing waits for ever: the host kills what outlives its deadline by far.
        let patience = step.deadline() * 4;
        if obeys {
            self.stopped_within(patience, step).await;
            let failure = Failure::new(Kind::Cancelled, "stopped");
            return self.end(step, Err(failure), Owner::Ours).await;
        }
        sleep(patience).await;
        self.sender = None;
        Flow::Over
    }

    /// The work of a step that goes wrong: done after all, or taken back.
    fn maybe(&self, step: &WireStep, took: bool) {
        if took {
            // Whether it could be done is the world's business; the fault decides what is said of it.
            let _ = self.take(step);
        } else {
            self.turn_back(step);
        }
    }

    fn take(&self, step: &WireStep) -> Result<Done, Failure> {
        let done = self.world.lock().take(&self.place, step)?;
        if let Work::GuestDisk {
            order: DiskOrder::Freeze { seconds, .. } | DiskOrder::Rest { seconds, .. },
            ..
        } = &step.work
        {
            let (world, place, rest) = (self.world.clone(), self.place.clone(), *seconds);
            tokio::spawn(async move {
                sleep(Duration::from_secs(rest.into())).await;
                world.lock().guard_acts(&place);
            });
        }
        Ok(done)
    }

    fn depart(&self, step: &WireStep) {
        if let (Some(argv), Some(host)) = (move_of(step), self.place.host()) {
            self.world.lock().depart(host, argv);
        }
    }

    fn turn_back(&self, step: &WireStep) {
        if let (Some(argv), Some(host)) = (move_of(step), self.place.host()) {
            self.world.lock().turn_back(host, argv);
        }
    }

    async fn end(&mut self, step: &WireStep, result: Result<Done, Failure>, owner: Owner) -> Flow {
        let ok = result.is_ok();
        let end = StepEnd { step: step.name.clone(), result, owner, micros: 1_000_000 };
        self.send(FromResident::Ended { request: self.request.clone(), end });
        if ok || (step.on_failure == OnFailure::Warn && !self.is_stopped()) { Flow::On } else { Flow::Over }
    }

    fn goes_away(&self, away: Away) {
        if let Some(host) = self.place.host() {
            self.world.goes_away(host, away);
        }
    }

    fn send(&self, message: FromResident) {
        if let Some(sender) = &self.sender {
            // A listener that went away is the listener's business.
            let _ = sender.send(message);
        }
    }

    /// Waits; true as soon as the step is to be stopped.
    async fn stopped_within(&mut self, time: Duration, step: &WireStep) -> bool {
        let heeded = |word: &Word| match word {
            Word::Go => false,
            Word::Stop => true,
            Word::Abandoned => step.cancellable,
        };
        tokio::time::timeout(time, self.told.wait_for(heeded)).await.is_ok_and(|told| told.is_ok())
    }

    fn is_stopped(&self) -> bool {
        *self.told.borrow() != Word::Go
    }

    fn is_alive(&self) -> bool {
        self.world.boot(&self.place) == self.boot
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut state = self.world.lock();
        state.open.retain(|open| !open.word.is_closed());
        if self.sender.is_none() {
            state.guard_acts(&self.place);
        }
    }
}

fn move_of(step: &WireStep) -> Option<&[Arg]> {
    match &step.work {
        Work::Slot { slot, argv, .. } if is_slot(slot, "vmm", "migrate") => Some(argv),
        _ => None,
    }
}

fn destination_of(step: &WireStep) -> Option<HostName> {
    match move_of(step)?.get(1)? {
        Arg::Text(text) => text.parse().ok(),
        Arg::Output(_) => None,
    }
}
