//! The life of a VM's disks on a real cluster: what each call leaves there, by names, snapshots, protection, parents and
//! content.

#![cfg(test)]

mod ceph;

use std::process::Command;
use std::time::Duration;

use causeway_core::answer::Kind;
use ceph::{Picture, Seen, Stage, at_once, cluster};
use serde_json::json;

/// Name, size in MiB, parent, snapshots with content (all protected), content.
type Line<'a> = (&'a str, u64, Option<&'a str>, &'a [(&'a str, &'a str)], &'a str);

fn expected(lines: &[Line<'_>]) -> Picture {
    let snapshot = |(name, content): &(&str, &str)| ((*name).to_owned(), true, (*content).to_owned());
    let seen = |(name, size, parent, snapshots, content): &Line<'_>| {
        let seen = Seen {
            size: *size,
            parent: parent.map(str::to_owned),
            data_pool: None,
            snapshots: snapshots.iter().map(snapshot).collect(),
            content: (*content).to_owned(),
        };
        ((*name).to_owned(), seen)
    };
    lines.iter().map(seen).collect()
}

const IMAGE: Line<'_> = ("one-5", 4, None, &[("snap", "aaaa")], "aaaa");

#[test]
fn a_disk_of_its_own_from_deploy_to_terminate() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    let disk = on.disk();
    on.done(on.clone(Some(6)));
    let image: Option<&str> = Some("one-5@snap");
    assert_eq!(on.picture(), expected(&[IMAGE, ("one-5-7-0", 6, image, &[], "aaaa..")]));

    for (id, byte) in [(0, b'b'), (1, b'c'), (2, b'd')] {
        on.write(&disk, byte);
        on.done(on.snapshot("create", id));
    }
    on.write(&disk, b'e');
    let three: &[(&str, &str)] = &[("0", "baaa.."), ("1", "caaa.."), ("2", "daaa..")];
    assert_eq!(on.picture(), expected(&[IMAGE, ("one-5-7-0", 6, image, three, "eaaa..")]));

    // What was written since the last snapshot is given up, and nothing else.
    on.done(on.snapshot("revert", 1));
    let old: Line<'_> = ("one-5-7-0-0:1:2", 6, image, three, "eaaa..");
    let from = Some("one-5-7-0-0:1:2@1");
    assert_eq!(on.picture(), expected(&[IMAGE, old, ("one-5-7-0", 6, from, &[], "caaa..")]));

    // A disk without snapshots of its own has nothing that could be come back to.
    on.write(&disk, b'f');
    on.done(on.snapshot("revert", 0));
    let from = Some("one-5-7-0-0:1:2@0");
    assert_eq!(on.picture(), expected(&[IMAGE, old, ("one-5-7-0", 6, from, &[], "baaa..")]));

    // What has clones stays, with words that name them.
    let failure = on.failure(on.snapshot("delete", 0));
    assert!(failure.text.contains("@0 is still needed by one/one-"), "{failure}");
    on.done(on.snapshot("delete", 1));
    let two: &[(&str, &str)] = &[("0", "baaa.."), ("2", "daaa..")];
    let old = ("one-5-7-0-0:2", 6, image, two, "eaaa..");
    let current = ("one-5-7-0", 6, Some("one-5-7-0-0:2@0"), &[][..], "baaa..");
    assert_eq!(on.picture(), expected(&[IMAGE, old, current]));

    on.done(on.resize(8));
    on.done(on.resize(8));
    let failure = on.failure(on.resize(7));
    assert_eq!(failure.kind, Kind::Input, "{failure}");
    assert_eq!(on.picture()["one-5-7-0"].size, 8);

    on.done(on.remove(&disk, false));
    assert_eq!(on.picture(), expected(&[IMAGE]));
    on.done(on.remove(&disk, false));
    // No file of the VM was ever made on this host; that its directory is gone is known all the same.
    on.done(json!({"delete_dir": {"dir": on.vm_dir()}}));
}

/// Every order in which an admin may have three snapshots removed, made by two reverts; and the disk removed in the end.
#[test]
fn snapshots_are_removed_in_every_order_that_clones_allow() {
    let Some(conf) = cluster() else { return };
    let orders: [[u32; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    at_once(&ceph::share(&orders, 2), |order| {
        let on = Stage::new(&conf);
        on.family();
        let all = [(0, "baaa"), (1, "caaa"), (2, "eaaa")];
        let mut left: Vec<(u32, String)> = all.map(|(id, text)| (id, text.to_owned())).to_vec();
        for &id in *order {
            // The disk itself stands on 0, so that one can't go.
            if id == 0 {
                assert!(on.failure(on.snapshot("delete", 0)).text.contains("still needed"));
            } else {
                on.done(on.snapshot("delete", id));
                left.retain(|(snapshot, _)| *snapshot != id);
                on.done(on.snapshot("delete", id));
            }
            let picture = on.picture();
            let mut found: Vec<(u32, String)> = Vec::new();
            for (name, seen) in picture.iter().filter(|(name, _)| *name != "one-5") {
                let numbers: Vec<&str> = seen.snapshots.iter().map(|(number, ..)| number.as_str()).collect();
                if name != "one-5-7-0" {
                    assert_eq!(*name, format!("one-5-7-0-{}", numbers.join(":")), "{order:?}");
                }
                for (number, _, content) in &seen.snapshots {
                    found.push((number.parse().unwrap(), content.clone()));
                }
            }
            found.sort_unstable();
            assert_eq!(found, left, "{order:?}");
            assert_eq!(picture["one-5-7-0"].content, "faaa");
        }
        on.done(on.remove(&on.disk(), false));
        assert_eq!(on.picture(), expected(&[IMAGE]), "{order:?}");
    });
}

/// A snapshot that other volumes stand on can't go in a cluster without clones of version 2.
#[test]
fn the_image_itself_as_a_disk() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.cloned();
    let failure = on.failure(on.link());
    assert!(failure.text.contains(&format!("@snap is still needed by {}:", on.disk())), "{failure}");
    assert_eq!(on.picture()["one-5"].snapshots[0].0, "snap");
    on.done(on.remove(&on.disk(), false));
    on.done(on.link());
    on.done(on.link());
    assert_eq!(on.picture(), expected(&[("one-5", 4, None, &[], "aaaa")]));

    let image = on.source();
    for (id, byte) in [(0, b'b'), (1, b'c')] {
        on.write(&image, byte);
        on.done(on.of_image("create", id));
    }
    on.write(&image, b'd');
    on.done(on.of_image("revert", 0));
    let snapshots: &[(&str, &str)] = &[("0", "baaa"), ("1", "caaa")];
    let old = ("one-5-0:1", 4, None, snapshots, "daaa");
    assert_eq!(on.picture(), expected(&[old, ("one-5", 4, Some("one-5-0:1@0"), &[], "baaa")]));
    on.done(on.of_image("delete", 1));
    let failure = on.failure(on.of_image("revert", 1));
    assert!(failure.text.ends_with("holds snapshot 1"), "{failure}");
    assert_eq!(on.picture()["one-5"].content, "baaa");
}

/// W12, and a target that somebody else has.
#[test]
fn an_image_is_what_the_disk_held_at_one_moment() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.family();
    let saved = format!("{}-saved", on.source());
    // The guest goes on writing while it is copied.
    on.perform_at(&on.save(None), &|point| {
        if point == "snapshot made" {
            on.write(&on.disk(), b'g');
        }
    })
    .unwrap();
    let picture = on.picture();
    let (image, disk) = (&picture["one-5-saved"], &picture["one-5-7-0"]);
    assert_eq!((image.content.as_str(), image.parent.as_ref(), image.size), ("faaa", None, 4));
    assert_eq!((disk.content.as_str(), disk.snapshots.as_slice()), ("gaaa", &[][..]));
    // Asked again, it is that image; asked for another content, it is somebody else's.
    on.done(on.save(None));
    assert_eq!(on.content(&saved), "faaa");
    let failure = on.failure(on.save(Some(1)));
    assert!(failure.text.ends_with("is there already, and is not what this action made"), "{failure}");
    on.rbd(&format!("rm --no-progress {saved}"));
    on.done(on.save(Some(1)));
    assert_eq!(on.content(&saved), "caaa");
    // One that somebody else made, of whatever content.
    on.rbd(&format!("rm --no-progress {saved}"));
    on.import(&saved, "zz");
    assert!(on.failure(on.save(None)).text.contains("is there already"));
    assert_eq!(on.content(&saved), "zz");
    on.rbd(&format!("rm --no-progress {saved}"));
    let failure = on.failure(on.save(Some(9)));
    assert!(failure.kind == Kind::HostState, "{failure}");
}

#[test]
fn empty_disks_and_what_is_in_them() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    let disk = on.disk();
    on.done(on.make(5, json!("empty")));
    assert_eq!(on.picture(), expected(&[("one-5-7-0", 5, None, &[], ".....")]));
    let of = |words: &str| {
        let bytes = on.rbd(&format!("export --no-progress {words} -"));
        let file = on.dir().join("exported");
        std::fs::write(&file, bytes).unwrap();
        let said = Command::new("blkid").args(["-p", "-o", "export"]).arg(&file).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    on.done(on.make(6, json!("swap")));
    let said = of(&disk);
    assert!(said.contains("TYPE=swap") && said.contains("LABEL=swap"), "{said}");
    on.done(on.make(8, json!({"file_system": {"kind": "ext4"}})));
    assert!(of(&disk).contains("TYPE=ext4"));
    // W25: nothing is left beside.
    let left: Vec<_> = std::fs::read_dir(on.dir().join("datastores/100/7")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    on.done(on.remove(&disk, false));
    let failure = on.failure(on.make(8, json!({"file_system": {"kind": "nosuch"}})));
    assert!(failure.text.contains("mkfs.nosuch"), "{failure}");
    assert!(
        on.json("ls one")
            .as_array()
            .unwrap()
            .iter()
            .all(|name| !name.as_str().unwrap().starts_with(&disk[4..]))
    );
}

#[test]
fn data_lie_in_the_pool_that_the_datastore_names() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    on.done(on.clone_into("data"));
    on.done(on.snapshot("create", 0));
    on.done(on.snapshot("revert", 0));
    let picture = on.picture();
    let pools: Vec<Option<&str>> = picture.values().map(|seen| seen.data_pool.as_deref()).collect();
    // The image, the disk, the volume that was the disk.
    assert_eq!(pools, [None, Some("data"), Some("data")]);
    assert_eq!(picture["one-5-7-0"].content, "aaaa");
}

/// The words of the contract for the removal of a stock disk, on a disk of ours.
#[test]
fn the_stock_driver_s_commands_remove_what_is_made_here() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    on.done(on.clone(None));
    on.done(on.snapshot("create", 0));
    on.done(on.snapshot("revert", 0));
    on.done(on.snapshot("create", 1));
    let (disk, image) = (on.disk(), on.source());
    for words in [
        format!("snap unprotect {disk}@1"),
        format!("snap rm --no-progress {disk}@1"),
        format!("rm --no-progress {disk}"),
        format!("snap unprotect {disk}-0@0"),
        format!("snap rm --no-progress {disk}-0@0"),
        format!("rm --no-progress {disk}-0"),
        format!("snap unprotect {image}@snap"),
        format!("snap rm --no-progress {image}@snap"),
        format!("rm --no-progress {image}"),
    ] {
        on.rbd(&words);
    }
    assert_eq!(on.picture(), expected(&[]));
}

/// A guest that runs keeps its disk and every snapshot of it, whatever is asked.
#[test]
fn what_is_open_is_left_alone() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.snapshots();
    let before = on.picture();
    let mut guest = on.guest();
    for call in [
        on.remove(&on.disk(), false),
        on.remove(&on.disk(), true),
        on.clone(None),
        on.make(4, json!("empty")),
        on.snapshot("revert", 0),
        on.snapshot("create", 5),
    ] {
        let failure = on.perform_within(&call, Duration::from_secs(8), &|_| {}).unwrap_err();
        assert!(failure.text.contains("is open at "), "{call}: {failure}");
    }
    assert_eq!(on.picture(), before);
    // Of a running guest's disk a snapshot may go.
    on.done(on.snapshot("delete", 0));
    // It dies without a word: the cluster takes it for a living one for a while, and then the removal goes on.
    guest.kill().unwrap();
    guest.wait().unwrap();
    on.done(on.remove(&on.disk(), false));
    assert_eq!(on.picture(), expected(&[IMAGE]));
}

/// W51: one question for all disks, whatever their numbers.
#[test]
fn a_pool_is_measured_with_its_disks() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    // A pool that no other test uses.
    for volume in ["more/one-5-7-0", "more/one-5-8-11"] {
        on.import(volume, "aa");
        on.rbd(&format!("snap create --no-progress {volume}@1"));
    }
    let mut call = on.remove(&on.disk(), false);
    let cluster = call["rbd"]["cluster"].take();
    let usage = json!({"pool_usage": {"cluster": cluster, "pool": "more", "disks": true}});
    let text = on.perform_at(&usage, &|_| {}).unwrap();
    let (usage, vms) = text.split_once('\n').unwrap();
    let numbers: Vec<u64> =
        usage.split(' ').map(|word| word.split_once('=').unwrap().1.parse().unwrap()).collect();
    assert!(usage.starts_with("USED_MB=") && numbers[1] == numbers[0] + numbers[2], "{usage}");
    let vms: serde_json::Value = serde_json::from_str(vms).unwrap();
    // Two MiB in one object of four.
    let disks = |id: u32| json!([{"id": id, "size_mb": 0, "snapshots": {"1": 2}}]);
    assert_eq!(vms, json!([{"vm": 7, "disks": disks(0)}, {"vm": 8, "disks": disks(11)}]));
    for volume in ["more/one-5-7-0", "more/one-5-8-11"] {
        on.rbd(&format!("snap rm --no-progress {volume}@1"));
        on.rbd(&format!("rm --no-progress {volume}"));
    }
}

/// W23, W41: what is gone is gone only in a pool that is there, in a cluster that answers.
#[test]
fn absence_is_proved() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.done(on.remove("one/one-nothing-7-0", false));
    let failure = on.failure(on.remove("nopool/one-5-7-0", false));
    assert!(failure.text.starts_with("pool nopool can't be read"), "{failure}");
    let mut call = on.remove("one/one-nothing-7-0", false);
    call["rbd"]["cluster"]["key"] = json!(on.dir().join("nokey"));
    assert!(on.failure(call).kind != Kind::Input);
    let failure = on.failure(on.clone(None));
    assert!(failure.text.starts_with("there is no volume one/one-"), "{failure}");
    // Clones of another cluster's volumes: a disk names its own configuration.
    let mut other = on.remove("one/one-nothing-7-0", false);
    other["rbd"]["cluster"]["conf"] = json!("/nonexistent/ceph.conf");
    assert!(on.perform_within(&other, Duration::from_secs(20), &|_| {}).is_err());
}

/// W36: other hosts clone the same image, and a stock driver removes what they are about to stand on.
#[test]
fn clones_of_one_image_from_many_hosts_at_once() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    let hosts: Vec<Stage> =
        (0..4).map(|n| Stage::at(&conf, &on.dir().join(format!("h{n}")), on.image)).collect();
    std::thread::scope(|scope| {
        for (number, host) in hosts.iter().enumerate() {
            let mut call = host.clone(None);
            call["rbd"]["vm"] = json!(10 + number);
            call["rbd"]["work"]["clone"]["disk"] = json!(format!("{}-{}-0", host.source(), 10 + number));
            scope.spawn(move || host.done(call));
        }
        for _ in 0..3 {
            let base = format!("{}@snap", on.source());
            let _ = on.rbd_with(&[], &["snap", "unprotect", &base]);
            let _ = on.rbd_with(&[], &["snap", "rm", "--no-progress", &base]);
        }
    });
    let disks = (10..14).map(|vm| (format!("one-5-{vm}-0"), 4, Some("one-5@snap"), &[][..], "aaaa"));
    let disks: Vec<_> = disks.collect();
    let mut lines: Vec<Line<'_>> = disks.iter().map(|d| (d.0.as_str(), d.1, d.2, d.3, d.4)).collect();
    lines.push(IMAGE);
    assert_eq!(on.picture(), expected(&lines));
}

/// `rbd copy` of a clone's snapshot leaves out all that the clone has from its parent: whole objects of 4 MiB that nobody wrote.
#[test]
fn what_a_disk_has_from_its_image_is_saved_too() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.import(&on.source(), "aaaabbbb");
    on.done(on.clone(Some(9)));
    on.done(on.snapshot("create", 0));
    on.write(&on.disk(), b'w');
    for (snapshot, content) in [(None, "waaabbbb."), (Some(0), "aaaabbbb.")] {
        on.done(on.save(snapshot));
        let picture = on.picture();
        let saved = &picture["one-5-saved"];
        assert_eq!((saved.content.as_str(), saved.parent.as_ref()), (content, None), "{snapshot:?}");
        on.rbd(&format!("rm --no-progress {}-saved", on.source()));
    }
    // Of the way there nothing is left.
    let disk: Line<'_> = ("one-5-7-0", 9, Some("one-5@snap"), &[("0", "aaaabbbb.")], "waaabbbb.");
    assert_eq!(on.picture(), expected(&[("one-5", 8, None, &[("snap", "aaaabbbb")], "aaaabbbb"), disk]));
}

/// An image that was grown by hand since its first clone: what is cloned is its snapshot, which was not.
#[test]
fn a_clone_is_as_large_as_what_it_stands_on() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    on.done(on.clone(None));
    on.rbd(&format!("resize --no-progress --size 6 {}", on.source()));
    on.done(on.clone(None));
    let image: Line<'_> = ("one-5", 6, None, &[("snap", "aaaa")], "aaaa..");
    assert_eq!(on.picture(), expected(&[image, ("one-5-7-0", 4, Some("one-5@snap"), &[], "aaaa")]));
}

/// oned gives the disk the SIZE of the snapshot that it went back to: a larger disk could not be given the next one.
#[test]
fn a_disk_goes_back_to_the_size_that_it_had() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.snapshots();
    on.done(on.resize(8));
    on.done(on.snapshot("create", 2));
    for (id, size, content) in [(0, 4, "baaa"), (2, 8, "daaa...."), (0, 4, "baaa")] {
        on.done(on.snapshot("revert", id));
        let disk = &on.picture()["one-5-7-0"];
        assert_eq!((disk.size, disk.content.as_str()), (size, content), "snapshot {id}");
    }
    on.done(on.resize(6));
    assert_eq!(on.picture()["one-5-7-0"].content, "baaa..");
}

/// Volumes of others with names such as a revert or a restore gives: none of them is the disk's.
#[test]
fn volumes_that_only_have_such_names_are_left_alone() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    on.done(on.clone(None));
    let disk = on.disk();
    let others = ["-0", "-1", "-3:4", ".old.20241231", ".new.20241231"];
    for other in others {
        on.import(&format!("{disk}{other}"), "ss");
    }
    for snapshot in ["1", "2"] {
        on.rbd(&format!("snap create --no-progress {disk}-3:4@{snapshot}"));
    }
    let named = others.map(|other| format!("one-5-7-0{other}"));
    let theirs = |mut picture: Picture| {
        picture.retain(|name, _| named.contains(name));
        picture
    };
    let before = theirs(on.picture());
    assert_eq!(before.len(), others.len());

    for id in [0, 1, 2] {
        on.done(on.snapshot("create", id));
    }
    on.done(on.snapshot("revert", 1));
    for id in [0, 2] {
        on.done(on.snapshot("delete", id));
    }
    on.fetched("xyz");
    on.done(on.make_restored(1, None));
    on.done(on.restore(json!("put")));
    assert_eq!(theirs(on.picture()), before);

    // A name that is needed and taken: said before anything is done.
    on.done(on.snapshot("create", 1));
    let held = on.picture();
    let failure = on.failure(on.snapshot("revert", 1));
    assert!(failure.text.contains("needs the name one/one-"), "{failure}");
    assert_eq!(on.picture(), held);

    on.done(on.remove(&disk, false));
    let mut left = on.picture();
    left.remove("one-5");
    assert_eq!(left, before);
}
