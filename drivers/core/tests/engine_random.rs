//! The engine with plans that nobody would write, and several faults at once.

#![cfg(test)]

use std::time::Duration;

use causeway_core::names::HostName;
use causeway_core::outcome::Sighting;
use causeway_core::plan::{Answer, Place, Plan, Step, Work};
use causeway_core::reach::wire::Owner;
use causeway_testing::faults::{self, Script};
use causeway_testing::plans::{DEADLINE, Maker, named};
use causeway_testing::{Fault, Trial, World};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::FileFailurePersistence;

const DRIVERS: [&str; 3] = ["vxlan", "fw", "ovs"];

/// What the plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    Start,
    Go,
    Stop,
    /// Nothing that the guest would notice.
    Prepare,
}

/// A step besides the one that matters.
#[derive(Debug, Clone)]
enum Filler {
    /// A network made ready where the guest is not.
    Pre(&'static str),
    /// A file, on either host.
    File { there: bool, ignored: bool },
    /// Something on the front-end, with an undo there.
    Front { ignored: bool },
}

fn filler() -> impl Strategy<Value = Filler> {
    prop_oneof![
        proptest::sample::select(DRIVERS.as_slice()).prop_map(Filler::Pre),
        any::<(bool, bool)>().prop_map(|(there, ignored)| Filler::File { there, ignored }),
        any::<bool>().prop_map(|ignored| Filler::Front { ignored }),
    ]
}

#[derive(Debug, Clone)]
struct Ordeal {
    aim: Aim,
    before: Vec<Filler>,
    after: Vec<Filler>,
    faults: Vec<(Index, Index)>,
    cancel_at: Option<u64>,
    deaths: Vec<u64>,
}

fn ordeal() -> impl Strategy<Value = Ordeal> {
    let aim = prop_oneof![Just(Aim::Start), Just(Aim::Go), Just(Aim::Stop), Just(Aim::Prepare)];
    let cancel = prop_oneof![3 => Just(None), 1 => (0..200_000u64).prop_map(Some)];
    let deaths = prop_oneof![3 => Just(Vec::new()), 1 => vec(0..12_000u64, 1..3)];
    let fillers = (vec(filler(), 0..5), vec(filler(), 0..4));
    let parts = (aim, fillers, vec(any::<(Index, Index)>(), 0..4), cancel, deaths);
    parts.prop_map(|(aim, (before, after), faults, cancel_at, deaths)| Ordeal {
        aim,
        before,
        after,
        faults,
        cancel_at,
        deaths,
    })
}

impl Ordeal {
    /// Where the guest is not, before the step that matters.
    fn free_host<'m>(&self, make: &'m Maker) -> &'m HostName {
        if self.aim == Aim::Start { &make.source } else { &make.destination }
    }

    fn filler(&self, make: &Maker, filler: &Filler, number: usize) -> Step {
        let ignored = |step: Step, yes: bool| if yes { step.ignored() } else { step };
        match filler {
            Filler::Pre(driver) => {
                let mut step = make.pre(driver, self.free_host(make));
                step.name = format!("{}-{number}", step.name);
                step.undo.iter_mut().for_each(|undo| undo.name = format!("{}-{number}", undo.name));
                step
            }
            Filler::File { there, ignored: yes } => {
                let host = if *there { &make.destination } else { &make.source };
                let work = Work::MakeDir { path: named(&format!("/var/lib/one/{number}")) };
                ignored(Step::new(format!("file-{number}"), Place::Host(host.clone()), work, DEADLINE), *yes)
            }
            Filler::Front { ignored: yes } => {
                let name = format!("front-{number}");
                let undo =
                    make.slot(&format!("undo-{name}"), Place::FrontEnd, ["tm", "shared", "failmigrate"], &[]);
                let step = make.slot(&name, Place::FrontEnd, ["tm", "shared", "premigrate"], &[]);
                ignored(step.undone_by(vec![undo]), *yes)
            }
        }
    }

    fn plan(&self, make: &Maker) -> Plan {
        let mut steps: Vec<Step> =
            self.before.iter().enumerate().map(|(number, f)| self.filler(make, f, number)).collect();
        match self.aim {
            Aim::Start => steps.push(make.start()),
            Aim::Go => steps.push(make.go()),
            Aim::Stop => steps.push(make.stop()),
            Aim::Prepare => {}
        }
        // A network that is made ready under a running guest can't be taken back: no plan does that.
        let after = self.after.iter().filter(|f| !matches!(f, Filler::Pre(_)));
        steps.extend(after.enumerate().map(|(number, f)| self.filler(make, f, 100 + number)));
        make.plan("RANDOM", steps, Answer::Empty)
    }

    fn world(&self, make: &Maker) -> World {
        let world = World::new(&make.id, &[make.source.clone(), make.destination.clone()]);
        let ready: Vec<&str> = self
            .before
            .iter()
            .filter_map(|f| if let Filler::Pre(driver) = f { Some(*driver) } else { None })
            .collect();
        let world = if self.aim == Aim::Start {
            world
        } else {
            let world = DRIVERS.iter().fold(world, |world, driver| world.with_network(&make.source, driver));
            world.with_guest(&make.source, Sighting::Running)
        };
        world.needing(&ready)
    }

    fn script(&self, plan: &Plan) -> Script {
        let steps: Vec<&Step> = plan.steps.iter().flat_map(|s| std::iter::once(s).chain(&s.undo)).collect();
        let mut faults = Vec::new();
        for (step, fault) in self.faults.iter().filter(|_| !steps.is_empty()) {
            let step = step.get(&steps);
            let fault = match fault.get(&faults::of_step(step)).clone() {
                // Where nobody can be asked, a stranger's word is taken, right or wrong.
                Fault::Fails { took: true, .. } if step.goal.is_some() => {
                    Fault::Fails { took: true, owner: Owner::Ours }
                }
                fault => fault,
            };
            faults.push((step.name.clone(), fault));
        }
        Script { faults }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/engine_random.proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_promises_hold_for_any_plan_and_any_faults(ordeal in ordeal()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let make = Maker::of_two_hosts();
            let plan = ordeal.plan(&make);
            let script = ordeal.script(&plan);
            let world = ordeal.world(&make).broken_by(&script);
            let cancel_at = ordeal.cancel_at.map(Duration::from_millis);
            let deaths = ordeal.deaths.iter().copied().map(Duration::from_millis).collect();
            let trial = Trial { plan: &plan, world, cancel_at, deaths };
            let report = trial.run().await;
            let story = || {
                let events: Vec<String> = trial.world.events().iter().map(|e| format!("  {e:?}")).collect();
                let lines: Vec<String> = trial.world.lines().iter().map(|l| format!("  {:?} {}", l.at, l.text)).collect();
                format!("{}{script}\n{}\n{}", plan.render(), events.join("\n"), lines.join("\n"))
            };
            prop_assert!(report.broken.is_empty(), "{:?} -> {:?}\n{}", report.broken, report.outcome, story());
            Ok(())
        })?;
    }
}
