//! libvirt's side of [`Hypervisor`].

use std::time::Duration;

use causeway_core::document::Bandwidths;
use causeway_core::names::DeployId;
use serde_json::Value;
use virt::domain::Domain as Handle;
use virt::domain_snapshot::DomainSnapshot;
use virt::sys;

use super::{Libvirt, c_string, describe, stats};
use crate::disk::{AgentAnswer, Backup, Chain, DiskJob, JobEnd, JobInfo, Overlay};
use crate::domain::Domain;
use crate::domain_xml::{self, InterfaceBandwidths, METADATA_NAMESPACE, Metadata};
use crate::error::{Cause, Code, DomainError, Operation};
use crate::ffi;
use crate::host::{HostFacts, MemoryStats};
use crate::hypervisor::{Hypervisor, XmlView};
use crate::job::JobStats;
use crate::migrate::MigrateRequest;
use crate::snapshot::Snapshot;

impl Hypervisor for Libvirt {
    fn lookup(&self, id: &DeployId) -> Result<Option<Domain>, DomainError> {
        let wanted = id.clone();
        self.read(Operation::Lookup, id.as_str(), move |connection| describe::lookup(connection, &wanted))
    }

    fn list(&self) -> Result<Vec<Domain>, DomainError> {
        self.read(Operation::List, &self.uri, describe::list)
    }

    fn create(&self, xml: &str) -> Result<Domain, DomainError> {
        let name = domain_xml::facts(xml).map_or_else(|_| "domain".to_owned(), |f| f.name);
        c_string("the domain XML", xml).map_err(|cause| DomainError::new(Operation::Create, &name, cause))?;
        let xml = xml.to_owned();
        self.job(Operation::Create, &name, self.deadlines.create, move |connection| {
            let handle = Handle::create_xml(connection, &xml, sys::VIR_DOMAIN_NONE)?;
            describe::describe(&handle, false)
        })
    }

    fn xml(&self, id: &DeployId, view: XmlView) -> Result<String, DomainError> {
        let flags = match view {
            XmlView::Live => 0,
            XmlView::Migratable => sys::VIR_DOMAIN_XML_MIGRATABLE,
        };
        self.read_domain(Operation::Xml, id, move |handle| Ok(handle.get_xml_desc(flags)?))
    }

    fn metadata(&self, id: &DeployId) -> Result<Option<Metadata>, DomainError> {
        self.read_domain(Operation::Metadata, id, read_metadata)
    }

    fn destroy(&self, id: &DeployId) -> Result<(), DomainError> {
        let wanted = id.clone();
        let deadline = self.deadlines.destroy;
        self.job(Operation::Destroy, id.as_str(), deadline, move |connection| {
            Ok(describe::find(connection, &wanted)?.destroy()?)
        })
    }

    fn undefine(&self, id: &DeployId) -> Result<(), DomainError> {
        self.change_domain(Operation::Undefine, id, undefine)
    }

    fn shutdown(&self, id: &DeployId) -> Result<(), DomainError> {
        self.change_domain(Operation::Shutdown, id, |handle| {
            handle.shutdown()?;
            Ok(())
        })
    }

    fn reboot(&self, id: &DeployId) -> Result<(), DomainError> {
        self.change_domain(Operation::Reboot, id, |handle| Ok(handle.reboot(sys::VIR_DOMAIN_REBOOT_DEFAULT)?))
    }

    fn reset(&self, id: &DeployId) -> Result<(), DomainError> {
        self.change_domain(Operation::Reset, id, |handle| {
            handle.reset()?;
            Ok(())
        })
    }

    fn suspend(&self, id: &DeployId) -> Result<(), DomainError> {
        self.change_domain(Operation::Suspend, id, |handle| {
            handle.suspend()?;
            Ok(())
        })
    }

    fn resume(&self, id: &DeployId) -> Result<(), DomainError> {
        self.change_domain(Operation::Resume, id, |handle| {
            handle.resume()?;
            Ok(())
        })
    }

    fn sync_time(&self, id: &DeployId) -> Result<(), DomainError> {
        self.change_domain(Operation::SyncTime, id, |handle| {
            // The time passed is ignored with this flag.
            handle.set_time(0, 0, sys::VIR_DOMAIN_TIME_SYNC)?;
            Ok(())
        })
    }

    fn host(&self) -> Result<HostFacts, DomainError> {
        self.read(Operation::Host, &self.uri, describe::host)
    }

    fn capabilities(&self) -> Result<String, DomainError> {
        self.read(Operation::Capabilities, &self.uri, |connection| Ok(connection.get_capabilities()?))
    }

    fn job(&self, id: &DeployId) -> Result<JobStats, DomainError> {
        self.read_domain(Operation::Job, id, |handle| {
            let (kind, params) = ffi::job_stats(handle, 0)?;
            Ok(stats::job_stats(kind, params.read()))
        })
    }

    fn completed_job(&self, id: &DeployId) -> Result<JobStats, DomainError> {
        self.read_domain(Operation::CompletedJob, id, |handle| {
            let flags = sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED;
            let (kind, params) = ffi::job_stats(handle, flags)?;
            Ok(stats::job_stats(kind, params.read()))
        })
    }

    fn abort_job(&self, id: &DeployId) -> Result<(), DomainError> {
        self.change_domain(Operation::AbortJob, id, |handle| Ok(ffi::abort_job(handle)?))
    }

    fn start_post_copy(&self, id: &DeployId) -> Result<(), DomainError> {
        self.change_domain(Operation::StartPostCopy, id, |handle| Ok(ffi::start_post_copy(handle)?))
    }

    fn set_max_downtime(&self, id: &DeployId, limit: Duration) -> Result<(), DomainError> {
        let milliseconds = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        if milliseconds == 0 {
            let cause = Cause::Input("the downtime limit is zero".to_owned());
            return Err(DomainError::new(Operation::SetMaxDowntime, id, cause));
        }
        self.change_domain(Operation::SetMaxDowntime, id, move |handle| {
            handle.migrate_set_max_downtime(milliseconds, 0)?;
            Ok(())
        })
    }

    fn max_downtime(&self, id: &DeployId) -> Result<Duration, DomainError> {
        self.read_domain(Operation::MaxDowntime, id, |handle| {
            Ok(Duration::from_millis(ffi::max_downtime(handle)?))
        })
    }

    fn set_max_speed(&self, id: &DeployId, mib_per_second: u32) -> Result<(), DomainError> {
        self.change_domain(Operation::SetMaxSpeed, id, move |handle| {
            handle.migrate_set_max_speed(u64::from(mib_per_second), 0)?;
            Ok(())
        })
    }

    fn migrate(&self, id: &DeployId, request: &MigrateRequest) -> Result<(), DomainError> {
        self.run_migration(id, request)
    }

    fn snapshots(&self, id: &DeployId) -> Result<Vec<Snapshot>, DomainError> {
        self.read_domain(Operation::Snapshots, id, snapshots)
    }

    fn redefine_snapshot(&self, id: &DeployId, xml: &str, current: bool) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::RedefineSnapshot, id, cause);
        c_string("the snapshot's XML", xml).map_err(fail)?;
        let xml = xml.to_owned();
        let current = if current { sys::VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT } else { 0 };
        self.change_domain(Operation::RedefineSnapshot, id, move |handle| {
            let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | current;
            DomainSnapshot::create_xml(handle, &xml, flags)?;
            Ok(())
        })
    }

    fn forget_snapshot(&self, id: &DeployId, name: &str) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::ForgetSnapshot, id, cause);
        c_string("the snapshot's name", name).map_err(fail)?;
        let name = name.to_owned();
        self.change_domain(Operation::ForgetSnapshot, id, move |handle| {
            let snapshot = DomainSnapshot::lookup_by_name(handle, &name, 0)?;
            Ok(snapshot.delete(sys::VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)?)
        })
    }

    fn monitor(&self, id: &DeployId, command: &Value) -> Result<Value, DomainError> {
        let text = command.to_string();
        self.change_domain(Operation::Monitor, id, move |handle| {
            // serde_json escapes a zero byte, so the text has none.
            let answer = handle.qemu_monitor_command(&text, sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)?;
            monitor_answer(&answer)
        })
    }

    fn memory(&self, id: &DeployId) -> Result<MemoryStats, DomainError> {
        self.read_domain(Operation::Memory, id, describe::memory)
    }

    fn bandwidths(&self, id: &DeployId) -> Result<Vec<InterfaceBandwidths>, DomainError> {
        self.read_bandwidths(id)
    }

    fn set_bandwidths(&self, id: &DeployId, device: &str, limits: &Bandwidths) -> Result<(), DomainError> {
        self.write_bandwidths(id, device, limits)
    }

    fn disks(&self, id: &DeployId) -> Result<Vec<Chain>, DomainError> {
        self.read_chains(id)
    }

    fn snapshot_disk(&self, id: &DeployId, overlay: &Overlay) -> Result<(), DomainError> {
        self.put_overlay(id, overlay)
    }

    fn begin_backup(&self, id: &DeployId, backup: &Backup) -> Result<(), DomainError> {
        self.start_backup(id, backup)
    }

    fn backup_files(&self, id: &DeployId) -> Result<Option<Vec<String>>, DomainError> {
        self.read_backup(id)
    }

    fn checkpoints(&self, id: &DeployId, prefix: &str) -> Result<Vec<String>, DomainError> {
        self.read_checkpoints(id, prefix)
    }

    fn redefine_checkpoint(&self, id: &DeployId, name: &str, disks: &[&str]) -> Result<(), DomainError> {
        self.define_checkpoint(id, name, disks)
    }

    fn delete_checkpoint(&self, id: &DeployId, name: &str) -> Result<(), DomainError> {
        self.remove_checkpoint(id, name)
    }

    fn freeze(&self, id: &DeployId, wait: Duration) -> Result<AgentAnswer, DomainError> {
        self.ask_agent(Operation::Freeze, id, wait, ffi::freeze)
    }

    fn thaw(&self, id: &DeployId, wait: Duration) -> Result<AgentAnswer, DomainError> {
        self.ask_agent(Operation::Thaw, id, wait, ffi::thaw)
    }

    fn start_disk_job(
        &self,
        id: &DeployId,
        disk: &str,
        job: &DiskJob,
        bandwidth: u64,
    ) -> Result<(), DomainError> {
        self.start_job(id, disk, job, bandwidth)
    }

    fn disk_job(&self, id: &DeployId, disk: &str) -> Result<Option<JobInfo>, DomainError> {
        self.read_job(id, disk)
    }

    fn end_disk_job(&self, id: &DeployId, disk: &str, end: JobEnd) -> Result<(), DomainError> {
        self.end_job(id, disk, end)
    }
}

fn snapshots(handle: &Handle) -> Result<Vec<Snapshot>, Cause> {
    let known = handle.list_all_snapshots(sys::VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)?;
    let read = |snapshot: &DomainSnapshot| {
        Ok(Snapshot {
            name: snapshot.get_name()?,
            // Without its secrets it would not be the same domain to go back to.
            xml: snapshot.get_xml_desc(sys::VIR_DOMAIN_SNAPSHOT_XML_SECURE)?,
            current: snapshot.is_current(0)?,
        })
    };
    known.iter().map(read).collect()
}

fn read_metadata(handle: &Handle) -> Result<Option<Metadata>, Cause> {
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or_default();
    match handle.get_metadata(kind, Some(METADATA_NAMESPACE), 0) {
        Ok(xml) => match domain_xml::metadata(&xml) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) => Err(Cause::Answer(error.to_string())),
        },
        Err(error) => match Cause::from(error) {
            Cause::Libvirt { code: Code::NoMetadata, .. } => Ok(None),
            other => Err(other),
        },
    }
}

/// Undefines and keeps firmware variables and TPM state; a plain `undefine` fails for a guest with UEFI firmware.
///
/// Saved memory and snapshots are not thrown away with the definition: libvirt then refuses, and that is right.
fn undefine(handle: &Handle) -> Result<(), Cause> {
    let keep_nvram = sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM;
    let attempts = [keep_nvram | sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM, keep_nvram, 0];
    let mut refusal = Cause::Lost;
    for flags in attempts {
        match handle.undefine_flags(flags).map_err(Cause::from) {
            Ok(()) => return Ok(()),
            // A libvirt before 8.9, or a driver, that does not know the flag.
            Err(unknown @ Cause::Libvirt { code: Code::Unsupported | Code::Xml, .. }) => refusal = unknown,
            Err(other) => return Err(other),
        }
    }
    Err(refusal)
}

/// What QEMU answered: the value of `return`, or its error in words.
fn monitor_answer(text: &str) -> Result<Value, Cause> {
    let mut answer: Value =
        serde_json::from_str(text).map_err(|e| Cause::Answer(format!("{e} in {text:.80}")))?;
    match answer.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => {
            let reason = answer.pointer("/error/desc").and_then(Value::as_str);
            Err(Cause::Answer(reason.unwrap_or(text).to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_refusal_is_an_error_in_its_own_words() {
        let good = monitor_answer(r#"{"return":{"status":"measured"},"id":"libvirt-9"}"#);
        assert_eq!(good.unwrap().get("status").unwrap(), "measured");
        let refused = monitor_answer(r#"{"id":"x","error":{"class":"GenericError","desc":"no"}}"#);
        assert_eq!(refused, Err(Cause::Answer("no".to_owned())));
        assert!(monitor_answer("not JSON").is_err());
    }

    #[test]
    fn fuzz_monitor_answers() {
        crate::seeded::fuzz("qemu", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Err(cause) = monitor_answer(&text) {
                // What becomes of it is a line of a log.
                assert!(matches!(cause, Cause::Answer(_)), "{cause:?}");
            }
        });
    }
}
