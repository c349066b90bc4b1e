//! Every way we know in which a step can go wrong.

use std::fmt;

use causeway_core::outcome::Sighting;
use causeway_core::plan::{Place, Plan, Slot, Step, Work};
use causeway_core::reach::wire::Owner;

/// Whether, and when, a step does its work although it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// Not at all.
    Never,
    /// Before the fault.
    Before,
    /// After the session is lost: the host was still at it.
    Late,
}

/// How long a host can't be asked after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// It answers at once.
    No,
    /// This many questions go unanswered.
    Questions(u32),
    /// Until the test says so: [`World::comes_back`](crate::World::comes_back).
    UntilTold,
}

/// What happens to one attempt at a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It says that it failed.
    Fails {
        /// Whether it did its work all the same.
        took: bool,
        /// Who says so.
        owner: Owner,
    },
    /// The session ends.
    Loses {
        /// Whether the beginning of the step was still heard of.
        heard: bool,
        /// Whether the step did its work.
        took: Took,
        /// Whether the host goes on with the steps that follow.
        goes_on: bool,
        /// How long the host can't be asked.
        away: Away,
    },
    /// It never ends.
    Hangs {
        /// Whether it did its work first.
        took: bool,
        /// Whether it can be told to stop.
        obeys: bool,
    },
    /// It says that its deadline has passed, and the host is still at it.
    Outlives {
        /// Whether it does its work in the end.
        took: bool,
    },
    /// The host loses power: its guests are gone, and its networks.
    Dies {
        /// Whether the step had done its work.
        took: bool,
        /// How long the host can't be asked.
        away: Away,
    },
    /// A migration breaks in the middle.
    Tears {
        /// What is seen on the source.
        source: Sighting,
        /// What is seen on the destination.
        destination: Sighting,
        /// What is seen a while later, where the hypervisors go on by themselves.
        later: Option<(Sighting, Sighting)>,
        /// Whether the step's answer is lost as well.
        lost: bool,
        /// How long the source can't be asked.
        source_away: Away,
        /// How long the destination can't be asked.
        destination_away: Away,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Whether the step is the move of a guest, which can break in the middle.
pub fn is_move(step: &Step) -> bool {
    matches!(&step.work, Work::Slot { slot, .. } if is_slot(slot, "vmm", "migrate"))
}

pub(crate) fn is_slot(slot: &Slot, family: &str, verb: &str) -> bool {
    slot.family() == family && slot.verb() == verb
}

/// Every fault that can befall the step.
pub fn of_step(step: &Step) -> Vec<Fault> {
    let mut faults = Vec::new();
    for took in [false, true] {
        for owner in [Owner::Ours, Owner::Foreign] {
            faults.push(Fault::Fails { took, owner });
        }
    }
    // A child of the front-end shares our fate: its answer can't be lost on the way.
    if step.place == Place::FrontEnd {
        return faults;
    }
    let aways = [Away::No, Away::Questions(1), Away::Questions(7), Away::UntilTold];
    for away in aways {
        for took in [Took::Never, Took::Before, Took::Late] {
            for (heard, goes_on) in [(true, false), (false, false), (true, true), (false, true)] {
                faults.push(Fault::Loses { heard, took, goes_on, away });
            }
        }
        faults.extend([false, true].map(|took| Fault::Dies { took, away }));
    }
    for took in [false, true] {
        faults.extend([false, true].map(|obeys| Fault::Hangs { took, obeys }));
        faults.push(Fault::Outlives { took });
    }
    if is_move(step) {
        faults.extend(tears(&aways));
    }
    faults
}

fn tears(aways: &[Away]) -> Vec<Fault> {
    use Sighting::{Absent, Ended, Incoming, Migrating, PausedByMigration, Running};
    let sights = [
        (Running, Incoming, None),
        (PausedByMigration, Absent, None),
        (PausedByMigration, Ended, None),
        (PausedByMigration, Running, None),
        (Absent, Incoming, None),
        (Absent, PausedByMigration, None),
        (Absent, Absent, None),
        (Ended, Absent, None),
        (Ended, Running, None),
        (Migrating, Incoming, Some((Absent, Running))),
        (Migrating, Incoming, Some((Running, Absent))),
        (PausedByMigration, Incoming, Some((Absent, Running))),
        (PausedByMigration, Incoming, Some((PausedByMigration, Absent))),
        (PausedByMigration, Incoming, Some((Absent, Absent))),
    ];
    let mut tears = Vec::new();
    for (source, destination, later) in sights {
        for lost in [false, true] {
            let away_pairs =
                aways.iter().flat_map(|away| [(*away, Away::No), (Away::No, *away), (*away, *away)]);
            for (source_away, destination_away) in away_pairs {
                tears.push(Fault::Tears {
                    source: source.clone(),
                    destination: destination.clone(),
                    later: later.clone(),
                    lost,
                    source_away,
                    destination_away,
                });
            }
        }
    }
    tears.dedup();
    tears
}

/// Every fault of every step of the plan, by the step's name; of its undo too, each together with a failure that calls
/// for the undo.
pub fn of_plan(plan: &Plan) -> Vec<Script> {
    let mut scripts = Vec::new();
    for step in &plan.steps {
        for fault in of_step(step) {
            scripts.push(Script { faults: vec![(step.name.clone(), fault)] });
        }
    }
    for (index, step) in plan.steps.iter().enumerate() {
        let refuses = Fault::Fails { took: false, owner: Owner::Ours };
        for undo in plan.steps.iter().take(index + 1).flat_map(|s| &s.undo) {
            for fault in of_step(undo) {
                scripts.push(Script {
                    faults: vec![(step.name.clone(), refuses.clone()), (undo.name.clone(), fault)],
                });
            }
        }
    }
    scripts
}

/// The faults of one run, by step; of several for one step, each befalls one attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// The faults.
    pub faults: Vec<(String, Fault)>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, fault) in &self.faults {
            write!(f, "[{step}: {fault}]")?;
        }
        Ok(())
    }
}
