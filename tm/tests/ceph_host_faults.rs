//! Every call on volumes and on images of a Ceph datastore, disturbed at every system call that changes a file of its host,
//! of its tools too: killed there, and from there on without room, or read-only. Such files are locks, a datastore's mark, a
//! VM's directory with what is fetched into it or made beside a disk, and what lies in `STAGING_DIR`. On a real cluster: what
//! the volumes hold is compared, too.

#![cfg(test)]
#![cfg(target_arch = "x86_64")]

mod ceph;
mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use causeway_core::answer::Failure;
use ceph::case::{Case, chosen};
use ceph::{Picture, Stage, cases, cluster, image_cases, kill, pool};
use common::Kept;
use common::fault::{self, Fault};

/// What can happen. A cluster that fails is disturbed in `ceph_faults`.
const FAULTS: [Fault; 3] = [Fault::Killed, Fault::Full, Fault::ReadOnly];
/// So many calls are disturbed at once: most of what they do is waiting.
const AT_ONCE: usize = 6;
/// After so many calls the pool begins anew.
const CASES: usize = 24;
/// So many calls the short form takes, others in each run, and of each one point for each fault.
const SHORT: usize = 3;

#[test]
#[ignore = "run by the test below, in processes of its own"]
fn killed_child() {
    kill::child();
}

/// A call that is disturbed, on volumes of its own each time that it has changed something.
struct Disturbed<'a> {
    conf: &'a Path,
    case: &'a Case,
    on: Stage,
    files: Kept,
}

/// What there is.
#[derive(Debug)]
struct Seen {
    picture: Picture,
    /// Names of what is half-made, which goes with the next call, or with one after it: a client that was killed may have it
    /// open for some time yet.
    half_made: Vec<String>,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.picture == other.picture
    }
}

/// Where a call may touch files.
fn dirs(on: &Stage) -> Vec<PathBuf> {
    let mut dirs = vec![on.staging()];
    dirs.extend(["datastores", "locks"].map(|name| on.dir().join(name)));
    dirs
}

impl<'a> Disturbed<'a> {
    fn new(conf: &'a Path, case: &'a Case) -> Self {
        let on = Stage::new(conf).before(case, "one");
        let files = Kept::of(dirs(&on));
        Disturbed { conf, case, on, files }
    }
}

impl fault::Scene for Disturbed<'_> {
    type Seen = Seen;

    fn name(&self) -> String {
        self.case.name.to_owned()
    }

    fn dirs(&self) -> Vec<PathBuf> {
        dirs(&self.on)
    }

    fn untouched(&self, now: &Seen, before: &Seen) -> bool {
        now == before && now.half_made == before.half_made
    }

    fn restore(&mut self, _: &Kept, untouched: bool) {
        match untouched {
            true => self.files.restore(),
            false => *self = Disturbed::new(self.conf, self.case),
        }
    }

    fn names(&self) -> Vec<String> {
        // A file without a name is named by what is in it.
        vec!["what was sent".to_owned()]
    }

    fn child(&self) -> (Command, PathBuf) {
        (kill::watched(&self.on, &(self.case.call)(&self.on)), kill::answer(&self.on))
    }

    fn see(&self) -> Seen {
        let mut picture = self.on.picture();
        let half_made = kill::settle(&mut picture);
        Seen { picture, half_made }
    }

    fn judge(&self, at: &str, now: &Seen, before: &Seen, after: &Seen) {
        // W26: not even now.
        self.on.nothing_staged();
        self.case.judge(at, &now.picture, &before.picture, &after.picture);
    }

    fn again(&self) -> Result<(), Failure> {
        self.on.act(&(self.case.call)(&self.on), &|_| {})?;
        self.on.nothing_staged();
        // Of files everybody sees at once who has them open.
        let files = std::fs::read_dir(self.on.vm_dir()).into_iter().flatten();
        let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // What was fetched of a backup goes with the end of its restore.
        let left: Vec<String> =
            names.filter(|name| name.starts_with(".causeway-tmp.") && !name.ends_with(".restored")).collect();
        assert_eq!(left, [""; 0]);
        Ok(())
    }
}

#[test]
fn disturbed_at_any_system_call_and_run_again_is_the_same() {
    let Some(conf) = cluster() else { return };
    let mut all = cases::all();
    all.extend(image_cases::all());
    all.push(image_cases::export());
    // With what a tool writes bit by bit first: it takes longest.
    all.sort_by_key(|case| !case.name.contains("file system"));
    let all = chosen("CAUSEWAY_TEST_STEP", all, |case| case.name);
    let mut tally = fault::Tally::default();
    for cases in ceph::share(&all, SHORT.min(all.len())).chunks(CASES) {
        tally.add(fault::campaign_of(cases, usize::MAX, AT_ONCE, |case, sharing| {
            let sharing = sharing.shifted(std::process::id() as usize);
            let tally = fault::trial_of(&mut Disturbed::new(&conf, case), &sharing, &FAULTS);
            println!("{}: {tally:?}", case.name);
            tally
        }));
        if ceph::long() {
            pool::anew(&conf);
        }
    }
    tally.close_of("ceph_host_faults", all.len());
}
