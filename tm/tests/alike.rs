//! What takes the place of an image or a disk has its permissions and, where we may give files away, its owner.

#![cfg(test)]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use common::Datastores;
use common::images::Images;

const MODE: u32 = 0o664;

/// Some group that is not ours, where root may give files to it.
fn group() -> u32 {
    if rustix::process::getuid().is_root() { 1235 } else { rustix::process::getgid().as_raw() }
}

fn admins(on: &Datastores, below: &str) {
    std::fs::set_permissions(on.path(below), std::fs::Permissions::from_mode(MODE)).unwrap();
    chown(on.path(below), None, Some(group())).unwrap();
}

fn is_as_before(on: &Datastores, below: &str, when: &str) {
    let found = on.path(below).metadata().unwrap();
    assert_eq!((found.mode() & 0o777, found.gid()), (MODE, group()), "{below} after {when}");
}

#[test]
fn an_image_stays_its_admin_s() {
    let on = Datastores::new();
    on.raw_image();
    admins(&on, "1/abc");
    on.done(&on.link("image"));
    on.done(&on.snapshot("create", 0, false, true));
    is_as_before(&on, "1/abc.snap/0", "a snapshot");
    on.done(&on.snapshot("revert", 0, false, true));
    is_as_before(&on, "1/abc", "going back");
    on.done(&on.give_back());
    on.done(&on.lend("image"));
    on.done(&on.take_back("image"));
    is_as_before(&on, "1/abc", "coming back");
    std::fs::set_permissions(on.path("1/abc.snap/0"), std::fs::Permissions::from_mode(0o600)).unwrap();
    on.done(&on.image_snapshot(false, "flatten", 0));
    is_as_before(&on, "1/abc", "being flattened");
}

#[test]
fn an_image_of_layers_stays_its_admin_s() {
    let on = Datastores::new();
    on.qcow2_image();
    admins(&on, "1/abc");
    on.done(&on.link("chain"));
    on.done(&on.snapshot("create", 0, true, true));
    is_as_before(&on, "1/abc.snap/1", "a snapshot");
    on.done(&on.snapshot("revert", 0, true, true));
    is_as_before(&on, "1/abc.snap/1", "going back");
    on.done(&on.give_back());
    on.done(&on.lend("chain"));
    on.done(&on.take_back("chain"));
    for layer in ["1/abc", "1/abc.snap/0", "1/abc.snap/1"] {
        is_as_before(&on, layer, "coming back");
    }
    on.done(&on.image_snapshot(true, "flatten", 0));
    is_as_before(&on, "1/abc", "being flattened");
}
