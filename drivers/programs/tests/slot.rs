//! A slot's command line, as our wrapper and a person give it to the built executable.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::process::{Command, Output};

fn slot(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_causeway-host")).arg("slot").args(words).output().unwrap()
}

#[test]
fn what_stands_behind_the_slot_is_its_own() {
    let output = slot(&["--dry-run", "vmm/kvm/deploy", "--dry-run", "--help", "--", "-x"]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "vmm/kvm/deploy [\"--dry-run\", \"--help\", \"--\", \"-x\"] < stdin\n");
    assert!(output.status.success());
}

#[test]
fn no_slot_and_none_of_ours_are_refused() {
    for words in [&[][..], &["--dry-run"], &["deploy"], &["vmm/../deploy"]] {
        assert!(!slot(words).status.success(), "{words:?}");
    }
}
