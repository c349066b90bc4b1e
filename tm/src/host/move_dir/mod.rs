//! `mv` of a VM's directory to another system datastore (contract TM 2.1).
//!
//! ```text
//!  one file system:    rename                                         (never over anything that is there)
//!  two file systems:   copy beside ── to the disk ── rename ── the old one aside ── remove it
//! ```
//!
//! The copy says where it came from until the old directory has left its name: whoever finds both knows then which of
//! them is whole, and goes on from there.

use std::io::Write;

use rustix::fs::{Mode, RenameFlags, mkdirat, renameat_with};
use rustix::io::Errno;

use super::snapshot::none_in_use;
use super::{Datastore, During, Home, StorageError, Worker, lock, remove};
use crate::place::{FileName, VmDir};

mod layers;
mod tree;

pub(crate) use layers::make_relative;

/// Left in a copy until the directory that it was made from has gone; its text is that directory's path.
pub(crate) const ORIGIN: &str = ".causeway-origin";

/// Moves a VM's directory.
///
/// # Errors
/// Both directories are there and the new one is not our copy of the old one, or neither is.
pub(crate) fn move_dir(from: &VmDir, to: &VmDir, worker: &Worker<'_>) -> Result<(), StorageError> {
    let _locks = lock::hold(worker, to.vm(), None)?;
    let old = Datastore::open(from.datastore())?;
    let new = Datastore::open(to.datastore())?;
    new.mark()?;
    worker.at("datastore marked");
    match (old.home(from)?, new.home(to)?) {
        (None, None) => Err(StorageError::NoDisk { path: from.path() }),
        (None, Some(there)) => finish(&old, from, &there, worker),
        (Some(source), Some(there)) => {
            if source.identity()? == there.identity()? {
                // Two datastores of one place: the VM is where it is to be.
                return Ok(());
            }
            if origin(&there)?.as_deref() != Some(from.to_string().as_str()) {
                return Err(StorageError::BothThere { from: from.clone(), to: to.clone() });
            }
            finish(&old, from, &there, worker)
        }
        (Some(source), None) => {
            // A rename takes nothing from a guest; what is copied is another file than the one that it writes.
            if source.device()? != new.as_folder()?.device()? {
                not_open(&source)?;
            }
            source.sweep_all()?;
            worker.at("leftovers removed");
            make_relative(&source, worker)?;
            match rename(&old, from, &new, to) {
                Ok(()) => {
                    worker.at("renamed");
                    old.sync()?;
                    new.sync()
                }
                Err(Errno::XDEV) => {
                    not_open(&source)?;
                    let there = copy(&source, from, new, to, worker)?;
                    finish(&old, from, &there, worker)
                }
                Err(e) => Err(e).during("move to", to.path()),
            }
        }
    }
}

fn not_open(source: &Home) -> Result<(), StorageError> {
    none_in_use(source, |name| name.starts_with("disk."))
}

fn rename(old: &Datastore, from: &VmDir, new: &Datastore, to: &VmDir) -> Result<(), Errno> {
    let (from, to) = (from.vm().to_string(), to.vm().to_string());
    match renameat_with(old.handle(), from.as_str(), new.handle(), to.as_str(), RenameFlags::NOREPLACE) {
        // A file system without that flag; the name was looked at a moment ago, and the VM is locked.
        Err(Errno::INVAL) => rustix::fs::renameat(old.handle(), from.as_str(), new.handle(), to.as_str()),
        other => other,
    }
}

/// Makes a whole copy and gives it its name.
fn copy(
    source: &Home,
    from: &VmDir,
    new: Datastore,
    to: &VmDir,
    worker: &Worker<'_>,
) -> Result<Home, StorageError> {
    let name = FileName::from(to.vm().0);
    let folder = new.into_folder();
    folder.sweep(&name)?;
    worker.at("leftovers removed");
    let made = folder.temporary(&name);
    mkdirat(folder.handle(), made.name(), Mode::from_raw_mode(0o777)).during("make", made.path())?;
    let missing = || StorageError::NotADirectory { path: made.path() };
    let copied = folder.folder(made.name())?.ok_or_else(missing)?;
    // Nobody looks at it before the whole directory has its name.
    let mut mark = copied.create(ORIGIN, 0o600)?;
    mark.write_all(from.to_string().as_bytes()).during("write", copied.path().join(ORIGIN))?;
    mark.sync_all().during("write out", copied.path().join(ORIGIN))?;
    worker.at("copy begun");
    tree::copy(source.handle(), copied.handle(), source.path(), worker)?;
    worker.at("copied");
    made.publish_fresh(name.as_str())?;
    folder.sync()?;
    worker.at("copy in place");
    folder.folder(name.as_str())?.ok_or(StorageError::NotADirectory { path: to.path() })
}

/// Removes the old directory, if it is still there, and then the word of where the new one came from.
fn finish(old: &Datastore, from: &VmDir, there: &Home, worker: &Worker<'_>) -> Result<(), StorageError> {
    retire(old, from, worker)?;
    remove(there.handle(), ORIGIN, &there.path().join(ORIGIN))?;
    worker.at("origin removed");
    there.sync()
}

/// Removes a directory that is whole in another place, if it is still there.
pub(crate) fn retire(old: &Datastore, from: &VmDir, worker: &Worker<'_>) -> Result<(), StorageError> {
    let folder = old.as_folder()?;
    let name = FileName::from(from.vm().0);
    // Aside first: half removed under its own name it would be taken for a VM's directory.
    let aside = folder.temporary(&name);
    match folder.rename(name.as_str(), aside.name()) {
        Ok(()) => worker.at("old directory aside"),
        Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    drop(aside);
    folder.sweep(&name)?;
    worker.at("old directory removed");
    folder.sync()
}

/// Where a copy came from, if its origin may still be there.
fn origin(there: &Home) -> Result<Option<String>, StorageError> {
    there.text(ORIGIN)
}
