//! The disks of a guest that runs: chains of files, snapshots, and the jobs that move data between the files.
//!
//! A guest's disk is a *chain* of [`Layer`]s: the file that the guest writes comes first, each further one lies below it.
//! The live domain is the only witness of it. What a call returned is not: each operation here looks at the chain before,
//! so that one that was done already, or that somebody else has begun, is found out, and once more afterwards, so that
//! nobody builds on what did not happen (contract TM, W8 and W15).
//!
//! * [`follow`] runs a job to its end: [`Commit`](DiskJob::Commit), [`Pull`](DiskJob::Pull), [`Copy`](DiskJob::Copy).
//! * [`snapshot`] puts an overlay over a disk.
//! * [`backup`] copies disks as they are at one moment, while the guest writes on.
//! * [`rest`] brings the guest to rest meanwhile, and never leaves it so.

pub mod backup;
pub mod chain;
pub mod follow;
pub mod progress;
pub mod rest;
pub mod snapshot;

#[cfg(test)]
mod backup_tests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use backup::{Backup, Moment};
pub use chain::{Chain, Layer, Mirror, MirrorKind, Names, Spelling};
pub use follow::{Control, Ended, Goal};
pub use progress::Progress;
pub use rest::{Hold, Rest, Watchdog};

/// A job of one disk, as the hypervisor is asked for it. Layers are meant by the names that the live chain has for them
/// ([`Layer::name`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskJob {
    /// Writes what lies in `top`, and in the layers between, into `base`, and takes them out of the chain
    /// (`virDomainBlockCommit`).
    Commit {
        /// The uppermost layer that goes.
        top: String,
        /// The layer that takes the data.
        base: String,
        /// `top` is the layer that the guest writes: the job gets ready, and ends with [`JobEnd::Pivot`].
        active: bool,
        /// The layer above keeps a relative name of the one below it; refused if it had none.
        relative: bool,
    },
    /// Reads what lies below the active layer into it, down to `base`, and takes what lies between out of the chain
    /// (`virDomainBlockRebase`, and `virDomainBlockPull` without a base).
    Pull {
        /// The layer that stays below; none means that the active layer is to stand alone.
        base: Option<String>,
        /// As in [`Commit`](DiskJob::Commit).
        relative: bool,
    },
    /// Copies the whole disk to a file that exists, and keeps it equal until the job is ended (`virDomainBlockCopy`).
    Copy {
        /// The file; it has at least the size of the disk.
        to: String,
        /// Its format.
        format: Format,
    },
}

impl DiskJob {
    /// What the hypervisor calls such a job.
    pub fn kind(&self) -> JobKind {
        match self {
            DiskJob::Commit { active: false, .. } => JobKind::Commit,
            DiskJob::Commit { active: true, .. } => JobKind::ActiveCommit,
            DiskJob::Pull { .. } => JobKind::Pull,
            DiskJob::Copy { .. } => JobKind::Copy,
        }
    }
}

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// The disk's bytes, and nothing else.
    Raw,
    /// QEMU's own, with a chain.
    Qcow2,
}

impl Format {
    /// As libvirt and qemu-img spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        }
    }
}

/// What kind of job runs on a disk (`virDomainBlockJobType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// The active layer takes what lies below it.
    Pull,
    /// The disk is copied elsewhere.
    Copy,
    /// A layer that the guest does not write goes into one below it.
    Commit,
    /// The layer that the guest writes does.
    ActiveCommit,
    /// A backup.
    Backup,
    /// A kind of a newer libvirt.
    Unknown,
}

impl JobKind {
    /// From libvirt's number.
    pub fn from_libvirt(number: i32) -> Self {
        match number {
            1 => JobKind::Pull,
            2 => JobKind::Copy,
            3 => JobKind::Commit,
            4 => JobKind::ActiveCommit,
            5 => JobKind::Backup,
            _ => JobKind::Unknown,
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JobKind::Pull => "pull",
            JobKind::Copy => "copy",
            JobKind::Commit => "commit",
            JobKind::ActiveCommit => "commit of the active layer",
            JobKind::Backup => "backup",
            JobKind::Unknown => "unknown job",
        })
    }
}

/// A job that runs on a disk (`virDomainGetBlockJobInfo`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobInfo {
    /// What it does.
    pub kind: JobKind,
    /// Bytes per second it may move; 0 means without a limit.
    pub bandwidth: u64,
    /// How far it is, in the hypervisor's own measure: bytes, in QEMU.
    pub current: u64,
    /// Where it ends; grows while a guest writes.
    pub end: u64,
}

impl JobInfo {
    /// Whether nothing is left to be moved at this moment. libvirt sees to it that a job which is not ready never says
    /// so.
    pub fn is_even(&self) -> bool {
        self.end > 0 && self.current >= self.end
    }
}

/// How a job is ended from outside (`virDomainBlockJobAbort`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEnd {
    /// The guest stays on its chain. A copy that was ready is then the disk at that moment.
    Abort,
    /// The guest goes on with the file that the job has filled.
    Pivot,
}

/// An overlay over one disk (`virDomainSnapshotCreateXML` with `DISK_ONLY`, `ATOMIC`, `NO_METADATA` and `REUSE_EXT`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The disk: its target in the guest, `vda`.
    pub disk: String,
    /// The file, which exists and has the disk's present file as its backing.
    pub file: String,
    /// Every other disk of the domain; they are left alone.
    pub others: Vec<String>,
    /// Has the guest's agent freeze its file systems meanwhile, for at most this long each way (`QUIESCE`).
    pub quiesce: Option<Duration>,
}

/// What a guest's agent answered to a freeze or a thaw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentAnswer {
    /// Done, for so many file systems.
    Done(u32),
    /// There is no agent to ask: the domain has no channel for one, or nobody in the guest listens on it. Nothing was
    /// done. libvirt's own words.
    NoAgent(String),
}
