//! The table of the stock drivers' weaknesses: every number once, every named test where it is said to be, and nothing said
//! not to be built that is.

#![cfg(test)]

use std::path::{Path, PathBuf};

use causeway_core::plan::Slot;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = lines.iter().position(|line| line.contains(&format!("fn {name}(")));
    // Between the attribute and the function there may be others.
    at.is_some_and(|at| {
        lines[at.saturating_sub(5)..at].iter().any(|line| line.ends_with("test]") || line.contains("::test("))
    })
}

/// Whether every test that a cell names is there: files by their path or, where that is enough, by their name.
fn named(cell: &str, find: &dyn Fn(&str) -> Vec<PathBuf>) -> Result<usize, String> {
    let (mut files, mut tests) = (Vec::new(), 0);
    for word in quoted(cell) {
        if word.ends_with(".rs") {
            files = find(word);
            if files.is_empty() {
                return Err(format!("there is no {word}"));
            }
        } else if !files.is_empty()
            && !word.contains(|sign: char| sign != '_' && !sign.is_ascii_alphanumeric())
        {
            let found = files.iter().any(|file| is_test(&std::fs::read_to_string(file).unwrap(), word));
            if !found {
                return Err(format!("no test {word} in {files:?}"));
            }
            tests += 1;
        }
    }
    Ok(tests)
}

/// The rows of the table whose numbers begin so: there must be as many.
fn rows<'t>(text: &'t str, prefix: &str, count: u32) -> Vec<Vec<&'t str>> {
    let line = format!("| {prefix}");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|row| {
            row.strip_prefix(&line).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let numbers: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(numbers, (1..=count).map(|number| format!("{prefix}{number}")).collect::<Vec<_>>());
    rows
}

fn exact(path: &str) -> Vec<PathBuf> {
    Some(root().join(path)).filter(|path| path.is_file()).into_iter().collect()
}

#[test]
fn every_weakness_of_networks_is_answered() {
    let text = std::fs::read_to_string(root().join("WEAKNESSES.md")).unwrap();
    for row in rows(&text, "VNM W", 36) {
        let [number, _, shown] = row[..] else { panic!("{row:?}") };
        let tests = named(shown, &exact).unwrap_or_else(|wrong| panic!("{number}: {wrong}"));
        assert!(tests > 0, "{number} names no test");
    }
}

#[test]
fn every_weakness_of_storage_is_answered() {
    let text = std::fs::read_to_string(root().join("WEAKNESSES.md")).unwrap();
    for row in rows(&text, "W", 54) {
        let [number, ours, shown] = row[..] else { panic!("{row:?}") };
        let tests = named(shown, &exact).unwrap_or_else(|wrong| panic!("{number}: {wrong}"));
        let (_, missing) = ours.split_once("ot built: ").unwrap_or((ours, ""));
        let missing = if missing.is_empty() && ours.contains("not built") { ours } else { missing };
        let slots: Vec<&str> = quoted(missing).collect();
        assert!(tests > 0 || !slots.is_empty(), "{number} has neither a test nor a slot that is not built");
        for slot in slots {
            let slot: Slot = slot.parse().unwrap();
            let built = causeway_tm::built(&slot) || causeway_tm::datastore::built(&slot);
            assert!(!built, "{number}: {slot} is built by now: name the test that shows it");
        }
    }
}

/// The same for the tests that DIFFERENCES.md names by their files' names.
#[test]
fn every_difference_names_tests_that_are_there() {
    let mut files = Vec::new();
    let mut left: Vec<PathBuf> =
        ["drivers", "hooks", "tests", "tm", "vmm", "vnm"].map(|name| root().join(name)).to_vec();
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let by_name = |name: &str| files.iter().filter(|path| path.ends_with(name)).cloned().collect::<Vec<_>>();
    let text = std::fs::read_to_string(root().join("DIFFERENCES.md")).unwrap();
    let mut tests = 0;
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Section")) {
        let shown = line.trim_end_matches('|').rsplit('|').next().unwrap();
        tests += named(shown, &by_name).unwrap_or_else(|wrong| panic!("{wrong}: {line}"));
    }
    assert!(tests > 150, "{tests}");
}
