//! Snapshots of files: the layout that the contract gives them (TM 2.1), and what a guest reads afterwards.

#![cfg(test)]

mod common;

use std::os::unix::fs::symlink;

use common::{Datastores, MIB, chain, picture, tool};
use proptest::prelude::*;
use serde_json::json;

/// A VM's own copy of a qcow2 image, and the image itself as its disk.
fn chains() -> [(Datastores, bool); 2] {
    let copy = Datastores::new();
    copy.qcow2_image();
    copy.done(&copy.overlay());
    let persistent = Datastores::new();
    persistent.qcow2_image();
    persistent.done(&persistent.link("chain"));
    [(copy, false), (persistent, true)]
}

/// How the disk's layers name each other, from the top.
fn backing(on: &Datastores) -> Vec<String> {
    let text = |info: &serde_json::Value| info["backing-filename"].as_str().unwrap_or("").to_owned();
    let root = on.root.display().to_string();
    chain(&on.path("100/7/disk.0")).iter().map(|info| text(info).replace(&root, "ROOT")).collect()
}

#[test]
fn two_snapshots_have_the_layout_of_the_contract() {
    for (on, persistent) in chains() {
        for (id, byte) in (0..2).zip(1..) {
            on.guest_writes("qcow2", "100/7/disk.0", u64::from(id), byte);
            on.done(&on.snapshot("create", id, true, persistent));
        }
        let (link, layers) = if persistent {
            ("ROOT/1/abc.snap/2", vec!["ROOT/1/abc.snap/1", "ROOT/1/abc.snap/0", ""])
        } else {
            ("disk.0.snap/2", vec!["disk.0.snap/1", "disk.0.snap/0", "ROOT/1/abc", ""])
        };
        let target = on.target("100/7/disk.0").replace(on.root.to_str().unwrap(), "ROOT");
        assert_eq!((target.as_str(), backing(&on)), (link, layers.into_iter().map(str::to_owned).collect()));
        assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 3), [1, 2, 0]);
    }
}

#[test]
fn going_back_gives_what_was_and_the_snapshots_stay() {
    for (on, persistent) in chains() {
        for (id, byte) in (0..3).zip(10..) {
            on.guest_writes("qcow2", "100/7/disk.0", 0, byte);
            on.done(&on.snapshot("create", id, true, persistent));
        }
        on.guest_writes("qcow2", "100/7/disk.0", 0, 99);
        for (id, byte) in [(1, 11), (0, 10), (2, 12)] {
            on.done(&on.snapshot("revert", id, true, persistent));
            assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 1), [byte], "snapshot {id}");
        }
        on.guest_writes("qcow2", "100/7/disk.0", 1, 7);
        on.done(&on.snapshot("create", 3, true, persistent));
        assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 2), [12, 7]);
    }
}

/// oned gives the disk the SIZE of the snapshot that it went back to: a larger disk could not be given the next one.
#[test]
fn a_disk_goes_back_to_the_size_that_it_had() {
    for (qcow2, persistent) in [(true, false), (true, true), (false, false), (false, true)] {
        let on = Datastores::new();
        match qcow2 {
            true => on.qcow2_image(),
            false => drop(on.raw_image()),
        }
        let given = match (qcow2, persistent) {
            (_, true) => on.link(if qcow2 { "chain" } else { "image" }),
            (true, false) => on.overlay(),
            (false, false) => on.flat(),
        };
        on.done(&given);
        let format = if qcow2 { "qcow2" } else { "raw" };
        let mib = || chain(&on.path("100/7/disk.0"))[0]["virtual-size"].as_u64().unwrap() / MIB;
        let had = mib();
        on.done(&on.snapshot("create", 0, qcow2, persistent));
        on.done(&on.resize(qcow2, persistent, had + 8, true));
        on.guest_writes(format, "100/7/disk.0", (had + 7) * 16, 7);
        on.done(&on.snapshot("create", 1, qcow2, persistent));
        for (id, size) in [(0, had), (1, had + 8), (0, had)] {
            on.done(&on.snapshot("revert", id, qcow2, persistent));
            assert_eq!(mib(), size, "{format}, {persistent}, snapshot {id}");
        }
        on.done(&on.resize(qcow2, persistent, had + 4, true));
        on.done(&on.snapshot("delete", 1, qcow2, persistent));
        assert_eq!(mib(), had + 4);
    }
}

/// What was made from a snapshot keeps what it had from there, whichever goes first.
#[test]
fn a_deleted_snapshot_takes_nothing_with_it() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        for (on, persistent) in chains() {
            for (id, byte) in (0..3).zip(20..) {
                on.guest_writes("qcow2", "100/7/disk.0", u64::from(id), byte);
                on.done(&on.snapshot("create", id, true, persistent));
            }
            on.guest_writes("qcow2", "100/7/disk.0", 3, 23);
            for id in order {
                on.done(&on.snapshot("delete", id, true, persistent));
                assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 4), [20, 21, 22, 23], "{order:?} {id}");
                // Gone is gone.
                on.done(&on.snapshot("delete", id, true, persistent));
            }
            let left = if persistent { on.path("1/abc.snap") } else { on.path("100/7/disk.0.snap") };
            let numbers = std::fs::read_dir(left).unwrap().filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_str().unwrap().parse::<u32>().is_ok()
            });
            assert_eq!(numbers.count(), 1, "{order:?}");
            assert!(on.path("1/abc").exists());
            tool("qemu-img", &["check", "-q", "-f", "qcow2", &on.text("100/7/disk.0")]);
        }
    }
}

/// W17: what stock's deletion wrote as whole paths is understood, and written relative again.
#[test]
fn layers_named_by_whole_paths_are_understood() {
    let [(on, _), _] = chains();
    for (id, byte) in (0..2).zip(1..) {
        on.guest_writes("qcow2", "100/7/disk.0", u64::from(id), byte);
        on.done(&on.snapshot("create", id, true, false));
    }
    let whole = on.text("100/7/disk.0.snap/0");
    let layer = on.text("100/7/disk.0.snap/1");
    tool("qemu-img", &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &whole, &layer]);
    on.done(&on.snapshot("delete", 1, true, false));
    assert_eq!(backing(&on)[0], "disk.0.snap/0");
    assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 2), [1, 2]);
}

/// Stock's deletion under a running guest leaves a snapshot in another layer, and a pointer.
#[test]
fn a_snapshot_that_moved_is_found() {
    let [(on, _), _] = chains();
    for (id, byte) in (0..3).zip(30..) {
        on.guest_writes("qcow2", "100/7/disk.0", 0, byte);
        on.done(&on.snapshot("create", id, true, false));
    }
    // Snapshot 1 was committed into layer 0 when snapshot 0 went.
    let (zero, one, two) =
        (on.text("100/7/disk.0.snap/0"), on.text("100/7/disk.0.snap/1"), on.text("100/7/disk.0.snap/2"));
    tool("qemu-img", &["commit", "-q", "-f", "qcow2", "-d", &one]);
    tool("qemu-img", &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "disk.0.snap/0", &two]);
    std::fs::remove_file(&one).unwrap();
    std::fs::write(on.path("100/7/disk.0.snap/1.current"), format!("{zero}\n")).unwrap();
    on.done(&on.snapshot("revert", 1, true, false));
    assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 1), [31]);
    on.done(&on.snapshot("delete", 1, true, false));
    assert!(!on.path("100/7/disk.0.snap/1.current").exists() && !on.path("100/7/disk.0.snap/0").exists());
    assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 1), [31]);
    on.done(&on.snapshot("revert", 2, true, false));
    assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 1), [32]);
}

/// W2: going back changes the image, and the VM keeps its link to it.
#[test]
fn a_raw_image_goes_back_in_its_own_place() {
    let on = Datastores::new();
    let first = on.raw_image();
    on.done(&on.link("image"));
    on.done(&on.snapshot("create", 0, false, true));
    assert!(std::fs::read(on.path("1/abc.snap/0")).unwrap() == first);
    on.guest_writes("raw", "100/7/disk.0", 1, 77);
    on.done(&on.snapshot("revert", 0, false, true));
    assert!(std::fs::read(on.path("1/abc")).unwrap() == first);
    assert_eq!(on.target("100/7/disk.0"), on.text("1/abc"));
    on.done(&on.snapshot("delete", 0, false, true));
    assert!(!on.path("1/abc.snap/0").exists());
    on.done(&on.snapshot("delete", 0, false, true));
}

#[test]
fn a_raw_copy_goes_back_beside_its_image() {
    let on = Datastores::new();
    let first = on.raw_image();
    on.done(&on.flat());
    on.done(&on.snapshot("create", 4, false, false));
    on.guest_writes("raw", "100/7/disk.0", 1, 77);
    on.done(&on.snapshot("revert", 4, false, false));
    assert!(std::fs::read(on.path("100/7/disk.0")).unwrap() == first);
    assert!(std::fs::read(on.path("1/abc")).unwrap() == first);
    let failure = on.failure(&on.snapshot("revert", 5, false, false));
    assert!(failure.text.ends_with("disk.0: there is no snapshot 5 of it"), "{failure}");
}

/// States that the stock scripts can fall into, and what a template's owner could plant: refused with their names,
/// nothing changed.
#[test]
fn a_disk_that_is_not_what_it_should_be_is_refused() {
    type Spoil = fn(&Datastores);
    let spoils: [(&str, Spoil, &str); 10] = [
        (
            "a file of its own",
            |on| replace(on, "disk.0", |path| std::fs::write(path, "x").unwrap()),
            "file by itself",
        ),
        ("another VM's layer", |on| relink(on, "../8/disk.0.snap/1"), "no layer of it"),
        ("another image", |on| relink(on, &on.text("1/other")), "no layer of it"),
        ("nothing", |on| std::fs::remove_file(on.path("100/7/disk.0")).unwrap(), "there is no"),
        ("a layer that is gone", |on| relink(on, "disk.0.snap/9"), "which is not there"),
        ("a layer on itself", |on| rebase(on, "disk.0.snap/1", "disk.0.snap/1"), "stands on itself"),
        ("two on each other", |on| rebase(on, "disk.0.snap/0", "disk.0.snap/1"), "stands on itself"),
        ("a file outside", |on| rebase(on, "disk.0.snap/0", "/etc/passwd"), "/etc/passwd"),
        ("another VM's disk", |on| rebase(on, "disk.0.snap/0", &on.text("100/8/disk.0")), "100/8/disk.0"),
        (
            "a link for a layer",
            |on| replace(on, "disk.0.snap/0", |path| symlink("/etc/passwd", path).unwrap()),
            "it is a link to /etc/passwd",
        ),
    ];
    for (what, spoil, said) in spoils {
        for (order, id) in [("create", 1), ("revert", 0), ("delete", 0)] {
            let [(on, _), _] = chains();
            std::fs::create_dir(on.path("100/8")).unwrap();
            std::fs::write(on.path("100/8/disk.0"), "somebody's data").unwrap();
            on.done(&on.snapshot("create", 0, true, false));
            spoil(&on);
            let before = picture(&on.root);
            let failure = on.failure(&on.snapshot(order, id, true, false));
            assert!(failure.text.contains(said), "{what}, {order}: {failure}");
            assert_eq!(picture(&on.root), before, "{what}, {order}");
        }
    }
}

fn replace(on: &Datastores, name: &str, make: impl Fn(&std::path::Path)) {
    let path = on.path(&format!("100/7/{name}"));
    std::fs::remove_file(&path).unwrap();
    make(&path);
}

fn relink(on: &Datastores, target: &str) {
    replace(on, "disk.0", |path| symlink(target, path).unwrap());
}

fn rebase(on: &Datastores, layer: &str, backing: &str) {
    let layer = on.text(&format!("100/7/{layer}"));
    tool("qemu-img", &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, &layer]);
}

#[test]
fn the_wrong_snapshot_is_refused() {
    let [(on, _), _] = chains();
    on.done(&on.snapshot("create", 0, true, false));
    let before = picture(&on.root);
    for (order, id, said) in [
        ("revert", 1, "layer 1 is what it holds now, not snapshot 1"),
        ("revert", 7, "there is no snapshot 7 of it"),
        ("delete", 1, "layer 1 is what it holds now"),
        ("create", u32::MAX, "has no successor"),
    ] {
        let failure = on.failure(&on.snapshot(order, id, true, false));
        assert!(failure.text.contains(said), "{order} {id}: {failure}");
        assert_eq!(picture(&on.root), before);
    }
    // That one was made; whoever asks again did not hear of it.
    on.done(&on.snapshot("create", 0, true, false));
    assert_eq!(picture(&on.root), before);
}

/// A disk that QEMU has open is left alone.
#[test]
fn a_disk_in_use_is_refused() {
    for (on, persistent) in chains() {
        on.done(&on.snapshot("create", 0, true, persistent));
        let user = on.opened("qcow2", "100/7/disk.0");
        let calls = [
            on.snapshot("create", 1, true, persistent),
            on.snapshot("revert", 0, true, persistent),
            on.snapshot("delete", 0, true, persistent),
            on.resize(true, persistent, 64, true),
        ];
        for call in &calls {
            let failure = on.failure(call);
            assert!(failure.text.contains("is open: a guest or a tool uses it"), "{call}: {failure}");
        }
        drop(user);
        on.done(calls.last().unwrap());
    }
}

/// A layer that somebody has open is not taken away, whatever the disk's link says of it (W15).
#[test]
fn a_layer_in_use_is_not_removed() {
    let [(on, _), _] = chains();
    for id in 0..2 {
        on.done(&on.snapshot("create", id, true, false));
    }
    // The guest went on in layer 2; the link was left behind.
    relink(&on, "disk.0.snap/1");
    let guest = on.opened("qcow2", "100/7/disk.0.snap/2");
    for part in [json!({"remove_layer": {"id": 2}}), json!({"merged_layer": {"id": 1, "above": 2}})] {
        let failure = on.failure(&on.live(part));
        assert!(failure.text.contains("disk.0.snap/2 is open"), "{failure}");
        assert!(on.path("100/7/disk.0.snap/2").exists());
    }
    drop(guest);
}

#[derive(Debug, Clone)]
enum Deed {
    Write(u64, u8),
    Create,
    /// A snapshot fails: its number is not given out again.
    Fail,
    Revert(usize),
    Delete(usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        4 => (0_u64..4, 1_u8..200).prop_map(|(at, byte)| Deed::Write(at, byte)),
        3 => Just(Deed::Create),
        1 => Just(Deed::Fail),
        2 => any::<usize>().prop_map(Deed::Revert),
        2 => any::<usize>().prop_map(Deed::Delete),
    ];
    proptest::collection::vec(deed, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    /// Whatever is done in whatever order, the disk and every snapshot hold what a list of bytes says.
    #[test]
    fn any_life_of_a_disk_agrees_with_a_list(deeds in deeds(), persistent in any::<bool>(), raw in any::<bool>()) {
        let on = Datastores::new();
        let format = if raw { "raw" } else { "qcow2" };
        match (raw, persistent) {
            (false, false) => { on.qcow2("1/abc", "1M", None); on.done(&on.overlay()); }
            (false, true) => { on.qcow2("1/abc", "1M", None); on.done(&on.link("chain")); }
            (true, false) => { std::fs::write(on.path("1/abc"), vec![0; 1 << 20]).unwrap(); on.done(&on.flat()); }
            (true, true) => { std::fs::write(on.path("1/abc"), vec![0; 1 << 20]).unwrap(); on.done(&on.link("image")); }
        }
        let mut now = vec![0_u8; 4];
        let mut next = 0;
        let mut kept: Vec<(u32, Vec<u8>)> = Vec::new();
        for deed in deeds {
            match deed {
                Deed::Write(at, byte) => {
                    on.guest_writes(format, "100/7/disk.0", at, byte);
                    now[usize::try_from(at).unwrap()] = byte;
                }
                Deed::Create => {
                    on.done(&on.snapshot("create", next, !raw, persistent));
                    kept.push((next, now.clone()));
                    next += 1;
                }
                Deed::Fail => next += 1,
                Deed::Revert(which) if !kept.is_empty() => {
                    let (id, bytes) = kept[which % kept.len()].clone();
                    on.done(&on.snapshot("revert", id, !raw, persistent));
                    now = bytes;
                }
                Deed::Delete(which) if !kept.is_empty() => {
                    let (id, _) = kept.remove(which % kept.len());
                    on.done(&on.snapshot("delete", id, !raw, persistent));
                }
                _ => {}
            }
            prop_assert_eq!(on.guest_reads(format, "100/7/disk.0", 4), now.clone());
        }
        for (id, bytes) in kept {
            on.done(&on.snapshot("revert", id, !raw, persistent));
            prop_assert_eq!(on.guest_reads(format, "100/7/disk.0", 4), bytes);
        }
    }
}

/// oned gives numbers of snapshots that failed to no other one.
#[test]
fn a_snapshot_that_failed_leaves_the_next_one_its_way() {
    for (on, persistent) in chains() {
        on.guest_writes("qcow2", "100/7/disk.0", 0, 1);
        on.done(&on.snapshot("create", 0, true, persistent));
        on.guest_writes("qcow2", "100/7/disk.0", 0, 2);
        // Snapshot 1 failed after its layer was made, and 2 before.
        let snap = if persistent { "1/abc.snap" } else { "100/7/disk.0.snap" };
        let below = if persistent { on.text("1/abc.snap/1") } else { "disk.0.snap/1".to_owned() };
        let layer = on.text(&format!("{snap}/2"));
        tool("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &below, &layer]);
        on.done(&on.snapshot("create", 3, true, persistent));
        assert!(!on.path(&format!("{snap}/2")).exists() && on.target("100/7/disk.0").ends_with("/4"));
        // Whoever did not hear of it asks again.
        on.done(&on.snapshot("create", 3, true, persistent));
        on.guest_writes("qcow2", "100/7/disk.0", 0, 3);
        for (id, byte) in [(3, 2), (0, 1)] {
            on.done(&on.snapshot("revert", id, true, persistent));
            assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 1), [byte], "snapshot {id}");
        }
        // One that a guest wrote to is somebody's.
        let layer = on.text(&format!("{snap}/5"));
        let below = if persistent { on.text("1/abc.snap/4") } else { "disk.0.snap/4".to_owned() };
        tool("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &below, &layer]);
        tool("qemu-io", &["-f", "qcow2", "-c", "write -q -P 9 0 64k", &layer]);
        let before = picture(&on.root);
        let failure = on.failure(&on.snapshot("create", 6, true, persistent));
        assert!(failure.text.contains("layer 5 has something of its own"), "{failure}");
        assert_eq!(picture(&on.root), before);
    }
}

#[test]
fn a_grown_disk_has_room_and_its_bytes() {
    for (on, persistent) in chains() {
        on.guest_writes("qcow2", "100/7/disk.0", 2, 5);
        for sparse in [true, false] {
            let size = if sparse { 32 } else { 48 };
            on.done(&on.resize(true, persistent, size, sparse));
            // Again is nothing.
            on.done(&on.resize(true, persistent, size, sparse));
            assert_eq!(chain(&on.path("100/7/disk.0"))[0]["virtual-size"], json!(size * MIB));
        }
        assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 3), [0, 0, 5]);
        let failure = on.failure(&on.resize(true, persistent, 16, true));
        assert!(failure.text.contains("a disk only grows"), "{failure}");
    }
    let on = Datastores::new();
    let bytes = on.raw_image();
    on.done(&on.link("image"));
    on.done(&on.resize(false, true, 8, true));
    let grown = std::fs::read(on.path("1/abc")).unwrap();
    assert!(grown.starts_with(&bytes) && grown.len() as u64 == 8 * MIB);
    on.done(&on.resize(false, true, 9, false));
    assert!(common::blocks(&on.path("1/abc")) >= MIB);
}

/// A guest may write any header into a plain disk: it stays plain bytes.
#[test]
fn a_plain_disk_that_looks_like_an_image_grows_as_bytes() {
    let on = Datastores::new();
    on.qcow2("1/abc", "64M", Some(("raw", "/etc/passwd")));
    on.done(&on.link("image"));
    on.done(&on.resize(false, true, 4, true));
    assert_eq!(on.path("1/abc").metadata().unwrap().len(), 4 * MIB);
    on.done(&on.snapshot("create", 0, false, true));
    on.done(&on.snapshot("revert", 0, false, true));
    assert_eq!(on.path("1/abc").metadata().unwrap().len(), 4 * MIB);
}

/// An image made of a disk stands alone, and holds what the disk or the snapshot held.
#[test]
fn a_disk_and_its_snapshots_become_images() {
    for (on, persistent) in chains() {
        on.guest_writes("qcow2", "100/7/disk.0", 0, 1);
        on.done(&on.snapshot("create", 0, true, persistent));
        on.guest_writes("qcow2", "100/7/disk.0", 0, 2);
        for (snapshot, byte) in [(Some(0), 1), (None, 2)] {
            on.done(&on.save(true, persistent, snapshot, "1/saved"));
            let info = chain(&on.path("1/saved"));
            assert_eq!((info.len(), &info[0]["format"]), (1, &json!("qcow2")));
            assert_eq!(on.guest_reads("qcow2", "1/saved", 1), [byte]);
        }
        let before = picture(&on.path("1"));
        for (call, said) in [
            (on.save(true, persistent, Some(5), "1/saved"), "there is no snapshot 5 of it"),
            (on.save(true, persistent, None, "9/saved"), "datastore 9 is not on this host"),
        ] {
            let failure = on.failure(&call);
            assert!(failure.text.contains(said), "{failure}");
        }
        assert_eq!(picture(&on.path("1")), before);
    }
    for persistent in [false, true] {
        let on = Datastores::new();
        let bytes = on.raw_image();
        on.done(&if persistent { on.link("image") } else { on.flat() });
        on.done(&on.snapshot("create", 3, false, persistent));
        on.guest_writes("raw", "100/7/disk.0", 1, 9);
        on.done(&on.save(false, persistent, Some(3), "1/saved"));
        assert!(std::fs::read(on.path("1/saved")).unwrap() == bytes);
        on.done(&on.save(false, persistent, None, "1/saved"));
        assert!(
            std::fs::read(on.path("1/saved")).unwrap() == std::fs::read(on.path("100/7/disk.0")).unwrap()
        );
        // Onto itself is nothing.
        let before = picture(&on.root);
        if persistent {
            on.done(&on.save(false, persistent, None, "1/abc"));
            assert_eq!(picture(&on.root), before);
        }
    }
}
