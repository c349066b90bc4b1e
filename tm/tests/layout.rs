//! What the calls leave on real files, checked with QEMU's own tools (contract TM 2.1).

#![cfg(test)]

mod common;

use std::path::Path;

use common::{Datastores, MIB, blocks, chain, picture, tool};
use serde_json::json;

#[test]
fn a_flat_copy_has_the_image_s_bytes_holes_and_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let on = Datastores::new();
    let bytes = on.raw_image();
    std::fs::set_permissions(on.path("1/abc"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::write(on.path("100/.monitor"), "ssh").unwrap();
    on.done(&on.flat());
    let disk = on.path("100/7/disk.0");
    assert!(disk.symlink_metadata().unwrap().is_file());
    assert!(std::fs::read(&disk).unwrap() == bytes);
    assert_eq!(disk.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert!(blocks(&disk) < MIB, "{} bytes of room", blocks(&disk));
    assert!(!on.path("100/.monitor").exists());
    // And again, over the first one.
    on.done(&on.flat());
    assert!(std::fs::read(&disk).unwrap() == bytes);
}

#[test]
fn a_flat_copy_grows_with_and_without_taking_room() {
    let on = Datastores::new();
    let bytes = on.raw_image();
    on.done(&on.clone(json!("flat"), "disk.0", Some(64), true));
    on.done(&on.clone(json!("flat"), "disk.1", Some(64), false));
    for disk in ["100/7/disk.0", "100/7/disk.1"] {
        let grown = std::fs::read(on.path(disk)).unwrap();
        assert_eq!(grown.len() as u64, 64 * MIB);
        assert!(grown.starts_with(&bytes) && grown[bytes.len()..].iter().all(|&b| b == 0), "{disk}");
    }
    assert!(blocks(&on.path("100/7/disk.0")) < MIB);
    assert!(blocks(&on.path("100/7/disk.1")) >= 59 * MIB);
    let failure = on.failure(&on.clone(json!("flat"), "disk.0", Some(4), true));
    assert!(
        failure.text.contains("has 5242880 bytes and is to have 4194304: a disk only grows"),
        "{}",
        failure.text
    );
}

/// Where the datastore is the host's own disk, its probes are told so, and the copy needs no other file.
#[test]
fn a_copy_on_a_host_s_own_disk_is_monitored_there() {
    for copy in [json!("flat"), json!("standalone")] {
        let on = Datastores::new();
        on.qcow2_image();
        let mut call = on.clone(copy, "disk.0", None, true);
        call["clone_image"]["local"] = json!(true);
        on.done(&call);
        assert_eq!(std::fs::read_to_string(on.path("100/.monitor")).unwrap(), "ssh\n");
        assert_eq!(chain(&on.path("100/7/disk.0")).len(), 1);
        on.done(&call);
    }
}

/// So is a VM that has nothing else there.
#[test]
fn a_new_disk_and_a_context_on_a_host_s_own_disk_are_monitored_there() {
    let with = |mut call: serde_json::Value| {
        let name = call.as_object().unwrap().keys().next().unwrap().clone();
        call[&name]["local"] = json!(true);
        call
    };
    let on = Datastores::new();
    on.done(&with(on.make(false, json!("empty"))));
    assert_eq!(std::fs::read_to_string(on.path("100/.monitor")).unwrap(), "ssh\n");
    std::fs::remove_file(on.path("100/.monitor")).unwrap();
    on.perform(&with(on.context(&["context.sh"])), &[b"X='1'".to_vec()]).unwrap();
    assert_eq!(std::fs::read_to_string(on.path("100/.monitor")).unwrap(), "ssh\n");
}

#[test]
fn a_kernel_is_copied_beside_the_disks() {
    let on = Datastores::new();
    let bytes = on.raw_image();
    on.done(&on.clone(json!("flat"), "kernel", None, true));
    assert!(std::fs::read(on.path("100/7/kernel")).unwrap() == bytes);
}

#[test]
fn an_overlay_has_the_layout_of_the_stock_driver() {
    let on = Datastores::new();
    on.qcow2_image();
    on.done(&on.overlay());
    assert_eq!(on.target("100/7/disk.0"), "disk.0.snap/0");
    assert_eq!(on.target("100/7/disk.0.snap/disk.0.snap"), ".");
    let names: Vec<_> = picture(&on.path("100/7")).into_keys().collect();
    assert_eq!(
        names,
        ["disk.0", "disk.0.snap", "disk.0.snap/0", "disk.0.snap/disk.0.snap"].map(std::path::PathBuf::from)
    );
    let files = chain(&on.path("100/7/disk.0"));
    assert_eq!(files.len(), 2);
    assert_eq!(files[0]["format"], "qcow2");
    assert_eq!(files[0]["backing-filename"], on.text("1/abc"));
    assert_eq!(files[0]["backing-filename-format"], "qcow2");
    assert_eq!(files[0]["virtual-size"], 16 * MIB);
    tool("qemu-img", &["compare", "-q", "-U", &on.text("1/abc"), &on.text("100/7/disk.0")]);
}

#[test]
fn an_overlay_grows_and_takes_the_admin_s_options() {
    let on = Datastores::new();
    on.qcow2_image();
    let options = json!({"overlay": {"options": ["-o", "cluster_size=128k"]}});
    for (name, sparse) in [("disk.0", true), ("disk.1", false)] {
        on.done(&on.clone(options.clone(), name, Some(32), sparse));
        let files = chain(&on.path(&format!("100/7/{name}")));
        assert_eq!(files[0]["virtual-size"], 32 * MIB);
        assert_eq!(files[0]["cluster-size"], 128 * 1024);
    }
    assert!(blocks(&on.path("100/7/disk.0")) < MIB);
    assert!(blocks(&on.path("100/7/disk.1")) >= 16 * MIB, "SPARSE=NO sets room aside for what was added");
    let failure = on.failure(&on.clone(json!({"overlay": {}}), "disk.2", Some(8), true));
    assert!(failure.text.contains("is to have 8388608: a disk only grows"), "{}", failure.text);
}

#[test]
fn an_image_without_a_header_backs_an_overlay_as_raw() {
    let on = Datastores::new();
    on.raw_image();
    on.done(&on.overlay());
    let files = chain(&on.path("100/7/disk.0"));
    assert_eq!(files[0]["backing-filename-format"], "raw");
    assert_eq!(files[0]["virtual-size"], 5 * MIB);
}

#[test]
fn a_standalone_copy_needs_no_other_file() {
    let on = Datastores::new();
    on.qcow2_image();
    for (name, sparse) in [("disk.0", true), ("disk.1", false)] {
        on.done(&on.clone(json!("standalone"), name, Some(32), sparse));
        let disk = on.path(&format!("100/7/{name}"));
        let files = chain(&disk);
        assert_eq!(files.len(), 1);
        assert_eq!(files[0]["virtual-size"], 32 * MIB);
        assert_eq!(on.target(&format!("100/7/{name}")), format!("{name}.snap/0"));
    }
    assert!(blocks(&on.path("100/7/disk.1")) >= 16 * MIB, "SPARSE=NO writes zeros out");
    std::fs::remove_file(on.path("1/abc")).unwrap();
    let read = tool("qemu-io", &["-f", "qcow2", "-c", "read -P 0xa5 1M 2M", &on.text("100/7/disk.0")]);
    assert!(!read.contains("verification failed"), "{read}");
}

#[test]
fn a_raw_image_is_linked_to() {
    let on = Datastores::new();
    on.raw_image();
    on.done(&on.link("image"));
    assert_eq!(on.target("100/7/disk.0"), on.text("1/abc"));
    assert!(!on.path("1/abc.snap").exists());
}

#[test]
fn the_newest_file_of_an_image_s_chain_is_linked_to() {
    let on = Datastores::new();
    on.qcow2_image();
    // A disk that had this number before.
    std::fs::create_dir_all(on.path("100/7/disk.0.snap")).unwrap();
    on.done(&on.link("chain"));
    assert_eq!(on.target("100/7/disk.0"), on.text("1/abc.snap/0"));
    assert_eq!(on.target("1/abc.snap/0"), on.text("1/abc"));
    assert_eq!(on.target("1/abc.snap/abc.snap"), ".");
    assert!(!on.path("100/7/disk.0.snap").exists());
    // Snapshots as the stock driver makes them, by the link's own words.
    on.qcow2("1/abc.snap/1", "16M", Some(("qcow2", &on.text("1/abc.snap/0"))));
    on.qcow2("1/abc.snap/2", "16M", Some(("qcow2", &on.text("1/abc.snap/1"))));
    on.qcow2("1/abc.snap/10", "16M", Some(("qcow2", &on.text("1/abc.snap/2"))));
    std::fs::write(on.path("1/abc.snap/1.current"), "2").unwrap();
    on.done(&on.link("chain"));
    assert_eq!(on.target("100/7/disk.0"), on.text("1/abc.snap/10"));
    assert_eq!(chain(&on.path("100/7/disk.0")).len(), 4);
}

/// `snap_create` of the stock driver on a disk that we made: a file backed by the text of the link, made inside the
/// snapshot directory, then the link moved (contract TM 2.1).
#[test]
fn the_stock_driver_can_snapshot_our_disks() {
    let on = Datastores::new();
    on.qcow2_image();
    on.done(&on.overlay());
    for number in [1, 2] {
        let script = format!(
            "b=$(readlink disk.0) && cd disk.0.snap && qemu-img create -q -f qcow2 -F qcow2 -b \"$b\" {number} && \
             cd .. && ln -sf disk.0.snap/{number} disk.0"
        );
        tool("sh", &["-c", &format!("cd {} && {script}", on.text("100/7"))]);
    }
    let files = chain(&on.path("100/7/disk.0"));
    assert_eq!(files.len(), 4);
    assert_eq!(files[0]["backing-filename"], "disk.0.snap/1");
    on.done(&on.delete("disk.0"));
    assert_eq!(picture(&on.path("100/7")).len(), 0);
}

/// A disk that the stock commands made, replaced and removed by ours.
#[test]
fn we_can_handle_the_stock_driver_s_disks() {
    let on = Datastores::new();
    on.qcow2_image();
    let script = "mkdir -p 7 && cd 7 && mkdir disk.0.snap && cd disk.0.snap && qemu-img create -q -f qcow2 -F qcow2 \
                  -b \"$1\" 0 && ln -s . disk.0.snap && cd .. && ln -s disk.0.snap/0 disk.0 && ln -s \"$1\" disk.1";
    let made = std::process::Command::new("sh")
        .args(["-c", script, "sh", &on.text("1/abc")])
        .current_dir(on.path("100"))
        .status()
        .unwrap();
    assert!(made.success());
    let theirs = picture(&on.path("100/7"));
    on.done(&on.overlay());
    assert_eq!(picture(&on.path("100/7")), theirs);
    let image = picture(&on.path("1"));
    on.done(&on.delete("disk.1"));
    on.done(&on.delete("disk.0"));
    assert_eq!(picture(&on.path("1")), image);
    on.done(&on.delete_dir());
    assert!(!on.path("100/7").exists());
}

#[test]
fn a_context_is_an_image_that_isoinfo_reads() {
    let on = Datastores::new();
    let inputs = [b"X='1'\n".to_vec(), b"old".to_vec(), b"new".to_vec()];
    on.perform(&on.context(&["context.sh", "init.sh", "init.sh"]), &inputs).unwrap();
    on.nothing_half_made();
    let disk = on.text("100/7/disk.1");
    assert_eq!(tool("isoinfo", &["-R", "-x", "/context.sh", "-i", &disk]), "X='1'\n");
    assert_eq!(tool("isoinfo", &["-J", "-x", "/init.sh", "-i", &disk]), "new");
    assert_eq!(tool("blkid", &["-p", "-s", "LABEL", "-o", "value", &disk]).trim(), "CONTEXT");
    let failure = on.perform(&on.context(&["context.sh"]), &[]).unwrap_err();
    assert_eq!(failure.text, "0 inputs for 1 names");
}

/// Doubled slashes of oned's paths, and a datastore that is a link to another place.
#[test]
fn a_datastore_may_be_a_link() {
    let on = Datastores::new();
    let bytes = on.raw_image();
    std::fs::rename(on.path("1"), on.path("../images")).unwrap();
    std::os::unix::fs::symlink("../images", on.path("1")).unwrap();
    std::fs::remove_dir(on.path("100")).unwrap();
    std::fs::create_dir(on.path("../system")).unwrap();
    std::os::unix::fs::symlink("../system", on.path("100")).unwrap();
    let mut call = on.flat();
    let file = format!("{}//100/7/disk.0", on.root.display());
    call["clone_image"]["file"] = json!(file);
    on.done(&call);
    assert!(std::fs::read(on.path("../system/7/disk.0")).unwrap() == bytes);
    on.done(&on.delete_dir());
    assert!(!on.path("../system/7").exists());
}

#[test]
fn many_copies_at_once() {
    let on = Datastores::new();
    on.qcow2_image();
    std::thread::scope(|scope| {
        for vm in 0..24 {
            let on = &on;
            scope.spawn(move || {
                let mut call = if vm % 2 == 0 { on.overlay() } else { on.flat() };
                call["clone_image"]["file"] = json!(on.text(&format!("100/{vm}/disk.0")));
                on.perform(&call, &[]).unwrap();
            });
        }
    });
    on.nothing_half_made();
    for vm in 0..24 {
        assert!(Path::new(&on.path(&format!("100/{vm}/disk.0"))).exists());
    }
}
