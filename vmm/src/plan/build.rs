//! What every action's plan is built from.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{Envelope, TmCommand, encode, encode_lines, reduced_vm};
use causeway_core::names::{DeployId, DiskPath, HostName};
use causeway_core::plan::{Answer, Arg, Input, Lane, Place, Plan, Slot, Step, Work};
use causeway_core::protocol::delegates;

use super::{Settings, Transfer};

/// The names of the inputs; each is written out once, and only when a step reads it.
pub(super) mod input {
    /// The envelope as the shared ssh stream of the stock driver gives it: with a line feed.
    pub const ENVELOPE: &str = "envelope";
    /// The envelope as the stock driver's own ssh calls give it: without.
    pub const ENVELOPE_BARE: &str = "envelope-bare";
    /// The envelope in base64, for steps on the front-end (contract VMM 2.3 step 3).
    pub const ENVELOPE_LOCAL: &str = "envelope-base64";
    /// The deployment file, with a line feed.
    pub const DOMAIN: &str = "domain";
    /// The deployment file in base64.
    pub const DOMAIN_LOCAL: &str = "domain-base64";
    /// The VM element.
    pub const VM: &str = "vm.xml";
    /// The DATASTORE element.
    pub const DATASTORE: &str = "ds.xml";
    /// The VM element in base64: pre-, post- and failmigrate.
    pub const VM_BASE64: &str = "vm-base64";
    /// The VM element without a line feed: the backup verbs.
    pub const VM_BARE: &str = "vm-bare";
    /// The VM element in base64 lines of 60, and an empty line: update_nic.
    pub const VM_LINES: &str = "vm-lines";
    /// The reduced document in base64: the other network verbs.
    pub const NETWORK: &str = "network";
    /// DATASTORE and VM in one element: the backup driver.
    pub const BACKUP: &str = "backup";
}

/// When connections are told of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Round {
    /// Before the guest goes: what it has for long is known where it comes to before it is there.
    Before,
    /// After it has gone: what has begun meanwhile, and what has come of the rest.
    After,
}

impl Round {
    fn suffix(self) -> &'static str {
        match self {
            Round::Before => "",
            Round::After => "#2",
        }
    }
}

pub(super) struct Builder<'a> {
    pub action: &'a str,
    pub envelope: &'a Envelope,
    pub settings: &'a Settings,
    transfer: Transfer<'a>,
    deployment: RefCell<Option<Vec<u8>>>,
    steps: Vec<Step>,
}

impl<'a> Builder<'a> {
    pub fn new(
        action: &'a str,
        envelope: &'a Envelope,
        settings: &'a Settings,
        transfer: Transfer<'a>,
    ) -> Self {
        Builder { action, envelope, settings, transfer, deployment: RefCell::default(), steps: Vec::new() }
    }

    pub fn source(&self) -> &'a HostName {
        &self.envelope.host
    }

    pub fn on_source(&self) -> Place {
        Place::Host(self.envelope.host.clone())
    }

    /// What the action cannot do without.
    pub fn need<T>(&self, value: Option<T>, attribute: &str) -> Result<T, Failure> {
        value.ok_or_else(|| {
            Failure::new(Kind::Input, format!("{} needs {attribute}, and the request has none", self.action))
        })
    }

    pub fn deploy_id(&self) -> Result<&'a DeployId, Failure> {
        self.need(self.envelope.deploy_id.as_ref(), "DEPLOY_ID")
    }

    pub fn set_deployment(&self, bytes: &[u8]) {
        *self.deployment.borrow_mut() = Some(bytes.to_vec());
    }

    pub fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub fn steps(&mut self, steps: Vec<Step>) {
        self.steps.extend(steps);
    }

    /// A VMM step on `place`: its own arguments, then the VM's id and the host (contract VMM 2.3 step 2).
    pub fn vmm(&self, verb: &str, place: Place, argv: Vec<Arg>) -> Result<Step, Failure> {
        self.vmm_with(verb, place, argv, true, input::ENVELOPE)
    }

    /// Like [`vmm`](Builder::vmm), with the say over tail and input.
    pub fn vmm_with(
        &self,
        verb: &str,
        place: Place,
        mut argv: Vec<Arg>,
        tail: bool,
        input: &str,
    ) -> Result<Step, Failure> {
        // The engine names its steps without underscores where oned does: `snapshotcreate` is the script
        // `snapshot_create`, and `-l` is matched against the step's name (contract VMM 1.2).
        let step_name = match verb {
            "snapshot_create" | "snapshot_revert" | "snapshot_delete" => verb.replace('_', ""),
            _ => verb.to_owned(),
        };
        let host = place.host().unwrap_or(&self.envelope.host).clone();
        if tail {
            argv.push(self.envelope.vm.id.to_string().into());
            argv.push(host.to_string().into());
        }
        let local = self.settings.local.get(&step_name);
        let (place, script, input) = match local {
            Some(script) => (Place::FrontEnd, script.as_str(), local_form(input)),
            None => (self.delegated(place), verb, input),
        };
        let slot = self.slot("vmm", &self.settings.hypervisor, script)?;
        let work = Work::Slot { slot, argv, input: Some(input.to_owned()) };
        let deadline = self.settings.deadlines.step.unwrap_or(self.settings.deadlines.short);
        Ok(Step::new(verb, place, work, deadline))
    }

    /// A step of our own verbs (see [`crate::host`]): nobody else's script stands in for it, and it reads nothing.
    pub fn own(&self, verb: &str, host: &HostName, directory: &DiskPath) -> Result<Step, Failure> {
        let words = [self.deploy_id()?.to_string(), directory.to_string(), self.envelope.vm.id.to_string()];
        let argv = words.into_iter().chain([host.to_string()]).map(Arg::from).collect();
        let work = Work::Slot { slot: self.slot("vmm", &self.settings.hypervisor, verb)?, argv, input: None };
        let deadline = self.settings.deadlines.step.unwrap_or(self.settings.deadlines.short);
        Ok(Step::new(verb, Place::Host(host.clone()), work, deadline))
    }

    /// Where a step on a host runs: over a session of its own with the agent for the actions that `-d` names. For a
    /// migration that is known already.
    fn delegated(&self, place: Place) -> Place {
        let listed = self.settings.delegate.iter().any(|name| delegates(name, self.action));
        match place {
            Place::Host(host) if listed && self.action != "MIGRATE" => Place::Delegated(host),
            other => other,
        }
    }

    /// One step per network driver of the VM, in document order (contract VMM 2.3 step 4).
    pub fn vnm(
        &self,
        verb: &str,
        host: &HostName,
        argv: Vec<Arg>,
        input: &str,
    ) -> Result<Vec<Step>, Failure> {
        let mut steps = Vec::new();
        for driver in self.envelope.vm.vn_mads() {
            let local = self.settings.execrc.is_local(driver.as_str(), verb);
            let local = local || self.settings.local.contains_key(verb);
            let place = if local { Place::FrontEnd } else { Place::Host(host.clone()) };
            let slot = self.slot("vnm", driver.as_str(), verb)?;
            let work = Work::Slot { slot, argv: argv.clone(), input: Some(input.to_owned()) };
            steps.push(Step::new(format!("{verb}:{driver}"), place, work, self.settings.deadlines.short));
        }
        Ok(steps)
    }

    /// `pre` on `host`, each driver's part undone by its own `clean`.
    pub fn network_pre(&self, host: &HostName) -> Result<Vec<Step>, Failure> {
        let pre = self.vnm("pre", host, Vec::new(), input::NETWORK)?;
        let clean = self.vnm("clean", host, vec![host.to_string().into()], input::NETWORK)?;
        Ok(pre.into_iter().zip(clean).map(|(pre, clean)| pre.undone_by(vec![clean])).collect())
    }

    /// `clean` on `host`.
    pub fn network_clean(&self, host: &HostName) -> Result<Vec<Step>, Failure> {
        self.vnm("clean", host, vec![host.to_string().into()], input::NETWORK)
    }

    /// `post` on `host`; `named` is the host that the contract has as second argument.
    pub fn network_post(&self, host: &HostName, id: Arg, named: &HostName) -> Result<Vec<Step>, Failure> {
        self.vnm("post", host, vec![id, named.to_string().into()], input::NETWORK)
    }

    /// What the guest has under way goes with it: `source` tells, and `destination` lets it go on. One step for each network driver of
    /// ours; a move without them is a move all the same.
    pub fn connections(
        &self,
        source: &HostName,
        destination: &HostName,
        round: Round,
    ) -> Result<(Vec<Step>, Vec<Step>), Failure> {
        let (mut telling, mut admitting) = (Vec::new(), Vec::new());
        for driver in self.envelope.vm.vn_mads().iter().filter(|driver| driver.is_ours()) {
            let step = |verb: &str, host: &HostName, argv| -> Result<Step, Failure> {
                let slot = self.slot("vnm", driver.as_str(), verb)?;
                let work = Work::Slot { slot, argv, input: Some(input::NETWORK.to_owned()) };
                let name = format!("{verb}:{driver}{}", round.suffix());
                Ok(Step::new(name, Place::Host(host.clone()), work, self.settings.deadlines.short).ignored())
            };
            let tell = step("connections", source, Vec::new())?;
            admitting.push(step("admit", destination, vec![Arg::Output(tell.name.clone())])?);
            telling.push(tell);
        }
        Ok((telling, admitting))
    }

    /// The steps of one transfer manager command.
    pub fn transfer(&self, command: &TmCommand, input: Option<&str>) -> Result<Vec<Step>, Failure> {
        (self.transfer)(command, input)
    }

    /// The steps of the request's commands with the verb changed: `PREMIGRATE` out of `MIGRATE`.
    pub fn transfer_as(&self, prefix: &str, input: Option<&str>) -> Result<Vec<Step>, Failure> {
        let mut steps = Vec::new();
        for command in &self.envelope.tm_command {
            let verb = format!("{prefix}{}", command.action());
            let command = command.with_action(&verb).map_err(|e| Failure::new(Kind::Input, e))?;
            steps.extend(self.transfer(&command, input)?);
        }
        Ok(steps)
    }

    /// The steps of all the request's commands.
    pub fn transfers(&self, input: Option<&str>) -> Result<Vec<Step>, Failure> {
        self.transfer_as("", input)
    }

    pub fn slot(&self, family: &str, driver: &str, verb: &str) -> Result<Slot, Failure> {
        Slot::new(family, driver, verb).map_err(|e| Failure::new(Kind::Input, e))
    }

    /// The finished plan: names made unique, inputs written out, the long steps given their time.
    pub fn finish(mut self, answer: Answer) -> Plan {
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for step in &mut self.steps {
            let times = seen.entry(step.name.clone()).or_default();
            *times += 1;
            if *times > 1 {
                step.name = format!("{}#{times}", step.name);
            }
            // `-w` is the word on steps of the hypervisor's scripts, and on no others (contract VMM 1.2).
            let said = self.settings.deadlines.step.is_some() && is_of(step, "vmm");
            if step.lane == Lane::Long && !said {
                step.deadline = step.deadline.max(self.settings.deadlines.long);
            }
            step.once = !may_be_repeated(step);
            if reads(step, input::ENVELOPE_BARE) {
                *step = step.clone().tried_again(self.settings.retries);
            }
        }
        let undo = |s: &Step| s.undo.clone();
        let all: Vec<Step> =
            self.steps.iter().flat_map(|s| std::iter::once(s.clone()).chain(undo(s))).collect();
        let inputs = all
            .iter()
            .flat_map(causeway_core::plan::inputs_of)
            .filter_map(|name| Some((name.to_owned(), self.input(name)?)))
            .collect();
        Plan {
            action: self.action.to_owned(),
            vm: self.envelope.vm.id,
            deploy_id: self.envelope.deploy_id.clone(),
            steps: self.steps,
            inputs,
            answer,
            first_word: super::first_word(self.action, self.envelope),
            recall: None,
        }
    }

    /// The bytes of a named input; none for a name that the transfer manager brought itself.
    fn input(&self, name: &str) -> Option<Input> {
        let envelope = || self.envelope.element().render();
        let domain = || self.deployment.borrow().clone().unwrap_or_default();
        Some(match name {
            input::ENVELOPE => Input::new(envelope() + "\n"),
            input::ENVELOPE_BARE => Input::new(envelope()),
            input::ENVELOPE_LOCAL => Input::new(encode(envelope().as_bytes())),
            input::DOMAIN => Input::new(with_line_feed(domain())),
            input::DOMAIN_LOCAL => Input::new(encode(&domain())),
            input::VM => Input::new(self.envelope.vm_xml() + "\n"),
            input::VM_BARE => Input::new(self.envelope.vm_xml()),
            input::VM_BASE64 => Input::new(encode(self.envelope.vm_xml().as_bytes())),
            input::VM_LINES => Input::new(encode_lines(self.envelope.vm_xml().as_bytes()) + "\n"),
            input::DATASTORE => Input::new(self.envelope.datastore_xml().unwrap_or_default() + "\n"),
            input::NETWORK => Input::new(encode(&reduced_vm(self.envelope)) + "\n"),
            input::BACKUP => {
                let datastore = self.envelope.datastore_xml().unwrap_or_default();
                let vm = self.envelope.vm_xml();
                Input::new(format!(
                    "<DS_DRIVER_ACTION_DATA>\n  {datastore}\n  {vm}\n</DS_DRIVER_ACTION_DATA>\n"
                ))
            }
            _ => return None,
        })
    }

    /// The longest time of a step that waits for a guest.
    pub fn guest_time(&self, usual: Duration) -> Duration {
        self.settings.deadlines.step.unwrap_or(usual)
    }
}

/// Whether a step may be done twice, if nobody heard how it ended. A reboot, a snapshot, a backup, a command in the guest
/// may not; what makes something be there, or be gone, may, and where the guest is can be asked.
fn may_be_repeated(step: &Step) -> bool {
    let Work::Slot { slot, .. } = &step.work else { return true };
    let harmless = match slot.family() {
        "vnm" => matches!(slot.verb(), "pre" | "post" | "clean" | "connections" | "admit"),
        "tm" => matches!(slot.verb(), "context" | "delete" | "premigrate" | "postmigrate" | "failmigrate"),
        "vmm" => matches!(slot.verb(), "depart" | "stay" | "arrive"),
        _ => false,
    };
    harmless || step.goal.is_some()
}

fn is_of(step: &Step, family: &str) -> bool {
    matches!(&step.work, Work::Slot { slot, .. } if slot.family() == family)
}

/// Whether a step reads that input. The bare envelope is what the stock driver's own ssh calls give, which alone are
/// tried again (contract VMM 1.2, `-r`).
fn reads(step: &Step, name: &str) -> bool {
    causeway_core::plan::inputs_of(step).contains(&name)
}

fn local_form(input: &str) -> &str {
    match input {
        input::ENVELOPE | input::ENVELOPE_BARE => input::ENVELOPE_LOCAL,
        input::DOMAIN => input::DOMAIN_LOCAL,
        other => other,
    }
}

/// The stock driver's here-document ends every text with one line feed more than it has.
fn with_line_feed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.push(b'\n');
    bytes
}
