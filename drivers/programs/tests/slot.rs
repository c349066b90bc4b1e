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

/// The program for network slots does those, and names the one that does the others.
#[test]
fn network_slots_have_a_program_that_does_no_other() {
    let light = |slot: &str| {
        let words = ["slot", "--dry-run", slot, "-", "--help"];
        Command::new(env!("CARGO_BIN_EXE_causeway-net")).args(words).output().unwrap()
    };
    let output = light("vnm/vxlan/pre");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "vnm/vxlan/pre [\"-\", \"--help\"] < stdin\n");
    assert!(output.status.success());
    let output = light("vmm/kvm/deploy");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("causeway-host does it"), "{said}");
}

#[test]
fn no_slot_and_none_of_ours_are_refused() {
    for words in [&[][..], &["--dry-run"], &["deploy"], &["vmm/../deploy"]] {
        assert!(!slot(words).status.success(), "{words:?}");
    }
}

/// W52: what a host's probe asks for has every snapshot, also of two digits, and links lead nowhere else.
#[test]
fn a_probe_is_told_of_disks_and_snapshots() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let snapshots = at("100/41/disk.12.snap");
    std::fs::create_dir_all(&snapshots).unwrap();
    for name in ["0", "10"] {
        std::fs::write(snapshots.join(name), vec![1; 1 << 20]).unwrap();
    }
    std::os::unix::fs::symlink("disk.12.snap/10", at("100/41/disk.12")).unwrap();
    std::fs::write(at("100/41/disk.x"), "").unwrap();
    std::fs::create_dir_all(at("100/42")).unwrap();
    std::fs::create_dir_all(at("100/backup")).unwrap();
    let state = directory.path().display().to_string();
    let ask = |datastore: &str| {
        let datastore = at(datastore).display().to_string();
        slot(&["--state", &state, "--remotes", &state, "tm/ssh/monitor_ds", &datastore])
    };
    let output = ask("100");
    let said = String::from_utf8(output.stdout).unwrap();
    let inner = said.strip_prefix("VM=[ID=41, MONITOR=\"").unwrap().strip_suffix("\"]\n").unwrap();
    let inner = String::from_utf8(causeway_core::document::decode(inner.as_bytes()).unwrap()).unwrap();
    assert_eq!(
        inner,
        "DISK_SIZE=[ID=12,SIZE=1]\nSNAPSHOT_SIZE=[ID=0,DISK_ID=12,SIZE=1]\nSNAPSHOT_SIZE=[ID=10,DISK_ID=12,SIZE=1]\n"
    );
    assert!(output.status.success());
    // A probe that fails is one that tells nothing.
    for nowhere in ["101", "backup"] {
        let output = ask(nowhere);
        assert!(!output.status.success() && output.stdout.is_empty(), "{nowhere}: {output:?}");
    }
}
