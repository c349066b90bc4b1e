//! File locks of this host: one call at a time for a VM and for an image.
//!
//! oned and our own queues keep the actions of one VM apart already. These locks are for what slips past them: a worker
//! that was told to stop and has not ended yet (W35), a slot started by hand. They end with the process however it ends,
//! and they lie on the host rather than in the datastore: over NFS they would become locks on the very bytes that QEMU
//! locks.
//!
//! The order is fixed: the VM's, then the image's.

use std::fmt::Display;
use std::time::{Duration, Instant};

use causeway_core::locks::{Held, Locks as Numbered, Mode};
use causeway_core::names::VmId;

use super::{During, Kept, StorageError, Worker};
use crate::place::{Image, VmFile};

/// Locks that are held; dropping gives them back.
pub(crate) struct Locks {
    _held: Vec<Held>,
}

/// Waits for the locks of a VM and, if one is named, of an image, until the worker's deadline.
///
/// # Errors
/// [`StorageError::Busy`], or a directory for locks that cannot be used.
pub(crate) fn hold(
    worker: &Worker<'_>,
    vm: VmId,
    image: Option<(&Image, Mode)>,
) -> Result<Locks, StorageError> {
    hold_named(worker, vm, image.map(|(image, mode)| (image.to_string(), mode)))
}

/// Waits for the locks of a disk: its VM's, and its image's where that is the disk.
///
/// # Errors
/// As for [`hold`].
pub(crate) fn of_disk(worker: &Worker<'_>, file: &VmFile, kept: &Kept) -> Result<Locks, StorageError> {
    let image = match kept {
        Kept::Beside => None,
        Kept::WithImage(image) => Some((image, Mode::Exclusive)),
    };
    hold(worker, file.dir().vm(), image)
}

/// As [`hold`]; the image is any thing that has a name of its own among all images.
///
/// # Errors
/// As for [`hold`].
pub(crate) fn hold_named(
    worker: &Worker<'_>,
    vm: VmId,
    image: Option<(String, Mode)>,
) -> Result<Locks, StorageError> {
    let mut held = vec![take(worker, "vms", vm.0.into(), Mode::Exclusive, || format!("VM {vm}"))?];
    if let Some((image, mode)) = image {
        held.push(one(worker, &image, mode)?);
    }
    Ok(Locks { _held: held })
}

/// Waits for the locks of images, in the order in which they are named, until the worker's deadline.
///
/// # Errors
/// As [`hold`].
pub(crate) fn images<T: Display>(worker: &Worker<'_>, images: &[(&T, Mode)]) -> Result<Locks, StorageError> {
    let held = images.iter().map(|(image, mode)| one(worker, &image.to_string(), *mode));
    Ok(Locks { _held: held.collect::<Result<_, _>>()? })
}

/// Waits for the lock of what is mounted at a path, until the worker's deadline.
///
/// # Errors
/// As [`hold`].
pub(crate) fn mount(worker: &Worker<'_>, path: &std::path::Path) -> Result<Locks, StorageError> {
    let what = || format!("the mount at {}", path.display());
    let number = fnv1a(path.as_os_str().as_encoded_bytes());
    Ok(Locks { _held: vec![take(worker, "mounts", number, Mode::Exclusive, what)?] })
}

fn one(worker: &Worker<'_>, image: &str, mode: Mode) -> Result<Held, StorageError> {
    // Two images of one number, which chance won't make, would wait for each other.
    take(worker, "images", fnv1a(image.as_bytes()), mode, || image.to_owned())
}

fn take(
    worker: &Worker<'_>,
    kind: &str,
    number: u64,
    mode: Mode,
    what: impl Fn() -> String,
) -> Result<Held, StorageError> {
    let locks = Numbered::new(worker.locks.join(kind));
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(held) = locks.attempt(number, mode).during("lock", locks.path())? {
            return Ok(held);
        }
        if Instant::now() >= worker.deadline {
            return Err(StorageError::Busy { what: what(), waited: begun.elapsed() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// A hash that is the same in every build: two versions of this program may meet on a host.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn worker(locks: &Path, wait: Duration) -> Worker<'_> {
        Worker::new(locks, Instant::now() + wait)
    }

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_held_vm_is_busy_and_a_shared_image_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let image: Image = "/ds/1/a".parse().unwrap();
        let worker = worker(dir.path(), Duration::from_millis(30));
        let first = hold(&worker, VmId(7), Some((&image, Mode::Shared))).unwrap();
        let second = hold(&worker, VmId(8), Some((&image, Mode::Shared))).unwrap();
        let busy = hold(&worker, VmId(7), None).err().unwrap();
        assert!(busy.to_string().starts_with("VM 7 is still in use by another action"), "{busy}");
        let busy = hold(&worker, VmId(9), Some((&image, Mode::Exclusive))).err().unwrap();
        assert!(busy.to_string().starts_with("/ds/1/a is still in use"), "{busy}");
        drop((first, second));
        drop(hold(&worker, VmId(7), Some((&image, Mode::Exclusive))).unwrap());
    }

    /// Holders that come and go, shared and not.
    #[test]
    fn nobody_is_inside_beside_an_exclusive_holder() {
        let dir = tempfile::tempdir().unwrap();
        let image: Image = "/ds/1/a".parse().unwrap();
        let (writers, readers) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (image, dir, writers, readers) = (&image, dir.path(), &writers, &readers);
                scope.spawn(move || {
                    for round in 0..200 {
                        let worker = worker(dir, Duration::from_secs(60));
                        let mode = if round % 2 == 0 { Mode::Shared } else { Mode::Exclusive };
                        let held = hold(&worker, VmId(thread), Some((image, mode))).unwrap();
                        match mode {
                            Mode::Shared => {
                                readers.fetch_add(1, Ordering::SeqCst);
                                assert_eq!(writers.load(Ordering::SeqCst), 0);
                                readers.fetch_sub(1, Ordering::SeqCst);
                            }
                            Mode::Exclusive => {
                                assert_eq!(writers.fetch_add(1, Ordering::SeqCst), 0);
                                assert_eq!(readers.load(Ordering::SeqCst), 0);
                                writers.fetch_sub(1, Ordering::SeqCst);
                            }
                        }
                        drop(held);
                    }
                });
            }
        });
    }
}
