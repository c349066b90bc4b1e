//! Every call on volumes, killed between any two of its effects and run again, comes to the same end, on a real cluster;
//! and what it was not to touch is as it was. The points come from the calls themselves.

#![cfg(test)]

mod ceph;

use std::cell::RefCell;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use ceph::{Picture, Stage, at_once, cluster};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

/// One call, and the volumes before it.
struct Case {
    name: &'static str,
    prepare: fn(&Stage),
    call: fn(&Stage) -> Value,
    /// Whether what the disk held before is to be lost.
    begins_anew: bool,
    /// Whether a file takes the image's place.
    returns: bool,
}

fn cases() -> Vec<Case> {
    let kept = |name, prepare, call| Case { name, prepare, call, begins_anew: false, returns: false };
    let anew = |name, prepare, call| Case { name, prepare, call, begins_anew: true, returns: false };
    let back = |name, prepare, call| Case { name, prepare, call, begins_anew: false, returns: true };
    let snapshots_of_the_image: fn(&Stage) = |on| {
        on.lent();
        on.done(on.of_image("create", 0));
        on.done(on.of_image("create", 1));
    };
    let persistent: fn(&Stage) = |on| {
        on.image();
        on.rbd(&format!("snap create --no-progress {}@snap", on.source()));
        on.rbd(&format!("snap protect {}@snap", on.source()));
    };
    vec![
        anew("clone, grown", Stage::image, |on| on.clone(Some(8))),
        anew("clone over an older disk", Stage::family, |on| on.clone(None)),
        kept("link", persistent, Stage::link),
        kept("file of an image, grown", Stage::image, |on| on.fetch(false, Some(8))),
        kept(
            "file of an image over an older disk",
            |on| {
                on.lent();
                on.done(on.take_back());
                on.done(on.fetch(true, None))
            },
            |on| on.fetch(false, None),
        ),
        kept("image lent", persistent, |on| on.fetch(true, None)),
        back("file back in its image's place", Stage::lent, Stage::take_back),
        back("file back, the image's snapshots kept", snapshots_of_the_image, Stage::take_back),
        kept("file saved", Stage::lent, |on| on.save_file(false)),
        kept("snapshot while it is open", Stage::snapshots, |on| on.live_snapshot(7)),
        kept("save", Stage::snapshots, |on| on.save(None)),
        kept("save of a snapshot", Stage::family, |on| on.save(Some(0))),
        anew("removal", Stage::family, |on| on.remove(&on.disk(), false)),
        anew("removal into the trash", Stage::snapshots, |on| on.remove(&on.disk(), true)),
        anew("empty disk over an older one", Stage::snapshots, |on| on.make(3, json!("empty"))),
        kept("growth", Stage::snapshots, |on| on.resize(8)),
        kept("snapshot", Stage::snapshots, |on| on.snapshot("create", 7)),
        kept("removal of a snapshot of an older volume", Stage::family, |on| on.snapshot("delete", 1)),
        kept("removal of the last snapshot of an older volume", Stage::family, |on| on.snapshot("delete", 2)),
        kept("revert", Stage::snapshots, |on| on.snapshot("revert", 0)),
        kept("revert of a disk without snapshots of its own", Stage::family, |on| on.snapshot("revert", 2)),
        kept("backup made ready", earlier_backups, |on| on.back_up(&json!({"since": 1}), json!("ready"))),
        kept("snapshot of a backup", earlier_backups, |on| {
            on.back_up(&json!({"since": 2}), json!({"snapshot": {}}))
        }),
        kept("whole backup", to_copy, |on| on.back_up(&json!("full"), on.copy_part())),
        kept("increment", to_copy, |on| on.back_up(&json!({"since": 0}), on.copy_part())),
        kept("snapshot of a backup given up", earlier_backups, |on| {
            on.back_up(&json!("full"), json!("drop"))
        }),
        kept("restored beside the disk", to_restore, |on| on.make_restored(8, None)),
        kept("restored", restored_beside, |on| on.restore(json!("put"))),
        kept("restored, given up", restored_beside, |on| on.restore(json!("drop"))),
    ]
}

/// Snapshots of backups as the stock driver or a killed one of ours left them.
fn earlier_backups(on: &Stage) {
    on.snapshots();
    for name in ["one_backup", "one_backup_0", "one_backup_1", "one_backup_2"] {
        on.rbd(&format!("snap create --no-progress {}@{name}", on.disk()));
        if name != "one_backup" {
            on.rbd(&format!("snap protect {}@{name}", on.disk()));
        }
    }
}

fn to_copy(on: &Stage) {
    earlier_backups(on);
    std::fs::create_dir_all(on.vm_dir()).unwrap();
    on.done(on.backup_dir("begin", false));
}

fn to_restore(on: &Stage) {
    on.family();
    on.fetched("xyz");
}

fn restored_beside(on: &Stage) {
    to_restore(on);
    on.done(on.make_restored(8, None));
}

/// The child's part: performs the call it is given and kills itself at the point it is given.
#[test]
#[ignore = "run by the test below, in processes of its own"]
fn killed_child() {
    let variable = |name| std::env::var(name).unwrap();
    let conf = variable("CAUSEWAY_TEST_CEPH");
    let image = variable("CAUSEWAY_TEST_IMAGE").parse().unwrap();
    let on = Stage::at(Path::new(&conf), Path::new(&variable("CAUSEWAY_TEST_DIR")), image);
    let call = serde_json::from_str(&variable("CAUSEWAY_TEST_CALL")).unwrap();
    let at: usize = variable("CAUSEWAY_TEST_POINT").parse().unwrap();
    let passed = RefCell::new(0);
    let done = on.perform_at(&call, &|_| {
        *passed.borrow_mut() += 1;
        if *passed.borrow() > at {
            kill_process(Pid::from_raw(std::process::id() as i32).unwrap(), Signal::KILL).unwrap();
        }
    });
    done.unwrap();
}

fn child(on: &Stage, case: &Case, point: usize) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "killed_child", "--ignored"]).stdout(Stdio::null()).stderr(Stdio::null());
    child.env("CAUSEWAY_TEST_DIR", on.dir()).env("CAUSEWAY_TEST_IMAGE", on.image.to_string());
    child
        .env("CAUSEWAY_TEST_CALL", (case.call)(on).to_string())
        .env("CAUSEWAY_TEST_POINT", point.to_string());
    child
}

fn kill_at(on: &Stage, case: &Case, point: usize) {
    use std::os::unix::process::ExitStatusExt;
    let ended = child(on, case, point).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.signal(), Some(9), "{}, point {point}: {said}", case.name);
}

/// What a killed call leaves: under every name of a volume what was there before or is to be there in the end, and what the
/// disk held is held by somebody.
fn judge(case: &Case, point: &str, killed: &Picture, before: &Picture, after: &Picture) {
    let context = || format!("{} at {point}: {killed:#?}", case.name);
    let copies = ["file backup/disk.0.0", "file backup/disk.0.1", "one-5-7-0.new.00000013"];
    for name in ["one-5", "one-5-7-0", "one-5-saved", "file disk.0"].into_iter().chain(copies) {
        let Some(found) = killed.get(name) else { continue };
        let (was, will) = (before.get(name), after.get(name));
        let same = |other: Option<&ceph::Seen>| other.is_some_and(|other| other.content == found.content);
        assert!(same(was) || same(will), "{name}: {}", context());
    }
    if case.returns {
        // The guest's bytes are in the file until the image is whole.
        let whole = killed.get("one-5").is_some_and(|seen| seen.content == after["one-5"].content);
        let there =
            killed.get("file disk.0").is_some_and(|seen| seen.content == before["file disk.0"].content);
        assert!(whole || there, "{}", context());
    } else {
        assert_eq!(killed["one-5"].content, before["one-5"].content, "{}", context());
    }
    if let (Some(disk), false) = (before.get("one-5-7-0"), case.begins_anew) {
        let held = killed.values().any(|seen| seen.content == disk.content);
        let replaced = killed.get("one-5-7-0") == after.get("one-5-7-0");
        assert!(held || replaced, "{}", context());
        // Its snapshots stay readable, but for the one that is being removed.
        for (id, _, content) in before.values().flat_map(|seen| &seen.snapshots) {
            let there =
                |of: &Picture| of.values().flat_map(|s| &s.snapshots).any(|s| (&s.0, &s.2) == (id, content));
            assert!(there(killed) || !there(after), "snapshot {id}: {}", context());
        }
    }
}

/// The clone that stands under a new name at each run has a name of its own time.
fn ended(on: &Stage) -> Picture {
    let picture = on.picture();
    let half_made: Vec<&String> = picture.keys().filter(|name| name.contains(".causeway-")).collect();
    assert!(half_made.is_empty(), "{half_made:?}");
    let own = picture.values().flat_map(|seen| &seen.snapshots).find(|s| s.0.starts_with("causeway-"));
    assert_eq!(own, None);
    picture
}

#[test]
fn killed_anywhere_and_run_again_is_the_same() {
    let Some(conf) = cluster() else { return };
    // In the short form half of the cases and every fourth point of theirs: each run has others.
    let (points, tried) = (AtomicU32::new(0), AtomicU32::new(0));
    at_once(ceph::share(&cases(), 7), |case| {
        let on = Stage::new(&conf);
        (case.prepare)(&on);
        let before = on.picture();
        let passed = RefCell::new(Vec::new());
        on.perform_at(&(case.call)(&on), &|point| passed.borrow_mut().push(point)).unwrap();
        let after = ended(&on);
        // Done again, it is still the same.
        on.done((case.call)(&on));
        assert_eq!(ended(&on), after, "{} done twice", case.name);
        let passed = passed.into_inner();
        assert!(passed.len() > 1, "{}: {passed:?}", case.name);
        for (index, point) in passed.iter().enumerate() {
            let number = points.fetch_add(1, Ordering::Relaxed);
            if !ceph::long() && !(number + std::process::id()).is_multiple_of(4) {
                continue;
            }
            let on = Stage::new(&conf);
            (case.prepare)(&on);
            kill_at(&on, case, index);
            judge(case, point, &on.picture(), &before, &after);
            on.done((case.call)(&on));
            assert_eq!(ended(&on), after, "{} killed at {point}", case.name);
            tried.fetch_add(1, Ordering::Relaxed);
        }
    });
    println!("ceph_killed: {} of {} points", tried.into_inner(), points.into_inner());
}

/// What is left to compare of a picture when the cluster still takes a dead client for a living one.
fn without_leftovers(mut picture: Picture) -> Picture {
    picture.retain(|name, _| !name.contains(".causeway-"));
    for seen in picture.values_mut() {
        seen.snapshots.retain(|snapshot| !snapshot.0.starts_with("causeway-"));
    }
    picture
}

/// Killed with its `rbd` at whatever moment, in the midst of a copy or of a removal, and run again at once.
#[test]
fn killed_at_any_moment_and_run_again_is_the_same() {
    let Some(conf) = cluster() else { return };
    let cases = cases();
    let names =
        ["clone over an older disk", "save", "removal", "revert", "removal into the trash", "snapshot"];
    let mut trials: Vec<(&Case, u64)> = Vec::new();
    for case in cases.iter().filter(|case| names.contains(&case.name)) {
        trials.extend((1..=6).map(|share| (case, share)));
    }
    at_once(ceph::share(&trials, 6), |(case, share)| {
        let on = Stage::new(&conf);
        (case.prepare)(&on);
        let begun = Instant::now();
        on.done((case.call)(&on));
        let (took, after) = (begun.elapsed(), ended(&on));
        let on = Stage::new(&conf);
        (case.prepare)(&on);
        let mut child = child(&on, case, usize::MAX).process_group(0).spawn().unwrap();
        std::thread::sleep(took.mul_f64(*share as f64 / 7.0));
        let _ = kill_process_group(Pid::from_raw(child.id() as i32).unwrap(), Signal::KILL);
        child.wait().unwrap();
        on.done((case.call)(&on));
        assert_eq!(without_leftovers(on.picture()), after, "{} killed after {share}/7", case.name);
        // What could not be removed at once goes with the disk.
        on.done(on.remove(&on.disk(), false));
        let left = on.picture();
        assert!(left.keys().all(|name| name == "one-5" || name.starts_with("one-5-saved")), "{left:?}");
    });
}
