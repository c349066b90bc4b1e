//! Fetching a file of a context image: what was not fetched whole is not fetched.

use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use crate::address::WebAddress;
use crate::host::{StorageError, Tool, Worker};

/// Why there is no file.
pub(super) enum Missing {
    /// It is larger than the limit.
    Large,
    /// What the tool said.
    Tool(StorageError),
    /// What it printed could not be read.
    Reading(io::Error),
}

/// The bytes at an address, at most `limit` of them.
///
/// A server is known by its certificate, as with `wget`, which the stock script calls.
pub(super) fn fetch(address: &WebAddress, limit: u64, deadline: Instant) -> Result<Vec<u8>, Missing> {
    let told = address.told();
    let tool = Tool::curl(address.as_str(), Path::new(&told));
    let large = || io::Error::new(io::ErrorKind::FileTooLarge, "above the limit");
    let read = |pipe: std::process::ChildStdout| {
        let mut bytes = Vec::new();
        pipe.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        let fits = u64::try_from(bytes.len()).is_ok_and(|length| length <= limit);
        fits.then_some(bytes).ok_or_else(large)
    };
    match tool.stream(&Worker::new(Path::new("/"), deadline), read) {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if e.kind() == io::ErrorKind::FileTooLarge => Err(Missing::Large),
        Ok(Err(e)) => Err(Missing::Reading(e)),
        Err(e) => Err(Missing::Tool(e)),
    }
}
