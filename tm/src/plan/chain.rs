//! Passing a migration on to the other transfer managers whose disks the VM has (contract TM 2.1, *Chaining*).
//!
//! oned calls the system datastore's transfer manager only. That one calls the same slot of every other one, once, with
//! the same arguments, its own name after them and the VM on standard input, and ignores how they end.

use std::collections::BTreeSet;

use causeway_core::document::DriverName;
use causeway_core::plan::{Arg, Input, Place, Slot, Step, Work};

use crate::error::TmError;
use crate::facts::VmFacts;
use crate::request::{Migration, Verb};
use crate::settings::TmSettings;

use super::{Source, Transfer};

/// The name of the input that holds the VM.
const VM_INPUT: &str = "tm:vm";

/// Whether a call is to be passed on at all: not one that was itself passed on, and not one that prepares a host for
/// a VM that is there already, or takes that back.
pub(crate) fn passed_on(migration: &Migration) -> bool {
    let stays = migration.verb != Verb::Postmigrate && migration.from == migration.to;
    !migration.chained && !stays
}

/// Adds the calls of the other transfer managers.
pub(crate) fn pass_on(
    transfer: &mut Transfer,
    slot: &Slot,
    argv: &[String],
    stdin: &[u8],
    vm: &VmFacts,
    settings: &TmSettings,
) -> Result<(), TmError> {
    let mut seen = BTreeSet::from([slot.driver()]);
    for driver in vm.disks.iter().filter_map(|disk| disk.tm_mad.as_deref()) {
        if !seen.insert(driver) {
            continue;
        }
        let wrong = |source| TmError::Argument { slot: slot.to_string(), position: 0, source };
        driver.parse::<DriverName>().map_err(wrong)?;
        let other = Slot::new("tm", driver, slot.verb()).map_err(wrong)?;
        let mut words: Vec<Arg> = argv.iter().map(|word| Arg::from(word.as_str())).collect();
        words.push(Arg::from(slot.driver()));
        let name = format!("{}:{driver}", slot.verb());
        let work = Work::Slot { slot: other, argv: words, input: Some(VM_INPUT.to_owned()) };
        // Others copy whole disks here.
        let step = Step::new(name, Place::FrontEnd, work, settings.copy_deadline).long();
        // A guest must not move to where a disk of it is not prepared (W53); once it has moved, or has not, there is
        // nothing left that could fail.
        transfer.steps.push(if slot.verb() == "premigrate" { step } else { step.ignored() });
        transfer.inputs.entry(VM_INPUT.to_owned()).or_insert_with(|| Source::Bytes(Input::new(stdin)));
    }
    Ok(())
}
