//! The engine in a world that breaks: every step of every plan, with every fault there is, and the promises that hold
//! all the same. The faults are generated from the plans; a new step is covered without a new test.

#![cfg(test)]

use std::path::Path;
use std::time::Duration;

use causeway_core::answer::Kind;
use causeway_core::engine::Outcome;
use causeway_core::outcome::Sighting;
use causeway_core::plan::Plan;
use causeway_core::reach::wire::{Owner, Severity};
use causeway_testing::faults::{self, Script};
use causeway_testing::plans::Maker;
use causeway_testing::{Away, Event, Fault, Report, Took, Trial, World, golden, trial};

/// A plan, and the world it is made for.
struct Case {
    plan: Plan,
    world: fn(&Maker) -> World,
}

fn cases() -> Vec<Case> {
    let make = Maker::of_two_hosts();
    vec![
        Case { plan: make.deploy(), world: empty },
        Case { plan: make.migrate(), world: running },
        Case { plan: make.shutdown(), world: running },
        Case { plan: make.save_disk(), world: running },
    ]
}

/// Nothing is on the hosts yet.
fn empty(make: &Maker) -> World {
    World::new(&make.id, &[make.source.clone(), make.destination.clone()]).needing(&["vxlan", "fw"])
}

/// The guest runs on the source, its network ready.
fn running(make: &Maker) -> World {
    World::new(&make.id, &[make.source.clone(), make.destination.clone()])
        .with_network(&make.source, "vxlan")
        .with_guest(&make.source, Sighting::Running)
        .needing(&["vxlan"])
}

impl Case {
    async fn play(&self, script: &Script, cancel_at: Option<Duration>) -> (Report, World) {
        let world = (self.world)(&Maker::of_two_hosts()).broken_by(script);
        let trial = Trial { plan: &self.plan, world, cancel_at, deaths: Vec::new() };
        (trial.run().await, trial.world)
    }
}

/// Collects what went wrong, so that one run shows all of it.
#[derive(Default)]
struct Findings {
    trials: usize,
    broken: Vec<String>,
}

impl Findings {
    fn add(&mut self, title: &str, report: Report) {
        self.trials += 1;
        self.broken.extend(report.broken.iter().map(|what| format!("{title}\n    {what}")));
    }

    fn judge(self, least: usize) {
        eprintln!("{} trials", self.trials);
        assert!(self.trials >= least, "only {} trials", self.trials);
        let shown: Vec<String> = self.broken.iter().take(20).cloned().collect();
        assert!(shown.is_empty(), "{} broken promises, among them:\n{}", self.broken.len(), shown.join("\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_fault_every_plan_succeeds() {
    for case in cases() {
        let (report, world) = case.play(&Script::default(), None).await;
        assert_eq!(report.broken, [""; 0], "{}", case.plan.action);
        assert!(matches!(report.outcome, Outcome::Success(_)), "{}: {:?}", case.plan.action, report.outcome);
        let begun = world.events().iter().filter(|e| matches!(e, Event::Began { .. })).count();
        assert_eq!(begun, case.plan.steps.len(), "{}: each step began once", case.plan.action);
        let sent = world.events().iter().filter(|e| matches!(e, Event::Sent { .. })).count();
        let places = case.plan.steps.chunk_by(|a, b| a.place == b.place).count();
        assert_eq!(sent, places, "{}: one exchange for each run of steps in one place", case.plan.action);
    }
}

#[tokio::test(start_paused = true)]
async fn every_fault_of_every_step_keeps_the_promises() {
    let mut findings = Findings::default();
    for case in cases() {
        for script in faults::of_plan(&case.plan) {
            let (report, _) = case.play(&script, None).await;
            findings.add(&format!("{} {script} -> {:?}", case.plan.action, report.outcome), report);
        }
    }
    findings.judge(1000);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_at_every_moment_keeps_the_promises() {
    let mut findings = Findings::default();
    for case in cases() {
        let quarters = u32::try_from(case.plan.steps.len() * 4).unwrap();
        for quarter in 0..quarters {
            let at = Duration::from_millis(250) * quarter + Duration::from_millis(10);
            let (report, world) = case.play(&Script::default(), Some(at)).await;
            assert_eq!(report.outcome, Outcome::Cancelled, "{} at {at:?}", case.plan.action);
            let events = world.events();
            let after = events.iter().skip_while(|e| **e != Event::Cancelled);
            let forward = |e: &&Event| {
                matches!(e, Event::Began { place, step } if
                case.plan.steps.iter().any(|s| s.name == *step && s.place == *place))
            };
            let begun: Vec<&Event> = after.filter(forward).collect();
            assert!(begun.is_empty(), "{} at {at:?}: {begun:?}", case.plan.action);
            findings.add(&format!("{} cancelled at {at:?}", case.plan.action), report);
        }
    }
    findings.judge(50);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_meets_every_fault() {
    let mut findings = Findings::default();
    for case in cases() {
        for script in faults::of_plan(&case.plan) {
            for seconds in [1, 3, 60] {
                let (report, _) = case.play(&script, Some(Duration::from_secs(seconds))).await;
                let title =
                    format!("{} cancelled at {seconds} s {script} -> {:?}", case.plan.action, report.outcome);
                findings.add(&title, report);
            }
        }
    }
    findings.judge(3000);
}

/// The steps of a plan that has a goal, each with its plan.
fn with_goals() -> Vec<(Case, String)> {
    let named = |case: Case| {
        let name = case.plan.steps.iter().find(|s| s.goal.is_some()).map(|s| s.name.clone());
        name.map(|name| (case, name))
    };
    cases().into_iter().filter_map(named).collect()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_while_the_guests_place_is_unknown() {
    for took in [Took::Never, Took::Before, Took::Late] {
        for (case, name) in with_goals() {
            let fault = Fault::Loses { heard: false, took, goes_on: false, away: Away::UntilTold };
            let script = Script { faults: vec![(name.clone(), fault)] };
            let (report, world) = case.play(&script, None).await;
            let title =
                format!("{} {took:?} -> {:?} after {:?}", case.plan.action, report.outcome, report.after);
            // A guest that is seen on its destination has moved, whatever its source says.
            let proved = case.plan.action == "MIGRATE" && took != Took::Never;
            assert!(proved || report.after >= trial::AWAY, "{title}");
            assert_eq!(report.broken, [""; 0], "{title}");
            let lines = world.lines();
            let told: Vec<_> = lines.iter().filter(|l| l.text.contains("still not known")).collect();
            assert_eq!(world.stuck(), told.len(), "{title}");
            assert!(proved || (8..=10).contains(&told.len()), "{} lines in ten minutes: {title}", told.len());
            assert!(
                told.iter().all(|l| l.severity == Severity::Warning && l.text.starts_with(&name)),
                "{title}"
            );
            let minute = Duration::from_secs(60);
            assert!(told.windows(2).all(|two| two[1].at - two[0].at >= minute), "{title}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_source_is_left_alone_while_the_destination_is_silent() {
    let torn = Fault::Tears {
        source: Sighting::PausedByMigration,
        destination: Sighting::Absent,
        later: None,
        lost: false,
        source_away: Away::No,
        destination_away: Away::UntilTold,
    };
    let case = cases().remove(1);
    let (report, world) = case.play(&Script { faults: vec![("migrate".to_owned(), torn)] }, None).await;
    assert_eq!(report.broken, [""; 0]);
    assert!(matches!(report.outcome, Outcome::Failure(_)), "{:?}", report.outcome);
    let events = world.events();
    let resumed =
        events.iter().position(|e| matches!(e, Event::Began { step, .. } if step == "settle:h1")).unwrap();
    let before = events.get(..resumed).unwrap();
    let silent = |e: &&Event| matches!(e, Event::Asked { sighting: Sighting::Unreachable(_), .. });
    assert!(before.iter().filter(silent).count() > 10, "it was asked for again and again");
    assert!(report.after >= trial::AWAY);
    assert_eq!(world.guest_on(&"h1".parse().unwrap()), Sighting::Running);
}

/// A host that was away for a while is no reason to end a guest that it has started meanwhile.
#[tokio::test(start_paused = true)]
async fn a_guest_that_was_started_out_of_sight_is_kept() {
    let fault = Fault::Loses { heard: false, took: Took::Before, goes_on: true, away: Away::Questions(7) };
    let (report, world) =
        cases().remove(0).play(&Script { faults: vec![("pre:vxlan".to_owned(), fault)] }, None).await;
    assert_eq!(report.broken, [""; 0]);
    assert!(matches!(report.outcome, Outcome::Success(_)), "{:?}", report.outcome);
    let begun = |name: &str| {
        world.events().iter().filter(|e| matches!(e, Event::Began { step, .. } if step == name)).count()
    };
    assert_eq!((begun("deploy"), begun("undo-cancel")), (1, 0), "it was started once more, or ended");
}

/// Or what oned sends next for that VM, to be rid of it, would never begin. It brings no id for a guest that was still to
/// be started: that one must not be left to run.
#[tokio::test(start_paused = true)]
async fn a_request_that_was_given_up_does_not_wait_for_silent_hosts_for_ever() {
    for (case, name) in with_goals() {
        let fault = Fault::Loses { heard: false, took: Took::Never, goes_on: false, away: Away::UntilTold };
        let script = Script { faults: vec![(name, fault)] };
        let (report, _) = case.play(&script, Some(Duration::from_secs(30))).await;
        assert_eq!(report.outcome, Outcome::Cancelled, "{}", case.plan.action);
        assert_eq!(report.broken, [""; 0], "{}", case.plan.action);
        let waited = report.after >= trial::AWAY;
        assert_eq!(waited, case.plan.deploy_id.is_none(), "{}: {:?}", case.plan.action, report.after);
    }
}

/// Lost itself, or run out of sight after another step was lost: a reboot, a backup, a command in a guest.
#[tokio::test(start_paused = true)]
async fn what_must_not_be_done_twice_is_not() {
    for (lost, goes_on) in [("pre:fw", false), ("pre:vxlan", true)] {
        let mut case = cases().remove(0);
        case.plan.steps.iter_mut().filter(|step| step.name == "pre:fw").for_each(|step| step.once = true);
        let fault = Fault::Loses { heard: false, took: Took::Before, goes_on, away: Away::No };
        let (report, world) = case.play(&Script { faults: vec![(lost.to_owned(), fault)] }, None).await;
        assert_eq!(report.broken, [""; 0], "{lost}");
        let begun = world
            .events()
            .iter()
            .filter(|e| matches!(e, Event::Began { step, .. } if step == "pre:fw"))
            .count();
        assert_eq!(begun, 1, "{lost}: {:?}", report.outcome);
        // Where the hosts can be asked what came of it all, the action goes on.
        let Outcome::Failure(failure) = report.outcome else { continue };
        assert!(!goes_on && failure.text.contains("is lost"), "{lost}: {failure}");
    }
}

/// A host that lost power in the middle has lost the networks that were made ready on it.
#[tokio::test(start_paused = true)]
async fn a_host_that_came_back_is_made_ready_from_the_beginning() {
    for step in ["mkdir", "vm.xml"] {
        let fault = Fault::Dies { took: false, away: Away::Questions(2) };
        let (report, world) =
            cases().remove(0).play(&Script { faults: vec![(step.to_owned(), fault)] }, None).await;
        assert_eq!(report.broken, [""; 0], "{step}");
        assert!(matches!(report.outcome, Outcome::Success(_)), "{step}: {:?}", report.outcome);
        assert_eq!(world.guest_on(&"h1".parse().unwrap()), Sighting::Running);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_found_done_is_not_undone() {
    let make = Maker::of_two_hosts();
    let plan = make.deploy();
    let lost = Fault::Loses { heard: true, took: Took::Before, goes_on: false, away: Away::No };
    for earlier in [None, Some(lost)] {
        let world = World::new(&make.id, std::slice::from_ref(&make.source)).with_network(&make.source, "fw");
        if let Some(lost) = &earlier {
            world.breaks("vm.xml", lost.clone());
        }
        world.breaks("deploy", Fault::Fails { took: false, owner: Owner::Ours });
        let trial = Trial { plan: &plan, world, cancel_at: None, deaths: Vec::new() };
        let report = trial.run().await;
        assert!(matches!(report.outcome, Outcome::Failure(_)));
        let networks: Vec<String> = trial.world.left().into_iter().map(|(_, what)| what).collect();
        assert!(
            networks.contains(&"network fw".to_owned()),
            "{earlier:?}: it was there before: {networks:?}"
        );
        assert!(
            !networks.contains(&"network vxlan".to_owned()),
            "{earlier:?}: the action made it: {networks:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_cause_comes_first_and_the_undo_never_stops() {
    let make = Maker::of_two_hosts();
    let plan = make.deploy();
    let fails = |step: &str| (step.to_owned(), Fault::Fails { took: false, owner: Owner::Ours });
    let script = Script { faults: vec![fails("post:fw"), fails("undo-clean:fw")] };
    let (report, world) = cases().remove(0).play(&script, None).await;
    let Outcome::Failure(failure) = report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(failure.text, "post:fw: scripted to fail (undo: undo-clean:fw: scripted to fail)");
    let begun: Vec<String> = world
        .events()
        .into_iter()
        .filter_map(|e| if let Event::Began { step, .. } = e { Some(step) } else { None })
        .skip(plan.steps.len())
        .collect();
    assert_eq!(begun, ["undo-cancel", "undo-clean:fw", "undo-clean:vxlan"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_guest_uses_that_cannot_be_ended_is_left_alone() {
    let fails = |step: &str| (step.to_owned(), Fault::Fails { took: false, owner: Owner::Ours });
    let faults = std::iter::once(fails("post:fw")).chain(vec![fails("undo-cancel"); 9]).collect();
    let (report, world) = cases().remove(0).play(&Script { faults }, None).await;
    assert_eq!(report.broken, [""; 0]);
    let Outcome::Failure(failure) = report.outcome else { panic!("{:?}", report.outcome) };
    let left = "undo-clean:vxlan: left alone, the guest runs on h1";
    assert!(
        failure.text.contains("undo-cancel: scripted to fail") && failure.text.contains(left),
        "{failure}"
    );
    assert_eq!(world.left().iter().filter(|(_, what)| what.starts_with("network")).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_word_of_somebody_elses_script_is_checked_where_it_can_be() {
    for took in [false, true] {
        let fault = Fault::Fails { took, owner: Owner::Foreign };
        let script = Script { faults: vec![("migrate".to_owned(), fault)] };
        let (report, _) = cases().remove(1).play(&script, None).await;
        assert_eq!(report.broken, [""; 0]);
        assert_eq!(matches!(report.outcome, Outcome::Success(_)), took, "{:?}", report.outcome);
    }
}

/// A hypervisor that is not ours can't be asked about its guests: then the script's word is all there is.
#[tokio::test(start_paused = true)]
async fn the_word_of_somebody_elses_script_is_taken_where_nobody_can_be_asked() {
    let make = Maker::of_two_hosts();
    let plan = make.migrate();
    let world = running(&make);
    world.breaks("migrate", Fault::Fails { took: false, owner: Owner::Foreign });
    let (source, silenced) = (make.source.clone(), world.clone());
    tokio::spawn(async move {
        // In the middle of the migration, which is the third step.
        tokio::time::sleep(Duration::from_millis(2400)).await;
        silenced.goes_away(&source, Away::UntilTold);
    });
    let trial = Trial { plan: &plan, world, cancel_at: None, deaths: Vec::new() };
    let report = trial.run().await;
    assert_eq!(report.broken, [""; 0]);
    assert!(matches!(report.outcome, Outcome::Failure(_)), "{:?}", report.outcome);
    assert!(report.after < trial::AWAY, "{:?}", report.after);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_stuck_is_not_waited_for_without_end() {
    for obeys in [true, false] {
        let script = Script { faults: vec![("pre:fw".to_owned(), Fault::Hangs { took: true, obeys })] };
        let (report, world) = cases().remove(0).play(&script, None).await;
        assert_eq!(report.broken, [""; 0]);
        assert!(world.events().iter().any(|e| matches!(e, Event::ToldToStop { .. })));
        assert!(report.after < Duration::from_secs(3600), "{:?} after {:?}", report.outcome, report.after);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_cannot_be_reached_costs_one_try_and_changes_nothing() {
    let make = Maker::of_two_hosts();
    let plan = make.deploy();
    let world = World::new(&make.id, std::slice::from_ref(&make.source));
    world.goes_away(&make.source, Away::UntilTold);
    let trial = Trial { plan: &plan, world, cancel_at: None, deaths: Vec::new() };
    let report = trial.run().await;
    assert_eq!(report.broken, [""; 0]);
    let Outcome::Failure(failure) = report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!((failure.kind, failure.text.as_str()), (Kind::Unreachable, "pre:vxlan: cannot reach h1"));
    let refused = trial.world.events().iter().filter(|e| matches!(e, Event::Refused { .. })).count();
    assert_eq!(refused, 1);
}

#[tokio::test(start_paused = true)]
async fn the_plans_look_like_this() {
    let text: String = cases().iter().map(|case| case.plan.render()).collect();
    golden::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plans.txt"), &text);
}
