//! From the lines of a script to steps.

use std::collections::BTreeMap;

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::VmId;
use causeway_core::plan::{Input, InputName, Slot, Step};
use causeway_tm::Transfer;
use causeway_tm::facts::{Needs, gather};
use causeway_tm::plan::{built, needs, reading, steps};
use causeway_tm::script::Command;

use super::Tm;
use crate::driver::expand::{Doer, Known, at_home, doer, foreign, not_built, read};
use crate::driver::serve::Driver;

/// Verbs whose work does not grow with the image. Everything else of somebody else's may copy one, and is long: a
/// delete never waits for it.
const SHORT: [&str; 8] =
    ["context", "delete", "failmigrate", "ln", "mkswap", "postmigrate", "premigrate", "snap_create_live"];

/// A line, and who does it.
struct Line<'a> {
    command: &'a Command,
    doer: Doer,
    needs: Needs,
}

/// The steps of all lines, in order, and what they read. A step is named after its line: `2:delete:disk.1`.
///
/// # Errors
/// The first line that can't be run, with its number. Nothing has been changed.
pub async fn expand(
    driver: &Driver<Tm>,
    commands: &[Command],
) -> Result<(Vec<Step>, BTreeMap<InputName, Input>), Failure> {
    let at = |command: &Command, failure: Failure| {
        let action = command.slot.verb().to_ascii_uppercase();
        failure.context(format!("line {}, {action} {}", command.line, command.slot.driver()))
    };
    let mut lines = Vec::new();
    for command in commands {
        let line = look(driver, command).map_err(|failure| at(command, failure))?;
        lines.push(line);
    }
    // One question for each object, whatever the number of lines about it.
    let mut known = Known::default();
    for line in &lines {
        known.ask(&driver.oned, &line.needs).await;
    }
    let (mut all, mut sources) = (Vec::new(), BTreeMap::new());
    for Line { command, doer, needs } in lines {
        let slot = match doer {
            Doer::Ours(slot) => slot,
            Doer::Foreign(slot) => {
                all.push(script_step(driver, command, slot));
                continue;
            }
            Doer::Nobody => return Err(at(command, not_built(&command.slot))),
        };
        let planned = plan(driver, command, &slot, &needs, &known).await;
        let transfer = planned.map_err(|failure| at(command, failure))?;
        let transfer = transfer.prefixed(&format!("{}:", command.line));
        all.extend(at_home(transfer.steps));
        sources.extend(transfer.inputs);
    }
    Ok((all, driver.front.sources(sources).await?))
}

/// The steps of one line of ours.
async fn plan(
    driver: &Driver<Tm>,
    command: &Command,
    slot: &Slot,
    needs: &Needs,
    known: &Known,
) -> Result<Transfer, Failure> {
    let settings = driver.config.transfer_settings();
    let mut facts = gather(needs, known)?;
    if let Some(mut reading) = reading(slot, &command.argv, &facts, &settings)? {
        let vm = facts.vm.as_ref().map_or(VmId(0), |vm| vm.id);
        let inputs = driver.front.sources(std::mem::take(&mut reading.inputs)).await?;
        let said = read(&driver.places, driver.new_id(), vm, reading, inputs).await;
        facts.take_reading(&said.map_err(|failure| facts.unread(failure))?)?;
    }
    Ok(steps(slot, &command.argv, b"", &facts, &settings)?)
}

fn look<'a>(driver: &Driver<Tm>, command: &'a Command) -> Result<Line<'a>, Failure> {
    if !is_available(driver, &command.slot) {
        // The stock driver's words (contract TM 1.3).
        let text = format!("Transfer Driver '{}' not available", command.slot.driver());
        return Err(Failure::new(Kind::NotBuilt, text));
    }
    let doer = doer(&driver.config.remotes, &command.slot);
    let needs = match &doer {
        Doer::Ours(slot) => needs(slot, &command.argv)?,
        Doer::Foreign(_) => Needs::default(),
        Doer::Nobody => return Err(not_built(&command.slot)),
    };
    Ok(Line { command, doer, needs })
}

/// Whether `-d` has the transfer manager; without `-d`, whether it has a directory, or is ours.
fn is_available(driver: &Driver<Tm>, slot: &Slot) -> bool {
    match &driver.config.options.tm_types {
        Some(names) => names.iter().any(|name| name.as_str() == slot.driver()),
        None => built(slot) || driver.config.remotes.join("tm").join(slot.driver()).is_dir(),
    }
}

fn script_step(driver: &Driver<Tm>, command: &Command, slot: Slot) -> Step {
    let verb = command.slot.verb();
    let name = format!("{}:{verb}", command.line);
    let is_short = SHORT.contains(&verb.split('.').next().unwrap_or(verb));
    // Empty standard input: what a script needs beyond its arguments it asks oned for.
    let step = foreign(name, slot, &command.argv, None, driver.config.foreign_transfer());
    if is_short { step } else { step.long() }
}
