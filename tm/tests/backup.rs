//! Backups of disks that nobody has open, by real tools on real files: what a backup datastore's driver finds, and what
//! it makes of a chain of increments.

#![cfg(test)]

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};

use causeway_core::answer::Kind;
use common::forms::{FORMS, format_of};
use common::images::raw_of;
use common::{Datastores, chain, tool};
use serde_json::json;

/// A disk of 16 MiB in some form, with something in it.
fn disk(on: &Datastores, qcow2: bool, persistent: bool) {
    on.vm_with_disk(qcow2, persistent);
    on.guest_writes(format_of(qcow2), "100/7/disk.0", 5, 7);
}

fn names(on: &Datastores) -> Vec<String> {
    let entries = std::fs::read_dir(on.path("100/7/backup")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What a driver makes of the increments: it has them stand on each other (`BackupImage.reconstruct_chain`).
fn flattened(on: &Datastores, last: u32) -> Vec<u8> {
    let at = |n: u32| on.root.parent().unwrap().join(format!("fetched.{n}"));
    for n in 1..=last {
        let (path, below) = (at(n), at(n - 1));
        let words = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below.to_str().unwrap()];
        tool("qemu-img", &[&words[..], &[path.to_str().unwrap()]].concat());
    }
    raw_of(&at(last), "qcow2")
}

fn fetch(on: &Datastores, increment: u32) {
    let from = on.path(&format!("100/7/backup/disk.0.{increment}"));
    std::fs::copy(from, on.root.parent().unwrap().join(format!("fetched.{increment}"))).unwrap();
}

#[test]
fn a_backup_holds_what_the_guest_saw() {
    for (qcow2, persistent) in FORMS {
        let on = Datastores::new();
        disk(&on, qcow2, persistent);
        let format = format_of(qcow2);
        let before = on.picture();
        on.begin_backup();
        on.done(&on.back_up(qcow2, persistent, json!("full")));
        assert_eq!(names(&on), ["disk.0.0", "vm.xml"], "{format}");
        let copy = on.path("100/7/backup/disk.0.0");
        assert_eq!(raw_of(&copy, "qcow2"), raw_of(&on.path("100/7/disk.0"), format));
        assert_eq!(chain(&copy).len(), 1, "it stands alone");
        assert_eq!(std::fs::read(on.path("100/7/backup/vm.xml")).unwrap(), b"PFZNLz4=\n");
        assert_eq!(on.path("100/7/backup/vm.xml").metadata().unwrap().permissions().mode() & 0o777, 0o600);
        on.done(&on.backup("clear", None, json!({})));
        on.done(&on.backup("clear", None, json!({})));
        assert_eq!(on.picture(), before, "nothing else was touched");
    }
}

#[test]
fn increments_come_to_the_right_bytes() {
    for persistent in [false, true] {
        let on = Datastores::new();
        disk(&on, true, persistent);
        let now = |on: &Datastores| raw_of(&on.path("100/7/disk.0"), "qcow2");
        on.begin_backup();
        on.done(&on.back_up(true, persistent, json!("first")));
        fetch(&on, 0);
        let disk = on.text("100/7/disk.0");
        let changes = [
            // Written, written with zeros, emptied, and emptied where an older increment has data.
            vec!["write -q -P 9 64k 64k", "write -q -P 0 1M 64k", "discard -q 2M 128k"],
            vec!["write -q -P 5 2M 64k", "discard -q 64k 64k", "write -q -z 15M 1M"],
            vec![],
        ];
        for (last, changed) in (0..).zip(changes) {
            for words in &changed {
                tool("qemu-io", &["-f", "qcow2", "-c", words, &disk]);
            }
            on.begin_backup();
            let next = on.back_up(true, persistent, json!({"since": last}));
            on.done(&next);
            // One that did not arrive is made again, with what was written meanwhile.
            on.guest_writes("qcow2", "100/7/disk.0", 100 + u64::from(last), 3);
            on.done(&next);
            fetch(&on, last + 1);
            let copied = common::blocks(&on.path(&format!("100/7/backup/disk.0.{}", last + 1)));
            assert!(copied < 1 << 20, "{copied} bytes are more than changed");
            assert_eq!(flattened(&on, last + 1), now(&on), "increment {}", last + 1);
        }
        let info = tool("qemu-img", &["info", "-f", "qcow2", &disk]);
        assert!(info.contains("one-7-3") && info.contains("one-7-2") && !info.contains("one-7-1"), "{info}");
    }
}

#[test]
fn an_increment_without_its_bitmap_is_refused_and_says_what_to_do() {
    let on = Datastores::new();
    disk(&on, true, false);
    on.begin_backup();
    let refused = on.failure(&on.back_up(true, false, json!({"since": 4})));
    assert!(refused.text.contains("it has no bitmap one-7-4"), "{refused}");
    assert!(refused.text.contains("onevm backup --reset"), "{refused}");
    on.done(&on.back_up(true, false, json!("first")));
    // As a QEMU that died leaves it.
    let path = on.path("100/7/disk.0.snap/0");
    let bytes = std::fs::read(&path).unwrap();
    let entry = bytes.windows(7).rposition(|part| part == b"one-7-0").unwrap() - 24;
    let mut broken = bytes.clone();
    broken[entry + 15] |= 1;
    std::fs::write(&path, broken).unwrap();
    let refused = on.failure(&on.back_up(true, false, json!({"since": 0})));
    assert!(refused.text.contains("one-7-0 was in use when its guest died"), "{refused}");
    assert_eq!(names(&on), ["disk.0.0", "vm.xml"]);
}

#[test]
fn a_disk_that_is_open_or_not_the_last_word_is_not_copied() {
    let on = Datastores::new();
    disk(&on, true, false);
    on.begin_backup();
    std::fs::create_dir(on.path("100/7/tmp")).unwrap();
    on.qcow2("100/7/tmp/overlay_0.qcow2", "16M", None);
    let refused = on.failure(&on.back_up(true, false, json!("full")));
    assert!(refused.text.contains("tmp/overlay_0.qcow2: the stock driver left it"), "{refused}");
    assert!(on.path("100/7/tmp/overlay_0.qcow2").exists());
    std::fs::remove_dir_all(on.path("100/7/tmp")).unwrap();
    on.done(&on.back_up(true, false, json!("full")));
}

#[test]
fn another_directory_may_be_set_and_links_lead_nowhere() {
    let on = Datastores::new();
    disk(&on, true, false);
    let base = on.root.parent().unwrap().join("backups of VMs");
    let base = base.to_str().unwrap();
    let begin = on.backup("begin", Some(base), json!({"tpm": false}));
    on.perform(&begin, &[b"x".to_vec()]).unwrap();
    let disk = json!({"disk": on.backup_disk(true, false, json!("full"))});
    on.done(&on.backup("disk", Some(base), disk));
    assert!(std::path::Path::new(base).join("7/backup/disk.0.0").exists());
    on.done(&on.backup("clear", Some(base), json!({})));
    assert_eq!(std::fs::read_dir(base).unwrap().count(), 0);

    // A guest's owner can't plant links; whoever can must not have others' files removed.
    symlink(on.path("1"), on.path("100/7/backup")).unwrap();
    on.done(&on.backup("clear", None, json!({})));
    assert!(on.path("1/abc").exists());
    symlink(on.path("1"), on.path("100/7/backup")).unwrap();
    on.begin_backup();
    assert!(on.path("1/abc").exists() && !on.path("1/vm.xml").exists());
    assert!(!on.path("100/7/backup").is_symlink());
}

#[test]
fn without_a_directory_or_a_tpm_nothing_is_done() {
    let on = Datastores::new();
    disk(&on, true, false);
    let missing = on.failure(&on.back_up(true, false, json!("full")));
    assert_eq!(missing.kind, Kind::HostState);
    assert!(missing.text.contains("there is no") && missing.text.contains("100/7/backup"), "{missing}");
    let begin = on.backup("begin", None, json!({"tpm": true}));
    assert!(on.perform(&begin, &[vec![]]).unwrap_err().text.contains("100/7/tpm"));
    std::fs::create_dir_all(on.path("100/7/tpm/tpm2")).unwrap();
    std::fs::write(on.path("100/7/tpm/tpm2/state"), b"secret").unwrap();
    on.perform(&begin, &[vec![]]).unwrap();
    let packed = on.text("100/7/backup/disk.tpm.0");
    assert!(tool("tar", &["-tzf", &packed]).contains("tpm/tpm2/state"));
}

#[test]
fn a_file_for_a_guests_hypervisor_gets_its_name_when_it_is_whole() {
    let on = Datastores::new();
    disk(&on, true, false);
    on.begin_backup();
    let part =
        |part: &str| on.backup(part, None, json!({"disk": on.backup_disk(true, false, json!("full"))}));
    on.perform(&part("target"), &[]).unwrap();
    let target = on.path("100/7/backup/.causeway-tmp.disk.0.0.live");
    on.qcow2("100/7/backup/.causeway-tmp.disk.0.0.live", "8M", None);
    let short = on.perform(&part("publish"), &[]).unwrap_err();
    assert!(short.text.contains("16777216 bytes"), "{short}");
    on.perform(&part("target"), &[]).unwrap();
    on.done(&part("publish"));
    on.done(&part("publish"));
    assert!(!target.exists());
    assert_eq!(names(&on), ["disk.0.0", "vm.xml"]);
}
