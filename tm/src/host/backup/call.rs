//! What a worker can be asked to do for a backup.

use causeway_core::names::{DeployId, DiskPath};
use serde::{Deserialize, Serialize};

use crate::facts::Extent;
use crate::host::Kept;
use crate::place::{FileName, TEMPORARY, VmDir, VmFile};

/// Where a host puts what a backup driver is to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupPlace {
    /// The VM's directory: it lies in there, as `backup`.
    pub dir: VmDir,
    /// Instead: below this one, as `VM/backup` (`BACKUP_BASE_PATH`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<DiskPath>,
}

/// One disk on its way into a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupDisk {
    /// The VM's disk.
    pub file: VmFile,
    /// Where its files lie.
    pub kept: Kept,
    /// Whether it is qcow2; else it is plain bytes, whatever they look like.
    pub qcow2: bool,
    /// What the backup is to hold of it.
    pub extent: Extent,
}

/// A part of `prebackup` or `postbackup` that is about files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BackupCall {
    /// Makes the directory anew, with the VM's document, which is the call's input, and the state of its TPM.
    Begin {
        /// The directory.
        place: BackupPlace,
        /// Whether the VM has a TPM.
        tpm: bool,
        /// The guest, if it runs: the state of its TPM is fetched first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guest: Option<DeployId>,
    },
    /// Copies a disk that nobody has open.
    Disk {
        /// The directory.
        place: BackupPlace,
        /// The disk.
        disk: BackupDisk,
    },
    /// Makes an empty file that a running guest's hypervisor fills.
    Target {
        /// The directory.
        place: BackupPlace,
        /// The disk.
        disk: BackupDisk,
    },
    /// Gives the filled file its name.
    Publish {
        /// The directory.
        place: BackupPlace,
        /// The disk.
        disk: BackupDisk,
    },
    /// Removes the directory.
    Clear {
        /// The directory.
        place: BackupPlace,
    },
}

impl BackupCall {
    /// Whether it may copy a disk's data.
    pub(crate) fn copies(&self) -> bool {
        matches!(self, BackupCall::Disk { .. })
    }
}

impl BackupPlace {
    /// The directory's path.
    pub fn path(&self) -> std::path::PathBuf {
        let above = match &self.base {
            None => self.dir.path(),
            Some(base) => base.path().join(self.dir.vm().to_string()),
        };
        above.join("backup")
    }

    /// Where a hypervisor puts the data of a disk: the same name in every step of a plan.
    pub(crate) fn target(&self, disk: &BackupDisk) -> std::path::PathBuf {
        self.path().join(disk.target())
    }
}

impl BackupDisk {
    /// The name in the backup: `disk.0.3`.
    pub(crate) fn result(&self) -> FileName {
        self.file.name().of_increment(self.extent.increment())
    }

    pub(crate) fn target(&self) -> String {
        format!("{TEMPORARY}{}.live", self.result())
    }

    /// The bitmap that tells what has changed since an increment.
    pub(crate) fn bitmap(&self, increment: u32) -> String {
        checkpoint(self.file.dir().vm(), increment)
    }
}

/// The bitmap, and the checkpoint, of an increment (contract TM 2.3).
pub(crate) fn checkpoint(vm: causeway_core::names::VmId, increment: u32) -> String {
    format!("one-{vm}-{increment}")
}
