//! Why a directory was not carried.

use causeway_core::answer::{Failure, Kind};

use super::frame::FrameError;
use super::order::{Carry, Spot};
use crate::host::StorageError;

/// A move that did not come to its end. What was copied stays beside, for the next try.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// Storage at this end.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Storage at the other end, or its refusal.
    #[error("{}", .0.text)]
    Far(Failure),
    /// The connection ended; it can be opened again.
    #[error("{0}")]
    Lost(String),
    /// Its time was up.
    #[error("the move took longer than it may; what was copied stays for the next try")]
    Late,
    /// What came was none of ours.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other end is of another version.
    #[error(
        "the other side carries directories as version {theirs} does, and we as version {ours}: install the same \
         version of causeway on both hosts"
    )]
    Version {
        /// Ours.
        ours: u32,
        /// Theirs.
        theirs: u32,
    },
    /// Both directories are there and the new one was not made from the old one.
    #[error(
        "both {} and {} are there, and {why}: look at both and remove the one that is not the VM's",
        carry.from, carry.to
    )]
    BothThere {
        /// The two.
        carry: Box<Carry>,
        /// How that shows.
        why: &'static str,
    },
    /// The guest has moved, and its directory has not.
    #[error("there is no {}, where the guest is; {} stays", .0.to, .0.from)]
    NotThere(Box<Carry>),
    /// Neither directory is there.
    #[error("there is no {}, and no {}", .0.from, .0.to)]
    Neither(Box<Carry>),
    /// Somebody writes in the directory.
    #[error("{0} was changed while it was copied: something still uses it")]
    Changed(Box<Spot>),
    /// What arrived is not what was sent.
    #[error("{file} arrived other than it was sent: {what}")]
    Differs {
        /// The file.
        file: String,
        /// Which part of it.
        what: String,
    },
    /// An entry that was sent where it can't be.
    #[error("the other side said something malformed: {0}")]
    Order(&'static str),
    /// The tree holds more than is carried.
    #[error("{0} holds more than {max} entries", max = super::tree::ENTRIES)]
    Many(Box<Spot>),
}

impl CarryError {
    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self {
            CarryError::Storage(error) => error.kind(),
            CarryError::Far(failure) => failure.kind,
            CarryError::Lost(_) => Kind::Unreachable,
            CarryError::Late => Kind::Timeout,
            _ => Kind::HostState,
        }
    }

    /// Whether another try may do better by itself: the connection was cut, or the other end is still held by the
    /// process that served the connection before.
    pub(super) fn passes(&self) -> bool {
        match self {
            CarryError::Lost(_) => true,
            CarryError::Far(failure) => failure.kind == Kind::Timeout,
            _ => false,
        }
    }
}

impl From<CarryError> for Failure {
    fn from(error: CarryError) -> Failure {
        match error {
            CarryError::Far(failure) => failure,
            other => Failure::from_chain(other.kind(), &other),
        }
    }
}
