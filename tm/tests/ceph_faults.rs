//! Every call on volumes, with a cluster that falls silent, is full, or lets the user only read, from each of its points on:
//! the call comes to an end, nothing is lost, and when the fault is over the same call comes to its end. On a real cluster;
//! the points come from the calls themselves.

#![cfg(test)]

mod ceph;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use causeway_core::answer::Kind;
use ceph::faults::Fault;
use ceph::{Stage, campaign, cases, cluster, kill};

/// Whoever disturbs the cluster.
static ALONE: Mutex<()> = Mutex::new(());

/// The child's part of the test below: stands still at its point until it is told to go on.
#[test]
#[ignore = "run by the test below, in processes of its own"]
fn killed_child() {
    kill::child();
}

#[test]
fn every_call_outlives_every_fault() {
    let Some(conf) = cluster() else { return };
    let _alone = ALONE.lock().unwrap();
    campaign::run("ceph_faults", &conf, cases::all());
}

/// The end of a step is its deadline, whatever its tool waits for; and no tool is left.
#[test]
fn a_deadline_ends_a_call_that_waits_for_the_cluster() {
    let Some(conf) = cluster() else { return };
    if !ceph::long() {
        println!("skipped: CAUSEWAY_TEST_LONG=1 runs it");
        return;
    }
    let _alone = ALONE.lock().unwrap();
    for fault in [Fault::Cut, Fault::Full] {
        let on = Stage::new(&conf);
        on.snapshots();
        let call = on.snapshot("create", 7);
        let lasting = fault.begin(&conf);
        let begun = Instant::now();
        let failure = on.perform_within(&call, Duration::from_secs(3), &|_| {}).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(10), "{fault:?}: {:?}", begun.elapsed());
        drop(lasting);
        assert_eq!(failure.kind, Kind::Timeout, "{failure}");
        on.done(call);
    }
}
