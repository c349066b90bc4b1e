//! The part of `restore` that is about volumes: what was fetched becomes one beside the disk, and takes its place when all
//! of them are whole.

use causeway_core::plan::{Slot, Step};

use super::{Planner, RbdCall, RbdWork, Time, object};
use crate::error::TmError;
use crate::facts::Facts;
use crate::place::VmFile;
use crate::rbd::RestorePart;
use crate::request::{Restore, Verb};
use crate::settings::TmSettings;

/// Plans them.
pub(in crate::plan) struct VolumeRestore<'a> {
    planner: Planner<'a>,
    restore: &'a Restore,
}

/// For a restore.
pub(in crate::plan) fn restoring<'a>(
    slot: &'a Slot,
    restore: &'a Restore,
    facts: &'a Facts,
    settings: &'a TmSettings,
) -> VolumeRestore<'a> {
    VolumeRestore { planner: Planner { slot, verb: Verb::Restore, facts, settings }, restore }
}

impl VolumeRestore<'_> {
    /// Sees to it that a disk is a volume.
    pub(in crate::plan) fn expect(&self, file: &VmFile) -> Result<(), TmError> {
        self.planner.expect_volume(file)
    }

    /// Sees to it that the disk may be replaced.
    pub(in crate::plan) fn look(&self, file: &VmFile) -> Result<Step, TmError> {
        self.work(file, "look", RestorePart::Look, Time::Short)
    }

    /// Makes a volume of what was fetched and, with the undo, gives it up again; then has it take the disk's place.
    pub(in crate::plan) fn steps(&self, file: &VmFile) -> Result<[Step; 2], TmError> {
        let size_mb = self.planner.disk(file)?.1.size_mb;
        let data_pool = self.planner.data_pool(file.dir().datastore().id())?;
        let make = RestorePart::Make { file: file.clone(), size_mb, data_pool };
        let undo = self.work(file, "undo", RestorePart::Drop, Time::Removal)?;
        let make = self.work(file, "make", make, Time::Copy)?.undone_by(vec![undo]);
        Ok([make, self.work(file, "put", RestorePart::Put, Time::Removal)?])
    }

    fn work(&self, file: &VmFile, name: &str, part: RestorePart, time: Time) -> Result<Step, TmError> {
        let (vm, disk) = self.planner.disk(file)?;
        let work = RbdWork::Restore { disk: self.planner.volume(file)?, backup: self.restore.image, part };
        let call = RbdCall { cluster: disk.ceph.cluster(&object(vm, disk))?, vm: vm.id, work };
        let name = format!("{}:{name}", self.planner.named(file));
        self.planner.timed(name, self.restore.host.clone(), call, time)
    }
}
