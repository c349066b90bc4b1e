//! The driver process is killed at every moment of every plan, and the next one takes up what was in flight from the
//! journal. The promises are the same.

#![cfg(test)]

use std::time::Duration;

use causeway_core::engine::Outcome;
use causeway_core::outcome::Sighting;
use causeway_core::plan::Plan;
use causeway_core::reach::wire::Owner;
use causeway_testing::faults::Script;
use causeway_testing::plans::Maker;
use causeway_testing::{Away, Fault, Trial, World};

/// A quarter of what a step takes: before it works, while it does, and after.
const TICK: Duration = Duration::from_millis(250);

struct Case {
    plan: Plan,
    world: fn(&Maker) -> World,
}

fn cases() -> Vec<Case> {
    let make = Maker::of_two_hosts();
    vec![
        Case { plan: make.deploy(), world: |m| hosts(m).needing(&["vxlan", "fw"]) },
        Case { plan: make.migrate(), world: running },
        Case { plan: make.shutdown(), world: running },
        Case { plan: make.save_disk(), world: running },
    ]
}

fn hosts(make: &Maker) -> World {
    World::new(&make.id, &[make.source.clone(), make.destination.clone()])
}

fn running(make: &Maker) -> World {
    hosts(make)
        .with_network(&make.source, "vxlan")
        .with_guest(&make.source, Sighting::Running)
        .needing(&["vxlan"])
}

/// Kills the driver at every tick of a run with that script; returns how many trials there were.
async fn kill_at_every_tick(case: &Case, script: &Script, cancel_at: Option<Duration>) -> usize {
    let make = Maker::of_two_hosts();
    let mut broken = Vec::new();
    let mut trials = 0;
    for tick in 0.. {
        let at = TICK * tick + Duration::from_millis(10);
        let world = (case.world)(&make).broken_by(script);
        let trial = Trial { plan: &case.plan, world, cancel_at, deaths: vec![at] };
        let report = trial.run().await;
        trials += 1;
        let title = format!("{} {script} killed at {at:?} -> {:?}", case.plan.action, report.outcome);
        broken.extend(report.broken.iter().map(|what| format!("{title}\n    {what}")));
        // What a host gives up when its driver goes: a shutdown, whose guest may then still run, and a guest's rest.
        let given_up = matches!(case.plan.action.as_str(), "SHUTDOWN" | "SAVE");
        let alone = script.faults.is_empty() && cancel_at.is_none() && !given_up;
        if alone && !matches!(report.outcome, Outcome::Success(_)) {
            broken.push(format!("{title}\n    nothing was wrong but the death"));
        }
        if report.after < at {
            break;
        }
    }
    let shown = broken.iter().take(12).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(broken.is_empty(), "{} broken promises, among them:\n{shown}", broken.len());
    trials
}

#[tokio::test(start_paused = true)]
async fn a_death_at_every_moment_changes_nothing() {
    let mut trials = 0;
    for case in cases() {
        trials += kill_at_every_tick(&case, &Script::default(), None).await;
    }
    assert!(trials > 4 * 16, "{trials}");
}

#[tokio::test(start_paused = true)]
async fn a_death_at_every_moment_of_a_failure_and_of_its_undo() {
    for case in cases() {
        for step in &case.plan.steps {
            for took in [false, true] {
                let fault = Fault::Fails { took, owner: Owner::Ours };
                let script = Script { faults: vec![(step.name.clone(), fault)] };
                kill_at_every_tick(&case, &script, None).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_beside_a_broken_migration() {
    use Sighting::{Absent, Incoming, Migrating, PausedByMigration};
    let case = cases().remove(1);
    for (source, destination, later) in [
        (PausedByMigration, Absent, None),
        (Absent, Incoming, None),
        (Migrating, Incoming, Some((Absent, Sighting::Running))),
        (PausedByMigration, Incoming, Some((PausedByMigration, Absent))),
    ] {
        for away in [Away::No, Away::Questions(3)] {
            let torn = Fault::Tears {
                source: source.clone(),
                destination: destination.clone(),
                later: later.clone(),
                lost: false,
                source_away: Away::No,
                destination_away: away,
            };
            kill_at_every_tick(&case, &Script { faults: vec![("migrate".to_owned(), torn)] }, None).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_death_and_a_cancel() {
    for case in cases() {
        for seconds in [1, 3, 6] {
            kill_at_every_tick(&case, &Script::default(), Some(Duration::from_secs(seconds))).await;
        }
    }
}
