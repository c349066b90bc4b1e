//! What a removal and a replacement must leave: what goes to the trash, and what somebody else's volumes stand on. On a real
//! cluster.

#![cfg(test)]

mod ceph;

use ceph::{Stage, cluster};
use serde_json::json;

/// W24: what lies in the trash stands on nothing, so that an image can become a persistent disk; and it can be had back,
/// with its snapshots.
#[test]
fn what_is_in_the_trash_is_whole_and_holds_up_nobody() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.family();
    let before = on.picture();
    // Of a call that was killed: nobody's.
    on.rbd(&format!("snap create --no-progress {}@causeway-tmp.1-1-1", on.disk()));
    on.done(on.remove(&on.disk(), true));
    assert_eq!(on.picture().keys().collect::<Vec<_>>(), ["one-5"]);
    on.done(on.link());
    from_trash(&on);
    let back = on.picture();
    for name in ["one-5-7-0", "one-5-7-0-2", "one-5-7-0-0:1"] {
        assert_eq!((&back[name].content, &back[name].parent), (&before[name].content, &None), "{name}");
        assert_eq!(back[name].snapshots, before[name].snapshots, "{name}");
    }
    // The disk can be used again: it goes back to a snapshot of a volume that came back with it.
    on.done(on.snapshot("revert", 1));
    assert_eq!(on.picture()["one-5-7-0"].content, "caaa");
}

/// Such a volume is made whole, and its snapshots are not: in the trash they would hold up the image.
#[test]
fn snapshots_without_deep_flatten_do_not_go_to_the_trash() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    on.done(on.clone(None));
    on.rbd(&format!("rm --no-progress {}", on.disk()));
    on.rbd(&format!("clone --image-feature layering {}@snap {}", on.source(), on.disk()));
    on.done(on.snapshot("create", 0));
    on.write(&on.disk(), b'd');
    on.done(on.remove(&on.disk(), true));
    on.done(on.link());
    from_trash(&on);
    let disk = &on.picture()["one-5-7-0"];
    assert_eq!((disk.content.as_str(), &disk.parent, disk.snapshots.len()), ("daaa", &None, 0));
}

/// Brings the volumes of a disk back from the trash.
fn from_trash(on: &Stage) {
    let base = on.disk()[4..].to_owned();
    for entry in on.json("trash ls one").as_array().unwrap() {
        if entry["name"].as_str().unwrap().starts_with(&base) {
            on.rbd(&format!("trash restore one/{}", entry["id"].as_str().unwrap()));
        }
    }
}

/// Was replaced first, and could not be removed then: every try more failed.
#[test]
fn what_others_stand_on_is_not_replaced() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.snapshots();
    on.done(on.snapshot("revert", 0));
    let (older, mine) = (format!("{}-0:1", on.disk()), format!("more/mine-{}", on.image));
    on.rbd(&format!("clone {older}@1 {mine}"));
    let before = on.picture();
    for call in [on.clone(None), on.make(4, json!("empty")), on.remove(&on.disk(), false)] {
        let said = on.failure(call).text;
        assert!(said.contains(&format!("{older}@1 is still needed by {mine}: remove what is")), "{said}");
        assert_eq!(on.picture(), before);
    }
    on.rbd(&format!("rm --no-progress {mine}"));
    // A snapshot that oned does not count: with the volume that has none it counts it would go.
    on.rbd(&format!("snap create --no-progress {}@admin", on.disk()));
    on.rbd(&format!("snap protect {}@admin", on.disk()));
    on.rbd(&format!("clone {}@admin {mine}", on.disk()));
    let before = on.picture();
    let said = on.failure(on.snapshot("revert", 1)).text;
    assert!(said.contains(&format!("{}@admin is still needed by {mine}", on.disk())), "{said}");
    assert_eq!(on.picture(), before);
    on.rbd(&format!("rm --no-progress {mine}"));
    on.done(on.snapshot("revert", 1));
    on.done(on.clone(None));
    assert_eq!(on.picture()["one-5-7-0"].content, "aaaa");
}

/// A volume that is marked as given up goes with its last snapshot, whoever removes that: one that is to stay has no mark.
#[test]
fn a_snapshot_that_can_t_go_leaves_no_mark() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.family();
    let (older, mine) = (format!("{}-2", on.disk()), format!("more/mine-{}", on.image));
    let marks = || String::from_utf8(on.rbd(&format!("image-meta ls {older}"))).unwrap();
    on.rbd(&format!("clone {older}@2 {mine}"));
    let before = on.picture();
    let mut passed = Vec::new();
    let passing = std::cell::RefCell::new(&mut passed);
    let refused = on.perform_at(&on.snapshot("delete", 2), &|point| passing.borrow_mut().push(point));
    let said = refused.unwrap_err().text;
    assert!(said.contains(&format!("{older}@2 is still needed by {mine}")), "{said}");
    assert_eq!((passed.as_slice(), on.picture()), (&["volumes read"][..], before.clone()));
    on.rbd(&format!("rm --no-progress {mine}"));
    // Somebody protects it again under way.
    let protects = |point: &str| {
        if point == "volume marked" {
            assert!(marks().contains("causeway.given-up"));
            on.rbd(&format!("snap protect {older}@2"));
        }
    };
    let said = on.perform_at(&on.snapshot("delete", 2), &|point| protects(point)).unwrap_err().text;
    assert!(said.starts_with(&format!("rbd snap rm of {older}@2: ")), "{said}");
    assert!(!marks().contains("causeway"), "{}", marks());
    assert_eq!(on.picture(), before);
    on.done(on.snapshot("delete", 2));
    assert!(!on.picture().contains_key("one-5-7-0-2"));
}
