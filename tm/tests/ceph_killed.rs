//! Every call on volumes, killed between any two of its effects and run again, comes to the same end, on a real cluster;
//! and what it was not to touch is as it was. The points come from the calls themselves.

#![cfg(test)]

mod ceph;

use std::os::unix::process::CommandExt;
use std::time::Instant;

use ceph::case::Case;
use ceph::cases;
use ceph::kill::{self, ended};
use ceph::{Stage, at_once, cluster};
use rustix::process::{Pid, Signal, kill_process_group};

/// The child's part of the tests below.
#[test]
#[ignore = "run by the tests below, in processes of its own"]
fn killed_child() {
    kill::child();
}

#[test]
fn killed_anywhere_and_run_again_is_the_same() {
    let Some(conf) = cluster() else { return };
    kill::campaign("ceph_killed", &conf, cases::all(), 5, |case, on, after| {
        // Done again, it is still the same.
        on.done((case.call)(on));
        assert_eq!(ended(on), *after, "{} done twice", case.name);
    });
}

/// Killed with its `rbd` at whatever moment, in the midst of a copy or of a removal, and run again at once.
#[test]
fn killed_at_any_moment_and_run_again_is_the_same() {
    let Some(conf) = cluster() else { return };
    let cases = cases::all();
    let names =
        ["clone over an older disk", "save", "removal", "revert", "removal into the trash", "snapshot"];
    let mut trials: Vec<(&Case, u64)> = Vec::new();
    for case in cases.iter().filter(|case| names.contains(&case.name)) {
        trials.extend((1..=6).map(|share| (case, share)));
    }
    at_once(&ceph::share(&trials, 3), |(case, share)| {
        let on = Stage::new(&conf).before(case, "one");
        let begun = Instant::now();
        on.done((case.call)(&on));
        let (took, after) = (begun.elapsed(), ended(&on));
        let on = Stage::new(&conf).before(case, "one");
        let mut child = kill::command(&on, &(case.call)(&on), usize::MAX).process_group(0).spawn().unwrap();
        std::thread::sleep(took.mul_f64(*share as f64 / 7.0));
        let _ = kill_process_group(Pid::from_raw(child.id() as i32).unwrap(), Signal::KILL);
        child.wait().unwrap();
        on.done((case.call)(&on));
        assert_eq!(on.settled(), after, "{} killed after {share}/7", case.name);
        // What could not be removed at once goes with the disk.
        on.done(on.remove(&on.disk(), false));
        let left = on.picture();
        assert!(left.keys().all(|name| name == "one-5" || name.starts_with("one-5-saved")), "{left:?}");
    });
}
