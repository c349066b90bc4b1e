//! From the arguments of a slot to steps. Pure: what it needs to know is handed in.
//!
//! No step here has an undo. oned takes an action of the transfer manager back by sending its counterpart (the epilog
//! line of an attach, `DELETE` after a failed prolog, `FAILMIGRATE`; contract TM 4), a failed script is not rolled back
//! (contract TM 1.3), and a step that fails leaves nothing under a final name.

use std::collections::BTreeMap;

use causeway_core::names::{DiskPath, HostName};
use causeway_core::plan::{Input, InputName, Place, Slot, Step, Work};
use serde::{Deserialize, Serialize};

use crate::chain;
use crate::error::TmError;
use crate::facts::{Facts, Format, Needs, VmNeed};
use crate::host::{Call, CopyKind, Layout};
use crate::place::VmFile;
use crate::request::{ContextSource, Migration, Request, Verb};
use crate::settings::TmSettings;

/// Where the bytes of an input come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Known already.
    Bytes(Input),
    /// A file on the front-end; [`read_sources`](crate::front::read_sources) reads it in a child.
    File(DiskPath),
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
    Verb::of(slot).is_some()
}

/// What must be known before [`steps`] can plan that call.
///
/// # Errors
/// [`TmError::NotBuilt`], or an argument that is wrong.
pub fn needs(slot: &Slot, argv: &[String]) -> Result<Needs, TmError> {
    let mut needs = Needs::default();
    match Request::read(slot, argv)? {
        Request::Clone { file, image_datastore, .. } | Request::Ln { file, image_datastore, .. } => {
            needs.datastores.extend([image_datastore, file.dir().datastore().id()]);
            // A kernel or a ramdisk is no disk of the document: its bytes are copied as they are.
            needs.vm = file.name().disk().map(|_| VmNeed::Document(file.dir().vm()));
        }
        Request::Migrate(migration) => needs.vm = migration_need(&migration),
        Request::DeleteFile { .. } | Request::DeleteDir { .. } | Request::Context { .. } => {}
    }
    Ok(needs)
}

fn migration_need(migration: &Migration) -> Option<VmNeed> {
    let vm = migration.dir.vm();
    match migration.verb {
        Verb::Postmigrate => Some(VmNeed::History(vm)),
        _ => chain::passed_on(migration).then_some(VmNeed::Document(vm)),
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
    match Request::read(slot, argv)? {
        Request::Clone { image, host, file, image_datastore } => {
            let ImageFacts { format, grown_mb, standalone, sparse } =
                image_facts(slot, facts, &file, image_datastore)?;
            let copy = match (format, standalone) {
                (Format::Qcow2, false) => CopyKind::Overlay { options: settings.qcow2_options.clone() },
                (Format::Qcow2, true) => CopyKind::Standalone,
                (Format::Raw | Format::Other(_), _) => CopyKind::Flat,
            };
            let long = !matches!(copy, CopyKind::Overlay { .. });
            let name = format!("clone:{}", file.name());
            let call = Call::CloneImage { image, file, copy, grown_mb, sparse };
            Ok(one(step(name, host, &call, settings, long)?))
        }
        Request::Ln { image, host, file, image_datastore } => {
            let layout = match image_facts(slot, facts, &file, image_datastore)?.format {
                Format::Raw => Layout::Image,
                Format::Qcow2 | Format::Other(_) => Layout::Chain,
            };
            let name = format!("ln:{}", file.name());
            Ok(one(step(name, host, &Call::LinkImage { image, file, layout }, settings, false)?))
        }
        Request::DeleteFile { host, file } => {
            let name = format!("delete:{}", file.name());
            Ok(one(step(name, host, &Call::DeleteFile { file }, settings, false)?))
        }
        Request::DeleteDir { host, dir } => {
            Ok(one(step("delete".to_owned(), host, &Call::DeleteDir { dir, keep: None }, settings, false)?))
        }
        Request::Context { sources, host, file } => context(sources, host, file, settings),
        Request::Migrate(migration) => migrate(slot, &migration, argv, stdin, facts, settings),
    }
}

fn context(
    sources: Vec<ContextSource>,
    host: HostName,
    file: VmFile,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    let step_name = format!("context:{}", file.name());
    let (mut names, mut read, mut inputs) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (index, source) in sources.into_iter().enumerate() {
        let input = format!("tm:context:{index}");
        inputs.insert(input.clone(), Source::File(source.path));
        read.push(input);
        names.push(source.name);
    }
    let mut step = step(step_name, host, &Call::BuildContext { file, names }, settings, false)?;
    if let Work::Transfer { inputs, .. } = &mut step.work {
        *inputs = read;
    }
    Ok(Transfer { steps: vec![step], inputs })
}

/// What decides how an image is handed to a VM.
struct ImageFacts {
    format: Format,
    grown_mb: Option<u64>,
    standalone: bool,
    sparse: bool,
}

fn image_facts(slot: &Slot, facts: &Facts, file: &VmFile, image: u32) -> Result<ImageFacts, TmError> {
    for datastore in [image, file.dir().datastore().id()] {
        if facts.datastore(datastore)?.nfs_auto {
            let what = format!(
                "{slot}: datastore {datastore} has NFS_AUTO_ENABLE; mounting it by itself is not built"
            );
            return Err(TmError::NotYet(what));
        }
    }
    let Some(number) = file.name().disk() else {
        return Ok(ImageFacts { format: Format::Raw, grown_mb: None, standalone: false, sparse: true });
    };
    let vm = facts.vm(file.dir().vm())?;
    let disk = vm.disk(number)?;
    Ok(ImageFacts {
        format: vm.format(number)?.clone(),
        grown_mb: disk.grown_mb(),
        standalone: disk.standalone,
        sparse: disk.sparse,
    })
}

fn migrate(
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
