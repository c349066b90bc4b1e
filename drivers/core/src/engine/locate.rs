//! Proves where the guest is when a step's own word is not enough.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

// The runtime's clock, so that a test can stop it.
use tokio::time::Instant;

use super::{Engine, Log, Pace, Reach, Stop};
use crate::names::{DeployId, HostName, RequestId};
use crate::outcome::{Orders, Sighting, Verdict, judge_migration};
use crate::plan::{Goal, Order, Place, Plan, Step, Work};
use crate::reach::wire::Severity;

/// How long one host may take to bring a guest to rest.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);

/// How long a destination that can't be asked holds up the end of a move that is known to have failed. A copy that came
/// in keeps its network in use: taken away while it is there, the undo would leave it behind. libvirtd is back sooner.
const TIDY: Duration = Duration::from_secs(30);

/// How long hosts that can't be asked hold up a request that oned has given up. What comes next for the VM is the request
/// that ends its guest, wherever it is (contract VMM 1.6), and no reply depends on what was found out. That request has no
/// id for a guest that was still to be started: only who started it can end it.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// What a round of questions showed.
struct Answer {
    /// Whether the goal was reached, if that is proved.
    proof: Option<bool>,
    /// What is not known, for people.
    doubt: String,
}

impl Answer {
    fn proved(reached: bool) -> Self {
        Answer { proof: Some(reached), doubt: String::new() }
    }

    fn open(doubt: impl Into<String>) -> Self {
        Answer { proof: None, doubt: doubt.into() }
    }
}

impl<R: Reach, L: Log> Engine<'_, R, L> {
    /// Asks until it is proved whether `step` reached its goal. Never guesses: while a host that matters is silent this
    /// waits, tells the VM's log once a minute, and gives no answer.
    ///
    /// A cancelled request for a guest that oned knows does not wait for ever: it takes the step for not reached.
    ///
    /// With `at_work` somebody may still be working at the step, on a host that lost its session to us: then only
    /// "reached" is taken at once; everything else, and every order, waits until that host is at rest.
    pub(super) async fn reached(
        &self,
        plan: &Plan,
        step: &Step,
        request: &RequestId,
        stop: &Stop,
        at_work: bool,
    ) -> bool {
        let Some(goal) = &step.goal else { return false };
        let mut pace = Pace::new(self.patience);
        let begun = Instant::now();
        let mut since_cancel = None;
        let mut rested = !at_work;
        let mut rest = pin!(self.until_rest(plan, request, step));
        loop {
            // What is asked from now on is asked of hosts at rest, or is not.
            let quiet = rested;
            let mut round = pin!(self.round(plan, request, goal, quiet));
            let Answer { proof, doubt } = loop {
                // Never one without the other: both may want a session to the same host, and whoever opens it must go
                // on, or the other waits for ever.
                tokio::select! {
                    () = &mut rest, if !rested => rested = true,
                    answer = &mut round => break answer,
                }
            };
            match proof {
                Some(true) => return true,
                Some(false) if quiet && (doubt.is_empty() || begun.elapsed() > TIDY) => return false,
                _ => {}
            }
            if rested && !quiet {
                continue;
            }
            let given_up = self.is_cancelled() && plan.deploy_id.is_some();
            if given_up && since_cancel.get_or_insert_with(Instant::now).elapsed() > GIVEN_UP {
                let text =
                    "given up by oned before it was known where the guest is; what ends the guest comes next";
                self.warn(plan, &format!("{}: {text}", step.name));
                return false;
            }
            let due = tokio::select! {
                () = &mut rest, if !rested => {
                    rested = true;
                    continue;
                }
                due = pace.wait() => due,
            };
            if due && !(quiet && proof.is_some()) {
                let doubt = if doubt.is_empty() { format!("{} is not at rest", step.place) } else { doubt };
                self.warn(
                    plan,
                    &format!("{}: {}; still not known where the guest is: {doubt}", step.name, stop.failure),
                );
                self.log.stuck();
            }
        }
    }

    /// Asks the hosts once, and gives the orders that follow from their words: whether it is proved.
    async fn round(&self, plan: &Plan, request: &RequestId, goal: &Goal, quiet: bool) -> Answer {
        match goal {
            Goal::RunsOn { id, host, from: Some(source) } => {
                let (at_source, at_destination) =
                    tokio::join!(self.reach.locate(source, id), self.reach.locate(host, id));
                tracing::info!(%id, ?at_source, ?at_destination, "asked both hosts");
                let verdict = judge_migration(&at_source, &at_destination);
                let answer = self.settle(plan, request, goal, source, verdict, quiet).await;
                match at_destination {
                    Sighting::Unreachable(doubt) => Answer { doubt, ..answer },
                    _ => answer,
                }
            }
            Goal::RunsOn { id, host, from: None } => present(&self.reach.locate(host, id).await),
            Goal::Gone { id, host } => gone(&self.reach.locate(host, id).await),
        }
    }

    /// Whether the host of a goal answers at all. A script of somebody else's may belong to a hypervisor that our
    /// residents know nothing of: then its word is all there is.
    pub(super) async fn can_be_asked(&self, step: &Step) -> bool {
        let Some(goal) = &step.goal else { return false };
        let (Goal::RunsOn { host, from: None, .. }
        | Goal::Gone { host, .. }
        | Goal::RunsOn { from: Some(host), .. }) = goal;
        !matches!(self.reach.locate(host, goal.id()).await, Sighting::Unreachable(_))
    }

    async fn until_rest(&self, plan: &Plan, request: &RequestId, step: &Step) {
        let mut pace = Pace::new(self.patience);
        while let Err(failure) = self.at_rest(plan, request, &step.place).await {
            tracing::debug!(step = step.name, %failure, "not known to be at rest");
            pace.wait().await;
        }
    }

    /// Carries out a verdict's orders; the proof stands once there are none left, which the next round shows.
    async fn settle(
        &self,
        plan: &Plan,
        request: &RequestId,
        goal: &Goal,
        source: &HostName,
        verdict: Verdict,
        quiet: bool,
    ) -> Answer {
        let Goal::RunsOn { id, host: destination, .. } = goal else { return Answer::open("") };
        let (orders, arrived) = match verdict {
            Verdict::Source(orders) => (orders, false),
            Verdict::Destination(orders) => (orders, true),
            Verdict::Nowhere => {
                if quiet {
                    let text = format!("the guest runs neither on {source} nor on {destination}");
                    self.tell(plan, Severity::Error, &text);
                }
                return Answer::proved(false);
            }
            Verdict::Moving => return Answer::open("it is still moving"),
            Verdict::Unknown(why) => return Answer::open(why),
        };
        if orders == Orders::default() {
            return Answer::proved(arrived);
        }
        for (host, order) in [(source, orders.source), (destination, orders.destination)] {
            if let Some(order) = order.filter(|_| quiet) {
                self.warn(plan, &format!("{order:?} the guest's copy on {host}").to_lowercase());
                self.order(plan, request, id, host, order).await;
            }
        }
        Answer::open("it is being brought to rest")
    }

    async fn order(&self, plan: &Plan, request: &RequestId, id: &DeployId, host: &HostName, order: Order) {
        let work = Work::Settle { id: id.clone(), order };
        let step =
            Step::new(format!("settle:{host}"), Place::Host(host.clone()), work, SETTLE_DEADLINE).finishes();
        // Whatever it says: the hosts are asked again.
        self.single(plan, &step, request, &BTreeMap::new()).await;
    }
}

/// Whether a guest that was to be started runs.
fn present(sighting: &Sighting) -> Answer {
    match sighting {
        Sighting::Running | Sighting::Migrating | Sighting::Paused => Answer::proved(true),
        Sighting::Absent | Sighting::Ended => Answer::proved(false),
        other => Answer::open(format!("{other:?}")),
    }
}

/// Whether a guest that was to be ended is gone.
fn gone(sighting: &Sighting) -> Answer {
    match sighting {
        Sighting::Absent | Sighting::Ended => Answer::proved(true),
        Sighting::Unreachable(why) => Answer::open(why),
        _ => Answer::proved(false),
    }
}
