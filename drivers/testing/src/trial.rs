//! One run of a plan in a world, from the request to long after the reply.

use std::time::Duration;

use causeway_core::engine::{Engine, Outcome, Patience};
use causeway_core::journal::Journal;
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

/// A plan, the world it meets, and what is done to it meanwhile.
pub struct Trial<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The world, with its faults.
    pub world: World,
    /// When oned cancels the request.
    pub cancel_at: Option<Duration>,
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
    /// The engine gives no answer within two days.
    pub async fn run(&self) -> Report {
        let before = self.world.left();
        let (cancel, cancelled) = watch::channel(false);
        let engine = Engine {
            reach: &self.world,
            log: &self.world,
            journal: &Journal::none(),
            patience: Patience::default(),
            cancelled,
        };
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
        let request = RequestId::new(1, 2, 3);
        let began = Instant::now();
        let outcome = tokio::select! {
            outcome = timeout(LIMIT, engine.run(self.plan, &request)) => outcome,
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
}
