//! The figures of a domain's job: a running migration, or the last one that ended.
//!
//! Names are libvirt's (`virDomainGetJobStats`), without the prefix; milliseconds and bytes where nothing else is said.
//! A figure that libvirt left out is `None`, never zero. Two traps, both measured on QEMU 7.2 to 10.0: during the first
//! iteration `memory_dirty_rate` is 0, and on a saturated path it never exceeds the throughput.

use serde::{Deserialize, Serialize};

/// What a job is doing (`virDomainJobType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPhase {
    /// There is no job.
    #[default]
    None,
    /// Runs, and libvirt can tell how long it will.
    Bounded,
    /// Runs, end unknown; migrations are of this kind.
    Unbounded,
    /// Ended well.
    Completed,
    /// Failed.
    Failed,
    /// Was cancelled.
    Cancelled,
}

/// What a job is for (`virDomainJobOperation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOperation {
    /// libvirt does not say.
    #[default]
    Unknown,
    /// The domain is starting.
    Start,
    /// It is being saved.
    Save,
    /// It is being restored.
    Restore,
    /// It is arriving.
    MigrationIn,
    /// It is leaving.
    MigrationOut,
    /// A snapshot is being made.
    Snapshot,
    /// It goes back to a snapshot.
    SnapshotRevert,
    /// Its core is being dumped.
    Dump,
    /// It is being backed up.
    Backup,
    /// A snapshot is being deleted.
    SnapshotDelete,
}

/// All figures that libvirt gives about a job.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobStats {
    /// What the job is doing.
    pub phase: JobPhase,
    /// What the job is for.
    pub operation: JobOperation,
    /// Milliseconds since it began.
    pub time_elapsed_ms: Option<u64>,
    /// The same without the difference of the two hosts' clocks.
    pub time_elapsed_net_ms: Option<u64>,
    /// Milliseconds to go, where libvirt can tell.
    pub time_remaining_ms: Option<u64>,
    /// Milliseconds without a running guest: expected while it runs, measured afterwards.
    pub downtime_ms: Option<u64>,
    /// The same without the difference of the two hosts' clocks.
    pub downtime_net_ms: Option<u64>,
    /// Milliseconds of preparation before the first page left.
    pub setup_time_ms: Option<u64>,
    /// Bytes to send: memory and disks.
    pub data_total: Option<u64>,
    /// Bytes sent.
    pub data_processed: Option<u64>,
    /// Bytes still to be sent.
    pub data_remaining: Option<u64>,
    /// Bytes of memory.
    pub memory_total: Option<u64>,
    /// Bytes of memory sent.
    pub memory_processed: Option<u64>,
    /// Bytes of memory still to be sent; zero pages count in full.
    pub memory_remaining: Option<u64>,
    /// Pages that went as one byte pattern.
    pub memory_constant: Option<u64>,
    /// Pages that went in full.
    pub memory_normal: Option<u64>,
    /// Bytes of the pages that went in full.
    pub memory_normal_bytes: Option<u64>,
    /// Bytes per second on the wire.
    pub memory_bps: Option<u64>,
    /// Pages per second that the guest made dirty anew.
    pub memory_dirty_rate: Option<u64>,
    /// Bytes of a page.
    pub memory_page_size: Option<u64>,
    /// Passes over the memory so far.
    pub memory_iteration: Option<u64>,
    /// Pages the destination asked for in post-copy.
    pub memory_postcopy_requests: Option<u64>,
    /// Bytes of disks.
    pub disk_total: Option<u64>,
    /// Bytes of disks copied.
    pub disk_processed: Option<u64>,
    /// Bytes of disks still to be copied.
    pub disk_remaining: Option<u64>,
    /// Bytes of disks per second.
    pub disk_bps: Option<u64>,
    /// Bytes of the XBZRLE cache.
    pub compression_cache: Option<u64>,
    /// Bytes saved by compression.
    pub compression_bytes: Option<u64>,
    /// Pages sent compressed.
    pub compression_pages: Option<u64>,
    /// Pages not found in the cache.
    pub compression_cache_misses: Option<u64>,
    /// Pages that grew when compressed.
    pub compression_overflow: Option<u64>,
    /// Percent by which the guest's virtual CPUs are slowed down.
    pub auto_converge_throttle: Option<i32>,
    /// Bytes of device state sent by VFIO devices.
    pub vfio_data_transferred: Option<u64>,
    /// Why it failed.
    pub errmsg: Option<String>,
    /// How it ended.
    pub success: Option<bool>,
}

impl JobStats {
    /// Whether the job still runs.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, JobPhase::Bounded | JobPhase::Unbounded)
    }
}
