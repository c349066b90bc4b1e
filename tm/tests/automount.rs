//! Datastores that are mounted by whoever uses them, in a mount namespace with an `/etc` of its own. Needs root.
//!
//! This needs no NFS: `mount` calls `mount.nfs`, and here that is a script which mounts a memory file system under the name of
//! the share. So all but the server, its protocol and the kernel's client are what they are on a host.

#![cfg(test)]

mod common;

#[path = "automount/stage.rs"]
mod stage;

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_core::answer::Kind;
use causeway_tm::host::{Copying, Worker, perform};
use common::{inside, kill};
use serde_json::{Value, json};
use stage::{SETUP, Stage, fstab};

fn staged(inner: &str) {
    let dir = tempfile::tempdir().unwrap();
    inside(inner, dir.path(), SETUP);
}

#[test]
fn a_disk_is_made_in_what_is_mounted_for_it() {
    staged("inner_life");
}

#[test]
#[ignore = "run by the test above in a mount namespace"]
fn inner_life() {
    let on = Stage::new("life");
    on.serve(1, "abc", b"an image");
    on.done(&on.both(on.stores.flat()));
    // It is the server's, and so is the mark.
    assert_eq!(on.served(100, "7/disk.0").unwrap(), b"an image");
    assert!(on.served(1, ".automounted").is_ok() && on.served(100, ".automounted").is_ok());
    assert_eq!(on.mounts(), [1, 100]);
    let lines: Vec<String> = [1, 100].map(|id| on.line(id)).to_vec();
    assert_eq!(fstab(), [vec!["# of the test".to_owned()], lines].concat());
    // A second disk finds it all.
    let asked = on.asked();
    on.done(&on.both(on.stores.clone(json!("flat"), "disk.1", None, true)));
    assert_eq!((on.asked(), fstab().len(), on.mounts()), (asked, 3, vec![1, 100]));
    // A restart of the host: the lines bring back what was there.
    on.unmount(1);
    on.unmount(100);
    // Until then nobody writes where they are not.
    let blank = on.stores.make(false, json!("empty"));
    assert!(on.fails(&blank).contains("/etc/fstab has it mounted (NFS_AUTO_ENABLE), and it is not"));
    assert_eq!(std::fs::read_dir(on.stores.path("100")).unwrap().count(), 0);
    for id in ["1", "100"] {
        common::tool("mount", &[&on.stores.text(id)]);
    }
    assert_eq!(std::fs::read(on.stores.path("100/7/disk.0")).unwrap(), b"an image");
    on.done(&on.both(on.stores.clone(json!("flat"), "disk.2", None, true)));
    assert_eq!((fstab().len(), on.mounts()), (3, vec![1, 100]));
    // Another share in the attributes: neither is hidden.
    let mut other = on.both(on.stores.flat());
    other["mounted"]["mounts"][1]["share"] = json!("nas:/other");
    assert!(
        on.fails(&other).contains(
            "is mounted there, and NFS_AUTO_HOST and NFS_AUTO_PATH of datastore 100 say nas:/other"
        )
    );
    // Away, its line is ours to change.
    on.unmount(100);
    on.done(&other);
    assert!(fstab()[2].starts_with("nas:/other ") && fstab().len() == 3, "{:?}", fstab());
}

#[test]
fn an_action_of_a_datastore_leaves_no_line() {
    staged("inner_action");
}

#[test]
#[ignore = "run by the test above in a mount namespace"]
fn inner_action() {
    let on = Stage::new("action");
    let blank = json!({"datastore": {"blank": {
        "image": on.stores.text("1/new"), "size_mb": 1, "format": "raw", "blank": "empty"
    }}});
    let call = on.mounted(&[on.mount(1, false)], None, blank);
    on.done(&call);
    assert_eq!(on.served(1, "new").unwrap().len(), 1 << 20);
    assert!(on.served(1, ".automounted").is_ok());
    assert_eq!((fstab().len(), on.mounts()), (1, vec![1]));
    let usage = json!({"datastore": {"usage": {"datastore": on.stores.text("1"), "disks": false}}});
    let said = on.stores.perform(&on.mounted(&[on.mount(1, false)], None, usage), &[]).unwrap();
    assert!(said.contains("TOTAL_MB="), "{said}");
    // The host's own use of it later is kept.
    on.done(&on.both(on.stores.make(false, json!("empty"))));
    assert_eq!((fstab().len(), on.mounts()), (3, vec![1, 100]));
}

#[test]
fn what_must_not_or_can_t_be_mounted_is_refused_and_nothing_is_written() {
    staged("inner_refused");
}

#[test]
#[ignore = "run by the test above in a mount namespace"]
fn inner_refused() {
    let on = Stage::new("refused");
    on.serve(1, "abc", b"an image");
    let call = on.both(on.stores.flat());
    let untouched = |says: &str| {
        let said = on.fails(&call);
        assert!(said.contains(says), "{said}");
        assert!(!on.stores.path("100/7/disk.0").exists() && on.served(100, "7").is_err());
        assert!(!fstab().contains(&on.line(100)), "{:?}", fstab());
    };
    // Somebody's disks, which a mount would hide.
    std::fs::create_dir(on.stores.path("100/8")).unwrap();
    untouched("would hide what lies in the directory, such as 8");
    assert!(on.stores.path("100/8").exists());
    std::fs::remove_dir(on.stores.path("100/8")).unwrap();
    // No directory.
    std::fs::remove_dir(on.stores.path("100")).unwrap();
    std::os::unix::fs::symlink(on.stores.path("101"), on.stores.path("100")).unwrap();
    untouched("it is no directory");
    std::fs::remove_file(on.stores.path("100")).unwrap();
    // The server's answers; a directory that was made for nothing goes.
    for (way, says) in [
        ("refuse", "could not be mounted: mount.nfs: access denied by server"),
        ("lie", "is not mounted, though mount says so"),
    ] {
        on.server(way);
        untouched(says);
        assert!(!on.stores.path("100").exists());
    }
    // It never answers.
    on.server("hang");
    let begun = Instant::now();
    let worker = Worker::new(&on.stores.locks, begun + Duration::from_secs(2));
    let order = serde_json::from_value(call.clone()).unwrap();
    let failure = perform(&order, &[], &worker).unwrap_err();
    assert_eq!(failure.kind, Kind::Timeout);
    assert!(
        failure.text.contains("mount of ") && failure.text.contains("did not end in time and was killed"),
        "{failure}"
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
    stage::gone(&on.hung());
    // Other mounts, and an admin's other line.
    on.server("serve");
    common::tool("mount", &["-t", "tmpfs", "elsewhere", &on.made("100")]);
    untouched("elsewhere is mounted there");
    on.unmount(100);
    let admins = format!("/dev/sdz9 {} xfs defaults 0 0", on.stores.text("100"));
    stage::add_to_fstab(&admins);
    untouched("/etc/fstab has another line for it, with /dev/sdz9");
    assert!(!on.mounts().contains(&100));
}

#[test]
fn marks_below_a_mount_vouch_for_nothing() {
    staged("inner_marks");
}

#[test]
#[ignore = "run by the test above in a mount namespace"]
fn inner_marks() {
    let on = Stage::new("marks");
    on.serve(1, "abc", b"an image");
    for mark in [".causeway", ".monitor", ".automounted"] {
        std::fs::write(on.stores.path("100").join(mark), b"").unwrap();
    }
    // An admin's own line, of another form: it stays, and the mount is not marked for removal.
    let line = format!("nas:/marks-1\t{}\tnfs4 defaults 0 0", on.stores.text("1"));
    stage::add_to_fstab(&line);
    on.done(&on.both(on.stores.flat()));
    assert_eq!(fstab(), ["# of the test".to_owned(), line, on.line(100)]);
    assert!(on.served(1, ".automounted").is_err() && on.served(100, ".automounted").is_ok());
    on.unmount(100);
    assert_eq!(std::fs::read_dir(on.stores.path("100")).unwrap().count(), 0);
    let failure = on.fails(&on.stores.delete_dir());
    assert!(failure.contains("may not be mounted"), "{failure}");
}

#[test]
fn what_is_no_more_to_be_mounted_goes_unless_it_is_used() {
    staged("inner_stale");
}

#[test]
#[ignore = "run by the test above in a mount namespace"]
fn inner_stale() {
    let on = Stage::new("stale");
    on.serve(1, "abc", b"an image");
    let older = [on.mount(100, true), on.mount(101, true), on.mount(102, true)];
    on.done(&on.mounted(&older, None, json!({"nothing": {"reason": "test"}})));
    // An admin's: it has no mark.
    std::fs::remove_file(on.stores.path("101/.automounted")).unwrap();
    let used = std::fs::File::create(on.stores.path("100/used")).unwrap();
    let call = on.mounted(&[on.mount(1, true)], Some(&[1]), json!({"nothing": {"reason": "test"}}));
    let said = on.told(&call);
    assert_eq!((on.mounts(), fstab().len()), (vec![1, 100, 101], 4), "{said}");
    assert!(
        said.contains("and nas:/stale-102 was unmounted from") && !on.stores.path("102").exists(),
        "{said}"
    );
    assert!(
        said.contains("Warning datastore 100 has no NFS_AUTO_ENABLE any more, and was not unmounted"),
        "{said}"
    );
    assert!(said.contains("busy") && !said.contains("101"), "{said}");
    drop(used);
    // One that is wanted stays, whoever uses it.
    let call = on.mounted(&[on.mount(1, true)], Some(&[1, 100]), json!({"nothing": {"reason": "test"}}));
    assert_eq!((on.told(&call).as_str(), on.mounts()), ("", vec![1, 100, 101]));
    let call = on.mounted(&[on.mount(1, true)], Some(&[]), json!({"nothing": {"reason": "test"}}));
    on.told(&call);
    assert_eq!(
        (on.mounts(), fstab()),
        (vec![1, 101], vec!["# of the test".to_owned(), on.line(101), on.line(1)])
    );
}

#[test]
fn killed_anywhere_and_run_again_is_the_same() {
    staged("inner_killed");
}

#[test]
#[ignore = "run in processes of its own"]
fn killed_child() {
    kill::child();
}

#[test]
#[ignore = "run by the test above in a mount namespace"]
fn inner_killed() {
    let fresh = |name: String| {
        let on = Stage::new(&name);
        on.serve(1, "abc", b"an image");
        on.done(&on.mounted(&[on.mount(101, true)], None, json!({"nothing": {"reason": "test"}})));
        let call = on.mounted(&[on.mount(1, true), on.mount(100, true)], Some(&[1, 100]), on.stores.flat());
        (on, call)
    };
    let end = |on: &Stage| (on.stores.picture(), on.mounts(), [1, 100, 101].map(|id| on.lines(id)));
    let (on, call) = fresh("whole".to_owned());
    let passed = RefCell::new(Vec::new());
    on.stores.perform_at(&call, &[], &|point| passed.borrow_mut().push(point)).unwrap();
    let (passed, after) = (passed.into_inner(), end(&on));
    for point in [
        "mount point made",
        "marks below removed",
        "mounted",
        "mount marked",
        "fstab locked",
        "line written",
        "unmounted",
        "line taken out",
    ] {
        assert!(passed.contains(&point), "{point}: {passed:?}");
    }
    assert_eq!((&after.1, &after.2), (&vec![1, 100], &[1, 1, 0]));
    for (index, point) in passed.iter().enumerate() {
        let (on, call) = fresh(format!("killed{index}"));
        kill::at(&on.stores, &call, None, index);
        // Never a disk but on the server's side.
        on.unmount(100);
        assert!(!on.stores.path("100/7").exists(), "{point}");
        on.done(&call);
        assert_eq!(end(&on), after, "killed at {point}");
    }
    println!("{} points", passed.len());
}

/// Of what root may do, the stock package's rules for sudo are enough.
#[test]
fn the_stock_rules_for_sudo_are_enough() {
    staged("inner_sudo");
}

#[test]
#[ignore = "run by the test above in a mount namespace"]
fn inner_sudo() {
    let on = Stage::new("sudo");
    on.serve(1, "abc", b"an image");
    on.done(&on.mounted(&[on.mount(101, true)], None, json!({"nothing": {"reason": "test"}})));
    let call = on.mounted(&[on.mount(1, true), on.mount(100, true)], Some(&[]), on.stores.flat());
    let came: Result<Value, Value> = serde_json::from_slice(&stage::as_nobody(&on, &call)).unwrap();
    assert_eq!(came, Ok(Value::Null));
    assert_eq!((on.mounts(), [1, 100, 101].map(|id| on.lines(id))), (vec![1, 100], [1, 1, 0]));
    assert_eq!(on.served(100, "7/disk.0").unwrap(), b"an image");
    // Without them, its words are the answer.
    on.unmount(100);
    std::fs::write("/etc/sudoers", "Defaults !lecture, timestampdir=/etc/sudo\nroot ALL=(ALL) ALL\n")
        .unwrap();
    let came: Result<Value, Value> = serde_json::from_slice(&stage::as_nobody(&on, &call)).unwrap();
    let text = came.unwrap_err()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("nas:/sudo-100 could not be mounted: ") && text.contains("sudo: "), "{text}");
    assert!(!on.stores.path("100/7").exists());
}

/// What the log is told.
fn told(on: &Stage, call: &Value) -> String {
    let lines = RefCell::new(Vec::new());
    let log = |severity, text: &str| lines.borrow_mut().push(format!("{severity:?} {text}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    let worker = Worker {
        copying: Copying { log: &log, ..Copying::default() },
        ..Worker::new(&on.stores.locks, deadline)
    };
    perform(&serde_json::from_value(call.clone()).unwrap(), &[], &worker).unwrap();
    lines.into_inner().join("\n")
}

impl Stage {
    fn told(&self, call: &Value) -> String {
        told(self, call)
    }

    fn made(&self, below: &str) -> String {
        let path = self.stores.path(below);
        std::fs::create_dir_all(&path).unwrap();
        Path::new(&path).display().to_string()
    }
}
