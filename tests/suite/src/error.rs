//! What can go wrong with the means of a test, as against what it tests.

use std::io;
use std::path::PathBuf;

/// A failure of a test's means, or a breach of the protocol that its means noticed.
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// The machine refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// What the machine said.
        source: io::Error,
    },
    /// An executable that is tested has not been built.
    #[error("{name} is not in {}: run `cargo build -p causeway-programs --bins`, or name its directory in CAUSEWAY_BIN_DIR", directory.display())]
    NotBuilt {
        /// The executable.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A recorded file does not say what is looked for in it.
    #[error("recording {file}: {what}")]
    Recording {
        /// The file.
        file: String,
        /// What is missing or malformed.
        what: String,
    },
    /// The driver process broke the protocol, or did not answer in time.
    #[error("the driver process {0}")]
    Driver(String),
    /// Something that a test started did not come up.
    #[error("{what} did not come up: {said}")]
    NotUp {
        /// What was started.
        what: String,
        /// What it said.
        said: String,
    },
}

impl SuiteError {
    /// Adds what was tried to what the machine said.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> SuiteError {
        let what = what.into();
        move |source| SuiteError::Io { what, source }
    }

    pub(crate) fn recording(file: impl Into<String>, what: impl Into<String>) -> Self {
        SuiteError::Recording { file: file.into(), what: what.into() }
    }
}
