//! A host that is away for a while, behind one session that all who want it wait for: as `reach::resident::Hosts` keeps it.

#![cfg(test)]

use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::engine::{Engine, Events, Log, Outcome, Patience, Reach};
use causeway_core::journal::Journal;
use causeway_core::names::{DeployId, HostName, RequestId, VmId};
use causeway_core::outcome::Sighting;
use causeway_core::plan::{Place, Plan};
use causeway_core::reach::wire::{Exchange, FromResident, Severity};
use causeway_testing::plans::Maker;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;

/// How long a try to open a session to a silent host takes.
const CONNECT: Duration = Duration::from_secs(15);

/// Hosts that fall silent when the guest begins to move, for a while; the guest stays where it was.
struct Away {
    source: HostName,
    back: Mutex<Option<Instant>>,
    session: Mutex<()>,
}

impl Away {
    /// A session, for which everybody waits in turn.
    async fn session(&self) -> Result<(), Failure> {
        let _open = self.session.lock().await;
        if self.back.lock().await.is_some_and(|back| Instant::now() < back) {
            tokio::time::sleep(CONNECT).await;
            return Err(Failure::new(Kind::Unreachable, "no route"));
        }
        Ok(())
    }
}

impl Reach for Away {
    async fn start(&self, _: &Place, exchange: Exchange) -> Result<Events, Failure> {
        self.session().await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let moves = exchange.steps.iter().any(|step| step.name == "migrate");
        if moves && self.back.lock().await.is_none() {
            *self.back.lock().await = Some(Instant::now() + Duration::from_secs(200));
            // The answer is lost: the channel closes without an end.
            return Ok(Events { receiver, carrier: None });
        }
        for step in &exchange.steps {
            let request = exchange.request.clone();
            let _ = sender.send(FromResident::Started { request, step: step.name.clone() });
            let done = causeway_core::reach::wire::Done::quiet();
            let end = causeway_core::reach::wire::StepEnd {
                step: step.name.clone(),
                result: Ok(done),
                owner: causeway_core::reach::wire::Owner::Ours,
                micros: 1,
            };
            let _ = sender.send(FromResident::Ended { request: exchange.request.clone(), end });
        }
        let _ = sender.send(FromResident::End { request: exchange.request });
        Ok(Events { receiver, carrier: None })
    }

    async fn cancel(&self, _: &Place, _: &RequestId) {}

    async fn locate(&self, host: &HostName, _: &DeployId) -> Sighting {
        match self.session().await {
            Ok(()) if *host == self.source => Sighting::Running,
            Ok(()) => Sighting::Absent,
            Err(failure) => Sighting::Unreachable(failure.text),
        }
    }
}

#[derive(Default)]
struct Lines(std::sync::Mutex<Vec<String>>);

impl Log for Lines {
    fn log(&self, _: VmId, _: Severity, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// Found in the lab with both hosts' cables pulled: one future held the way to a host's session and was never run again,
/// for the engine waited for another one that wanted the same session.
#[tokio::test(start_paused = true)]
async fn hosts_that_come_back_are_asked_again() {
    let make = Maker::of_two_hosts();
    let plan: Plan = make.migrate();
    let away = Away { source: make.source.clone(), back: Mutex::default(), session: Mutex::default() };
    let (_keep, cancelled) = watch::channel(false);
    let (log, journal) = (Lines::default(), Journal::none());
    let engine =
        Engine { reach: &away, log: &log, journal: &journal, patience: Patience::default(), cancelled };
    let request = RequestId::new(1, 1, 1);
    let run = tokio::time::timeout(Duration::from_secs(3600), engine.run(&plan, &request));
    let outcome = run.await.unwrap();
    assert!(matches!(outcome, Outcome::Failure(_)), "{outcome:?}");
    let lines = log.0.lock().unwrap();
    let told = lines.iter().filter(|line| line.contains("still not known where the guest is")).count();
    assert!(told >= 2, "{lines:?}");
}
