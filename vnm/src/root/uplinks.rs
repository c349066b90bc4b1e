//! The operator's list of devices that virtual networks may use: one name per line, `#` begins a comment.
//!
//! It is what keeps the unprivileged user from joining a guest to a device of its choice, so it counts only if nobody
//! but root could have written it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use causeway_core::names::{LinkName, NameError};
use rustix::fs::OFlags;

/// Longer than the list of any host.
const SIZE: u64 = 1 << 16;

/// Why the list does not count.
#[derive(Debug, thiserror::Error)]
pub enum UplinksError {
    /// It is not there.
    #[error(
        "{} does not exist: as root, create it with the names of the devices that virtual networks may use, one per line",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else could have written it.
    #[error("{} is not trusted: {why}: make it root's with `chown root:root` and `chmod go-w`", path.display())]
    Untrusted {
        /// The file, or its directory.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It could not be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A line that is no name.
    #[error("{} line {line}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        source: NameError,
    },
}

/// Reads the list.
///
/// # Errors
/// [`UplinksError`]; a missing file is one, because an empty list would only fail later and less clearly.
pub fn read(path: &Path) -> Result<BTreeSet<LinkName>, UplinksError> {
    let failed = |source| UplinksError::Read { path: path.to_owned(), source };
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(UplinksError::Missing { path: path.to_owned() });
        }
        other => other.map_err(failed)?,
    };
    // The file as it is open, so that it cannot be exchanged between the look and the reading.
    trusted(path, &file.metadata().map_err(failed)?, true)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    trusted(dir, &std::fs::metadata(dir).map_err(failed)?, false)?;
    parse(path, &text(file).map_err(failed)?)
}

fn trusted(path: &Path, found: &std::fs::Metadata, file: bool) -> Result<(), UplinksError> {
    let why = match () {
        () if file && !found.is_file() => "it is no plain file",
        () if found.uid() != 0 => "its owner is not root",
        () if found.mode() & 0o022 != 0 => "others than its owner may write it",
        () if found.len() > SIZE => "it is too large",
        () => return Ok(()),
    };
    Err(UplinksError::Untrusted { path: path.to_owned(), why })
}

fn text(file: File) -> std::io::Result<String> {
    let mut text = String::new();
    file.take(SIZE).read_to_string(&mut text)?;
    Ok(text)
}

pub(super) fn parse(path: &Path, text: &str) -> Result<BTreeSet<LinkName>, UplinksError> {
    let mut names = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let name = line.split('#').next().unwrap_or_default().trim();
        if name.is_empty() {
            continue;
        }
        names.insert(name.parse().map_err(|source| UplinksError::Line {
            path: path.to_owned(),
            line: number + 1,
            source,
        })?);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn names_comments_and_blank_lines() {
        let names = parse(Path::new("x"), "# uplinks\n\neth0\n  bond0.5  # storage\neth0\n").unwrap();
        let names: Vec<&str> = names.iter().map(LinkName::as_str).collect();
        assert_eq!(names, ["bond0.5", "eth0"]);
        let error = parse(Path::new("x"), "eth0\ne th\n").unwrap_err();
        assert_eq!(error.to_string(), "x line 2");
    }

    #[test]
    fn a_list_that_others_could_have_written_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uplinks");
        let missing = read(&path).unwrap_err().to_string();
        assert!(missing.contains("one per line"), "{missing}");

        std::fs::write(&path, "eth0\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o664)).unwrap();
        assert!(matches!(read(&path), Err(UplinksError::Untrusted { .. })));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let mine = std::fs::metadata(&path).unwrap().uid() == 0;
        assert_eq!(read(&path).is_ok(), mine);

        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(read(&path), Err(UplinksError::Untrusted { .. })));
    }

    #[test]
    fn links_and_devices_are_no_list() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uplinks");
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(matches!(read(&path), Err(UplinksError::Read { .. })));
        assert!(read(Path::new("/dev/null")).is_err());
    }
}
