//! `premigrate`, `postmigrate`, `failmigrate`: what a move leaves to do where the disks are shared.

use causeway_core::plan::Slot;

use super::{Transfer, chain, one, step};
use crate::error::TmError;
use crate::facts::{Facts, VmNeed};
use crate::host::Call;
use crate::request::{Migration, Verb};
use crate::settings::TmSettings;

/// What must be known of the VM.
pub(super) fn need(migration: &Migration) -> Option<VmNeed> {
    let vm = migration.dir.vm();
    match migration.verb {
        Verb::Postmigrate => Some(VmNeed::History(vm)),
        _ => chain::passed_on(migration).then_some(VmNeed::Document(vm)),
    }
}

pub(super) fn migrate(
    slot: &Slot,
    migration: &Migration,
    argv: &[String],
    stdin: &[u8],
    facts: &Facts,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    let call = match migration.verb {
        Verb::Postmigrate => leave(slot, migration, facts)?,
        Verb::Failmigrate => Call::Nothing { reason: "nothing was prepared on the destination".to_owned() },
        _ => Call::Nothing { reason: "both hosts see the VM's files where they are".to_owned() },
    };
    let name = format!("{}:{}", slot.verb(), slot.driver());
    let mut transfer = one(step(name, migration.from.clone(), &call, settings, false)?);
    if chain::passed_on(migration) {
        chain::pass_on(&mut transfer, slot, argv, stdin, facts.vm(migration.dir.vm())?, settings)?;
    }
    Ok(transfer)
}

/// What is left to do on the source once a VM has moved: its old directory goes, if it has a new one.
fn leave(slot: &Slot, migration: &Migration, facts: &Facts) -> Result<Call, TmError> {
    let vm = migration.dir.vm();
    // Without the record before the last, the stock script removes a directory of the datastores' root (W4).
    let [.., before, now] = facts.vm(vm)?.datastores[..] else {
        let what = "the history record before the last".to_owned();
        return Err(TmError::Missing { what, object: format!("VM {vm}") });
    };
    if now != migration.dir.datastore().id() {
        let path = migration.dir.to_string();
        return Err(TmError::OtherDatastore { slot: slot.to_string(), path, datastore: now });
    }
    if before == now {
        return Ok(Call::Nothing { reason: format!("the VM's files stay in datastore {before}") });
    }
    Ok(Call::DeleteDir { dir: migration.dir.in_datastore(before), keep: Some(migration.dir.clone()) })
}
