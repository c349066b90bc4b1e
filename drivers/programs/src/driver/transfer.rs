//! The transfer manager's part of a plan of the virtual machine manager.

use std::collections::BTreeMap;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{Envelope, TmCommand, encode};
use causeway_core::plan::{Input, InputName, Slot, Step};
use causeway_tm::facts::{VmFacts, gather, lcm};
use causeway_tm::plan::{Source, Stdin, needs, reading, stdin_of};

use super::expand::{Doer, Known, at_home, doer, foreign, not_built, read};
use super::serve::Driver;
use super::vmm::Vmm;

/// The commands of one request, expanded.
pub struct Transfers<'a> {
    driver: &'a Driver<Vmm>,
    /// By the command's text: what it comes to.
    expanded: BTreeMap<String, Vec<Step>>,
    inputs: BTreeMap<InputName, Input>,
}

impl<'a> Transfers<'a> {
    /// Expands the request's commands that are ours, and reads what they need from the front-end's files.
    ///
    /// # Errors
    /// A command that is malformed, or a file that can't be read.
    pub async fn prepare(driver: &'a Driver<Vmm>, envelope: &Envelope) -> Result<Self, Failure> {
        let mut transfers = Transfers { driver, expanded: BTreeMap::new(), inputs: BTreeMap::new() };
        let mut sources = BTreeMap::new();
        for (index, command) in envelope.tm_command.iter().chain(&envelope.tm_rollback).enumerate() {
            for action in actions(command, envelope.vm.lcm_state) {
                let command = command.with_action(&action).map_err(|e| Failure::new(Kind::Input, e))?;
                if let Some(steps) = transfers.ours(&command, envelope, index, &mut sources).await? {
                    transfers.expanded.insert(command.to_string(), steps);
                }
            }
        }
        transfers.inputs = driver.front.sources(sources).await?;
        Ok(transfers)
    }

    /// What the expanded steps read.
    pub fn inputs(self) -> BTreeMap<InputName, Input> {
        self.inputs
    }

    /// The steps of one command.
    ///
    /// # Errors
    /// Nobody stands in its slot.
    pub fn steps(&self, command: &TmCommand, input: Option<&str>) -> Result<Vec<Step>, Failure> {
        if let Some(steps) = self.expanded.get(&command.to_string()) {
            return Ok(steps.clone());
        }
        let slot = slot_of(command)?;
        let Doer::Foreign(slot) = doer(&self.driver.config.remotes, &slot) else {
            return Err(not_built(&slot));
        };
        let name = format!("tm_{}", command.action().to_ascii_lowercase());
        let deadline = self.driver.config.foreign_transfer();
        Ok(vec![foreign(name, slot, &command.args, input.map(str::to_owned), deadline)])
    }

    /// Expands `command` if its slot is ours.
    async fn ours(
        &self,
        command: &TmCommand,
        envelope: &Envelope,
        index: usize,
        sources: &mut BTreeMap<InputName, Source>,
    ) -> Result<Option<Vec<Step>>, Failure> {
        let Doer::Ours(slot) = doer(&self.driver.config.remotes, &slot_of(command)?) else {
            return Ok(None);
        };
        let needs = needs(&slot, &command.args)?;
        let mut known = Known::default();
        if let Some(need) = needs.vm {
            known.take_vm(need.vm(), in_request(envelope, need.vm()));
        }
        known.ask(&self.driver.oned, &needs).await;
        let mut facts = gather(&needs, &known)?;
        let settings = self.driver.config.transfer_settings();
        if let Some(mut reading) = reading(&slot, &command.args, &facts, &settings)? {
            let inputs = self.driver.front.sources(std::mem::take(&mut reading.inputs)).await?;
            let id = self.driver.new_id();
            let said = read(&self.driver.places, id, envelope.vm.id, reading, inputs).await;
            facts.take_reading(&said.map_err(|failure| facts.unread(failure))?)?;
        }
        let stdin = match stdin_of(&slot) {
            Stdin::Plain => envelope.vm_xml().to_owned(),
            Stdin::Encoded | Stdin::Nothing => encode(envelope.vm_xml().as_bytes()),
        };
        let transfer = causeway_tm::plan::steps(&slot, &command.args, stdin.as_bytes(), &facts, &settings)?;
        let transfer = if index == 0 { transfer } else { transfer.prefixed(&format!("{index}:")) };
        sources.extend(transfer.inputs);
        Ok(Some(at_home(transfer.steps)))
    }
}

/// The commands that one of a request stands for: MIGRATE for three; BACKUP for two, which have other names while the
/// guest runs (contract VMM 2.4); a snapshot is one of a running guest here, for which oned has no word of its own
/// (contract TM 1.4); every other one for itself.
fn actions(command: &TmCommand, state: Option<u32>) -> Vec<String> {
    let action = command.action();
    let (prefixes, suffix): (&[&str], _) = match action {
        "MIGRATE" => (&["PRE", "POST", "FAIL"], ""),
        "BACKUP" => (&["PRE", "POST"], if state == Some(lcm::BACKUP) { "_LIVE" } else { "" }),
        "SNAP_CREATE" => (&[""], "_LIVE"),
        _ => (&[""], ""),
    };
    prefixes.iter().map(|prefix| format!("{prefix}{action}{suffix}")).collect()
}

fn slot_of(command: &TmCommand) -> Result<Slot, Failure> {
    Slot::new("tm", command.tm.as_str(), &command.file_name()).map_err(|e| Failure::new(Kind::Input, e))
}

/// What the request carries of a VM, so that oned need not be asked.
fn in_request(envelope: &Envelope, id: causeway_core::names::VmId) -> Result<VmFacts, Failure> {
    let mut facts = VmFacts::of(&envelope.vm)?;
    if facts.id != id {
        let text = format!("the command is for VM {id}, the request for VM {}", facts.id);
        return Err(Failure::new(Kind::Input, text));
    }
    // A request ends with the last history record, but its DATASTORE is that of the record before in a MIGRATE
    // (contract VMM 2.2): the two together are what `postmigrate` compares.
    let before = envelope.datastore.as_ref().map(|d| d.id);
    let now = envelope.vm.history.ds_id;
    facts.datastores = before.into_iter().chain(now).collect();
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_stands_for() {
        let at = |text: &str, state| actions(&TmCommand::parse(text, "TM_COMMAND").unwrap(), Some(state));
        let of = |text: &str| at(text, 3);
        assert_eq!(of("MIGRATE qcow2 h1 h2 /ds/0/7 7 0"), ["PREMIGRATE", "POSTMIGRATE", "FAILMIGRATE"]);
        assert_eq!(of("SNAP_CREATE.ssh qcow2 h1:/ds/0/7/disk.0 0 7 1"), ["SNAP_CREATE_LIVE"]);
        let backup = "BACKUP qcow2 h1:/ds/0/7 0 one-7 - 7 0";
        assert_eq!(at(backup, lcm::BACKUP), ["PREBACKUP_LIVE", "POSTBACKUP_LIVE"]);
        assert_eq!(of(backup), ["PREBACKUP", "POSTBACKUP"]);
        assert_eq!(of("CPDS qcow2 h1:/ds/0/7/disk.0 /ds/1/x -1 7 1"), ["CPDS"]);
    }
}
