//! What is refused of an upload, and what is made of what other makers write (contract TM 3.2, W32).

#![cfg(test)]

mod common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use causeway_core::answer::Kind;
use common::images::{Images, raw_of};
use common::{Datastores, picture, tool};
use serde_json::{Value, json};

fn file(on: &Datastores, path: &Path, format: Value) -> Value {
    on.import(json!({"file": {"path": path, "dirs": {"safe": [], "restricted": []}, "unpack": null, "checksum": null}}), format)
}

/// Each was once taken for a raw disk, of its container.
#[test]
fn what_other_makers_write_is_converted_or_refused_by_its_name() {
    let on = Datastores::new();
    let bytes = on.raw_image();
    let (raw, upload) = (on.text("1/abc"), on.beside("up"));
    for format in ["parallels", "vdi", "vhdx", "vpc"] {
        let to = upload.to_str().unwrap();
        // A VHD has whole cylinders only, unless it is told otherwise.
        let more: &[&str] = if format == "vpc" { &["-o", "force_size=on"] } else { &[] };
        tool("qemu-img", &[&["convert", "-f", "raw", "-O", format], more, &[&raw, to]].concat());
        for made in ["raw", "qcow2"] {
            assert_eq!(on.perform(&file(&on, &upload, json!(made)), &[]).unwrap(), made, "{format}");
            assert!(raw_of(&on.path("1/new"), made) == bytes, "{format} to {made}");
        }
        assert_eq!(on.perform(&file(&on, &upload, json!(null)), &[]).unwrap(), format);
    }
    std::fs::remove_file(on.path("1/new")).unwrap();
    let mut dmg = vec![7; 8192];
    dmg.extend(b"koly\0\0\0\x04\0\0\x02\0");
    dmg.resize(8192 + 512, 0);
    for (bytes, name) in [
        (dmg.as_slice(), "DMG"),
        (b"Bochs Virtual HD Image\0\0\0\0\0\0\0\0\0\0Redolog", "Bochs"),
        (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop0 $1\n", "cloop"),
    ] {
        std::fs::write(&upload, bytes).unwrap();
        for format in [json!(null), json!("raw"), json!("qcow2")] {
            let failure = on.failure(&file(&on, &upload, format));
            let says = format!("it is a {name} image, which is not read here: convert it to qcow2 or raw");
            assert!(failure.kind == Kind::Input && failure.text.contains(&says), "{}", failure.text);
        }
        assert!(!on.path("1/new").exists());
    }
}

/// An upload is anybody's bytes: what its header names would be opened with our rights.
#[test]
fn an_upload_that_names_another_file_is_refused() {
    let on = Datastores::new();
    std::fs::write(on.path("1/other"), b"somebody's image").unwrap();
    let before = picture(&on.path("1"));
    for backing in ["/etc/passwd", "other", "../1/other", "json:{\"driver\":\"raw\"}", "nbd://h/x"] {
        on.qcow2("../up", "1M", Some(("raw", backing)));
        let failure = on.failure(&file(&on, &on.beside("up"), json!(null)));
        assert_eq!(failure.kind, Kind::Input);
        assert!(failure.text.contains(&format!("stands on another file, {backing}")), "{}", failure.text);
    }
    let mut vmdk = b"KDMV".to_vec();
    vmdk.resize(65_536, 0);
    let mut cut = b"QFI\xfb\0\0\0\x03".to_vec();
    cut.extend([0; 12]);
    for (bytes, says) in [
        (vmdk.as_slice(), "VMDK"),
        (b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/passwd\" 0", "VMDK"),
        (b"QED\0", "QED"),
        (b"QFI\xfb\0\0\0\x01", "version 1"),
        (b"", "it is empty"),
    ] {
        std::fs::write(on.beside("up"), bytes).unwrap();
        let failure = on.failure(&file(&on, &on.beside("up"), json!("raw")));
        assert!(failure.text.contains(says), "{says}: {}", failure.text);
    }
    let left: Vec<PathBuf> =
        picture(&on.path("1")).into_keys().filter(|path| !path.ends_with(".causeway")).collect();
    assert_eq!(left, before.into_keys().collect::<Vec<_>>());
}

#[test]
fn a_restricted_file_is_not_read_by_any_name() {
    let on = Datastores::new();
    let base = on.beside("");
    std::fs::create_dir(base.join("safe")).unwrap();
    std::fs::create_dir(base.join("secret")).unwrap();
    std::fs::write(base.join("secret/key"), b"x").unwrap();
    std::fs::write(base.join("safe/own"), b"x").unwrap();
    symlink(base.join("secret/key"), base.join("safe/link")).unwrap();
    symlink(base.join("secret"), base.join("safe/dir")).unwrap();
    std::fs::write(base.join("safety"), b"x").unwrap();
    let dirs = json!({"safe": [base.join("safe")], "restricted": ["/"]});
    let import = |path: &str| {
        let origin =
            json!({"file": {"path": base.join(path), "dirs": dirs, "unpack": null, "checksum": null}});
        (on.import(origin.clone(), json!(null)), json!({"datastore": {"measure": {"origin": origin}}}))
    };
    for path in ["secret/key", "safe/link", "safe/dir/key", "safety"] {
        let (copied, measured) = import(path);
        for call in [copied, measured] {
            let failure = on.failure(&call);
            assert_eq!(failure.kind, Kind::Input);
            assert!(failure.text.contains("see SAFE_DIRS and RESTRICTED_DIRS"), "{}", failure.text);
        }
    }
    assert_eq!(picture(&on.path("1")).len(), 0);
    let (copied, measured) = import("safe/own");
    assert_eq!(on.perform(&copied, &[]).unwrap(), "raw");
    assert_eq!(on.perform(&measured, &[]).unwrap(), "1");
    // What is no file is not waited for.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        base.join("safe/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    for path in ["safe/fifo", "safe", "safe/gone"] {
        assert!(on.perform(&import(path).0, &[]).is_err(), "{path}");
    }
}

#[test]
fn a_promised_sum_is_compared() {
    let on = Datastores::new();
    std::fs::write(on.beside("up"), b"hello\n").unwrap();
    let dirs = json!({"safe": [], "restricted": []});
    let import = |sum: Value| {
        on.import(
            json!({"file": {"path": on.beside("up"), "dirs": dirs, "unpack": null, "checksum": sum}}),
            json!(null),
        )
    };
    let (md5, sha1) = ("b1946ac92492d2347c6235b4d2611184", "f572d396fae9206628714fb2ce00f72e94f2258f");
    for good in [json!({"md5": md5}), json!({"sha1": sha1}), json!({"md5": md5, "sha1": sha1})] {
        on.done(&import(good));
    }
    std::fs::remove_file(on.path("1/new")).unwrap();
    for (wrong, says) in [
        (json!({"md5": "0".repeat(32)}), "add up to b1946ac9"),
        (json!({"md5": "0".repeat(32), "sha1": sha1}), "add up to b1946ac9"),
        // Only the first of two was compared once.
        (json!({"md5": md5, "sha1": "0".repeat(40)}), "add up to f572d396"),
    ] {
        let failure = on.failure(&import(wrong));
        assert!(failure.text.contains(says), "{}", failure.text);
        assert!(!on.path("1/new").exists());
    }
}

/// W7: QEMU reads what is missing at the end of a file as zeros.
#[test]
fn a_qcow2_file_that_was_cut_off_is_no_image() {
    let on = Datastores::new();
    on.qcow2_image();
    let upload = on.beside("up");
    let bytes = std::fs::read(on.path("1/abc")).unwrap();
    for length in [bytes.len() / 2, 200_000, 4096] {
        std::fs::write(&upload, &bytes[..length]).unwrap();
        for format in [json!(null), json!("raw")] {
            let failure = on.failure(&file(&on, &upload, format));
            assert!(failure.text.contains("qemu-img check of "), "{length}: {}", failure.text);
        }
    }
    std::fs::write(&upload, &bytes).unwrap();
    on.done(&file(&on, &upload, json!("raw")));
}
