//! A VM's directory, by an open handle: what is done in it is done in this very directory, whatever happens to its path.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, Statx, StatxAttributes, StatxFlags, mkdirat, openat, renameat, statx,
    unlinkat,
};
use rustix::io::Errno;

use super::{During, StorageError, Worker, remove};
use crate::place::{DatastoreDir, FileName, TEMPORARY, VmDir};

/// The file that tells a mounted datastore without a VM from a mount point without a datastore.
const MARK: &str = ".causeway";
/// What it says to whoever finds it.
const MARK_TEXT: &[u8] = b"This file shows that the datastore is mounted, also when no VM is in it.\n";
/// Made by the monitoring of a datastore on a host's own disk; the stock clone removes it (contract TM 2.1).
const MONITOR: &str = ".monitor";

/// A datastore that is there.
pub(crate) struct Datastore {
    dir: DatastoreDir,
    handle: OwnedFd,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Datastore {
    /// Opens a datastore. An admin may have made its directory a link to another place.
    pub(crate) fn open(dir: &DatastoreDir) -> Result<Self, StorageError> {
        match openat(CWD, dir.path(), DIRECTORY, Mode::empty()) {
            Ok(handle) => Ok(Datastore { dir: dir.clone(), handle }),
            Err(Errno::NOENT) => Err(StorageError::NoDatastore { datastore: dir.clone() }),
            Err(Errno::NOTDIR) => Err(StorageError::NotADirectory { path: dir.path() }),
            Err(e) => Err(e).during("open", dir.path()),
        }
    }

    /// Opens a system datastore for a new file, makes its directory if the root of all datastores is there (the
    /// first VM on a host finds it missing), and leaves the mark.
    fn ensure(dir: &DatastoreDir) -> Result<Self, StorageError> {
        let datastore = match Datastore::open(dir) {
            Err(StorageError::NoDatastore { .. }) if dir.root().is_dir() => {
                match mkdirat(CWD, dir.path(), Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => Datastore::open(dir)?,
                    Err(e) => return Err(e).during("make", dir.path()),
                }
            }
            other => other?,
        };
        datastore.mark()?;
        Ok(datastore)
    }

    /// Leaves the mark: whoever changes a datastore proves it to whoever comes next.
    pub(crate) fn mark(&self) -> Result<(), StorageError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(&self.handle, MARK, flags, Mode::from_raw_mode(0o666)) {
            Ok(file) => {
                // The name is what counts.
                let _ = rustix::io::write(&file, MARK_TEXT);
                Ok(())
            }
            Err(Errno::EXIST) => Ok(()),
            Err(e) => Err(e).during("make", self.dir.path().join(MARK)),
        }
    }

    /// Whether "not there" can be believed in this datastore: it holds something, or a file system is mounted at it.
    pub(crate) fn prove(&self) -> Result<(), StorageError> {
        let what = "look at";
        let found = statx(&self.handle, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        let found = found.during(what, self.dir.path())?;
        if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(());
        }
        let mut entries = Dir::read_from(&self.handle).during(what, self.dir.path())?;
        while let Some(entry) = entries.read() {
            let entry = entry.during(what, self.dir.path())?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Ok(());
            }
        }
        Err(StorageError::Unproved { datastore: self.dir.clone() })
    }

    /// A VM's directory, if it is there.
    pub(crate) fn home(&self, dir: &VmDir) -> Result<Option<Home>, StorageError> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        match openat(&self.handle, dir.vm().to_string(), flags, Mode::empty()) {
            Ok(handle) => Ok(Some(Home { path: dir.path(), handle, made: None })),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(StorageError::NotADirectory { path: dir.path() }),
            Err(e) => Err(e).during("open", dir.path()),
        }
    }

    /// Its handle.
    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// A VM's directory.
pub(crate) struct Home {
    path: PathBuf,
    handle: OwnedFd,
    /// The datastore's handle and the directory's name, if this call made the directory.
    made: Option<(OwnedFd, String)>,
}

impl Home {
    /// Opens a VM's directory, and makes it if it is missing.
    pub(crate) fn ensure(dir: &VmDir, worker: &Worker<'_>) -> Result<Self, StorageError> {
        let datastore = Datastore::ensure(dir.datastore())?;
        worker.at("datastore marked");
        match unlinkat(&datastore.handle, MONITOR, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e).during("remove", dir.datastore().path().join(MONITOR)),
        }
        if let Some(home) = datastore.home(dir)? {
            return Ok(home);
        }
        let name = dir.vm().to_string();
        let made = match mkdirat(&datastore.handle, name.as_str(), Mode::from_raw_mode(0o777)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(e).during("make", dir.path()),
        };
        worker.at("VM directory made");
        let home = datastore.home(dir)?;
        let mut home = home.ok_or_else(|| StorageError::NotADirectory { path: dir.path() })?;
        home.made = made.then_some((datastore.handle, name));
        Ok(home)
    }

    /// Takes the directory away again if this call made it and then failed; a directory with something in it stays.
    pub(crate) fn or_gone<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let (Err(_), Some((datastore, name))) = (&result, &self.made) {
            // The failure is what is told; an empty directory left behind does no harm.
            let _ = unlinkat(datastore, name.as_str(), AtFlags::REMOVEDIR);
        }
        result
    }

    /// The directory's path, for messages and for tools.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory.
    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Device and inode: two paths of one directory have the same.
    pub(crate) fn identity(&self) -> Result<(u32, u32, u64), StorageError> {
        let found = statx(&self.handle, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        let Statx { stx_dev_major, stx_dev_minor, stx_ino, .. } = found.during("look at", &self.path)?;
        Ok((stx_dev_major, stx_dev_minor, stx_ino))
    }

    /// A name for something half-made that is to become `name`; it is removed when the value goes, unless published.
    pub(crate) fn temporary(&self, name: &FileName) -> Temporary<'_> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        // A killed worker's child may still be writing under its own name: names are never used twice.
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let moment = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        let name = format!("{TEMPORARY}{name}.{}-{moment:x}-{serial}", std::process::id());
        Temporary { home: self, name, published: false }
    }

    /// Removes what killed calls left of `name`.
    pub(crate) fn sweep(&self, name: &FileName) -> Result<(), StorageError> {
        let ours = format!("{TEMPORARY}{name}.");
        let mut left = Vec::new();
        let mut entries = Dir::read_from(&self.handle).during("read", &self.path)?;
        while let Some(entry) = entries.read() {
            let entry = entry.during("read", &self.path)?;
            let name = entry.file_name().to_str().ok().filter(|name| name.starts_with(&ours));
            left.extend(name.map(str::to_owned));
        }
        left.iter().try_for_each(|name| remove(self.handle(), name, &self.path.join(name)))
    }

    /// Moves an entry to another name in this directory, over whatever file or link has it.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        renameat(&self.handle, from, &self.handle, to).during("rename a new file to", self.path.join(to))
    }

    /// Brings the directory's entries to the disk.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        match rustix::fs::fsync(&self.handle) {
            // Some network file systems can't do that to a directory; they write entries through.
            Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
            Err(e) => Err(e).during("write out", &self.path),
        }
    }
}

/// Something half-made.
pub(crate) struct Temporary<'a> {
    home: &'a Home,
    name: String,
    published: bool,
}

impl Temporary<'_> {
    /// Its name in the directory.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its path, for messages and for tools.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.path.join(&self.name)
    }

    /// Makes it a new file: one that was not there, reached through no link.
    pub(crate) fn create(&self, mode: u32) -> Result<std::fs::File, StorageError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = openat(&self.home.handle, self.name.as_str(), flags, Mode::from_raw_mode(mode));
        Ok(opened.during("make", self.path())?.into())
    }

    /// Gives it its final name.
    pub(crate) fn publish(mut self, name: &str) -> Result<(), StorageError> {
        self.home.rename(&self.name, name)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.published {
            // What can't be removed now is removed by the next call.
            let _ = remove(self.home.handle(), &self.name, &self.path());
        }
    }
}
