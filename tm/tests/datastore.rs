//! What the actions of a file datastore leave on real files (contract TM 3.2), checked with QEMU's own tools.

#![cfg(test)]

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use causeway_core::answer::Kind;
use common::images::{Images, downloader, raw_of};
use common::{Datastores, MIB, blocks, chain, picture, tool};
use serde_json::{Value, json};

fn file(on: &Datastores, path: &Path, format: Value) -> Value {
    on.import(json!({"file": {"path": path, "dirs": {"safe": [], "restricted": []}, "unpack": null, "checksum": null}}), format)
}

#[test]
fn a_file_becomes_an_image_with_its_holes() {
    let on = Datastores::new();
    let bytes = on.raw_image();
    std::fs::rename(on.path("1/abc"), on.beside("a b'\"$(x)")).unwrap();
    let upload = on.beside("a b'\"$(x)");
    assert_eq!(on.perform(&file(&on, &upload, json!(null)), &[]).unwrap(), "raw");
    assert!(std::fs::read(on.path("1/new")).unwrap() == bytes);
    assert!(blocks(&on.path("1/new")) < MIB);
    on.nothing_half_made();
    // Again: a try whose end nobody learnt of.
    assert_eq!(on.perform(&file(&on, &upload, json!("qcow2")), &[]).unwrap(), "qcow2");
    assert!(raw_of(&on.path("1/new"), "qcow2") == bytes);
    assert_eq!(chain(&on.path("1/new")).len(), 1);
    on.nothing_half_made();
}

#[test]
fn a_qcow2_file_stays_one_or_becomes_bytes() {
    let on = Datastores::new();
    on.qcow2_image();
    std::fs::rename(on.path("1/abc"), on.beside("os.qcow2")).unwrap();
    let upload = on.beside("os.qcow2");
    let bytes = raw_of(&upload, "qcow2");
    assert_eq!(on.perform(&file(&on, &upload, json!(null)), &[]).unwrap(), "qcow2");
    assert!(std::fs::read(on.path("1/new")).unwrap() == std::fs::read(&upload).unwrap());
    assert_eq!(on.perform(&file(&on, &upload, json!("raw")), &[]).unwrap(), "raw");
    assert!(std::fs::read(on.path("1/new")).unwrap() == bytes);
    tool(
        "qemu-img",
        &[
            "convert",
            "-f",
            "qcow2",
            "-O",
            "vdi",
            upload.to_str().unwrap(),
            on.beside("os.vdi").to_str().unwrap(),
        ],
    );
    let vdi = on.beside("os.vdi");
    assert_eq!(on.perform(&file(&on, &vdi, json!("qcow2")), &[]).unwrap(), "qcow2");
    assert!(raw_of(&on.path("1/new"), "qcow2") == bytes);
    assert_eq!(on.perform(&file(&on, &vdi, json!(null)), &[]).unwrap(), "vdi");
}

/// W7, W30, W32: an archive is unpacked, whole or not at all, and whatever a script printed before it failed is nobody's
/// image.
#[test]
fn what_the_downloader_brings_is_whole_or_nothing() {
    let on = Datastores::new();
    let mut bytes = on.raw_image();
    bytes.extend(vec![0; 3 << 20]);
    std::fs::write(on.beside("disk.img"), &bytes).unwrap();
    let packed = on.beside("a disk; x.img.gz");
    let gzip =
        std::process::Command::new("gzip").arg("-c").arg(on.beside("disk.img")).output().unwrap().stdout;
    std::fs::write(&packed, &gzip).unwrap();
    let script = downloader(&on);
    let unpack =
        |address: Value| json!({"program": script, "address": address, "decompress": true, "limit": "5M"});
    let from_file = |path: &Path, sum: Value| {
        let dirs = json!({"safe": [], "restricted": []});
        json!({"file": {"path": path, "dirs": dirs, "unpack": unpack(json!(null)), "checksum": sum}})
    };
    let sum = tool("md5sum", &[packed.to_str().unwrap()]);
    let call = on.import(from_file(&packed, json!({"md5": sum[..32]})), json!("qcow2"));
    assert_eq!(on.perform(&call, &[]).unwrap(), "qcow2");
    assert!(raw_of(&on.path("1/new"), "qcow2") == bytes);
    let words = std::fs::read_to_string(on.beside("words")).unwrap();
    let words: Vec<&str> = words.lines().collect();
    assert_eq!(words[..3], ["--limit", "5M", "--"]);
    // A name without any sign that a shell knows, and of the very file that was looked at.
    assert!(words[3].starts_with("/proc/") && words[4] == "-", "{words:?}");
    let wrong = on.import(from_file(&packed, json!({"md5": "0".repeat(32)})), json!(null));
    assert!(on.failure(&wrong).text.contains("add up to"));
    let plain = on.import(from_file(&packed, json!(null)), json!(null));
    assert_eq!(on.perform(&plain, &[]).unwrap(), "raw");
    assert!(std::fs::read(on.path("1/new")).unwrap() == bytes && blocks(&on.path("1/new")) < 2 * MIB);
    // A second try over the first one's end, and the end of an archive that was cut off.
    let before = picture(&on.path("1"));
    std::fs::write(&packed, &gzip[..gzip.len() - 9]).unwrap();
    let failure = on.failure(&plain);
    assert!(
        failure.text.starts_with("downloader.sh of PATH: ") && failure.text.contains("unexpected end"),
        "{}",
        failure.text
    );
    let address = |text: &str| {
        on.import(json!({"address": {"fetch": unpack(json!(text)), "checksum": null}}), json!(null))
    };
    let failure = on.failure(&address("http://fails/secret"));
    assert_eq!(failure.kind, Kind::Refused);
    assert!(failure.text.ends_with("curl: (22) 404; Error copying"), "{}", failure.text);
    assert!(!failure.text.contains("secret"));
    assert!(on.failure(&address("http://empty/")).text.ends_with("what was downloaded: it is empty"));
    assert_eq!(picture(&on.path("1")), before);
    assert_eq!(on.perform(&address("http://h/x"), &[]).unwrap(), "raw");
    assert_eq!(std::fs::read(on.path("1/new")).unwrap(), b"from http://h/x\n");
    // What a sum is promised of is the archive.
    std::fs::write(on.beside("served"), &gzip).unwrap();
    let served = |sum: &str| {
        let fetch = unpack(json!("http://served/x"));
        on.import(json!({"address": {"fetch": fetch, "checksum": {"md5": sum}}}), json!(null))
    };
    assert!(on.failure(&served(&"0".repeat(32))).text.contains("what was downloaded: its bytes add up to"));
    on.done(&served(&sum[..32]));
    assert!(std::fs::read(on.path("1/new")).unwrap() == bytes);
}

/// W14: the image's own file lags behind its newest layer.
#[test]
fn a_copy_is_made_of_what_a_guest_wrote_last() {
    let on = Datastores::new();
    on.chained_image();
    let newest = raw_of(&on.path("1/abc.snap/2"), "qcow2");
    assert_eq!((newest[1 << 20], newest[4 << 20], newest[5 << 20]), (0xa5, 0x11, 0x22));
    let before = picture(&on.path("1"));
    for format in ["qcow2", "raw"] {
        assert_eq!(on.perform(&on.copy("qcow2", format), &[]).unwrap(), format);
        assert!(raw_of(&on.path("1/new"), format) == newest, "{format}");
    }
    on.perform(&on.copy("qcow2", "qcow2"), &[]).unwrap();
    assert_eq!(chain(&on.path("1/new")).len(), 1);
    let told = on.perform(&on.export("qcow2"), &[]).unwrap();
    let told: Value = serde_json::from_str(told.strip_prefix("exported ").unwrap()).unwrap();
    let exported = on.path("1").join(told["name"].as_str().unwrap());
    assert_eq!((&told["dispose"], &told["format"]), (&json!(true), &json!("qcow2")));
    assert!(raw_of(&exported, "qcow2") == newest);
    let sum = tool("md5sum", &[exported.to_str().unwrap()]);
    assert_eq!(told["md5"].as_str().unwrap(), &sum[..32]);
    // It goes with the image, if whoever took it leaves it there.
    on.done(&on.remove());
    let left = picture(&on.path("1"));
    assert!(left.keys().all(|path| path == Path::new("new") || path == Path::new(".causeway")), "{left:?}");
    assert!(before.keys().any(|path| path == Path::new("abc.snap/2")));
}

#[test]
fn an_image_without_layers_is_exported_as_it_is() {
    let on = Datastores::new();
    on.raw_image();
    let told = on.perform(&on.export("raw"), &[]).unwrap();
    let sum = tool("md5sum", &[&on.text("1/abc")]);
    let told: Value = serde_json::from_str(told.strip_prefix("exported ").unwrap()).unwrap();
    assert_eq!(told, json!({"name": "abc", "md5": &sum[..32], "format": "raw", "dispose": false}));
    on.nothing_half_made();
}

/// A guest may write any header into a raw disk; oned says what the image is.
#[test]
fn a_raw_image_is_copied_byte_by_byte_whatever_it_looks_like() {
    let on = Datastores::new();
    on.qcow2("1/abc", "1M", Some(("raw", "/etc/passwd")));
    let bytes = std::fs::read(on.path("1/abc")).unwrap();
    on.done(&on.copy("raw", "raw"));
    assert!(std::fs::read(on.path("1/new")).unwrap() == bytes);
    on.done(&on.copy("raw", "qcow2"));
    assert!(raw_of(&on.path("1/new"), "qcow2").starts_with(&bytes));
    let failure = on.failure(&on.copy("qcow2", "raw"));
    assert!(failure.text.contains("which is not a file of datastore 1"), "{}", failure.text);
    std::fs::write(on.path("1/abc"), b"plain").unwrap();
    assert!(on.failure(&on.copy("qcow2", "raw")).text.contains("oned says that it is qcow2"));
}

#[test]
fn an_encrypted_disk_stays_what_it_is() {
    let on = Datastores::new();
    let upload = on.beside("secret").display().to_string();
    let words = "create -q --object secret,id=s,data=x -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s";
    let words: Vec<&str> = words.split(' ').chain([upload.as_str(), "1M"]).collect();
    tool("qemu-img", &words);
    assert_eq!(on.perform(&file(&on, Path::new(&upload), json!("qcow2")), &[]).unwrap(), "qcow2");
    std::fs::remove_file(on.path("1/new")).unwrap();
    let failure = on.failure(&file(&on, Path::new(&upload), json!("raw")));
    assert!(failure.kind == Kind::Input && failure.text.contains("CONVERT=NO"), "{failure}");
    assert!(!on.path("1/new").exists());
    on.nothing_half_made();
    let mut luks = b"LUKS\xba\xbe\0\x02".to_vec();
    luks.resize(1 << 20, 7);
    std::fs::write(&upload, &luks).unwrap();
    std::fs::write(on.path("1/abc"), &luks).unwrap();
    for call in [file(&on, Path::new(&upload), json!("qcow2")), on.copy("raw", "qcow2")] {
        assert_eq!(on.perform(&call, &[]).unwrap(), "raw");
        assert!(std::fs::read(on.path("1/new")).unwrap() == luks);
    }
}

#[test]
fn an_image_of_no_bytes_is_none_in_any_format() {
    let on = Datastores::new();
    let upload = on.beside("nothing");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", upload.to_str().unwrap(), "0"]);
    for format in ["raw", "qcow2"] {
        let failure = on.failure(&file(&on, &upload, json!(format)));
        assert!(
            failure.kind == Kind::Input && failure.text.ends_with("it is a disk of 0 bytes"),
            "{failure}"
        );
    }
    assert!(!on.path("1/new").exists());
}

#[test]
fn an_image_goes_with_its_own_files_and_no_others() {
    let on = Datastores::new();
    on.chained_image();
    for (name, text) in
        [("abc.md5sum", "sum"), ("abc2", "x"), ("abc.snapshot", "x"), ("abc.md5sum.old", "x"), ("ab", "x")]
    {
        std::fs::write(on.path("1").join(name), text).unwrap();
    }
    std::fs::write(on.path("1/.causeway-tmp.abc.9-9-9"), b"half").unwrap();
    // A link of somebody's making is removed, and what it leads to stays.
    symlink(on.path("1/abc2"), on.path("1/abc.snap/7.current")).unwrap();
    for _ in 0..2 {
        on.done(&on.remove());
        let left: Vec<PathBuf> = picture(&on.path("1")).into_keys().collect();
        let left: Vec<&str> = left.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(left, [".causeway", "ab", "abc.md5sum.old", "abc.snapshot", "abc2"]);
    }
}

/// W31: gone is success, where it can be known.
#[test]
fn an_image_that_is_gone_is_removed_only_from_a_datastore_that_is_there() {
    let on = Datastores::new();
    let failure = on.failure(&on.remove());
    assert!(failure.text.starts_with("datastore 1 may not be mounted"), "{}", failure.text);
    assert_eq!(picture(&on.path("1")).len(), 0, "looking leaves no mark");
    std::fs::write(on.path("1/another"), b"x").unwrap();
    on.done(&on.remove());
    std::fs::remove_dir_all(on.path("1")).unwrap();
    assert!(on.failure(&on.remove()).text.starts_with("datastore 1 is not on this host"));
}

#[test]
fn an_image_that_is_open_is_left_alone() {
    let on = Datastores::new();
    on.chained_image();
    let path = on.text("1/abc.snap/2");
    let mut qemu = std::process::Command::new("qemu-io");
    qemu.args(["-f", "qcow2", &path])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut qemu = qemu.spawn().unwrap();
    // Its prompt comes when the image is open.
    std::io::Read::read_exact(qemu.stdout.as_mut().unwrap(), &mut [0; 7]).unwrap();
    let before = picture(&on.path("1"));
    for call in [
        on.remove(),
        on.image_snapshot(true, "revert", 1),
        on.image_snapshot(true, "delete", 0),
        on.image_snapshot(true, "flatten", 1),
    ] {
        let failure = on.failure(&call);
        assert!(failure.text.contains("is open: a guest or a tool uses it"), "{}", failure.text);
    }
    assert_eq!(picture(&on.path("1")), before);
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
}

#[test]
fn an_empty_image_is_made() {
    let on = Datastores::new();
    let blank = |format: &str, blank: Value| json!({"datastore": {"blank": {"image": on.text("1/new"), "size_mb": 20, "format": format, "blank": blank}}});
    on.done(&blank("raw", json!("empty")));
    assert_eq!(on.path("1/new").metadata().unwrap().len(), 20 * MIB);
    on.done(&blank("qcow2", json!("empty")));
    assert_eq!(chain(&on.path("1/new"))[0]["virtual-size"], json!(20 * MIB));
    // W26: what can't be formatted is no image, and nothing is left of it.
    std::fs::remove_file(on.path("1/new")).unwrap();
    on.failure(&blank("raw", json!({"file_system": {"kind": "ext4", "options": ["-b", "7"]}})));
    assert!(!on.path("1/new").exists());
    on.done(&blank("raw", json!({"file_system": {"kind": "ext4", "options": []}})));
    assert!(tool("blkid", &["-p", &on.text("1/new")]).contains("TYPE=\"ext4\""));
}

#[test]
fn sizes_are_those_that_a_guest_would_see() {
    let on = Datastores::new();
    on.qcow2_image();
    let measure = |path: PathBuf| {
        let dirs = json!({"safe": [], "restricted": []});
        let origin = json!({"file": {"path": path, "dirs": dirs, "unpack": null, "checksum": null}});
        on.perform(&json!({"datastore": {"measure": {"origin": origin}}}), &[])
    };
    assert_eq!(measure(on.path("1/abc")).unwrap(), "16");
    std::fs::write(on.path("1/raw"), vec![1; 1_048_577]).unwrap();
    assert_eq!(measure(on.path("1/raw")).unwrap(), "2");
    let gzip = std::process::Command::new("gzip").arg("-c").arg(on.path("1/raw")).output().unwrap().stdout;
    std::fs::write(on.path("1/raw.gz"), gzip).unwrap();
    assert_eq!(measure(on.path("1/raw.gz")).unwrap(), "2");
    assert!(measure(on.path("1")).is_err());
}

/// Calls arrive as JSON: whatever is in them, they name nothing outside.
#[test]
fn a_call_cannot_name_an_image_outside() {
    for image in ["/etc/passwd", "/d/1/../x", "/d/x/abc", "/d/1/.causeway-tmp.x", "/d/1/a\nb"] {
        let call = json!({"datastore": {"remove": {"image": image}}});
        assert!(serde_json::from_value::<causeway_tm::host::Call>(call).is_err(), "{image}");
    }
    let more = json!({"datastore": {"remove": {"image": "/d/1/abc", "more": 1}}});
    assert!(serde_json::from_value::<causeway_tm::host::Call>(more).is_err());
}

/// W30: a copy that finds no room leaves nothing under a final name.
#[test]
fn a_full_disk_leaves_no_image() {
    let dir = tempfile::tempdir().unwrap();
    common::inside_tmpfs("inner_full_disk", dir.path(), "8m");
}

#[test]
#[ignore = "run by a_full_disk_leaves_no_image in a mount namespace"]
fn inner_full_disk() {
    let on = Datastores::below(Path::new(&std::env::var("CAUSEWAY_TEST_DIR").unwrap()));
    std::fs::write(on.path("1/abc"), vec![0x5a; 5 << 20]).unwrap();
    let before = picture(&on.path("1"));
    let script = downloader(&on);
    let fetch = json!({"program": script, "address": "http://big/", "decompress": true, "limit": null});
    let calls = [
        file(&on, &on.path("1/abc"), json!(null)),
        on.copy("raw", "raw"),
        on.copy("raw", "qcow2"),
        on.import(json!({"address": {"fetch": fetch, "checksum": null}}), json!(null)),
    ];
    for call in calls {
        let failure = on.failure(&call);
        assert!(failure.text.contains("No space left on device"), "{}", failure.text);
        let mut left = picture(&on.path("1"));
        left.retain(|path, _| path != Path::new(".causeway"));
        assert_eq!(left, before);
    }
    assert_eq!(script.metadata().unwrap().permissions().mode() & 0o111, 0o111);
}
