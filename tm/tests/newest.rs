//! What an image holds last is what anybody makes of it, also when the snapshots that its layers were made for are gone.

#![cfg(test)]

mod common;

use common::images::{Images, raw_of};
use common::{Datastores, chain, tool};
use serde_json::{Value, json};

/// An image whose guest wrote after a snapshot that is gone: oned knows of none, and the data are in a layer.
fn written() -> Datastores {
    let on = Datastores::new();
    on.qcow2_image();
    on.done(&on.link("chain"));
    on.done(&on.snapshot("create", 0, true, true));
    on.guest_writes("qcow2", "100/7/disk.0", 2, 0x77);
    on.done(&on.snapshot("delete", 0, true, true));
    on.done(&on.give_back());
    on
}

fn whole_copy(on: &Datastores) -> Value {
    on.clone(json!("standalone"), "disk.0", None, true)
}

#[test]
fn copies_are_of_what_the_guest_wrote_last() {
    for copy in [Datastores::overlay, whole_copy] {
        let on = written();
        on.done(&copy(&on));
        assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 3), [0, 0, 0x77]);
    }
    let on = written();
    on.done(&on.copy("qcow2", "qcow2"));
    assert!(raw_of(&on.path("1/new"), "qcow2") == raw_of(&on.path("1/abc.snap/1"), "qcow2"));
}

/// A copy that stands on a layer is one like any other: snapshots, resizing, saving; the image stays as it is.
#[test]
fn an_overlay_of_the_newest_layer_lives_as_any_other() {
    let on = written();
    let before = on.picture();
    on.done(&on.overlay());
    assert_eq!(chain(&on.path("100/7/disk.0"))[0]["backing-filename"], on.text("1/abc.snap/1"));
    on.done(&on.snapshot("create", 0, true, false));
    on.guest_writes("qcow2", "100/7/disk.0", 0, 5);
    on.done(&on.snapshot("revert", 0, true, false));
    on.done(&on.resize(true, false, 20, true));
    on.guest_writes("qcow2", "100/7/disk.0", 1, 6);
    on.done(&on.snapshot("delete", 0, true, false));
    on.done(&on.save(true, false, None, "1/saved"));
    assert_eq!(on.guest_reads("qcow2", "1/saved", 3), [0, 6, 0x77]);
    on.done(&on.delete("disk.0"));
    let now = on.picture();
    assert!(before.iter().all(|(path, text)| path.starts_with("100") || now.get(path) == Some(text)));
    // The image itself, for a VM that is its only one now.
    on.done(&on.link("chain"));
    on.guest_writes("qcow2", "100/7/disk.0", 0, 9);
    assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 3), [9, 0, 0x77]);
    on.done(&on.give_back());
    on.done(&on.remove());
    assert!(!on.path("1/abc.snap").exists());
}

/// As the image's last guest left it: larger.
#[test]
fn an_image_that_grew_in_a_layer_has_its_new_size() {
    let on = Datastores::new();
    on.qcow2_image();
    on.done(&on.link("chain"));
    on.done(&on.snapshot("create", 0, true, true));
    on.done(&on.resize(true, true, 24, true));
    on.done(&on.give_back());
    on.done(&on.overlay());
    assert_eq!(chain(&on.path("100/7/disk.0"))[0]["virtual-size"], 24 << 20);
}

/// As many layers as a guest is started on, and no more; said before anything is made.
#[test]
fn a_disk_gets_no_more_snapshots_than_it_can_be_started_with() {
    let on = Datastores::new();
    on.qcow2_image();
    on.done(&on.link("chain"));
    let layers = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            let below = on.text(&format!("1/abc.snap/{}", number - 1));
            on.qcow2(&format!("1/abc.snap/{number}"), "16M", Some(("qcow2", &below)));
        }
    };
    layers(1..255);
    on.done(&on.link("chain"));
    on.done(&on.snapshot("create", 254, true, true));
    let before = on.picture();
    let live = json!({"live": {
        "file": on.text("100/7/disk.0"), "kept": {"with_image": on.text("1/abc")}, "part": {"make_layer": {"id": 255}}
    }});
    for call in [on.snapshot("create", 255, true, true), live] {
        let failure = on.failure(&call);
        assert!(failure.text.contains("it has too many snapshots, delete some of them first"), "{failure}");
    }
    on.done(&on.save(true, true, None, "1/saved"));
    std::fs::remove_file(on.path("1/saved")).unwrap();
    on.done(&on.link("chain"));
    assert_eq!(on.picture(), before);
    let failure = on.failure(&on.clone(json!({"overlay": {}}), "disk.1", None, true));
    assert!(failure.text.contains("too many snapshots"), "{failure}");
    // One that is longer, of an earlier build, is not endless, and can be mended.
    layers(256..257);
    let failure = on.failure(&on.link("chain"));
    assert!(
        failure.text.contains("too many snapshots") && !failure.text.contains("does not end"),
        "{failure}"
    );
    on.done(&on.image_snapshot(true, "delete", 255));
    on.done(&on.link("chain"));
    tool("qemu-img", &["info", "-U", &on.text("100/7/disk.0")]);
}

/// An admin moves all datastores, and leaves a link: names of the old place are of the same files.
#[test]
fn datastores_that_moved_and_left_a_link_have_the_same_disks() {
    for persistent in [true, false] {
        let mut on = Datastores::new();
        on.qcow2_image();
        on.done(&if persistent { on.link("chain") } else { on.overlay() });
        on.done(&on.snapshot("create", 0, true, persistent));
        on.guest_writes("qcow2", "100/7/disk.0", 0, 1);
        on.done(&on.snapshot("create", 1, true, persistent));
        let (old, new) = (on.root.clone(), on.root.with_file_name("moved"));
        std::fs::rename(&old, &new).unwrap();
        std::os::unix::fs::symlink(&new, &old).unwrap();
        on.root = new;
        on.done(&on.snapshot("create", 2, true, persistent));
        on.guest_writes("qcow2", "100/7/disk.0", 1, 2);
        for id in [0, 2, 1] {
            on.done(&on.snapshot("delete", id, true, persistent));
            assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 3), [1, 2, 0], "{persistent} {id}");
        }
        if persistent {
            on.done(&on.link("chain"));
            on.done(&on.give_back());
        }
    }
}
