//! What is so on the hosts, and how a step changes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::{DeployId, HostName, RequestId};
use causeway_core::outcome::Sighting;
use causeway_core::plan::{Arg, DiskOrder, Order, Place, Slot, Work};
use causeway_core::reach::wire::{Done, Effect, WireStep};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::{Event, Line};
use crate::faults::{Away, Fault};

/// A host.
pub(super) struct Host {
    /// The guest, as this host's libvirt sees it.
    pub guest: Sighting,
    /// Raised when the host loses power: what ran on it before runs no more.
    pub boot: u32,
    /// It runs one exchange of a VM at a time, whichever session carries it.
    pub turn: Arc<Mutex<()>>,
    /// Questions that go unanswered.
    pub questions_lost: u32,
    /// Whether it is away until the test says so.
    pub told_away: bool,
    /// When it is up again after a loss of power.
    pub up_at: Option<Instant>,
}

impl Host {
    fn new() -> Self {
        Host {
            guest: Sighting::Absent,
            boot: 0,
            turn: Arc::default(),
            questions_lost: 0,
            told_away: false,
            up_at: None,
        }
    }

    /// Asks whether the host answers; a question that goes unanswered is used up.
    pub fn answers(&mut self) -> bool {
        let up = !self.told_away && self.up_at.is_none_or(|at| at <= Instant::now());
        if up && self.questions_lost > 0 {
            self.questions_lost -= 1;
            return false;
        }
        up
    }

    pub fn goes_away(&mut self, away: Away) {
        match away {
            Away::No => {}
            Away::Questions(count) => self.questions_lost += count,
            Away::UntilTold => self.told_away = true,
        }
    }
}

/// What an exchange was told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// To begin.
    Go,
    /// To stop.
    Stop,
    /// Nothing any more: the driver is dead. What may not be cut short is finished, and nothing begun.
    Abandoned,
}

/// An exchange that has not ended.
pub(super) struct Open {
    pub place: Place,
    pub request: RequestId,
    pub word: watch::Sender<Word>,
}

pub(super) struct State {
    pub id: DeployId,
    pub hosts: BTreeMap<HostName, Host>,
    /// What steps made, by place: `network vxlan`, `file /...`.
    pub made: BTreeSet<(Place, String)>,
    /// What must be made before the guest may run.
    pub needed: BTreeSet<String>,
    pub faults: BTreeMap<String, VecDeque<Fault>>,
    pub open: Vec<Open>,
    /// Whether the hypervisors go on with a migration that nobody carries any more.
    pub adrift: bool,
    pub events: Vec<Event>,
    pub lines: Vec<Line>,
    pub stuck: usize,
    /// The host whose loss of power the guest died of.
    pub died_with: Option<HostName>,
    pub violations: Vec<String>,
}

/// What a network is remembered as.
pub(super) fn network(driver: &str) -> String {
    format!("network {driver}")
}

/// What is put aside of a guest that is to leave.
pub(crate) const ASIDE: &str = "snapshots put aside";

/// What a guest is remembered as that was brought to rest.
pub(crate) const AT_REST: &str = "guest at rest";

/// Whether the guest's processors may run there.
fn lives(sighting: &Sighting) -> bool {
    matches!(sighting, Sighting::Running | Sighting::Migrating | Sighting::Paused)
}

fn refused(text: String) -> Failure {
    Failure::new(Kind::Refused, text)
}

impl State {
    pub fn new(id: &DeployId, hosts: &[HostName]) -> Self {
        State {
            id: id.clone(),
            hosts: hosts.iter().map(|name| (name.clone(), Host::new())).collect(),
            made: BTreeSet::new(),
            needed: BTreeSet::new(),
            faults: BTreeMap::new(),
            open: Vec::new(),
            adrift: false,
            events: Vec::new(),
            lines: Vec::new(),
            stuck: 0,
            died_with: None,
            violations: Vec::new(),
        }
    }

    pub fn at(&self, host: &HostName) -> Sighting {
        self.hosts.get(host).map_or(Sighting::Absent, |h| h.guest.clone())
    }

    /// Puts the guest on a host, and looks whether that may be.
    pub fn put(&mut self, host: &HostName, sighting: Sighting) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.guest = sighting;
        }
        let alive: Vec<&HostName> =
            self.hosts.iter().filter(|(_, h)| lives(&h.guest)).map(|(name, _)| name).collect();
        if let [one, other, ..] = alive.as_slice() {
            self.violations.push(format!("the guest runs on {one} and on {other}"));
        }
    }

    /// Starts the guest's processors on a host.
    fn run(&mut self, host: &HostName) {
        let bare = self
            .needed
            .iter()
            .find(|what| !self.made.contains(&(Place::Host(host.clone()), (*what).clone())));
        if let Some(what) = bare {
            self.violations.push(format!("the guest began to run on {host} without {what}"));
        }
        self.put(host, Sighting::Running);
    }

    /// A host loses power.
    pub fn die(&mut self, name: &HostName, up_at: Instant) {
        if lives(&self.at(name)) {
            self.died_with = Some(name.clone());
        }
        self.made.retain(|(place, what)| place.host() != Some(name) || what.starts_with("file "));
        if let Some(host) = self.hosts.get_mut(name) {
            host.boot += 1;
            // What waited for its turn is gone as well.
            host.turn = Arc::default();
            host.guest = Sighting::Absent;
            host.up_at = Some(up_at);
        }
        // Hypervisors on the other hosts notice that their peer is gone.
        let others: Vec<HostName> = self.hosts.keys().filter(|other| *other != name).cloned().collect();
        for other in others {
            match self.at(&other) {
                Sighting::Incoming => self.put(&other, Sighting::Absent),
                Sighting::Migrating => self.put(&other, Sighting::Running),
                _ => {}
            }
        }
    }

    /// Sets both ends of a broken migration, never through a state with two copies that run.
    pub fn tear(&mut self, source: &HostName, destination: &HostName, to: (Sighting, Sighting)) {
        for host in [source, destination] {
            self.put(host, Sighting::Absent);
        }
        self.put(source, to.0);
        self.put(destination, to.1);
    }

    /// Does the work of a step.
    pub fn take(&mut self, place: &Place, step: &WireStep) -> Result<Done, Failure> {
        let result = match &step.work {
            Work::Slot { slot, argv, .. } => self.take_slot(place, slot, argv),
            Work::MakeDir { path } => Ok(self.make(place, format!("file {path}"))),
            Work::WriteFile { path, .. } => Ok(self.make(place, format!("file {path}"))),
            Work::Transfer { call, .. } => Ok(self.make(place, format!("file of {call}"))),
            Work::Settle { order, .. } => self.settle(place, *order),
            Work::GuestDisk { order, .. } => self.guest_disk(place, order),
        };
        if let Ok(done) = &result {
            let event = Event::Took { place: place.clone(), step: step.name.clone(), effect: done.effect };
            self.events.push(event);
        }
        result
    }

    fn make(&mut self, place: &Place, what: String) -> Done {
        let new = self.made.insert((place.clone(), what));
        Done { output: String::new(), effect: if new { Effect::Made } else { Effect::Already } }
    }

    /// Disks are worked on where the guest is, and nowhere else.
    fn guest_disk(&mut self, place: &Place, order: &DiskOrder) -> Result<Done, Failure> {
        if !place.host().is_some_and(|host| lives(&self.at(host))) {
            return Err(refused(format!("the guest is not on {place}")));
        }
        match order {
            DiskOrder::Freeze { .. } | DiskOrder::Rest { .. } => Ok(self.make(place, AT_REST.to_owned())),
            DiskOrder::Thaw { .. } => match self.made.remove(&(place.clone(), AT_REST.to_owned())) {
                true => Ok(Done::quiet()),
                false => Err(refused("the guest was not at rest any more".to_owned())),
            },
            // It leaves nothing that would tell that it is done.
            DiskOrder::Copy { .. } => Ok(Done::quiet()),
            order => Ok(self.make(place, format!("file of {order}"))),
        }
    }

    /// A guard lets the guest go: its time is over, or the session of its resident is.
    pub fn guard_acts(&mut self, place: &Place) {
        self.made.remove(&(place.clone(), AT_REST.to_owned()));
    }

    /// All of them do: the driver is gone.
    pub fn guards_act(&mut self) {
        self.made.retain(|(_, what)| what != AT_REST);
    }

    fn take_slot(&mut self, place: &Place, slot: &Slot, argv: &[Arg]) -> Result<Done, Failure> {
        let already = Done { output: String::new(), effect: Effect::Already };
        match (slot.family(), slot.verb(), place.host()) {
            ("vmm", "deploy" | "restore", Some(host)) => {
                let output = self.id.to_string();
                if lives(&self.at(host)) {
                    return Ok(Done { output, effect: Effect::Already });
                }
                self.run(host);
                Ok(Done { output, effect: Effect::Made })
            }
            ("vmm", "depart", Some(host)) if lives(&self.at(host)) => Ok(self.make(place, ASIDE.to_owned())),
            ("vmm", "depart", _) => Ok(already),
            ("vmm", "stay", _) => {
                let was = self.made.remove(&(place.clone(), ASIDE.to_owned()));
                Ok(if was { Done::quiet() } else { already })
            }
            ("vmm", "arrive", Some(host)) if !lives(&self.at(host)) => {
                Err(refused(format!("the guest is not on {host}")))
            }
            ("vmm", "cancel" | "shutdown" | "save", Some(host)) => {
                if matches!(self.at(host), Sighting::Absent) {
                    return Ok(already);
                }
                self.put(host, Sighting::Absent);
                Ok(Done::quiet())
            }
            ("vmm", "migrate", Some(host)) if self.adrift => {
                Err(refused(format!("the guest is being migrated from {host} already")))
            }
            ("vmm", "migrate", Some(host)) => self.arrive(host, argv),
            ("vnm", "pre", _) => Ok(self.make(place, network(slot.driver()))),
            ("vnm", "clean", _) => {
                if place.host().is_some_and(|host| lives(&self.at(host))) {
                    self.violations
                        .push(format!("{slot} took the network of the running guest away on {place}"));
                }
                let was = self.made.remove(&(place.clone(), network(slot.driver())));
                Ok(if was { Done::quiet() } else { already })
            }
            ("vnm", "post", Some(host)) if !lives(&self.at(host)) => {
                Err(refused(format!("the guest is not on {host}")))
            }
            ("tm", verb, _) => Ok(self.make(place, format!("file of {verb}"))),
            _ => Ok(Done::quiet()),
        }
    }

    /// The last moment of a migration.
    fn arrive(&mut self, source: &HostName, argv: &[Arg]) -> Result<Done, Failure> {
        let destination = destination(argv).ok_or_else(|| refused("migrate: no destination".to_owned()))?;
        match self.at(source) {
            Sighting::Running | Sighting::Migrating | Sighting::Paused => {
                self.put(source, Sighting::Absent);
                self.run(&destination);
                Ok(Done::quiet())
            }
            other => Err(refused(format!("the guest is {other:?} on {source}"))),
        }
    }

    /// The first moment of a migration.
    pub fn depart(&mut self, source: &HostName, argv: &[Arg]) {
        if let (Some(destination), Sighting::Running) = (destination(argv), self.at(source)) {
            self.put(source, Sighting::Migrating);
            if self.at(&destination) == Sighting::Absent {
                self.put(&destination, Sighting::Incoming);
            }
        }
    }

    /// A migration that ended in its first half.
    pub fn turn_back(&mut self, source: &HostName, argv: &[Arg]) {
        if self.at(source) == Sighting::Migrating {
            self.put(source, Sighting::Running);
            if let Some(destination) = destination(argv)
                && self.at(&destination) == Sighting::Incoming
            {
                self.put(&destination, Sighting::Absent);
            }
        }
    }

    /// What a host does when it is told to bring the guest to rest; and whether it should have been told.
    fn settle(&mut self, place: &Place, order: Order) -> Result<Done, Failure> {
        let Some(host) = place.host().cloned() else {
            return Err(refused("settle on the front-end".to_owned()));
        };
        let others: Vec<HostName> = self.hosts.keys().filter(|other| **other != host).cloned().collect();
        match (order, self.at(&host)) {
            (Order::Resume, Sighting::PausedByMigration | Sighting::Incoming) => {
                for other in &others {
                    self.check_resume(&host, other);
                }
                self.put(&host, Sighting::Running);
                Ok(Done::quiet())
            }
            (Order::Discard, Sighting::PausedByMigration | Sighting::Incoming | Sighting::Ended) => {
                if !others.iter().any(|other| lives(&self.at(other))) {
                    self.violations.push(format!("the copy on {host} was destroyed, and no other runs"));
                }
                self.put(&host, Sighting::Absent);
                Ok(Done::quiet())
            }
            (Order::Resume, Sighting::Running) | (Order::Discard, Sighting::Absent) => {
                Ok(Done { output: String::new(), effect: Effect::Already })
            }
            (order, now) => Err(refused(format!("{order:?} does not apply: the guest is {now:?} on {host}"))),
        }
    }

    /// A copy may be resumed only if the other host said last that it has none.
    fn check_resume(&mut self, host: &HostName, other: &HostName) {
        let last = self.events.iter().rev().find_map(|event| match event {
            Event::Asked { host, sighting } if host == other => Some(sighting.clone()),
            _ => None,
        });
        if !matches!(last, Some(Sighting::Absent | Sighting::Ended)) {
            let text = format!("the copy on {host} was resumed although {other} last said {last:?}");
            self.violations.push(text);
        }
    }
}

fn destination(argv: &[Arg]) -> Option<HostName> {
    match argv.get(1) {
        Some(Arg::Text(host)) => host.parse().ok(),
        _ => None,
    }
}
