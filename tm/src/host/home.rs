//! A VM's directory, by an open handle: what is done in it is done in this very directory, whatever happens to its path.

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, Statx, StatxAttributes, StatxFlags, mkdirat, openat,
    readlinkat, renameat, renameat_with, statx, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::{During, StorageError, Worker, mount::expected, remove};
use crate::place::{DatastoreDir, FileName, TEMPORARY, VmDir};

/// The file that tells a mounted datastore without a VM from a mount point without a datastore.
pub(super) const MARK: &str = ".causeway";
/// What it says to whoever finds it.
const MARK_TEXT: &[u8] = b"This file shows that the datastore is mounted, also when no VM is in it.\n";
/// Made by the monitoring of a datastore on a host's own disk; the stock clone removes it (contract TM 2.1).
pub(super) const MONITOR: &str = ".monitor";

/// What it says: the transfer manager whose `monitor_ds` the host's probes run.
const MONITORED_BY: &[u8] = b"ssh\n";

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
    pub(crate) fn ensure(dir: &DatastoreDir) -> Result<Self, StorageError> {
        let datastore = match Datastore::open(dir) {
            Err(StorageError::NoDatastore { .. }) if dir.root().is_dir() => {
                match mkdirat(CWD, dir.path(), Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => Datastore::open(dir)?,
                    Err(e) => return Err(e).during("make", dir.path()),
                }
            }
            other => other?,
        };
        // A restart of the host may have left it out.
        if expected(dir) && !datastore.is_mounted()? {
            let why = "/etc/fstab has it mounted (NFS_AUTO_ENABLE), and it is not: see whether its server answers, and \
                       mount it";
            return Err(StorageError::Mount { path: dir.path(), why: why.to_owned() });
        }
        datastore.mark()?;
        Ok(datastore)
    }

    /// Whether a file system is mounted at it.
    fn is_mounted(&self) -> Result<bool, StorageError> {
        let found = statx(&self.handle, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        Ok(found.during("look at", self.dir.path())?.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    /// As [`ensure`](Datastore::ensure), for a VM that comes to it: its disks are not a host's own.
    pub(crate) fn prepare(dir: &DatastoreDir, worker: &Worker<'_>) -> Result<Self, StorageError> {
        let datastore = Datastore::ensure(dir)?;
        worker.at("datastore marked");
        match unlinkat(&datastore.handle, MONITOR, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(datastore),
            Err(e) => Err(e).during("remove", dir.path().join(MONITOR)),
        }
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

    /// Has the host's probes monitor it: it lies on the host's own disk.
    pub(crate) fn say_local(&self) -> Result<(), StorageError> {
        let folder = self.as_folder()?;
        let mut tries = 8;
        loop {
            // Calls for other VMs do the same at this moment: what they are about to rename may be what is removed here,
            // and the other way round.
            folder.sweep(MONITOR)?;
            let made = folder.temporary(MONITOR);
            made.create(0o666)?.write_all(MONITORED_BY).during("write", made.path())?;
            tries -= 1;
            match made.publish(MONITOR) {
                Err(StorageError::Io { source, .. })
                    if tries > 0 && source.kind() == std::io::ErrorKind::NotFound => {}
                done => return done,
            }
        }
    }

    /// Whether "not there" can be believed in this datastore: it holds something, or a file system is mounted at it.
    pub(crate) fn prove(&self) -> Result<(), StorageError> {
        let what = "look at";
        if self.is_mounted()? {
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
        open_folder(&self.handle, &self.dir.path(), &dir.vm().to_string())
    }

    /// A directory that lies in it, if it is there: the snapshots of an image.
    pub(crate) fn folder(&self, name: &str) -> Result<Option<Home>, StorageError> {
        open_folder(&self.handle, &self.dir.path(), name)
    }

    /// The datastore itself as a directory: to make an image in, or a VM's directory.
    pub(crate) fn into_folder(self) -> Home {
        Home { path: self.dir.path(), handle: self.handle, made: None }
    }

    /// As [`into_folder`](Datastore::into_folder), by another handle.
    pub(crate) fn as_folder(&self) -> Result<Home, StorageError> {
        let handle = self.handle.try_clone().during("open", self.dir.path())?;
        Ok(Home { path: self.dir.path(), handle, made: None })
    }

    /// Brings the datastore's entries to the disk.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        sync(&self.handle, &self.dir.path())
    }

    /// Its handle.
    pub(crate) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

fn open_folder(parent: &OwnedFd, path: &Path, name: &str) -> Result<Option<Home>, StorageError> {
    let path = path.join(name);
    match openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(handle) => Ok(Some(Home { path, handle, made: None })),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => Err(StorageError::NotADirectory { path }),
        Err(e) => Err(e).during("open", path),
    }
}

/// A VM's directory, or one of a disk's snapshots.
pub(crate) struct Home {
    path: PathBuf,
    handle: OwnedFd,
    /// The datastore's handle and the directory's name, if this call made the directory.
    made: Option<(OwnedFd, String)>,
}

impl Home {
    /// Opens a VM's directory in a datastore that all hosts see, and makes it if it is missing.
    pub(crate) fn ensure(dir: &VmDir, worker: &Worker<'_>) -> Result<Self, StorageError> {
        let datastore = Datastore::prepare(dir.datastore(), worker)?;
        Home::within(datastore, dir, worker)
    }

    /// As [`ensure`](Home::ensure), in a datastore of the host's own: the host's probes are told to monitor it.
    pub(crate) fn ensure_local(dir: &VmDir, worker: &Worker<'_>) -> Result<Self, StorageError> {
        let datastore = Datastore::ensure(dir.datastore())?;
        worker.at("datastore marked");
        datastore.say_local()?;
        worker.at("datastore said to be local");
        Home::within(datastore, dir, worker)
    }

    fn within(datastore: Datastore, dir: &VmDir, worker: &Worker<'_>) -> Result<Self, StorageError> {
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

    /// Opens a directory of the admin's, who may have made it a link.
    pub(crate) fn at(path: &Path) -> Result<Self, StorageError> {
        let handle = openat(CWD, path, DIRECTORY, Mode::empty()).during("open", path)?;
        Ok(Home { path: path.to_owned(), handle, made: None })
    }

    /// A directory that lies in it, if it is there.
    pub(crate) fn folder(&self, name: &str) -> Result<Option<Home>, StorageError> {
        open_folder(&self.handle, &self.path, name)
    }

    /// Where a link in it leads; none if there is nothing of that name.
    ///
    /// # Errors
    /// Something that is no link stands there, or its target is no text.
    pub(crate) fn link(&self, name: &str) -> Result<Option<String>, StorageError> {
        let path = || self.path.join(name);
        match readlinkat(&self.handle, name, Vec::new()) {
            Ok(target) => match target.into_string() {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(StorageError::Image { path: path(), why: "it leads to no text".to_owned() }),
            },
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::INVAL) => Err(StorageError::NotALink { path: path() }),
            Err(e) => Err(e).during("look at", path()),
        }
    }

    /// Opens a file in it, through no link.
    pub(crate) fn open(&self, name: &str) -> Result<std::fs::File, StorageError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = self.path.join(name);
        let file = openat(&self.handle, name, flags, Mode::empty()).during("open", &path)?;
        let file = std::fs::File::from(file);
        if file.metadata().during("look at", &path)?.is_file() {
            Ok(file)
        } else {
            Err(StorageError::NotAFile { path })
        }
    }

    /// The beginning of a short file's text; none if there is no such file.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, StorageError> {
        let file = match self.open(name) {
            Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let mut text = String::new();
        file.take(4096).read_to_string(&mut text).during("read", self.path.join(name))?;
        Ok(Some(text))
    }

    /// Whether something of that name is in it.
    pub(crate) fn has(&self, name: &str) -> Result<bool, StorageError> {
        match statx(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e).during("look at", self.path.join(name)),
        }
    }

    /// Its permissions.
    pub(crate) fn mode(&self) -> Result<u16, StorageError> {
        let found = statx(&self.handle, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        Ok(found.during("look at", &self.path)?.stx_mode & 0o777)
    }

    /// Gives it permissions.
    pub(crate) fn set_mode(&self, mode: u16) -> Result<(), StorageError> {
        rustix::fs::fchmod(&self.handle, Mode::from_raw_mode(mode.into())).during("change", &self.path)
    }

    /// The names in it.
    pub(crate) fn names(&self) -> Result<Vec<String>, StorageError> {
        let mut names = Vec::new();
        let mut entries = Dir::read_from(&self.handle).during("read", &self.path)?;
        while let Some(entry) = entries.read() {
            let entry = entry.during("read", &self.path)?;
            names.extend(
                entry
                    .file_name()
                    .to_str()
                    .ok()
                    .filter(|name| !matches!(*name, "." | ".."))
                    .map(str::to_owned),
            );
        }
        Ok(names)
    }

    /// Makes `name` a link that leads to `target`, in place of whatever file or link has the name.
    pub(crate) fn point(&self, name: &FileName, target: impl AsRef<Path>) -> Result<(), StorageError> {
        let link = self.temporary(name);
        symlinkat(target.as_ref(), &self.handle, link.name()).during("make", link.path())?;
        link.publish(name.as_str())
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

    /// The file system that it lies in: two that are not the same number are two.
    pub(crate) fn device(&self) -> Result<(u32, u32), StorageError> {
        self.identity().map(|(major, minor, _)| (major, minor))
    }

    /// A name for something half-made that is to become `name`; it is removed when the value goes, unless published.
    pub(crate) fn temporary(&self, name: impl fmt::Display) -> Temporary<'_> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        // A killed worker's child may still be writing under its own name: names are never used twice.
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let moment = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        let name = format!("{TEMPORARY}{name}.{}-{moment:x}-{serial}", std::process::id());
        Temporary { home: self, name, published: false }
    }

    /// Removes what killed calls left of `name`.
    pub(crate) fn sweep(&self, name: impl std::fmt::Display) -> Result<(), StorageError> {
        self.sweep_names(&format!("{TEMPORARY}{name}."), None)
    }

    /// As [`sweep`](Home::sweep), but for one of them.
    pub(crate) fn sweep_but(&self, name: &FileName, kept: &str) -> Result<(), StorageError> {
        self.sweep_names(&format!("{TEMPORARY}{name}."), Some(kept))
    }

    /// Removes what killed calls left of anything.
    pub(crate) fn sweep_all(&self) -> Result<(), StorageError> {
        self.sweep_names(TEMPORARY, None)
    }

    /// Removes the files by which killed calls wanted to find out who sees this directory.
    pub(crate) fn sweep_probes(&self) -> Result<(), StorageError> {
        self.sweep_names(&format!("{TEMPORARY}probe."), None)
    }

    fn sweep_names(&self, ours: &str, kept: Option<&str>) -> Result<(), StorageError> {
        let is_left = |name: &String| name.starts_with(ours) && Some(name.as_str()) != kept;
        let left: Vec<String> = self.names()?.into_iter().filter(is_left).collect();
        left.iter().try_for_each(|name| remove(self.handle(), name, &self.path.join(name)))
    }

    /// Moves an entry to another name in this directory, over whatever file or link has it.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), StorageError> {
        renameat(&self.handle, from, &self.handle, to).during("rename a new file to", self.path.join(to))
    }

    /// Moves a directory to another name in this one, which nothing has.
    pub(crate) fn rename_fresh(&self, from: &str, to: &str) -> Result<(), StorageError> {
        let handle = &self.handle;
        let renamed = match renameat_with(handle, from, handle, to, RenameFlags::NOREPLACE) {
            // A file system without that flag: a directory is not renamed over one with something in it.
            Err(Errno::INVAL) => renameat(handle, from, handle, to),
            other => other,
        };
        renamed.during("rename a new directory to", self.path.join(to))
    }

    /// Has two entries take each other's names; whether it was done. Not every file system can, and both must be there.
    pub(crate) fn exchange(&self, one: &str, other: &str) -> Result<bool, StorageError> {
        match renameat_with(&self.handle, one, &self.handle, other, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOENT | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(e) => Err(e).during("rename a new directory to", self.path.join(other)),
        }
    }

    /// Makes a new file in it.
    pub(crate) fn create(&self, name: &str, mode: u32) -> Result<std::fs::File, StorageError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = openat(&self.handle, name, flags, Mode::from_raw_mode(mode));
        Ok(opened.during("make", self.path.join(name))?.into())
    }

    /// Brings the directory's entries to the disk.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        sync(&self.handle, &self.path)
    }
}

fn sync(directory: &OwnedFd, path: &Path) -> Result<(), StorageError> {
    match rustix::fs::fsync(directory) {
        // Some network file systems can't do that to a directory; they write entries through.
        Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        Err(e) => Err(e).during("write out", path),
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
        self.home.create(&self.name, mode)
    }

    /// Gives it its final name.
    pub(crate) fn publish(mut self, name: &str) -> Result<(), StorageError> {
        self.home.rename(&self.name, name)?;
        self.published = true;
        Ok(())
    }

    /// Gives it a final name that nothing has.
    pub(crate) fn publish_fresh(mut self, name: &str) -> Result<(), StorageError> {
        self.home.rename_fresh(&self.name, name)?;
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
