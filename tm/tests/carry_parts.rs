//! The move of a directory in parts, around a guest that moves while it runs: a copy first, and one of the two goes when it
//! is known where the guest is.

#![cfg(test)]

mod common;
#[path = "carry/pair.rs"]
mod pair;

use std::fs;
use std::path::Path;

use causeway_core::answer::Kind;
use causeway_tm::carry::{Carry, End, Ended, Manner, Part};
use pair::{NOWHERE, Pair, Picture, Run};

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

const ENDS: [End; 2] = [End::Source, End::Destination];
const ORIGIN: &str = ".causeway-origin";

fn order(pair: &Pair, end: End, part: Part) -> Carry {
    Carry { part, local: false, ..pair.order(end, Manner::default()) }
}

fn run(pair: &Pair, end: End, part: Part) -> Run {
    pair.run(&order(pair, end, part), NOWHERE, &[])
}

fn done(pair: &Pair, end: End, part: Part) -> Ended {
    run(pair, end, part).result.unwrap()
}

fn furnish(dir: &Path) {
    fs::write(dir.join("vm.xml"), "<VM/>").unwrap();
    fs::write(dir.join("disk.1"), vec![7; 3000]).unwrap();
    fs::create_dir(dir.join("tpm")).unwrap();
    fs::write(dir.join("tpm/state"), "secret").unwrap();
}

/// What a guest finds there.
fn tree(dir: &Path) -> Picture {
    let mut seen = if dir.is_dir() { common::picture(dir) } else { Picture::new() };
    seen.retain(|path, _| !path.ends_with(ORIGIN) && !common::half_made(path));
    seen
}

#[test]
fn a_guest_that_moves_has_its_directory_at_both_ends() {
    for end in ENDS {
        let pair = Pair::new();
        furnish(&pair.from());
        let before = tree(&pair.from());
        assert_eq!(done(&pair, end, Part::Copy), Ended::Copied);
        assert_eq!((tree(&pair.from()), tree(&pair.to())), (before.clone(), before.clone()));
        // Another try has what was written since.
        fs::write(pair.from().join("vm.xml"), "<VM>2</VM>").unwrap();
        let now = tree(&pair.from());
        assert_eq!(done(&pair, end, Part::Copy), Ended::Copied);
        assert_eq!(tree(&pair.to()), now);
        // The guest writes at both ends; where it ended counts.
        fs::write(pair.from().join("tpm/state"), "late").unwrap();
        fs::write(pair.to().join("tpm/state"), "at home").unwrap();
        for _ in 0..2 {
            assert_eq!(done(&pair, end, Part::Leave), Ended::Moved);
            assert!(!pair.from().exists() && !pair.to().join(ORIGIN).exists());
            assert_eq!(fs::read_to_string(pair.to().join("tpm/state")).unwrap(), "at home");
        }
        pair.nothing_half_made();
    }
}

#[test]
fn a_guest_that_stayed_leaves_nothing_behind() {
    for end in ENDS {
        let pair = Pair::new();
        furnish(&pair.from());
        let before = tree(&pair.from());
        done(&pair, end, Part::Copy);
        for _ in 0..2 {
            assert_eq!(done(&pair, end, Part::Drop), Ended::Dropped);
            assert_eq!(tree(&pair.from()), before);
            assert!(!pair.to().exists());
        }
        pair.nothing_half_made();
    }
}

/// What is at the destination and was not copied from this directory is somebody's.
#[test]
fn what_is_not_the_copy_is_left_alone() {
    for end in ENDS {
        let pair = Pair::new();
        furnish(&pair.from());
        let before = tree(&pair.from());
        fs::create_dir_all(pair.to()).unwrap();
        fs::write(pair.to().join("disk.1"), "somebody's").unwrap();
        let there = tree(&pair.to());
        for part in [Part::Copy, Part::Leave] {
            let failure = run(&pair, end, part).result.unwrap_err();
            assert_eq!(failure.kind, Kind::HostState, "{failure}");
            assert!(failure.text.contains("both "), "{failure}");
        }
        assert_eq!(done(&pair, end, Part::Drop), Ended::Dropped);
        assert_eq!((tree(&pair.from()), tree(&pair.to())), (before.clone(), there));
        // A guest whose directory did not come along keeps the old one.
        fs::remove_dir_all(pair.to()).unwrap();
        let failure = run(&pair, end, Part::Leave).result.unwrap_err();
        assert!(failure.text.contains("where the guest is"), "{failure}");
        assert_eq!(tree(&pair.from()), before);
        // Without the source there is nothing to copy, and a copy is all that there is.
        done(&pair, end, Part::Copy);
        fs::remove_dir_all(pair.from()).unwrap();
        for part in [Part::Copy, Part::Drop] {
            assert!(run(&pair, end, part).result.is_err());
            assert_eq!(tree(&pair.to()), before);
        }
    }
}

/// Either end is killed at each of its points in each part; and then the same call is made again.
#[test]
fn killed_anywhere_in_any_part_and_run_again_is_the_same() {
    let prepare = |end: End, part: Part| {
        let pair = Pair::new();
        furnish(&pair.from());
        if part != Part::Copy {
            done(&pair, end, Part::Copy);
        }
        pair
    };
    let mut points = 0;
    for end in ENDS {
        for part in [Part::Copy, Part::Leave, Part::Drop] {
            let pair = prepare(end, part);
            let before = tree(&pair.from());
            let whole = run(&pair, end, part);
            let ended = whole.result.unwrap();
            let after = (tree(&pair.from()), tree(&pair.to()));
            let again = |pair: &Pair, what: &str| {
                let (from, to) = (tree(&pair.from()), tree(&pair.to()));
                assert!(from == before || to == before, "{what}: neither is whole");
                // While it is not known where the guest is, its directory stays where it was.
                assert!(part == Part::Leave || from == before, "{what}: the source is not whole");
                assert_eq!(done(pair, end, part), ended, "{what}");
                assert_eq!((tree(&pair.from()), tree(&pair.to())), after, "{what}");
                assert_eq!(pair.to().join(ORIGIN).exists(), part == Part::Copy, "{what}");
                let _ = fs::remove_file(pair.to().join(ORIGIN));
                pair.nothing_half_made();
            };
            for (index, point) in whole.near.iter().enumerate() {
                let pair = prepare(end, part);
                pair.killed(&order(&pair, end, part), index);
                again(&pair, &format!("{part:?}: {end:?} runs and is killed at {index}, {point}"));
                points += 1;
            }
            for (index, point) in whole.far.iter().enumerate() {
                let pair = prepare(end, part);
                let failed = pair.run(&order(&pair, end, part), index, &[]).result;
                assert!(failed.is_err(), "{part:?} {point}");
                again(&pair, &format!("{part:?}: {end:?} runs, the other is killed at {index}, {point}"));
                points += 1;
            }
        }
    }
    println!("carry_parts: {points} points");
}
