//! Traffic recorded from a stock OpenNebula 7.4.0, the oracle of the replay tests.
//!
//! `tests/data/README.md` says what lies there and how it was cut down. A *scenario* is what oned and a driver process
//! said to each other; a *call* is what one script of the stock driver was given and what it answered.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::SuiteError;

mod calls;
mod scenario;

pub use calls::{Answered, Call, Form, Stdin, calls};
pub use scenario::{Exchange, Payload, Scenario, scenarios};

/// The directory of the recordings.
pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data")
}

/// The text of a recorded file.
fn read(path: &Path) -> Result<String, SuiteError> {
    fs::read_to_string(path).map_err(SuiteError::io(path.display().to_string()))
}

/// The files with this extension in a directory of the recordings, sorted by name.
fn files(directory: &str, extension: &str) -> Result<Vec<PathBuf>, SuiteError> {
    let directory = data().join(directory);
    let failed = || SuiteError::io(directory.display().to_string());
    let mut paths = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A path's file name without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
