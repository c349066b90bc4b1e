//! The journal, cut off at every byte, on a full disk, and searched for secrets.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use causeway_core::answer::{Failure, Kind};
use causeway_core::engine::{Engine, Patience};
use causeway_core::journal::{Journal, Note, Unfinished};
use causeway_core::names::{RequestId, VmId};
use causeway_core::plan::{Arg, Input, Work};
use causeway_testing::World;
use causeway_testing::plans::Maker;
use proptest::collection::vec;
use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;

/// In memory where there is such a place: file systems on disk take their time over a rename.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn request(number: u64) -> RequestId {
    RequestId::new(1, 2, number)
}

fn begin(vm: u32) -> Note {
    let mut plan = Maker::of_two_hosts().shutdown();
    plan.vm = VmId(vm);
    Note::begin(&plan)
}

fn note() -> impl Strategy<Value = Note> {
    let name =
        || proptest::sample::select(vec!["pre:vxlan", "migrate", "post \"ü\"\n"]).prop_map(str::to_owned);
    prop_oneof![
        3 => any::<u32>().prop_map(begin),
        2 => vec(name(), 0..3).prop_map(|steps| Note::Sent { steps }),
        2 => name().prop_map(|step| Note::Started { step }),
        2 => (name(), any::<bool>()).prop_map(|(step, ok)| Note::Ended { step, ok }),
        1 => Just(Note::Undo),
        2 => any::<bool>().prop_map(|ok| Note::End { ok }),
    ]
}

/// What is in flight after those notes: the definition that the file is held against.
fn in_flight(notes: &[(u64, Note)]) -> Vec<Unfinished> {
    let mut open: Vec<Unfinished> = Vec::new();
    for (number, note) in notes {
        let known = open.iter().position(|u| u.request == request(*number));
        match (known, note) {
            (None, Note::Begin { .. }) => {
                open.push(Unfinished { request: request(*number), begin: note.clone(), notes: Vec::new() });
            }
            (None, _) => {}
            (Some(index), Note::End { .. }) => {
                open.remove(index);
            }
            (Some(index), _) => open[index].notes.push(note.clone()),
        }
    }
    open
}

fn write(path: &Path, notes: &[(u64, Note)]) {
    let (journal, before) = Journal::open(path).unwrap();
    assert_eq!(before, []);
    notes.iter().for_each(|(number, note)| journal.note(&request(*number), note));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_journal_cut_off_at_any_byte_tells_what_was_in_flight_then(notes in vec((0..3u64, note()), 0..8)) {
        let dir = directory();
        let path = dir.path().join("journal");
        write(&path, &notes);
        let bytes = fs::read(&path).unwrap();
        let ends: Vec<usize> = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at).collect();
        prop_assert_eq!(ends.len(), notes.len(), "one line for each note");
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            // A line that lacks nothing but its line feed is whole.
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let expected = in_flight(&notes[..whole]);
            let (journal, told) = Journal::open(&path).unwrap();
            prop_assert_eq!(&told, &expected, "cut at byte {}", cut);
            // What it kept says the same to the next one, and what is added goes on from there.
            journal.note(&request(9), &begin(9));
            drop(journal);
            let again = Journal::open(&path).unwrap().1;
            prop_assert_eq!(&again[..expected.len()], &expected[..]);
            prop_assert_eq!(again.len(), expected.len() + 1);
        }
    }

    #[test]
    fn bytes_that_no_journal_wrote_stop_nobody(noise in vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>()) {
        let dir = directory();
        let path = dir.path().join("journal");
        write(&path, &[(1, begin(1))]);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(2) * bytes.len();
        let line = [b"\n", noise.as_slice(), b"\n"].concat();
        bytes.splice(at..at, line);
        fs::write(&path, bytes).unwrap();
        prop_assert_eq!(Journal::open(&path).unwrap().1, in_flight(&[(1, begin(1))]));
    }
}

#[test]
fn two_threads_never_mix_their_lines() {
    let dir = directory();
    let path = dir.path().join("journal");
    let (journal, _) = Journal::open(&path).unwrap();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let journal = &journal;
            scope.spawn(move || {
                journal.note(&request(number), &begin(7));
                for index in 0..200 {
                    journal.note(&request(number), &Note::Started { step: format!("{index}") });
                }
            });
        }
    });
    drop(journal);
    let (_, told) = Journal::open(&path).unwrap();
    assert_eq!(told.len(), 4);
    for unfinished in told {
        let expected: Vec<Note> = (0..200).map(|i| Note::Started { step: format!("{i}") }).collect();
        assert_eq!(unfinished.notes, expected);
    }
}

#[test]
fn it_is_nobody_elses_to_read_or_to_lead_astray() {
    let dir = directory();
    let path = dir.path().join("journal");
    let victim = dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o666)).unwrap();
    symlink(&victim, path.with_extension("new")).unwrap();
    write(&path, &[(1, begin(1))]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&path) & 0o7777, 0o600);
    // One that an earlier death left behind, readable to all.
    fs::write(path.with_extension("new"), "").unwrap();
    fs::set_permissions(path.with_extension("new"), fs::Permissions::from_mode(0o644)).unwrap();
    drop(Journal::open(&path).unwrap());
    assert_eq!(mode(&path) & 0o7777, 0o600);
}

const CHILD: &str = "CAUSEWAY_TEST_JOURNAL";

/// The disk is full for a while; the line that did not fit is lost, and no other.
#[test]
fn a_full_disk_costs_what_did_not_fit() {
    if let Ok(path) = std::env::var(CHILD) {
        return fill(Path::new(&path));
    }
    let dir = directory();
    let path = dir.path().join("journal");
    // The signal of a file that grows too large is ignored from the outside: that takes no unsafe code.
    let status = Command::new("/bin/sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" --exact a_full_disk_costs_what_did_not_fit"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, &path)
        .status()
        .unwrap();
    assert!(status.success());
    let (_, told) = Journal::open(&path).unwrap();
    let [unfinished] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(unfinished.notes, [Note::Started { step: "after".to_owned() }]);
}

fn fill(path: &Path) {
    let (journal, _) = Journal::open(path).unwrap();
    journal.note(&request(1), &begin(1));
    let room = fs::metadata(path).unwrap().len() + 20;
    let before = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(room), ..before }).unwrap();
    journal.note(&request(1), &Note::Started { step: "does not fit".to_owned() });
    setrlimit(Resource::Fsize, before).unwrap();
    assert_eq!(fs::metadata(path).unwrap().len(), room, "half a line is there");
    journal.note(&request(1), &Note::Started { step: "after".to_owned() });
}

/// Words that must never leave the plan.
const SECRETS: [&str; 3] = ["hush-input", "hush-argument", "hush-failure"];

#[tokio::test(start_paused = true)]
async fn no_secret_reaches_the_journal_or_a_debug_line() {
    let make = Maker::of_two_hosts();
    let mut plan = make.deploy();
    plan.inputs = BTreeMap::from([("envelope".to_owned(), Input::new("<PASSWORD>hush-input</PASSWORD>"))]);
    for step in &mut plan.steps {
        if let Work::Slot { argv, .. } = &mut step.work {
            argv.push(Arg::from("hush-argument"));
        }
    }
    let dir = directory();
    let path = dir.path().join("journal");
    let (journal, _) = Journal::open(&path).unwrap();
    let world = World::new(&make.id, std::slice::from_ref(&make.source));
    let engine = Engine {
        reach: &world,
        log: &world,
        journal: &journal,
        patience: Patience::default(),
        cancelled: watch::channel(false).1,
    };
    engine.run(&plan, &request(1)).await;
    let failed = causeway_core::reach::wire::StepEnd {
        step: "deploy".to_owned(),
        result: Err(Failure::new(Kind::Refused, "hush-failure")),
        owner: causeway_core::reach::wire::Owner::Ours,
        micros: 1,
    };
    journal.note(&request(1), &Note::ended(&failed));
    drop(journal);
    let (_, told) = Journal::open(&path).unwrap();
    assert!(told[0].notes.len() > plan.steps.len(), "there is something to search");
    let everything = [fs::read_to_string(&path).unwrap(), format!("{told:?}"), format!("{:?}", plan.inputs)];
    for (text, secret) in everything.iter().flat_map(|text| SECRETS.map(|secret| (text, secret))) {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}
