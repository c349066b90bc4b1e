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
use crate::error::TmError;
use crate::facts::{Extent, Facts, Format, Freeze, VmFacts};
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
    let place = BackupPlace { dir: backup.dir.clone(), base: settings.backup_base.clone() };
    let planner = Planner { slot, backup, place, settings };
    match service.verb {
        Verb::Postbackup => planner.after(false),
        Verb::PostbackupLive => planner.after(true),
        _ => planner.before(service, stdin, facts),
    }
}

struct Planner<'a> {
    slot: &'a Slot,
    backup: &'a Backup,
    place: BackupPlace,
    settings: &'a TmSettings,
}

impl Planner<'_> {
    /// A clean-up that fails does not unmake a backup (contract TM 2.3: it always ends well).
    fn after(&self, live: bool) -> Result<Transfer, TmError> {
        let mut steps = Vec::new();
        if live {
            steps.push(self.end()?.ignored());
        }
        let clear = BackupCall::Clear { place: self.place.clone() };
        steps.push(self.files("directory", clear)?.ignored());
        Ok(Transfer { steps, inputs: Default::default() })
    }

    fn before(&self, service: Service, stdin: &[u8], facts: &Facts) -> Result<Transfer, TmError> {
        let vm = facts.vm(self.backup.dir.vm())?;
        let object = format!("VM {}", vm.id);
        let extent = vm.backup.extent(&object)?;
        let disks = self.backup.disks.iter().map(|number| self.disk(service, vm, *number, extent));
        let disks = disks.collect::<Result<Vec<_>, _>>()?;
        if stdin.trim_ascii().is_empty() {
            let why = "it has no VM, which the backup is to keep as vm.xml".to_owned();
            return Err(TmError::Encoding { object: "standard input".to_owned(), why });
        }
        let live = service.verb == Verb::PrebackupLive;
        let mut steps = Vec::new();
        if live {
            runs_by_libvirt(vm)?;
            steps.push(self.end()?);
        }
        let guest = if live { Some(self.guest()?.clone()) } else { None };
        let begin = BackupCall::Begin { place: self.place.clone(), tpm: vm.backup.tpm, guest };
        let mut begin = self.files("directory", begin)?;
        if let Work::Transfer { inputs, .. } = &mut begin.work {
            inputs.push(VM_INPUT.to_owned());
        }
        steps.push(begin);
        if live {
            steps.extend(self.live(vm, &disks, extent, vm.backup.freeze(&object)?)?);
        } else {
            for disk in disks {
                let name = disk.file.name().to_string();
                let place = self.place.clone();
                steps.push(self.files(&name, BackupCall::Disk { place, disk })?);
            }
        }
        let document = Input::new(encode_lines(stdin));
        Ok(Transfer { steps, inputs: [(VM_INPUT.to_owned(), Source::Bytes(document))].into() })
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
        let rest = match freeze {
            Freeze::None => None,
            Freeze::Agent => Some(BackupRest::Agent { seconds: self.settings.agent_seconds() }),
            Freeze::Suspend => Some(BackupRest::Suspend),
        };
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

    fn order(&self, name: &str, order: DiskOrder, deadline: std::time::Duration) -> Result<Step, TmError> {
        let work = Work::GuestDisk { id: self.guest()?.clone(), order };
        Ok(Step::new(format!("{}:{name}", self.slot.verb()), Place::Host(self.host()), work, deadline))
    }

    fn files(&self, name: &str, call: BackupCall) -> Result<Step, TmError> {
        let long = call.copies();
        let name = format!("{}:{name}", self.slot.verb());
        step(name, self.host(), &Call::Backup(Box::new(call)), self.settings, long)
    }

    fn host(&self) -> HostName {
        self.backup.host.clone()
    }

    fn guest(&self) -> Result<&DeployId, TmError> {
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
