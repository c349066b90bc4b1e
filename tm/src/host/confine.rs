//! Limits of a backup datastore on this host: the slice is made as they say, and what can't be kept is told.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use causeway_core::protocol::Severity;
use rustix::process::geteuid;

use super::{During, StorageError, Tool, Worker};
use crate::confine::Confined;

/// The environment variable that says where a user's systemd is asked.
pub const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";

/// What a process is started with that is to do the call. A limit that this host can't keep is told in the VM's log: the
/// backup is worth more than the limit.
pub fn prefix(confined: &Confined, worker: &Worker<'_>) -> Vec<OsString> {
    let limits = &confined.limits;
    let mut words = Vec::new();
    let of_a_group = limits.of_a_group();
    if !of_a_group.is_empty() {
        match slice(confined, worker) {
            Ok(()) => words = limits.in_slice(),
            Err(e) => warn(
                worker,
                &format!(
                    "{} can't be kept on this host: {e}; a user's systemd must run there (loginctl enable-linger oneadmin)",
                    limits.told(&of_a_group)
                ),
            ),
        }
    }
    let mut nice = limits.clone();
    if limits.nice.is_some_and(|nice| nice < 0) && !geteuid().is_root() {
        warn(
            worker,
            &format!(
                "{}_NICE of datastore {} is below 0, which only root may ask for",
                limits.driver, limits.datastore
            ),
        );
        nice.nice = None;
    }
    words.extend(nice.nicely());
    words.into_iter().map(OsString::from).collect()
}

fn slice(confined: &Confined, worker: &Worker<'_>) -> Result<(), StorageError> {
    let (limits, disk) = (&confined.limits, confined.disk.path());
    if limits.read_iops.is_some() || limits.write_iops.is_some() {
        // Where systemd's tool ends a path.
        if disk.display().to_string().contains(' ') {
            let why = "reads and writes are not counted in a directory with a blank in its name";
            return Err(StorageError::Disk { path: disk, why: why.to_owned() });
        }
        if !has_a_device(&disk)? {
            let names = limits.of_a_group().into_iter().filter(|name| name.ends_with("IOPS"));
            let names: Vec<String> = names.collect();
            let disk = disk.display();
            warn(
                worker,
                &format!(
                    "{} have no effect on {disk}, which is on no disk of this host",
                    limits.told(&names)
                ),
            );
        }
    }
    let mut tool = Tool::new("systemctl", Path::new(&limits.slice()));
    tool.args(["--user", "set-property", "--runtime", &limits.slice()]).args(limits.properties(&disk));
    tool.env(RUNTIME_DIR, runtime_dir()).run(worker)
}

/// Where this user's systemd is asked: as the session says, else where systemd itself puts it.
pub fn runtime_dir() -> PathBuf {
    let said = std::env::var_os(RUNTIME_DIR).filter(|path| !path.is_empty());
    said.map_or_else(|| format!("/run/user/{}", geteuid().as_raw()).into(), PathBuf::from)
}

/// Whether the kernel counts what is read and written there: it does on a disk, not on another machine's.
fn has_a_device(directory: &Path) -> Result<bool, StorageError> {
    // From linux/magic.h; a btrfs lies on disks without being one.
    const BTRFS: u64 = 0x9123_683e;
    let found = rustix::fs::stat(directory).during("look at", directory)?;
    if rustix::fs::major(found.st_dev) != 0 {
        return Ok(true);
    }
    let system = rustix::fs::statfs(directory).during("look at", directory)?;
    Ok(u64::try_from(system.f_type).is_ok_and(|kind| kind == BTRFS))
}

fn warn(worker: &Worker<'_>, text: &str) {
    (worker.copying.log)(Severity::Warning, text);
}
