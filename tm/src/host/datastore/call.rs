//! What a worker can be asked to do in a file datastore.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use causeway_core::names::{DiskPath, VmId};
use serde::{Deserialize, Serialize};

use super::super::{Blank, Staged};
use crate::facts::Format;
use crate::place::{DatastoreDir, Image};
use crate::rbd::{ImageCall, ImageWork};

/// One call about a datastore, in checked types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DatastoreCall {
    /// Makes an image of what a user names (`cp`). Prints its format.
    Import {
        /// The new image.
        image: Image,
        /// What it is made of.
        origin: Origin,
        /// What it is to become; none leaves it as it comes.
        format: Option<Stored>,
        /// Whether QEMU will ever open it: then its header must name no other file.
        opened: bool,
        /// Whether what is zero takes no room (`SPARSE`).
        sparse: bool,
    },
    /// Brings what is taken out of a backup to where its VM's disk is; it is only ever sent there.
    Stage {
        /// What it is to be.
        staged: Staged,
        /// What it is made of.
        origin: Origin,
    },
    /// Does an import on another host: what it is made of is here. Prints its format.
    Deliver {
        /// The import.
        import: Box<DatastoreCall>,
        /// Starts the receiver there.
        ssh: Vec<String>,
    },
    /// Makes an image of another one (`clone`). Prints its format.
    Copy {
        /// The other one.
        original: Image,
        /// How its bytes are laid out.
        stored: Stored,
        /// The new one.
        image: Image,
        /// How its bytes are to be laid out.
        format: Stored,
        /// Whether what is zero takes no room.
        sparse: bool,
    },
    /// Makes an empty image (`mkfs`).
    Blank {
        /// The new image.
        image: Image,
        /// Its size, MiB.
        size_mb: u64,
        /// How its bytes are to be laid out.
        format: Stored,
        /// What is in it.
        blank: Blank,
    },
    /// Removes an image with its snapshots and its checksum (`rm`).
    Remove {
        /// The image.
        image: Image,
    },
    /// How large an image made of that would be (`stat`). Prints MiB.
    Measure {
        /// A file.
        origin: Origin,
    },
    /// The same of an address. Prints MiB.
    AskSize {
        /// `http://` or `https://`.
        address: String,
    },
    /// How full a datastore is (`monitor`). Prints a line, and with `disks` a second one: [`VmSizes`] as JSON.
    Usage {
        /// The datastore.
        datastore: DatastoreDir,
        /// Whether the sizes of the VMs' disks are wanted.
        disks: bool,
    },
    /// How much room the disks of VMs take on a host's own disk (`monitor_ds`). Prints what the host's probe hands on.
    Sizes {
        /// The datastore.
        datastore: DatastoreDir,
    },
    /// Makes an image ready to be copied elsewhere (`export`). Prints [`Exported`] as JSON.
    Export {
        /// The image.
        image: Image,
        /// How its bytes are laid out.
        stored: Stored,
    },
    /// Changes an image that no VM uses.
    Snapshot {
        /// The image.
        image: Image,
        /// Whether its snapshots are layers of a chain; else they are whole copies.
        chain: bool,
        /// What is to be done.
        order: ImageOrder,
        /// The snapshot.
        id: u32,
    },
    /// Works on an image that is a volume of a Ceph cluster.
    Volume(Box<ImageCall>),
}

impl DatastoreCall {
    /// What a new image is to be made of, where that comes from outside of the datastore.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        match self {
            DatastoreCall::Import { origin, .. } | DatastoreCall::Stage { origin, .. } => Some(origin),
            DatastoreCall::Volume(call) => match &call.work {
                ImageWork::Import { origin, .. } => Some(origin),
                _ => None,
            },
            _ => None,
        }
    }

    /// The same call with something else to make the image of.
    pub(super) fn made_of(mut self, other: Origin) -> Self {
        match &mut self {
            DatastoreCall::Import { origin, .. } | DatastoreCall::Stage { origin, .. } => *origin = other,
            DatastoreCall::Volume(call) => {
                if let ImageWork::Import { origin, .. } = &mut call.work {
                    *origin = other;
                }
            }
            _ => {}
        }
        self
    }
}

/// A format that we make and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stored {
    /// A plain image.
    Raw,
    /// A QEMU copy-on-write image.
    Qcow2,
}

impl Stored {
    /// The format that oned names, if it is one of these.
    pub(crate) fn of(format: &Format) -> Option<Self> {
        match format {
            Format::Raw => Some(Stored::Raw),
            Format::Qcow2 => Some(Stored::Qcow2),
            Format::Other(_) => None,
        }
    }

    /// Its name, for oned and for `qemu-img`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Stored::Raw => "raw",
            Stored::Qcow2 => "qcow2",
        }
    }
}

/// What is done with a snapshot of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageOrder {
    /// The image holds again what it held.
    Revert,
    /// It goes, and nothing that was made from it.
    Delete,
    /// The image holds again what it held, and all snapshots go.
    Flatten,
}

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Origin {
    /// A file of this machine.
    File {
        /// Its path, as the user wrote it.
        path: DiskPath,
        /// Where it may lie, once its links are resolved.
        dirs: Dirs,
        /// How it is unpacked if it is an archive; none takes it as it is.
        unpack: Option<Fetch>,
        /// What its bytes must add up to.
        checksum: Option<Checksum>,
    },
    /// What another machine sends.
    Stream {
        /// What its bytes must add up to.
        checksum: Option<Checksum>,
        /// Whether an archive is refused: one that nobody unpacked on the way.
        unpacked: bool,
    },
    /// An image of another host.
    Host {
        /// Starts the sender there.
        ssh: Vec<String>,
        /// The image.
        image: Image,
        /// How its bytes are laid out.
        stored: Stored,
    },
    /// Something elsewhere.
    Address {
        /// How it is fetched.
        fetch: Fetch,
        /// What its bytes must add up to.
        checksum: Option<Checksum>,
    },
}

/// A call of the stock `downloader.sh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// The script.
    pub program: PathBuf,
    /// What it fetches; none for a file that the worker has opened.
    pub address: Option<String>,
    /// Whether it unpacks what looks like an archive.
    pub decompress: bool,
    /// How fast at most, as curl reads it.
    pub limit: Option<String>,
    /// What it is, for messages; none stands for the image's `PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

/// What bytes must add up to: every sum that is promised. In hexadecimal digits, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checksum {
    /// MD5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// SHA-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha1: Option<String>,
}

/// Where files of users may lie: in a safe directory, or in none that is restricted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dirs {
    /// `SAFE_DIRS`; these count first.
    pub safe: Vec<PathBuf>,
    /// `RESTRICTED_DIRS`, and oned's own directories.
    pub restricted: Vec<PathBuf>,
}

impl Dirs {
    /// Whether a file with that path, its links resolved, may be taken. A directory counts by its components (stock
    /// takes `/var/tmpfile` for a file of `/var/tmp`), and by the place that its own links lead to.
    pub(super) fn allow(&self, real: &Path) -> bool {
        let within = |dirs: &[PathBuf]| {
            dirs.iter().any(|dir| {
                real.starts_with(dir) || dir.canonicalize().is_ok_and(|resolved| real.starts_with(resolved))
            })
        };
        within(&self.safe) || !within(&self.restricted)
    }
}

/// An image that can be copied elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exported {
    /// The file's name in the datastore.
    pub name: String,
    /// The MD5 of its bytes.
    pub md5: String,
    /// Its format.
    pub format: String,
    /// Whether it was made for this, and is to be removed afterwards.
    pub dispose: bool,
}

/// How much room the disks of a VM take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSizes {
    /// The VM.
    pub vm: VmId,
    /// Its disks, by number.
    pub disks: Vec<DiskSizes>,
}

/// How much room a disk takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSizes {
    /// `DISK_ID`.
    pub id: u32,
    /// MiB, rounded up.
    pub size_mb: u64,
    /// Its snapshots, MiB each.
    pub snapshots: BTreeMap<u32, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_safe_directory_counts_before_a_restricted_one() {
        let dirs = |safe: &[&str], restricted: &[&str]| Dirs {
            safe: safe.iter().map(Into::into).collect(),
            restricted: restricted.iter().map(Into::into).collect(),
        };
        // As oned ships it.
        let shipped = dirs(&["/var/tmp"], &["/", "/var/lib/one"]);
        assert!(shipped.allow(Path::new("/var/tmp/os.qcow2")));
        assert!(!shipped.allow(Path::new("/var/tmpfile")) && !shipped.allow(Path::new("/etc/passwd")));
        let open = dirs(&[], &["/var/lib/one", "/etc/one"]);
        assert!(open.allow(Path::new("/srv/images/a")) && !open.allow(Path::new("/etc/one/oned.conf")));
    }

    #[test]
    fn a_directory_that_is_a_link_counts_where_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("secret")).unwrap();
        std::os::unix::fs::symlink(real.join("secret"), real.join("name")).unwrap();
        let dirs = Dirs { safe: Vec::new(), restricted: vec![real.join("name")] };
        assert!(!dirs.allow(&real.join("secret/x")) && dirs.allow(&real.join("other")));
    }
}
