//! Snapshots of images that no VM has (contract TM 3.2), on real files.

#![cfg(test)]

mod common;

use std::path::{Path, PathBuf};

use causeway_core::answer::Kind;
use common::images::{Images, raw_of};
use common::{Datastores, chain, picture};

/// W5: an image of format qcow2 in a datastore whose transfer manager is called `shared`.
#[test]
fn a_chain_goes_back_and_its_base_stays() {
    let on = Datastores::new();
    on.chained_image();
    std::fs::write(on.path("1/abc.md5sum"), b"old").unwrap();
    let base = std::fs::read(on.path("1/abc")).unwrap();
    let first = raw_of(&on.path("1/abc.snap/1"), "qcow2");
    on.done(&on.image_snapshot(true, "revert", 1));
    assert!(raw_of(&on.path("1/abc.snap/2"), "qcow2") == first);
    assert!(std::fs::read(on.path("1/abc")).unwrap() == base);
    assert_eq!(chain(&on.path("1/abc.snap/2")).len(), 3);
    assert!(!on.path("1/abc.md5sum").exists());
    for call in [on.image_snapshot(true, "revert", 7), on.image_snapshot(true, "revert", 2)] {
        assert_eq!(on.failure(&call).kind, Kind::HostState);
    }
}

/// W34: a snapshot whose layer was merged into another one is found where it is.
#[test]
fn a_pointer_to_another_layer_is_followed() {
    for order in ["revert", "delete", "flatten"] {
        let on = Datastores::new();
        on.chained_image();
        // As stock's live deletion leaves it: what was snapshot 0 is in layer 1 now... under the name of snapshot 5.
        std::fs::write(on.path("1/abc.snap/5.current"), on.text("1/abc.snap/1")).unwrap();
        let first = raw_of(&on.path("1/abc.snap/1"), "qcow2");
        let newest = raw_of(&on.path("1/abc.snap/2"), "qcow2");
        on.done(&on.image_snapshot(true, order, 5));
        match order {
            "revert" => assert!(raw_of(&on.path("1/abc.snap/2"), "qcow2") == first),
            "delete" => {
                assert!(raw_of(&on.path("1/abc.snap/2"), "qcow2") == newest);
                assert!(!on.path("1/abc.snap/1").exists() && !on.path("1/abc.snap/5.current").exists());
            }
            _ => {
                assert!(raw_of(&on.path("1/abc"), "qcow2") == first);
                assert!(!on.path("1/abc.snap").exists());
            }
        }
    }
}

#[test]
fn a_flat_image_is_what_its_snapshot_was_and_has_none() {
    let on = Datastores::new();
    on.chained_image();
    let first = raw_of(&on.path("1/abc.snap/1"), "qcow2");
    let failure = on.failure(&on.image_snapshot(true, "flatten", 9));
    assert!(failure.text.contains("there is no snapshot 9"), "{}", failure.text);
    for _ in 0..2 {
        on.done(&on.image_snapshot(true, "flatten", 1));
        assert!(raw_of(&on.path("1/abc"), "qcow2") == first);
        assert_eq!(chain(&on.path("1/abc")).len(), 1);
        let left: Vec<PathBuf> = picture(&on.path("1")).into_keys().collect();
        assert_eq!(left, [Path::new("abc")]);
    }
}

#[test]
fn whole_copies_go_back_are_forgotten_and_become_the_image() {
    let on = Datastores::new();
    on.raw_image();
    std::fs::create_dir(on.path("1/abc.snap")).unwrap();
    for id in 0..3 {
        std::fs::write(on.path(&format!("1/abc.snap/{id}")), format!("snapshot {id}")).unwrap();
    }
    on.done(&on.image_snapshot(false, "revert", 1));
    assert_eq!(std::fs::read(on.path("1/abc")).unwrap(), b"snapshot 1");
    assert!(on.path("1/abc.snap/1").exists());
    on.done(&on.image_snapshot(false, "delete", 0));
    on.done(&on.image_snapshot(false, "delete", 0));
    assert!(!on.path("1/abc.snap/0").exists());
    assert!(on.failure(&on.image_snapshot(false, "flatten", 0)).text.contains("no snapshot 0"));
    for _ in 0..2 {
        on.done(&on.image_snapshot(false, "flatten", 2));
        assert_eq!(std::fs::read(on.path("1/abc")).unwrap(), b"snapshot 2");
        assert!(!on.path("1/abc.snap").exists());
    }
}
