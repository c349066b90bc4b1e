//! Directories that go to another host: whole trees, cut connections, ends that are killed, and what is refused.

#![cfg(test)]

mod common;
#[path = "carry/pair.rs"]
mod pair;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use causeway_core::answer::Kind;
use causeway_tm::carry::{End, Ended, Manner};
use common::{MIB, picture};
use pair::{NOWHERE, Pair, Picture};
use proptest::prelude::*;

const ENDS: [End; 2] = [End::Source, End::Destination];

#[test]
#[ignore = "the other end, in a process of its own"]
fn far_end() {
    pair::serve_far_end();
}

#[test]
#[ignore = "an end that is killed, in a process of its own"]
fn near_end() {
    pair::run_near_end();
}

/// A file of that length with data at these places.
fn sparse(path: &Path, length: u64, places: &[(u64, &[u8])]) {
    let file = File::create_new(path).unwrap();
    file.set_len(length).unwrap();
    places.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
}

/// What a VM may have, and more: holes, links, permissions, names that are no text, pipes.
fn furnish(dir: &Path) {
    let noise: Vec<u8> =
        (0..3 * MIB).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
    let last = 40 * MIB - 5;
    sparse(&dir.join("disk.0"), 40 * MIB, &[(0, &noise), (17 * MIB + 100, b"in the middle"), (last, b"end")]);
    sparse(&dir.join("disk.1"), 100 * MIB, &[]);
    fs::create_dir(dir.join("disk.2.snap")).unwrap();
    sparse(&dir.join("disk.2.snap/0"), 70_001, &[(0, &[7; 70_001])]);
    symlink("disk.2.snap/0", dir.join("disk.2")).unwrap();
    symlink(".", dir.join("disk.2.snap/disk.2.snap")).unwrap();
    symlink("/etc/passwd", dir.join("elsewhere")).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("secret"), "secret").unwrap();
    fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::create_dir(dir.join("closed")).unwrap();
    for name in [&b"two\nlines"[..], b"\xff\xfe", b"'; rm -rf \"$HOME\"", b"-rf", b" "] {
        fs::write(dir.join("closed").join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
}

/// The same in small: two segments, a layer, a link, a closed directory.
fn furnish_little(dir: &Path) {
    sparse(&dir.join("disk.0"), 17 * MIB, &[(5, b"the beginning"), (16 * MIB + 100, b"the end")]);
    fs::create_dir(dir.join("disk.1.snap")).unwrap();
    fs::write(dir.join("disk.1.snap/0"), vec![7; 9000]).unwrap();
    symlink("disk.1.snap/0", dir.join("disk.1")).unwrap();
    fs::create_dir(dir.join("closed")).unwrap();
    fs::write(dir.join("closed/two\nlines"), "x").unwrap();
    fs::set_permissions(dir.join("closed/two\nlines"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
}

/// One VM's directory, with the modes of what it holds.
fn tree(dir: &Path) -> Picture {
    picture(dir)
}

#[test]
fn a_tree_arrives_as_it_was() {
    for end in ENDS {
        for packed in [true, false] {
            let pair = Pair::new();
            furnish(&pair.from());
            rustix::fs::mknodat(
                rustix::fs::CWD,
                pair.from().join("pipe"),
                rustix::fs::FileType::Fifo,
                0o600.into(),
                0,
            )
            .unwrap();
            let _socket = std::os::unix::net::UnixListener::bind(pair.from().join("socket")).unwrap();
            let mut before = tree(&pair.from());
            let written = pair.from().join("disk.0").metadata().unwrap().modified().unwrap();
            let run = pair.run(&pair.order(end, Manner { packed, ..Manner::default() }), NOWHERE, &[]);
            assert_eq!(run.result.unwrap(), Ended::Moved);
            before.retain(|path, _| !path.ends_with("pipe") && !path.ends_with("socket"));
            assert_eq!(tree(&pair.to()), before);
            assert!(!pair.from().exists());
            pair.nothing_half_made();
            let disk = pair.to().join("disk.0").metadata().unwrap();
            assert!(disk.blocks() * 512 < 4 * MIB, "{} blocks", disk.blocks());
            assert_eq!(pair.to().join("disk.1").metadata().unwrap().blocks(), 0);
            assert_eq!(disk.modified().unwrap(), written);
            assert_eq!(pair.destination.path("100/.monitor").metadata().unwrap().len(), 4);
            // Again: it is where it is to be.
            assert_eq!(pair.moved(end).result.unwrap(), Ended::Moved);
            assert_eq!(tree(&pair.to()), before);
        }
    }
}

#[derive(Debug, Clone)]
enum Made {
    File(u64, Vec<(u64, Vec<u8>)>, u32),
    Link(Vec<u8>),
    Dir(Vec<(Vec<u8>, Made)>),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let bytes = proptest::collection::vec(any::<u8>().prop_filter("", |b| *b != 0 && *b != b'/'), 1..40);
    bytes.prop_filter("", |name| name != b"." && name != b".." && !name.starts_with(b".causeway"))
}

fn made() -> impl Strategy<Value = Made> {
    let data =
        proptest::collection::vec((0_u64..40_000_000, proptest::collection::vec(any::<u8>(), 1..9000)), 0..4);
    let file =
        (0_u64..40_000_000, data, 0_u32..0o1000).prop_map(|(size, data, mode)| Made::File(size, data, mode));
    let target = proptest::collection::vec(1_u8.., 1..60).prop_map(Made::Link);
    prop_oneof![3 => file, 1 => target].prop_recursive(3, 12, 4, |inner| {
        proptest::collection::vec((name(), inner), 0..4).prop_map(Made::Dir)
    })
}

fn make(at: &Path, made: &Made) {
    match made {
        Made::File(size, data, mode) => {
            let Ok(file) = File::create_new(at) else { return };
            for (place, bytes) in data {
                file.write_all_at(bytes, place % (size + 1)).unwrap();
            }
            file.set_len(*size).unwrap();
            // One that its owner can read.
            file.set_permissions(fs::Permissions::from_mode(mode | 0o400)).unwrap();
        }
        Made::Link(target) => drop(symlink(OsStr::from_bytes(target), at)),
        Made::Dir(entries) => {
            if fs::create_dir(at).is_ok() {
                entries.iter().for_each(|(name, made)| make(&at.join(OsStr::from_bytes(name)), made));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_tree_arrives(entries in proptest::collection::vec((name(), made()), 0..6), source: bool, packed: bool) {
        let pair = Pair::new();
        entries.iter().for_each(|(name, made)| make(&pair.from().join(OsStr::from_bytes(name)), made));
        let before = tree(&pair.from());
        let end = if source { End::Source } else { End::Destination };
        let run = pair.run(&pair.order(end, Manner { packed, ..Manner::default() }), NOWHERE, &[]);
        prop_assert_eq!(run.result.unwrap(), Ended::Moved);
        prop_assert_eq!(tree(&pair.to()), before);
        prop_assert!(!pair.from().exists());
    }
}

/// At every moment the VM's bytes are all in one of the two places, under a name that is found.
fn nothing_lost(pair: &Pair, before: &Picture, what: &str) {
    let whole = |dir: &Path| {
        let mut there = if dir.is_dir() { tree(dir) } else { Picture::new() };
        there.retain(|path, _| !path.ends_with(".causeway-origin") && !common::half_made(path));
        there == *before
    };
    assert!(whole(&pair.from()) || whole(&pair.to()), "{what}: neither is whole");
}

/// Either end is killed at each of its points, whichever of them runs the step; and then the same call is made again.
#[test]
fn killed_anywhere_at_either_end_and_run_again_is_the_same() {
    let mut points = 0;
    for end in ENDS {
        let (near, far, before, after) = {
            let pair = Pair::new();
            furnish_little(&pair.from());
            let before = tree(&pair.from());
            let run = pair.moved(end);
            run.result.unwrap();
            (run.near, run.far, before, pair.picture())
        };
        assert!(near.len() > 10 && far.len() > 10, "{near:?} {far:?}");
        let again = |pair: &Pair, what: &str| {
            nothing_lost(pair, &before, what);
            let run = pair.moved(end);
            assert_eq!(run.result.unwrap(), Ended::Moved, "{what}");
            assert_eq!(tree(&pair.to()), before, "{what}");
            let names =
                |picture: Picture| picture.into_keys().map(|p| p.display().to_string()).collect::<Vec<_>>();
            assert_eq!(names(pair.picture()), names(after.clone()), "{what}");
            pair.nothing_half_made();
        };
        for (index, point) in near.iter().enumerate() {
            let pair = Pair::new();
            furnish_little(&pair.from());
            pair.killed(&pair.order(end, Manner::default()), index);
            again(&pair, &format!("{end:?} runs and is killed at {index}, {point}"));
            points += 1;
        }
        for (index, point) in far.iter().enumerate() {
            let pair = Pair::new();
            furnish_little(&pair.from());
            let run = pair.run(&pair.order(end, Manner::default()), index, &[]);
            let failure = run.result.unwrap_err();
            assert_eq!(failure.kind, Kind::Unreachable, "{failure}");
            again(&pair, &format!("{end:?} runs, the other is killed at {index}, {point}"));
            points += 1;
        }
    }
    println!("carry: {points} points");
}

/// A cut connection is opened again by the same call, and what was there does not travel twice.
#[test]
fn what_was_cut_goes_on_where_it_was() {
    for end in ENDS {
        let pair = Pair::new();
        let noise: Vec<u8> =
            (0..64 * MIB).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33).to_le_bytes()[0]).collect();
        fs::write(pair.from().join("disk.0"), &noise).unwrap();
        let before = tree(&pair.from());
        let order = pair.order(end, Manner { packed: false, ..Manner::default() });
        // The third segment of four, at either end.
        let whole = {
            let other = Pair::new();
            fs::write(other.from().join("disk.0"), &noise).unwrap();
            other.run(&other.order(end, order.manner), NOWHERE, &[]).far
        };
        let segment =
            whole.iter().enumerate().filter(|(_, point)| point.starts_with("segment")).nth(2).unwrap().0;
        let run = pair.run(&order, segment, &[Duration::ZERO]);
        assert_eq!(run.result.unwrap(), Ended::Moved, "{:?}", run.log);
        assert_eq!(tree(&pair.to()), before);
        assert!(run.log.iter().any(|line| line.contains("trying again")), "{:?}", run.log);
        assert!(run.log.iter().any(|line| line.contains("has some of it")), "{:?}", run.log);
        let gone_on = if end == End::Source { run.near.len() } else { run.far.len() };
        let all = whole.len();
        assert!(gone_on < 3 * all, "{gone_on} {all}");
        if end == End::Source {
            // The second try sent what the first had not: two segments of four, at most.
            let last = run.log.last().unwrap();
            let wire: f64 = last.rsplit(", ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
            assert!((15.0..49.0).contains(&wire), "{last}");
        }
        pair.nothing_half_made();
    }
}

/// What an earlier try left is believed only as far as its bytes are the source's.
#[test]
fn what_is_there_must_be_the_same() {
    let pair = Pair::new();
    fs::write(pair.from().join("disk.0"), vec![3; 50 << 20]).unwrap();
    let before = tree(&pair.from());
    let order = pair.order(End::Source, Manner::default());
    let points = {
        let other = Pair::new();
        fs::write(other.from().join("disk.0"), vec![3; 50 << 20]).unwrap();
        other.moved(End::Source).far
    };
    let segment = points.iter().rposition(|point| point.starts_with("segment")).unwrap();
    pair.run(&order, segment, &[]).result.unwrap_err();
    let half = fs::read_dir(pair.destination.path("100")).unwrap().map(|entry| entry.unwrap().path());
    let half = half.into_iter().find(|path| common::half_made(path)).unwrap();
    let file = File::options().write(true).open(half.join("disk.0")).unwrap();
    file.write_all_at(b"rotten", 20 << 20).unwrap();
    assert_eq!(pair.moved(End::Source).result.unwrap(), Ended::Moved);
    assert_eq!(tree(&pair.to()), before);
    // Nor is a half-made copy of another tree.
    let pair = Pair::new();
    fs::write(pair.from().join("disk.0"), vec![3; 50 << 20]).unwrap();
    pair.run(&order_of(&pair), segment, &[]).result.unwrap_err();
    fs::write(pair.from().join("disk.0"), "something else").unwrap();
    assert_eq!(pair.moved(End::Source).result.unwrap(), Ended::Moved);
    assert_eq!(fs::read(pair.to().join("disk.0")).unwrap(), b"something else");
    pair.nothing_half_made();
}

fn order_of(pair: &Pair) -> causeway_tm::carry::Carry {
    pair.order(End::Source, Manner::default())
}

#[test]
fn nothing_moves_where_both_see_one_directory() {
    // Two hosts with a directory that both see; and one host, with its locks, by two names.
    for (end, one_host) in ENDS.into_iter().flat_map(|end| [(end, false), (end, true)]) {
        let pair = Pair::new();
        if one_host {
            fs::create_dir_all(&pair.source.locks).unwrap();
            symlink(&pair.source.locks, &pair.destination.locks).unwrap();
        }
        furnish(&pair.from());
        let before = tree(&pair.from());
        fs::remove_dir_all(pair.destination.path("100")).unwrap();
        symlink(pair.source.path("100"), pair.destination.path("100")).unwrap();
        let run = pair.moved(end);
        assert_eq!(run.result.unwrap(), Ended::Same);
        assert!(run.log.iter().any(|line| line.contains("one directory")), "{:?}", run.log);
        assert_eq!(tree(&pair.from()), before);
    }
}

/// W19: stock removes the destination first.
#[test]
fn what_is_there_and_not_our_copy_is_refused() {
    for end in ENDS {
        for origin in [None, Some("h9:/elsewhere/100/7\n0123"), Some("h1")] {
            let pair = Pair::new();
            furnish(&pair.from());
            fs::create_dir(pair.to()).unwrap();
            fs::write(pair.to().join("disk.0"), "somebody's data").unwrap();
            if let Some(origin) = origin {
                fs::write(pair.to().join(".causeway-origin"), origin).unwrap();
            }
            let before = pair.picture();
            let failure = pair.moved(end).result.unwrap_err();
            assert!(failure.text.contains("both h1:") && failure.text.contains("are there"), "{failure}");
            assert_eq!(pair.picture(), before);
        }
    }
}

/// A copy that was complete, and a source that lived on: the copy is not the VM any more.
#[test]
fn a_source_that_was_changed_after_its_copy_is_not_removed() {
    for end in ENDS {
        let pair = Pair::new();
        fs::write(pair.from().join("disk.0"), "old").unwrap();
        let order = pair.order(end, Manner::default());
        let (near, far) = {
            let other = Pair::new();
            fs::write(other.from().join("disk.0"), "old").unwrap();
            let run = other.moved(end);
            (run.near, run.far)
        };
        match end {
            End::Source => {
                let placed = far.iter().position(|point| point == "copy in place").unwrap();
                pair.run(&order, placed, &[]).result.unwrap_err();
            }
            End::Destination => {
                pair.killed(&order, near.iter().position(|point| *point == "copy in place").unwrap());
            }
        }
        // The other end may still be about to end.
        std::thread::sleep(Duration::from_millis(300));
        if !pair.from().exists() {
            continue;
        }
        fs::write(pair.from().join("disk.0"), "the guest wrote on").unwrap();
        let failure = pair.moved(end).result.unwrap_err();
        assert!(failure.text.contains("was changed after"), "{failure}");
        assert_eq!(fs::read(pair.from().join("disk.0")).unwrap(), b"the guest wrote on");
    }
}

#[test]
fn what_is_nowhere_is_an_error_and_so_is_a_datastore_that_is_not_there() {
    for end in ENDS {
        let pair = Pair::new();
        fs::write(pair.source.path("100/.causeway"), "").unwrap();
        fs::remove_dir(pair.from()).unwrap();
        let failure = pair.moved(end).result.unwrap_err();
        assert!(failure.text.contains("there is no h1:"), "{failure}");
        // Where the source's datastore may not be mounted, that it has no directory says nothing.
        fs::remove_file(pair.source.path("100/.causeway")).unwrap();
        fs::create_dir(pair.to()).unwrap();
        let failure = pair.moved(end).result.unwrap_err();
        assert!(failure.text.contains("may not be mounted"), "{failure}");
        fs::remove_dir(pair.source.path("100")).unwrap();
        let failure = pair.moved(end).result.unwrap_err();
        assert!(failure.text.contains("datastore 100 is not on this host"), "{failure}");
    }
}

/// The end that runs out of room says so, whichever it is; the source is whole, and the next try may have room.
#[test]
fn a_full_destination_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    common::inside_tmpfs("full_destination", dir.path(), "12m");
}

#[test]
#[ignore = "run by the test above, in a namespace of its own"]
fn full_destination() {
    let small = std::env::var("CAUSEWAY_TEST_DIR").unwrap();
    for end in ENDS {
        let pair = Pair::new();
        fs::write(pair.from().join("disk.0"), vec![1; 8 << 20]).unwrap();
        let before = tree(&pair.from());
        fs::remove_dir(pair.destination.path("100")).unwrap();
        symlink(&small, pair.destination.path("100")).unwrap();
        fs::write(Path::new(&small).join("other"), vec![1; 8 << 20]).unwrap();
        let failure = pair.moved(end).result.unwrap_err();
        assert!(failure.text.contains("No space left"), "{failure}");
        assert_eq!(tree(&pair.from()), before);
        assert!(!pair.to().exists());
        fs::remove_file(Path::new(&small).join("other")).unwrap();
        assert_eq!(pair.moved(end).result.unwrap(), Ended::Moved);
        assert_eq!(tree(&pair.to()), before);
        fs::remove_dir_all(pair.to()).unwrap();
    }
}

#[test]
fn a_device_is_refused_by_name_and_a_limit_is_kept() {
    let pair = Pair::new();
    fs::write(pair.from().join("disk.0"), vec![1; 4 << 20]).unwrap();
    let slow = Manner { bytes_per_second: Some(4 << 20), idle: true, packed: false };
    let begun = std::time::Instant::now();
    let run = pair.run(&pair.order(End::Source, slow), NOWHERE, &[]);
    assert_eq!(run.result.unwrap(), Ended::Moved);
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
    if rustix::process::getuid().is_root() {
        let pair = Pair::new();
        let device = rustix::fs::FileType::CharacterDevice;
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(rustix::fs::CWD, pair.from().join("disk.9"), device, 0o600.into(), null).unwrap();
        let failure = pair.moved(End::Destination).result.unwrap_err();
        assert!(failure.text.contains("disk.9 is not a regular file"), "{failure}");
    }
}

/// A session that speaks, but not our language.
#[test]
fn a_greeting_is_named_and_a_silent_end_is_given_up() {
    use causeway_tm::carry::{Courier, carry};
    let pair = Pair::new();
    let worker = causeway_tm::host::Worker::new(
        &pair.source.locks,
        std::time::Instant::now() + Duration::from_secs(1),
    );
    let log = std::cell::RefCell::new(Vec::new());
    let say = |script: &'static str| {
        let courier = Courier {
            worker: &worker,
            reach: &move |_, _| {
                let mut command = std::process::Command::new("sh");
                command.args(["-c", script]);
                command
            },
            log: &|_, text| log.borrow_mut().push(text.to_owned()),
            pauses: &[Duration::from_secs(30)],
        };
        causeway_core::answer::Failure::from(carry(&order_of(&pair), &courier).unwrap_err())
    };
    assert!(say("echo Welcome; cat").text.contains("does not speak our protocol"));
    let refused = say("echo 'no route to host' >&2; exit 255");
    assert_eq!(
        (refused.kind, refused.text.as_str()),
        (Kind::Unreachable, "cannot reach h2: no route to host")
    );
    assert_eq!(say("exec sleep 600").kind, Kind::Unreachable);
    // Reached, and nobody there: to try again does no better.
    let absent = say("exec /nonexistent/causeway-host carry sink");
    let said = "h2 has no /nonexistent/causeway-host: run `install.sh host` there";
    assert_eq!((absent.kind, absent.text.as_str()), (Kind::HostState, said));
    assert_eq!(*log.borrow(), [""; 0], "nothing was tried again");
}
