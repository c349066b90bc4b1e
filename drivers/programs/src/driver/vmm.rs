//! The virtual machine manager's driver process: an EXECUTABLE swap in oned's `kvm` and `qemu` entries.

use std::sync::Arc;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::tree::{Element, Node};
use causeway_core::document::{Envelope, VmDocument, encode};
use causeway_core::engine::Log;
use causeway_core::journal::Journal;
use causeway_core::names::{HostName, VmId};
use causeway_core::plan::{Lane, Plan, Recall};
use causeway_core::protocol::{Action, DriverOptions, Request, Severity};
use causeway_vmm::plan::Drive;

use super::config::Config;
use super::serve::{self, Driver, Family};
use super::transfer;
use super::turns::Room;

/// The virtual machine manager.
pub enum Vmm {}

impl Family for Vmm {
    type Options = DriverOptions;

    const NAME: &'static str = "vmm";

    // What has begun to happen to a guest is seen to its end first.
    const SUPERSEDES: bool = false;

    // It is about the BACKUP that has the VM's turn: to wait for that would be to wait for its end (contract VMM 1.6).
    fn waits_its_turn(action: &Action) -> bool {
        *action != Action::BackupCancel
    }

    fn ends(action: &Action) -> Option<Action> {
        (*action == Action::BackupCancel).then_some(Action::Backup)
    }

    async fn plan(
        driver: &Driver<Vmm>,
        request: &Request,
        first_word: &mut Option<u32>,
    ) -> Result<Plan, Failure> {
        driver.plan_of(request, first_word).await
    }

    fn room(plan: &Plan) -> Room {
        plan.steps.iter().find_map(|s| s.place.host()).map_or(Room::Open, |host| Room::Host(host.clone()))
    }

    fn room_at_a_glance(request: &Request) -> Option<(Room, Lane)> {
        let lane = causeway_vmm::plan::lane(request.action.as_str());
        Some((Room::Host(host_at_a_glance(request)?), lane))
    }

    fn waits(action: &str, vm: &VmDocument, recall: &Recall) -> bool {
        waits(action, vm, recall)
    }

    /// The VM and the datastore are not kept, for they hold secrets.
    async fn again(
        driver: &Driver<Vmm>,
        action: &str,
        recall: &Recall,
        (vm, document): (VmId, &str),
    ) -> Result<Request, Failure> {
        let datastore = match recall.datastore {
            Some(id) => driver.oned.datastore(id).await?,
            None => String::new(),
        };
        let action = action.parse().map_err(|e| Failure::new(Kind::Bug, e))?;
        let document = format!("{}{document}{datastore}</VMM_DRIVER_ACTION_DATA>", recall.request);
        Ok(Request::new(action, vm, encode(document.as_bytes())))
    }
}

/// The host of a request, from its first bytes: oned writes it first (contract VMM 2.1). Only a hint for the queue; the
/// plan is made from the document.
fn host_at_a_glance(request: &Request) -> Option<HostName> {
    // Whole groups of four characters, and enough of them for the longest host name.
    let head = request.payload().get(..512)?;
    let document = causeway_core::document::decode(head).ok()?;
    let text = std::str::from_utf8(&document).ok()?;
    let (host, _) = text.strip_prefix("<VMM_DRIVER_ACTION_DATA><HOST>")?.split_once("</HOST>")?;
    host.parse().ok()
}

/// Serves oned until it says FINALIZE or closes the pipe.
///
/// # Errors
/// As [`serve::serve`].
pub async fn serve(config: Config) -> anyhow::Result<()> {
    serve::serve::<Vmm>(config).await
}

/// The plan of one request, for nobody to run. Hosts are asked only for what they are able to.
///
/// # Errors
/// As the driver's answer would be.
pub async fn dry_run(config: Config, request: &Request) -> anyhow::Result<Plan> {
    let driver = Driver::<Vmm>::new(config, Journal::none())?;
    Ok(driver.plan_of(request, &mut None).await?)
}

impl Driver<Vmm> {
    /// Reads the request, and what the front-end's files add to it.
    async fn plan_of(&self, request: &Request, first_word: &mut Option<u32>) -> Result<Plan, Failure> {
        let action = request.action.as_str();
        let input = |e: &dyn std::error::Error| Failure::new(Kind::Input, e);
        let document = request.document().map_err(|e| input(&e).context("payload"))?;
        *first_word = causeway_vmm::plan::first_word_in(action, &document);
        let envelope = if causeway_vmm::plan::removes(action) {
            let (envelope, faults) = Envelope::parse_tolerant(&document).map_err(|e| input(&e))?;
            for fault in faults {
                self.out.log(
                    request.vm,
                    Severity::Warning,
                    &format!("{fault} (ignored: {action} takes the VM away)"),
                );
            }
            envelope
        } else {
            Envelope::parse(&document).map_err(|e| input(&e))?
        };
        if envelope.vm.id != request.vm {
            let text =
                format!("the request is for VM {}, its document for VM {}", request.vm, envelope.vm.id);
            return Err(Failure::new(Kind::Input, text));
        }
        let deployment = match (action, &envelope.local_deployment_file) {
            ("DEPLOY", Some(path)) => Some(
                self.front
                    .read(path)
                    .await
                    .map_err(|f| f.context(format!("LOCAL_DEPLOYMENT_FILE {path}")))?,
            ),
            _ => None,
        };
        let mut settings = self.config.plan_settings();
        if action == "MIGRATE" {
            settings.drive = self.drive(&envelope).await;
        }
        let transfer = transfer::Transfers::prepare(self, &envelope).await?;
        let expand = |command: &_, input: Option<&str>| transfer.steps(command, input);
        let mut plan =
            causeway_vmm::plan::plan(action, &envelope, deployment.as_deref(), &settings, &expand)?;
        plan.inputs.extend(transfer.inputs());
        plan.recall = Some(recall(&envelope));
        Ok(plan)
    }

    /// Who drives this migration: libvirtd where both hosts have certificates and the slot is ours; else a process with
    /// the agent, which also the stock script needs.
    async fn drive(&self, envelope: &Envelope) -> Drive {
        use causeway_core::settings::Transport;
        match self.config.transport {
            Transport::P2p => return Drive::Libvirtd,
            Transport::Ssh => return Drive::Agent,
            Transport::Auto => {}
        }
        if self.config.foreign_on_hosts("migrate") {
            return Drive::Agent;
        }
        let hosts = std::iter::once(&envelope.host).chain(&envelope.migr_host);
        for host in hosts {
            match self.places.hosts.session(host).await {
                Ok(session) if session.hello.tls => {}
                _ => return Drive::Agent,
            }
        }
        Drive::Libvirtd
    }
}

/// What is kept of a request for the process after this one: all but the VM and the datastore, which hold secrets.
fn recall(envelope: &Envelope) -> Recall {
    let mut bare = Element::new(envelope.element().name());
    let kept = envelope.element().elements().filter(|e| !matches!(e.name(), "VM" | "DATASTORE"));
    kept.for_each(|element| bare.push(Node::Element(Arc::clone(element))));
    // Open at its end: VM and datastore are put in there.
    let text = bare.render();
    Recall {
        request: text.strip_suffix("</VMM_DRIVER_ACTION_DATA>").unwrap_or(&text).to_owned(),
        datastore: envelope.datastore.as_ref().map(|d| d.id),
        sequence: envelope.vm.history.seq,
    }
}

/// Whether oned still waits for an answer to `action`: the VM is in a state that this action brings it out of, on the
/// same history record.
fn waits(action: &str, vm: &VmDocument, recall: &Recall) -> bool {
    // The group's update goes on to its next VM when this one has answered, whatever state it is in (contract VMM 1.4).
    if action == "UPDATESG" {
        return true;
    }
    let same = recall.sequence.is_none() || vm.history.seq == recall.sequence;
    let Some(state) = vm.lcm_state else { return false };
    let known: &[u32] = match action {
        // BOOT, BOOT_UNKNOWN, BOOT_POWEROFF, BOOT_SUSPENDED, BOOT_STOPPED, BOOT_UNDEPLOY, BOOT_MIGRATE
        "DEPLOY" | "RESTORE" => &[2, 19, 20, 21, 22, 32, 35],
        // MIGRATE
        "MIGRATE" => &[4],
        // SAVE_STOP, SAVE_SUSPEND, SAVE_MIGRATE
        "SAVE" => &[5, 6, 7],
        // SAVE_MIGRATE (a cold migration with poweroff), SHUTDOWN, SHUTDOWN_POWEROFF, SHUTDOWN_UNDEPLOY
        "SHUTDOWN" | "CANCEL" => &[7, 12, 18, 29],
        // CLEANUP_RESUBMIT, CLEANUP_DELETE
        "CLEANUP" => &[15, 23],
        // HOTPLUG, its snapshot, NIC, resize and save-as kin, DISK_SNAPSHOT*, DISK_RESIZE, BACKUP, BACKUP_POWEROFF
        _ => &[17, 24, 25, 26, 57, 58, 59, 62, 66, 69, 70],
    };
    same && known.contains(&state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oned_waits_in_the_states_that_an_action_ends_and_for_a_groups_update_in_any() {
        let vm = |state: u32| {
            let text = format!(
                "<VM><ID>7</ID><LCM_STATE>{state}</LCM_STATE><HISTORY_RECORDS><HISTORY><SEQ>3</SEQ></HISTORY>\
                 </HISTORY_RECORDS></VM>"
            );
            VmDocument::parse_tolerant(text.as_bytes()).unwrap().0
        };
        let recall = |sequence| Recall { request: String::new(), datastore: None, sequence: Some(sequence) };
        // RUNNING, MIGRATE, BACKUP, BACKUP_POWEROFF
        for (action, states) in [
            ("MIGRATE", &[4][..]),
            ("BACKUP", &[69, 70]),
            ("UPDATESG", &[3, 4, 69, 70]),
            ("REBOOT", &[69, 70]),
        ] {
            let waits_in = |state: &u32| waits(action, &vm(*state), &recall(3));
            let found: Vec<u32> = [3, 4, 69, 70].into_iter().filter(|state| waits_in(state)).collect();
            assert_eq!(found, states, "{action}");
        }
        assert!(!waits("MIGRATE", &vm(4), &recall(2)), "oned has begun another record");
    }
}
