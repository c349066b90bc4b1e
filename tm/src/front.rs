//! Reading files of the front-end, and of servers: the sources of a context image. Run in a child, for they may lie on a
//! file system that does not answer.

mod fetch;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::DiskPath;
use causeway_core::plan::{Input, InputName};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::address::WebAddress;
use crate::host::StorageError;
use crate::plan::Source;
use fetch::{Missing, fetch};

/// How much is read, in bytes. The content travels in one exchange and is held in memory on both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of one file.
    pub file: u64,
    /// Of all files of one call.
    pub total: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { file: 32 << 20, total: 64 << 20 }
    }
}

/// Why a source could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("cannot read {path}")]
    Io { path: DiskPath, source: std::io::Error },
    #[error("{path} is not a file; only files can be put into a context image")]
    NotAFile { path: DiskPath },
    #[error("{path} is larger than {limit} bytes, the most that a context image takes of {what}")]
    Large { path: String, limit: u64, what: &'static str },
    #[error("cannot fetch {address}")]
    Fetch { address: String, source: StorageError },
    #[error("cannot fetch {address}")]
    Stream { address: String, source: std::io::Error },
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        if let ReadError::Fetch { source, address } = error {
            return Failure::from(source).context(format!("cannot fetch {address}"));
        }
        let kind = match &error {
            ReadError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Kind::Input,
            ReadError::Io { .. } | ReadError::Fetch { .. } | ReadError::Stream { .. } => Kind::HostState,
            ReadError::NotAFile { .. } | ReadError::Large { .. } => Kind::Input,
        };
        Failure::from_chain(kind, &error)
    }
}

/// Turns every source into its bytes, until the deadline.
///
/// # Errors
/// The first file that is missing, unreadable, not a regular file, not to be fetched, or too large; its path is in the text.
pub fn read_sources(
    sources: &BTreeMap<InputName, Source>,
    limits: Limits,
    deadline: Instant,
) -> Result<BTreeMap<InputName, Input>, Failure> {
    let mut read = BTreeMap::new();
    let mut left = limits.total;
    for (name, source) in sources {
        let limit = limits.file.min(left);
        let bytes = match source {
            Source::Bytes(input) => {
                read.insert(name.clone(), input.clone());
                continue;
            }
            Source::File(path) => read_file(path, limit),
            Source::Address(address) => read_address(address, limit, deadline),
        };
        let bytes = bytes.map_err(|error| match error {
            ReadError::Large { path, .. } if limit < limits.file => {
                ReadError::Large { path, limit: limits.total, what: "all its files" }
            }
            other => other,
        })?;
        left = left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        read.insert(name.clone(), Input::new(bytes));
    }
    Ok(read)
}

fn read_address(address: &WebAddress, limit: u64, deadline: Instant) -> Result<Vec<u8>, ReadError> {
    fetch(address, limit, deadline).map_err(|missing| match missing {
        Missing::Large => ReadError::Large { path: address.told(), limit, what: "one file" },
        Missing::Tool(source) => ReadError::Fetch { address: address.told(), source },
        Missing::Reading(source) => ReadError::Stream { address: address.told(), source },
    })
}

fn read_file(path: &DiskPath, limit: u64) -> Result<Vec<u8>, ReadError> {
    let io = |source| ReadError::Io { path: path.clone(), source };
    // A FIFO would otherwise be waited for, and a terminal taken over.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(Path::new(path.as_str()), flags, Mode::empty());
    let file = std::fs::File::from(opened.map_err(|e| io(e.into()))?);
    if !file.metadata().map_err(io)?.is_file() {
        return Err(ReadError::NotAFile { path: path.clone() });
    }
    let mut bytes = Vec::new();
    // Not its size by `stat`: it may grow, and files of /proc have none.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
        Ok(bytes)
    } else {
        Err(ReadError::Large { path: path.to_string(), limit, what: "one file" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + std::time::Duration::from_secs(60)
    }

    fn sources(paths: &[&Path]) -> BTreeMap<InputName, Source> {
        let named = paths.iter().enumerate();
        named.map(|(i, p)| (format!("{i}"), Source::File(p.to_str().unwrap().parse().unwrap()))).collect()
    }

    #[test]
    fn files_become_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("context.sh"), dir.path().join("a b"));
        std::fs::write(&a, "X='1'\n").unwrap();
        std::fs::write(&b, [0xff, 0]).unwrap();
        let mut all = sources(&[&a, &b]);
        all.insert("tm:vm".to_owned(), Source::Bytes(Input::new("<VM/>")));
        let read = read_sources(&all, Limits::default(), soon()).unwrap();
        assert_eq!(read["0"].0.as_ref(), b"X='1'\n");
        assert_eq!(read["1"].0.as_ref(), [0xff, 0]);
        assert_eq!(read["tm:vm"].0.as_ref(), b"<VM/>");
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let (small, fifo) = (dir.path().join("small"), dir.path().join("fifo"));
        std::fs::write(&small, [b'x'; 10]).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let refused = |paths: &[&Path], file, total| {
            read_sources(&sources(paths), Limits { file, total }, soon()).unwrap_err()
        };
        let missing = refused(&[&dir.path().join("gone")], 10, 10);
        assert_eq!(missing.kind, Kind::Input);
        assert!(missing.text.contains("/gone: No such file"), "{}", missing.text);
        assert!(refused(&[dir.path()], 10, 10).text.contains("is not a file"));
        assert!(refused(&[&fifo], 10, 10).text.contains("is not a file"));
        assert!(
            refused(&[&small], 9, 100)
                .text
                .contains("larger than 9 bytes, the most that a context image takes of one")
        );
        assert!(
            refused(&[&small, &small], 10, 19)
                .text
                .contains("19 bytes, the most that a context image takes of all")
        );
        assert!(read_sources(&sources(&[&small, &small]), Limits { file: 10, total: 20 }, soon()).is_ok());
    }
}
