//! Images that are copied to a host's own disk and brought back (`ln.ssh`, `mvds.ssh`), with all their snapshots.

#![cfg(test)]

mod common;

use std::os::unix::fs::symlink;

use common::{Datastores, chain, inside_tmpfs, tool};

/// An image of qcow2 with two snapshots, as VMs of a shared datastore leave it: byte 1 in the first, and 2 in the second.
fn image(on: &Datastores) {
    on.qcow2_image();
    on.done(&on.link("chain"));
    for id in 0..2 {
        on.guest_writes("qcow2", "100/7/disk.0", u64::from(id), u8::try_from(id + 1).unwrap());
        on.done(&on.snapshot("create", id, true, true));
    }
    on.done(&on.give_back());
}

#[test]
fn a_lent_image_needs_no_file_of_its_datastore() {
    let on = Datastores::new();
    image(&on);
    let before = on.picture();
    on.done(&on.lend("chain"));
    assert_eq!(on.target("100/7/disk.0"), "disk.0.snap/2");
    assert_eq!(on.target("100/7/disk.0.snap/disk.0.snap"), ".");
    assert_eq!(std::fs::read_to_string(on.path("100/.monitor")).unwrap(), "ssh\n");
    // Nothing of the image was touched, and nothing of it is needed.
    let now = on.picture();
    assert!(
        before
            .iter()
            .filter(|(path, _)| path.starts_with("1"))
            .all(|(path, text)| now.get(path) == Some(text))
    );
    std::fs::rename(on.path("1"), on.path("away")).unwrap();
    let files = chain(&on.path("100/7/disk.0"));
    let names: Vec<&str> = files.iter().filter_map(|file| file["backing-filename"].as_str()).collect();
    assert_eq!(names, ["disk.0.snap/1", "disk.0.snap/0"]);
    assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 3), [1, 2, 0]);
    // Snapshots on the host's own disk are the VM's.
    on.done(&on.snapshot("create", 2, true, false));
    on.done(&on.snapshot("revert", 0, true, false));
    assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 3), [1, 0, 0]);
}

#[test]
fn what_the_guest_wrote_comes_back_with_its_snapshots() {
    let on = Datastores::new();
    image(&on);
    for round in 3..6 {
        on.done(&on.lend("chain"));
        on.guest_writes("qcow2", "100/7/disk.0", 2, round);
        on.done(&on.snapshot("create", u32::from(round) - 1, true, false));
        on.guest_writes("qcow2", "100/7/disk.0", 3, round);
        on.done(&on.take_back("chain"));
        assert!(!on.path("100/7/disk.0").is_symlink() && !on.path("100/7/disk.0.snap").exists());
        assert_eq!(on.target("1/abc"), format!("abc.snap/{round}"));
        assert_eq!(on.target("1/abc.snap/abc.snap"), ".");
        assert_eq!(on.guest_reads("qcow2", "1/abc", 4), [1, 2, round, round]);
        assert_eq!(chain(&on.path("1/abc")).len(), usize::from(round) + 1);
        // Once more: the disk is gone and the image is there.
        let there = on.picture();
        on.done(&on.take_back("chain"));
        assert_eq!(on.picture(), there);
    }
    // A VM of a shared datastore takes it from there, and so do the actions on images.
    on.done(&on.link("chain"));
    assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 4), [1, 2, 5, 5]);
    on.done(&on.snapshot("create", 5, true, true));
    on.done(&on.snapshot("revert", 0, true, true));
    assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 4), [1, 0, 0, 0]);
}

/// Layers as the stock `mvds.ssh` names them: by the name of their own directory.
#[test]
fn an_image_that_the_stock_driver_brought_back_is_lent() {
    let on = Datastores::new();
    image(&on);
    let (one, two) = (on.text("1/abc.snap/1"), on.text("1/abc.snap/2"));
    std::fs::remove_file(on.path("1/abc.snap/0")).unwrap();
    std::fs::rename(on.path("1/abc"), on.path("1/abc.snap/0")).unwrap();
    for (below, layer) in [("abc.snap/0", &one), ("abc.snap/1", &two)] {
        tool("qemu-img", &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", below, layer]);
    }
    symlink("abc.snap/2", on.path("1/abc")).unwrap();
    on.done(&on.lend("chain"));
    assert_eq!(on.guest_reads("qcow2", "100/7/disk.0", 3), [1, 2, 0]);
    on.done(&on.take_back("chain"));
    assert_eq!(on.guest_reads("qcow2", "1/abc", 3), [1, 2, 0]);
}

#[test]
fn an_image_upon_another_is_lent_with_that_one_s_data() {
    let on = Datastores::new();
    on.qcow2_image();
    std::fs::rename(on.path("1/abc"), on.path("1/golden")).unwrap();
    on.qcow2("1/abc", "16M", Some(("qcow2", &on.text("1/golden"))));
    on.done(&on.lend("chain"));
    assert_eq!(chain(&on.path("100/7/disk.0")).len(), 1);
    tool("qemu-img", &["compare", "-q", "-U", &on.text("1/abc"), &on.text("100/7/disk.0")]);
}

#[test]
fn plain_bytes_come_and_go_with_their_snapshots() {
    let on = Datastores::new();
    on.raw_image();
    on.done(&on.link("image"));
    on.done(&on.snapshot("create", 0, false, true));
    on.done(&on.give_back());
    on.done(&on.lend("image"));
    assert!(on.path("100/7/disk.0").symlink_metadata().unwrap().is_file());
    on.guest_writes("raw", "100/7/disk.0", 0, 7);
    on.done(&on.snapshot("create", 1, false, false));
    on.done(&on.snapshot("delete", 0, false, false));
    on.done(&on.take_back("image"));
    assert_eq!(on.guest_reads("raw", "1/abc", 1), [7]);
    assert_eq!(on.guest_reads("raw", "1/abc.snap/1", 1), [7]);
    assert!(!on.path("1/abc.snap/0").exists(), "a snapshot that the VM gave up does not come back");
    on.done(&on.lend("image"));
    on.done(&on.snapshot("delete", 1, false, false));
    on.done(&on.take_back("image"));
    assert!(!on.path("1/abc.snap").exists());
}

/// W1: nothing is written through a link that stands where the copy should be, nor taken for the copy.
#[test]
fn what_is_no_copy_is_not_taken_back() {
    let on = Datastores::new();
    on.raw_image();
    on.vm_dir();
    std::fs::write(on.path("1/other"), b"somebody's data").unwrap();
    symlink(on.path("1/other"), on.path("100/7/disk.0")).unwrap();
    let before = on.picture();
    let failure = on.failure(&on.take_back("image"));
    assert!(failure.text.contains("it is a link to") && failure.text.contains("a copy of"), "{failure}");
    assert!(on.failure(&on.take_back("chain")).text.contains("disk.0"));
    let mut now = on.picture();
    now.remove(std::path::Path::new("100/.causeway"));
    assert_eq!(now, before);
    // Its snapshots without the disk itself are nobody's to remove.
    std::fs::remove_file(on.path("100/7/disk.0")).unwrap();
    std::fs::create_dir(on.path("100/7/disk.0.snap")).unwrap();
    std::fs::write(on.path("100/7/disk.0.snap/0"), b"all that is left").unwrap();
    let failure = on.failure(&on.take_back("chain"));
    assert!(failure.text.contains("there is no disk.0, but there is disk.0.snap"), "{failure}");
    assert!(on.path("100/7/disk.0.snap/0").exists());
}

#[test]
fn a_disk_that_is_gone_came_back_only_where_that_can_be_known() {
    let on = Datastores::new();
    on.raw_image();
    assert!(on.failure(&on.take_back("image")).text.contains("may not be mounted"));
    std::fs::create_dir(on.path("100/8")).unwrap();
    on.done(&on.take_back("image"));
    std::fs::remove_file(on.path("1/abc")).unwrap();
    assert!(on.failure(&on.take_back("image")).text.starts_with("there is no"));
}

/// A word of an earlier disk of the number says nothing of this one.
#[test]
fn a_word_of_another_disk_does_not_count() {
    let on = Datastores::new();
    image(&on);
    let word = on.path("100/7/.causeway-tmp.disk.0.returned");
    on.done(&on.lend("chain"));
    std::fs::write(&word, format!("{}\n1 2 3.4\n", on.text("1/abc"))).unwrap();
    on.guest_writes("qcow2", "100/7/disk.0", 2, 9);
    on.done(&on.take_back("chain"));
    assert_eq!(on.guest_reads("qcow2", "1/abc", 3), [1, 2, 9]);
    std::fs::write(&word, format!("{}\n1 2 3.4\n", on.text("1/abc"))).unwrap();
    on.done(&on.lend("chain"));
    assert!(!word.exists());
}

#[test]
fn a_full_image_datastore_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    inside_tmpfs("full_image_datastore", dir.path(), "12m");
}

#[test]
#[ignore = "run by the test above, in a file system of its own"]
fn full_image_datastore() {
    let dir = std::env::var("CAUSEWAY_TEST_DIR").unwrap();
    let on = Datastores::below(dir.as_ref());
    std::fs::write(on.path("1/abc"), vec![1; 3 << 20]).unwrap();
    on.done(&on.lend("image"));
    on.guest_writes("raw", "100/7/disk.0", 0, 7);
    let filler = on.path("filler");
    std::fs::write(&filler, vec![1; 5 << 20]).unwrap();
    let failure = on.failure(&on.take_back("image"));
    assert!(failure.text.contains("No space left"), "{failure}");
    assert_eq!(std::fs::read(on.path("1/abc")).unwrap()[..2], [1, 1]);
    std::fs::remove_file(filler).unwrap();
    on.done(&on.take_back("image"));
    assert_eq!(std::fs::read(on.path("1/abc")).unwrap()[..2], [7, 7]);
}
