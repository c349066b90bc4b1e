//! The places of a plan, as the engine reaches them: the hosts' residents, and scripts on the front-end.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::engine::{Events, Reach};
use causeway_core::names::{DeployId, HostName, RequestId};
use causeway_core::outcome::Sighting;
use causeway_core::plan::{Arg, OnFailure, Place, Work};
use causeway_core::protocol::delegates;
use causeway_core::reach::child;
use causeway_core::reach::group::once_ended;
use causeway_core::reach::resident::{Hosts, Session, Ssh};
use causeway_core::reach::slots::{Standing, standing_with_fallback};
use causeway_core::reach::wire::{Done, Effect, Exchange, FromResident, Owner, StepEnd, WireStep};
use tokio::sync::{mpsc, watch};

use super::front::Front;
use super::guard::{Surroundings, guarded};
use crate::host::breakpoint::Breakpoints;

/// Longest wait for a host's word about a guest.
const LOCATE_DEADLINE: Duration = Duration::from_secs(20);

/// The places of one driver process.
pub struct Places {
    /// The kept sessions.
    pub hosts: Hosts,
    /// How a session of its own is opened for an action: with the agent.
    pub delegated: Ssh,
    /// The same without, for a migration that we drive and `-d` does not name: the hosts then have keys of their own.
    pub bare: Ssh,
    /// The actions that `-d` names.
    pub delegate: Vec<String>,
    /// The front-end's remotes.
    pub remotes: PathBuf,
    /// The front-end's files.
    pub front: Rc<Front>,
    /// What the front-end's scripts are given besides their arguments.
    pub surroundings: Rc<Surroundings>,
    /// What runs outside of the kept sessions, by request.
    pub apart: Apart,
}

/// Work outside of the kept sessions, and how it is stopped.
#[derive(Default)]
pub struct Apart(Mutex<HashMap<RequestId, Stop>>);

enum Stop {
    Session(Arc<Session>),
    Scripts(watch::Sender<bool>),
}

impl Apart {
    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Stop>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// How the session of its own is opened that these steps ask for.
    fn session_of(&self, exchange: &Exchange) -> &Ssh {
        // From host to host files go with the agent, whatever `-d` says of scripts (contract TM 1.6).
        let carries = exchange.steps.iter().any(|step| matches!(step.work, Work::Transfer { .. }));
        let named = self.delegate.iter().any(|name| delegates(name, &exchange.action));
        if named || carries { &self.delegated } else { &self.bare }
    }

    /// Forgets what ran apart for a request that is over.
    pub fn forget(&self, request: &RequestId) {
        self.apart.lock().remove(request);
    }
}

impl Reach for Places {
    async fn start(&self, place: &Place, exchange: Exchange) -> Result<Events, Failure> {
        match place {
            Place::Host(host) => {
                let session = self.hosts.session(host).await?;
                Ok(Events { receiver: session.run(exchange), carrier: Some(Box::new(session)) })
            }
            Place::Delegated(host) => {
                let session = Session::open(self.session_of(&exchange), host).await?;
                self.apart.lock().insert(exchange.request.clone(), Stop::Session(Arc::clone(&session)));
                Ok(Events { receiver: session.run(exchange), carrier: Some(Box::new(session)) })
            }
            Place::FrontEnd => {
                let (sender, receiver) = mpsc::unbounded_channel();
                let (stop, stopped) = watch::channel(false);
                self.apart.lock().insert(exchange.request.clone(), Stop::Scripts(stop));
                let here = Here {
                    remotes: self.remotes.clone(),
                    front: Rc::clone(&self.front),
                    surroundings: Rc::clone(&self.surroundings),
                };
                let task = tokio::task::spawn_local(here.run(exchange, sender, stopped));
                // Dropping the events stops the scripts: the task goes, and its child's process group with it.
                Ok(Events { receiver, carrier: Some(Box::new(Aborted(task))) })
            }
        }
    }

    async fn cancel(&self, place: &Place, request: &RequestId) {
        match place {
            Place::Host(host) => {
                if let Ok(session) = self.hosts.session(host).await {
                    session.cancel(request);
                }
            }
            Place::Delegated(_) | Place::FrontEnd => match self.apart.lock().get(request) {
                Some(Stop::Session(session)) => session.cancel(request),
                Some(Stop::Scripts(stop)) => drop(stop.send_replace(true)),
                None => {}
            },
        }
    }

    async fn locate(&self, host: &HostName, id: &DeployId) -> Sighting {
        match self.hosts.session(host).await {
            Ok(session) => session.locate(id, LOCATE_DEADLINE).await,
            Err(failure) => Sighting::Unreachable(failure.text),
        }
    }
}

struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The front-end as a place of steps.
struct Here {
    remotes: PathBuf,
    front: Rc<Front>,
    surroundings: Rc<Surroundings>,
}

impl Here {
    async fn run(
        self,
        exchange: Exchange,
        events: mpsc::UnboundedSender<FromResident>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut outputs = exchange.outputs.clone();
        let breakpoints = Breakpoints::from_environment();
        for step in &exchange.steps {
            let request = exchange.request.clone();
            let _ = events.send(FromResident::Started { request: request.clone(), step: step.name.clone() });
            breakpoints.pass(&step.name, "before").await;
            breakpoints.begin(&step.name);
            let start = Instant::now();
            let owner = if matches!(step.work, Work::Transfer { .. }) { Owner::Ours } else { Owner::Foreign };
            let result = tokio::select! {
                result = self.one(&exchange, step, &outputs, &events) => result,
                // Dropping a script kills its process group.
                Ok(_) = stopped.wait_for(|stop| *stop) => {
                    Err(once_ended(Failure::new(Kind::Cancelled, "cancelled")).await)
                }
            };
            if let Ok(done) = &result {
                outputs.insert(step.name.clone(), done.first_word().to_owned());
            }
            let stop = result.is_err() && step.on_failure == OnFailure::Stop;
            let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            breakpoints.pass(&step.name, "after").await;
            let end = StepEnd { step: step.name.clone(), result, owner, micros };
            let _ = events.send(FromResident::Ended { request, end });
            if stop {
                break;
            }
        }
        let _ = events.send(FromResident::End { request: exchange.request.clone() });
    }

    async fn one(
        &self,
        exchange: &Exchange,
        step: &WireStep,
        outputs: &BTreeMap<String, String>,
        events: &mpsc::UnboundedSender<FromResident>,
    ) -> Result<Done, Failure> {
        match &step.work {
            Work::Slot { .. } => self.script(exchange, step, outputs, events).await,
            Work::Transfer { call, inputs } => {
                let inputs = inputs.iter().filter_map(|name| exchange.inputs.get(name).cloned()).collect();
                let log = |severity, text: &str| {
                    let (request, text) = (exchange.request.clone(), text.to_owned());
                    let _ = events.send(FromResident::Log { request, severity, text });
                };
                let output = self.front.transfer(call.clone(), inputs, step.deadline(), log).await?;
                Ok(Done { output, effect: Effect::Made })
            }
            _ => Err(Failure::new(Kind::Bug, format!("{} is not for the front-end", step.name))),
        }
    }

    /// Runs one script of the front-end's remotes.
    async fn script(
        &self,
        exchange: &Exchange,
        step: &WireStep,
        outputs: &BTreeMap<String, String>,
        events: &mpsc::UnboundedSender<FromResident>,
    ) -> Result<Done, Failure> {
        let Work::Slot { slot, argv, input } = &step.work else {
            return Err(Failure::new(Kind::Bug, format!("{} is not for the front-end", step.name)));
        };
        let (found, standing) = standing_with_fallback(&self.remotes, slot);
        let path = match standing {
            Standing::Foreign(path) => path,
            Standing::Ours => self.remotes.join(found.to_string()),
            Standing::Missing => {
                return Err(Failure::new(
                    Kind::NotBuilt,
                    format!("no executable in the slot {slot} on the front-end"),
                ));
            }
        };
        let word = |arg: &Arg| match arg {
            Arg::Text(text) => text.clone(),
            Arg::Output(step) => outputs.get(step).cloned().unwrap_or_default(),
        };
        let argv: Vec<String> = argv.iter().map(word).collect();
        let stdin = input.as_ref().and_then(|name| exchange.inputs.get(name));
        let stdin = stdin.map(|input| input.0.to_vec()).unwrap_or_default();
        let (program, words) = guarded(&path, &argv, &self.surroundings)?;
        let run = child::run_again(&program, &words, &stdin, step.deadline(), step.retries).await;
        let script = run.map_err(|failure| match failure.kind {
            // It is the script that did not end, not its guard.
            Kind::Timeout => {
                let seconds = step.deadline().as_secs_f64();
                let text = format!("{} did not end within {seconds} s and was killed", path.display());
                Failure::new(Kind::Timeout, text)
            }
            _ => failure,
        })?;
        for (severity, text) in &script.log {
            let request = exchange.request.clone();
            let _ = events.send(FromResident::Log { request, severity: *severity, text: text.clone() });
        }
        if script.success {
            return Ok(Done { output: script.stdout, effect: Effect::Made });
        }
        let said = if script.complaint.is_empty() { script.status } else { script.complaint };
        Err(Failure::new(Kind::Refused, said))
    }
}
