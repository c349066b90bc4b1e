//! Hosts that run nothing, and remember everything.

mod play;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use causeway_core::engine::Log;
use causeway_core::names::{DeployId, HostName, VmId};
use causeway_core::outcome::Sighting;
use causeway_core::plan::Place;
use causeway_core::reach::wire::{Effect, Severity};
use tokio::time::Instant;

use crate::faults::{Away, Fault, Script};
use state::State;
pub(crate) use state::{ASIDE, AT_REST};

/// One thing that happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An exchange was sent to a place; the names of its steps.
    Sent {
        /// The place.
        place: Place,
        /// The steps.
        steps: Vec<String>,
    },
    /// An exchange was refused: the host can't be reached.
    Refused {
        /// The place.
        place: Place,
    },
    /// A step began.
    Began {
        /// The place.
        place: Place,
        /// The step.
        step: String,
    },
    /// A step did its work, or found it done.
    Took {
        /// The place.
        place: Place,
        /// The step.
        step: String,
        /// Which of the two.
        effect: Effect,
    },
    /// A host was asked for the guest.
    Asked {
        /// The host.
        host: HostName,
        /// What it said.
        sighting: Sighting,
    },
    /// A place was told to stop.
    ToldToStop {
        /// The place.
        place: Place,
    },
    /// The driver process was killed.
    DriverDied,
    /// The test cancelled the request: [`World::note_cancel`].
    Cancelled,
}

/// A line of the VM's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When, since the world began.
    pub at: Duration,
    /// How bad.
    pub severity: Severity,
    /// The text.
    pub text: String,
}

/// The hosts, and the VM's log.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    began: Instant,
}

impl World {
    /// Hosts of those names, with nothing on them. The guest that a step starts will be known as `id`.
    pub fn new(id: &DeployId, hosts: &[HostName]) -> Self {
        World { state: Arc::new(Mutex::new(State::new(id, hosts))), began: Instant::now() }
    }

    /// Lets the guest be on `host` from the start.
    pub fn with_guest(self, host: &HostName, sighting: Sighting) -> Self {
        self.lock().put(host, sighting);
        self
    }

    /// Lets the network `driver` be ready on `host` from the start.
    pub fn with_network(self, host: &HostName, driver: &str) -> Self {
        self.lock().made.insert((Place::Host(host.clone()), state::network(driver)));
        self
    }

    /// Says that the guest must never run where one of these networks is not ready.
    pub fn needing(self, drivers: &[&str]) -> Self {
        self.lock().needed = drivers.iter().map(|driver| state::network(driver)).collect();
        self
    }

    /// Scripts the faults to come.
    pub fn broken_by(self, script: &Script) -> Self {
        for (step, fault) in &script.faults {
            self.breaks(step, fault.clone());
        }
        self
    }

    /// Scripts one more fault for a step.
    pub fn breaks(&self, step: &str, fault: Fault) {
        self.lock().faults.entry(step.to_owned()).or_default().push_back(fault);
    }

    /// Lets a host fall silent.
    pub fn goes_away(&self, host: &HostName, away: Away) {
        if let Some(host) = self.lock().hosts.get_mut(host) {
            host.goes_away(away);
        }
    }

    /// Lets every host answer again that was away [`UntilTold`](crate::Away::UntilTold).
    pub fn comes_back(&self) {
        self.lock().hosts.values_mut().for_each(|host| host.told_away = false);
    }

    /// Whether a host is away until it is told.
    pub fn is_waiting(&self) -> bool {
        self.lock().hosts.values().any(|host| host.told_away)
    }

    /// The driver process is killed: drop its engine right after this.
    pub fn loses_its_driver(&self) {
        let mut state = self.lock();
        state.events.push(Event::DriverDied);
        state.guards_act();
        for open in &state.open {
            // One that has just ended hears nothing any more.
            let _ = open.word.send(state::Word::Abandoned);
        }
    }

    /// Notes in the record that the test cancels the request now.
    pub fn note_cancel(&self) {
        self.lock().events.push(Event::Cancelled);
    }

    /// What is really so on `host`, reachable or not.
    pub fn guest_on(&self, host: &HostName) -> Sighting {
        self.lock().at(host)
    }

    /// The host whose loss of power the guest died of, if it did.
    pub fn died_with(&self) -> Option<HostName> {
        self.lock().died_with.clone()
    }

    /// What steps have left in all places, but for the guest.
    pub fn left(&self) -> Vec<(Place, String)> {
        self.lock().made.iter().cloned().collect()
    }

    /// Everything that happened, in order.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// The VM's log.
    pub fn lines(&self) -> Vec<Line> {
        self.lock().lines.clone()
    }

    /// How often it was said that the action is stuck.
    pub fn stuck(&self) -> usize {
        self.lock().stuck
    }

    /// What must never happen and did: a guest that ran twice, or without its networks, or that was resumed or
    /// destroyed without proof.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for World {
    fn log(&self, _vm: VmId, severity: Severity, text: &str) {
        let at = self.began.elapsed();
        self.lock().lines.push(Line { at, severity, text: text.to_owned() });
    }

    fn stuck(&self) {
        self.lock().stuck += 1;
    }
}
