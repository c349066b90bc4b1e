use std::path::Path;
use std::process::Stdio;

use super::*;

/// A shell and a tool that it starts: what they do below a directory.
fn script(dir: &Path, judge: &mut dyn FnMut(&SystemCall) -> Fate) -> Ended {
    let text =
        "printf 12345 >one && mkdir two && cp one two/three && mv two/three ../three 2>/dev/null || exit 7";
    let mut command = command("/bin/sh");
    command.args(["-c", text]).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    run(&mut command, judge).unwrap()
}

#[test]
fn what_a_program_and_its_children_do_is_seen_and_can_be_refused() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().canonicalize().unwrap();
    let dir = root.join("dir");
    std::fs::create_dir(&dir).unwrap();
    let mut seen = Vec::new();
    let ended = script(&dir, &mut |call| {
        if call.below(&root) && call.changes() {
            seen.push((call.does, call.path.strip_prefix(&root).unwrap().to_owned()));
        }
        Fate::Pass
    });
    assert_eq!(ended, Ended::Exited(0));
    assert_eq!(std::fs::read_to_string(root.join("three")).unwrap(), "12345");
    for name in ["dir/one", "dir/two", "dir/two/three", "three"] {
        assert!(seen.contains(&(Does::Fills, name.into())), "{name}: {seen:?}");
    }
    // Every one of them, refused or the last.
    for number in 0..seen.len() {
        for fate in [Fate::Fail(libc::ENOSPC), Fate::Kill] {
            let _ = std::fs::remove_file(root.join("three"));
            std::fs::remove_dir_all(&dir).unwrap();
            std::fs::create_dir(&dir).unwrap();
            let mut left = number;
            let ended = script(&dir, &mut |call| {
                if !(call.below(&root) && call.changes()) {
                    return Fate::Pass;
                }
                left = left.wrapping_sub(1);
                if left == usize::MAX { fate } else { Fate::Pass }
            });
            match fate {
                Fate::Kill => assert_eq!(ended, Ended::Killed(Signal::SIGKILL)),
                // Some tools have another way for a call that is refused.
                _ => assert!(matches!(ended, Ended::Exited(_)), "{ended:?}"),
            }
            if fate == Fate::Kill || ended == Ended::Exited(7) {
                assert!(!root.join("three").exists(), "{number} {fate:?}");
            }
        }
    }
}
