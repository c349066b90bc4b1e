//! Every action on an image of a Ceph datastore, with a cluster that falls silent, is full, or lets the user only read, from
//! each of its points on: the action comes to an end, nothing is lost, and when the fault is over the same action comes to
//! its end. On a real cluster; the points come from the actions themselves.

#![cfg(test)]

mod ceph;

use ceph::{campaign, cluster, image_cases, kill};

/// The child's part of the test below: stands still at its point until it is told to go on.
#[test]
#[ignore = "run by the test below, in processes of its own"]
fn killed_child() {
    kill::child();
}

#[test]
fn every_action_outlives_every_fault() {
    let Some(conf) = cluster() else { return };
    let mut all = image_cases::all();
    all.push(image_cases::export());
    campaign::run("ceph_datastore_faults", &conf, all);
}
