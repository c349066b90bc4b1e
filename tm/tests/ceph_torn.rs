//! What `rbd` itself leaves when it is killed within one change, and what the verbs then make of it: a volume that has a
//! name and can't be opened, a name that is in no list and leads to a volume all the same. On a real cluster.
//!
//! `ceph_killed` kills between the changes. Here the states within them are made on purpose; in the long form whole calls are
//! killed at what they send, too, which is how these states were found.

#![cfg(test)]
#![cfg(target_arch = "x86_64")]

mod ceph;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use causeway_testing::tracer::{self, Does, Fate};
use ceph::cases;
use ceph::kill::{self, ended};
use ceph::{Picture, Stage, at_once, cluster};

/// The child's part of the test in the long form.
#[test]
#[ignore = "run by the test below, in processes of its own"]
fn killed_child() {
    kill::child();
}

/// Runs a command and kills it at what it sends for the time of that number; how often it has sent something.
fn at_send(command: &mut Command, last: usize) -> usize {
    let mut sent = 0;
    let mut judge = |call: &tracer::SystemCall| {
        if call.does != Does::Sends {
            return Fate::Pass;
        }
        sent += 1;
        if sent == last { Fate::Kill } else { Fate::Pass }
    };
    tracer::run(command.stdout(Stdio::null()).stderr(Stdio::null()), &mut judge).unwrap();
    sent
}

fn rm(on: &Stage, volume: &str) -> Command {
    let mut rm = tracer::command("rbd");
    rm.args(on.access()).args(["rm", "--no-progress", volume]);
    rm
}

/// A volume without snapshots whose removal was cut off: the pool lists its name, it can't be opened, and what it stood on
/// is held by it. Where in the removal that is, the removal of another one tells.
fn half_removed(on: &Stage, volume: &str) {
    let parent = on.json(&format!("info {volume}"))["parent"].clone();
    let text = |key: &str| parent[key].as_str().unwrap().to_owned();
    let from = format!("one/{}@{}", text("image"), text("snapshot"));
    let other = format!("{}-other", on.source());
    on.rbd(&format!("clone {from} {other}"));
    let all = at_send(&mut rm(on, &other), usize::MAX);
    at_send(&mut rm(on, volume), all * 3 / 4);
    let listed: Vec<String> = serde_json::from_value(on.json("ls one")).unwrap();
    assert!(listed.iter().any(|name| format!("one/{name}") == volume), "{volume} of {all} is gone");
    assert!(on.rbd_with(&[], &["info", volume]).is_err(), "{volume} of {all} can be opened");
    assert!(stand_on(on, &from).contains(&volume.to_owned()));
}

fn stand_on(on: &Stage, snapshot: &str) -> Vec<String> {
    let children = on.json(&format!("children --all {snapshot}"));
    let name = |child: &serde_json::Value| format!("one/{}", child["image"].as_str().unwrap());
    children.as_array().unwrap().iter().map(name).collect()
}

fn rados(on: &Stage, words: &[&str]) {
    let ran = Command::new("rados").args(on.access()).args(["--pool", "one"]).args(words).output().unwrap();
    assert!(ran.status.success(), "{words:?}: {ran:?}");
}

/// Makes a name lead to the volume of another one, in no list, as a renaming leaves it that was cut off.
fn leads_to(on: &Stage, ghost: &str, volume: &str) {
    let file = on.dir().join("id");
    let [ghost, volume] =
        [ghost, volume].map(|name| format!("rbd_id.{}", name.strip_prefix("one/").unwrap()));
    rados(on, &["get", &volume, file.to_str().unwrap()]);
    rados(on, &["put", &ghost, file.to_str().unwrap()]);
    let (ghost, names) = (ghost.strip_prefix("rbd_id.").unwrap(), on.json("ls one"));
    assert!(names.as_array().unwrap().iter().all(|name| name != ghost));
}

/// A volume that was the disk once and stands on another one of the disk: its snapshot has gone, and half of itself.
fn older_half_removed(on: &Stage) {
    on.family();
    let older = format!("{}-2", on.disk());
    on.rbd(&format!("snap unprotect {older}@2"));
    on.rbd(&format!("snap rm --no-progress {older}@2"));
    half_removed(on, &older);
}

fn bare(on: &Stage) -> Vec<String> {
    ended(on).into_keys().collect()
}

fn names(picture: &Picture) -> Vec<&str> {
    picture.keys().map(String::as_str).collect()
}

/// Was refused once: "one-5-7-0-0:1@0 is still needed by one-5-7-0-2", which was nowhere to be seen.
#[test]
fn a_removal_that_was_cut_off_holds_up_nothing() {
    let Some(conf) = cluster() else { return };
    type Check = (&'static str, fn(&Stage));
    let checks: &[Check] = &[
        ("a new disk in its place", |on| {
            older_half_removed(on);
            on.done(on.clone(None));
            assert_eq!(names(&ended(on)), ["one-5", "one-5-7-0"]);
        }),
        ("removal", |on| {
            older_half_removed(on);
            on.done(on.remove(&on.disk(), false));
            assert_eq!(bare(on), ["one-5"]);
        }),
        ("removal into the trash", |on| {
            older_half_removed(on);
            on.done(on.remove(&on.disk(), true));
            assert_eq!(bare(on), ["one-5"]);
        }),
        ("on its way into the trash", |on| {
            on.snapshots();
            let name = on.disk().strip_prefix("one/").unwrap().to_owned();
            let id = on.json(&format!("info {}", on.disk()))["id"].as_str().unwrap().to_owned();
            let entry = |key: &str, value: &str| {
                let length = u32::try_from(value.len()).unwrap().to_le_bytes();
                let file = on.dir().join("entry");
                std::fs::write(&file, [&length, value.as_bytes()].concat()).unwrap();
                rados(on, &["setomapval", "rbd_directory", key, "--input-file", file.to_str().unwrap()]);
            };
            on.rbd(&format!("trash mv {}", on.disk()));
            // Its name is still in the list, and leads nowhere.
            entry(&format!("name_{name}"), &id);
            entry(&format!("id_{id}"), &name);
            on.done(on.remove(&on.disk(), true));
            assert_eq!(bare(on), ["one-5"]);
            on.rbd(&format!("trash restore one/{id}"));
            assert_eq!(on.picture()["one-5-7-0"].snapshots.len(), 2);
        }),
        ("removal of the snapshot that it holds", |on| {
            older_half_removed(on);
            // The disk stands on it, too, which nothing changes.
            let said = on.failure(on.snapshot("delete", 0)).text;
            assert!(said.contains(&format!("@0 is still needed by {}:", on.disk())), "{said}");
            on.done(on.snapshot("revert", 1));
            on.done(on.snapshot("delete", 0));
            assert_eq!(bare(on), ["one-5", "one-5-7-0", "one-5-7-0-1"]);
        }),
        ("the disk itself, removed again", |on| {
            on.cloned();
            half_removed(on, &on.disk());
            for call in [on.snapshot("create", 0), on.resize(8), on.save(None)] {
                let said = on.failure(call).text;
                assert!(said.ends_with("its removal was cut off; remove it again"), "{said}");
            }
            on.done(on.remove(&on.disk(), false));
            assert_eq!(bare(on), ["one-5"]);
            assert!(stand_on(on, &format!("{}@snap", on.source())).is_empty());
        }),
        ("the disk itself, made anew", |on| {
            on.cloned();
            half_removed(on, &on.disk());
            on.done(on.clone(Some(6)));
            let picture = ended(on);
            assert_eq!(names(&picture), ["one-5", "one-5-7-0"]);
            assert_eq!(picture["one-5-7-0"].content, "aaaa..");
            assert_eq!(stand_on(on, &format!("{}@snap", on.source())), [on.disk()]);
        }),
        ("two of one name", |on| {
            on.cloned();
            half_removed(on, &on.disk());
            // As others make one, who don't look.
            on.rbd(&format!("clone {}@snap {}", on.source(), on.disk()));
            on.done(on.remove(&on.disk(), false));
            assert_eq!(bare(on), ["one-5"]);
            assert!(stand_on(on, &format!("{}@snap", on.source())).is_empty());
        }),
    ];
    at_once(checks, |(name, check)| {
        check(&Stage::new(&conf));
        println!("{name}: as it should be");
    });
}

/// `rbd rename` to such a name says "File exists" for ever, and no other verb of `rbd` takes the name away.
#[test]
fn a_renaming_that_was_cut_off_is_in_nobodys_way() {
    let Some(conf) = cluster() else { return };
    let half_made = |on: &Stage| format!("{}.causeway-tmp.1-1-1", on.disk());
    let aside = |on: &Stage| format!("{}.causeway-old.1-1-1", on.disk());
    type Check<'a> = (&'static str, &'a (dyn Fn(&Stage) + Sync));
    let whole = |on: &Stage, content: &str| {
        let picture = ended(on);
        assert_eq!(picture["one-5-7-0"].content, content, "{picture:?}");
        picture
    };
    let checks: &[Check<'_>] = &[
        ("the disk was to get the name that says its snapshots", &|on| {
            on.snapshots();
            leads_to(on, &format!("{}-0:1", on.disk()), &on.disk());
            on.done(on.snapshot("revert", 0));
            assert_eq!(names(&whole(on, "baaa")), ["one-5", "one-5-7-0", "one-5-7-0-0:1"]);
        }),
        ("the disk had given up its name", &|on| {
            on.snapshots();
            on.rbd(&format!("rename {0} {0}-0:1", on.disk()));
            leads_to(on, &on.disk(), &format!("{}-0:1", on.disk()));
            on.done(on.snapshot("revert", 0));
            assert_eq!(names(&whole(on, "baaa")), ["one-5", "one-5-7-0", "one-5-7-0-0:1"]);
        }),
        ("the new disk was to get its name", &|on| {
            on.cloned();
            on.rbd(&format!("rename {} {}", on.disk(), half_made(on)));
            leads_to(on, &on.disk(), &half_made(on));
            on.done(on.clone(None));
            assert_eq!(names(&whole(on, "aaaa")), ["one-5", "one-5-7-0"]);
        }),
        ("a disk that is then removed", &|on| {
            on.cloned();
            on.rbd(&format!("rename {} {}", on.disk(), aside(on)));
            leads_to(on, &on.disk(), &aside(on));
            on.done(on.remove(&on.disk(), false));
            // Even the stock driver can make the next one of that name.
            on.rbd(&format!("clone {}@snap {}", on.source(), on.disk()));
            assert_eq!(names(&ended(on)), ["one-5", "one-5-7-0"]);
        }),
        ("the volume that the name led to has gone", &|on| {
            on.cloned();
            leads_to(on, &format!("{}-0", on.disk()), &on.disk());
            on.done(on.clone(None));
            on.done(on.snapshot("create", 0));
            on.done(on.snapshot("revert", 0));
            assert_eq!(names(&ended(on)), ["one-5", "one-5-7-0", "one-5-7-0-0"]);
        }),
        // It leads to what is going to be removed: a VM must not get it for its disk.
        ("an image that had given up its name", &|on| {
            on.image();
            let old = format!("{}.causeway-old.1-1-1", on.source());
            on.rbd(&format!("rename {} {old}", on.source()));
            leads_to(on, &on.source(), &old);
            for call in [on.clone(None), on.link(), on.fetch(true, None), on.fetch(false, None)] {
                let said = on.failure(call).text;
                assert!(said.contains("there is no volume") && said.ends_with("do it again"), "{said}");
            }
        }),
    ];
    at_once(checks, |(name, check)| {
        check(&Stage::new(&conf));
        println!("{name}: as it should be");
    });
}

/// Killed with its `rbd` at what it sends, for one such point in so many, others in each run.
#[test]
fn killed_at_what_it_sends_and_run_again_is_the_same() {
    const ONE_IN: usize = 23;
    let Some(conf) = cluster() else { return };
    if !ceph::long() {
        println!("skipped: CAUSEWAY_TEST_LONG=1 runs it");
        return;
    }
    let (points, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let removals = ["removal", "removal into the trash", "revert", "clone over an older disk"];
    let mut cases = cases::all();
    // Those with most renamings and removals go to all of their points by and by.
    cases.retain(|case| removals.contains(&case.name));
    at_once(&cases, |case| {
        let on = Stage::new(&conf).before(case, "one");
        let all = at_send(&mut kill::watched(&on, &(case.call)(&on)), usize::MAX);
        let after = ended(&on);
        points.fetch_add(all, Ordering::Relaxed);
        for number in (std::process::id() as usize % ONE_IN..all).step_by(ONE_IN) {
            let on = Stage::new(&conf).before(case, "one");
            at_send(&mut kill::watched(&on, &(case.call)(&on)), number + 1);
            on.done((case.call)(&on));
            assert_eq!(on.settled(), after, "{} killed at what it sends for the {number}th time", case.name);
            tried.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (tried, points) = (tried.into_inner(), points.into_inner());
    let text =
        format!("\nceph_torn: {} steps, killed at {tried} of {points} points; 0 bytes lost\n", cases.len());
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}
