//! One run of a plan in a world, from the request to long after the reply.

use std::path::Path;
use std::time::Duration;

use causeway_core::engine::{Engine, Outcome, Patience};
use causeway_core::journal::{Journal, Note};
use causeway_core::names::RequestId;
use causeway_core::plan::Plan;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::promise;
use crate::world::World;

/// How long a host stays away that comes back when it is told.
pub const AWAY: Duration = Duration::from_secs(600);

/// How long the engine may take: far longer than all deadlines of a plan together.
const LIMIT: Duration = Duration::from_secs(48 * 3600);

/// How long the world goes on after the reply, so that what was left at work comes to its end.
const AFTERWARDS: Duration = Duration::from_secs(3600);

/// How long it takes until the next driver process takes up what the dead one had in flight.
const RESTART: Duration = Duration::from_millis(300);

/// A plan, the world it meets, and what is done to it meanwhile.
pub struct Trial<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The world, with its faults.
    pub world: World,
    /// When oned cancels the request.
    pub cancel_at: Option<Duration>,
    /// When the driver process is killed: after its start, and after that of each that follows it.
    pub deaths: Vec<Duration>,
}

/// What came of it.
pub struct Report {
    /// The engine's answer.
    pub outcome: Outcome,
    /// After how long.
    pub after: Duration,
    /// The promises that were broken; none is what a test hopes for.
    pub broken: Vec<String>,
}

impl Trial<'_> {
    /// Plays it. Stop the runtime's clock first: a trial lasts hours.
    ///
    /// # Panics
    /// The engine gives no answer within two days, or the journal can't be written.
    pub async fn run(&self) -> Report {
        let before = self.world.left();
        let (cancel, cancelled) = watch::channel(false);
        let meanwhile = async {
            if let Some(at) = self.cancel_at {
                sleep(at).await;
                self.world.note_cancel();
                let _ = cancel.send(true);
            }
            std::future::pending::<()>().await;
        };
        let healing = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                if self.world.is_waiting() {
                    sleep(AWAY).await;
                    self.world.comes_back();
                }
            }
        };
        let began = Instant::now();
        let outcome = tokio::select! {
            outcome = timeout(LIMIT, self.lives(&cancelled)) => outcome,
            () = meanwhile => unreachable!("it waits for ever"),
            () = healing => unreachable!("it loops for ever"),
        };
        let after = began.elapsed();
        let Ok(outcome) = outcome else { panic!("no answer within {LIMIT:?}: {:?}", self.world.events()) };
        self.world.comes_back();
        sleep(AFTERWARDS).await;
        let broken = promise::broken(&self.world, self.plan, &before, &outcome);
        Report { outcome, after, broken }
    }

    /// The lives of one driver process after the other.
    async fn lives(&self, cancelled: &watch::Receiver<bool>) -> Outcome {
        let request = RequestId::new(1, 2, 3);
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("no directory for the journal: {e}"));
        let path = dir.path().join("journal");
        let mut deaths = self.deaths.iter();
        let mut first = true;
        loop {
            let (journal, notes) =
                if self.deaths.is_empty() { (Journal::none(), Vec::new()) } else { open(&path) };
            let engine = Engine {
                reach: &self.world,
                log: &self.world,
                journal: &journal,
                patience: Patience::default(),
                cancelled: cancelled.clone(),
            };
            let life = async {
                if first {
                    engine.run(self.plan, &request).await
                } else {
                    engine.adopt(self.plan, &request, &notes).await
                }
            };
            let death = async {
                match deaths.next() {
                    Some(after) => sleep(*after).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                outcome = life => return outcome,
                () = death => self.world.loses_its_driver(),
            }
            first = false;
            sleep(RESTART).await;
        }
    }
}

/// The journal, and what it says of the one request.
fn open(path: &Path) -> (Journal, Vec<Note>) {
    let (journal, unfinished) = Journal::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (journal, unfinished.into_iter().flat_map(|old| old.notes).collect())
}
