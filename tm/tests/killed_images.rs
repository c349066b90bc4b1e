//! Every action of a file datastore, killed between any two of its effects and run again, comes to the same end; and what
//! it was not to touch is as it was. The points come from the calls themselves.

#![cfg(test)]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

#[cfg(target_arch = "x86_64")]
use causeway_core::answer::Failure;
#[cfg(target_arch = "x86_64")]
use common::{fault, hostile};

use common::images::{Images, downloader, raw_of};
use common::{Datastores, half_made, kill};
use serde_json::{Value, json};

type Picture = BTreeMap<PathBuf, String>;

/// One call, and how its datastores look before it.
struct Case {
    name: &'static str,
    prepare: fn(&Datastores),
    call: fn(&Datastores) -> Value,
    /// What must hold in the end.
    holds: fn(&Datastores) -> bool,
}

/// The actions of a file datastore.
fn datastore_cases() -> Vec<Case> {
    let case = |name, prepare, call, holds| Case { name, prepare, call, holds };
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
            |on| on.image_snapshot(true, "revert", 1),
            |on| layer(on, "1/abc.snap/2") == (0x11, 0),
        ),
        case(
            "snap_delete",
            chained,
            |on| on.image_snapshot(true, "delete", 1),
            |on| layer(on, "1/abc.snap/2") == (0x11, 0x22),
        ),
        case(
            "snap_flatten",
            chained,
            |on| on.image_snapshot(true, "flatten", 1),
            |on| layer(on, "1/abc") == (0x11, 0),
        ),
        case(
            "snap_flatten to the base",
            chained,
            |on| on.image_snapshot(true, "flatten", 0),
            |on| layer(on, "1/abc") == (0, 0),
        ),
        case(
            "snap_revert of copies",
            copied,
            |on| on.image_snapshot(false, "revert", 1),
            |on| std::fs::read(on.path("1/abc")).unwrap() == b"1",
        ),
        case(
            "snap_delete of copies",
            copied,
            |on| on.image_snapshot(false, "delete", 1),
            |on| !on.path("1/abc.snap/1").exists(),
        ),
        case(
            "snap_flatten of copies",
            copied,
            |on| on.image_snapshot(false, "flatten", 1),
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
fn end(on: &Datastores) -> Picture {
    let root = on.root.display().to_string();
    let plain = |(path, text): (PathBuf, String)| {
        let numbered = path.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        let chain = numbered && path.parent().is_some_and(|dir| dir.to_string_lossy().ends_with(".snap"));
        let text = match text.rsplit_once(' ') {
            // What is in a datastore's mark is for people.
            _ if path.ends_with(".causeway") => "mark".to_owned(),
            // A layer that was worked on twice may hold some of it twice.
            Some((shape, _)) if chain => shape.split(' ').take(2).collect::<Vec<_>>().join(" "),
            _ => text.replace(&root, "ROOT"),
        };
        (path, text)
    };
    on.picture().into_iter().map(plain).collect()
}

#[test]
#[ignore = "run by the test below, in processes of its own"]
fn killed_child() {
    kill::child();
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
        let own = path.starts_with("1/abc") || half_made(path) || is_of(path, "abc");
        if path.starts_with("1") && !own {
            assert_eq!(killed.get(path), Some(text), "{} at {point}: {path:?}", case.name);
        }
    }
}

/// Whether a file belongs to that image of datastore 1.
fn is_of(path: &Path, image: &str) -> bool {
    path.strip_prefix("1").is_ok_and(|name| name.to_string_lossy().starts_with(&format!("{image}.")))
}

/// W30, and what flattening an image may leave at no moment.
#[test]
fn an_action_of_a_datastore_killed_anywhere_and_run_again_is_the_same() {
    let points = kill::each(&datastore_cases(), |case| {
        let on = Datastores::new();
        (case.prepare)(&on);
        let before = end(&on);
        let chained = case.name.starts_with("snap_") && !case.name.ends_with("copies");
        let head = chained.then(|| newest(&on));
        let passed = RefCell::new(Vec::new());
        on.perform_at(&(case.call)(&on), &[], &|point| passed.borrow_mut().push(point)).unwrap();
        on.nothing_half_made();
        let after = end(&on);
        assert!((case.holds)(&on), "{}", case.name);
        let became = chained.then(|| newest(&on));
        let passed = passed.into_inner();
        assert!(passed.len() > 1, "{}: {passed:?}", case.name);
        for (index, point) in passed.iter().enumerate() {
            let on = Datastores::new();
            (case.prepare)(&on);
            kill::at(&on, &(case.call)(&on), None, index);
            judge(case, point, &end(&on), &before, &after);
            // At no moment does the image show anything but what it was, or what it is to be.
            let found = chained.then(|| newest(&on));
            assert!(found == head || found == became, "{} killed at {point}: {found:?}", case.name);
            on.perform(&(case.call)(&on), &[]).unwrap();
            on.nothing_half_made();
            assert_eq!(end(&on), after, "{} killed at {point}", case.name);
            assert!((case.holds)(&on), "{} killed at {point}", case.name);
        }
        passed.len()
    });
    println!("{points} points");
}

/// A case that is disturbed.
#[cfg(target_arch = "x86_64")]
struct Disturbed<'a> {
    on: Datastores,
    case: &'a Case,
}

#[cfg(target_arch = "x86_64")]
impl Disturbed<'_> {
    fn chained(&self) -> bool {
        self.case.name.starts_with("snap_") && !self.case.name.ends_with("copies")
    }
}

#[cfg(target_arch = "x86_64")]
impl fault::Scene for Disturbed<'_> {
    type Seen = (Picture, Option<(u8, u8)>);

    fn name(&self) -> String {
        self.case.name.to_owned()
    }

    fn dirs(&self) -> Vec<PathBuf> {
        self.on.dirs()
    }

    fn names(&self) -> Vec<String> {
        vec![
            "what was downloaded".to_owned(),
            "downloader.sh".to_owned(),
            self.on.beside("up").display().to_string(),
        ]
    }

    fn child(&self) -> (Command, PathBuf) {
        kill::watched(&self.on, &(self.case.call)(&self.on), None)
    }

    fn see(&self) -> Self::Seen {
        let mut files = end(&self.on);
        // What could not be removed goes with the next call.
        files.retain(|path, _| !half_made(path));
        (files, self.chained().then(|| newest(&self.on)))
    }

    fn judge(&self, at: &str, now: &Self::Seen, before: &Self::Seen, after: &Self::Seen) {
        judge(self.case, at, &now.0, &before.0, &after.0);
        assert!(now.1 == before.1 || now.1 == after.1, "{at}: {:?}", now.1);
    }

    fn again(&self) -> Result<(), Failure> {
        self.on.perform(&(self.case.call)(&self.on), &[])?;
        self.on.nothing_half_made();
        assert!((self.case.holds)(&self.on), "{}", self.case.name);
        Ok(())
    }
}

/// The same at every system call, of its tools too, and for what else the kernel may say: no room, read-only, a device that
/// fails.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_action_disturbed_at_any_system_call_and_run_again_is_the_same() {
    let tally = fault::campaign(&datastore_cases(), 20, |case, sharing| {
        let on = Datastores::new();
        (case.prepare)(&on);
        fault::trial(&mut Disturbed { on, case }, sharing)
    });
    tally.close("killed_images");
}

/// Links that were planted at any name, layers that stand on files outside, headers that lie: nothing outside is read or
/// changed.
#[cfg(target_arch = "x86_64")]
#[test]
fn nothing_outside_is_read_or_changed_whatever_lies_there() {
    let tally = fault::campaign(&datastore_cases(), 4, |case, sharing| {
        let on = Datastores::new();
        (case.prepare)(&on);
        let takes = |number| sharing.takes(number, usize::MAX);
        let plants = hostile::campaign(case.name, &on, &case.call, None, &takes);
        fault::Tally::of_plants(plants)
    });
    tally.close_plants("killed_images");
}
