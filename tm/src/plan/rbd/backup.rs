//! `prebackup` and `postbackup` of disks that are volumes (contract TM 2.3).
//!
//! ```text
//! prebackup        directory ── disk.N:ready ... ── disk.N:snapshot ... ── disk.N ... ── disk.N:drop ...
//! prebackup_live   directory ── disk.N:ready ... ── freeze ── disk.N:snapshot ... ── thaw ── disk.N ... ── disk.N:drop ...
//! postbackup*      directory
//! ```
//!
//! `drop` is for whole backups: the snapshots of a chain stay. The files and the cluster are worked on by `LAST_BRIDGE`
//! where that is set, for there the backup's driver looks for them; the guest is brought to rest where it runs.

use causeway_core::plan::{DiskOrder, Slot, Step};

use super::super::backup::{Planner as Common, rest};
use super::super::live::runs_by_libvirt;
use super::{Planner, RbdCall, RbdWork, Time, Transfer, object};
use crate::error::TmError;
use crate::facts::{Extent, Facts, Freeze, VmFacts};
use crate::host::Call;
use crate::place::VmFile;
use crate::rbd::BackupPart;
use crate::request::{Backup, Service, Verb};
use crate::settings::TmSettings;

/// The steps; `stdin` is the VM's document as it came, which the backup keeps.
pub(in crate::plan) fn backup(
    slot: &Slot,
    service: Service,
    backup: &Backup,
    stdin: &[u8],
    facts: &Facts,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    let vm = facts.vm(backup.dir.vm())?;
    let name = format!("VM {}", vm.id);
    let mut common = Common::new(slot, backup, vm.backup.bridge(&name)?, settings);
    if !service.verb.keeps_document() {
        return Ok(Transfer { steps: vec![common.clear()?], ..Transfer::default() });
    }
    if let Some(image) = vm.backup.followed(&name)? {
        let object = format!("backup image {image}");
        let missing = || TmError::Missing { what: "IMAGE".to_owned(), object: object.clone() };
        facts.backup.as_ref().ok_or_else(missing)?.expect_images(&object)?;
    }
    common = common.within_limits(vm, facts)?;
    if vm.backup.tpm && common.host != backup.host {
        let what =
            format!("{name} has a TPM, whose state is on {}, and LAST_BRIDGE {}", backup.host, common.host);
        return Err(TmError::NotYet(format!("{what}: clear LAST_BRIDGE of its BACKUP_CONFIG")));
    }
    let planner = Planner { slot, verb: service.verb, facts, settings };
    let before = Before { planner, common, extent: vm.backup.extent(&name)? };
    let files = backup.disks.iter().map(|number| before.file(backup, *number));
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let live = service.verb == Verb::PrebackupLive;
    let freeze = vm.backup.freeze(&name)?;
    let steps = before.steps(vm, &files, live.then_some(freeze))?;
    before.common.with_document(steps, stdin)
}

struct Before<'a> {
    planner: Planner<'a>,
    common: Common<'a>,
    extent: Extent,
}

impl Before<'_> {
    fn steps(&self, vm: &VmFacts, files: &[VmFile], live: Option<Freeze>) -> Result<Vec<Step>, TmError> {
        let guest = match live {
            Some(_) => {
                runs_by_libvirt(vm)?;
                Some(self.common.guest()?.clone())
            }
            None => None,
        };
        let mut steps = vec![self.common.begin(vm, guest)?];
        for file in files {
            steps.push(self.work(file, ":ready", BackupPart::Ready, Time::Removal)?);
        }
        let [freeze, thaw] = match live {
            Some(freeze) => self.rest(freeze)?,
            None => [None, None],
        };
        steps.extend(freeze);
        for file in files {
            let snapshot = BackupPart::Snapshot { running: live.is_some() };
            let undo = self.work(file, ":undo", BackupPart::Drop, Time::Removal)?;
            steps.push(self.work(file, ":snapshot", snapshot, Time::Short)?.undone_by(vec![undo]));
        }
        steps.extend(thaw);
        for file in files {
            let copy = BackupPart::Copy { place: self.common.place.clone(), file: file.clone() };
            steps.push(self.work(file, "", copy, Time::Copy)?);
        }
        if self.extent == Extent::Full {
            for file in files {
                steps.push(self.work(file, ":drop", BackupPart::Drop, Time::Removal)?);
            }
        }
        Ok(steps)
    }

    /// The beginning and the end of the guest's rest.
    fn rest(&self, freeze: Freeze) -> Result<[Option<Step>; 2], TmError> {
        let settings = self.planner.settings;
        let Some(rest) = rest(freeze, settings) else { return Ok([None, None]) };
        let seconds = u32::try_from(settings.short_deadline.as_secs()).unwrap_or(u32::MAX);
        let thaw = DiskOrder::Thaw { agent_seconds: settings.agent_seconds() };
        let deadline = settings.short_deadline + settings.agent_wait;
        let order = |name, order| self.common.order(name, order, deadline);
        // It may be over by then.
        let undo = order("undo freeze", thaw.clone())?.ignored();
        let freeze = order("freeze", DiskOrder::Rest { rest, seconds })?.undone_by(vec![undo]);
        Ok([Some(freeze), Some(order("thaw", thaw)?)])
    }

    fn work(&self, file: &VmFile, name: &str, part: BackupPart, time: Time) -> Result<Step, TmError> {
        let (vm, disk) = self.planner.disk(file)?;
        let work = RbdWork::Backup { disk: self.planner.volume(file)?, extent: self.extent, part };
        let call = RbdCall { cluster: disk.ceph.cluster(&object(vm, disk))?, vm: vm.id, work };
        let mut call = Call::from(call);
        if time == Time::Copy {
            call = self.common.confined(call, &self.common.place.path())?;
        }
        let name = format!("{}{name}", self.planner.named(file));
        self.planner.timed(name, self.common.host.clone(), call, time)
    }

    fn file(&self, backup: &Backup, number: u32) -> Result<VmFile, TmError> {
        let path = backup.dir.path().join(format!("disk.{number}")).display().to_string();
        let wrong = |source| TmError::Argument { slot: self.planner.slot.to_string(), position: 1, source };
        let file: VmFile = path.parse().map_err(wrong)?;
        self.planner.expect_volume(&file)?;
        Ok(file)
    }
}
