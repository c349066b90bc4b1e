//! The fake's side of [`Hypervisor`].

use std::thread;
use std::time::{Duration, Instant};

use causeway_core::document::Bandwidths;
use causeway_core::names::DeployId;
use serde_json::Value;
use uuid::Uuid;

use super::guest::{Guest, absent};
use super::{Fake, Inner};
use crate::disk::{AgentAnswer, Backup, Chain, DiskJob, JobEnd, JobInfo, Overlay};
use crate::domain::{Domain, PauseReason, State};
use crate::domain_xml::{self, InterfaceBandwidths, Metadata};
use crate::error::{Cause, Code, DomainError, Operation};
use crate::host::{HostFacts, MemoryStats};
use crate::hypervisor::{Hypervisor, XmlView};
use crate::job::{JobOperation, JobPhase, JobStats};
use crate::migrate::MigrateRequest;
use crate::snapshot::Snapshot;

/// How often a migration that takes time looks whether it is to stop.
const TICK: Duration = Duration::from_millis(2);

impl Fake {
    /// A call that concerns one domain that must be there.
    pub(super) fn on_guest<T>(
        &self,
        operation: Operation,
        id: &DeployId,
        detail: impl ToString,
        work: impl FnOnce(&mut Guest) -> Result<T, Cause>,
    ) -> Result<T, DomainError> {
        self.answer(operation, id.as_str(), detail.to_string(), |inner| {
            work(inner.find_mut(id).ok_or_else(absent)?)
        })
    }

    fn on_host<T>(
        &self,
        operation: Operation,
        work: impl FnOnce(&mut Inner) -> Result<T, Cause>,
    ) -> Result<T, DomainError> {
        let hostname = self.lock().host.hostname.clone();
        self.answer(operation, &hostname, String::new(), work)
    }

    /// Waits the time that a migration takes. `Err` if it was aborted or the domain is gone.
    fn migration(&self, id: &DeployId, request: &MigrateRequest) -> Result<(), Cause> {
        let takes = self.lock().migration_takes;
        let start = Instant::now();
        while start.elapsed() < takes {
            thread::sleep(TICK);
            let mut inner = self.lock();
            let guest = inner.find_mut(id).ok_or_else(absent)?;
            if guest.abort_wanted {
                return Err(Cause::libvirt(Code::Aborted, "canceled by client"));
            }
            if start.elapsed() >= request.deadline {
                return Err(Cause::Deadline(request.deadline));
            }
        }
        Ok(())
    }

    /// The peer takes the guest, then the source lets go of it, as libvirt does.
    fn hand_over(&self, id: &DeployId, request: &MigrateRequest) -> Result<(), Cause> {
        let (mut guest, peer) = {
            let inner = self.lock();
            let guest = inner.find(id).ok_or_else(absent)?.clone();
            (guest, inner.peers.get(&request.destination).cloned())
        };
        let peer = peer.ok_or_else(Cause::unreachable)?;
        let arrived = Domain {
            state: match request.paused {
                true => State::Paused(PauseReason::Migration),
                false => State::Running,
            },
            persistent: false,
            ..guest.domain.clone()
        };
        if let Some(xml) = &request.dest_xml {
            guest.xml.clone_from(xml);
        }
        let completed_job = JobStats {
            phase: JobPhase::Completed,
            operation: JobOperation::MigrationIn,
            success: Some(true),
            ..guest.job
        };
        peer.arrive(Guest { completed_job, ..Guest::new(arrived, &guest.xml) })?;
        self.lock().stop(id);
        Ok(())
    }

    fn arrive(&self, mut guest: Guest) -> Result<(), Cause> {
        let mut inner = self.lock();
        if inner.unreachable {
            return Err(Cause::unreachable());
        }
        inner.check_free(&guest.domain)?;
        guest.domain.id = Some(inner.new_id());
        inner.guests.push(guest);
        Ok(())
    }
}

impl Inner {
    fn new_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn check_free(&self, wanted: &Domain) -> Result<(), Cause> {
        let taken = self.guests.iter().any(|g| g.domain.uuid == wanted.uuid || g.domain.name == wanted.name);
        match taken {
            true => Err(Cause::libvirt(Code::Exists, format!("domain '{}' already exists", wanted.name))),
            false => Ok(()),
        }
    }

    fn create(&mut self, xml: &str) -> Result<Domain, Cause> {
        let facts = domain_xml::facts(xml).map_err(|e| Cause::libvirt(Code::Xml, e.to_string()))?;
        let id = self.new_id();
        let domain = Domain {
            // libvirt would draw a random one; a test wants to know it.
            uuid: facts.uuid.unwrap_or(Uuid::from_u128(u128::from(id))),
            name: facts.name,
            id: Some(id),
            state: State::Running,
            persistent: false,
        };
        self.check_free(&domain)?;
        self.guests.push(Guest::new(domain.clone(), xml));
        Ok(domain)
    }
}

impl Hypervisor for Fake {
    fn lookup(&self, id: &DeployId) -> Result<Option<Domain>, DomainError> {
        self.answer(Operation::Lookup, id.as_str(), String::new(), |inner| {
            Ok(inner.find(id).map(|g| g.domain.clone()))
        })
    }

    fn list(&self) -> Result<Vec<Domain>, DomainError> {
        self.on_host(Operation::List, |inner| {
            let active = inner.guests.iter().map(|g| &g.domain);
            Ok(active.filter(|d| d.state.is_active()).cloned().collect())
        })
    }

    fn create(&self, xml: &str) -> Result<Domain, DomainError> {
        let name = domain_xml::facts(xml).map_or_else(|_| "domain".to_owned(), |f| f.name);
        self.answer(Operation::Create, &name, String::new(), |inner| inner.create(xml))
    }

    fn xml(&self, id: &DeployId, view: XmlView) -> Result<String, DomainError> {
        let detail = format!("{view:?}");
        self.on_guest(Operation::Xml, id, detail, |guest| Ok(guest.xml.clone()))
    }

    fn metadata(&self, id: &DeployId) -> Result<Option<Metadata>, DomainError> {
        self.on_guest(Operation::Metadata, id, "", |guest| {
            let facts = domain_xml::facts(&guest.xml);
            Ok(facts.map_err(|e| Cause::Answer(e.to_string()))?.metadata)
        })
    }

    fn destroy(&self, id: &DeployId) -> Result<(), DomainError> {
        self.answer(Operation::Destroy, id.as_str(), String::new(), |inner| {
            inner.find(id).ok_or_else(absent)?.check_active()?;
            inner.stop(id);
            Ok(())
        })
    }

    fn undefine(&self, id: &DeployId) -> Result<(), DomainError> {
        self.answer(Operation::Undefine, id.as_str(), String::new(), |inner| {
            let guest = inner.find_mut(id).ok_or_else(absent)?;
            if !guest.domain.persistent {
                return Err(Cause::libvirt(Code::WrongState, "domain is transient"));
            }
            guest.domain.persistent = false;
            inner.guests.retain(|g| !g.is(id) || g.domain.state.is_active());
            Ok(())
        })
    }

    fn shutdown(&self, id: &DeployId) -> Result<(), DomainError> {
        self.answer(Operation::Shutdown, id.as_str(), String::new(), |inner| {
            let guest = inner.find(id).ok_or_else(absent)?;
            guest.check_running()?;
            if !guest.ignores_shutdown {
                inner.stop(id);
            }
            Ok(())
        })
    }

    fn reboot(&self, id: &DeployId) -> Result<(), DomainError> {
        self.on_guest(Operation::Reboot, id, "", |g| g.check_running())
    }

    fn reset(&self, id: &DeployId) -> Result<(), DomainError> {
        self.on_guest(Operation::Reset, id, "", |g| g.check_active())
    }

    fn suspend(&self, id: &DeployId) -> Result<(), DomainError> {
        self.on_guest(Operation::Suspend, id, "", |guest| {
            guest.check_active()?;
            guest.domain.state = State::Paused(PauseReason::User);
            Ok(())
        })
    }

    fn resume(&self, id: &DeployId) -> Result<(), DomainError> {
        self.on_guest(Operation::Resume, id, "", |guest| {
            guest.check_active()?;
            guest.domain.state = State::Running;
            Ok(())
        })
    }

    fn sync_time(&self, id: &DeployId) -> Result<(), DomainError> {
        self.on_guest(Operation::SyncTime, id, "", |g| g.check_running())
    }

    fn host(&self) -> Result<HostFacts, DomainError> {
        self.on_host(Operation::Host, |inner| Ok(inner.host.clone()))
    }

    fn capabilities(&self) -> Result<String, DomainError> {
        self.on_host(Operation::Capabilities, |inner| Ok(inner.capabilities.clone()))
    }

    fn job(&self, id: &DeployId) -> Result<JobStats, DomainError> {
        self.on_guest(Operation::Job, id, "", |g| Ok(g.look_at_backup()))
    }

    fn completed_job(&self, id: &DeployId) -> Result<JobStats, DomainError> {
        self.on_guest(Operation::CompletedJob, id, "", |g| Ok(g.completed_job.clone()))
    }

    fn abort_job(&self, id: &DeployId) -> Result<(), DomainError> {
        self.on_guest(Operation::AbortJob, id, "", |guest| {
            if !guest.job.is_running() {
                return Err(Cause::libvirt(Code::WrongState, "no job is active"));
            }
            if !guest.end_backup(JobPhase::Cancelled) {
                guest.abort_wanted = true;
            }
            Ok(())
        })
    }

    fn start_post_copy(&self, id: &DeployId) -> Result<(), DomainError> {
        self.on_guest(Operation::StartPostCopy, id, "", |guest| {
            if !guest.job.is_running() {
                return Err(Cause::libvirt(Code::WrongState, "no migration runs"));
            }
            guest.post_copy = true;
            Ok(())
        })
    }

    fn set_max_downtime(&self, id: &DeployId, limit: Duration) -> Result<(), DomainError> {
        let detail = format!("{limit:?}");
        self.on_guest(Operation::SetMaxDowntime, id, detail, |guest| {
            guest.check_active()?;
            if limit < Duration::from_millis(1) {
                return Err(Cause::Input("the downtime limit is zero".to_owned()));
            }
            guest.max_downtime = limit;
            Ok(())
        })
    }

    fn max_downtime(&self, id: &DeployId) -> Result<Duration, DomainError> {
        self.on_guest(Operation::MaxDowntime, id, "", |guest| {
            guest.check_active()?;
            Ok(guest.max_downtime)
        })
    }

    fn set_max_speed(&self, id: &DeployId, mib_per_second: u32) -> Result<(), DomainError> {
        self.on_guest(Operation::SetMaxSpeed, id, mib_per_second, |guest| {
            guest.check_active()?;
            guest.max_speed = Some(mib_per_second);
            Ok(())
        })
    }

    fn migrate(&self, id: &DeployId, request: &MigrateRequest) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::Migrate, id, cause);
        let detail = format!("{:?} {}", request.drive, request.destination);
        let after = {
            let mut inner = self.lock();
            let after = inner.record(Operation::Migrate, id.as_str(), detail).map_err(fail)?;
            request.check().map_err(|e| fail(Cause::Input(e)))?;
            let guest = inner.find_mut(id).ok_or_else(|| fail(absent()))?;
            guest.check_active().map_err(fail)?;
            guest.check_movable().map_err(fail)?;
            guest.job.phase = JobPhase::Unbounded;
            guest.job.operation = JobOperation::MigrationOut;
            guest.abort_wanted = false;
            after
        };
        let outcome = self.migration(id, request).and_then(|()| self.hand_over(id, request));
        self.change(id, |guest| guest.job = JobStats::default());
        outcome.map_err(fail)?;
        after.map_or(Ok(()), |cause| Err(fail(cause)))
    }

    fn snapshots(&self, id: &DeployId) -> Result<Vec<Snapshot>, DomainError> {
        self.on_guest(Operation::Snapshots, id, "", |guest| Ok(guest.snapshots.clone()))
    }

    fn redefine_snapshot(&self, id: &DeployId, xml: &str, current: bool) -> Result<(), DomainError> {
        let fail = |error: domain_xml::XmlError| {
            let cause = Cause::libvirt(Code::Xml, error.to_string());
            DomainError::new(Operation::RedefineSnapshot, id, cause)
        };
        let name = domain_xml::snapshot_name(xml).map_err(fail)?;
        self.on_guest(Operation::RedefineSnapshot, id, name.clone(), |guest| {
            if current {
                guest.snapshots.iter_mut().for_each(|snapshot| snapshot.current = false);
            }
            guest.snapshots.retain(|snapshot| snapshot.name != name);
            guest.snapshots.push(Snapshot { name, xml: xml.to_owned(), current });
            Ok(())
        })
    }

    fn forget_snapshot(&self, id: &DeployId, name: &str) -> Result<(), DomainError> {
        self.on_guest(Operation::ForgetSnapshot, id, name, |guest| {
            let before = guest.snapshots.len();
            guest.snapshots.retain(|snapshot| snapshot.name != name);
            match guest.snapshots.len() == before {
                true => Err(Cause::libvirt(Code::Other, format!("no snapshot '{name}'"))),
                false => Ok(()),
            }
        })
    }

    fn monitor(&self, id: &DeployId, command: &Value) -> Result<Value, DomainError> {
        let name = command.get("execute").and_then(Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        self.answer(Operation::Monitor, id.as_str(), command.to_string(), |inner| {
            inner.find(id).ok_or_else(absent)?.check_active()?;
            let queued = inner.monitor.get_mut(&name).and_then(|q| q.pop_front());
            queued.ok_or_else(|| Cause::Answer(format!("no answer to {name} is queued")))
        })
    }

    fn memory(&self, id: &DeployId) -> Result<MemoryStats, DomainError> {
        self.on_guest(Operation::Memory, id, "", |guest| {
            guest.check_active()?;
            Ok(guest.memory)
        })
    }

    fn disks(&self, id: &DeployId) -> Result<Vec<Chain>, DomainError> {
        self.on_guest(Operation::Disks, id, "", |guest| Ok(guest.chains.clone()))
    }

    fn snapshot_disk(&self, id: &DeployId, overlay: &Overlay) -> Result<(), DomainError> {
        let quiesce = if overlay.quiesce.is_some() { " quiesced" } else { "" };
        let detail = format!("{} {}{quiesce}", overlay.disk, overlay.file);
        self.on_guest(Operation::SnapshotDisk, id, detail, |guest| guest.snapshot_disk(overlay))
    }

    fn begin_backup(&self, id: &DeployId, backup: &Backup) -> Result<(), DomainError> {
        let detail =
            format!("{} since {:?} begin {:?}", backup.disks().join(" "), backup.since, backup.begin);
        self.on_guest(Operation::BackUp, id, detail, |guest| guest.begin_backup(backup))
    }

    fn bandwidths(&self, id: &DeployId) -> Result<Vec<InterfaceBandwidths>, DomainError> {
        self.on_guest(Operation::Bandwidths, id, "", |guest| Ok(guest.interfaces.clone()))
    }

    fn set_bandwidths(&self, id: &DeployId, device: &str, limits: &Bandwidths) -> Result<(), DomainError> {
        let detail = format!("{device}: {limits}");
        self.on_guest(Operation::SetBandwidths, id, detail, |guest| guest.limit(device, limits))
    }

    fn backup_files(&self, id: &DeployId) -> Result<Option<Vec<String>>, DomainError> {
        self.on_guest(Operation::BackupFiles, id, "", Guest::backup_files)
    }

    fn checkpoints(&self, id: &DeployId, prefix: &str) -> Result<Vec<String>, DomainError> {
        self.on_guest(Operation::Checkpoints, id, prefix, |guest| guest.checkpoints_of(prefix))
    }

    fn redefine_checkpoint(&self, id: &DeployId, name: &str, disks: &[&str]) -> Result<(), DomainError> {
        let detail = format!("{name} of {}", disks.join(" "));
        self.on_guest(Operation::RedefineCheckpoint, id, detail, |guest| {
            guest.redefine_checkpoint(name, disks)
        })
    }

    fn delete_checkpoint(&self, id: &DeployId, name: &str) -> Result<(), DomainError> {
        self.on_guest(Operation::DeleteCheckpoint, id, name, |guest| guest.delete_checkpoint(name))
    }

    fn freeze(&self, id: &DeployId, wait: Duration) -> Result<AgentAnswer, DomainError> {
        self.on_guest(Operation::Freeze, id, format!("{wait:?}"), |guest| guest.ask_agent(true))
    }

    fn thaw(&self, id: &DeployId, wait: Duration) -> Result<AgentAnswer, DomainError> {
        self.on_guest(Operation::Thaw, id, format!("{wait:?}"), |guest| guest.ask_agent(false))
    }

    fn start_disk_job(
        &self,
        id: &DeployId,
        disk: &str,
        job: &DiskJob,
        bandwidth: u64,
    ) -> Result<(), DomainError> {
        let detail = format!("{disk} {job:?} {bandwidth}");
        self.on_guest(Operation::StartDiskJob, id, detail, |guest| guest.start_job(disk, job, bandwidth))
    }

    fn disk_job(&self, id: &DeployId, disk: &str) -> Result<Option<JobInfo>, DomainError> {
        self.on_guest(Operation::DiskJob, id, disk, |guest| guest.look_at_job(disk))
    }

    fn end_disk_job(&self, id: &DeployId, disk: &str, end: JobEnd) -> Result<(), DomainError> {
        let detail = format!("{disk} {end:?}");
        self.on_guest(Operation::EndDiskJob, id, detail, |guest| guest.end_job(disk, end))
    }
}
