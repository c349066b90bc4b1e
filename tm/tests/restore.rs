//! What was in a backup becomes a VM's disk: by real tools on real files, from our own backups.

#![cfg(test)]

mod common;

use std::path::PathBuf;

use common::forms::{FORMS, format_of};
use common::images::raw_of;
use common::{Datastores, chain, half_made, tool};
use serde_json::{Value, json};

/// A disk that was backed up, and changed since: with two snapshots, and other bytes.
fn backed_up(on: &Datastores, qcow2: bool, persistent: bool) -> (PathBuf, Vec<u8>) {
    on.vm_with_disk(qcow2, persistent);
    let format = format_of(qcow2);
    on.guest_writes(format, "100/7/disk.0", 5, 7);
    let bytes = raw_of(&on.path("100/7/disk.0"), format);
    on.begin_backup();
    on.done(&on.back_up(qcow2, persistent, if qcow2 { json!("first") } else { json!("full") }));
    let kept = on.root.parent().unwrap().join("kept");
    std::fs::copy(on.path("100/7/backup/disk.0.0"), &kept).unwrap();
    on.done(&on.backup("clear", None, json!({})));
    for id in 0..2 {
        on.guest_writes(format, "100/7/disk.0", u64::from(id), 9);
        on.done(&on.snapshot("create", id, qcow2, persistent));
    }
    on.guest_writes(format, "100/7/disk.0", 5, 1);
    (kept, bytes)
}

fn put(staged: &Value) -> Value {
    json!({"restore": {"put": staged}})
}

fn drop_staged(staged: &Value) -> Value {
    json!({"restore": {"drop": staged}})
}

fn restored_sizes(qcow2: bool) -> u64 {
    if qcow2 { 16 } else { 5 }
}

#[test]
fn a_restored_disk_has_the_bytes_of_the_backup_and_the_layout_of_a_new_one() {
    for (qcow2, persistent) in FORMS {
        let on = Datastores::new();
        let (kept, bytes) = backed_up(&on, qcow2, persistent);
        let staged = on.restored(qcow2, persistent, restored_sizes(qcow2));
        let before = on.picture();
        on.stage(&staged, &kept, false).unwrap();
        let after: Vec<_> = on.picture().into_iter().filter(|(path, _)| !half_made(path)).collect();
        assert_eq!(after, before.into_iter().collect::<Vec<_>>(), "nothing is touched yet");
        // A call whose end nobody learnt of is made again.
        for _ in 0..2 {
            on.perform(&put(&staged), &[]).unwrap();
        }
        on.done(&drop_staged(&staged));
        let disk = on.path("100/7/disk.0");
        assert_eq!(raw_of(&disk, format_of(qcow2)), bytes);
        let (home, snap) = if persistent { ("1", "1/abc.snap") } else { ("100/7", "100/7/disk.0.snap") };
        match (qcow2, persistent) {
            (true, false) => assert_eq!(on.target("100/7/disk.0"), "disk.0.snap/0"),
            (true, true) => {
                assert_eq!(on.target("100/7/disk.0"), on.text("1/abc.snap/0"));
                assert_eq!(on.target("1/abc.snap/0"), on.text("1/abc"));
            }
            (false, false) => assert!(disk.symlink_metadata().unwrap().is_file()),
            (false, true) => assert_eq!(on.target("100/7/disk.0"), on.text("1/abc")),
        }
        if qcow2 {
            let mut names: Vec<_> =
                std::fs::read_dir(on.path(snap)).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names.len(), 2, "{names:?}");
            assert_eq!(chain(&disk).len(), 1);
            let info = tool("qemu-img", &["info", "-f", "qcow2", disk.to_str().unwrap()]);
            assert!(!info.contains("one-7-"), "{info}");
            // The next snapshot is the first one.
            on.done(&on.snapshot("create", 0, true, persistent));
        } else {
            assert!(!on.path(snap).exists(), "{home}");
        }
    }
}

#[test]
fn what_does_not_arrive_whole_replaces_nothing() {
    for (qcow2, persistent) in FORMS {
        let on = Datastores::new();
        let (kept, _) = backed_up(&on, qcow2, persistent);
        let staged = on.restored(qcow2, persistent, restored_sizes(qcow2));
        let before = on.picture();
        let refused = |path: &PathBuf, cut| on.stage(&staged, path, cut).unwrap_err().to_string();
        refused(&kept, true);
        let bytes = std::fs::read(&kept).unwrap();
        let other = on.root.parent().unwrap().join("other");
        // Cut in the middle by somebody who says that it is the end (W7), empty, of another kind, and not by itself.
        std::fs::write(&other, &bytes[..bytes.len() / 2]).unwrap();
        refused(&other, false);
        std::fs::write(&other, b"").unwrap();
        assert!(refused(&other, false).contains("no qcow2 image"));
        std::fs::write(&other, vec![7; 1 << 20]).unwrap();
        assert!(refused(&other, false).contains("no qcow2 image"));
        std::fs::remove_file(&other).unwrap();
        let words = ["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/passwd"];
        tool("qemu-img", &[&words[..], &[other.to_str().unwrap(), "16M"]].concat());
        assert!(refused(&other, false).contains("stands on /etc/passwd"));
        assert_eq!(on.picture(), before);
        assert!(on.failure(&put(&staged)).text.contains("what was fetched for it is not there"));
        assert_eq!(on.picture(), before);
    }
}

/// It is found out before anything is fetched, and once more before the disks are exchanged.
#[test]
fn a_disk_that_is_open_is_not_restored() {
    for (qcow2, persistent) in FORMS {
        let on = Datastores::new();
        let (kept, _) = backed_up(&on, qcow2, persistent);
        let staged = on.restored(qcow2, persistent, restored_sizes(qcow2));
        let look = json!({"restore": {"look": staged}});
        on.done(&look);
        on.stage(&staged, &kept, false).unwrap();
        let before = on.picture();
        let guest = on.opened(format_of(qcow2), "100/7/disk.0");
        for call in [&look, &put(&staged)] {
            let failure = on.perform(call, &[]).unwrap_err();
            assert!(failure.text.contains("is open: a guest or a tool uses it"), "{failure}");
        }
        assert_eq!(on.picture(), before);
        drop(guest);
        on.perform(&put(&staged), &[]).unwrap();
        on.done(&drop_staged(&staged));
    }
}

/// A session that breaks off is killed with what it has made so far; the plan's undo removes that.
#[test]
fn what_was_fetched_in_part_goes_with_what_was_staged() {
    let on = Datastores::new();
    on.vm_dir();
    let staged = on.restored(true, false, 16);
    for name in ["disk.0.fetched.4711-1c-0", "disk.0.restored"] {
        std::fs::write(on.path(&format!("100/7/.causeway-tmp.{name}")), "half").unwrap();
    }
    on.done(&drop_staged(&staged));
}

#[test]
fn a_disk_that_was_grown_is_grown_again_and_what_was_staged_can_be_dropped() {
    let on = Datastores::new();
    let (kept, bytes) = backed_up(&on, true, false);
    let staged = on.restored(true, false, 32);
    on.stage(&staged, &kept, false).unwrap();
    on.done(&drop_staged(&staged));
    on.done(&drop_staged(&staged));
    on.stage(&staged, &kept, false).unwrap();
    on.perform(&put(&staged), &[]).unwrap();
    on.done(&drop_staged(&staged));
    let now = raw_of(&on.path("100/7/disk.0"), "qcow2");
    assert_eq!((now.len(), &now[..bytes.len()]), (32 << 20, bytes.as_slice()));
}

#[test]
fn the_state_of_a_tpm_comes_back() {
    let on = Datastores::new();
    std::fs::create_dir_all(on.vm_dir().join("tpm/tpm2-00")).unwrap();
    std::fs::write(on.path("100/7/tpm/tpm2-00/state"), b"old").unwrap();
    let packed = on.root.parent().unwrap().join("disk.tpm.0");
    tool("tar", &["-C", &on.text("100/7"), "-czf", packed.to_str().unwrap(), "tpm"]);
    std::fs::write(on.path("100/7/tpm/tpm2-00/state"), b"new").unwrap();
    let staged = json!({"tpm": on.text("100/7")});
    on.stage(&staged, &packed, false).unwrap();
    for _ in 0..2 {
        on.perform(&put(&staged), &[]).unwrap();
    }
    on.done(&drop_staged(&staged));
    assert_eq!(std::fs::read(on.path("100/7/tpm/tpm2-00/state")).unwrap(), b"old");
    // An archive of something else takes nothing away.
    std::fs::create_dir(on.path("100/7/other")).unwrap();
    tool("tar", &["-C", &on.text("100/7"), "-czf", packed.to_str().unwrap(), "other"]);
    on.stage(&staged, &packed, false).unwrap();
    assert!(on.perform(&put(&staged), &[]).is_err());
    assert_eq!(std::fs::read(on.path("100/7/tpm/tpm2-00/state")).unwrap(), b"old");
}
