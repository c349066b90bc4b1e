//! Where the executables under test lie.

use std::env;
use std::path::PathBuf;

use crate::error::SuiteError;

/// The path of a built executable: in `CAUSEWAY_BIN_DIR`, or beside the running one, where cargo puts all that it builds
/// in one profile (test executables lie a directory deeper).
///
/// # Errors
/// [`SuiteError::NotBuilt`] with the command that builds it.
pub fn program(name: &str) -> Result<PathBuf, SuiteError> {
    let directory = match env::var_os("CAUSEWAY_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => target_directory()?,
    };
    let path = directory.join(name);
    if path.is_file() { Ok(path) } else { Err(SuiteError::NotBuilt { name: name.to_owned(), directory }) }
}

/// The path of an executable of this package, which cargo builds together with its tests.
///
/// # Errors
/// As [`program`].
pub(crate) fn own_program(name: &str) -> Result<PathBuf, SuiteError> {
    let directory = target_directory()?;
    let path = directory.join(name);
    if path.is_file() { Ok(path) } else { Err(SuiteError::NotBuilt { name: name.to_owned(), directory }) }
}

fn target_directory() -> Result<PathBuf, SuiteError> {
    let running = env::current_exe().map_err(SuiteError::io("this executable's own path"))?;
    let mut directory = running;
    directory.pop();
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory.pop();
    }
    Ok(directory)
}
