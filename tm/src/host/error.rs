//! Why a call failed on a host. Whatever failed left nothing half-made under a final name.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use rustix::io::Errno;

use crate::place::{DatastoreDir, VmDir, named_at_last, told_at_last};
use crate::rbd::RbdError;

/// What bounds a call.
pub(crate) const TIME_IS_UP: &str =
    "no more time is left; deadlines.tm and deadlines.copy of causeway.toml, or -w, say how long it may take";

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The kernel said no.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A copy failed, at one end of it or the other.
    #[error("cannot copy {} to {}", from.display(), to.display())]
    Copy {
        /// What was copied.
        from: PathBuf,
        /// Where to.
        to: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A datastore that is not on this host. Nothing can be said about what should be in it.
    #[error("datastore {} is not on this host: there is no {datastore}", datastore.id())]
    NoDatastore {
        /// The datastore.
        datastore: DatastoreDir,
    },
    /// A datastore's directory without anything in it, where nothing is mounted: what was to be removed may lie on a
    /// file system that is not mounted now.
    #[error("datastore {} may not be mounted on this host: {datastore} is empty", datastore.id())]
    Unproved {
        /// The datastore.
        datastore: DatastoreDir,
    },
    /// Something else stands where a directory should be; links are not followed there.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Something else stands where an image should be.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file where only a link is expected.
    #[error("{} is not a link", path.display())]
    NotALink {
        /// The path.
        path: PathBuf,
    },
    /// A disk that is not there.
    #[error("there is no {}", path.display())]
    NoDisk {
        /// The path.
        path: PathBuf,
    },
    /// A disk whose files are not what this action may work on; it says what an admin can do.
    #[error("{}: {why}", path.display())]
    Disk {
        /// The disk.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody has a file open that is to be changed.
    #[error("{} is open: a guest or a tool uses it", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Two VM directories where there should be one.
    #[error("both {from} and {to} are there; the VM's files are not moved over others")]
    BothThere {
        /// Where it should come from.
        from: VmDir,
        /// Where it should go.
        to: VmDir,
    },
    /// A file that is not named as a disk.
    #[error("{} is not a disk of a VM", path.display())]
    NotADisk {
        /// The path.
        path: PathBuf,
    },
    /// A link or a backing file that leads out of the image's datastore.
    #[error("{} depends on {target}, which is not a file of datastore {}", path.display(), datastore.id())]
    Outside {
        /// The file.
        path: PathBuf,
        /// What it names.
        target: String,
        /// The datastore.
        datastore: DatastoreDir,
    },
    /// A qcow2 image that must not be used.
    #[error("{}: {why}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file of a user that can't become an image.
    #[error("{}: {why}", path.display())]
    Upload {
        /// The file, or what stands for an address.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file that a user names and that can't be opened.
    #[error("cannot open {}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that no user may name.
    #[error("{} may not be made an image: see SAFE_DIRS and RESTRICTED_DIRS of the datastore", path.display())]
    Restricted {
        /// The file, as it was named.
        path: PathBuf,
    },
    /// What another host says.
    #[error("{failure}")]
    Host {
        /// Its words.
        failure: Failure,
    },
    /// Disks only grow.
    #[error("{} has {have} bytes and is to have {want}: a disk only grows, so its SIZE must be {} MB or more",
        path.display(), have.div_ceil(1 << 20))]
    Shrinks {
        /// The image.
        path: PathBuf,
        /// Its size, bytes.
        have: u64,
        /// The wanted size, bytes.
        want: u64,
    },
    /// A disk that no file of that file system can be.
    #[error("{} is to have {bytes} bytes, more than a file of this file system can have: choose a smaller SIZE", path.display())]
    Large {
        /// The disk.
        path: PathBuf,
        /// The wanted size, bytes.
        bytes: u64,
    },
    /// A disk whose room is to be set aside, and there is not so much.
    #[error(
        "No space left for {}: it is to grow by {bytes} bytes that are set aside (SPARSE=NO), and its file system has room \
         for {free}",
        path.display()
    )]
    NoRoom {
        /// The disk.
        path: PathBuf,
        /// How much more.
        bytes: u64,
        /// What is free.
        free: u64,
    },
    /// A copy that is not what it was made to be.
    #[error("the copy of {} is not complete: {why}", path.display())]
    Incomplete {
        /// The image.
        path: PathBuf,
        /// How that shows.
        why: String,
    },
    /// The link inside a snapshot directory that its files' backing names go through is not what it must be.
    #[error("{} should be a link to the directory it is in", path.display())]
    SelfLink {
        /// The link.
        path: PathBuf,
    },
    /// A directory to remove that is the one to keep.
    #[error("{old} is the directory that the VM uses now, by another name ({new})")]
    SameDirectory {
        /// To be removed.
        old: VmDir,
        /// To be kept.
        new: VmDir,
    },
    /// A file system mounted inside a directory to remove.
    #[error("a file system is mounted at {}", path.display())]
    Mounted {
        /// Where.
        path: PathBuf,
    },
    /// A datastore that is to be mounted here and is not (`NFS_AUTO_ENABLE`); it says what an admin can do.
    #[error("{}: {why}", path.display())]
    Mount {
        /// The datastore's directory.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A tree to remove that is deeper than anything we or the stock drivers make.
    #[error("{} lies too deep", path.display())]
    Deep {
        /// Where it was given up.
        path: PathBuf,
    },
    /// Another action holds the VM or the image.
    #[error("{what} is still in use by another action on this host after {:.1} s", waited.as_secs_f64())]
    Busy {
        /// `VM 7`, or the image.
        what: String,
        /// How long was waited for it.
        waited: Duration,
    },
    /// A tool ended with an error.
    #[error("{tool} of {}: {said}", path.display())]
    Tool {
        /// `qemu-img create`.
        tool: String,
        /// What it worked on.
        path: PathBuf,
        /// Its last words.
        said: String,
    },
    /// A tool did not end in time and was killed.
    #[error("{tool} of {} did not end in time and was killed: {TIME_IS_UP}", path.display())]
    ToolDeadline {
        /// `qemu-img create`.
        tool: String,
        /// What it worked on.
        path: PathBuf,
    },
    /// A mount, or what goes with it, did not end in time and was killed. No setting bounds it.
    #[error("{tool} of {} did not end in time and was killed: does its server answer?", path.display())]
    MountDeadline {
        /// `mount`.
        tool: String,
        /// The datastore's directory.
        path: PathBuf,
    },
    /// The context image could not be laid out.
    #[error("cannot build the context image: {0}")]
    Iso(String),
    /// Something could not be done to a volume of a Ceph cluster.
    #[error(transparent)]
    Rbd(#[from] RbdError),
    /// The call's inputs are not the ones it names.
    #[error("{found} inputs for {named} names")]
    Inputs {
        /// How many names.
        named: usize,
        /// How many inputs.
        found: usize,
    },
}

impl StorageError {
    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self {
            StorageError::Io { source, .. } | StorageError::Copy { source, .. }
                if source.kind() == io::ErrorKind::TimedOut =>
            {
                Kind::Timeout
            }
            StorageError::Busy { .. }
            | StorageError::ToolDeadline { .. }
            | StorageError::MountDeadline { .. } => Kind::Timeout,
            StorageError::Tool { .. } => Kind::Refused,
            StorageError::Rbd(error) => error.kind(),
            StorageError::NotADisk { .. }
            | StorageError::Shrinks { .. }
            | StorageError::Large { .. }
            | StorageError::Iso(_)
            | StorageError::Upload { .. }
            | StorageError::Source { .. }
            | StorageError::Restricted { .. } => Kind::Input,
            StorageError::Inputs { .. } => Kind::Bug,
            StorageError::Host { failure } => failure.kind,
            _ => Kind::HostState,
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Failure {
        let failure = Failure::from_chain(error.kind(), &error);
        // Whatever failed is gone by now, if it was half-made.
        Failure { text: told_at_last(&failure.text), ..failure }
    }
}

/// Says what was being copied, and where to.
pub(crate) fn while_copying(
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
) -> impl FnOnce(io::Error) -> StorageError {
    let (from, to) = (from.as_ref().to_owned(), to.as_ref().to_owned());
    |source| StorageError::Copy { from, to, source }
}

/// Says what was to become so large.
pub(crate) fn while_growing(path: impl AsRef<Path>, bytes: u64) -> impl FnOnce(io::Error) -> StorageError {
    let path = named_at_last(path.as_ref());
    move |source| match source.kind() {
        // Of a number that the kernel has no room for the library says so.
        io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput => StorageError::Large { path, bytes },
        _ => StorageError::Io { what: "grow", path, source },
    }
}

/// Says what was being done to what when the kernel said no.
pub(crate) trait During<T> {
    fn during(self, what: &'static str, path: impl AsRef<Path>) -> Result<T, StorageError>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, what: &'static str, path: impl AsRef<Path>) -> Result<T, StorageError> {
        self.map_err(|e| StorageError::Io { what, path: path.as_ref().to_owned(), source: e.into() })
    }
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: &'static str, path: impl AsRef<Path>) -> Result<T, StorageError> {
        self.map_err(|source| StorageError::Io { what, path: path.as_ref().to_owned(), source })
    }
}
