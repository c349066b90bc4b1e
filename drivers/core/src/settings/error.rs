//! What is wrong with a settings file, and reading one.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::answer::Kind;
use crate::document::Form;

/// The largest settings file that is read; the shipped ones have a few KiB.
const FILE_LIMIT: u64 = 1 << 20;

/// Why a settings file is not usable; names the file and what in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read, or is no such file at all.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A line that only a shell could make sense of.
    #[error("{file}, line {line}: {reason}")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The setting that the line would set, where that much is clear.
        key: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// A setting with a value that it does not take.
    #[error("{file}: {key} is {value:?}, not {accepted}")]
    Value {
        /// The file.
        file: String,
        /// The setting.
        key: String,
        /// The value as it stands there.
        value: String,
        /// The accepted form.
        accepted: String,
    },
}

impl SettingsError {
    /// Whose fault it is: the machine's, as its administrator left it.
    pub fn kind(&self) -> Kind {
        Kind::HostState
    }

    /// An error about the file as a whole.
    pub(super) fn file(file: &str, reason: impl ToString) -> Self {
        SettingsError::File { file: file.to_owned(), reason: reason.to_string() }
    }

    /// A setting with a value that is none.
    pub fn value(file: &str, key: &str, value: &str, accepted: impl ToString) -> Self {
        SettingsError::Value {
            file: file.to_owned(),
            key: key.to_owned(),
            value: value.to_owned(),
            accepted: accepted.to_string(),
        }
    }
}

/// The text of a settings file, or `None` if there is none.
///
/// # Errors
/// [`SettingsError::File`] if it cannot be read, is larger than 1 MiB or is not UTF-8.
pub fn read_file(path: &Path) -> Result<Option<String>, SettingsError> {
    let name = path.display().to_string();
    let failed = |error: std::io::Error| SettingsError::file(&name, error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(SettingsError::file(&name, format_args!("larger than {FILE_LIMIT} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| SettingsError::file(&name, "not UTF-8"))
}

/// A value with a [`Form`], of the setting `key`.
pub(super) fn form<T: Form>(file: &str, key: &str, value: &str) -> Result<T, SettingsError> {
    T::read(value).ok_or_else(|| SettingsError::value(file, key, value, T::ACCEPTED))
}
