use std::os::unix::fs::{PermissionsExt, symlink};

use causeway_core::document::encode;

use super::*;

fn kept(names: &[&str]) -> Vec<(String, String)> {
    names
        .iter()
        .map(|&name| (name.to_owned(), format!("<domainsnapshot><name>{name}</name></domainsnapshot>")))
        .collect()
}

#[test]
fn snapshots_come_back_in_the_order_in_which_they_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let none = FileAnswer::Snapshots { saved: Vec::new(), current: None };
    assert_eq!(snapshots(&dir.path().join("not-there")).unwrap(), none);
    assert_eq!(snapshots(dir.path()).unwrap(), none);

    let all = kept(&["snap-10", "snap-2"]);
    keep_snapshots(dir.path(), &all, Some("snap-2")).unwrap();
    fs::write(dir.path().join("snap-x.xml"), "not ours").unwrap();
    fs::write(dir.path().join("vm.xml"), "<VM/>").unwrap();
    let saved = vec![all[1].1.clone(), all[0].1.clone()];
    let expected = FileAnswer::Snapshots { saved, current: Some("snap-2".to_owned()) };
    assert_eq!(snapshots(dir.path()).unwrap(), expected);
    let mode = fs::metadata(dir.path().join("snap-2.xml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "they hold the password of the guest's screen");

    // Half of them were forgotten already, the current one among these.
    keep_snapshots(dir.path(), &all[..1], None).unwrap();
    assert_eq!(snapshots(dir.path()).unwrap(), expected);
}

#[test]
fn no_name_and_no_link_leads_out_of_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, "precious").unwrap();
    let vm = dir.path().join("vm");
    fs::create_dir(&vm).unwrap();
    for name in ["../outside", "snap-", "snap-1/../../outside", "disk"] {
        assert!(keep_snapshots(&vm, &kept(&[name]), None).is_err(), "{name}");
    }
    symlink(&outside, vm.join("snap-1.xml")).unwrap();
    assert!(snapshots(&vm).unwrap_err().text.contains("snap-1.xml"));
    keep_snapshots(&vm, &kept(&["snap-1"]), None).unwrap();
    assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
    assert!(snapshots(&vm).is_ok());
}

/// A `.tar.gz` of `directory`.
fn archive(directory: &Path) -> Vec<u8> {
    let tar = Command::new("tar").args(["-czf", "-", "-C"]).arg(directory).arg(".").output().unwrap();
    assert!(tar.status.success());
    tar.stdout
}

/// Contract VMM 3.3, deploy step 6; 7 G8.
#[test]
fn a_tpm_state_is_the_one_file_and_nothing_else_of_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let (source, vm) = (dir.path().join("source"), dir.path().join("vm"));
    fs::create_dir_all(source.join("tpm")).unwrap();
    fs::create_dir(&vm).unwrap();
    let place: DiskPath = vm.to_str().unwrap().parse().unwrap();
    let document = |state: &str| {
        let text = format!("<VM><USER_TEMPLATE><TPM_STATE>{state}</TPM_STATE></USER_TEMPLATE></VM>");
        fs::write(vm.join("vm.xml"), text).unwrap();
    };
    document("");
    assert!(!tpm_state(&place).unwrap());

    symlink("/etc", source.join("tpm/elsewhere")).unwrap();
    fs::write(source.join("tpm/other"), "other").unwrap();
    for (state, part) in [("no base64!", "TPM_STATE"), (&encode(b"no archive"), "no state in it")] {
        document(state);
        assert!(tpm_state(&place).unwrap_err().text.contains(part), "{state}");
    }
    document(&encode(&archive(&source)));
    assert!(tpm_state(&place).unwrap_err().text.contains("no state in it"));
    fs::write(source.join("tpm").join(TPM_FILE), vec![7; 5 << 20]).unwrap();
    document(&encode(&archive(&source)));
    assert!(tpm_state(&place).unwrap_err().text.contains("more than"));
    assert!(!vm.join("tpm").exists(), "nothing is left of what was refused");

    fs::write(source.join("tpm").join(TPM_FILE), b"state").unwrap();
    document(&encode(&archive(&source)));
    assert!(tpm_state(&place).unwrap());
    let files: Vec<_> = fs::read_dir(vm.join("tpm")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files, [TPM_FILE]);
    assert_eq!(fs::read(vm.join("tpm").join(TPM_FILE)).unwrap(), b"state");
    // What is there is kept: the guest's own is newer than its template's.
    document("");
    assert!(tpm_state(&place).unwrap());
}

/// The archive of a template's owner; `tar` reads it, and nothing of it comes to lie anywhere.
#[test]
fn fuzz_tpm_archives() {
    crate::seeded::fuzz("tpm", |bytes| match unpacked(bytes) {
        Ok(state) => assert!((1..=TPM_LIMIT).contains(&u64::try_from(state.len()).unwrap())),
        Err(failure) => assert_eq!(failure.kind, Kind::Input),
    });
}
