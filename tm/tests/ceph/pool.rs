//! The cluster's own affairs, as its admin.

use std::path::Path;
use std::process::Command;

/// Makes pool `one` anew: what thousands of calls leave in it is more than a cluster in memory holds. Whoever calls it has
/// the cluster to himself.
pub fn anew(conf: &Path) {
    ceph(conf, &["osd", "pool", "delete", "one", "one", "--yes-i-really-really-mean-it"]);
    ceph(conf, &["osd", "pool", "create", "one", "4", "4"]);
    ceph(conf, &["osd", "pool", "application", "enable", "one", "rbd"]);
    ran(Command::new("timeout").args(["60", "rbd", "--conf"]).arg(conf).args(["pool", "init", "one"]));
}

/// Runs `ceph`; what it printed.
pub fn ceph(conf: &Path, words: &[&str]) -> String {
    let mut ceph = Command::new("timeout");
    ran(ceph.args(["60", "ceph", "--connect-timeout", "20", "--conf"]).arg(conf).args(words))
}

fn ran(command: &mut Command) -> String {
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{command:?}: {ran:?}");
    String::from_utf8(ran.stdout).unwrap()
}
