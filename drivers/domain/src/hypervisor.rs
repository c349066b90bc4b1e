//! The one door to a hypervisor: a trait with a real side ([`Libvirt`](crate::Libvirt)) and a recording fake
//! ([`Fake`](crate::fake::Fake)).

use std::time::Duration;

use causeway_core::document::Bandwidths;
use causeway_core::names::DeployId;
use serde_json::Value;

use crate::disk::{AgentAnswer, Backup, Chain, DiskJob, JobEnd, JobInfo, Overlay};
use crate::domain::Domain;
use crate::domain_xml::{InterfaceBandwidths, Metadata};
use crate::error::DomainError;
use crate::host::{HostFacts, MemoryStats};
use crate::job::JobStats;
use crate::migrate::MigrateRequest;
use crate::snapshot::Snapshot;

/// Which form of a domain's XML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XmlView {
    /// As it runs now, without secrets.
    Live,
    /// As it may be sent to another host: what the destination's libvirt accepts in a migration.
    Migratable,
}

/// A host's hypervisor, asked by blocking calls.
///
/// * Every call has a deadline (the implementation's, or the request's) and then fails with
///   [`Cause::Silent`](crate::Cause::Silent).
/// * A domain that libvirt denies knowing is `Ok(None)` in [`lookup`](Hypervisor::lookup) and
///   [`Code::NoDomain`](crate::Code::NoDomain) elsewhere. A libvirt that cannot be asked is an error with
///   [`is_unknown`](DomainError::is_unknown), never "absent".
/// * A call that changes something is not repeated by the implementation; one that only reads may be, once.
/// * Both forms of [`DeployId`] are taken: the UUID, and the name `one-<VM id>`.
pub trait Hypervisor: Send + Sync {
    /// The domain of that id, or `None` if libvirt says that there is none.
    ///
    /// # Errors
    /// libvirt could not be asked.
    fn lookup(&self, id: &DeployId) -> Result<Option<Domain>, DomainError>;

    /// All active domains.
    ///
    /// # Errors
    /// libvirt could not be asked.
    fn list(&self) -> Result<Vec<Domain>, DomainError>;

    /// Starts a transient domain (`virDomainCreateXML`).
    ///
    /// # Errors
    /// libvirt refused, or could not be asked. With [`is_unknown`](DomainError::is_unknown) the domain may run.
    fn create(&self, xml: &str) -> Result<Domain, DomainError>;

    /// The domain's XML.
    ///
    /// # Errors
    /// The domain is absent, or libvirt could not be asked.
    fn xml(&self, id: &DeployId, view: XmlView) -> Result<String, DomainError>;

    /// OpenNebula's metadata of the domain, `None` if it has none.
    ///
    /// # Errors
    /// The domain is absent, its metadata are unreadable, or libvirt could not be asked.
    fn metadata(&self, id: &DeployId) -> Result<Option<Metadata>, DomainError>;

    /// Powers the domain off at once.
    ///
    /// # Errors
    /// The domain is absent or off, QEMU does not die, or libvirt could not be asked.
    fn destroy(&self, id: &DeployId) -> Result<(), DomainError>;

    /// Forgets the definition of a domain that became persistent; a running one goes on as a transient domain. Its
    /// firmware variables are kept.
    ///
    /// # Errors
    /// The domain is absent or transient, or libvirt could not be asked.
    fn undefine(&self, id: &DeployId) -> Result<(), DomainError>;

    /// Asks the guest by ACPI to shut down. Returns when the guest has been asked, not when it is off.
    ///
    /// # Errors
    /// The domain is absent or not running, or libvirt could not be asked.
    fn shutdown(&self, id: &DeployId) -> Result<(), DomainError>;

    /// Asks the guest to reboot.
    ///
    /// # Errors
    /// The domain is absent or not running, or libvirt could not be asked.
    fn reboot(&self, id: &DeployId) -> Result<(), DomainError>;

    /// Resets the virtual machine as its button would.
    ///
    /// # Errors
    /// The domain is absent or not running, or libvirt could not be asked.
    fn reset(&self, id: &DeployId) -> Result<(), DomainError>;

    /// Stops the virtual CPUs.
    ///
    /// # Errors
    /// The domain is absent or not running, or libvirt could not be asked.
    fn suspend(&self, id: &DeployId) -> Result<(), DomainError>;

    /// Starts the virtual CPUs again.
    ///
    /// # Errors
    /// The domain is absent or not paused, or libvirt could not be asked.
    fn resume(&self, id: &DeployId) -> Result<(), DomainError>;

    /// Sets the guest's clock from its hardware clock; needs the guest agent.
    ///
    /// # Errors
    /// No agent answers ([`Code::Agent`](crate::Code::Agent)), the domain is absent, or libvirt could not be asked.
    fn sync_time(&self, id: &DeployId) -> Result<(), DomainError>;

    /// Figures of the host.
    ///
    /// # Errors
    /// libvirt could not be asked.
    fn host(&self) -> Result<HostFacts, DomainError>;

    /// The host's capabilities as libvirt's XML.
    ///
    /// # Errors
    /// libvirt could not be asked.
    fn capabilities(&self) -> Result<String, DomainError>;

    /// The job that runs on the domain now; phase `None` if there is none.
    ///
    /// # Errors
    /// The domain is absent, or libvirt could not be asked.
    fn job(&self, id: &DeployId) -> Result<JobStats, DomainError>;

    /// The last job that ended on the domain; libvirt keeps the figures for a later reader. After a migration they are
    /// to be had at the destination; at the source only in a peer-to-peer migration, and not for long.
    ///
    /// # Errors
    /// The domain is absent, or libvirt could not be asked.
    fn completed_job(&self, id: &DeployId) -> Result<JobStats, DomainError>;

    /// Aborts the running job. A migration in pre-copy ends with the guest running at the source.
    ///
    /// # Errors
    /// No job runs, it cannot be aborted (post-copy), or libvirt could not be asked.
    fn abort_job(&self, id: &DeployId) -> Result<(), DomainError>;

    /// Switches a migration that was started with `post_copy` to post-copy. From here on the guest is lost if either
    /// host is.
    ///
    /// # Errors
    /// No such migration runs, or libvirt could not be asked.
    fn start_post_copy(&self, id: &DeployId) -> Result<(), DomainError>;

    /// Sets the pause that a migration may cost at its end (`downtime-limit`). QEMU spends it, it does not minimise it.
    ///
    /// # Errors
    /// The limit is zero, the domain is absent or not running, or libvirt could not be asked.
    fn set_max_downtime(&self, id: &DeployId, limit: Duration) -> Result<(), DomainError>;

    /// The pause that a migration may cost at its end.
    ///
    /// # Errors
    /// The domain is absent or not running, or libvirt could not be asked.
    fn max_downtime(&self, id: &DeployId) -> Result<Duration, DomainError>;

    /// Sets the cap on a migration's bandwidth, in MiB per second.
    ///
    /// # Errors
    /// The domain is absent or not running, or libvirt could not be asked.
    fn set_max_speed(&self, id: &DeployId, mib_per_second: u32) -> Result<(), DomainError>;

    /// Migrates the domain; returns when libvirt says that it is over. After the request's deadline the job is aborted,
    /// and [`Cause::Deadline`](crate::Cause::Deadline) says that libvirt confirmed the abort,
    /// [`Cause::Silent`](crate::Cause::Silent) that it did not.
    ///
    /// # Errors
    /// Any error leaves open where the guest runs: ask both hosts.
    fn migrate(&self, id: &DeployId, request: &MigrateRequest) -> Result<(), DomainError>;

    /// The domain's system snapshots (`virDomainListAllSnapshots`), each after its parent.
    ///
    /// # Errors
    /// The domain is absent, the hypervisor knows no snapshots ([`Code::Unsupported`](crate::Code::Unsupported)), or
    /// libvirt could not be asked.
    fn snapshots(&self, id: &DeployId) -> Result<Vec<Snapshot>, DomainError>;

    /// Gives the metadata of a snapshot back that lies in the domain's disks (`virDomainSnapshotCreateXML` with
    /// `REDEFINE`), as the one that the next snapshot descends from if it is `current`. Those that are there already
    /// are replaced.
    ///
    /// # Errors
    /// The text is no snapshot of this domain, its parent is unknown, the domain is absent, or libvirt could not be
    /// asked.
    fn redefine_snapshot(&self, id: &DeployId, xml: &str, current: bool) -> Result<(), DomainError>;

    /// Forgets the metadata of a snapshot (`virDomainSnapshotDelete` with `METADATA_ONLY`); what the disks hold of it
    /// stays.
    ///
    /// # Errors
    /// Domain or snapshot is absent, or libvirt could not be asked.
    fn forget_snapshot(&self, id: &DeployId, name: &str) -> Result<(), DomainError>;

    /// Passes a command (a JSON object with `execute`) to QEMU's monitor and returns what its answer has as `return`.
    /// libvirt marks the domain as tainted by it.
    ///
    /// # Errors
    /// QEMU refuses ([`Cause::Answer`](crate::Cause::Answer)), the domain is absent, or libvirt could not be asked.
    fn monitor(&self, id: &DeployId, command: &Value) -> Result<Value, DomainError>;

    /// The domain's memory figures.
    ///
    /// # Errors
    /// The domain is absent or not running, or libvirt could not be asked.
    fn memory(&self, id: &DeployId) -> Result<MemoryStats, DomainError>;

    /// The limits of all interfaces, as the domain has them now.
    ///
    /// # Errors
    /// The domain is absent, its XML can't be read ([`Cause::Answer`](crate::Cause::Answer)), or libvirt could not be
    /// asked.
    fn bandwidths(&self, id: &DeployId) -> Result<Vec<InterfaceBandwidths>, DomainError>;

    /// Sets both directions' limits of the interface with that device on the host, or that address
    /// (`virDomainSetInterfaceParameters`, live): by traffic control of the kernel, and by rows of the database where it
    /// is a port of Open vSwitch. After an error the interface may have other limits than libvirt says.
    ///
    /// # Errors
    /// No such interface, a limit beyond 32 bits, kernel or switch refuse, the domain is absent or off, or libvirt could
    /// not be asked.
    fn set_bandwidths(&self, id: &DeployId, device: &str, limits: &Bandwidths) -> Result<(), DomainError>;

    /// The chains of all disks, as the domain has them now.
    ///
    /// # Errors
    /// The domain is absent, its XML can't be read ([`Cause::Answer`](crate::Cause::Answer)), or libvirt could not be
    /// asked.
    fn disks(&self, id: &DeployId) -> Result<Vec<Chain>, DomainError>;

    /// Puts an overlay over one disk, in one call that does it or does not; see [`disk::snapshot`](crate::disk::snapshot)
    /// for the guest's rest and for what is found done.
    ///
    /// # Errors
    /// QEMU refused the file, the agent was asked to freeze and is not there ([`Code::Agent`](crate::Code::Agent),
    /// [`Code::Unsupported`](crate::Code::Unsupported)) or did not do it, the domain is absent or off, or libvirt could
    /// not be asked.
    fn snapshot_disk(&self, id: &DeployId, overlay: &Overlay) -> Result<(), DomainError>;

    /// Has the guest's agent freeze all file systems (`virDomainFSFreeze`); it is waited for that long, in whole
    /// seconds. Whoever calls this sees to it that [`thaw`](Hypervisor::thaw) is called too, whatever comes of it.
    ///
    /// # Errors
    /// The agent refused, or did not answer in time and may still freeze them; the domain is absent or not running; or
    /// libvirt could not be asked.
    fn freeze(&self, id: &DeployId, wait: Duration) -> Result<AgentAnswer, DomainError>;

    /// Has the guest's agent thaw all file systems (`virDomainFSThaw`). None may be frozen.
    ///
    /// # Errors
    /// As [`freeze`](Hypervisor::freeze).
    fn thaw(&self, id: &DeployId, wait: Duration) -> Result<AgentAnswer, DomainError>;

    /// Begins a job on the disk with that target, at most `bandwidth` bytes per second (0: no limit).
    ///
    /// # Errors
    /// Another job runs on the disk, a layer is not in its chain, QEMU refused a file, the domain is absent or off, or
    /// libvirt could not be asked.
    fn start_disk_job(
        &self,
        id: &DeployId,
        disk: &str,
        job: &DiskJob,
        bandwidth: u64,
    ) -> Result<(), DomainError>;

    /// The job that runs on the disk, if any (`virDomainGetBlockJobInfo`).
    ///
    /// # Errors
    /// The domain is absent or off, it has no such disk, or libvirt could not be asked.
    fn disk_job(&self, id: &DeployId, disk: &str) -> Result<Option<JobInfo>, DomainError>;

    /// Ends the job on the disk and waits for its end (`virDomainBlockJobAbort`).
    ///
    /// # Errors
    /// No job runs, it is not ready for a pivot, the domain is absent or off, or libvirt could not be asked.
    fn end_disk_job(&self, id: &DeployId, disk: &str, end: JobEnd) -> Result<(), DomainError>;

    /// Begins a backup of disks to files, and a checkpoint with it, in one moment (`virDomainBackupBegin`, push mode).
    /// Returns when it has begun; it is the domain's [`job`](Hypervisor::job) then.
    ///
    /// # Errors
    /// Another job runs, a checkpoint is missing or there already, QEMU can't open a file, the domain is absent or off,
    /// or libvirt could not be asked.
    fn begin_backup(&self, id: &DeployId, backup: &Backup) -> Result<(), DomainError>;

    /// The files of the backup that runs; none if none does.
    ///
    /// # Errors
    /// The domain is absent or off, or libvirt could not be asked.
    fn backup_files(&self, id: &DeployId) -> Result<Option<Vec<String>>, DomainError>;

    /// The domain's checkpoints of which the name is `prefix` and a number. libvirt forgets them when the domain is off;
    /// their bitmaps stay in the disks.
    ///
    /// # Errors
    /// The domain is absent or off, or libvirt could not be asked.
    fn checkpoints(&self, id: &DeployId, prefix: &str) -> Result<Vec<String>, DomainError>;

    /// Tells libvirt of a checkpoint whose bitmaps are in these disks (`virDomainCheckpointCreateXML` with `REDEFINE` and
    /// `REDEFINE_VALIDATE`).
    ///
    /// # Errors
    /// One of them has no such bitmap, or one that has missed something; the domain is absent or off, or libvirt could
    /// not be asked.
    fn redefine_checkpoint(&self, id: &DeployId, name: &str, disks: &[&str]) -> Result<(), DomainError>;

    /// Deletes a checkpoint and its bitmaps; nothing happens where there is none.
    ///
    /// # Errors
    /// QEMU refused, the domain is absent or off, or libvirt could not be asked.
    fn delete_checkpoint(&self, id: &DeployId, name: &str) -> Result<(), DomainError>;
}
