//! What can happen to a cluster, or to somebody who uses it, and is over again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::pool::ceph;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The cluster says nothing any more, as behind a cable that is pulled: requests lie there, and may be done when it is
    /// plugged in again, whoever lives then.
    Cut,
    /// The pool is at its quota: reads are answered, and whoever writes waits.
    Full,
    /// The user may only read.
    ReadOnly,
}

pub const FAULTS: [Fault; 3] = [Fault::Cut, Fault::Full, Fault::ReadOnly];

/// The user whom it happens to where it is not the whole cluster. His key is beside the configuration.
pub const USER: &str = "fickle";

/// A fault that lasts as long as this value.
pub struct Lasting<'a> {
    fault: Fault,
    conf: &'a Path,
}

impl Fault {
    /// Has it begin; it has begun when this returns.
    pub fn begin(self, conf: &Path) -> Lasting<'_> {
        let lasting = Lasting { fault: self, conf };
        match self {
            Fault::Cut => signal(conf, Signal::STOP),
            Fault::Full => quota(conf, 1),
            Fault::ReadOnly => allow(conf, "profile rbd-read-only"),
        }
        lasting
    }

    pub fn name(&self) -> &'static str {
        match self {
            Fault::Cut => "cut",
            Fault::Full => "full",
            Fault::ReadOnly => "read-only",
        }
    }

    /// How long a call is given that can't come to its end.
    pub fn patience(self) -> Duration {
        match self {
            Fault::Cut | Fault::Full => Duration::from_millis(1500),
            // It is told.
            Fault::ReadOnly => Duration::from_secs(60),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Drop for Lasting<'_> {
    fn drop(&mut self) {
        match self.fault {
            Fault::Cut => signal(self.conf, Signal::CONT),
            Fault::Full => quota(self.conf, 0),
            Fault::ReadOnly => allow(self.conf, "profile rbd"),
        }
    }
}

/// Makes the user.
pub fn user(conf: &Path) {
    let caps = ["mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd"];
    let name = format!("client.{USER}");
    ceph(conf, &[&["auth", "get-or-create", &name], &caps[..]].concat());
    let key = ceph(conf, &["auth", "print-key", &name]);
    std::fs::write(conf.with_file_name(format!("{USER}.key")), key).unwrap();
}

fn allow(conf: &Path, profile: &str) {
    let name = format!("client.{USER}");
    ceph(conf, &["auth", "caps", &name, "mon", profile, "osd", profile, "mgr", profile]);
}

/// Sets the pool's quota, and waits until the cluster minds it.
fn quota(conf: &Path, objects: u32) {
    ceph(conf, &["osd", "pool", "set-quota", "one", "max_objects", &objects.to_string()]);
    let begun = Instant::now();
    let is_full = || {
        let detail: serde_json::Value =
            serde_json::from_str(&ceph(conf, &["osd", "pool", "ls", "detail", "--format", "json"])).unwrap();
        let one = detail.as_array().unwrap().iter().find(|pool| pool["pool_name"] == "one").unwrap();
        one["flags_names"].as_str().unwrap().contains("full_quota")
    };
    while is_full() != (objects > 0) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the quota of {objects} objects is not minded");
        sleep(Duration::from_millis(300));
    }
}

/// Tells all processes of that very cluster.
fn signal(conf: &Path, signal: Signal) {
    for name in ["mon.pid", "mgr.pid", "osd.pid"] {
        let pid: i32 = std::fs::read_to_string(conf.with_file_name(name)).unwrap().trim().parse().unwrap();
        let line = std::fs::read(PathBuf::from(format!("/proc/{pid}/cmdline"))).unwrap();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(line.contains(conf.to_str().unwrap()), "{pid} is {line}");
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}
