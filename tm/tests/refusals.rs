//! What must not happen: writing through links, removing what may not be there or is not ours, reading what an image
//! should not name, half copies under final names.

#![cfg(test)]

mod common;

use std::os::unix::fs::symlink;
use std::path::Path;

use causeway_core::answer::Kind;
use common::{Datastores, MIB, half_made, inside_tmpfs, picture};
use serde_json::json;

/// W1: a number given out again, with a link of the disk that had it before still there.
#[test]
fn a_stale_link_is_replaced_and_never_written_through() {
    for copy in [json!("flat"), json!({"overlay": {}}), json!("standalone")] {
        let on = Datastores::new();
        on.qcow2_image();
        std::fs::write(on.path("1/persistent"), b"somebody's data").unwrap();
        symlink(on.path("1/persistent"), on.vm_dir().join("disk.0")).unwrap();
        symlink(on.path("1/persistent"), on.vm_dir().join("disk.1")).unwrap();
        let before = picture(&on.path("1"));
        on.done(&on.clone(copy, "disk.0", None, true));
        on.perform(&on.context(&["context.sh"]), &[b"X=1".to_vec()]).unwrap();
        assert_eq!(picture(&on.path("1")), before);
        assert!(on.path("100/7/disk.1").symlink_metadata().unwrap().is_file());
        assert_ne!(std::fs::canonicalize(on.path("100/7/disk.0")).unwrap(), on.path("1/persistent"));
    }
}

/// A link where the snapshot directory should be is replaced, not entered.
#[test]
fn a_link_in_place_of_a_snapshot_directory_is_not_followed() {
    let on = Datastores::new();
    on.qcow2_image();
    std::fs::create_dir(on.path("1/other.snap")).unwrap();
    std::fs::write(on.path("1/other.snap/0"), b"somebody's data").unwrap();
    let before = picture(&on.path("1"));
    for call in [on.overlay(), on.flat(), on.delete("disk.0")] {
        let link = on.vm_dir().join("disk.0.snap");
        let _ = std::fs::remove_dir_all(&link);
        symlink(on.path("1/other.snap"), &link).unwrap();
        on.done(&call);
        assert_eq!(picture(&on.path("1")), before);
    }
    assert_eq!(picture(&on.path("100/7")).len(), 0);
}

/// The VM's directory itself must be a directory.
#[test]
fn a_link_in_place_of_a_vm_directory_is_refused() {
    let on = Datastores::new();
    on.raw_image();
    std::fs::create_dir(on.path("../elsewhere")).unwrap();
    std::fs::write(on.path("../elsewhere/disk.0"), b"somebody's data").unwrap();
    symlink(on.path("../elsewhere"), on.path("100/7")).unwrap();
    for call in [on.flat(), on.link("image"), on.delete("disk.0"), on.delete_dir()] {
        let failure = on.failure(&call);
        assert!(failure.text.ends_with("100/7 is not a directory"), "{}", failure.text);
    }
    assert_eq!(std::fs::read(on.path("../elsewhere/disk.0")).unwrap(), b"somebody's data");
}

#[test]
fn removing_takes_links_and_leaves_what_they_lead_to() {
    let on = Datastores::new();
    let bytes = on.raw_image();
    on.done(&on.link("image"));
    let dir = on.vm_dir();
    std::fs::create_dir_all(dir.join("tpm/deep/er")).unwrap();
    std::fs::write(dir.join("tpm/deep/er/state"), b"x").unwrap();
    symlink(on.path("1"), dir.join("tpm/deep/images")).unwrap();
    symlink("/", dir.join("root")).unwrap();
    std::os::unix::net::UnixListener::bind(dir.join("monitor.sock")).unwrap();
    std::fs::write(dir.join("name with\nline"), b"x").unwrap();
    on.done(&on.delete("disk.0"));
    assert!(!dir.join("disk.0").exists() && dir.join("tpm").exists());
    on.done(&on.delete_dir());
    assert!(!dir.exists());
    assert!(std::fs::read(on.path("1/abc")).unwrap() == bytes);
}

/// W20: the data of a detached disk go with it.
#[test]
fn a_disk_s_snapshots_go_with_it_and_no_other_s() {
    let on = Datastores::new();
    on.qcow2_image();
    for name in ["disk.0", "disk.1", "disk.10"] {
        on.done(&on.clone(json!({"overlay": {}}), name, None, true));
    }
    on.done(&on.delete("disk.1"));
    let left = picture(&on.path("100/7"));
    assert!(left.keys().all(|path| !path.starts_with("disk.1") && !path.starts_with("disk.1.snap")));
    assert_eq!(left.len(), 8);
    on.done(&on.delete("disk.1"));
    // A link into a snapshot directory that is gone: the stock script reports it deleted and leaves it.
    symlink("disk.5.snap/0", on.path("100/7/disk.5")).unwrap();
    on.done(&on.delete("disk.5"));
    assert!(on.path("100/7/disk.5").symlink_metadata().is_err());
}

#[test]
fn what_is_gone_is_success_only_where_the_datastore_is_there() {
    let on = Datastores::new();
    // An empty directory where nothing is mounted says nothing.
    for call in [on.delete("disk.0"), on.delete_dir()] {
        let failure = on.failure(&call);
        assert_eq!(failure.kind, Kind::HostState);
        assert!(
            failure.text.starts_with("datastore 100 may not be mounted on this host"),
            "{}",
            failure.text
        );
    }
    // Another VM's directory is proof enough.
    std::fs::create_dir(on.path("100/8")).unwrap();
    on.done(&on.delete("disk.0"));
    on.done(&on.delete_dir());
    std::fs::remove_dir(on.path("100/8")).unwrap();
    std::fs::remove_dir(on.path("100")).unwrap();
    for call in [on.delete("disk.0"), on.delete_dir()] {
        let failure = on.failure(&call);
        assert_eq!(failure.kind, Kind::HostState);
        assert!(failure.text.starts_with("datastore 100 is not on this host"), "{}", failure.text);
    }
}

/// The last VM of a datastore: removing it again is success too.
#[test]
fn the_last_vm_can_be_removed_twice() {
    let on = Datastores::new();
    std::fs::write(on.vm_dir().join("disk.0"), b"made by the stock driver").unwrap();
    for _ in 0..2 {
        on.done(&on.delete("disk.0"));
        on.done(&on.delete_dir());
    }
    assert_eq!(picture(&on.path("100")).into_keys().collect::<Vec<_>>(), [Path::new(".causeway")]);
}

#[test]
fn a_new_vm_needs_the_root_of_the_datastores_but_not_its_own() {
    let on = Datastores::new();
    on.raw_image();
    std::fs::remove_dir(on.path("100")).unwrap();
    on.done(&on.flat());
    let on = Datastores::new();
    let failure = on.failure(&on.flat());
    assert!(failure.text.contains("cannot open") && failure.text.contains("1/abc"), "{}", failure.text);
    assert_eq!(picture(&on.path("100")).len(), 0, "a failed copy leaves no trace");
    std::fs::remove_dir(on.path("1")).unwrap();
    let failure = on.failure(&on.flat());
    assert!(failure.text.starts_with("datastore 1 is not on this host"), "{}", failure.text);
}

/// W4 and what may follow from it: two datastores that are one place by two names.
#[test]
fn the_directory_in_use_is_not_removed_by_another_name() {
    let on = Datastores::new();
    std::fs::write(on.vm_dir().join("disk.0"), b"x").unwrap();
    std::fs::remove_dir(on.path("101")).unwrap();
    symlink("100", on.path("101")).unwrap();
    let moved = |keep: &str| json!({"delete_dir": {"dir": on.text("101/7"), "keep": on.text(keep)}});
    let failure = on.failure(&moved("100/7"));
    assert!(failure.text.contains("is the directory that the VM uses now"), "{}", failure.text);
    assert!(on.path("100/7/disk.0").exists());
    // Where the new datastore is not on this host, or another place, the old one goes.
    on.done(&moved("102/7"));
    assert!(!on.path("100/7").exists());
}

#[test]
fn only_disks_are_removed_one_by_one() {
    let on = Datastores::new();
    std::fs::write(on.vm_dir().join("vm.xml"), b"<VM/>").unwrap();
    let failure = on.failure(&on.delete("vm.xml"));
    assert!(failure.text.ends_with("vm.xml is not a disk of a VM"), "{}", failure.text);
    assert!(on.path("100/7/vm.xml").exists());
}

/// Calls arrive as JSON: whatever is in them, they name nothing outside.
#[test]
fn a_call_cannot_name_a_path_outside() {
    use causeway_tm::host::Call;
    for call in [
        json!({"delete_dir": {"dir": "/var/lib/one/datastores"}}),
        json!({"delete_dir": {"dir": "/var/lib/one/datastores/0/../7"}}),
        json!({"delete_dir": {"dir": "/0/7"}}),
        json!({"delete_file": {"file": "/etc/passwd"}}),
        json!({"delete_file": {"file": "/d/0/7/a/b"}}),
        json!({"build_context": {"file": "/d/0/7/disk.1", "names": ["../x"]}}),
        json!({"build_context": {"file": "/d/0/7/disk.1", "names": ["a\nb"]}}),
        json!({"link_image": {"image": "/d/x/abc", "file": "/d/0/7/disk.1", "layout": "image"}}),
        json!({"clone_image": {"image": "/d/1/abc", "file": "/d/0/7/disk.1", "copy": "flat", "sparse": true,
            "grown_mb": null, "more": 1}}),
    ] {
        assert!(serde_json::from_value::<Call>(call.clone()).is_err(), "{call}");
    }
}

/// Images are uploads: what their headers and links name must lie in their datastore.
#[test]
fn an_image_that_leads_out_of_its_datastore_is_refused() {
    let on = Datastores::new();
    std::fs::write(on.path("../secret"), b"root:x:0:0").unwrap();
    let secret = on.text("../secret");
    let json = "json:{\"driver\":\"raw\"}";
    for backing in [secret.as_str(), "../../secret", json, "nbd://h/x", "fat:rw:/tmp", "../100/8/disk.0"] {
        std::fs::create_dir_all(on.path("100/8")).unwrap();
        std::fs::write(on.path("100/8/disk.0"), b"another VM's").unwrap();
        on.qcow2("1/abc", "1M", Some(("raw", backing)));
        for call in [on.overlay(), on.clone(json!("standalone"), "disk.0", None, true), on.link("chain")] {
            let failure = on.failure(&call);
            assert!(
                failure.text.contains("which is not a file of datastore 1"),
                "{backing}: {}",
                failure.text
            );
            assert!(!on.path("100/7").exists());
        }
    }
    // Deeper in the chain, and by a link.
    on.qcow2("1/deep", "1M", Some(("raw", &secret)));
    on.qcow2("1/abc", "1M", Some(("qcow2", "deep")));
    assert!(on.failure(&on.overlay()).text.contains("which is not a file of datastore 1"));
    std::fs::remove_file(on.path("1/abc")).unwrap();
    symlink(&secret, on.path("1/abc")).unwrap();
    for call in [on.flat(), on.overlay(), on.link("image"), on.link("chain")] {
        let failure = on.failure(&call);
        assert!(failure.text.contains("which is not a file of datastore 1"), "{}", failure.text);
    }
}

#[test]
fn an_image_that_is_no_file_or_has_no_end_is_refused() {
    let on = Datastores::new();
    on.qcow2("1/abc", "1M", Some(("qcow2", "b")));
    on.qcow2("1/b", "1M", Some(("qcow2", "abc")));
    assert!(on.failure(&on.overlay()).text.contains("its chain of backing files does not end"));
    // The same bytes as a raw disk say nothing: a guest may have written them.
    on.done(&on.flat());
    on.qcow2("1/abc", "1M", Some(("raw", "gone")));
    assert!(on.failure(&on.overlay()).text.contains("it stands on gone, and there is no "));
    std::fs::remove_file(on.path("1/abc")).unwrap();
    std::fs::create_dir(on.path("1/abc")).unwrap();
    assert!(on.failure(&on.flat()).text.ends_with("1/abc is not a regular file"));
}

/// A name relative to the image is looked for beside the VM's link by QEMU; nobody can start such a disk.
#[test]
fn a_newest_snapshot_with_a_relative_name_is_refused() {
    let on = Datastores::new();
    on.qcow2_image();
    on.done(&on.link("chain"));
    on.qcow2("1/abc.snap/1", "16M", Some(("qcow2", "abc.snap/0")));
    let failure = on.failure(&on.link("chain"));
    assert!(
        failure.text.contains("100/7/abc.snap/0: a name without a directory is looked for beside"),
        "{}",
        failure.text
    );
    std::fs::remove_file(on.path("1/abc.snap/abc.snap")).unwrap();
    symlink("/", on.path("1/abc.snap/abc.snap")).unwrap();
    let failure = on.failure(&on.link("chain"));
    assert!(failure.text.ends_with("should be a link to the directory it is in"), "{}", failure.text);
}

/// W3: a copy that finds no room leaves nothing under a final name, and the disk that was there before.
#[test]
fn a_full_disk_leaves_no_final_file() {
    let dir = tempfile::tempdir().unwrap();
    inside_tmpfs("inner_full_disk", dir.path(), "12m");
}

#[test]
#[ignore = "run by a_full_disk_leaves_no_final_file in a mount namespace"]
fn inner_full_disk() {
    let dir = std::env::var("CAUSEWAY_TEST_DIR").unwrap();
    let on = Datastores::below(Path::new(&dir));
    std::fs::write(on.path("1/abc"), vec![0x5a; 8 << 20]).unwrap();
    for call in [on.flat(), on.clone(json!("standalone"), "disk.0", None, true)] {
        let failure = on.failure(&call);
        assert!(failure.text.contains("No space left on device"), "{}", failure.text);
        assert!(!on.path("100/7").exists());
    }
    std::fs::write(on.vm_dir().join("disk.0"), b"the disk before").unwrap();
    let before = picture(&on.path("100/7"));
    on.failure(&on.flat());
    // Room that is asked for and not written is room too.
    std::fs::write(on.path("1/abc"), vec![0x5a; 1 << 20]).unwrap();
    let grown = on.failure(&on.clone(json!("flat"), "disk.0", Some(64), false));
    assert!(grown.text.contains("No space left on device"), "{}", grown.text);
    let context = on.perform(&on.context(&["big"]), &[vec![1; 20 << 20]]).unwrap_err();
    assert!(context.text.contains("No space left on device"), "{}", context.text);
    assert_eq!(picture(&on.path("100/7")), before);
    on.nothing_half_made();
    on.done(&on.clone(json!("flat"), "disk.0", Some(64), true));
    assert_eq!(on.path("100/7/disk.0").metadata().unwrap().len(), 64 * MIB);
}

/// The same of a file system that can't be written any more.
#[test]
fn a_read_only_datastore_keeps_what_it_has_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    inside_tmpfs("inner_read_only", dir.path(), "16m");
}

#[test]
#[ignore = "run by a_read_only_datastore_keeps_what_it_has_and_says_so in a mount namespace"]
fn inner_read_only() {
    let dir = std::env::var("CAUSEWAY_TEST_DIR").unwrap();
    let on = Datastores::below(Path::new(&dir));
    on.qcow2_image();
    on.done(&on.overlay());
    on.done(&on.snapshot("create", 0, true, false));
    let before = on.picture();
    let calls = [
        on.overlay(),
        on.flat(),
        on.link("chain"),
        on.delete("disk.0"),
        on.delete_dir(),
        on.snapshot("create", 1, true, false),
        on.snapshot("revert", 0, true, false),
        on.snapshot("delete", 0, true, false),
        on.save(true, false, None, "1/saved"),
        on.resize(true, false, 64, true),
        on.move_dir("101/7"),
        on.make(false, json!("swap")),
    ];
    common::tool("mount", &["-o", "remount,ro", &dir]);
    for call in &calls {
        let failure = on.perform(call, &[]).unwrap_err();
        assert!(failure.text.contains("Read-only file system"), "{call}: {}", failure.text);
        assert_eq!(on.picture(), before);
    }
    common::tool("mount", &["-o", "remount,rw", &dir]);
    on.done(&on.snapshot("delete", 0, true, false));
}

/// A file system mounted in a VM's directory is not emptied.
#[test]
fn removing_stops_at_a_mounted_file_system() {
    let dir = tempfile::tempdir().unwrap();
    inside_tmpfs("inner_mounted", dir.path(), "4m");
}

#[test]
#[ignore = "run by removing_stops_at_a_mounted_file_system in a mount namespace"]
fn inner_mounted() {
    let dir = std::env::var("CAUSEWAY_TEST_DIR").unwrap();
    let on = Datastores::below(Path::new(&dir));
    let inner = on.vm_dir().join("shared");
    std::fs::create_dir(&inner).unwrap();
    common::tool("mount", &["-t", "tmpfs", "tmpfs", inner.to_str().unwrap()]);
    std::fs::write(inner.join("data"), b"somebody's").unwrap();
    let failure = on.failure(&on.delete_dir());
    assert!(failure.text.starts_with("a file system is mounted at"), "{}", failure.text);
    assert!(inner.join("data").exists());
    // A datastore that is a mount point is proved by that, however empty it is.
    std::fs::create_dir(on.path("102")).unwrap();
    common::tool("mount", &["-t", "tmpfs", "tmpfs", &on.text("102")]);
    on.done(&json!({"delete_dir": {"dir": on.text("102/7")}}));
}

/// A call finds what a killed one left and takes it away, for its own file only.
#[test]
fn leftovers_of_a_file_go_with_the_next_call_for_it() {
    let on = Datastores::new();
    on.raw_image();
    let dir = on.vm_dir();
    std::fs::write(dir.join(".causeway-tmp.disk.0.99-1-0"), b"half").unwrap();
    std::fs::create_dir_all(dir.join(".causeway-tmp.disk.0.99-1-1/disk.0.snap")).unwrap();
    std::fs::write(dir.join(".causeway-tmp.disk.1.99-1-0"), b"half").unwrap();
    on.perform(&on.flat(), &[]).unwrap();
    let left: Vec<_> = picture(&dir).into_keys().filter(|path| half_made(path)).collect();
    assert_eq!(left, [Path::new(".causeway-tmp.disk.1.99-1-0")]);
    on.done(&on.delete("disk.1"));
}

/// Neither a disk nor a VM's directory goes from under a guest, wherever in the chain it is.
#[test]
fn what_a_guest_has_open_is_not_removed() {
    use causeway_tm::host::{Worker, perform};
    use std::time::{Duration, Instant};
    for (open, format) in
        [("100/7/disk.0", "qcow2"), ("100/7/disk.0.snap/0", "qcow2"), ("100/7/disk.1", "raw")]
    {
        let on = Datastores::new();
        on.vm_with_disk(true, false);
        on.done(&on.snapshot("create", 0, true, false));
        std::fs::write(on.path("100/7/disk.1"), vec![1; 1 << 20]).unwrap();
        let before = on.picture();
        let guest = on.opened(format, open);
        let disk = if format == "raw" { "disk.1" } else { "disk.0" };
        for call in [on.delete(disk), on.delete_dir()] {
            // It is waited for while there is time: a guest may be about to end.
            let worker = Worker::new(&on.locks, Instant::now() + Duration::from_millis(500));
            let call = serde_json::from_value(call).unwrap();
            let failure = perform(&call, &[], &worker).unwrap_err();
            assert!(failure.text.contains("is open: a guest or a tool uses it"), "{open}: {failure}");
        }
        assert_eq!(on.picture(), before);
        drop(guest);
        on.done(&on.delete(disk));
        on.done(&on.delete_dir());
    }
}
