//! Why something could not be done to a volume.

use causeway_core::answer::Kind;

use super::name::{PoolName, Volume};

/// `errno` values that `rbd` ends with, from `errno.h` of Linux.
pub(crate) mod code {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EACCES: i32 = 13;
    pub(crate) const EBUSY: i32 = 16;
    pub(crate) const EEXIST: i32 = 17;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const ETIMEDOUT: i32 = 110;
    pub(crate) const EHOSTUNREACH: i32 = 113;
}

/// A failed action on a volume.
#[derive(Debug, thiserror::Error)]
pub enum RbdError {
    /// The tool ended with an error.
    #[error("{tool} of {on}: {said}")]
    Tool {
        /// `rbd clone`.
        tool: String,
        /// What it worked on.
        on: String,
        /// Its exit code, an `errno`; none if a signal ended it.
        code: Option<i32>,
        /// Its last words.
        said: String,
    },
    /// The cluster lets nobody in who comes so, or not to that.
    #[error("{tool} of {on}: {said}: the cluster was asked by {who}")]
    Access {
        /// `rbd ls`.
        tool: String,
        /// What it worked on.
        on: String,
        /// Its last words.
        said: String,
        /// The user and the key, by the attributes that name them.
        who: String,
    },
    /// An answer of the tool that can't be read.
    #[error("{tool} of {on} answered something else than expected: {why}")]
    Answer {
        /// `rbd info`.
        tool: String,
        /// What it was asked about.
        on: String,
        /// What the reader said.
        why: String,
    },
    /// A pool that can't be listed: nothing can be said about what should be in it.
    #[error("pool {pool} can't be read: {said}")]
    Pool {
        /// The pool.
        pool: PoolName,
        /// The tool's last words.
        said: String,
    },
    /// A pool that was to hold the data of a new volume.
    #[error("{pool}, which EC_POOL_NAME names for the data of volumes, can't be used: {said}")]
    DataPool {
        /// The pool.
        pool: PoolName,
        /// The tool's last words.
        said: String,
    },
    /// A volume that is not there, in a pool that is.
    #[error("there is no volume {volume}{hint}")]
    NoVolume {
        /// The volume.
        volume: Volume,
        /// What an admin may want to know of it.
        hint: &'static str,
    },
    /// A snapshot that no volume of the disk holds.
    #[error("no volume of {volume} holds snapshot {id}")]
    NoSnapshot {
        /// The disk.
        volume: Volume,
        /// The snapshot.
        id: u32,
    },
    /// Volumes that are not as this driver or the stock one leaves them; it says what is wrong.
    #[error("{volume}: {why}")]
    Volumes {
        /// The volume.
        volume: Volume,
        /// What is wrong with it.
        why: String,
    },
    /// A volume that a guest or a tool has open.
    #[error("{volume} is open at {at}: a guest or a tool uses it")]
    InUse {
        /// The volume.
        volume: Volume,
        /// Addresses.
        at: String,
    },
    /// A snapshot that others stand on.
    #[error(
        "{snapshot} is still needed by {clones}: remove what is not used any more, or give it all its data by 'rbd flatten'"
    )]
    Clones {
        /// The snapshot.
        snapshot: String,
        /// What was made from it.
        clones: String,
    },
    /// A volume that is there and was not made by this action.
    #[error("{volume} is there already, and is not what this action made")]
    Taken {
        /// The volume.
        volume: Volume,
    },
    /// Disks only grow.
    #[error("{volume} has {have} bytes, more than the {want} bytes that it is to have")]
    Shrinks {
        /// The volume.
        volume: Volume,
        /// Its size, bytes.
        have: u64,
        /// The wanted size, bytes.
        want: u64,
    },
    /// A volume that is not what it was made to be.
    #[error("{volume} was not made as it should be: {why}")]
    Incomplete {
        /// The volume.
        volume: Volume,
        /// How that shows.
        why: String,
    },
}

impl RbdError {
    /// Whether the tool ended with that `errno`.
    pub(crate) fn is(&self, errno: i32) -> bool {
        matches!(self, RbdError::Tool { code: Some(code), .. } if *code == errno)
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self {
            RbdError::Tool { code: Some(code::ETIMEDOUT | code::EHOSTUNREACH), .. } => Kind::Unreachable,
            RbdError::Tool { .. } | RbdError::Answer { .. } => Kind::Refused,
            RbdError::Shrinks { .. } => Kind::Input,
            _ => Kind::HostState,
        }
    }
}
