//! Mounts of datastores that are no more to be mounted so. Nothing is taken from anybody who uses it, and none of this makes
//! the call fail that came by.
//!
//! ```text
//! marked, not wanted ──> note ──> umount ──> line out of /etc/fstab ──> directory ──> no note
//!                                   └─ busy: no note, all stays
//! ```
//!
//! The mark is on the server, and can't be seen any more once the mount is gone: the note, beside the locks, says to the next
//! call what a killed one had begun.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use causeway_core::protocol::Severity;
use rustix::fs::{AtFlags, CWD, unlinkat};

use super::super::{During, StorageError, Worker, lock};
use super::{AUTOMOUNTED, fstab, run, table};
use crate::automount::{Mount, Share};
use crate::place::DatastoreDir;

/// Longest time that a server which may be gone is asked for a mark.
const ASKED: Duration = Duration::from_secs(5);
/// As many mounts upon each other are taken away at once.
const UPON_EACH_OTHER: u32 = 4;
/// How a note's name begins; the rest is the datastore's number.
const NOTE: &str = "unmounting.";

/// A datastore that may be no more to be mounted here.
struct Old<'a> {
    datastore: DatastoreDir,
    path: PathBuf,
    worker: &'a Worker<'a>,
}

/// Unmounts what carries the mark, is none of `automounted`, and is used by nobody; the log tells of it.
pub(super) fn unmount(mounts: &[Mount], automounted: &BTreeSet<u32>, worker: &Worker<'_>) {
    let Some(first) = mounts.first().map(|mount| &mount.datastore) else { return };
    let (Ok(root), Ok(table)) = (first.root().canonicalize(), table()) else { return };
    let wanted = |id: u32| automounted.contains(&id) || mounts.iter().any(|mount| mount.datastore.id() == id);
    let old = |id: u32| Old { datastore: first.sibling(id), path: root.join(id.to_string()), worker };
    for id in noted(worker) {
        let old = old(id);
        old.told(if wanted(id) { old.forget_note() } else { old.finish() });
    }
    for (id, share) in table.shares_below(&root).into_iter().filter(|(id, _)| !wanted(*id)) {
        let old = old(id);
        old.told(old.unmount(&share));
        worker.at("looked at an older mount");
    }
}

/// The datastores about which a killed call left a note.
fn noted(worker: &Worker<'_>) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(worker.locks) else { return Vec::new() };
    let id = |name: std::ffi::OsString| name.to_str()?.strip_prefix(NOTE)?.parse().ok();
    entries.flatten().filter_map(|entry| id(entry.file_name())).collect()
}

impl Old<'_> {
    fn told(&self, done: Result<(), StorageError>) {
        if let Err(e) = done {
            self.tell(Severity::Warning, &format!("was not unmounted, or not quite: {e}"));
        }
    }

    fn tell(&self, severity: Severity, what: &str) {
        let id = self.datastore.id();
        let text = format!("datastore {id} has no NFS_AUTO_ENABLE any more, and {what}");
        (self.worker.copying.log)(severity, &text);
    }

    fn note(&self) -> PathBuf {
        self.worker.locks.join(format!("{NOTE}{}", self.datastore.id()))
    }

    fn forget_note(&self) -> Result<(), StorageError> {
        match std::fs::remove_file(self.note()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).during("remove", self.note()),
            _ => Ok(()),
        }
    }

    fn unmount(&self, share: &Share) -> Result<(), StorageError> {
        let _lock = lock::mount(self.worker, &self.path)?;
        let mark = self.path.join(AUTOMOUNTED);
        let words = ["/usr/bin/stat", "--", &*mark.to_string_lossy()];
        if run::limited(&words, None, &self.path, ASKED, self.worker)?.is_err() {
            return Ok(());
        }
        std::fs::write(self.note(), self.datastore.to_string()).during("write", self.note())?;
        self.worker.at("noted what goes");
        for _ in 0..UPON_EACH_OTHER {
            if !table()?.has(&self.path, share) {
                break;
            }
            let said =
                run::as_root(&[run::UMOUNT, &self.path.to_string_lossy()], None, &self.path, self.worker)?;
            if let Err(why) = said {
                self.forget_note()?;
                return Err(StorageError::Mount { path: self.datastore.path(), why });
            }
            self.worker.at("unmounted");
        }
        self.rest()?;
        self.tell(Severity::Info, &format!("{share} was unmounted from {}", self.datastore));
        Ok(())
    }

    /// What a killed call had begun.
    fn finish(&self) -> Result<(), StorageError> {
        let _lock = lock::mount(self.worker, &self.path)?;
        let begun = std::fs::read_to_string(self.note()).unwrap_or_default() == self.datastore.to_string();
        // Still mounted, it still has its mark.
        if begun && !table()?.is_at(&self.path) { self.rest() } else { self.forget_note() }
    }

    /// What is left to do once it is unmounted.
    fn rest(&self) -> Result<(), StorageError> {
        fstab::forget(&self.datastore, self.worker)?;
        self.worker.at("line taken out");
        // As the stock driver does; with something in it, it stays.
        let _ = unlinkat(CWD, &self.path, AtFlags::REMOVEDIR);
        self.forget_note()
    }
}
