//! Moves of a VM's directory, images given back, empty disks: what they leave, and what they refuse.

#![cfg(test)]

mod common;

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use common::{Datastores, MIB, chain, inside_tmpfs, picture, tool};
use serde_json::json;

#[test]
fn a_directory_moves_with_its_chain() {
    for across in [false, true] {
        let on = Datastores::new();
        on.qcow2_image();
        on.done(&on.overlay());
        on.guest_writes("qcow2", "100/7/disk.0", 1, 5);
        on.done(&on.snapshot("create", 0, true, false));
        // As the stock deletion of a snapshot leaves it (W17): that would lead back to the old directory.
        let (zero, one) = (on.text("100/7/disk.0.snap/0"), on.text("100/7/disk.0.snap/1"));
        tool("qemu-img", &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &zero, &one]);
        if across {
            on.mount_101();
        }
        on.done(&on.move_dir("101/7"));
        assert!(!on.path("100/7").exists());
        assert_eq!(on.guest_reads("qcow2", "101/7/disk.0", 2), [0, 5]);
        assert_eq!(chain(&on.path("101/7/disk.0"))[0]["backing-filename"], "disk.0.snap/0");
        let before = on.picture();
        on.done(&on.move_dir("101/7"));
        assert_eq!(on.picture(), before);
    }
}

#[test]
fn holes_stay_holes_on_the_way() {
    let on = Datastores::new();
    std::fs::create_dir(on.path("100/7")).unwrap();
    std::fs::File::create(on.path("100/7/disk.0")).unwrap().set_len(64 * MIB).unwrap();
    on.mount_101();
    on.done(&on.move_dir("101/7"));
    let moved = on.path("101/7/disk.0").metadata().unwrap();
    assert_eq!((moved.len(), moved.blocks()), (64 * MIB, 0));
}

/// W18: nothing moves into or over another directory.
#[test]
fn a_directory_never_moves_over_another() {
    for across in [false, true] {
        let on = Datastores::new();
        on.vm_dir();
        std::fs::write(on.path("100/7/disk.0"), "mine").unwrap();
        if across {
            on.mount_101();
        }
        std::fs::create_dir(on.path("101/7")).unwrap();
        std::fs::write(on.path("101/7/disk.0"), "somebody's data").unwrap();
        // A word of another origin makes it no copy of ours.
        std::fs::write(on.path("101/7/.causeway-origin"), "/elsewhere/100/7").unwrap();
        let failure = on.failure(&on.move_dir("101/7"));
        assert!(failure.text.contains("both") && failure.text.contains("are there"), "{failure}");
        assert_eq!(std::fs::read_to_string(on.path("101/7/disk.0")).unwrap(), "somebody's data");
        assert_eq!(std::fs::read_to_string(on.path("100/7/disk.0")).unwrap(), "mine");
    }
    let on = Datastores::new();
    assert!(on.failure(&on.move_dir("101/7")).text.starts_with("there is no"));
    let gone = on.failure(&on.move_dir("102/7"));
    assert!(gone.text.contains("datastore 102 is not on this host"), "{gone}");
}

/// What a full destination leaves: the source, whole, and nothing else.
#[test]
fn a_full_destination_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    inside_tmpfs("full_destination", dir.path(), "4m");
}

#[test]
#[ignore = "run by the test above, in a namespace of its own"]
fn full_destination() {
    let small = std::env::var("CAUSEWAY_TEST_DIR").unwrap();
    let on = Datastores::new();
    on.vm_dir();
    std::fs::write(on.path("100/7/disk.0"), vec![1; 8 << 20]).unwrap();
    std::fs::remove_dir(on.path("101")).unwrap();
    symlink(&small, on.path("101")).unwrap();
    let failure = on.failure(&on.move_dir("101/7"));
    assert!(failure.text.contains("No space left"), "{failure}");
    assert_eq!(on.path("100/7/disk.0").metadata().unwrap().len(), 8 << 20);
    assert!(!on.path("101/7").exists());
    // Nor does a snapshot that has no room, or a disk.
    let there = on.path("101");
    std::fs::create_dir(there.join("7")).unwrap();
    std::fs::write(there.join("7/disk.0"), vec![1; 3 << 20]).unwrap();
    let call = json!({"snapshot": {"file": on.text("101/7/disk.0"), "kept": "beside", "chain": false,
                                   "order": "create", "id": 0}});
    assert!(on.failure(&call).text.contains("No space left"));
    assert!(!there.join("7/disk.0.snap/0").exists());
    let call = json!({"resize": {"file": on.text("101/7/disk.0"), "kept": "beside", "qcow2": false,
                                 "size_mb": 8, "sparse": false}});
    assert!(on.failure(&call).text.contains("No space left"));
    assert_eq!(there.join("7/disk.0").metadata().unwrap().len(), 3 << 20);
}

/// W1: the link goes, and the image is untouched.
#[test]
fn an_image_is_given_back() {
    for layout in ["image", "chain"] {
        let on = Datastores::new();
        on.qcow2_image();
        on.done(&on.link(layout));
        let image = picture(&on.path("1"));
        on.done(&on.give_back());
        assert_eq!(picture(&on.path("1")), image);
        assert_eq!(picture(&on.path("100/7")).len(), 0);
        on.done(&on.give_back());
    }
}

/// W2: stock leaves a private copy where a link should be; what the guest wrote would be lost with it.
#[test]
fn a_disk_that_is_not_the_image_is_not_given_back() {
    let on = Datastores::new();
    on.qcow2_image();
    let disk = on.vm_dir().join("disk.0");
    std::fs::write(&disk, "what the guest wrote").unwrap();
    let failure = on.failure(&on.give_back());
    assert!(failure.text.contains("copy it over the image or take it away"), "{failure}");
    assert_eq!(std::fs::read_to_string(&disk).unwrap(), "what the guest wrote");
    for target in
        [on.text("1/other"), on.text("1/abc.snap/x"), "disk.0.snap/0".to_owned(), "/etc/passwd".to_owned()]
    {
        std::fs::remove_file(&disk).unwrap();
        symlink(&target, &disk).unwrap();
        let failure = on.failure(&on.give_back());
        assert!(failure.text.contains(&format!("leads to {target}")), "{failure}");
        assert!(disk.is_symlink());
    }
    // Made before the datastores were moved to another place.
    std::fs::remove_file(&disk).unwrap();
    symlink("/old/place/1/abc.snap/12", &disk).unwrap();
    on.done(&on.give_back());
    assert!(!disk.is_symlink());
}

#[test]
fn empty_disks_are_what_they_are_called() {
    let kinds = |disk: &Path| tool("blkid", &["-p", "-s", "TYPE", "-o", "value", disk.to_str().unwrap()]);
    for kind in ["ext2", "ext3", "ext4"] {
        let on = Datastores::new();
        on.done(&on.make(false, json!({"file_system": {"kind": kind, "options": ["-b", "1024"]}})));
        let disk = on.path("100/7/disk.0");
        assert_eq!(kinds(&disk).trim(), kind);
        assert_eq!(disk.metadata().unwrap().len(), 16 * MIB);
        assert!(tool("dumpe2fs", &["-h", disk.to_str().unwrap()]).contains("Block size:               1024"));
    }
    let on = Datastores::new();
    on.done(&on.make(false, json!("swap")));
    assert_eq!(kinds(&on.path("100/7/disk.0")).trim(), "swap");
    on.done(&on.make(true, json!({"file_system": {"kind": "ext4"}})));
    let info = chain(&on.path("100/7/disk.0"));
    assert_eq!((info.len(), &info[0]["format"]), (1, &json!("qcow2")));
    assert_eq!(info[0]["virtual-size"], json!(16 * MIB));
    let raw = on.root.join("raw");
    tool("qemu-img", &["convert", "-O", "raw", &on.text("100/7/disk.0"), raw.to_str().unwrap()]);
    assert_eq!(kinds(&raw).trim(), "ext4");
}

/// W1 again: `mkimage` through an old link would write over the image.
#[test]
fn an_empty_disk_takes_a_stale_link_s_place() {
    for (qcow2, blank) in [(false, json!("empty")), (true, json!("empty")), (false, json!("swap"))] {
        let on = Datastores::new();
        on.qcow2_image();
        on.done(&on.link("chain"));
        let image = picture(&on.path("1"));
        on.done(&on.make(qcow2, blank));
        assert_eq!(picture(&on.path("1")), image);
        assert!(on.path("100/7/disk.0").symlink_metadata().unwrap().is_file());
    }
    let on = Datastores::new();
    let failure = on.failure(&on.make(false, json!({"file_system": {"kind": "nosuchfs"}})));
    assert!(failure.text.contains("mkfs.nosuchfs"), "{failure}");
    let failure =
        on.failure(&on.make(true, json!({"file_system": {"kind": "ext4", "options": ["-b", "7"]}})));
    assert!(
        failure.text.starts_with("mkfs.ext4 of") && failure.text.contains("invalid block size"),
        "{failure}"
    );
    assert!(!on.path("100/7").exists());
}

/// A disk is never saved over what it stands on itself.
#[test]
fn a_disk_is_not_saved_over_its_own_image() {
    for persistent in [false, true] {
        let on = Datastores::new();
        on.qcow2_image();
        on.done(&if persistent { on.link("chain") } else { on.overlay() });
        on.done(&on.snapshot("create", 0, true, persistent));
        on.guest_writes("qcow2", "100/7/disk.0", 0, 7);
        let before = on.picture();
        let failure = on.failure(&on.save(true, persistent, None, "1/abc"));
        let said = if persistent { "it has snapshots" } else { "stands on it" };
        assert!(failure.text.contains(said), "{failure}");
        if persistent {
            // The first snapshot of an image is the image.
            on.done(&on.save(true, persistent, Some(0), "1/abc"));
        } else {
            assert!(on.failure(&on.save(true, persistent, Some(0), "1/abc")).text.contains(said));
        }
        assert_eq!(on.picture(), before);
        on.done(&on.save(true, persistent, None, "1/saved"));
    }
}

/// Was answered in QEMU's words, or, of a disk that is a file by itself, with what the disk holds now.
#[test]
fn what_is_called_qcow2_and_is_none_is_not_saved() {
    let refused = |on: &Datastores, persistent: bool, snapshot: Option<u32>, named: &str, says: &str| {
        let before = on.picture();
        let said = on.failure(&on.save(true, persistent, snapshot, "1/saved")).text;
        let begins = format!("{}: {says}", on.text(named));
        assert!(said.starts_with(&begins), "{said}");
        assert_eq!(on.picture(), before);
    };
    let raw = "oned says that it is qcow2 (FORMAT, of older images DRIVER), and it is plain bytes (raw). Only a qcow2 image \
               is accepted here: ";
    // A copy of a raw image, with a snapshot that is a copy, too.
    let on = Datastores::new();
    on.raw("1/abc");
    on.done(&on.flat());
    on.done(&on.snapshot("create", 0, false, false));
    refused(&on, false, Some(0), "100/7/disk.0", raw);
    refused(&on, false, None, "100/7/disk.0", raw);
    on.done(&on.save(false, false, Some(0), "1/saved"));
    // A raw image itself as the disk: what is its first layer.
    let on = Datastores::new();
    on.raw("1/abc");
    on.done(&on.link("chain"));
    on.done(&on.snapshot("create", 0, true, true));
    refused(&on, true, Some(0), "1/abc.snap/0", raw);
    // A layer that somebody has written over.
    let [vhdx, raw_layer] = ["vhdxfile", "anything"].map(|bytes| {
        let on = Datastores::new();
        on.qcow2_image();
        on.done(&on.overlay());
        on.done(&on.snapshot("create", 0, true, false));
        std::fs::write(on.path("100/7/disk.0.snap/0"), bytes).unwrap();
        on
    });
    refused(&vhdx, false, Some(0), "100/7/disk.0.snap/0", &raw.replace("plain bytes (raw)", "a vhdx image"));
    refused(&raw_layer, false, Some(0), "100/7/disk.0.snap/0", raw);
    // Snapshots are layers, and it has none.
    let on = Datastores::new();
    on.done(&on.make(true, json!("empty")));
    on.done(&on.save(true, false, None, "1/saved"));
    let says = "it is a file by itself, not a link to the newest of its layers";
    refused(&on, false, Some(0), "100/7/disk.0", says);
}
