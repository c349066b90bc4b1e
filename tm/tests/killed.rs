//! Every call, killed between any two of its effects and run again, comes to the same end; and what it was not to touch
//! is as it was. The points come from the calls themselves: a new effect is covered without a change here.

#![cfg(test)]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::images::{Images, downloader, raw_of};
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
    /// What must hold in the end.
    holds: fn(&Datastores) -> bool,
}

impl Case {
    fn call_is_of_datastore(&self) -> bool {
        datastore_cases().iter().any(|case| case.name == self.name)
    }
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
    let case = |name, prepare, call| Case { name, prepare, call, input: None, holds: |_| true };
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
            holds: |_| true,
        },
        Case {
            name: "context over an older disk",
            prepare: before,
            call: |on| json!({"build_context": {"file": on.text("100/7/disk.0"), "names": ["context.sh"]}}),
            input: Some("X='1'"),
            holds: |_| true,
        },
    ]
}

/// The actions of a file datastore.
fn datastore_cases() -> Vec<Case> {
    let case = |name, prepare, call, holds| Case { name, prepare, call, input: None, holds };
    let chained: fn(&Datastores) = |on| {
        on.chained_image();
        std::fs::write(on.path("1/persistent"), b"somebody's data").unwrap();
        std::fs::write(on.path("1/abc.md5sum"), b"old").unwrap();
    };
    let copied: fn(&Datastores) = |on| {
        on.raw_image();
        std::fs::create_dir(on.path("1/abc.snap")).unwrap();
        for id in ["0", "1", "2"] {
            std::fs::write(on.path("1/abc.snap").join(id), id).unwrap();
        }
    };
    let uploaded: fn(&Datastores) = |on| {
        std::fs::write(on.beside("up"), vec![7; 3 << 20]).unwrap();
        std::fs::write(on.path("1/persistent"), b"somebody's data").unwrap();
        std::fs::write(on.path("1/.causeway-tmp.new.1-1-1"), b"left by another").unwrap();
        downloader(on);
        let packed = Command::new("gzip").arg("-nc").arg(on.beside("up")).output().unwrap().stdout;
        std::fs::write(on.beside("served"), packed).unwrap();
    };
    vec![
        case(
            "cp of a file",
            uploaded,
            |on| on.import(local(on), json!(null)),
            |on| std::fs::read(on.path("1/new")).unwrap() == vec![7; 3 << 20],
        ),
        case(
            "cp of a file, converted",
            uploaded,
            |on| on.import(local(on), json!("qcow2")),
            |on| raw_of(&on.path("1/new"), "qcow2") == vec![7; 3 << 20],
        ),
        case(
            "cp of an address",
            uploaded,
            |on| on.import(address(on), json!(null)),
            |on| std::fs::read(on.path("1/new")).unwrap() == b"from http://h/x\n",
        ),
        case("cp of an archive with a promised sum", uploaded, archive, |on| {
            std::fs::read(on.path("1/new")).unwrap() == vec![7; 3 << 20]
        }),
        case(
            "clone",
            chained,
            |on| on.copy("qcow2", "raw"),
            |on| std::fs::read(on.path("1/new")).unwrap()[5 << 20] == 0x22,
        ),
        case(
            "clone of bytes",
            copied,
            |on| on.copy("raw", "raw"),
            |on| std::fs::read(on.path("1/new")).unwrap() == std::fs::read(on.path("1/abc")).unwrap(),
        ),
        case("mkfs", uploaded, blank, |on| on.path("1/new").metadata().unwrap().len() == 5 << 20),
        case("rm", chained, Images::remove, |on| !on.path("1/abc").exists()),
        case(
            "snap_revert",
            chained,
            |on| on.snapshot(true, "revert", 1),
            |on| layer(on, "1/abc.snap/2") == (0x11, 0),
        ),
        case(
            "snap_delete",
            chained,
            |on| on.snapshot(true, "delete", 1),
            |on| layer(on, "1/abc.snap/2") == (0x11, 0x22),
        ),
        case(
            "snap_flatten",
            chained,
            |on| on.snapshot(true, "flatten", 1),
            |on| layer(on, "1/abc") == (0x11, 0),
        ),
        case(
            "snap_flatten to the base",
            chained,
            |on| on.snapshot(true, "flatten", 0),
            |on| layer(on, "1/abc") == (0, 0),
        ),
        case(
            "snap_revert of copies",
            copied,
            |on| on.snapshot(false, "revert", 1),
            |on| std::fs::read(on.path("1/abc")).unwrap() == b"1",
        ),
        case(
            "snap_delete of copies",
            copied,
            |on| on.snapshot(false, "delete", 1),
            |on| !on.path("1/abc.snap/1").exists(),
        ),
        case(
            "snap_flatten of copies",
            copied,
            |on| on.snapshot(false, "flatten", 1),
            |on| std::fs::read(on.path("1/abc")).unwrap() == b"1" && !on.path("1/abc.snap").exists(),
        ),
    ]
}

fn local(on: &Datastores) -> Value {
    let dirs = json!({"safe": [], "restricted": []});
    json!({"file": {"path": on.beside("up"), "dirs": dirs, "unpack": null, "checksum": null}})
}

fn address(on: &Datastores) -> Value {
    let program = on.beside("downloader.sh");
    let fetch = json!({"program": program, "address": "http://h/x", "decompress": true, "limit": null});
    json!({"address": {"fetch": fetch, "checksum": null}})
}

fn archive(on: &Datastores) -> Value {
    let program = on.beside("downloader.sh");
    let fetch = json!({"program": program, "address": "http://served/x", "decompress": true, "limit": null});
    let sum = common::tool("md5sum", &[on.beside("served").to_str().unwrap()]);
    on.import(json!({"address": {"fetch": fetch, "checksum": {"md5": sum[..32]}}}), json!(null))
}

fn blank(on: &Datastores) -> Value {
    json!({"datastore": {"blank": {"image": on.text("1/new"), "size_mb": 5, "format": "raw", "blank": "empty"}}})
}

/// What tells the layers of a chain apart: each writes at a place of its own.
fn layer(on: &Datastores, path: &str) -> (u8, u8) {
    let bytes = raw_of(&on.path(path), "qcow2");
    (bytes[4 << 20], bytes[5 << 20])
}

/// What the next VM would get of a chained image: its newest layer, else the image itself.
fn newest(on: &Datastores) -> (u8, u8) {
    let entries = std::fs::read_dir(on.path("1/abc.snap")).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let newest = names.max().map_or("1/abc".to_owned(), |number| format!("1/abc.snap/{number}"));
    layer(on, &newest)
}

/// What is compared: everything but a context's bytes, which hold the time, and backing names, which hold the
/// temporary directory's name (of one length in all runs).
fn end(on: &Datastores, case: &Case) -> Picture {
    let root = on.root.display().to_string();
    let plain = |(path, text): (PathBuf, String)| {
        let context = case.input.is_some() && text.starts_with("file");
        let numbered = path.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        let chain = numbered && path.parent().is_some_and(|dir| dir.to_string_lossy().ends_with(".snap"));
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
        let datastore = case.name.starts_with("snap_");
        let known = before.get(path) == Some(text) || after.get(path) == Some(text);
        // A flat image has three names for a while; the layers' names among them are shown without their bytes.
        let known = known || datastore && path.starts_with("1/abc.snap");
        // The image's lock and the datastore's mark come first; directories fill up.
        assert!(
            known || half_made(path) || text.starts_with("directory"),
            "{} at {point}: {path:?} {text}",
            case.name
        );
    }
    for (path, text) in before {
        // What the action is about.
        let own = case.call_is_of_datastore()
            && (path.starts_with("1/abc") || half_made(path) || is_of(path, "abc"));
        if path.starts_with("1") && !own {
            assert_eq!(killed.get(path), Some(text), "{} at {point}: {path:?}", case.name);
        }
    }
}

/// Whether a file belongs to that image of datastore 1.
fn is_of(path: &Path, image: &str) -> bool {
    path.strip_prefix("1").is_ok_and(|name| name.to_string_lossy().starts_with(&format!("{image}.")))
}

#[test]
fn killed_anywhere_and_run_again_is_the_same() {
    println!("{} points", killed_anywhere(cases()));
}

/// W30, and what flattening an image may leave at no moment.
#[test]
fn an_action_of_a_datastore_killed_anywhere_and_run_again_is_the_same() {
    println!("{} points", killed_anywhere(datastore_cases()));
}

fn killed_anywhere(cases: Vec<Case>) -> usize {
    let mut points = 0;
    for case in cases {
        let on = Datastores::new();
        (case.prepare)(&on);
        let before = end(&on, &case);
        let chained = case.name.starts_with("snap_") && !case.name.ends_with("copies");
        let head = chained.then(|| newest(&on));
        let input: Vec<Vec<u8>> = case.input.into_iter().map(|text| text.as_bytes().to_vec()).collect();
        let passed = RefCell::new(Vec::new());
        on.perform_at(&(case.call)(&on), &input, &|point| passed.borrow_mut().push(point)).unwrap();
        on.nothing_half_made();
        let after = end(&on, &case);
        assert!((case.holds)(&on), "{}", case.name);
        let became = chained.then(|| newest(&on));
        let passed = passed.into_inner();
        assert!(passed.len() > 1, "{}: {passed:?}", case.name);
        for (index, point) in passed.iter().enumerate() {
            let on = Datastores::new();
            (case.prepare)(&on);
            kill_at(&on, &case, index);
            judge(&case, point, &end(&on, &case), &before, &after);
            // At no moment does the image show anything but what it was, or what it is to be.
            let found = chained.then(|| newest(&on));
            assert!(found == head || found == became, "{} killed at {point}: {found:?}", case.name);
            on.perform(&(case.call)(&on), &input).unwrap();
            on.nothing_half_made();
            assert_eq!(end(&on, &case), after, "{} killed at {point}", case.name);
            assert!((case.holds)(&on), "{} killed at {point}", case.name);
            points += 1;
        }
    }
    points
}
