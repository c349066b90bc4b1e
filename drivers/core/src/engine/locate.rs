//! Proves where the guest is when a step's own word is not enough.

use std::time::Duration;

use super::{Engine, Events, Log, Pace, Reach, Stop};
use crate::names::{DeployId, HostName, RequestId};
use crate::outcome::{Orders, Sighting, Verdict, judge_migration};
use crate::plan::{Goal, Order, Place, Plan, Step, Work};
use crate::reach::wire::{FromResident, Severity};

/// How long one host may take to bring a guest to rest.
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);

impl<R: Reach, L: Log> Engine<'_, R, L> {
    /// Asks until it is proved whether `step` reached its goal. Never guesses: while a host that matters is silent this
    /// waits, tells the VM's log once a minute, and gives no answer.
    pub(super) async fn reached(&self, plan: &Plan, step: &Step, request: &RequestId, stop: &Stop) -> bool {
        let mut pace = Pace::new(self.patience);
        let Some(goal) = &step.goal else { return false };
        loop {
            let (proof, doubt) = match goal {
                Goal::RunsOn { id, host, from: Some(source) } => {
                    let verdict = self.judge(id, source, host).await;
                    self.settle(plan, request, id, source, host, verdict).await
                }
                Goal::RunsOn { id, host, from: None } => present(&self.reach.locate(host, id).await),
                Goal::Gone { id, host } => gone(&self.reach.locate(host, id).await),
            };
            if let Some(proof) = proof {
                return proof;
            }
            if pace.wait().await {
                let text = format!("{}: {}; still not known where the guest is: {doubt}", step.name, stop.failure);
                self.tell(plan, Severity::Warning, &text);
            }
        }
    }

    async fn judge(&self, id: &DeployId, source: &HostName, destination: &HostName) -> Verdict {
        let (at_source, at_destination) =
            tokio::join!(self.reach.locate(source, id), self.reach.locate(destination, id));
        tracing::info!(%id, ?at_source, ?at_destination, "asked both hosts");
        judge_migration(&at_source, &at_destination)
    }

    /// Carries out a verdict's orders; the proof stands once there are none left, which the next round shows.
    async fn settle(
        &self,
        plan: &Plan,
        request: &RequestId,
        id: &DeployId,
        source: &HostName,
        destination: &HostName,
        verdict: Verdict,
    ) -> (Option<bool>, String) {
        let (orders, arrived) = match verdict {
            Verdict::Source(orders) => (orders, false),
            Verdict::Destination(orders) => (orders, true),
            Verdict::Nowhere => {
                self.tell(plan, Severity::Error, &format!("the guest runs neither on {source} nor on {destination}"));
                return (Some(false), String::new());
            }
            Verdict::Moving => return (None, "it is still moving".to_owned()),
            Verdict::Unknown(why) => return (None, why),
        };
        if orders == Orders::default() {
            return (Some(arrived), String::new());
        }
        for (host, order) in [(source, orders.source), (destination, orders.destination)] {
            if let Some(order) = order {
                self.tell(plan, Severity::Warning, &format!("{order:?} the guest's copy on {host}").to_lowercase());
                self.order(plan, request, id, host, order).await;
            }
        }
        (None, "it is being brought to rest".to_owned())
    }

    async fn order(&self, plan: &Plan, request: &RequestId, id: &DeployId, host: &HostName, order: Order) {
        let work = Work::Settle { id: id.clone(), order };
        let step = Step::new(format!("settle:{host}"), Place::Host(host.clone()), work, SETTLE_DEADLINE).finishes();
        let exchange = self.exchange(plan, std::slice::from_ref(&step), request, &Default::default());
        let started = self.reach.start(&step.place, exchange).await;
        let Ok(Events { mut receiver, carrier: _carrier }) = started else { return };
        while let Some(event) = receiver.recv().await {
            if let FromResident::Ended { end, .. } = event {
                self.report(plan, &step, request, &end);
            }
        }
    }
}

/// Whether a guest that was to be started runs: the proof, or the doubt.
fn present(sighting: &Sighting) -> (Option<bool>, String) {
    match sighting {
        Sighting::Running | Sighting::Migrating | Sighting::Paused => (Some(true), String::new()),
        Sighting::Absent | Sighting::Ended => (Some(false), String::new()),
        other => (None, format!("{other:?}")),
    }
}

/// Whether a guest that was to be ended is gone: the proof, or the doubt.
fn gone(sighting: &Sighting) -> (Option<bool>, String) {
    match sighting {
        Sighting::Absent | Sighting::Ended => (Some(true), String::new()),
        Sighting::Unreachable(why) => (None, why.clone()),
        _ => (Some(false), String::new()),
    }
}
