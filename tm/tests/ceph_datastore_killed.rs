//! Every action on an image of a Ceph datastore, killed between any two of its effects and run again, comes to the same
//! end, on a real cluster; at no moment is there anything under an image's name but what it was or is to be.

#![cfg(test)]

mod ceph;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

use ceph::kill::{self, ended};
use ceph::{Picture, Stage, at_once, cluster};
use serde_json::{Value, json};

/// One action, and the volumes before it.
struct Case {
    name: &'static str,
    prepare: fn(&Stage),
    call: fn(&Stage) -> Value,
    /// Whether an upload comes with it, of which kind.
    sent: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let case = |name, prepare, call| Case { name, prepare, call, sent: None };
    let cp: fn(&Stage) -> Value = |on| on.image_import(json!(null), true, None);
    let nothing: fn(&Stage) = |_| {};
    vec![
        Case { name: "cp, converted", prepare: nothing, call: cp, sent: Some("qcow2") },
        Case { name: "cp of an archive of a backup", prepare: nothing, call: cp, sent: Some("backup") },
        case("clone", Stage::image_family, Stage::image_copy),
        case("mkfs", nothing, |on| on.image_make(3, json!("empty"))),
        case("rm", Stage::image_family, |on| on.image_remove(&on.source(), false, None)),
        case("snap_revert", Stage::image_family, |on| on.image_snapshot("revert", 1)),
        case("snap_delete", Stage::image_family, |on| on.image_snapshot("delete", 1)),
        case("snap_flatten of an older volume", Stage::image_family, |on| on.image_snapshot("flatten", 1)),
        case("snap_flatten", Stage::image_family, |on| on.image_snapshot("flatten", 2)),
    ]
}

fn upload(on: &Stage, case: &Case) -> Vec<u8> {
    match case.sent {
        Some("backup") => on.backup(),
        Some(_) => on.made_by(&Stage::upload(), "qemu-img convert -f raw -O qcow2 {} {}.out"),
        None => Vec::new(),
    }
}

fn act(on: &Stage, call: &Value, sent: &[u8], between: &dyn Fn(&'static str)) {
    let done = if call["datastore"]["volume"]["work"].get("import").is_some() {
        on.receive(call, sent, between)
    } else {
        on.perform_at(call, between)
    };
    done.unwrap_or_else(|failure| panic!("{call}: {failure}"));
}

/// The child's part of the tests below.
#[test]
#[ignore = "run by the tests below, in processes of its own"]
fn killed_child() {
    kill::child(|on, call, between| {
        let sent = std::fs::read(on.dir().join("sent")).unwrap();
        act(on, call, &sent, between);
    });
}

fn kill_at(on: &Stage, call: &Value, sent: &[u8], point: usize) {
    std::fs::write(on.dir().join("sent"), sent).unwrap();
    kill::at(on, call, point);
}

/// Under an image's name there is what was there or what is to be there; what the image held, and each of its snapshots
/// that is to stay, is held by somebody.
fn judge(case: &Case, point: &str, killed: &Picture, before: &Picture, after: &Picture) {
    let context = || format!("{} at {point}: {killed:#?}", case.name);
    for name in ["one-5", "one-5-new"] {
        let Some(found) = killed.get(name) else { continue };
        let same = |other: Option<&ceph::Seen>| other.is_some_and(|other| other.content == found.content);
        assert!(same(before.get(name)) || same(after.get(name)), "{name}: {}", context());
    }
    if let (Some(image), true) = (before.get("one-5"), after.contains_key("one-5")) {
        let held = killed.values().any(|seen| seen.content == image.content);
        assert!(
            held || killed.get("one-5").map(|s| &s.content) == after.get("one-5").map(|s| &s.content),
            "{}",
            context()
        );
        for (id, _, content) in after.values().flat_map(|seen| &seen.snapshots) {
            let found = killed.values().flat_map(|s| &s.snapshots).any(|s| (&s.0, &s.2) == (id, content));
            assert!(found, "snapshot {id}: {}", context());
        }
    }
}

#[test]
fn killed_anywhere_and_run_again_is_the_same() {
    let Some(conf) = cluster() else { return };
    let (points, tried) = (AtomicU32::new(0), AtomicU32::new(0));
    at_once(ceph::share(&cases(), 5), |case| {
        let on = Stage::new(&conf);
        let sent = upload(&on, case);
        (case.prepare)(&on);
        let before = on.picture();
        let passed = RefCell::new(Vec::new());
        act(&on, &(case.call)(&on), &sent, &|point| passed.borrow_mut().push(point));
        let after = ended(&on);
        let passed = passed.into_inner();
        assert!(passed.len() > 1, "{}: {passed:?}", case.name);
        for (index, point) in passed.iter().enumerate() {
            let number = points.fetch_add(1, Ordering::Relaxed);
            if !ceph::long() && !(number + std::process::id()).is_multiple_of(4) {
                continue;
            }
            let on = Stage::new(&conf);
            (case.prepare)(&on);
            let call = (case.call)(&on);
            kill_at(&on, &call, &sent, index);
            // W26: nothing is left even now.
            on.nothing_staged();
            judge(case, point, &on.picture(), &before, &after);
            act(&on, &call, &sent, &|_| {});
            assert_eq!(ended(&on), after, "{} killed at {point}", case.name);
            tried.fetch_add(1, Ordering::Relaxed);
        }
    });
    println!("ceph_datastore_killed: {} of {} points", tried.into_inner(), points.into_inner());
}

/// A file system is no two times the same; what counts is that it is whole, or not there.
#[test]
fn a_file_system_killed_anywhere_and_made_again_is_whole() {
    let Some(conf) = cluster() else { return };
    let of = |on: &Stage| on.image_make(16, json!({"file_system": {"kind": "ext4"}}));
    let on = Stage::new(&conf);
    let passed = RefCell::new(0);
    act(&on, &of(&on), &[], &|_| *passed.borrow_mut() += 1);
    let names = |on: &Stage| {
        let names: Vec<String> = serde_json::from_value(on.json("ls one")).unwrap();
        let image = format!("one-{}-new", on.image);
        names.into_iter().filter(|name| name.starts_with(&image)).collect::<Vec<_>>()
    };
    let points: Vec<usize> = (0..passed.into_inner()).collect();
    at_once(&points, |point| {
        let on = Stage::new(&conf);
        kill_at(&on, &of(&on), &[], *point);
        on.nothing_staged();
        act(&on, &of(&on), &[], &|_| {});
        assert_eq!(names(&on), [format!("one-{}-new", on.image)], "{point}");
        let bytes = on.rbd(&format!("export --no-progress {} -", on.new_image()));
        assert_eq!((bytes.len(), &bytes[0x438..0x43a]), (16 << 20, &[0x53, 0xef][..]), "{point}");
    });
}
