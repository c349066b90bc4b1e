//! A file without a name: in it something is prepared that will lie elsewhere, and it goes with the process however that
//! ends (W26).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::{During, StorageError};
use crate::place::TEMPORARY;

/// Readable by us alone: what is in it is some user's image.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Such a file.
pub(crate) struct Scratch {
    file: File,
}

impl Scratch {
    /// A new one on the file system of `dir`.
    ///
    /// # Errors
    /// The directory is not there, or can't be written.
    pub(crate) fn new(dir: &Path) -> Result<Self, StorageError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let opened = match openat(CWD, dir, flags | OFlags::TMPFILE, MODE) {
            // Of kernels and file systems that make no such files.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => named(dir, flags),
            other => other,
        };
        Ok(Scratch { file: File::from(opened.during("make a file in", dir)?) })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// A path by which a child of this process can open it.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Its length, bytes.
    pub(crate) fn length(&self) -> Result<u64, StorageError> {
        Ok(self.file.metadata().during("look at", self.path())?.len())
    }
}

/// Made with a name, which it gives up at once.
fn named(dir: &Path, flags: OFlags) -> Result<std::os::fd::OwnedFd, Errno> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let moment = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
    let path = dir.join(format!("{TEMPORARY}{:x}-{moment:x}-{serial}", std::process::id()));
    let file = openat(CWD, &path, flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW, MODE)?;
    unlinkat(CWD, &path, AtFlags::empty())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// W26: there is nothing that could be left.
    #[test]
    fn it_has_no_name_and_can_be_opened_by_a_child() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        for staged in [
            Scratch::new(dir.path()).unwrap(),
            Scratch { file: File::from(named(dir.path(), flags).unwrap()) },
        ] {
            staged.file().write_all(b"within").unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            assert_eq!(staged.length().unwrap(), 6);
            let read = std::process::Command::new("cat").arg(staged.path()).output().unwrap();
            assert_eq!(read.stdout, b"within");
        }
        let error = Scratch::new(&dir.path().join("none")).err().unwrap();
        assert!(error.to_string().starts_with("cannot make a file in "), "{error}");
    }
}
