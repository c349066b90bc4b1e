//! Every call, killed between any two of its effects and run again, comes to the same end; and what it was not to touch
//! is as it was. The points come from the calls themselves: a new effect is covered without a change here.

#![cfg(test)]

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
#[cfg(target_arch = "x86_64")]
use std::process::Command;

#[cfg(target_arch = "x86_64")]
use causeway_core::answer::Failure;
use common::{Datastores, half_made, kill};
#[cfg(target_arch = "x86_64")]
use common::{fault, hostile};
use serde_json::Value;

#[path = "killed/cases.rs"]
mod cases;
use cases::cases;

type Picture = BTreeMap<PathBuf, String>;

/// One call, and how its datastores look before it.
struct Case {
    name: &'static str,
    prepare: fn(&Datastores),
    call: fn(&Datastores) -> Value,
    input: Option<&'static str>,
    /// The format of the disk, where a layer's bytes may differ though a guest reads the same.
    guest: Option<&'static str>,
}

/// What is compared: everything but a context's bytes, which hold the time, and backing names, which hold the
/// temporary directory's name (of one length in all runs).
fn end(on: &Datastores, case: &Case) -> Picture {
    let root = on.root.display().to_string();
    let plain = |(path, text): (PathBuf, String)| {
        // A context holds the time, swap space an id.
        let varies = case.input.is_some() || case.name == "swap";
        // A pointer holds a path in the temporary directory.
        let pointer = path.extension().is_some_and(|extension| extension == "current");
        let context = (varies || pointer) && text.starts_with("file");
        let chain = is_layer(&path) && case.guest != Some("raw");
        let text = match text.rsplit_once(' ') {
            // What is in a datastore's mark is for people.
            _ if path.ends_with(".causeway") => "mark".to_owned(),
            // A layer that was worked on twice may hold some of it twice.
            Some((shape, _)) if chain => shape.split(' ').take(2).collect::<Vec<_>>().join(" "),
            Some((shape, _)) if context => shape.to_owned(),
            _ => text.replace(&root, "ROOT"),
        };
        (path, text)
    };
    on.picture().into_iter().map(plain).collect()
}

fn is_layer(path: &Path) -> bool {
    let number = path.file_name().is_some_and(|name| name.to_str().unwrap().parse::<u32>().is_ok());
    number && path.parent().is_some_and(|dir| dir.to_str().unwrap().ends_with(".snap"))
}

/// What a guest reads, if the case's disk has one.
fn reads(on: &Datastores, case: &Case) -> Option<Vec<u8>> {
    case.guest.map(|format| on.guest_reads(format, "100/7/disk.0", 4))
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
        let known = before.get(path) == Some(text) || after.get(path) == Some(text);
        // The image's lock and the datastore's mark come first; directories fill up.
        assert!(
            known || half_made(path) || path.ends_with(".causeway-origin") || text.starts_with("directory"),
            "{} at {point}: {path:?} {text}",
            case.name
        );
    }
    // In the image's datastore nothing is touched but what the call is about.
    for (path, text) in before.iter().filter(|(path, _)| path.starts_with("1")) {
        let found = killed.get(path);
        assert!(
            found == Some(text) || found == after.get(path),
            "{} at {point}: {path:?} {found:?}",
            case.name
        );
    }
}

#[test]
fn killed_anywhere_and_run_again_is_the_same() {
    let points = kill::each(&cases(), |case| {
        let on = Datastores::new();
        (case.prepare)(&on);
        let before = (end(&on, case), reads(&on, case));
        let input: Vec<Vec<u8>> = case.input.into_iter().map(|text| text.as_bytes().to_vec()).collect();
        let passed = RefCell::new(Vec::new());
        on.perform_at(&(case.call)(&on), &input, &|point| passed.borrow_mut().push(point)).unwrap();
        on.nothing_half_made();
        let after = (end(&on, case), reads(&on, case));
        let passed = passed.into_inner();
        assert!(!passed.is_empty(), "{}: {passed:?}", case.name);
        for (index, point) in passed.iter().enumerate() {
            let on = Datastores::new();
            (case.prepare)(&on);
            kill::at(&on, &(case.call)(&on), case.input, index);
            judge(case, point, &end(&on, case), &before.0, &after.0);
            let now = reads(&on, case);
            assert!(now == before.1 || now == after.1, "{} killed at {point}: {now:?}", case.name);
            on.perform(&(case.call)(&on), &input).unwrap();
            on.nothing_half_made();
            assert_eq!((end(&on, case), reads(&on, case)), after, "{} killed at {point}", case.name);
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
impl fault::Scene for Disturbed<'_> {
    type Seen = (Picture, Option<Vec<u8>>);

    fn name(&self) -> String {
        self.case.name.to_owned()
    }

    fn dirs(&self) -> Vec<PathBuf> {
        self.on.dirs()
    }

    fn child(&self) -> (Command, PathBuf) {
        kill::watched(&self.on, &(self.case.call)(&self.on), self.case.input)
    }

    fn see(&self) -> Self::Seen {
        (end(&self.on, self.case), reads(&self.on, self.case))
    }

    fn judge(&self, at: &str, now: &Self::Seen, before: &Self::Seen, after: &Self::Seen) {
        judge(self.case, at, &now.0, &before.0, &after.0);
        assert!(now.1 == before.1 || now.1 == after.1, "{at}: {:?}", now.1);
    }

    fn again(&self) -> Result<(), Failure> {
        let input: Vec<Vec<u8>> = self.case.input.into_iter().map(|text| text.as_bytes().to_vec()).collect();
        self.on.perform(&(self.case.call)(&self.on), &input)?;
        self.on.nothing_half_made();
        Ok(())
    }
}

/// The same at every system call, of its tools too, and for what else the kernel may say: no room, read-only, a device that
/// fails.
#[cfg(target_arch = "x86_64")]
#[test]
fn disturbed_at_any_system_call_and_run_again_is_the_same() {
    let tally = fault::campaign(&cases(), 40, |case, sharing| {
        let on = Datastores::new();
        (case.prepare)(&on);
        fault::trial(&mut Disturbed { on, case }, sharing)
    });
    tally.close("killed");
}

/// What `qemu-img rebase` wrote too late, or not at all, without a word: a snapshot's layer went when what stood on it did not
/// yet hold what it had from there.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_snapshot_s_removal_is_disturbed_at_every_write() {
    let all = cases();
    let some: Vec<&Case> = all.iter().filter(|case| case.name.ends_with("snapshot goes")).collect();
    assert_eq!(some.len(), 4);
    let tally = fault::campaign(&some[..2], 1, |case, sharing| {
        let on = Datastores::new();
        (case.prepare)(&on);
        fault::trial_of(&mut Disturbed { on, case }, sharing, &[fault::Fault::Killed, fault::Fault::Full])
    });
    tally.close("killed");
}

/// Every call does the same below a root that a shell or QEMU might take for something else.
#[test]
fn a_root_of_any_name_is_a_root() {
    for case in cases() {
        let input: Vec<Vec<u8>> = case.input.into_iter().map(|text| text.as_bytes().to_vec()).collect();
        let done = |on: &Datastores| {
            (case.prepare)(on);
            on.perform(&(case.call)(on), &input).unwrap_or_else(|failure| panic!("{}: {failure}", case.name));
            on.nothing_half_made();
            (end(on, &case).into_keys().collect::<Vec<_>>(), reads(on, &case))
        };
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a b'\"$(id);*&,json:{#%41=\\");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(done(&Datastores::below(&odd)), done(&Datastores::new()), "{}", case.name);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

/// A new call is in the table above with its first plan, or it is said why it need not be.
#[test]
fn every_call_of_the_plans_is_disturbed() {
    // Do nothing; changes nothing; are disturbed in files of their own.
    let mut done: BTreeSet<String> =
        ["nothing", "tell", "read_chain", "carry_dir", "rbd", "restore", "datastore"]
            .map(str::to_owned)
            .into();
    // A file that has no name yet, and goes with the next call for it.
    done.extend(["live make_copy", "live drop_copy"].map(str::to_owned));
    let on = Datastores::new();
    done.extend(cases().iter().map(|case| kind(&(case.call)(&on))));
    let mut planned = BTreeSet::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for (_, call) in text.lines().filter_map(|line| line.split_once(": transfer ")) {
            let mut values = serde_json::Deserializer::from_str(call).into_iter::<Value>();
            planned.insert(kind(&values.next().unwrap().unwrap()));
        }
    }
    assert!(planned.len() > 15, "{planned:?}");
    let missing: Vec<&String> = planned.difference(&done).collect();
    assert_eq!(missing, [""; 0], "calls of plans that are in no table");
}

/// A call, without what it is about.
fn kind(call: &Value) -> String {
    let (name, about) = call.as_object().unwrap().iter().next().unwrap();
    match name.as_str() {
        "live" => format!("live {}", about["part"].as_object().unwrap().keys().next().unwrap()),
        "snapshot" => format!("snapshot {}", about["order"].as_str().unwrap()),
        // Done by a child, whose end with its parent's is a test of the programs'.
        "confined" => kind(&about["call"]),
        // What is mounted before is killed in automount.rs, in a namespace of its own.
        "mounted" => kind(&about["call"]),
        _ => name.clone(),
    }
}

/// Links that were planted at any name, layers that stand on files outside, headers that lie: nothing outside is read or
/// changed.
#[cfg(target_arch = "x86_64")]
#[test]
fn nothing_outside_is_read_or_changed_whatever_lies_there() {
    let tally = fault::campaign(&cases(), 8, |case, sharing| {
        let on = Datastores::new();
        (case.prepare)(&on);
        let takes = |number| sharing.takes(number, usize::MAX);
        let plants = hostile::campaign(case.name, &on, &case.call, case.input, &takes);
        fault::Tally::of_plants(plants)
    });
    tally.close_plants("killed");
}
