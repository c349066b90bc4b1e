//! What an admin reads when something can't be done: which disk or image, what is wrong, what to do; and no name of a file
//! that is gone by then.

#![cfg(test)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::VmDocument;
use causeway_core::names::VmId;
use causeway_tm::datastore::Hosts;
use causeway_tm::facts::{BackupSource, DatastoreFacts, Facts, Lookup, VmFacts, gather};
use causeway_tm::{TmSettings, needs, steps};
use common::forms::FORMS;
use common::images::Images;
use common::{Datastores, inside_tmpfs, tool};
use serde_json::{Value, json};

fn said(on: &Datastores, call: &Value) -> String {
    let text = on.failure(call).text;
    assert!(!text.contains(".causeway-tmp.") && !text.contains('\n'), "{text}");
    text.replace(on.root.to_str().unwrap(), "DS")
}

#[test]
fn a_disk_that_would_shrink_and_a_snapshot_that_is_not_there_are_named() {
    for (qcow2, persistent) in FORMS {
        let on = Datastores::new();
        on.vm_with_disk(qcow2, persistent);
        let text = said(&on, &on.resize(qcow2, persistent, 1, true));
        let most = if qcow2 { 16 } else { 5 };
        let grows =
            format!("and is to have 1048576: a disk only grows, so its SIZE must be {most} MB or more");
        assert!(text.contains(&grows), "{text}");
        for made in [false, true] {
            if made {
                on.done(&on.snapshot("create", 0, qcow2, persistent));
            }
            let whose = if persistent && !qcow2 { "DS/1/abc" } else { "DS/100/7/disk.0" };
            let text = said(&on, &on.snapshot("revert", 9, qcow2, persistent));
            assert_eq!(text, format!("{whose}: there is no snapshot 9 of it"));
            let text = said(&on, &on.save(qcow2, persistent, Some(9), "1/new"));
            assert_eq!(text, "DS/100/7/disk.0: there is no snapshot 9 of it");
        }
    }
}

/// Nothing is filled, nor waited for, before it is found out.
#[test]
fn a_size_beyond_measure_is_refused_at_once() {
    for qcow2 in [false, true] {
        let on = Datastores::new();
        on.vm_with_disk(qcow2, false);
        // 4 PiB, the most that oned can ask for.
        let most = u64::from(u32::MAX);
        let text = said(&on, &on.resize(qcow2, false, most, false));
        assert!(text.contains("that are set aside (SPARSE=NO), and its file system has room for"), "{text}");
        let before = on.picture();
        for blank in [json!("empty"), json!("swap")] {
            let make = json!({"make_image": {"file": on.text("100/7/disk.3"), "size_mb": most, "qcow2": qcow2, "blank": blank}});
            let text = said(&on, &make);
            assert!(text.contains("DS/100/7/disk.3"), "{text}");
            let expected = if qcow2 && blank == "empty" { "is too large" } else { "choose a smaller SIZE" };
            assert!(text.contains(expected), "{text}");
        }
        assert_eq!(on.picture(), before);
    }
}

#[test]
fn an_image_that_was_cut_off_is_neither_linked_nor_copied() {
    for cut in [10, 80, 200, 70_000, 200_000] {
        let on = Datastores::new();
        on.qcow2_image();
        tool("qemu-io", &["-f", "qcow2", "-c", "write -q 0 1M", &on.text("1/abc")]);
        let file = std::fs::File::options().write(true).open(on.path("1/abc")).unwrap();
        file.set_len(cut).unwrap();
        let copy = json!({"datastore": {"copy": {
            "original": on.text("1/abc"), "stored": "qcow2", "image": on.text("1/new"), "format": "qcow2", "sparse": true
        }}});
        for call in
            [on.overlay(), on.link("chain"), on.clone(json!("standalone"), "disk.0", None, true), copy]
        {
            let text = said(&on, &call);
            assert!(
                text.starts_with(&format!("DS/1/abc: it was cut off: it has {cut} bytes, and")),
                "{text}"
            );
            assert!(text.ends_with("fetch it again, or restore it"), "{text}");
        }
        assert!(!on.path("100/7").exists() && !on.path("1/new").exists());
    }
}

/// A name without a directory means another file where a link leads to the image.
#[test]
fn an_image_on_a_relative_name_says_what_mends_it() {
    let on = Datastores::new();
    on.qcow2("1/base", "4M", None);
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "base", &on.text("1/abc")]);
    let text = said(&on, &on.link("chain"));
    assert!(text.contains("it stands on base, and there is no DS/100/7/base: "), "{text}");
    assert!(text.contains("`qemu-img rebase -u`") && text.contains("`qemu-img convert`"), "{text}");
    tool(
        "qemu-img",
        &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &on.text("1/base"), &on.text("1/abc")],
    );
    on.done(&on.link("chain"));
    std::fs::remove_file(on.path("1/base")).unwrap();
    let text = said(&on, &on.overlay());
    assert!(text.ends_with("it stands on DS/1/base, and there is no DS/1/base"), "{text}");
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let dir = tempfile::tempdir().unwrap();
    inside_tmpfs("inner_full", dir.path(), "2m");
}

#[test]
#[ignore = "run by the test above in a mount namespace"]
fn inner_full() {
    let on = Datastores::below(Path::new(&std::env::var("CAUSEWAY_TEST_DIR").unwrap()));
    on.vm_dir();
    std::fs::write(on.path("1/abc"), vec![1; 200_000]).unwrap();
    // What else the call needs is there.
    on.done(&on.delete("disk.3"));
    let fill = std::fs::File::create(on.path("fill")).unwrap();
    let mut bytes = 4 << 20;
    while bytes >= 512 {
        use std::io::Write;
        if (&fill).write_all(&vec![1; bytes]).is_err() {
            bytes /= 2;
        }
    }
    for qcow2 in [false, true] {
        for blank in [json!("swap"), json!({"file_system": {"kind": "ext4"}})] {
            let make = json!({"make_image": {"file": on.text("100/7/disk.3"), "size_mb": 16, "qcow2": qcow2, "blank": blank}});
            let text = said(&on, &make);
            assert!(text.contains("DS/100/7/disk.3: ") && text.contains("No space left on device"), "{text}");
        }
    }
    // What can be written neither in one way nor in the other, and never by the name of something half-made.
    let context = on.perform(&on.context(&["x"]), &[vec![7; 1 << 16]]).unwrap_err().text;
    for (text, name) in [
        (context, "100/7/disk.1"),
        (said(&on, &on.clone(json!("flat"), "disk.2", None, true)), "100/7/disk.2"),
        (said(&on, &on.clone(json!("standalone"), "disk.2", None, true)), "100/7/disk.2.snap/0"),
    ] {
        assert!(text.contains(name) && text.contains("No space left on device"), "{text}");
        assert!(!text.contains("causeway-tmp") && !text.contains("/proc/"), "{text}");
    }
}

/// Whose time is up ends by itself, leaves nothing, and says what would give it more.
#[test]
fn a_copy_that_takes_too_long_leaves_nothing() {
    use causeway_tm::host::{Copying, Worker, perform};
    use std::time::{Duration, Instant};
    let on = Datastores::new();
    on.raw_image();
    std::fs::write(on.path("1/abc"), vec![1; 4 << 20]).unwrap();
    let copying = Copying { bytes_per_second: Some(1 << 20), ..Copying::default() };
    for call in [on.flat(), on.copy("raw", "raw"), on.copy("raw", "qcow2")] {
        let deadline = Instant::now() + Duration::from_millis(700);
        let worker = Worker { copying, ..Worker::new(&on.locks, deadline) };
        let call = serde_json::from_value(call).unwrap();
        let failure = perform(&call, &[], &worker).unwrap_err();
        assert!(failure.kind == Kind::Timeout && failure.text.contains("deadlines.copy"), "{failure}");
        assert!(deadline.elapsed() < Duration::from_secs(3), "{:?}", deadline.elapsed());
        on.nothing_half_made();
        assert!(!on.path("100/7/disk.0").exists() && !on.path("1/new").exists());
    }
}

/// oned, with this document of VM 7.
struct Oned(String);

impl Lookup for Oned {
    fn vm(&self, _: VmId) -> Result<VmFacts, Failure> {
        let vm = VmDocument::parse(self.0.as_bytes()).map_err(|e| Failure::new(Kind::Input, e))?;
        Ok(VmFacts::of(&vm)?)
    }
    fn datastore(&self, _: u32) -> Result<DatastoreFacts, Failure> {
        Ok(DatastoreFacts::default())
    }
    fn hosts(&self) -> Result<Hosts, Failure> {
        Err(Failure::new(Kind::Timeout, "no answer"))
    }
    fn automounted(&self) -> Result<BTreeSet<u32>, Failure> {
        Ok(BTreeSet::new())
    }
    fn backup(&self, _: u32) -> Result<BackupSource, Failure> {
        Err(Failure::new(Kind::Refused, "not authorised"))
    }
}

#[test]
fn what_can_t_be_planned_says_what_is_wrong() {
    let plan = |slot: &str, argv: &str, disk: &str| {
        let (slot, argv) = (slot.parse().unwrap(), argv.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let vm = format!("<VM><ID>7</ID><TEMPLATE><DISK><DISK_ID>0</DISK_ID>{disk}</DISK></TEMPLATE></VM>");
        let facts: Facts = gather(&needs(&slot, &argv)?, &Oned(vm))?;
        steps(&slot, &argv, b"", &facts, &TmSettings::default()).map_err(Failure::from)
    };
    let clone = "fe:/d/1/abc h1:/d/100/7/disk.0 7 1";
    for (slot, argv, disk, says) in [
        (
            "clone",
            clone,
            "<QCOW2_STANDALONE>maybe</QCOW2_STANDALONE>",
            "DISK 0 QCOW2_STANDALONE of VM 7 is \"maybe\", not YES or NO, TRUE or FALSE",
        ),
        (
            "context",
            "/a/x /b/x h1:/d/100/7/disk.1 7 100",
            "",
            "tm/qcow2/context: /a/x and /b/x would both be called x in the context image: leave one of them out, or give it \
             another name, as PATH:'NAME'",
        ),
        (
            "context",
            "/a /b:'a' h1:/d/100/7/disk.1 7 100",
            "",
            "tm/qcow2/context: /a and /b would both be called a in",
        ),
        (
            "mkimage",
            "99999999999999 raw h1:/d/100/7/disk.3 7 100",
            "",
            "tm/qcow2/mkimage: argument 1: size \"99999999999999\" is not a whole number of MiB above 0 and below 2^32",
        ),
    ] {
        let failure = plan(&format!("tm/qcow2/{slot}"), argv, disk).unwrap_err();
        assert_eq!(failure.kind, Kind::Input);
        assert!(failure.text.starts_with(says), "{failure}");
    }
    // One file twice is one.
    assert!(plan("tm/qcow2/context", "/a/x /a/x h1:/d/100/7/disk.1 7 100", "").is_ok());
}
