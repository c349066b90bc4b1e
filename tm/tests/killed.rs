//! Every call, killed between any two of its effects and run again, comes to the same end; and what it was not to touch
//! is as it was. The points come from the calls themselves: a new effect is covered without a change here.

#![cfg(test)]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Datastores, half_made, picture};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

type Picture = BTreeMap<PathBuf, String>;

/// One call, and how its datastores look before it.
struct Case {
    name: &'static str,
    prepare: fn(&Datastores),
    call: fn(&Datastores) -> Value,
    input: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let nothing = |_: &Datastores| {};
    let before = |on: &Datastores| {
        on.qcow2("1/abc", "4M", None);
        std::fs::write(on.path("1/persistent"), b"somebody's data").unwrap();
        std::fs::write(on.path("100/.monitor"), b"ssh").unwrap();
        let dir = on.vm_dir();
        std::os::unix::fs::symlink(on.path("1/persistent"), dir.join("disk.0")).unwrap();
        std::fs::create_dir(dir.join("disk.0.snap")).unwrap();
        std::fs::write(dir.join("disk.0.snap/0"), b"an older disk").unwrap();
        std::fs::write(dir.join(".causeway-tmp.disk.0.1-1-1"), b"left by another").unwrap();
    };
    let fresh = |on: &Datastores| on.qcow2("1/abc", "4M", None);
    let case = |name, prepare, call| Case { name, prepare, call, input: None };
    vec![
        case("flat copy", fresh, Datastores::flat),
        case("flat copy over an older disk, grown", before, |on| {
            on.clone(json!("flat"), "disk.0", Some(8), true)
        }),
        case("overlay", fresh, Datastores::overlay),
        case("overlay over an older disk, grown", before, |on| {
            on.clone(json!({"overlay": {}}), "disk.0", Some(8), false)
        }),
        case("standalone copy over an older disk", before, |on| {
            on.clone(json!("standalone"), "disk.0", Some(8), true)
        }),
        case("link to an image over an older disk", before, |on| on.link("image")),
        case("link to a chain over an older disk", before, |on| on.link("chain")),
        case("removal of a disk", before, |on| on.delete("disk.0")),
        case("removal of a VM", before, Datastores::delete_dir),
        Case {
            name: "context",
            prepare: nothing,
            call: |on| on.context(&["context.sh"]),
            input: Some("X='1'"),
        },
        Case {
            name: "context over an older disk",
            prepare: before,
            call: |on| json!({"build_context": {"file": on.text("100/7/disk.0"), "names": ["context.sh"]}}),
            input: Some("X='1'"),
        },
    ]
}

/// What is compared: everything but a context's bytes, which hold the time, and backing names, which hold the
/// temporary directory's name (of one length in all runs).
fn end(on: &Datastores, case: &Case) -> Picture {
    let root = on.root.display().to_string();
    let plain = |(path, text): (PathBuf, String)| {
        let context = case.input.is_some() && text.starts_with("file");
        let chain = path.ends_with("disk.0.snap/0");
        let text = match text.rsplit_once(' ') {
            Some((shape, _)) if context || chain => shape.to_owned(),
            _ => text.replace(&root, "ROOT"),
        };
        (path, text)
    };
    picture(&on.root).into_iter().map(plain).collect()
}

/// The child's part: performs the call it is given and kills itself at the point it is given.
#[test]
#[ignore = "run by the test below, in processes of its own"]
fn killed_child() {
    let variable = |name| std::env::var(name).unwrap();
    let on = Datastores::below(Path::new(&variable("CAUSEWAY_TEST_DIR")));
    let call = serde_json::from_str(&variable("CAUSEWAY_TEST_CALL")).unwrap();
    let input: Vec<Vec<u8>> =
        std::env::var("CAUSEWAY_TEST_INPUT").into_iter().map(String::into_bytes).collect();
    let at: usize = variable("CAUSEWAY_TEST_POINT").parse().unwrap();
    let passed = RefCell::new(0);
    on.perform_at(&call, &input, &|_| {
        *passed.borrow_mut() += 1;
        if *passed.borrow() > at {
            kill_process(Pid::from_raw(std::process::id() as i32).unwrap(), Signal::KILL).unwrap();
        }
    })
    .unwrap();
}

fn kill_at(on: &Datastores, case: &Case, point: usize) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "killed_child", "--ignored"]).stdout(Stdio::null()).stderr(Stdio::null());
    child.env("CAUSEWAY_TEST_DIR", on.root.parent().unwrap());
    child.env("CAUSEWAY_TEST_CALL", (case.call)(on).to_string());
    child.env("CAUSEWAY_TEST_POINT", point.to_string());
    if let Some(input) = case.input {
        child.env("CAUSEWAY_TEST_INPUT", input);
    }
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.status().unwrap().signal(), Some(9), "{}, point {point}", case.name);
}

/// Under a final name there is only ever what was there before or what is to be there in the end: every file and link
/// that a killed call leaves in the VM's directory is one of those, or recognisably half-made.
fn judge(case: &Case, point: &str, killed: &Picture, before: &Picture, after: &Picture) {
    for (path, text) in killed {
        let known = before.get(path) == Some(text) || after.get(path) == Some(text);
        // The image's lock and the datastore's mark come first; directories fill up.
        assert!(
            known || half_made(path) || text.starts_with("directory"),
            "{} at {point}: {path:?} {text}",
            case.name
        );
    }
    for (path, text) in before {
        if path.starts_with("1") {
            assert_eq!(killed.get(path), Some(text), "{} at {point}: {path:?}", case.name);
        }
    }
}

#[test]
fn killed_anywhere_and_run_again_is_the_same() {
    let mut points = 0;
    for case in cases() {
        let on = Datastores::new();
        (case.prepare)(&on);
        let before = end(&on, &case);
        let input: Vec<Vec<u8>> = case.input.into_iter().map(|text| text.as_bytes().to_vec()).collect();
        let passed = RefCell::new(Vec::new());
        on.perform_at(&(case.call)(&on), &input, &|point| passed.borrow_mut().push(point)).unwrap();
        on.nothing_half_made();
        let after = end(&on, &case);
        let passed = passed.into_inner();
        assert!(passed.len() > 2, "{}: {passed:?}", case.name);
        for (index, point) in passed.iter().enumerate() {
            let on = Datastores::new();
            (case.prepare)(&on);
            kill_at(&on, &case, index);
            judge(&case, point, &end(&on, &case), &before, &after);
            on.perform(&(case.call)(&on), &input).unwrap();
            on.nothing_half_made();
            assert_eq!(end(&on, &case), after, "{} killed at {point}", case.name);
            points += 1;
        }
    }
    println!("{points} points");
}
