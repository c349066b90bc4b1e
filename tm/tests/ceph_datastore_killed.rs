//! Every action on an image of a Ceph datastore, killed between any two of its effects and run again, comes to the same
//! end, on a real cluster; at no moment is there anything under an image's name but what it was or is to be.

#![cfg(test)]

mod ceph;

use ceph::{cluster, image_cases, kill};

/// The child's part of the test below.
#[test]
#[ignore = "run by the test below, in processes of its own"]
fn killed_child() {
    kill::child();
}

#[test]
fn killed_anywhere_and_run_again_is_the_same() {
    let Some(conf) = cluster() else { return };
    // An image's older volumes and snapshots may be gone when it is done: then nothing can be done twice.
    kill::campaign("ceph_datastore_killed", &conf, image_cases::all(), 5, |_, _, _| {});
}
