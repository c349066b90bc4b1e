//! Datastores that are mounted by whoever uses them (`NFS_AUTO_ENABLE`, contract TM 2.1), before a call may begin.
//!
//! ```text
//! /proc/self/mountinfo ─┐
//! what lies there ──────┼─ decide ──> there already ───────────────────────┬─> marked ──> line in /etc/fstab ──> the call
//! /etc/fstab ───────────┘       ├───> mount (30 s) ── mountinfo says so ───┘
//!                               └───> refused: another mount, an admin's other line, data that a mount would hide
//! ```
//!
//! Whatever ended between any two of these is taken up by the next call: all that it needs to know is where the kernel and
//! the files say it is. A mount for an action of a datastore gets no line, as in the stock driver, and stays as there: the
//! next action finds it.

mod fstab;
mod run;
mod stale;

use std::path::{Path, PathBuf};

use causeway_core::answer::Failure;
pub(super) use fstab::expected;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxFlags, mkdirat, openat, statx, unlinkat};
use rustix::io::Errno;

use super::home::{MARK, MONITOR};
use super::{During, StorageError, Worker, lock, perform};
use crate::automount::{Edit, Lies, Mount, Mounted, Table, Todo, decide};

/// What the stock driver leaves in a datastore that it mounted, and the host's probe looks for.
const AUTOMOUNTED: &str = ".automounted";
/// What lies in a directory on behalf of a datastore that is mounted there. Below the mount it would vouch for one that is not.
const MARKS: [&str; 3] = [MARK, MONITOR, AUTOMOUNTED];

/// Performs a call once all is mounted that it works in; the text is its own.
///
/// # Errors
/// What could not be mounted, and why: then the call was not begun. As the call.
pub(super) fn mounted(order: &Mounted, inputs: &[Vec<u8>], worker: &Worker<'_>) -> Result<String, Failure> {
    order.mounts.iter().try_for_each(|mount| ensure(mount, worker))?;
    if let Some(automounted) = &order.automounted {
        stale::unmount(&order.mounts, automounted, worker);
    }
    perform(&order.call, inputs, worker)
}

fn ensure(mount: &Mount, worker: &Worker<'_>) -> Result<(), StorageError> {
    let path = place(mount)?;
    let _lock = lock::mount(worker, &path)?;
    // An admin's other line must not be found only when all is mounted.
    let edit = fstab::look(mount)?;
    if todo(mount, &path)? == Todo::Mount {
        make(mount, &path, worker)?;
        worker.at("mounted");
    }
    if edit == Edit::Admins {
        return Ok(());
    }
    mark(&path)?;
    worker.at("mount marked");
    if mount.kept && edit != Edit::Ours {
        fstab::write(mount, worker)?;
        worker.at("line written");
    }
    Ok(())
}

/// The datastore's directory as the kernel names it: an admin may have made the root of all datastores a link.
fn place(mount: &Mount) -> Result<PathBuf, StorageError> {
    let root = mount.datastore.root();
    Ok(root.canonicalize().during("find", root)?.join(mount.datastore.id().to_string()))
}

fn table() -> Result<Table, StorageError> {
    let path = "/proc/self/mountinfo";
    let bytes = std::fs::read(path).during("read", path)?;
    Ok(Table::parse(&String::from_utf8_lossy(&bytes)))
}

fn todo(mount: &Mount, path: &Path) -> Result<Todo, StorageError> {
    let table = table()?;
    let lies = lies(path, table.is_at(path))?;
    decide(&table, path, &lies, mount).map_err(|why| refused(mount, why))
}

fn refused(mount: &Mount, why: String) -> StorageError {
    StorageError::Mount { path: mount.datastore.path(), why }
}

/// What lies at a path; what is mounted there is not looked into.
fn lies(path: &Path, mounted: bool) -> Result<Lies, StorageError> {
    let what = "look at";
    // Asks no server, and has nobody else mount anything.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = match statx(CWD, path, flags, StatxFlags::TYPE | StatxFlags::MNT_ID) {
        Err(Errno::NOENT) => return Ok(Lies::Nothing),
        found => found.during(what, path)?,
    };
    if FileType::from_raw_mode(found.stx_mode.into()) != FileType::Directory {
        return Ok(Lies::Other);
    }
    let told = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    let holds = if mounted { None } else { held(path)? };
    Ok(Lies::Directory { on: told.then_some(found.stx_mnt_id), holds })
}

/// Something in a directory that is no mark.
fn held(path: &Path) -> Result<Option<String>, StorageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty()).during("open", path)?;
    let mut entries = Dir::read_from(&directory).during("read", path)?;
    while let Some(entry) = entries.read() {
        let entry = entry.during("read", path)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." && !MARKS.contains(&name.as_str()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn make(mount: &Mount, path: &Path, worker: &Worker<'_>) -> Result<(), StorageError> {
    let made = match mkdirat(CWD, path, Mode::from_raw_mode(0o777)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(e).during("make", path),
    };
    worker.at("mount point made");
    for mark in MARKS {
        match unlinkat(CWD, path.join(mark), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e).during("remove", path.join(mark)),
        }
    }
    worker.at("marks below removed");
    let (share, options) = (mount.share.to_string(), mount.options.to_string());
    let at = path.to_string_lossy();
    let mut words = vec![run::MOUNT, "-t", "nfs"];
    if !mount.options.is_none() {
        words.extend(["-o", &options]);
    }
    words.extend([share.as_str(), &at]);
    let said = run::as_root(&words, None, path, worker);
    // What a program says of a mount is no proof, either way: another one may have been faster.
    if todo(mount, path)? == Todo::Nothing {
        return Ok(());
    }
    if made {
        // An empty directory left behind does no harm.
        let _ = unlinkat(CWD, path, AtFlags::REMOVEDIR);
    }
    Err(match said? {
        Ok(()) => refused(mount, format!("{share} is not mounted, though mount says so")),
        Err(words) => refused(mount, format!("{share} could not be mounted: {words}")),
    })
}

/// Leaves the stock driver's mark, by which it and we know later that the mount is ours to take away.
fn mark(path: &Path) -> Result<(), StorageError> {
    let mark = path.join(AUTOMOUNTED);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match openat(CWD, &mark, flags, Mode::from_raw_mode(0o666)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e).during("make", mark),
    }
}
