//! Backups of volumes and what is restored of them, on a real cluster: bytes, snapshots, and what an admin is told.

#![cfg(test)]

mod ceph;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ceph::{MIB, Stage, cluster, qemu_img, read_qcow2};
use serde_json::{Value, json};

/// Makes a change as a guest would: bytes, or a discard.
fn change(on: &Stage, at: u64, size: u64, byte: Option<u8>) {
    let mut diff = b"rbd diff v1\n".to_vec();
    diff.push(if byte.is_some() { b'w' } else { b'z' });
    diff.extend(at.to_le_bytes());
    diff.extend(size.to_le_bytes());
    if let Some(byte) = byte {
        diff.extend(vec![byte; usize::try_from(size).unwrap()]);
    }
    diff.push(b'e');
    on.rbd_with(&diff, &["import-diff", "--no-progress", "-", &on.disk()]).unwrap();
}

fn bytes(on: &Stage, of: &str) -> Vec<u8> {
    on.rbd(&format!("export --no-progress {of} -"))
}

fn backups(on: &Stage) -> Vec<(String, bool)> {
    let list = on.json(&format!("snap ls {}", on.disk()));
    let named = |s: &Value| (s["name"].as_str().unwrap().to_owned(), s["protected"] == "true");
    list.as_array().unwrap().iter().map(named).filter(|(name, _)| name.starts_with("one_backup")).collect()
}

/// Takes what a driver would fetch out of the directory.
fn fetch(on: &Stage, increment: u32) -> PathBuf {
    let to = on.dir().join(format!("fetched.{increment}"));
    std::fs::copy(on.vm_dir().join(format!("backup/disk.0.{increment}")), &to).unwrap();
    on.done(on.backup_dir("clear", false));
    assert!(!on.vm_dir().join("backup").exists());
    qemu_img(&["check", "-q", "-f", "qcow2"], &to);
    to
}

/// As the stock drivers have increments stand on each other (`BackupImage.reconstruct_chain`).
fn stand_on(path: &Path, below: &Path) {
    qemu_img(&["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below.to_str().unwrap()], path);
}

#[test]
fn a_whole_backup_is_of_one_moment_and_leaves_no_snapshot() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.cloned();
    on.write(&on.disk(), b'b');
    let full = json!("full");
    for meanwhile in [None, Some(b'c')] {
        let before = bytes(&on, &on.disk());
        on.backed_up(&full, meanwhile);
        on.done(on.back_up(&full, json!("drop")));
        assert_eq!(read_qcow2(&fetch(&on, 0)), before);
        assert_eq!(backups(&on), []);
    }
}

/// Of a VM that is off nobody has a disk open: the backup would not be what its guest left.
#[test]
fn a_disk_that_is_open_is_neither_backed_up_nor_replaced() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.cloned();
    on.fetched("xyz");
    on.done(on.make_restored(1, None));
    let before = on.picture();
    let mut guest = on.guest();
    for call in [
        on.back_up(&json!("first"), json!({"snapshot": {}})),
        on.make_restored(1, None),
        on.restore(json!("put")),
    ] {
        let failure = on.perform_within(&call, Duration::from_secs(8), &|_| {}).unwrap_err();
        assert!(failure.text.contains("is open at "), "{call}: {failure}");
    }
    guest.kill().unwrap();
    guest.wait().unwrap();
    assert_eq!(on.picture(), before);
}

/// Writes smaller than a cluster, discards, at the edges of objects, and growth.
fn rounds() -> Vec<Vec<(u64, u64, Option<u8>)>> {
    let object = 4 * MIB;
    vec![
        vec![(512, 512, Some(1)), (object - 512, 1024, Some(2)), (3 * MIB + 70_000, 4096, Some(3))],
        vec![(512, 512, Some(9)), (0, 512, None), (MIB, 65_536, None), (2 * object, object, Some(4))],
        vec![(2 * object, object, None), (3 * object - 512, 512, Some(5))],
        vec![],
        vec![(4 * object + 5 * 512, 512, Some(6)), (19 * MIB - 512, 512, Some(7))],
    ]
}

#[test]
fn increments_come_to_the_right_bytes() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.cloned();
    on.done(on.resize(16));
    on.backed_up(&json!("first"), None);
    let mut below = fetch(&on, 0);
    assert_eq!(backups(&on), [("one_backup_0".to_owned(), true)]);
    for (last, changes) in (0..).zip(rounds()) {
        if last == 4 {
            on.done(on.resize(19));
        }
        for (at, size, byte) in changes {
            change(&on, at, size, byte);
        }
        let now = bytes(&on, &on.disk());
        let since = json!({"since": last});
        // What did not arrive is made again, with the same beginning (W13).
        on.backed_up(&since, None);
        on.done(on.backup_dir("clear", false));
        on.backed_up(&since, Some(b'w'));
        let names = [last, last + 1].map(|id| (format!("one_backup_{id}"), true));
        assert_eq!(backups(&on), names);
        let path = fetch(&on, last + 1);
        stand_on(&path, &below);
        assert_eq!(read_qcow2(&path), now, "increment {}", last + 1);
        let room = path.metadata().unwrap().len();
        assert!(room < 6 * MIB, "increment {} takes {room} bytes", last + 1);
        below = path;
    }
    // A chain that begins anew, and a whole backup, leave nothing of it.
    on.backed_up(&json!("first"), None);
    assert_eq!(backups(&on), [("one_backup_0".to_owned(), true)]);
    on.backed_up(&json!("full"), None);
    on.done(on.back_up(&json!("full"), json!("drop")));
    assert_eq!(backups(&on), []);
}

#[test]
fn an_increment_without_its_beginning_is_refused_and_says_what_to_do() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.cloned();
    on.backed_up(&json!("first"), None);
    let before = on.picture();
    let failure = on.failure(on.back_up(&json!({"since": 3}), json!("ready")));
    assert!(failure.text.contains("it has no snapshot one_backup_3"), "{failure}");
    assert!(failure.text.contains("onevm backup --reset"), "{failure}");
    assert_eq!(on.picture(), before);
    // A disk that went back to a snapshot is another volume.
    on.done(on.snapshot("create", 0));
    on.done(on.snapshot("revert", 0));
    assert!(on.failure(on.back_up(&json!({"since": 0}), json!("ready"))).text.contains("--reset"));
}

/// `LAST_BRIDGE`: a host that has nothing of the VM.
#[test]
fn a_directory_that_is_made_for_a_backup_goes_with_it() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.done(on.backup_dir("begin", true));
    assert!(on.vm_dir().join("backup/vm.xml").exists());
    on.done(on.backup_dir("clear", true));
    assert!(!on.vm_dir().exists());
    on.done(on.backup_dir("clear", true));
}

#[test]
fn what_was_backed_up_is_the_disk_again_and_its_snapshots_go() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.family();
    on.fetched("xyz");
    let before = on.picture();
    on.done(on.make_restored(8, None));
    let picture = on.picture();
    let made = &picture["one-5-7-0.new.00000013"];
    assert_eq!((made.content.as_str(), made.size), ("xyz.....", 8));
    assert!(before.iter().all(|(name, seen)| picture.get(name) == Some(seen)), "nothing else was touched");
    for _ in 0..2 {
        on.done(on.restore(json!("put")));
        on.done(on.restore(json!("drop")));
        let picture = on.picture();
        assert_eq!(picture.keys().collect::<Vec<_>>(), ["one-5", "one-5-7-0"]);
        assert_eq!(
            (&picture["one-5"], picture["one-5-7-0"].content.as_str()),
            (&before["one-5"], "xyz.....")
        );
        assert_eq!(picture["one-5-7-0"].snapshots, []);
    }
    // The next snapshot is the first one.
    on.done(on.snapshot("create", 0));
}

#[test]
fn a_restore_that_ended_between_its_renames_goes_on_or_back() {
    let Some(conf) = cluster() else { return };
    let cut_off = || {
        let on = Stage::new(&conf);
        on.snapshots();
        on.fetched("xyz");
        on.done(on.make_restored(1, None));
        on.rbd(&format!("image-meta set {} causeway.given-up yes", on.disk()));
        on.rbd(&format!("rename {0} {0}.old.00000013", on.disk()));
        on
    };
    let on = cut_off();
    let failure = on.failure(on.snapshot("create", 9));
    assert!(failure.text.contains("or a restore, was not finished"), "{failure}");
    on.done(on.restore(json!("put")));
    let picture = on.picture();
    assert_eq!((picture["one-5-7-0"].content.as_str(), picture.len()), ("xyz", 2));
    let on = cut_off();
    on.done(on.restore(json!("drop")));
    let picture = on.picture();
    assert_eq!((picture["one-5-7-0"].content.as_str(), picture.len()), ("daaa", 2));
    assert_eq!(picture["one-5-7-0"].snapshots.len(), 2);
    // Another backup, chosen by an admin who was told that the first try failed.
    let on = cut_off();
    on.fetched("uvw");
    on.done(on.make_restored(1, None));
    on.done(on.restore(json!("put")));
    assert_eq!(on.picture()["one-5-7-0"].content, "uvw");
}

#[test]
fn a_restored_disk_keeps_its_data_where_the_old_one_had_them() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    on.done(on.clone_into("data"));
    on.fetched("xyz");
    on.done(on.make_restored(1, None));
    on.done(on.restore(json!("put")));
    assert_eq!(on.picture()["one-5-7-0"].data_pool.as_deref(), Some("data"));
    // Of a disk that is gone the datastore says where.
    on.done(on.remove(&on.disk(), false));
    on.done(on.make_restored(1, Some("data")));
    on.done(on.restore(json!("put")));
    assert_eq!(on.picture()["one-5-7-0"].data_pool.as_deref(), Some("data"));
}

#[test]
fn what_others_stand_on_or_what_was_not_fetched_is_not_replaced() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.snapshots();
    on.fetched("xyz");
    let before = on.picture();
    assert!(on.failure(on.restore(json!("put"))).text.contains("there is no volume"));
    on.rbd(&format!("clone {0}@0 {0}-of-somebody", on.disk()));
    let failure = on.failure(on.make_restored(1, None));
    assert!(failure.text.contains("is still needed by"), "{failure}");
    on.rbd(&format!("rm --no-progress {}-of-somebody", on.disk()));
    std::fs::remove_file(on.staged()).unwrap();
    let failure = on.failure(on.make_restored(1, None));
    assert!(
        failure.text.ends_with("disk.0: what was fetched for it is not there: restore it again"),
        "{failure}"
    );
    assert_eq!(on.picture(), before);
}
