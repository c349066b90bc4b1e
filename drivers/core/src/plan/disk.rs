//! What is done to the disks of a guest that runs (contract TM 2.2: `snap_create_live`, `snap_delete`, `cpds`).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::names::{DiskName, DiskPath};

/// How long a guest's agent is waited for where nobody says otherwise (`VIRSH_TIMEOUT` of `tmrc`).
pub const AGENT_WAIT: Duration = Duration::from_secs(60);

/// What [`Work::GuestDisk`](super::Work::GuestDisk) does on the host where the guest runs. Each order may be given
/// again: what it finds done it leaves, what it finds begun it goes on with.
///
/// A job that is cancelled, or whose deadline passes, leaves the guest on its old chain. Speeds are in bytes per second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskOrder {
    /// Puts an overlay over the disk; what the guest has written so far stays below it as it is. No other disk is
    /// touched.
    Snapshot {
        /// The disk.
        disk: DiskName,
        /// A qcow2 file that exists and has the disk's present file as its backing.
        overlay: DiskPath,
        /// Whether the guest is brought to rest for the moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quiesce: Option<Quiesce>,
    },
    /// Writes the layers from `top` down to `base` into `base`, and takes them out of the chain. The files stay; whoever
    /// deletes them does so after this.
    Commit {
        /// The disk.
        disk: DiskName,
        /// The uppermost layer that goes.
        top: DiskPath,
        /// The layer that takes the data.
        base: DiskPath,
        /// `top` is what the guest writes: it goes on with `base`. Refused where it is not so, and the other way round.
        #[serde(default, skip_serializing_if = "super::is_false")]
        active: bool,
        /// The layer above keeps a relative name of the one below; refused if it had none (contract TM, W17).
        #[serde(default, skip_serializing_if = "super::is_false")]
        relative: bool,
        /// Most bytes per second; none means as fast as it goes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        speed: Option<u64>,
    },
    /// Reads what lies below the file that the guest writes into it, down to `base`.
    Pull {
        /// The disk.
        disk: DiskName,
        /// The layer that stays below; none means that the file is to stand alone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<DiskPath>,
        /// As in [`Commit`](DiskOrder::Commit).
        #[serde(default, skip_serializing_if = "super::is_false")]
        relative: bool,
        /// As in [`Commit`](DiskOrder::Commit).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        speed: Option<u64>,
    },
    /// Copies the whole disk, as it is at the moment of the copy's end, to a file that exists and has its size. The guest
    /// stays where it is.
    Copy {
        /// The disk.
        disk: DiskName,
        /// The file. Nothing is promised of it if the order fails.
        to: DiskPath,
        /// The file's format.
        format: CopyFormat,
        /// Whether the guest is brought to rest for the moment of the end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quiesce: Option<Quiesce>,
        /// As in [`Commit`](DiskOrder::Commit).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        speed: Option<u64>,
    },
    /// Copies disks, all as they are at the moment when the copy begins, to qcow2 files that exist and have their sizes.
    /// The guest stays where it is and writes on. Nothing is promised of the files if the order fails.
    Backup {
        /// Which disks, and where to.
        targets: Vec<BackupTarget>,
        /// Whether what changes from that moment on is remembered, and what has been remembered is all that is copied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tracking: Option<Tracking>,
        /// Whether the guest is brought to rest for the moment of the beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rest: Option<BackupRest>,
    },
    /// Ends a backup of the guest that goes to files below a directory, if one runs. A guest that is not there has none.
    EndBackup {
        /// The directory.
        below: DiskPath,
    },
    /// Brings the guest to rest until [`Thaw`](DiskOrder::Thaw), and for at most so many seconds: then, and as soon as the
    /// session of the resident or the resident itself ends, the host lets it run again by itself. Prints how:
    /// `frozen`, `suspended`, `still` for a guest that was paused already, or `running` for one that is not at rest.
    Freeze {
        /// How.
        quiesce: Quiesce,
        /// Longest time of the rest.
        seconds: u32,
    },
    /// Ends the rest. Fails if it was over before: what was done meanwhile is not a moment's state.
    Thaw {
        /// How long the guest's agent is waited for.
        agent_seconds: u32,
    },
}

/// Where the copy of a disk goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupTarget {
    /// The disk.
    pub disk: DiskName,
    /// The file.
    pub to: DiskPath,
}

/// Checkpoints of a chain of backups, each of which remembers what is written after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// The one that begins with this backup: `one-7-3`.
    pub begin: String,
    /// The one whose changes are copied; without it, the whole disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// How a guest rests when a backup begins. Either is done, or the backup fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupRest {
    /// Its agent freezes its file systems.
    Agent {
        /// How long the agent is waited for.
        seconds: u32,
    },
    /// Its processors stand still.
    Suspend,
}

/// How a guest is brought to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiesce {
    /// How long its agent is waited for to freeze its file systems.
    pub agent_seconds: u32,
    /// Whether its processors are stopped where no agent does it. Otherwise a snapshot fails, and a freeze or a copy goes
    /// on with a guest that runs, and says so.
    pub or_suspend: bool,
}

impl Quiesce {
    /// By the agent, or else by suspending, as the stock scripts do.
    pub fn as_stock() -> Self {
        let agent_seconds = u32::try_from(AGENT_WAIT.as_secs()).unwrap_or(u32::MAX);
        Quiesce { agent_seconds, or_suspend: true }
    }
}

impl fmt::Display for Quiesce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = if self.or_suspend { ", or suspended" } else { "" };
        write!(f, "frozen by its agent within {} s{other}", self.agent_seconds)
    }
}

/// The format of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyFormat {
    /// The disk's bytes.
    Raw,
    /// QEMU's own, without a chain.
    Qcow2,
}

impl fmt::Display for DiskOrder {
    /// The order in words, for a plan and a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |speed: &Option<u64>| match speed {
            Some(bytes) => format!(", at most {bytes} bytes/s"),
            None => String::new(),
        };
        let rest = |quiesce: &Option<Quiesce>| match quiesce {
            Some(quiesce) => format!(", {quiesce}"),
            None => ", as it runs".to_owned(),
        };
        let links = |relative: &bool| if *relative { ", links stay relative" } else { "" };
        match self {
            DiskOrder::Snapshot { disk, overlay, quiesce } => {
                write!(f, "snapshot {disk}: go on in {overlay}{}", rest(quiesce))
            }
            DiskOrder::Commit { disk, top, base, active, relative, speed } => {
                let pivot = if *active { ", the guest goes on with it" } else { "" };
                write!(f, "commit {disk}: {top} into {base}{pivot}{}{}", links(relative), at(speed))
            }
            DiskOrder::Pull { disk, base: Some(base), relative, speed } => {
                write!(f, "pull {disk}: down to {base}{}{}", links(relative), at(speed))
            }
            DiskOrder::Pull { disk, base: None, speed, .. } => {
                write!(f, "pull {disk}: all of it{}", at(speed))
            }
            DiskOrder::Copy { disk, to, format, quiesce, speed } => {
                let format = match format {
                    CopyFormat::Raw => "raw",
                    CopyFormat::Qcow2 => "qcow2",
                };
                write!(f, "copy {disk}: to {to} ({format}){}{}", rest(quiesce), at(speed))
            }
            DiskOrder::Backup { targets, tracking, rest } => {
                let targets: Vec<String> =
                    targets.iter().map(|t| format!("{} to {}", t.disk, t.to)).collect();
                write!(f, "back up {}", targets.join(", "))?;
                match tracking {
                    Some(Tracking { begin, since: Some(since) }) => {
                        write!(f, ", changes since {since}, begin {begin}")?
                    }
                    Some(Tracking { begin, since: None }) => write!(f, ", begin {begin}")?,
                    None => {}
                }
                let rest = match rest {
                    None => ", as it runs".to_owned(),
                    Some(BackupRest::Agent { seconds }) => {
                        format!(", frozen by its agent within {seconds} s")
                    }
                    Some(BackupRest::Suspend) => ", suspended".to_owned(),
                };
                f.write_str(&rest)
            }
            DiskOrder::EndBackup { below } => write!(f, "end a backup into {below}"),
            DiskOrder::Freeze { quiesce, seconds } => write!(f, "freeze: {quiesce}, for at most {seconds} s"),
            DiskOrder::Thaw { .. } => f.write_str("thaw"),
        }
    }
}
