//! The images of a Ceph datastore on a real cluster: how they come, what may be done with them, and how they go.

#![cfg(test)]

mod ceph;

use std::os::unix::process::CommandExt;

use ceph::images::REGISTERED;
use ceph::{Stage, cluster};
use serde_json::{Value, json};

/// An upload becomes the volume that it should be, under its name, with nothing left anywhere.
fn imported(on: &Stage, sent: &[u8], content: &str) {
    let call = on.image_import(json!(null), true, None);
    let told = on.receive(&call, sent, &|_| {}).unwrap();
    assert_eq!(told, "raw");
    let picture = on.picture();
    let new = &picture["one-5-new"];
    assert_eq!((new.content.as_str(), new.snapshots.len(), &new.parent), (content, 0, &None));
    on.nothing_staged();
    let left: Vec<&String> = picture.keys().filter(|name| name.contains(".causeway")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// W32: what an upload is, its content tells: stock imports `.xz` packed, and takes every `.gz` for a backup.
#[test]
fn whatever_it_is_packed_in_an_upload_becomes_plain_bytes() {
    let Some(conf) = cluster() else { return };
    let plain = Stage::upload();
    let tools = [
        "gzip -nc {}",
        "bzip2 -c {}",
        "xz -c {}",
        "qemu-img convert -f raw -O qcow2 {} {}.out",
        "qemu-img convert -f raw -O vdi {} {}.out",
        "qemu-img convert -f raw -O parallels {} {}.out",
    ];
    let on = Stage::new(&conf);
    imported(&on, &plain, "aaaa");
    for tool in tools {
        let on = Stage::new(&conf);
        let sent = on.made_by(&plain, tool);
        imported(&on, &sent, "aaaa");
    }
    let on = Stage::new(&conf);
    let packed = on.made_by(&on.made_by(&plain, "qemu-img convert -f raw -O qcow2 {} {}.out"), "gzip -nc {}");
    imported(&on, &packed, "aaaa");
}

/// W32: a backup's archive becomes what the VM's disk held last.
#[test]
fn an_archive_of_a_backup_becomes_its_last_state() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    let sent = on.backup();
    imported(&on, &sent, "baaa");
    // As a second try finds it, and as another image does.
    assert_eq!(on.receive(&on.image_import(json!(null), true, None), &sent, &|_| {}).unwrap(), "raw");
    let mut other = on.image_import(json!(null), true, None);
    other["datastore"]["volume"]["work"]["import"]["registered"] = json!(1);
    let failure = on.receive(&other, &sent, &|_| {}).unwrap_err();
    assert!(failure.text.ends_with("-new is there already, and is not what this action made"), "{failure}");
    // A part of it is no image.
    let on = Stage::new(&conf);
    for cut in [sent.len() / 2, sent.len() - 20] {
        let failure =
            on.receive(&on.image_import(json!(null), true, None), &sent[..cut], &|_| {}).unwrap_err();
        assert!(failure.text.contains("what was sent"), "{failure}");
        assert!(on.picture().is_empty());
    }
    on.nothing_staged();
}

#[test]
fn what_must_not_become_an_image_leaves_nothing() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    let plain = Stage::upload();
    let packed = on.made_by(&plain, "xz -c {}");
    let secret = "qemu-img create -q --object secret,id=s,data=x -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s {}.out 1M";
    let backed = "qemu-img create -q -u -f qcow2 -F raw -b /etc/passwd {}.out 1M";
    let cut = on.made_by(&plain, "qemu-img convert -f raw -O qcow2 {} {}.out");
    let plain_sum = on.made_by(&plain, "md5sum {}");
    let plain_sum = std::str::from_utf8(&plain_sum[..32]).unwrap();
    let cases: [(&[u8], Value, &str); 10] = [
        (b"", json!(null), "it is empty"),
        (
            &on.made_by(b"", "qemu-img create -q -f qcow2 {}.out 0"),
            json!(null),
            "it is empty: an image of a disk of 0",
        ),
        (&on.made_by(b"", backed), json!(null), "stands on another file, /etc/passwd"),
        (&on.made_by(b"", secret), json!(null), "qcow2 image with encrypted content"),
        (b"KDMV\x01", json!(null), "VMDK"),
        (b"Bochs Virtual HD Image\0", json!(null), "it is a Bochs image"),
        (&packed[..packed.len() - 10], json!(null), "xz"),
        (&cut[..cut.len() - 70_000], json!(null), "qemu-img check"),
        (&plain, json!({"md5": "0123456789abcdef0123456789abcdef"}), "was promised"),
        (&plain, json!({"md5": plain_sum, "sha1": "0".repeat(40)}), "(SHA1)"),
    ];
    for (sent, checksum, says) in cases {
        let failure = on.receive(&on.image_import(checksum, true, None), sent, &|_| {}).unwrap_err();
        assert!(failure.text.contains(says), "{failure} does not say {says}");
        assert!(on.picture().is_empty(), "{says}");
        on.nothing_staged();
    }
    // The sum is that of what was sent, packed as it is; a raw LUKS disk is nobody's to read, and stays what it is.
    let sum = on.made_by(&packed, "md5sum {}");
    let sum = json!({"md5": std::str::from_utf8(&sum[..32]).unwrap()});
    assert_eq!(on.receive(&on.image_import(sum, true, Some("data")), &packed, &|_| {}).unwrap(), "raw");
    let seen = &on.picture()["one-5-new"];
    assert_eq!((seen.content.as_str(), seen.data_pool.as_deref()), ("aaaa", Some("data")));
    let on = Stage::new(&conf);
    let mut luks = b"LUKS\xba\xbe\0\x02".to_vec();
    luks.resize(1 << 20, 7);
    on.receive(&on.image_import(json!(null), true, None), &luks, &|_| {}).unwrap();
    assert_eq!(on.rbd(&format!("export --no-progress {} -", on.new_image())), luks);
    // What is not to be unpacked is not.
    let on = Stage::new(&conf);
    on.receive(&on.image_import(json!(null), false, None), &packed, &|_| {}).unwrap();
    assert_eq!(on.rbd(&format!("export --no-progress {} -", on.new_image())), packed);
}

/// Once the tool's last words were all that was told.
#[test]
fn what_the_cluster_does_not_take_is_named() {
    let Some(conf) = cluster() else { return };
    let mut on = Stage::new(&conf);
    on.image();
    let nowhere =
        "nosuch, which EC_POOL_NAME names for the data of volumes, can't be used: listing images failed: (2)";
    let said = on.failure(on.clone_into("nosuch")).text;
    assert!(said.starts_with(nowhere), "{said}");
    let sent = on.image_import(json!(null), true, Some("nosuch"));
    let said = on.receive(&sent, &Stage::upload(), &|_| {}).unwrap_err().text;
    assert!(said.starts_with(nowhere), "{said}");
    // Not tried again and again: it will not be otherwise.
    on.rbd(&format!("resize --no-progress --allow-shrink --size 0 {}", on.source()));
    for verb in ["unprotect", "rm"] {
        on.rbd(&format!("snap {verb} {}@snap", on.source()));
    }
    let said = on.failure(on.clone(None)).text;
    let image = on.source();
    assert_eq!(said, format!("{image}: it, or its @snap, is empty (0 bytes): nothing can be cloned from it"));
    on.user = "nobody".to_owned();
    let key = conf.with_file_name("nobody.key").display().to_string();
    let who = format!(
        "the cluster was asked by CEPH_USER nobody, with the key in the file CEPH_KEY {key}, which can't be read on"
    );
    for call in [on.clone(None), on.image_sum(), on.remove(&on.disk(), false)] {
        let said = on.failure(call).text;
        assert!(said.starts_with("rbd ") && said.contains(&who), "{said}");
    }
}

/// W26, W30: an empty image, and one with a file system.
#[test]
fn an_image_is_made() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    for _ in 0..2 {
        on.done(on.image_make(3, json!("empty")));
        let seen = &on.picture()["one-5-new"];
        assert_eq!((seen.size, seen.content.as_str(), seen.data_pool.as_deref()), (3, "...", Some("data")));
    }
    let on = Stage::new(&conf);
    on.done(on.image_make(16, json!({"file_system": {"kind": "ext4"}})));
    let bytes = on.rbd(&format!("export --no-progress {} -", on.new_image()));
    assert_eq!((bytes.len(), &bytes[0x438..0x43a]), (16 << 20, &[0x53, 0xef][..]));
    on.nothing_staged();
    // What can't be formatted, and a directory that is not there, leave nothing.
    let on = Stage::new(&conf);
    let failure = on.failure(on.image_make(1, json!({"file_system": {"kind": "xfs"}})));
    let said = format!("mkfs.xfs of {}: ", on.staging().display());
    assert!(failure.text.starts_with(&said), "{failure}");
    let mut call = on.image_make(1, json!({"file_system": {"kind": "ext4"}}));
    call["datastore"]["volume"]["work"]["make"]["staging"] = json!("/nowhere/at/all");
    assert!(on.failure(call).text.contains("cannot make a file in /nowhere/at/all"));
    assert_eq!(
        on.json("ls one")
            .as_array()
            .unwrap()
            .iter()
            .filter(|n| n.as_str().unwrap().starts_with(&format!("one-{}-", on.image)))
            .count(),
        0
    );
}

#[test]
fn a_copy_is_whole_and_of_one_moment() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image_family();
    for _ in 0..2 {
        assert_eq!(on.perform_at(&on.image_copy(), &|_| {}).unwrap(), "raw");
        let picture = on.picture();
        let new = &picture["one-5-new"];
        assert_eq!((new.content.as_str(), new.snapshots.len(), &new.parent), ("faaa", 0, &None));
        let own: Vec<&str> = picture["one-5"].snapshots.iter().map(|snapshot| snapshot.0.as_str()).collect();
        assert_eq!(own, ["2"]);
    }
    // Somebody removes the snapshot in the midst of it, as a script of another driver might.
    let on = Stage::new(&conf);
    on.image();
    let call = on.image_copy();
    let failure = on.perform_at(&call, &|point| {
        if point == "snapshot made" {
            on.rbd(&format!("snap purge --no-progress {}", on.source()));
        }
    });
    assert!(failure.is_err());
    assert_eq!(on.picture().keys().collect::<Vec<_>>(), ["one-5"]);
    let mut itself = on.image_copy();
    itself["datastore"]["volume"]["image"] = json!(on.source());
    assert!(on.failure(itself).text.contains("a copy of itself"));
}

#[test]
fn an_image_goes_with_all_that_is_its_own_and_nothing_else() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image_family();
    let neighbour = format!("{}7", on.source());
    on.import(&neighbour, "n");
    for _ in 0..2 {
        on.done(on.image_remove(&on.source(), false, None));
        assert!(on.picture().is_empty());
    }
    assert_eq!(on.content(&neighbour), "n");
    on.rbd(&format!("rm --no-progress {neighbour}"));
    // A pool that is not there is no absence.
    let failure = on.failure(on.image_remove("nopool/one-1", false, None));
    assert!(failure.text.contains("pool nopool can't be read"), "{failure}");
    // What VMs were cloned from it is named, and keeps everything.
    let on = Stage::new(&conf);
    on.cloned();
    let before = on.picture();
    let failure = on.failure(on.image_remove(&on.source(), false, None));
    assert!(
        failure.text.contains(&format!("{}@snap is still needed by {}", on.source(), on.disk())),
        "{failure}"
    );
    assert_eq!(on.picture(), before);
    // So does what is open.
    let mut open = std::process::Command::new("rbd");
    open.args(on.access()).args([
        "bench",
        "--io-type",
        "write",
        "--io-total",
        "1G",
        "--io-size",
        "4K",
        "--io-threads",
        "1",
    ]);
    let mut open = open.arg(on.disk()).stdout(std::process::Stdio::null()).process_group(0).spawn().unwrap();
    while on.json(&format!("status {}", on.disk()))["watchers"].as_array().unwrap().is_empty() {}
    let failure = on.perform_within(
        &on.image_remove(&on.disk(), false, None),
        std::time::Duration::from_secs(6),
        &|_| {},
    );
    open.kill().unwrap();
    open.wait().unwrap();
    assert!(failure.unwrap_err().text.contains("is open at"));
    on.rbd(&format!("info {}", on.disk()));
}

/// The image whose `cp` failed, because the name was somebody else's, must not take that with it.
#[test]
fn only_what_was_made_for_a_registration_goes_with_it() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.import(&on.new_image(), "x");
    on.done(on.image_remove(&on.new_image(), false, Some(REGISTERED)));
    assert_eq!(on.picture()["one-5-new"].content, "x");
    on.rbd(&format!("rm --no-progress {}", on.new_image()));
    on.done(on.image_make(1, json!("empty")));
    on.done(on.image_remove(&on.new_image(), false, Some(1)));
    assert!(on.picture().contains_key("one-5-new"));
    on.done(on.image_remove(&on.new_image(), false, Some(REGISTERED)));
    on.done(on.image_remove(&on.new_image(), false, Some(REGISTERED)));
    assert!(on.picture().is_empty());
}

/// W9, W10: an image without a VM goes back, forgets, and forgets all.
#[test]
fn an_image_goes_back_to_what_it_was() {
    let Some(conf) = cluster() else { return };
    let with = |order: &str, id: u32| {
        let on = Stage::new(&conf);
        on.image_family();
        on.done(on.image_snapshot(order, id));
        on
    };
    let ids = |on: &Stage| -> Vec<String> {
        on.picture().values().flat_map(|seen| &seen.snapshots).map(|snapshot| snapshot.0.clone()).collect()
    };
    let on = with("revert", 1);
    assert_eq!((on.picture()["one-5"].content.as_str(), ids(&on).len()), ("caaa", 3));
    let on = with("delete", 1);
    assert_eq!((on.picture()["one-5"].content.as_str(), ids(&on).len()), ("faaa", 2));
    for (id, content) in [(0, "baaa"), (1, "caaa"), (2, "eaaa")] {
        let on = with("flatten", id);
        let picture = on.picture();
        assert_eq!(picture.keys().collect::<Vec<_>>(), ["one-5"]);
        assert_eq!((picture["one-5"].content.as_str(), &picture["one-5"].parent), (content, &None));
        assert_eq!(ids(&on).len(), 0);
        // Once it is done it is done: the same number is some later snapshot's.
        let failure = on.failure(on.image_snapshot("flatten", id));
        assert!(failure.text.contains(&format!("holds snapshot {id}")), "{failure}");
    }
    // What nobody can go back to changes nothing.
    let on = Stage::new(&conf);
    on.image_family();
    let before = on.picture();
    for order in ["revert", "flatten"] {
        assert!(on.failure(on.image_snapshot(order, 9)).text.contains("holds snapshot 9"));
    }
    // Nor does what a VM was cloned from.
    on.rbd(&format!("snap create --no-progress {}@snap", on.source()));
    on.rbd(&format!("snap protect {}@snap", on.source()));
    on.rbd(&format!("clone {0}@snap {0}-7-0", on.source()));
    assert!(on.failure(on.image_snapshot("flatten", 2)).text.contains("is still needed by"));
    assert_eq!(on.picture()["one-5"].content, before["one-5"].content);
}

/// The sum is that of the bytes that the market will fetch, not of what was uploaded once.
#[test]
fn an_export_tells_the_sum_of_its_bytes() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.image();
    let told = on.perform_at(&on.image_sum(), &|_| {}).unwrap();
    let told: Value = serde_json::from_str(told.strip_prefix("exported ").unwrap()).unwrap();
    let sum = on.made_by(&Stage::upload(), "md5sum {}");
    assert_eq!(told["md5"], std::str::from_utf8(&sum[..32]).unwrap());
    assert_eq!((told["name"].as_str(), told["format"].as_str()), (Some(on.source().as_str()), Some("raw")));
    let gone = Stage::new(&conf);
    assert!(gone.failure(gone.image_sum()).text.starts_with("there is no volume"));
}

/// An image that was gone back to stands on the older volume, and a copy of it must hold what it has from there.
#[test]
fn a_copy_of_a_reverted_image_is_whole() {
    let Some(conf) = cluster() else { return };
    let on = Stage::new(&conf);
    on.import(&on.source(), "aaaabbbb");
    on.rbd(&format!("snap create --no-progress {}@0", on.source()));
    on.rbd(&format!("snap protect {}@0", on.source()));
    on.write(&on.source(), b'w');
    on.done(on.image_snapshot("revert", 0));
    assert_eq!(on.perform_at(&on.image_copy(), &|_| {}).unwrap(), "raw");
    assert_eq!(on.content(&on.new_image()), "aaaabbbb");
    let left: Vec<String> = on.picture().into_keys().collect();
    assert_eq!(left, ["one-5", "one-5-0", "one-5-new"]);
}
