//! What must be true whatever happens.
//!
//! 1. The guest never runs twice, nor where its networks are not ready; no copy of it is resumed or destroyed without
//!    proof. The [`World`] sees to that while it happens.
//! 2. SUCCESS is said only when the guest is where the plan promised, or came there and died with the host.
//! 3. FAILURE is said only when it is not: a moved guest is on its source or nowhere, a started one is nowhere, an ended
//!    one is still there. Where an undo could not be done, the text says so.
//! 4. What was made is undone in reverse, only where it was begun, and never past the point of no return.
//! 5. A cancelled request has no answer, begins nothing more, and is undone like a failed one.
//! 6. A guest that was brought to rest is not left so.

use causeway_core::engine::Outcome;
use causeway_core::names::HostName;
use causeway_core::outcome::Sighting;
use causeway_core::plan::{Goal, OnFailure, Place, Plan, Step};
use causeway_core::reach::wire::Effect;

use crate::world::{ASIDE, AT_REST, Event, World};

/// The promises that the run of `plan` broke, given what steps had left in the world `before` it.
pub fn broken(world: &World, plan: &Plan, before: &[(Place, String)], outcome: &Outcome) -> Vec<String> {
    let mut broken = world.violations();
    let goals = plan.steps.iter().filter(|s| s.on_failure == OnFailure::Stop).filter_map(|s| s.goal.as_ref());
    for goal in goals {
        broken.extend(guest(world, goal, outcome));
    }
    let events = world.events();
    broken.extend(answer(&events, outcome));
    broken.extend(undo(plan, &events, world, outcome));
    broken.extend(remains(world, plan, before, outcome));
    let resting = world.left().into_iter().filter(|(_, what)| what == AT_REST);
    broken.extend(resting.map(|(place, what)| format!("{what} on {place}")));
    broken
}

fn lives(world: &World, host: &HostName) -> bool {
    matches!(world.guest_on(host), Sighting::Running | Sighting::Migrating | Sighting::Paused)
}

/// Whether the goal is reached, as a matter of fact.
fn reached(world: &World, goal: &Goal) -> bool {
    match goal {
        Goal::RunsOn { host, .. } => lives(world, host),
        Goal::Gone { host, .. } => !lives(world, host),
    }
}

/// Whether nothing can be taken back any more, as a matter of fact.
fn past_return(world: &World, plan: &Plan) -> bool {
    plan.steps.iter().filter_map(|s| s.goal.as_ref()).any(|goal| match goal {
        Goal::RunsOn { from: None, .. } => false,
        Goal::RunsOn { host, .. } if world.died_with().as_ref() == Some(host) => true,
        goal => reached(world, goal),
    })
}

fn guest(world: &World, goal: &Goal, outcome: &Outcome) -> Option<String> {
    let there = reached(world, goal);
    match (outcome, goal) {
        // It came, and died there: no failure of the move.
        (Outcome::Success(_), Goal::RunsOn { host, .. }) if world.died_with().as_ref() == Some(host) => None,
        (Outcome::Success(_), _) if !there => Some(format!("SUCCESS, but {goal:?} is not so")),
        // An undo that could not be done is told.
        (Outcome::Failure(failure), Goal::RunsOn { from: None, .. })
            if there && failure.text.contains("(undo: ") =>
        {
            None
        }
        // It was not ended by the action: its host lost power before that was tried.
        (Outcome::Failure(_), Goal::Gone { host, .. }) if world.died_with().as_ref() == Some(host) => None,
        (Outcome::Failure(failure), _) if there => Some(format!("FAILURE {failure}, but {goal:?} is so")),
        (Outcome::Cancelled, Goal::RunsOn { from: None, .. }) if there && !undo_failed(world) => {
            Some("cancelled, and the guest that was started goes on".to_owned())
        }
        _ => None,
    }
}

/// Whether the log tells of an undo that was tried to the end.
fn undo_failed(world: &World) -> bool {
    world.lines().iter().any(|line| line.text.contains("undo") && line.text.contains("trying again"))
}

fn answer(events: &[Event], outcome: &Outcome) -> Option<String> {
    let cancelled = events.contains(&Event::Cancelled);
    match outcome {
        Outcome::Cancelled if !cancelled => Some("no answer to a request that nobody cancelled".to_owned()),
        Outcome::Success(_) | Outcome::Failure(_) if cancelled => {
            Some(format!("a cancelled request was answered: {outcome:?}"))
        }
        _ => None,
    }
}

/// The steps that undo others, each with the place in the plan of what it undoes. One that is also a step of the plan
/// itself can't be told from it and is left out.
fn undos(plan: &Plan) -> Vec<(usize, &Step)> {
    let forward = |undo: &Step| plan.steps.iter().any(|s| s.name == undo.name && s.place == undo.place);
    let all = plan
        .steps
        .iter()
        .enumerate()
        .flat_map(|(index, step)| step.undo.iter().map(move |undo| (index, undo)));
    all.filter(|(_, undo)| !forward(undo)).collect()
}

fn undo(plan: &Plan, events: &[Event], world: &World, outcome: &Outcome) -> Vec<String> {
    let mut broken = Vec::new();
    let undos = undos(plan);
    let mut begun: Vec<(Place, String)> = Vec::new();
    let mut last = plan.steps.len();
    let (mut cancelled, mut died) = (false, false);
    for event in events {
        match event {
            Event::Cancelled => cancelled = true,
            // The next process walks the same way back from its beginning, and can't know what the dead one last sent.
            Event::DriverDied => (died, last) = (true, plan.steps.len()),
            Event::Sent { place, steps } => {
                for name in steps {
                    match undos.iter().find(|(_, undo)| undo.name == *name && undo.place == *place) {
                        Some((index, undo)) => {
                            broken.extend(undone(plan, *index, undo, &begun).filter(|_| !died));
                            if *index > last {
                                broken.push(format!("{name} was undone after a step before it"));
                            }
                            last = *index;
                        }
                        None if cancelled && !name.starts_with("settle:") => {
                            broken.push(format!("{name} was sent to {place} after the cancel"));
                        }
                        None => begun.push((place.clone(), name.clone())),
                    }
                }
            }
            _ => {}
        }
    }
    if matches!(outcome, Outcome::Success(_)) && last < plan.steps.len() {
        broken.push("SUCCESS, and something was undone".to_owned());
    }
    if !matches!(outcome, Outcome::Success(_)) && !past_return(world, plan) {
        broken.extend(left_out(plan, events, world));
    }
    broken
}

fn undone(plan: &Plan, index: usize, undo: &Step, begun: &[(Place, String)]) -> Option<String> {
    let step = plan.steps.get(index)?;
    let was = begun.iter().any(|(place, name)| *place == step.place && *name == step.name);
    (!was).then(|| format!("{} undid {}, which never began", undo.name, step.name))
}

/// Undo that was called for and not even tried. What a running guest uses is left alone.
fn left_out(plan: &Plan, events: &[Event], world: &World) -> Vec<String> {
    let in_use = |undo: &Step| undo.place.host().is_some_and(|host| lives(world, host));
    let tried = |undo: &Step| {
        events.iter().any(|event| match event {
            Event::Sent { place, steps } => *place == undo.place && steps.contains(&undo.name),
            Event::Refused { place } => *place == undo.place,
            _ => false,
        })
    };
    let made = |step: &Step| {
        events.iter().any(|event| {
            matches!(event, Event::Took { place, step: name, effect: Effect::Made }
                if *place == step.place && *name == step.name)
        })
    };
    // One with a goal that was not reached has left nothing, whatever it did in between.
    let steps = plan.steps.iter().filter(|s| s.goal.is_none() && made(s));
    let missing = steps
        .flat_map(|s| s.undo.iter().map(move |undo| (s, undo)))
        .filter(|(_, undo)| !tried(undo) && !in_use(undo));
    missing.map(|(step, undo)| format!("{} was made, and {} was not tried", step.name, undo.name)).collect()
}

/// What a failed action left behind, without a word of it.
fn remains(world: &World, plan: &Plan, before: &[(Place, String)], outcome: &Outcome) -> Vec<String> {
    let Outcome::Failure(failure) = outcome else { return Vec::new() };
    if failure.text.contains("(undo: ") || past_return(world, plan) {
        return Vec::new();
    }
    let counts = |what: &str| what.starts_with("network ") || what == ASIDE;
    let networks = world.left().into_iter().filter(|(_, what)| counts(what));
    let new = networks.filter(|left| !before.contains(left));
    new.map(|(place, what)| format!("FAILURE {failure}, and {what} was left on {place}")).collect()
}
