//! Disks that are files: `shared` and `qcow2` (contract TM 2.1).

use std::time::Duration;

use causeway_core::names::HostName;
use causeway_core::plan::{Slot, Step};

use super::live::Live;
use super::{Transfer, carry, one, step};
use crate::automount::{AutoMount, Mount, Mounted};
use crate::error::TmError;
use crate::facts::{DiskFacts, Facts, Format, VmFacts, lcm};
use crate::host::{Blank, Call, CopyKind, CopyOf, Kept, Layout, SnapshotOrder};
use crate::place::{Image, VmDir, VmFile};
use crate::request::{Request, Service, Source, Verb};
use crate::settings::TmSettings;

/// The steps of a request that is about a disk or a VM's directory.
pub(super) fn plan(
    slot: &Slot,
    service: Service,
    request: Request,
    facts: &Facts,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    let planner = Planner { slot, service, facts, settings };
    match planner.live(&request)? {
        Some(steps) => Ok(Transfer { steps, inputs: Default::default() }),
        None => planner.step(request).map(one),
    }
}

/// Reads the chain of a disk of which a layer is to go while a guest has it open.
pub(super) fn reading(
    slot: &Slot,
    service: Service,
    request: Request,
    facts: &Facts,
    settings: &TmSettings,
) -> Result<Option<Step>, TmError> {
    let planner = Planner { slot, service, facts, settings };
    match request {
        Request::Snapshot { host, file, .. } if service.verb == Verb::SnapDelete => {
            if !planner.runs(&file, lcm::DISK_SNAPSHOT_DELETE)? || !planner.is_qcow2(&file)? {
                return Ok(None);
            }
            let call = Call::ReadChain { kept: planner.kept(&file)?, file };
            step("read".to_owned(), host, &call, settings, false).map(Some)
        }
        _ => Ok(None),
    }
}

struct Planner<'a> {
    slot: &'a Slot,
    service: Service,
    facts: &'a Facts,
    settings: &'a TmSettings,
}

impl Planner<'_> {
    fn step(&self, request: Request) -> Result<Step, TmError> {
        let (host, name, call) = match request {
            Request::Give { image, host, file, image_datastore } => {
                let (name, mounts) = (named(self.slot, &file), self.mounts(&file, image_datastore)?);
                (host, name, self.mounted(mounts, self.give(&image, file)?))
            }
            Request::Mvds { host, file, image } => {
                (host, named(self.slot, &file), self.give_back(file, &image)?)
            }
            Request::MvFile { to, file } => {
                let reason = "a disk moves with its VM's directory".to_owned();
                (to, named(self.slot, &file), Call::Nothing { reason })
            }
            Request::MvDir { from, to } if self.service.local && from.0 != to.0 => {
                return self.carry(from, to);
            }
            Request::MvDir { from: (_, from), to: (host, to) } => (host, "mv".to_owned(), move_dir(from, to)),
            Request::DeleteFile { host, file, .. } => {
                (host, named(self.slot, &file), Call::DeleteFile { file })
            }
            Request::DeleteDir { host, dir } => {
                (host, "delete".to_owned(), Call::DeleteDir { dir, keep: None })
            }
            Request::Make { size_mb, format, host, file } => {
                (host, named(self.slot, &file), self.make(size_mb, &format, file)?)
            }
            Request::Resize { host, file, size_mb } => {
                (host, named(self.slot, &file), self.resize(file, size_mb)?)
            }
            Request::Snapshot { host, file, snapshot } => {
                (host, named(self.slot, &file), self.snapshot(file, snapshot)?)
            }
            Request::Cpds { host, file, image, snapshot, .. } => {
                (host, named(self.slot, &file), self.save(file, &image, snapshot)?)
            }
            Request::Context { .. } | Request::Migrate(_) | Request::Backup(_) | Request::Restore(_) => {
                return Err(TmError::NotBuilt { slot: self.slot.to_string() });
            }
        };
        let long = copies(&call);
        let more = if let Call::Mounted(order) = &call { order.time() } else { Duration::ZERO };
        let step = step(name, host, &call, self.settings, long)?;
        Ok(Step { deadline: step.deadline.saturating_add(more), ..step })
    }

    /// What the host must have mounted before it can give the VM a disk.
    fn mounts(&self, file: &VmFile, image_datastore: u32) -> Result<Vec<Mount>, TmError> {
        let system = file.dir().datastore();
        let mut mounts = Vec::new();
        for id in [image_datastore, system.id()] {
            let Some(AutoMount { share, options }) = self.facts.datastore(id)?.automount.clone() else {
                continue;
            };
            if self.service.local {
                return Err(TmError::mounts_itself(self.slot, id));
            }
            let mount = Mount { datastore: system.sibling(id), share, options, kept: true };
            if !mounts.contains(&mount) {
                mounts.push(mount);
            }
        }
        Ok(mounts)
    }

    fn mounted(&self, mounts: Vec<Mount>, call: Call) -> Call {
        if mounts.is_empty() {
            return call;
        }
        let automounted = self.facts.automounted.clone();
        Call::Mounted(Mounted { mounts, automounted, call: Box::new(call) })
    }

    /// The directory goes from one host's own disk to another's.
    fn carry(&self, from: (HostName, VmDir), to: (HostName, VmDir)) -> Result<Step, TmError> {
        let state = self.facts.vm(from.1.vm())?.lcm_state()?;
        if matches!(state, lcm::PROLOG_MIGRATE_UNKNOWN | lcm::PROLOG_MIGRATE_UNKNOWN_FAILURE) {
            let reason = "the host that has the VM's files cannot be asked: they stay there".to_owned();
            return step("mv".to_owned(), to.0, &Call::Nothing { reason }, self.settings, false);
        }
        carry::directory(from, to, true, self.settings)
    }

    /// The steps of what is done to a disk that a running guest has open; none where nobody has.
    fn live(&self, request: &Request) -> Result<Option<Vec<Step>>, TmError> {
        match request {
            Request::Cpds { host, file, image, snapshot: None, .. }
                if self.runs(file, lcm::HOTPLUG_SAVEAS)? =>
            {
                let image = image.image(file)?;
                self.guest(host, file)?.copy(CopyOf::Image(image)).map(Some)
            }
            Request::Snapshot { host, file, snapshot } => match self.service.verb {
                Verb::SnapCreateLive => self.guest(host, file)?.snapshot(*snapshot).map(Some),
                Verb::SnapDelete if self.runs(file, lcm::DISK_SNAPSHOT_DELETE)? && self.is_qcow2(file)? => {
                    let chain = self.facts.chain.as_ref();
                    let chain = chain.ok_or_else(|| self.facts_missing(file))?;
                    self.guest(host, file)?.delete(*snapshot, chain).map(Some)
                }
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    fn guest(&self, host: &HostName, file: &VmFile) -> Result<Live<'_>, TmError> {
        let verb = self.slot.verb().split('.').next().unwrap_or_default();
        let disk = (self.kept(file)?, self.is_qcow2(file)?);
        Live::of(verb, self.vm(file)?, (host.clone(), file.clone()), disk, self.settings)
    }

    /// Whether oned asks for a running guest's disk: it says so by the state that the VM is in.
    fn runs(&self, file: &VmFile, state: u32) -> Result<bool, TmError> {
        Ok(self.vm(file)?.lcm_state()? == state)
    }

    fn facts_missing(&self, file: &VmFile) -> TmError {
        TmError::Missing {
            what: format!("the layers of {}", file.name()),
            object: format!("VM {}", file.dir().vm()),
        }
    }

    fn give(&self, image: &Source, file: VmFile) -> Result<Call, TmError> {
        let image = image.image(&file)?;
        // A kernel or a ramdisk: no disk of the document, and always a copy.
        let Some(number) = file.name().disk() else {
            let (copy, grown_mb, sparse) = (CopyKind::Flat, None, true);
            return Ok(Call::CloneImage { image, file, copy, grown_mb, sparse, local: self.service.local });
        };
        let vm = self.vm(&file)?;
        let (disk, format) = (vm.disk(number)?, vm.format(number)?);
        if self.service.verb == Verb::Ln && self.service.local {
            let layout = self.layout(&file)?;
            return Ok(Call::LendImage { image, file, layout });
        }
        if self.service.verb == Verb::Ln {
            let layout = match format {
                Format::Raw => Layout::Image,
                Format::Qcow2 | Format::Other(_) => Layout::Chain,
            };
            return Ok(Call::LinkImage { image, file, layout });
        }
        let local = self.service.local;
        let copy = match (format, disk.standalone) {
            // The host need not see the image once the VM has its disk.
            (Format::Qcow2, standalone) if standalone || local => CopyKind::Standalone,
            (Format::Qcow2, _) => CopyKind::Overlay { options: self.settings.qcow2_options.clone() },
            (Format::Raw | Format::Other(_), _) => CopyKind::Flat,
        };
        Ok(Call::CloneImage { image, file, copy, grown_mb: disk.grown_mb(), sparse: disk.sparse, local })
    }

    fn give_back(&self, file: VmFile, image: &Source) -> Result<Call, TmError> {
        let image = image.image(&file)?;
        if !self.service.local {
            return Ok(Call::GiveBack { file, image });
        }
        let layout = self.layout(&file)?;
        Ok(Call::TakeBack { file, image, layout })
    }

    /// What a disk is where its image is copied: only qcow2 files have layers.
    fn layout(&self, file: &VmFile) -> Result<Layout, TmError> {
        Ok(if self.is_qcow2(file)? { Layout::Chain } else { Layout::Image })
    }

    fn make(&self, size_mb: u64, format: &str, file: VmFile) -> Result<Call, TmError> {
        let (qcow2, swap) = match format {
            "raw" => (false, false),
            "qcow2" => (true, false),
            "swap" => (false, true),
            other => {
                return Err(TmError::Attribute {
                    attribute: "format".to_owned(),
                    object: format!("{} of VM {}", file.name(), file.dir().vm()),
                    value: other.to_owned(),
                    accepted: "raw, qcow2 or swap".into(),
                });
            }
        };
        let blank = if swap {
            Blank::Swap
        } else {
            match &self.disk(&file)?.fs {
                None => Blank::Empty,
                Some(fs) => file_system(fs, &file, self.settings)?,
            }
        };
        Ok(Call::MakeImage { file, size_mb, qcow2, blank, local: self.service.local })
    }

    fn resize(&self, file: VmFile, size_mb: u64) -> Result<Call, TmError> {
        if self.vm(&file)?.lcm_state()? == lcm::DISK_RESIZE {
            let reason = "the disk is in use: its hypervisor grows it".to_owned();
            return Ok(Call::Nothing { reason });
        }
        let sparse = self.disk(&file)?.sparse;
        Ok(Call::Resize { kept: self.kept(&file)?, qcow2: self.is_qcow2(&file)?, file, size_mb, sparse })
    }

    fn save(&self, file: VmFile, image: &Source, snapshot: Option<u32>) -> Result<Call, TmError> {
        let image = image.image(&file)?;
        Ok(Call::SaveDisk { kept: self.kept(&file)?, qcow2: self.is_qcow2(&file)?, file, snapshot, image })
    }

    fn snapshot(&self, file: VmFile, id: u32) -> Result<Call, TmError> {
        let order = match self.service.verb {
            Verb::SnapCreate => SnapshotOrder::Create,
            Verb::SnapRevert => SnapshotOrder::Revert,
            Verb::SnapDelete => SnapshotOrder::Delete,
            _ => return Err(TmError::NotBuilt { slot: self.slot.to_string() }),
        };
        Ok(Call::Snapshot { kept: self.kept(&file)?, chain: self.is_qcow2(&file)?, file, order, id })
    }

    fn is_qcow2(&self, file: &VmFile) -> Result<bool, TmError> {
        let format = self.vm(file)?.format(file.name().disk().unwrap_or_default())?;
        Ok(*format == Format::Qcow2)
    }

    fn kept(&self, file: &VmFile) -> Result<Kept, TmError> {
        kept(self.disk(file)?, file, self.service.local)
    }

    fn vm(&self, file: &VmFile) -> Result<&VmFacts, TmError> {
        self.facts.vm(file.dir().vm())
    }

    fn disk(&self, file: &VmFile) -> Result<&DiskFacts, TmError> {
        self.vm(file)?.disk(file.name().disk().unwrap_or_default())
    }
}

/// Where a disk's own files lie: beside it, or with the image that it is.
pub(super) fn kept(disk: &DiskFacts, file: &VmFile, local: bool) -> Result<Kept, TmError> {
    match (&disk.source, disk.clone) {
        // On the host's own disk lie copies of images only.
        _ if local => Ok(Kept::Beside),
        // A volatile disk has no image.
        (None, _) | (_, true) => Ok(Kept::Beside),
        (Some(source), false) => {
            let path = source.parse();
            let image = path.and_then(|path| Image::beside(&path, file));
            image.map(Kept::WithImage).map_err(|_| TmError::Attribute {
                attribute: format!("DISK {} SOURCE", disk.id),
                object: format!("VM {}", file.dir().vm()),
                value: source.clone(),
                accepted: "DATASTORES/DATASTORE ID/NAME".into(),
            })
        }
    }
}

/// A file system that a new disk is to have, if the admin's list has it.
pub(super) fn file_system(kind: &str, file: &VmFile, settings: &TmSettings) -> Result<Blank, TmError> {
    let supported = &settings.file_systems;
    let options = supported.get(kind).cloned().ok_or_else(|| {
        let names: Vec<&str> = supported.keys().map(String::as_str).collect();
        TmError::Attribute {
            attribute: format!("DISK {} FS", file.name().disk().unwrap_or_default()),
            object: format!("VM {}", file.dir().vm()),
            value: kind.to_owned(),
            accepted: format!("one of SUPPORTED_FS: {}", names.join(", ")).into(),
        }
    })?;
    Ok(Blank::FileSystem { kind: kind.to_owned(), options })
}

/// `clone:disk.0`.
pub(super) fn named(slot: &Slot, file: &VmFile) -> String {
    let verb = slot.verb().split('.').next().unwrap_or_default();
    format!("{verb}:{}", file.name())
}

fn move_dir(from: VmDir, to: VmDir) -> Call {
    if from == to {
        return Call::Nothing { reason: "both hosts see the VM's files where they are".to_owned() };
    }
    Call::MoveDir { from, to }
}

/// Whether a call may copy a disk's data, so that a deploy is not to wait for it.
fn copies(call: &Call) -> bool {
    match call {
        Call::Mounted(order) => copies(&order.call),
        Call::CloneImage { copy, .. } => !matches!(copy, CopyKind::Overlay { .. }),
        Call::Snapshot { chain, order, .. } => !chain || *order == SnapshotOrder::Delete,
        Call::SaveDisk { .. } | Call::MakeImage { .. } | Call::MoveDir { .. } | Call::Resize { .. } => true,
        Call::LendImage { .. } | Call::TakeBack { .. } => true,
        _ => false,
    }
}
