//! Disks of a guest that runs: the files by a worker, what the guest goes on with by its hypervisor, in turns.
//!
//! ```text
//! snap_create_live   make layer ── the guest goes on in it ── the disk leads to it
//!                    make file ─── copy the disk ──────────── it becomes the snapshot      (plain bytes)
//! cpds               make file ─── copy the disk ──────────── it becomes the image
//! snap_delete        pull what the snapshot has into the active layer ─────── remove it    (the active one stands on it)
//!                    commit the layer upon it into it ── leave word, remove that layer     (another one does)
//!                                                                             remove it    (none does)
//! ```
//!
//! Every step may be run again. Where the guest already writes the new layer and the last step is cut off, the disk
//! still leads to the old one: the journal, or an admin's retry, brings the plan to its end (W15).

use causeway_core::names::{DeployId, DiskName, DiskPath, HostName};
use causeway_core::plan::{CopyFormat, DiskOrder, Place, Quiesce, Step, Work};

use super::step;
use crate::chain::{Beneath, Chain};
use crate::error::TmError;
use crate::facts::VmFacts;
use crate::host::{Call, CopyOf, Kept, LivePart, copy_path};
use crate::place::VmFile;
use crate::settings::TmSettings;

/// One disk of a guest that runs.
pub(super) struct Live<'a> {
    pub verb: &'a str,
    pub host: HostName,
    pub file: VmFile,
    pub kept: Kept,
    pub qcow2: bool,
    id: DeployId,
    disk: DiskName,
    settings: &'a TmSettings,
}

impl<'a> Live<'a> {
    /// What the document says of the guest and of its disk.
    ///
    /// # Errors
    /// It does not say which guest, which disk of it, or it is not one that libvirt runs.
    pub(super) fn of(
        verb: &'a str,
        vm: &VmFacts,
        (host, file): (HostName, VmFile),
        (kept, qcow2): (Kept, bool),
        settings: &'a TmSettings,
    ) -> Result<Self, TmError> {
        runs_by_libvirt(vm)?;
        let disk = device(vm, file.name().disk().unwrap_or_default())?;
        let id = vm.deploy_id.clone().ok_or_else(|| vm.missing("DEPLOY_ID".to_owned()))?;
        Ok(Live { verb, host, file, kept, qcow2, id, disk, settings })
    }

    /// The disk becomes snapshot `id`.
    pub(super) fn snapshot(&self, id: u32) -> Result<Vec<Step>, TmError> {
        if !self.qcow2 {
            return self.copy(CopyOf::Snapshot(id));
        }
        let next = id.saturating_add(1);
        let directory = match &self.kept {
            Kept::Beside => self.file.dir().path().join(self.file.name().snap()),
            Kept::WithImage(image) => image.datastore().path().join(image.name().snap()),
        };
        let overlay = self.path(&directory.join(next.to_string()).display().to_string())?;
        let order = DiskOrder::Snapshot {
            disk: self.disk.clone(),
            overlay,
            quiesce: Some(Quiesce { agent_seconds: self.settings.agent_seconds(), or_suspend: true }),
        };
        Ok(vec![
            self.files("layer", LivePart::MakeLayer { id })?,
            self.guest("snapshot", order),
            self.files("link", LivePart::PointToLayer { id })?.finishes(),
        ])
    }

    /// The disk as it is now becomes an image, or a snapshot of plain bytes.
    pub(super) fn copy(&self, to: CopyOf) -> Result<Vec<Step>, TmError> {
        let mut steps = self.filled(&to)?;
        steps.push(self.files("publish", LivePart::PublishCopy { to, qcow2: self.qcow2 })?);
        Ok(steps)
    }

    /// A copy of the disk as it is now, still beside.
    pub(super) fn filled(&self, to: &CopyOf) -> Result<Vec<Step>, TmError> {
        let path = copy_path(&self.file, &self.kept, to);
        let whole_guest = matches!(to, CopyOf::Snapshot(_));
        let order = DiskOrder::Copy {
            disk: self.disk.clone(),
            to: self.path(&path.display().to_string())?,
            format: if self.qcow2 { CopyFormat::Qcow2 } else { CopyFormat::Raw },
            // As stock: a snapshot waits for a guest without an agent, an image is taken from it as it runs.
            quiesce: Some(Quiesce { agent_seconds: self.settings.agent_seconds(), or_suspend: whole_guest }),
            speed: None,
        };
        let qcow2 = self.qcow2;
        let drop = self.files("drop", LivePart::DropCopy { to: to.clone() })?;
        Ok(vec![
            self.files("file", LivePart::MakeCopy { to: to.clone(), qcow2 })?.undone_by(vec![drop]),
            self.guest("copy", order).long(),
        ])
    }

    /// The guest is brought to rest by its agent, if it has one, for the steps between the two; whatever becomes of them, it
    /// goes on.
    pub(super) fn rest(&self) -> [Step; 2] {
        let agent_seconds = self.settings.agent_seconds();
        let seconds = u32::try_from(self.settings.short_deadline.as_secs()).unwrap_or(u32::MAX);
        let freeze = DiskOrder::Freeze { quiesce: Quiesce { agent_seconds, or_suspend: false }, seconds };
        let thaw = DiskOrder::Thaw { agent_seconds };
        // It may be over by then.
        let undo = self.guest("undo freeze", thaw.clone()).ignored();
        let soon =
            |step: Step| Step { deadline: self.settings.short_deadline + self.settings.agent_wait, ..step };
        [soon(self.guest("freeze", freeze)).undone_by(vec![soon(undo)]), soon(self.guest("thaw", thaw))]
    }

    /// Snapshot `id` is forgotten.
    pub(super) fn delete(&self, id: u32, chain: &Chain) -> Result<Vec<Step>, TmError> {
        let remove = self.files("remove", LivePart::RemoveLayer { id })?;
        let Some(layer) = chain.of_snapshot(id) else { return Ok(vec![remove]) };
        let relative = self.kept == Kept::Beside;
        match chain.above(layer)[..] {
            [] => Ok(vec![remove]),
            [above] if above == chain.active => {
                let base = match chain.layers.get(&layer) {
                    Some(Beneath::Layer(below)) => Some(self.path(&chain.path(*below))?),
                    Some(Beneath::File(name)) => Some(self.path(name)?),
                    Some(Beneath::Nothing) | None => None,
                };
                let relative = relative && matches!(chain.layers.get(&layer), Some(Beneath::Layer(_)));
                let order = DiskOrder::Pull { disk: self.disk.clone(), base, relative, speed: None };
                Ok(vec![self.guest("pull", order).long(), remove])
            }
            [above] if chain.is_below_active(above) => {
                let order = DiskOrder::Commit {
                    disk: self.disk.clone(),
                    top: self.path(&chain.path(above))?,
                    base: self.path(&chain.path(layer))?,
                    active: false,
                    relative,
                    speed: None,
                };
                let merged = self.files("merged", LivePart::MergedLayer { id, above })?;
                Ok(vec![self.guest("commit", order).long(), merged])
            }
            _ => Err(TmError::Refused {
                what: self.file.to_string(),
                why: format!(
                    "snapshot {id} can't go while the guest runs: more than one layer stands on it, or one that the \
                     guest does not use; power the VM off first"
                ),
            }),
        }
    }

    fn files(&self, name: &str, part: LivePart) -> Result<Step, TmError> {
        let call = Call::Live { file: self.file.clone(), kept: self.kept.clone(), part };
        let name = format!("{}:{}:{name}", self.verb, self.file.name());
        step(name, self.host.clone(), &call, self.settings, false)
    }

    fn guest(&self, name: &str, order: DiskOrder) -> Step {
        let name = format!("{}:{}:{name}", self.verb, self.file.name());
        let work = Work::GuestDisk { id: self.id.clone(), order };
        Step::new(name, Place::Host(self.host.clone()), work, self.settings.copy_deadline)
    }

    fn path(&self, text: &str) -> Result<DiskPath, TmError> {
        text.parse().map_err(|source| TmError::Argument { slot: self.verb.to_owned(), position: 1, source })
    }
}

/// Sees to it that libvirt runs the guest.
///
/// # Errors
/// Another hypervisor does.
pub(super) fn runs_by_libvirt(vm: &VmFacts) -> Result<(), TmError> {
    match vm.vm_mad.as_deref().filter(|name| !matches!(*name, "kvm" | "qemu")) {
        None => Ok(()),
        Some(other) => Err(TmError::Attribute {
            attribute: "VM_MAD".to_owned(),
            object: format!("VM {}", vm.id),
            value: other.to_owned(),
            accepted: "kvm or qemu, where a disk is worked on while its guest runs".into(),
        }),
    }
}

/// The device that a disk is in the guest.
///
/// # Errors
/// The document does not say.
pub(super) fn device(vm: &VmFacts, number: u32) -> Result<DiskName, TmError> {
    let target = vm.disk(number)?.target.clone();
    let target = target.ok_or_else(|| vm.missing(format!("DISK {number} TARGET")))?;
    target.parse().map_err(|_| TmError::Attribute {
        attribute: format!("DISK {number} TARGET"),
        object: format!("VM {}", vm.id),
        value: target.clone(),
        accepted: "1 to 16 lower-case letters and digits, such as vda".into(),
    })
}
