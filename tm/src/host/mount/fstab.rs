//! `/etc/fstab`, changed as the stock driver changes it: under its lock, by the one call of `sed` that sudo's rules allow, which
//! writes a new file and renames it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::super::{During, StorageError, Worker};
use super::{refused, run};
use crate::automount::{Edit, Line, Mount, dropped, kept};
use crate::place::DatastoreDir;

const FSTAB: &str = "/etc/fstab";
/// How long the stock driver waits for the file's lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to become of the file for a mount.
///
/// # Errors
/// Another line in it is an admin's; it can't be read.
pub(super) fn look(mount: &Mount) -> Result<Edit, StorageError> {
    let line = Line::of(&mount.datastore, &mount.share, &mount.options);
    line.and_then(|line| kept(&read()?, &line)).map_err(|why| refused(mount, why))
}

fn read() -> Result<String, String> {
    match std::fs::read(FSTAB) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(format!("cannot read {FSTAB}: {e}")),
    }
}

/// Whether a line of ours brings a datastore's mount back when the host starts.
pub(in crate::host) fn expected(datastore: &DatastoreDir) -> bool {
    // Where it can't be read, no line of ours was ever written.
    let text = read().unwrap_or_default();
    dropped(&text, datastore).is_ok_and(|words| words.is_some())
}

/// Gives a mount its line.
///
/// # Errors
/// As [`look`]; `sed` failed, or the file has no such line after it.
pub(super) fn write(mount: &Mount, worker: &Worker<'_>) -> Result<(), StorageError> {
    let _lock = lock(worker)?;
    let Edit::Sed(words) = look(mount)? else { return Ok(()) };
    worker.at("fstab locked");
    let said = run::as_root(&run::SED, Some(&words), Path::new(FSTAB), worker)?;
    match (look(mount)?, said) {
        (Edit::Ours | Edit::Admins, _) => Ok(()),
        (Edit::Sed(_), Err(words)) => {
            Err(refused(mount, format!("its line can't be written to {FSTAB}: {words}")))
        }
        (Edit::Sed(_), Ok(())) => {
            let why = format!("{FSTAB} took no line: where it is empty, write a comment into it");
            Err(refused(mount, why))
        }
    }
}

/// Takes our line about a datastore out of the file.
///
/// # Errors
/// Why that could not be done.
pub(super) fn forget(datastore: &DatastoreDir, worker: &Worker<'_>) -> Result<(), StorageError> {
    let wrong = |why| StorageError::Mount { path: datastore.path(), why };
    let _lock = lock(worker)?;
    let Some(words) = read().and_then(|text| dropped(&text, datastore)).map_err(wrong)? else {
        return Ok(());
    };
    let said = run::as_root(&run::SED, Some(&words), Path::new(FSTAB), worker)?;
    said.map_err(|words| wrong(format!("its line can't be taken out of {FSTAB}: {words}")))
}

/// The lock that the stock driver takes; every change makes it another file.
fn lock(worker: &Worker<'_>) -> Result<File, StorageError> {
    let until = worker.deadline.min(Instant::now() + PATIENCE);
    loop {
        let file = File::open(FSTAB).during("open", FSTAB)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let (ours, now) = (file.metadata().during("look at", FSTAB)?, std::fs::metadata(FSTAB));
                if now.is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino())) {
                    return Ok(file);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => return Err(e).during("lock", FSTAB),
        }
        if Instant::now() >= until {
            return Err(StorageError::Busy { what: FSTAB.to_owned(), waited: PATIENCE });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
