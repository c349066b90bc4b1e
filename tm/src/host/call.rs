//! What a worker on a host can be asked to do with storage.

use serde::{Deserialize, Serialize};

use super::{BackupCall, DatastoreCall, RestoreCall};
use crate::automount::Mounted;
use crate::carry::Carry;
use crate::confine::Confined;
use crate::place::{FileName, Image, VmDir, VmFile};
use crate::rbd::{Cluster, PoolName, RbdCall};

/// One call, in checked types: nothing in it can name a path outside a VM's directory or an image's datastore.
///
/// It travels as JSON in [`Work::Transfer`](causeway_core::plan::Work::Transfer) and is what `--dry-run` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// Gives a VM a copy of an image.
    CloneImage {
        /// The image.
        image: Image,
        /// The VM's file.
        file: VmFile,
        /// What kind of copy.
        copy: CopyKind,
        /// Size to grow it to, MiB; none means that of the image.
        grown_mb: Option<u64>,
        /// Whether what is added takes no room until it is written (`SPARSE`).
        sparse: bool,
        /// Whether the VM's datastore lies on the host's own disk, and is monitored there.
        #[serde(default, skip_serializing_if = "is_false")]
        local: bool,
    },
    /// Gives a VM the image itself.
    LinkImage {
        /// The image.
        image: Image,
        /// The VM's file, which becomes a link.
        file: VmFile,
        /// What it links to.
        layout: Layout,
    },
    /// Gives a VM copies of the image and of its snapshots, on its host's own disk.
    LendImage {
        /// The image.
        image: Image,
        /// The VM's disk.
        file: VmFile,
        /// What the image is.
        layout: Layout,
    },
    /// Brings a disk with its snapshots back from a host's own disk to its image.
    TakeBack {
        /// The VM's disk.
        file: VmFile,
        /// The image.
        image: Image,
        /// What it is.
        layout: Layout,
    },
    /// Takes a VM's link to its image away; what the guest wrote is in the image already.
    GiveBack {
        /// The VM's disk.
        file: VmFile,
        /// The image.
        image: Image,
    },
    /// Moves a VM's directory to another system datastore.
    MoveDir {
        /// Where it is.
        from: VmDir,
        /// Where it is to be.
        to: VmDir,
    },
    /// Moves a VM's directory to a host that does not see it. Takes a session to that host:
    /// [`carry`](crate::carry::carry).
    CarryDir(Carry),
    /// Gives a VM an empty disk.
    MakeImage {
        /// The VM's disk.
        file: VmFile,
        /// Its size, MiB.
        size_mb: u64,
        /// As a qcow2 file; else as a plain one.
        qcow2: bool,
        /// What is in it.
        blank: Blank,
        /// As in [`CloneImage`](Call::CloneImage).
        #[serde(default, skip_serializing_if = "is_false")]
        local: bool,
    },
    /// Grows a disk that nobody has open.
    Resize {
        /// The VM's disk.
        file: VmFile,
        /// Where its files lie.
        kept: Kept,
        /// Whether it is a qcow2 file; else it is plain bytes, whatever they look like.
        qcow2: bool,
        /// Its new size, MiB.
        size_mb: u64,
        /// Whether what is added takes no room until it is written (`SPARSE`).
        sparse: bool,
    },
    /// Copies a disk that nobody writes, or a snapshot of it, to a new image (`cpds`).
    SaveDisk {
        /// The VM's disk.
        file: VmFile,
        /// Where its files lie.
        kept: Kept,
        /// Whether it is qcow2; else it is plain bytes, whatever they look like.
        qcow2: bool,
        /// The snapshot; none means what the disk holds now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<u32>,
        /// The image.
        image: Image,
    },
    /// Reads what the layers of a disk are; prints a [`Chain`](crate::Chain).
    ReadChain {
        /// The VM's disk.
        file: VmFile,
        /// Where its files lie.
        kept: Kept,
    },
    /// A part of what is done to the files of a disk that a running guest has open; the rest is its hypervisor's.
    Live {
        /// The VM's disk.
        file: VmFile,
        /// Where its files lie.
        kept: Kept,
        /// Which part.
        part: LivePart,
    },
    /// Makes a snapshot of a disk that nobody has open, goes back to one, or forgets one.
    Snapshot {
        /// The VM's disk.
        file: VmFile,
        /// Where its files lie.
        kept: Kept,
        /// Whether it is a chain of qcow2 files; else snapshots are whole copies.
        chain: bool,
        /// What is to be done.
        order: SnapshotOrder,
        /// The snapshot.
        id: u32,
    },
    /// Works for a backup of a VM.
    Backup(Box<BackupCall>),
    /// Works for a disk that is taken out of a backup.
    Restore(Box<RestoreCall>),
    /// Removes one file of a VM with the snapshots that lie beside it. A link is removed, never what it leads to.
    DeleteFile {
        /// The file.
        file: VmFile,
    },
    /// Removes a VM's directory with all that is in it.
    DeleteDir {
        /// The directory.
        dir: VmDir,
        /// A directory that must not turn out to be the same one: where the VM lives now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep: Option<VmDir>,
    },
    /// Builds the context image from the call's inputs.
    BuildContext {
        /// The image.
        file: VmFile,
        /// The names of the inputs inside the image, in the order of the inputs. Of two with the same name the later
        /// one counts.
        names: Vec<FileName>,
        /// As in [`CloneImage`](Call::CloneImage).
        #[serde(default, skip_serializing_if = "is_false")]
        local: bool,
    },
    /// Works on volumes of a Ceph cluster.
    Rbd(Box<RbdCall>),
    /// Says how full a pool of a Ceph cluster is: `USED_MB=... TOTAL_MB=... FREE_MB=...`.
    PoolUsage {
        /// The cluster.
        cluster: Cluster,
        /// The pool.
        pool: PoolName,
        /// Whether a second line is to tell how much room the disks of its VMs take.
        disks: bool,
    },
    /// Works on a file datastore.
    Datastore(DatastoreCall),
    /// Nothing is to be done; the step stands in the plan to say why.
    Nothing {
        /// Why.
        reason: String,
    },
    /// Nothing is done; the VM's log is told.
    Tell {
        /// A warning.
        text: String,
    },
    /// A call that may take only a part of its host. Takes a process of its own, started with the words of
    /// [`prefix`](crate::host::prefix).
    Confined(Confined),
    /// A call in datastores that must be mounted first (`NFS_AUTO_ENABLE`).
    Mounted(Mounted),
}

/// For `serde`, which wants a reference.
fn is_false(value: &bool) -> bool {
    !value
}

impl Call {
    /// Whether a worker is needed at all: a call that touches no storage may be performed by whoever has it.
    pub fn touches_storage(&self) -> bool {
        !matches!(self, Call::Nothing { .. } | Call::Tell { .. })
    }
}

impl From<RbdCall> for Call {
    fn from(call: RbdCall) -> Self {
        Call::Rbd(Box::new(call))
    }
}

/// Kinds of copies of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CopyKind {
    /// The same bytes in a file of its own.
    Flat,
    /// A qcow2 file that holds only what differs from the image.
    Overlay {
        /// More words for `qemu-img create` (`QCOW2_OPTIONS` of `tmrc`).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        options: Vec<String>,
    },
    /// A qcow2 file that needs no other (`QCOW2_STANDALONE`).
    Standalone,
}

/// What a persistent disk leads to, or is a copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// The image.
    Image,
    /// The newest file of the image's snapshot directory, which is made if need be.
    Chain,
}

/// What is in a new disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Blank {
    /// Nothing.
    Empty,
    /// Swap space of the label `swap`.
    Swap,
    /// A file system.
    FileSystem {
        /// Its type, as `mkfs.TYPE` is named: `ext4`.
        kind: String,
        /// More words for that program (`FS_OPTS_TYPE` of `datastore.conf`).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        options: Vec<String>,
    },
}

/// Where the files of a disk lie, its snapshots among them (contract TM 2.1, *Layouts*).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kept {
    /// In the VM's directory: the disk is the VM's own.
    Beside,
    /// With the image that the disk is.
    WithImage(Image),
}

/// What is to be done with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotOrder {
    /// It is made of what the disk holds now.
    Create,
    /// The disk holds again what it held.
    Revert,
    /// It goes, and nothing that was made from it.
    Delete,
}

/// The parts of an action on a running guest's disk that are about its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LivePart {
    /// Makes the layer that the guest is to go on with when its present one becomes snapshot `id`.
    MakeLayer {
        /// The snapshot.
        id: u32,
    },
    /// Makes the disk a link to that layer, which the guest writes by now.
    PointToLayer {
        /// The snapshot below it.
        id: u32,
    },
    /// Makes an empty file that takes a copy of the disk.
    MakeCopy {
        /// What the copy is to be.
        to: CopyOf,
        /// Whether the disk and its copy are qcow2.
        qcow2: bool,
    },
    /// Gives the filled copy its name.
    PublishCopy {
        /// What it is.
        to: CopyOf,
        /// Whether it is qcow2.
        qcow2: bool,
    },
    /// Removes a copy that was not filled.
    DropCopy {
        /// What it was to be.
        to: CopyOf,
    },
    /// Removes the layer of snapshot `id`, on which nothing stands any more.
    RemoveLayer {
        /// The snapshot.
        id: u32,
    },
    /// Removes a layer whose data are in the one below, and leaves word that its snapshot is there now.
    MergedLayer {
        /// The snapshot that goes; its layer holds now what was in `above`.
        id: u32,
        /// The layer that was merged into it.
        above: u32,
    },
}

/// What a copy of a running guest's disk becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CopyOf {
    /// Snapshot of that number, of a disk of plain bytes.
    Snapshot(u32),
    /// An image.
    Image(Image),
    /// A volume of a cluster, which is made of the copy in a step of its own.
    Volume,
}
