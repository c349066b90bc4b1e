//! Why a plan could not be made. Nothing has been changed when one of these is returned.

use std::borrow::Cow;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::DocumentError;
use causeway_core::names::{NameError, VmId};
use causeway_core::plan::Slot;

use crate::place::FileName;

/// A request that cannot become steps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TmError {
    /// Not one of the slots of [`built`](crate::built).
    #[error("{slot} is not built")]
    NotBuilt {
        /// The slot.
        slot: String,
    },
    /// The wrong number of arguments.
    #[error("{slot} takes {form}, not {count} arguments")]
    Arguments {
        /// The slot.
        slot: String,
        /// What it takes (contract TM 1.4).
        form: &'static str,
        /// How many there were.
        count: usize,
    },
    /// An argument that is not of its form.
    #[error("{slot}: argument {position}")]
    Argument {
        /// The slot.
        slot: String,
        /// Counted from 1, without the program's name.
        position: usize,
        /// What is wrong with it.
        source: NameError,
    },
    /// A path of another VM than the one that the request is about.
    #[error("{slot}: {path} is not a path of VM {vm}")]
    OtherVm {
        /// The slot.
        slot: String,
        /// The path.
        path: String,
        /// The VM.
        vm: VmId,
    },
    /// A directory that is not in the datastore it is named with.
    #[error("{slot}: {path} is not in datastore {datastore}")]
    OtherDatastore {
        /// The slot.
        slot: String,
        /// The path.
        path: String,
        /// The datastore.
        datastore: u32,
    },
    /// Two files of a context image that would have one name in it.
    #[error(
        "{slot}: {one} and {other} would both be called {name} in the context image: leave one of them out, or give it \
         another name, as PATH:'NAME'"
    )]
    OneName {
        /// The slot.
        slot: String,
        /// The first, as a message may name it.
        one: String,
        /// The second.
        other: String,
        /// Their name.
        name: FileName,
    },
    /// A look-up that the plan needs was refused; its words are oned's.
    #[error("cannot look up {what}: {}", failure.text)]
    LookUp {
        /// `VM 7`, `datastore 1`.
        what: String,
        /// What came back.
        failure: Failure,
    },
    /// Something was looked up, and has an attribute that is wrong; it says which.
    #[error("{}", .0.text)]
    Found(Failure),
    /// A fact that the document does not state; an absent one is never read as an empty one.
    #[error("{what} is not in the document of {object}")]
    Missing {
        /// The attribute.
        what: String,
        /// `VM 7`, `datastore 1`.
        object: String,
    },
    /// A document that cannot be read.
    #[error("{object}")]
    Document {
        /// `VM 7`, `datastore 1`.
        object: String,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// Something that is to be base64 and is not.
    #[error("{object}: {why}")]
    Encoding {
        /// `standard input`.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// An attribute with a value that is none.
    #[error("{attribute} of {object} is {value:?}, not {accepted}")]
    Attribute {
        /// The attribute.
        attribute: String,
        /// `VM 7`, `datastore 1`.
        object: String,
        /// The value as it came.
        value: String,
        /// The accepted form.
        accepted: Cow<'static, str>,
    },
    /// Something that can't be done to the disk as it is.
    #[error("{what}: {why}")]
    Refused {
        /// The disk.
        what: String,
        /// Why, and what can be done.
        why: String,
    },
    /// A call that has no written form: a fault of ours.
    #[error("step {step} cannot be written down: {why}")]
    Unwritable {
        /// The step.
        step: String,
        /// What the writer said.
        why: String,
    },
    /// A way of working that is not built; the text names the object.
    #[error("{0}")]
    NotYet(String),
}

impl TmError {
    /// A datastore that is to be mounted by whoever uses it (`NFS_AUTO_ENABLE`), where neither we nor stock do that.
    pub(crate) fn mounts_itself(slot: &Slot, datastore: u32) -> Self {
        TmError::NotYet(format!(
            "{slot}: datastore {datastore} has NFS_AUTO_ENABLE, and this action mounts nothing, for the VM's disks lie on \
             its host's own disk: have the fstab or the automounter of each machine that uses it mount \
             NFS_AUTO_HOST:NFS_AUTO_PATH at the datastore's directory, and set NFS_AUTO_ENABLE to NO"
        ))
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self {
            TmError::NotBuilt { .. } | TmError::NotYet(_) => Kind::NotBuilt,
            TmError::Unwritable { .. } => Kind::Bug,
            TmError::Refused { .. } => Kind::HostState,
            TmError::LookUp { failure, .. } | TmError::Found(failure) => failure.kind,
            TmError::Arguments { .. }
            | TmError::Argument { .. }
            | TmError::OtherVm { .. }
            | TmError::OtherDatastore { .. }
            | TmError::OneName { .. }
            | TmError::Missing { .. }
            | TmError::Document { .. }
            | TmError::Encoding { .. }
            | TmError::Attribute { .. } => Kind::Input,
        }
    }
}

impl From<TmError> for Failure {
    fn from(error: TmError) -> Failure {
        Failure::from_chain(error.kind(), &error)
    }
}
