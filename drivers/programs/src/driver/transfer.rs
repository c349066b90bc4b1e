//! The transfer manager's part of a plan of the virtual machine manager: ours becomes steps on the hosts, anybody
//! else's a script on the front-end.

use std::collections::BTreeMap;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{Envelope, TmCommand, encode};
use causeway_core::plan::{Input, InputName, Place, Slot, Step, Work};
use causeway_core::reach::slots::{Standing, standing_with_fallback};
use causeway_tm::facts::{Facts, Lookup, VmFacts, gather};
use causeway_tm::plan::{Source, needs};

use super::config::Config;
use super::front::Front;

/// The commands of one request, expanded.
pub struct Transfers<'a> {
    config: &'a Config,
    /// By the command's text: what it comes to.
    expanded: BTreeMap<String, Vec<Step>>,
    inputs: BTreeMap<InputName, Input>,
}

impl<'a> Transfers<'a> {
    /// Expands the request's commands that are ours, and reads what they need from the front-end's files.
    ///
    /// # Errors
    /// A command that is malformed, or a file that can't be read.
    pub async fn prepare(config: &'a Config, front: &Front, envelope: &Envelope) -> Result<Self, Failure> {
        let mut transfers = Transfers { config, expanded: BTreeMap::new(), inputs: BTreeMap::new() };
        let mut sources = BTreeMap::new();
        let verbs = ["", "PRE", "POST", "FAIL"];
        for (index, command) in envelope.tm_command.iter().chain(&envelope.tm_rollback).enumerate() {
            // MIGRATE stands for three commands; every other one for itself.
            let prefixes = if command.action() == "MIGRATE" { &verbs[1..] } else { &verbs[..1] };
            for prefix in prefixes {
                let command = command
                    .with_action(&format!("{prefix}{}", command.action()))
                    .map_err(|e| Failure::new(Kind::Input, e))?;
                if let Some(steps) = transfers.ours(&command, envelope, index, &mut sources)? {
                    transfers.expanded.insert(command.to_string(), steps);
                }
            }
        }
        transfers.inputs = front.sources(sources).await?;
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
        let (found, standing) = standing_with_fallback(&self.config.remotes, &slot);
        if !matches!(standing, Standing::Foreign(_)) {
            let text =
                format!("{slot} is not built in this version of causeway, and no other driver stands there");
            return Err(Failure::new(Kind::NotBuilt, text));
        }
        let argv = command.args.iter().map(|word| word.as_str().into()).collect();
        let work = Work::Slot { slot: found, argv, input: input.map(str::to_owned) };
        let name = format!("tm_{}", command.action().to_ascii_lowercase());
        Ok(vec![Step::new(name, Place::FrontEnd, work, self.config.deadlines().long)])
    }

    /// Expands `command` if its slot is ours.
    fn ours(
        &self,
        command: &TmCommand,
        envelope: &Envelope,
        index: usize,
        sources: &mut BTreeMap<InputName, Source>,
    ) -> Result<Option<Vec<Step>>, Failure> {
        let slot = slot_of(command)?;
        let (found, standing) = standing_with_fallback(&self.config.remotes, &slot);
        let slot = match standing {
            Standing::Foreign(_) => return Ok(None),
            Standing::Ours => found,
            Standing::Missing => slot,
        };
        if !causeway_tm::plan::built(&slot) {
            return Ok(None);
        }
        let failed = |e: causeway_tm::TmError| Failure::from_chain(e.kind(), &e);
        let needs = needs(&slot, &command.args).map_err(failed)?;
        let facts: Facts = gather(&needs, &InRequest(envelope)).map_err(failed)?;
        let stdin = encode(envelope.vm_xml().as_bytes());
        let settings = self.config.transfer_settings();
        let transfer = causeway_tm::plan::steps(&slot, &command.args, stdin.as_bytes(), &facts, &settings)
            .map_err(failed)?;
        let transfer = if index == 0 { transfer } else { transfer.prefixed(&format!("{index}:")) };
        sources.extend(transfer.inputs);
        Ok(Some(transfer.steps))
    }
}

fn slot_of(command: &TmCommand) -> Result<Slot, Failure> {
    Slot::new("tm", command.tm.as_str(), &command.file_name()).map_err(|e| Failure::new(Kind::Input, e))
}

/// The facts that a request carries, so that oned need not be asked.
struct InRequest<'a>(&'a Envelope);

impl Lookup for InRequest<'_> {
    fn vm(&self, id: causeway_core::names::VmId) -> Result<VmFacts, Failure> {
        let wrong = |e: causeway_tm::TmError| Failure::from_chain(e.kind(), &e);
        let mut facts = VmFacts::of(&self.0.vm).map_err(wrong)?;
        if facts.id != id {
            let text = format!("the command is for VM {id}, the request for VM {}", facts.id);
            return Err(Failure::new(Kind::Input, text));
        }
        // A request ends with the last history record, but its DATASTORE is that of the record before in a MIGRATE
        // (contract VMM 2.2): the two together are what `postmigrate` compares.
        let before = self.0.datastore.as_ref().map(|d| d.id);
        let now = self.0.vm.history.ds_id;
        facts.datastores = before.into_iter().chain(now).collect();
        Ok(facts)
    }

    fn datastore(&self, id: u32) -> Result<causeway_tm::facts::DatastoreFacts, Failure> {
        Err(Failure::new(
            Kind::HostState,
            format!("datastore {id} is not part of the request, and oned was not asked"),
        ))
    }
}
