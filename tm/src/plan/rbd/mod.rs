//! Disks that are volumes: `ceph` (contract TM 2.2).

use causeway_core::names::HostName;
use causeway_core::plan::{Slot, Step};

mod backup;
mod local;
mod restore;

use super::live::Live;
use super::{Transfer, carry, chain, files, one, step};
use crate::carry::Part;
use crate::datastore::choose;
use crate::error::TmError;
use crate::facts::{CephFacts, DiskFacts, Facts, Needs, VmFacts, VmNeed, lcm};
use crate::host::{Blank, Call, Kept, SnapshotOrder};
use crate::place::{VmDir, VmFile};
use crate::rbd::{PoolName, RbdCall, RbdWork, Volume};
use crate::request::{Migration, Request, Service, Source, Verb};
use crate::settings::TmSettings;

pub(super) use backup::backup;
pub(super) use restore::{VolumeRestore, restoring};

/// What must be known before a plan can be made.
pub(super) fn needs(service: Service, request: &Request) -> Needs {
    if service.local {
        return local::needs(request);
    }
    let mut needs = Needs::default();
    let mut vm = |dir: &VmDir| needs.vm = Some(VmNeed::Document(dir.vm()));
    match request {
        Request::Give { file, .. } | Request::Make { file, .. } => {
            vm(file.dir());
            // `EC_POOL_NAME` is not among a disk's attributes.
            needs.datastores.insert(file.dir().datastore().id());
        }
        Request::Cpds { file, image_datastore: datastore, .. }
        | Request::DeleteFile { file, datastore, .. } => {
            vm(file.dir());
            needs.datastores.insert(*datastore);
            needs.hosts = true;
        }
        Request::DeleteDir { dir, .. } => {
            vm(dir);
            needs.datastores.insert(dir.datastore().id());
            needs.hosts = true;
        }
        Request::MvDir { to: (_, dir), .. } => vm(dir),
        Request::Resize { file, .. } | Request::Snapshot { file, .. } => vm(file.dir()),
        Request::Migrate(migration) if chain::passed_on(migration) => vm(&migration.dir),
        Request::Migrate(_) | Request::Mvds { .. } | Request::MvFile { .. } | Request::Context { .. } => {}
        Request::Backup(backup) => {
            // Which host has the directory is said by the VM, also to whoever clears it.
            vm(&backup.dir);
            needs.chain = service.verb.keeps_document();
            needs.limits = service.verb.keeps_document();
        }
        Request::Restore(restore) => {
            vm(&restore.dir);
            needs.datastores.insert(restore.dir.datastore().id());
            needs.backup = Some(restore.image);
        }
    }
    needs
}

/// The steps of a request that is about a disk or a VM's directory.
pub(super) fn plan(
    slot: &Slot,
    service: Service,
    request: Request,
    facts: &Facts,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    let planner = Planner { slot, verb: service.verb, facts, settings };
    if service.local {
        return planner.local(request);
    }
    match request {
        Request::Give { image, host, file, .. } => planner.give(&image, host, &file).map(one),
        Request::Mvds { host, file, .. } => {
            planner.nothing(&file, host, "the guest has written into the image itself")
        }
        Request::MvFile { to, file } => planner.nothing(&file, to, "every host sees the disk where it is"),
        Request::Cpds { host, file, image, snapshot, image_datastore } => {
            planner.save(host, &file, &image, snapshot, image_datastore).map(one)
        }
        Request::DeleteFile { host, file, datastore } => planner.delete(host, &file, datastore).map(one),
        Request::DeleteDir { host, dir } => planner.delete_dir(host, dir),
        Request::Make { size_mb, format, host, file } => planner.make(size_mb, &format, host, file).map(one),
        Request::Resize { host, file, size_mb } => planner.resize(host, &file, size_mb),
        Request::Snapshot { host, file, snapshot } => planner.snapshot(host, &file, snapshot),
        Request::MvDir { from, to } => planner.move_dir(from, to),
        Request::Context { .. } | Request::Migrate(_) | Request::Backup(_) | Request::Restore(_) => {
            Err(TmError::NotBuilt { slot: slot.to_string() })
        }
    }
}

/// `premigrate`, `postmigrate`, `failmigrate`: the disks are where they were. The VM's small files are copied before the
/// guest leaves, and go from one end when it is known where it stays; unless both hosts see one directory.
pub(super) fn migrate(
    slot: &Slot,
    migration: &Migration,
    argv: &[String],
    stdin: &[u8],
    facts: &Facts,
    settings: &TmSettings,
) -> Result<Transfer, TmError> {
    let Migration { verb, from, to, dir, chained } = migration;
    let nothing = |reason: &str| {
        let call = Call::Nothing { reason: reason.to_owned() };
        let name = format!("{}:{}", slot.verb(), slot.driver());
        step(name, from.clone(), &call, settings, false).map(one)
    };
    let mut transfer = match verb {
        _ if *chained => {
            nothing("the VM's files are another transfer manager's; its disks here are seen by every host")?
        }
        _ if from == to => nothing("the VM's files stay on their host")?,
        verb => {
            let part = match verb {
                Verb::Premigrate => Part::Copy,
                Verb::Postmigrate => Part::Leave,
                _ => Part::Drop,
            };
            let ends = ((from.clone(), dir.clone()), (to.clone(), dir.clone()));
            let name = format!("{}:{}", slot.verb(), slot.driver());
            let step = carry::part(name, ends.0, ends.1, (part, false), settings)?;
            // That the guest stayed is what is told, whatever else fails.
            one(if part == Part::Drop { step.ignored() } else { step })
        }
    };
    if chain::passed_on(migration) {
        chain::pass_on(&mut transfer, slot, argv, stdin, facts.vm(dir.vm())?, settings)?;
    }
    Ok(transfer)
}

struct Planner<'a> {
    slot: &'a Slot,
    verb: Verb,
    facts: &'a Facts,
    settings: &'a TmSettings,
}

/// How long a step may take, and whom it holds up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    /// Names and snapshots only.
    Short,
    /// It removes data, as long as that takes; but whoever waits for a delete waits for room.
    Removal,
    /// It copies data.
    Copy,
}

impl Planner<'_> {
    fn give(&self, image: &Source, host: HostName, file: &VmFile) -> Result<Step, TmError> {
        let (vm, disk) = self.disk(file)?;
        let image = image.volume()?;
        let work = if self.verb == Verb::Ln {
            RbdWork::Link { image, dir: file.dir().clone() }
        } else {
            let disk_volume = image.disk(vm.id, disk.id);
            let data_pool = self.data_pool(file.dir().datastore().id())?;
            let dir = file.dir().clone();
            RbdWork::Clone { image, disk: disk_volume, dir, grown_mb: disk.grown_mb(), data_pool }
        };
        self.step(file, host, work, Time::Short)
    }

    fn save(
        &self,
        host: HostName,
        file: &VmFile,
        image: &Source,
        snapshot: Option<u32>,
        datastore: u32,
    ) -> Result<Step, TmError> {
        let vm = self.vm(file.dir())?;
        let state = vm.lcm_state()?;
        // Of a stopped VM oned names the front-end, which need not reach the cluster.
        let away = matches!(state, lcm::HOTPLUG_SAVEAS_UNDEPLOYED | lcm::HOTPLUG_SAVEAS_STOPPED);
        let host = if away { self.bridge(host, vm, datastore)? } else { host };
        let data_pool = self.data_pool(datastore)?;
        let work = RbdWork::Save { disk: self.volume(file)?, snapshot, image: image.volume()?, data_pool };
        self.step(file, host, work, Time::Copy)
    }

    fn delete(&self, host: HostName, file: &VmFile, datastore: u32) -> Result<Step, TmError> {
        let (vm, disk) = self.disk(file)?;
        if disk.source.is_some() && !disk.clone {
            let reason = "the disk is an image, which stays".to_owned();
            return step(self.named(file), host, &Call::Nothing { reason }, self.settings, false);
        }
        let host = if vm.host.as_ref() == Some(&host) { host } else { self.bridge(host, vm, datastore)? };
        let trash = disk.ceph.trash(&object(vm, disk))?.unwrap_or(self.settings.ceph.trash);
        let time = if trash { Time::Copy } else { Time::Removal };
        self.step(file, host, RbdWork::Remove { volume: self.volume(file)?, trash }, time)
    }

    /// The checkpoint first: when the directory has gone, nobody asks again.
    fn delete_dir(&self, host: HostName, dir: VmDir) -> Result<Transfer, TmError> {
        let vm = self.vm(&dir)?;
        let id = dir.datastore().id();
        let ceph = &self.facts.datastore(id)?.ceph;
        let object = format!("datastore {id}");
        let volume = Volume::checkpoint(&self.pool(ceph, &object)?, vm.id);
        let trash = ceph.trash(&object)?.unwrap_or(self.settings.ceph.trash);
        let at =
            if vm.host.as_ref() == Some(&host) { host.clone() } else { self.bridge(host.clone(), vm, id)? };
        let call =
            RbdCall { cluster: ceph.cluster(&object)?, vm: vm.id, work: RbdWork::Remove { volume, trash } };
        let checkpoint = self.timed("delete:checkpoint".to_owned(), at, call, Time::Removal)?;
        let directory =
            step("delete".to_owned(), host, &Call::DeleteDir { dir, keep: None }, self.settings, false)?;
        Ok(Transfer { steps: vec![checkpoint, directory], ..Transfer::default() })
    }

    fn make(&self, size_mb: u64, format: &str, host: HostName, file: VmFile) -> Result<Step, TmError> {
        let (vm, disk) = self.disk(&file)?;
        if let Some(source) = &disk.source {
            // What has the name is replaced; here that would be an image.
            return Err(TmError::Attribute {
                attribute: "SOURCE".to_owned(),
                object: object(vm, disk),
                value: source.clone(),
                accepted: "empty: only a disk without an image is made anew".into(),
            });
        }
        let blank = match (format, &disk.fs) {
            ("swap", _) => Blank::Swap,
            ("raw", None) => Blank::Empty,
            ("raw", Some(fs)) => files::file_system(fs, &file, self.settings)?,
            (other, _) => {
                return Err(TmError::Attribute {
                    attribute: "format".to_owned(),
                    object: format!("{} of VM {}", file.name(), file.dir().vm()),
                    value: other.to_owned(),
                    accepted: "raw or swap: a volume has no other".into(),
                });
            }
        };
        let time = if blank == Blank::Empty { Time::Removal } else { Time::Copy };
        let data_pool = self.data_pool(file.dir().datastore().id())?;
        let work =
            RbdWork::Make { disk: self.volume(&file)?, size_mb, blank, beside: file.clone(), data_pool };
        self.step(&file, host, work, time)
    }

    fn resize(&self, host: HostName, file: &VmFile, size_mb: u64) -> Result<Transfer, TmError> {
        if self.vm(file.dir())?.lcm_state()? == lcm::DISK_RESIZE {
            return self.nothing(file, host, "the disk is in use: its hypervisor grows it");
        }
        let work = RbdWork::Resize { disk: self.volume(file)?, size_mb };
        self.step(file, host, work, Time::Short).map(one)
    }

    fn snapshot(&self, host: HostName, file: &VmFile, id: u32) -> Result<Transfer, TmError> {
        let (vm, disk) = self.disk(file)?;
        if disk.disk_type.as_deref() != Some("RBD") {
            return Err(TmError::Attribute {
                attribute: "TYPE".to_owned(),
                object: object(vm, disk),
                value: disk.disk_type.clone().unwrap_or_default(),
                accepted: "RBD: only volumes have snapshots in the cluster".into(),
            });
        }
        let (order, time) = match self.verb {
            Verb::SnapCreate => (SnapshotOrder::Create, Time::Short),
            Verb::SnapRevert => (SnapshotOrder::Revert, Time::Removal),
            Verb::SnapDelete => (SnapshotOrder::Delete, Time::Removal),
            _ => return self.live_snapshot(host, file, id),
        };
        let work = RbdWork::Snapshot { disk: self.volume(file)?, order, id, running: false };
        self.step(file, host, work, time).map(one)
    }

    /// Of a running guest's disk: its agent, where there is one, writes out what it has and waits for the moment. Without
    /// one the snapshot is what a loss of power would leave, as with the stock driver.
    fn live_snapshot(&self, host: HostName, file: &VmFile, id: u32) -> Result<Transfer, TmError> {
        let at = (host.clone(), file.clone());
        let live =
            Live::of("snap_create_live", self.vm(file.dir())?, at, (Kept::Beside, false), self.settings)?;
        let work = |order, running| -> Result<RbdWork, TmError> {
            Ok(RbdWork::Snapshot { disk: self.volume(file)?, order, id, running })
        };
        let mut made = self.step(file, host.clone(), work(SnapshotOrder::Create, true)?, Time::Short)?;
        let mut removed = self.step(file, host, work(SnapshotOrder::Delete, false)?, Time::Removal)?;
        made.name.push_str(":snapshot");
        removed.name.push_str(":drop");
        let made = made.undone_by(vec![removed]);
        let [freeze, thaw] = live.rest();
        Ok(Transfer { steps: vec![freeze, made, thaw], ..Transfer::default() })
    }

    fn move_dir(&self, from: (HostName, VmDir), to: (HostName, VmDir)) -> Result<Transfer, TmError> {
        let ((from, old), (to, dir)) = (from, to);
        if old != dir {
            let what = format!("{}: moving a VM from {old} to {dir} is not built", self.slot);
            return Err(TmError::NotYet(what));
        }
        let nothing = |reason: &str| {
            let call = Call::Nothing { reason: reason.to_owned() };
            step("mv".to_owned(), to.clone(), &call, self.settings, false).map(one)
        };
        // The host it comes from is not to be had.
        let lost = [lcm::UNKNOWN, lcm::PROLOG_MIGRATE_UNKNOWN, lcm::PROLOG_MIGRATE_UNKNOWN_FAILURE];
        if lost.contains(&self.vm(&dir)?.lcm_state()?) {
            return nothing("the host that has the VM's files can't be asked for them");
        }
        if from == to {
            return nothing("the VM's files stay on their host");
        }
        carry::directory((from, old), (to, dir), false, self.settings).map(one)
    }

    /// The volume that a VM's disk is (contract TM 2.2, *Naming*).
    fn volume(&self, file: &VmFile) -> Result<Volume, TmError> {
        let (vm, disk) = self.disk(file)?;
        let object = object(vm, disk);
        let Some(source) = &disk.source else {
            // A disk of an image without its SOURCE must not be taken for a volatile one (W41).
            let volatile = disk
                .disk_type
                .as_deref()
                .is_some_and(|t| matches!(t.to_ascii_lowercase().as_str(), "fs" | "swap"));
            if volatile {
                return Ok(Volume::volatile(&self.pool(&disk.ceph, &object)?, vm.id, disk.id));
            }
            return Err(vm.missing(format!("DISK {} SOURCE", disk.id)));
        };
        let image: Volume =
            source.parse().map_err(|e: causeway_core::names::NameError| TmError::Attribute {
                attribute: "SOURCE".to_owned(),
                object,
                value: source.clone(),
                accepted: e.to_string().into(),
            })?;
        Ok(if disk.clone { image.disk(vm.id, disk.id) } else { image })
    }

    fn pool(&self, ceph: &CephFacts, object: &str) -> Result<PoolName, TmError> {
        Ok(ceph.pool(object)?.unwrap_or_else(|| self.settings.ceph.pool.clone()))
    }

    /// `EC_POOL_NAME` of the datastore that a new volume belongs to.
    fn data_pool(&self, datastore: u32) -> Result<Option<PoolName>, TmError> {
        let ceph = &self.facts.datastore(datastore)?.ceph;
        let object = format!("datastore {datastore}");
        ceph.check_format(&object, &self.settings.ceph.format)?;
        ceph.data_pool(&object)
    }

    /// One of the hosts that may be asked to work on a datastore (`BRIDGE_LIST`), of those that are up; the one that is
    /// named if there is no list.
    fn bridge(&self, host: HostName, vm: &VmFacts, datastore: u32) -> Result<HostName, TmError> {
        let bridges = &self.facts.datastore(datastore)?.bridges;
        if bridges.is_empty() {
            return Ok(host);
        }
        let unknown = || TmError::Missing { what: "HOST".to_owned(), object: "the pool of hosts".to_owned() };
        let hosts = self.facts.hosts.as_ref().ok_or_else(unknown)?;
        let chosen = choose(bridges, hosts, vm.id.0).cloned();
        chosen.map_err(|failure| TmError::LookUp { what: format!("datastore {datastore}"), failure })
    }

    /// Sees to it that a disk is a volume.
    fn expect_volume(&self, file: &VmFile) -> Result<(), TmError> {
        let (vm, disk) = self.disk(file)?;
        let kind = disk.disk_type.as_deref().unwrap_or_default().to_ascii_lowercase();
        if matches!(kind.as_str(), "rbd" | "fs" | "swap") {
            return Ok(());
        }
        Err(TmError::Attribute {
            attribute: "TYPE".to_owned(),
            object: object(vm, disk),
            value: disk.disk_type.clone().unwrap_or_default(),
            accepted: "RBD, fs or swap: the backup of a VM in this datastore is made of volumes".into(),
        })
    }

    fn nothing(&self, file: &VmFile, host: HostName, reason: &str) -> Result<Transfer, TmError> {
        let call = Call::Nothing { reason: reason.to_owned() };
        step(self.named(file), host, &call, self.settings, false).map(one)
    }

    fn step(&self, file: &VmFile, host: HostName, work: RbdWork, time: Time) -> Result<Step, TmError> {
        let (vm, disk) = self.disk(file)?;
        let call = RbdCall { cluster: disk.ceph.cluster(&object(vm, disk))?, vm: vm.id, work };
        self.timed(self.named(file), host, call, time)
    }

    fn timed(
        &self,
        name: String,
        host: HostName,
        call: impl Into<Call>,
        time: Time,
    ) -> Result<Step, TmError> {
        let mut step = step(name, host, &call.into(), self.settings, time == Time::Copy)?;
        if time == Time::Removal {
            step.deadline = self.settings.copy_deadline;
        }
        Ok(step)
    }

    fn named(&self, file: &VmFile) -> String {
        files::named(self.slot, file)
    }

    fn vm(&self, dir: &VmDir) -> Result<&VmFacts, TmError> {
        self.facts.vm(dir.vm())
    }

    fn disk(&self, file: &VmFile) -> Result<(&VmFacts, &DiskFacts), TmError> {
        let vm = self.vm(file.dir())?;
        let Some(number) = file.name().disk() else {
            let what = format!("{}: {} is no disk, and a cluster keeps nothing else", self.slot, file.name());
            return Err(TmError::NotYet(what));
        };
        Ok((vm, vm.disk(number)?))
    }
}

fn object(vm: &VmFacts, disk: &DiskFacts) -> String {
    format!("DISK {} of VM {}", disk.id, vm.id)
}
