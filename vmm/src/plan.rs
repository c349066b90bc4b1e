//! From a request to its plan: the step tables of contract VMM 2.4.
//!
//! The step orders, argv and inputs are the contract's, since any slot may hold somebody else's executable. What the
//! stock driver lacks is in the undo: a network prepared for a guest that never came is taken down again.

mod build;
mod migrate;
mod others;
mod power;

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{self, Envelope, TmCommand};
use causeway_core::plan::{Lane, Plan, Step};
use causeway_core::settings::VmmExecrc;

use build::Builder;

/// How this driver process was started and configured, as far as plans depend on it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory below `vmm/` (the positional word of the arguments): `kvm`.
    pub hypervisor: String,
    /// Steps that run on the front-end, by name, and the script that does each (`-l`).
    pub local: BTreeMap<String, String>,
    /// Actions whose ssh session forwards the agent (`-d`); `migrate` by default. Who drives a migration is said by
    /// `drive`.
    pub delegate: Vec<String>,
    /// How often a step that the stock driver runs by an ssh call of its own is tried again (`-r`).
    pub retries: u16,
    /// `vmm_execrc`: which network actions run on the front-end, which disks may be snapshot live.
    pub execrc: VmmExecrc,
    /// How long steps may take.
    pub deadlines: Deadlines,
    /// Who drives a live migration.
    pub drive: Drive,
}

/// Longest times of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// A step that only does host work.
    pub short: Duration,
    /// A step that waits for a guest or a copy.
    pub long: Duration,
    /// A live migration.
    pub migrate: Duration,
    /// `-w`: each VMM step, whatever it is.
    pub step: Option<Duration>,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            short: Duration::from_secs(120),
            long: Duration::from_secs(3600),
            migrate: Duration::from_secs(4 * 3600),
            step: None,
        }
    }
}

/// Who drives a live migration (DESIGN section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// libvirtd on the source, over TLS: it goes on without us.
    Libvirtd,
    /// A process of ours on the source, with a forwarded agent.
    Agent,
}

/// Turns a transfer manager command into steps: done by the program, which knows the `tm` family.
pub type Transfer<'a> = &'a dyn Fn(&TmCommand, Option<&str>) -> Result<Vec<Step>, Failure>;

/// The plan of `action`.
///
/// `deployment` is the content of the local deployment file, which DEPLOY alone needs.
///
/// # Errors
/// [`Kind::Input`] for a request that lacks what the action needs, naming it; [`Kind::NotBuilt`] for an unknown action.
pub fn plan(
    action: &str,
    envelope: &Envelope,
    deployment: Option<&[u8]>,
    settings: &Settings,
    transfer: Transfer<'_>,
) -> Result<Plan, Failure> {
    let build = Builder::new(action, envelope, settings, transfer);
    match action {
        "DEPLOY" => power::deploy(build, deployment),
        "SHUTDOWN" => power::stop(build, "shutdown"),
        "CANCEL" => power::stop(build, "cancel"),
        "CLEANUP" => power::cleanup(build),
        "MIGRATE" => migrate::migrate(build),
        "SAVE" => others::save(build),
        "RESTORE" => others::restore(build),
        "REBOOT" => others::single(build, "reboot"),
        "RESET" => others::single(build, "reset"),
        "ATTACHDISK" => others::attach_disk(build),
        "DETACHDISK" => others::detach_disk(build),
        "ATTACHNIC" => others::attach_nic(build),
        "DETACHNIC" => others::detach_nic(build),
        "UPDATECONF" => others::update_conf(build),
        "SNAPSHOTCREATE" => others::snapshot_create(build),
        "SNAPSHOTREVERT" => others::snapshot_revert(build),
        "SNAPSHOTDELETE" => others::snapshot_delete(build),
        "DISKSNAPSHOTCREATE" => others::disk_snapshot_create(build),
        "RESIZEDISK" => others::resize_disk(build),
        "RESIZE" => others::resize(build),
        "UPDATESG" => others::update_sg(build),
        "UPDATENIC" => others::update_nic(build),
        "BACKUP" => others::backup(build),
        "BACKUPCANCEL" => others::backup_cancel(build),
        "EXEC" => others::exec(build),
        "EXEC_CANCEL" => others::exec_cancel(build),
        other => Err(Failure::new(Kind::NotBuilt, format!("no such action: {other}"))),
    }
}

/// The lane of `action`, as far as its word tells: those that wait for a guest or copy memory are long.
pub fn lane(action: &str) -> Lane {
    match action {
        "MIGRATE" | "SHUTDOWN" | "SAVE" | "RESTORE" | "ATTACHDISK" | "SNAPSHOTCREATE" | "SNAPSHOTREVERT"
        | "SNAPSHOTDELETE" | "DISKSNAPSHOTCREATE" | "BACKUP" => Lane::Long,
        _ => Lane::Short,
    }
}

/// Whether `action` takes a VM away, so that a malformed attribute of its template must not stand in its way.
pub fn removes(action: &str) -> bool {
    matches!(action, "SHUTDOWN" | "CANCEL" | "CLEANUP")
}

/// The first word that a reply to `action` must carry even when its document is refused for what else stands in it
/// (contract VMM 1.4): without it oned drops the reply, and the update of all other VMs stops here.
pub fn first_word_in(action: &str, document: &[u8]) -> Option<u32> {
    let element = match action {
        "UPDATESG" => "SECURITY_GROUP_ID",
        "UPDATENIC" => "VIRTUAL_NETWORK_ID",
        _ => return None,
    };
    document::parse(document).ok()?.value(element)?.trim().parse().ok()
}

/// The first word that a reply to `action` must carry even when no plan can be made (contract VMM 1.4).
pub fn first_word(action: &str, envelope: &Envelope) -> Option<u32> {
    match action {
        "UPDATESG" => envelope.security_group_id,
        "UPDATENIC" => envelope.virtual_network_id,
        _ => None,
    }
}
