//! A restore that is killed between any two of its effects leaves either disk, whole; and when it is run again, the
//! restored one.

#![cfg(test)]

mod common;

use std::cell::RefCell;
use std::path::PathBuf;

use common::forms::{FORMS, format_of};
use common::images::raw_of;
use common::{Datastores, kill};
use serde_json::json;

/// A disk with a snapshot, and the backup of what it was before, staged. What the guest would read, before and after.
fn prepared(qcow2: bool, persistent: bool) -> (Datastores, [Vec<u8>; 2]) {
    let on = Datastores::new();
    on.vm_with_disk(qcow2, persistent);
    on.begin_backup();
    on.done(&on.back_up(qcow2, persistent, json!("full")));
    let kept = on.path("100/7/backup/disk.0.0");
    on.guest_writes(format_of(qcow2), "100/7/disk.0", 3, 9);
    on.done(&on.snapshot("create", 0, qcow2, persistent));
    on.guest_writes(format_of(qcow2), "100/7/disk.0", 4, 8);
    on.stage(&on.restored(qcow2, persistent, 1), &kept, false).unwrap();
    let now = read(&on, qcow2);
    (on, [now, raw_of(&kept, "qcow2")])
}

fn read(on: &Datastores, qcow2: bool) -> Vec<u8> {
    raw_of(&on.path("100/7/disk.0"), format_of(qcow2))
}

#[test]
#[ignore = "run by the test below, in processes of its own"]
fn killed_child() {
    kill::child();
}

#[test]
fn either_disk_is_there_and_whole() {
    let points = kill::each(&FORMS, |(qcow2, persistent)| killed_anywhere(*qcow2, *persistent));
    println!("{points} points");
}

/// At how many points.
fn killed_anywhere(qcow2: bool, persistent: bool) -> usize {
    let put = |on: &Datastores| json!({"restore": {"put": on.restored(qcow2, persistent, 1)}});
    let (on, _) = prepared(qcow2, persistent);
    let passed = RefCell::new(Vec::new());
    on.perform_at(&put(&on), &[], &|point| passed.borrow_mut().push(point)).unwrap();
    let passed = passed.into_inner();
    assert!(passed.len() > 3, "{passed:?}");
    for (index, point) in passed.iter().enumerate() {
        let (on, [old, new]) = prepared(qcow2, persistent);
        kill::at(&on, &put(&on), None, index);
        let now = read(&on, qcow2);
        assert!(now == old || now == new, "{point}, qcow2 {qcow2}, persistent {persistent}");
        on.perform(&put(&on), &[]).unwrap();
        assert_eq!(read(&on, qcow2), new, "{point}");
        on.done(&json!({"restore": {"drop": on.restored(qcow2, persistent, 1)}}));
        assert_eq!(read(&on, qcow2), new, "{point}");
    }
    passed.len()
}

/// Whatever is cut off while it comes in, the disk is as it was.
#[test]
fn a_stream_that_breaks_at_any_point_leaves_the_disk() {
    let (on, _) = prepared(true, false);
    let kept: PathBuf = on.path("100/7/backup/disk.0.0");
    let staged = on.restored(true, false, 1);
    on.done(&json!({"restore": {"drop": staged}}));
    let before = on.picture();
    on.stage(&staged, &kept, true).unwrap_err();
    assert_eq!(on.picture(), before);
}
