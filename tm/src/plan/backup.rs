//! `prebackup` and `postbackup`, of a VM that is off and of one that runs (contract TM 2.3).
//!
//! ```text
//! prebackup        directory ── disk.0 ── disk.1 ...
//! prebackup_live   end ── directory ── disk.N:file ... ── guest: all disks at one moment ── disk.N:publish ...
//! postbackup       directory
//! postbackup_live  end ── directory
//! ```
//!
//! A running guest's data are copied by its own QEMU, as they were when the copy began, while the guest writes on: no
//! overlay is put over a disk, so none can be left there (W8). `end` stops such a copy that nobody waits for any more.

use causeway_core::document::encode_lines;
use causeway_core::names::{DeployId, DiskPath, HostName};
use causeway_core::plan::{BackupRest, BackupTarget, DiskOrder, Input, Place, Slot, Step, Tracking, Work};

use super::live::{device, runs_by_libvirt};
use super::{Source, Transfer, files, step};
use crate::confine::Confined;
use crate::error::TmError;
use crate::facts::{Extent, Facts, Format, Freeze, Limits, VmFacts};
use crate::host::{BackupCall, BackupDisk, BackupPlace, Call, checkpoint};
use crate::place::VmFile;
use crate::request::{Backup, Service, Verb};
use crate::settings::TmSettings;

/// The name of the input that is to be `vm.xml`.
const VM_INPUT: &str = "tm:backup:vm.xml";

/// The steps; `stdin` is the VM's document as it came, which the backup keeps.
pub(super) fn plan(
    slot: &Slot,
    service: Service,
    backup: &Backup,
    stdin: &[u8],
    facts: &Facts,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    let planner = Planner::new(slot, backup, None, settings);
    match service.verb {
        Verb::Postbackup => planner.after(false),
        Verb::PostbackupLive => planner.after(true),
        _ => {
            let vm = facts.vm(backup.dir.vm())?;
            planner.within_limits(vm, facts)?.before(service, stdin, vm)
        }
    }
}

/// What the steps have in common, whatever the disks are.
pub(super) struct Planner<'a> {
    slot: &'a Slot,
    backup: &'a Backup,
    pub place: BackupPlace,
    /// The host that has the directory.
    pub host: HostName,
    /// What the backup's datastore allows.
    limits: Option<Limits>,
    settings: &'a TmSettings,
}

impl<'a> Planner<'a> {
    /// On the VM's host, or on another one.
    pub(super) fn new(
        slot: &'a Slot,
        backup: &'a Backup,
        bridge: Option<HostName>,
        settings: &'a TmSettings,
    ) -> Self {
        let host = bridge.unwrap_or_else(|| backup.host.clone());
        let visiting = host != backup.host;
        let place = BackupPlace { dir: backup.dir.clone(), base: settings.backup_base.clone(), visiting };
        Planner { slot, backup, place, host, limits: None, settings }
    }

    /// Within the limits of the datastore that the backup goes to.
    pub(super) fn within_limits(mut self, vm: &VmFacts, facts: &Facts) -> Result<Self, TmError> {
        if let Some(id) = vm.backup.goes_to(&format!("VM {}", vm.id))? {
            self.limits = facts.datastore(id)?.limits.read()?;
        }
        Ok(self)
    }

    /// A call that copies a disk's data, within the limits; `disk` is where it reads and writes.
    pub(super) fn confined(&self, call: Call, disk: &std::path::Path) -> Result<Call, TmError> {
        let Some(limits) = self.limits.clone() else { return Ok(call) };
        Ok(Call::Confined(Confined { limits, disk: self.path(disk)?, call: Box::new(call) }))
    }

    /// A clean-up that fails does not unmake a backup (contract TM 2.3: it always ends well).
    fn after(&self, live: bool) -> Result<Transfer, TmError> {
        let mut steps = Vec::new();
        if live {
            steps.push(self.end()?.ignored());
        }
        steps.push(self.clear()?);
        Ok(Transfer { steps, inputs: Default::default() })
    }

    /// Removes the directory, whatever becomes of it.
    pub(super) fn clear(&self) -> Result<Step, TmError> {
        let clear = BackupCall::Clear { place: self.place.clone() };
        Ok(self.files("directory", clear)?.ignored())
    }

    /// Makes the directory anew; `guest` is the one that runs.
    pub(super) fn begin(&self, vm: &VmFacts, guest: Option<DeployId>) -> Result<Step, TmError> {
        let begin = BackupCall::Begin { place: self.place.clone(), tpm: vm.backup.tpm, guest };
        let mut begin = self.files("directory", begin)?;
        if let Work::Transfer { inputs, .. } = &mut begin.work {
            inputs.push(VM_INPUT.to_owned());
        }
        Ok(begin)
    }

    /// The steps with the VM's document, as it came.
    pub(super) fn with_document(&self, steps: Vec<Step>, stdin: &[u8]) -> Result<Transfer, TmError> {
        if stdin.trim_ascii().is_empty() {
            let why = "it has no VM, which the backup is to keep as vm.xml".to_owned();
            return Err(TmError::Encoding { object: "standard input".to_owned(), why });
        }
        let document = Input::new(encode_lines(stdin));
        Ok(Transfer { steps, inputs: [(VM_INPUT.to_owned(), Source::Bytes(document))].into() })
    }

    fn before(&self, service: Service, stdin: &[u8], vm: &VmFacts) -> Result<Transfer, TmError> {
        let object = format!("VM {}", vm.id);
        let extent = vm.backup.extent(&object)?;
        let disks = self.backup.disks.iter().map(|number| self.disk(service, vm, *number, extent));
        let disks = disks.collect::<Result<Vec<_>, _>>()?;
        let live = service.verb == Verb::PrebackupLive;
        let mut steps = Vec::new();
        if live {
            runs_by_libvirt(vm)?;
            steps.extend(self.unlimited()?);
            steps.push(self.end()?);
        }
        let guest = if live { Some(self.guest()?.clone()) } else { None };
        steps.push(self.begin(vm, guest)?);
        if live {
            steps.extend(self.live(vm, &disks, extent, vm.backup.freeze(&object)?)?);
        } else {
            for disk in disks {
                let name = disk.file.name().to_string();
                let copy = BackupCall::Disk { place: self.place.clone(), disk };
                let call = self.confined(Call::Backup(Box::new(copy)), &self.place.dir.path())?;
                steps.push(self.step(&name, &call, true)?);
            }
        }
        self.with_document(steps, stdin)
    }

    /// What the log is told where limits have no effect.
    fn unlimited(&self) -> Result<Option<Step>, TmError> {
        let Some(limits) = &self.limits else { return Ok(None) };
        let names = limits.told(&limits.names());
        let text = format!("{names} have no effect while the guest runs: its own QEMU copies its disks");
        self.step("limits", &Call::Tell { text }, false).map(Some)
    }

    fn live(
        &self,
        vm: &VmFacts,
        disks: &[BackupDisk],
        extent: Extent,
        freeze: Freeze,
    ) -> Result<Vec<Step>, TmError> {
        let (mut before, mut after, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for disk in disks {
            let (place, name) = (self.place.clone(), disk.file.name());
            let target = BackupCall::Target { place: place.clone(), disk: disk.clone() };
            before.push(self.files(&format!("{name}:file"), target)?);
            let to = self.path(&self.place.target(disk))?;
            targets.push(BackupTarget { disk: device(vm, name.disk().unwrap_or_default())?, to });
            let publish = BackupCall::Publish { place, disk: disk.clone() };
            after.push(self.files(&format!("{name}:publish"), publish)?);
        }
        let name = |increment| checkpoint(vm.id, increment);
        let tracking = match extent {
            Extent::Full => None,
            Extent::First => Some(Tracking { begin: name(0), since: None }),
            Extent::Since(last) => {
                Some(Tracking { begin: name(extent.increment()), since: Some(name(last)) })
            }
        };
        let rest = rest(freeze, self.settings);
        let order = DiskOrder::Backup { targets, tracking, rest };
        before.push(self.order("guest", order, self.settings.copy_deadline)?.long());
        before.extend(after);
        Ok(before)
    }

    fn disk(
        &self,
        service: Service,
        vm: &VmFacts,
        number: u32,
        extent: Extent,
    ) -> Result<BackupDisk, TmError> {
        let disk = vm.disk(number)?;
        let refused = |attribute: &str, value: &str, accepted: &str| TmError::Attribute {
            attribute: format!("DISK {number} {attribute}"),
            object: format!("VM {}", vm.id),
            value: value.to_owned(),
            accepted: accepted.to_owned().into(),
        };
        let kind = disk.disk_type.as_deref().unwrap_or_default();
        if kind.eq_ignore_ascii_case("rbd") || kind.eq_ignore_ascii_case("block") {
            return Err(refused("TYPE", kind, "FILE: the backup of a VM in this datastore is made of files"));
        }
        let format = vm.format(number)?;
        let qcow2 = match format {
            Format::Qcow2 => true,
            Format::Raw => false,
            Format::Other(name) => return Err(refused("FORMAT", name, "raw or qcow2")),
        };
        if !qcow2 && extent != Extent::Full {
            let accepted = "qcow2, which increments need: set MODE of the VM's BACKUP_CONFIG to FULL";
            return Err(refused("FORMAT", "raw", accepted));
        }
        let path = self.backup.dir.path().join(format!("disk.{number}"));
        let file = VmFile::try_from(&self.path(&path)?);
        let file =
            file.map_err(|source| TmError::Argument { slot: self.slot.to_string(), position: 1, source })?;
        Ok(BackupDisk { kept: files::kept(disk, &file, service.local)?, file, qcow2, extent })
    }

    /// Ends a copy into the directory that was begun and that nobody waits for.
    fn end(&self) -> Result<Step, TmError> {
        let order = DiskOrder::EndBackup { below: self.path(&self.place.path())? };
        self.order("end", order, self.settings.short_deadline)
    }

    /// An order to the guest, on its own host.
    pub(super) fn order(
        &self,
        name: &str,
        order: DiskOrder,
        deadline: std::time::Duration,
    ) -> Result<Step, TmError> {
        let work = Work::GuestDisk { id: self.guest()?.clone(), order };
        Ok(Step::new(
            format!("{}:{name}", self.slot.verb()),
            Place::Host(self.backup.host.clone()),
            work,
            deadline,
        ))
    }

    fn files(&self, name: &str, call: BackupCall) -> Result<Step, TmError> {
        let long = call.copies();
        self.step(name, &Call::Backup(Box::new(call)), long)
    }

    fn step(&self, name: &str, call: &Call, long: bool) -> Result<Step, TmError> {
        step(format!("{}:{name}", self.slot.verb()), self.host.clone(), call, self.settings, long)
    }

    /// The guest.
    ///
    /// # Errors
    /// None is named.
    pub(super) fn guest(&self) -> Result<&DeployId, TmError> {
        let missing = || TmError::Missing {
            what: "DEPLOY_ID".to_owned(),
            object: format!("VM {}", self.backup.dir.vm()),
        };
        self.backup.guest.as_ref().ok_or_else(missing)
    }

    fn path(&self, path: &std::path::Path) -> Result<DiskPath, TmError> {
        let wrong = |source| TmError::Argument { slot: self.slot.to_string(), position: 1, source };
        path.display().to_string().parse().map_err(wrong)
    }
}

/// How a guest rests in the moment that a backup is of.
pub(super) fn rest(freeze: Freeze, settings: &TmSettings) -> Option<BackupRest> {
    match freeze {
        Freeze::None => None,
        Freeze::Agent => Some(BackupRest::Agent { seconds: settings.agent_seconds() }),
        Freeze::Suspend => Some(BackupRest::Suspend),
    }
}
