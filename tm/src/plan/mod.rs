//! From the arguments of a slot to steps. Pure: what it needs to know is handed in.
//!
//! No step here has an undo. oned takes an action of the transfer manager back by sending its counterpart (the epilog
//! line of an attach, `DELETE` after a failed prolog, `FAILMIGRATE`; contract TM 4), a failed script is not rolled back
//! (contract TM 1.3), and a step that fails leaves nothing under a final name.

mod backup;
mod carry;
mod chain;
mod context;
mod files;
mod live;
mod migrate;
mod rbd;
mod restore;

use std::collections::BTreeMap;

use causeway_core::names::{DiskPath, HostName};
use causeway_core::plan::{Input, InputName, Place, Slot, Step, Work};
use serde::{Deserialize, Serialize};

use crate::address::WebAddress;
use crate::error::TmError;
use crate::facts::{Facts, Needs, VmNeed};
use crate::host::Call;
use crate::request::{Request, Service, Store, Verb};
use crate::settings::TmSettings;

/// Where the bytes of an input come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Known already.
    Bytes(Input),
    /// A file on the front-end; [`read_sources`](crate::front::read_sources) reads it in a child.
    File(DiskPath),
    /// What an address brings, fetched by the same child.
    Address(WebAddress),
}

/// Steps, and the inputs they name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transfer {
    /// In order.
    pub steps: Vec<Step>,
    /// By name, all beginning with `tm:`.
    pub inputs: BTreeMap<InputName, Source>,
}

impl Transfer {
    /// The same steps for a plan of several slots, in which one step's name may come twice: every name begins with
    /// `prefix`.
    pub fn prefixed(mut self, prefix: &str) -> Self {
        for step in &mut self.steps {
            step.name.insert_str(0, prefix);
            match &mut step.work {
                Work::Transfer { inputs, .. } => {
                    inputs.iter_mut().for_each(|name| name.insert_str(0, prefix))
                }
                Work::Slot { input: Some(name), .. } => name.insert_str(0, prefix),
                _ => {}
            }
        }
        self.inputs = self.inputs.into_iter().map(|(name, from)| (format!("{prefix}{name}"), from)).collect();
        self
    }
}

/// Whether this crate stands in a slot. For any other the caller looks for somebody else's executable.
pub fn built(slot: &Slot) -> bool {
    Service::of(slot).is_some()
}

/// Why a driver of ours has no such slot, nor the stock one (contract TM 2).
pub fn absent(slot: &Slot) -> Option<&'static str> {
    let ours = matches!(slot.driver(), "shared" | "qcow2" | "ceph") && slot.family() == "tm";
    (ours && slot.verb() == "monitor_ds").then_some(
        "hosts ask monitor_ds of datastores on their own disks, which the drivers ssh and local serve; this driver's \
         datastores are measured by its monitor",
    )
}

/// What a slot is given on standard input (contract TM 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// Nothing. It is left alone: at a terminal it would have no end.
    Nothing,
    /// A VM in base64.
    Encoded,
    /// A VM as it is.
    Plain,
}

/// What a slot of ours is given on standard input.
pub fn stdin_of(slot: &Slot) -> Stdin {
    match Service::of(slot).map(|service| service.verb) {
        Some(Verb::Premigrate | Verb::Postmigrate | Verb::Failmigrate) => Stdin::Encoded,
        Some(verb) if verb.is_backup() && verb != Verb::Restore => Stdin::Plain,
        _ => Stdin::Nothing,
    }
}

/// What must be known before [`steps`] can plan that call.
///
/// # Errors
/// [`TmError::NotBuilt`], or an argument that is wrong.
pub fn needs(slot: &Slot, argv: &[String]) -> Result<Needs, TmError> {
    let mut needs = Needs::default();
    let (service, request) = Request::read(slot, argv)?;
    if service.store == Store::Rbd {
        return Ok(rbd::needs(service, &request));
    }
    match request {
        Request::Give { file, image_datastore, .. } => {
            needs.datastores.extend([image_datastore, file.dir().datastore().id()]);
            needs.mounts = !service.local;
            // A kernel or a ramdisk is no disk of the document: its bytes are copied as they are.
            needs.vm = file.name().disk().map(|_| VmNeed::Document(file.dir().vm()));
        }
        // Swap is swap, whatever file system the VM's template names.
        Request::Make { format, .. } if format == "swap" => {}
        Request::Cpds { file, .. }
        | Request::Make { file, .. }
        | Request::Resize { file, .. }
        | Request::Snapshot { file, .. } => needs.vm = Some(VmNeed::Document(file.dir().vm())),
        Request::Migrate(migration) => needs.vm = migrate::need(&migration),
        // What the hosts do not share moves only in some states.
        Request::MvDir { from, to } if service.local && from.0 != to.0 => {
            needs.vm = Some(VmNeed::Document(from.1.vm()));
        }
        // What comes back is copied as what it is.
        Request::Mvds { file, .. } if service.local => needs.vm = Some(VmNeed::Document(file.dir().vm())),
        Request::Backup(backup) if service.verb.keeps_document() => {
            needs.vm = Some(VmNeed::Document(backup.dir.vm()));
            needs.limits = true;
        }
        Request::Restore(restore) => {
            needs.vm = Some(VmNeed::Document(restore.dir.vm()));
            needs.backup = Some(restore.image);
        }
        Request::Backup(_)
        | Request::Mvds { .. }
        | Request::MvFile { .. }
        | Request::MvDir { .. }
        | Request::DeleteFile { .. }
        | Request::DeleteDir { .. }
        | Request::Context { .. } => {}
    }
    Ok(needs)
}

/// The one step that must have been done, and its output taken in by [`Facts::take_reading`], before [`steps`] can plan that
/// call; none where the facts are enough.
///
/// # Errors
/// As for [`steps`].
pub fn reading(
    slot: &Slot,
    argv: &[String],
    facts: &Facts,
    settings: &TmSettings,
) -> Result<Option<Transfer>, TmError> {
    let (service, request) = Request::read(slot, argv)?;
    match (service.store, request) {
        (_, Request::Restore(request)) => restore::reading(&request, facts, settings).map(Some),
        (Store::Files, request) => Ok(files::reading(slot, service, request, facts, settings)?.map(one)),
        (Store::Rbd, _) => Ok(None),
    }
}

/// The steps of one call of a slot, with the arguments and the standard input that the contract gives it.
///
/// # Errors
/// [`TmError`]; nothing has been changed.
pub fn steps(
    slot: &Slot,
    argv: &[String],
    stdin: &[u8],
    facts: &Facts,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    let (service, request) = Request::read(slot, argv)?;
    match request {
        Request::Context { sources, host, file } => {
            context::context(sources, host, file, service.local, settings)
        }
        Request::Migrate(migration) => match service.store {
            Store::Files => migrate::migrate(slot, &migration, argv, stdin, facts, settings),
            Store::Rbd => rbd::migrate(slot, &migration, argv, stdin, facts, settings),
        },
        Request::Backup(request) => match service.store {
            Store::Files => backup::plan(slot, service, &request, stdin, facts, settings),
            Store::Rbd => rbd::backup(slot, service, &request, stdin, facts, settings),
        },
        Request::Restore(request) => restore::plan(slot, service, &request, facts, settings),
        request => match service.store {
            Store::Files => files::plan(slot, service, request, facts, settings),
            Store::Rbd => rbd::plan(slot, service, request, facts, settings),
        },
    }
}

fn one(step: Step) -> Transfer {
    Transfer { steps: vec![step], inputs: BTreeMap::new() }
}

fn step(
    name: String,
    host: HostName,
    call: &Call,
    settings: &TmSettings,
    long: bool,
) -> Result<Step, TmError> {
    // What does nothing must not fail for a host that is away.
    let place = if call.touches_storage() { Place::Host(host) } else { Place::FrontEnd };
    let encoded = serde_json::to_value(call);
    let call = encoded.map_err(|e| TmError::Unwritable { step: name.clone(), why: e.to_string() })?;
    let deadline = if long { settings.copy_deadline } else { settings.short_deadline };
    let step = Step::new(name, place, Work::Transfer { call, inputs: Vec::new() }, deadline);
    Ok(if long { step.long() } else { step })
}
