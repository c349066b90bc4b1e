//! Named network namespaces, as `ip netns` keeps them: a file below `/run/netns` on which the namespace is mounted.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// `NSFS_MAGIC` of `linux/magic.h`.
const NAMESPACES: i64 = 0x6e73_6673;

/// Whether a namespace is mounted there.
///
/// # Errors
/// It can't be found out.
pub fn exists(path: &Path) -> io::Result<bool> {
    match rustix::fs::statfs(path) {
        Ok(found) => Ok(found.f_type == NAMESPACES),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes a namespace there, with its loop up; `set_up` runs within it before it has its name.
///
/// # Errors
/// The kernel refused. A file without a namespace may be left: it is used the next time.
pub fn make(path: &Path, set_up: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(path)?;
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        set_up()?;
        let none: Option<&str> = None;
        Ok(mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)?)
    })
}

/// Runs `work` within the namespace.
///
/// # Errors
/// There is none, or it can't be entered.
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    on_a_thread(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

/// Takes its name away; it goes when no process is in it any more.
///
/// # Errors
/// The kernel refused.
pub fn remove(path: &Path) -> io::Result<()> {
    if exists(path)? {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A namespace is a thread's own: this one keeps the host's.
fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let panicked = |_| io::Error::other("a thread in a network namespace panicked");
    thread::scope(|scope| scope.spawn(work).join().map_err(panicked))?
}
