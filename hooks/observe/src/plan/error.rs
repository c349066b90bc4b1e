//! What can be wrong with a plan file.

use std::io;
use std::path::PathBuf;

use causeway_core::answer::Kind;

/// What is wrong with a plan file. Keys are written with their section: `probe[2].interval`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The file could not be read.
    #[error("cannot read the plan {}", path.display())]
    Read {
        /// The plan's path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is larger than any plan.
    #[error("the plan is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The file is not UTF-8 text.
    #[error("the plan is not UTF-8 text: byte {at} is wrong")]
    NotText {
        /// Where the first wrong byte is.
        at: usize,
    },
    /// The file is not TOML.
    #[error("the plan is not TOML")]
    Syntax {
        /// What the reader said, with the line.
        source: Box<toml::de::Error>,
    },
    /// A key that must be there is not.
    #[error("{key} is missing; it is {accepted}")]
    Missing {
        /// The key.
        key: String,
        /// What it must be.
        accepted: String,
    },
    /// A key has a value that it cannot have.
    #[error("{key} = {value} is not {accepted}")]
    Bad {
        /// The key.
        key: String,
        /// The value as written, cut to a printable length.
        value: String,
        /// What it must be.
        accepted: String,
    },
    /// A key that means nothing here: most likely a slip of the pen.
    #[error("{key} means nothing here; the keys of this section are {known}")]
    Unknown {
        /// The key.
        key: String,
        /// The keys that are known.
        known: String,
    },
    /// Two keys that contradict each other.
    #[error("{key} cannot stand beside {other}: {why}")]
    Conflict {
        /// The one key.
        key: String,
        /// The other.
        other: String,
        /// Why not both.
        why: &'static str,
    },
}

impl PlanError {
    /// Whose fault it is: the plan's author's, unless the file could not be read at all.
    pub fn kind(&self) -> Kind {
        match self {
            PlanError::Read { .. } => Kind::HostState,
            _ => Kind::Input,
        }
    }
}
