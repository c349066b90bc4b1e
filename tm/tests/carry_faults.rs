//! Directories that go to another host, disturbed: at every system call of both ends, and by a connection that is cut at
//! any byte. What was to be moved is whole at one of the two ends at least, and the same call made again moves it.

#![cfg(test)]
#![cfg(target_arch = "x86_64")]

mod common;
#[path = "carry/pair.rs"]
mod pair;

use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use causeway_core::answer::{Failure, Kind};
use causeway_tm::carry::{Carry, End, Ended, Manner};
use common::{MIB, fault, picture};
use pair::{Pair, Picture};

const ENDS: [End; 2] = [End::Source, End::Destination];

#[test]
#[ignore = "the other end, in a process of its own"]
fn far_end() {
    pair::serve_far_end();
}

#[test]
#[ignore = "an end that is disturbed, in a process of its own"]
fn near_end() {
    pair::run_near_end();
}

#[test]
#[ignore = "the connection between them, in a process of its own"]
fn wire() {
    pair::be_a_wire();
}

/// A disk with data, a hole and more data; a layer, and the link to it.
fn furnish(dir: &Path) {
    let disk = std::fs::File::create_new(dir.join("disk.0")).unwrap();
    disk.set_len(17 * MIB).unwrap();
    let noise: Vec<u8> =
        (0..60_000_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33).to_le_bytes()[0]).collect();
    disk.write_all_at(&noise, 5).unwrap();
    disk.write_all_at(b"the end", 16 * MIB + 100).unwrap();
    std::fs::create_dir(dir.join("disk.1.snap")).unwrap();
    std::fs::write(dir.join("disk.1.snap/0"), vec![7; 9000]).unwrap();
    symlink("disk.1.snap/0", dir.join("disk.1")).unwrap();
}

fn stage() -> (Pair, Picture) {
    let pair = Pair::new();
    furnish(&pair.from());
    let tree = picture(&pair.from());
    (pair, tree)
}

/// At every moment the VM's bytes are all in one of the two places, under a name that is found.
fn nothing_lost(pair: &Pair, tree: &Picture, what: &str) {
    let whole = |dir: &Path| {
        let mut there = if dir.is_dir() { picture(dir) } else { Picture::new() };
        there.retain(|path, _| !path.ends_with(".causeway-origin") && !common::half_made(path));
        there == *tree
    };
    assert!(whole(&pair.from()) || whole(&pair.to()), "{what}: neither is whole");
}

struct Disturbed {
    pair: Pair,
    tree: Picture,
    end: End,
}

impl Disturbed {
    fn order(&self) -> Carry {
        self.pair.order(self.end, Manner::default())
    }
}

impl fault::Scene for Disturbed {
    type Seen = Picture;

    fn name(&self) -> String {
        format!("mv.ssh run at the {:?}", self.end)
    }

    fn dirs(&self) -> Vec<PathBuf> {
        [self.pair.source.dirs(), self.pair.destination.dirs()].concat()
    }

    fn child(&self) -> (Command, PathBuf) {
        self.pair.watched(&self.order())
    }

    fn see(&self) -> Picture {
        self.pair.picture()
    }

    fn judge(&self, at: &str, _: &Picture, _: &Picture, _: &Picture) {
        nothing_lost(&self.pair, &self.tree, at);
    }

    fn again(&self) -> Result<(), Failure> {
        assert_eq!(self.pair.moved(self.end).result?, Ended::Moved);
        self.pair.nothing_half_made();
        assert_eq!(picture(&self.pair.to()), self.tree);
        Ok(())
    }
}

#[test]
fn disturbed_at_any_system_call_and_run_again_is_the_same() {
    let tally = fault::campaign(&ENDS, 20, |end, sharing| {
        let (pair, tree) = stage();
        fault::trial(&mut Disturbed { pair, tree, end: *end }, sharing)
    });
    tally.close("carry_faults");
}

#[test]
fn cut_at_any_byte_and_run_again_is_the_same() {
    let tried = AtomicUsize::new(0);
    let all = usize::MAX;
    for end in ENDS {
        let order = |pair: &Pair| pair.order(end, Manner { packed: false, ..Manner::default() });
        let (pair, _) = stage();
        let (run, to, from) = pair.cut(&order(&pair), all, all);
        assert_eq!(run.result.unwrap(), Ended::Moved);
        let after = pair.picture();
        // The first and the last bytes one by one, what is between in even parts.
        let parts = if fault::long() { 60 } else { 3 };
        let edge = if fault::long() { 40 } else { 1 };
        let places = |length: usize| {
            let between = (1..parts).map(move |part| length * part / parts);
            (0..edge).chain(between).chain(length - edge..length)
        };
        let cuts: Vec<(usize, usize)> =
            places(to).map(|at| (at, all)).chain(places(from).map(|at| (all, at))).collect();
        for (to, from) in cuts {
            let what = format!("{end:?} runs, cut after {to} bytes there, {from} back");
            let (pair, tree) = stage();
            let (run, ..) = pair.cut(&order(&pair), to, from);
            // The last bytes may be of no consequence.
            if let Err(failure) = run.result {
                assert_eq!(failure.kind, Kind::Unreachable, "{what}: {failure}");
                assert!(failure.text.contains("h1") || failure.text.contains("h2"), "{what}: {failure}");
            } else {
                assert_eq!(pair.picture(), after, "{what}");
            }
            nothing_lost(&pair, &tree, &what);
            assert_eq!(pair.moved(end).result.unwrap(), Ended::Moved, "{what}");
            assert_eq!(picture(&pair.to()), tree, "{what}");
            pair.nothing_half_made();
            tried.fetch_add(1, Ordering::Relaxed);
        }
    }
    let text =
        format!("carry_faults: mv.ssh from either end, cut at {} bytes, 0 bytes lost\n", tried.into_inner());
    std::io::stderr().write_all(text.as_bytes()).unwrap();
}
