//! Whether two hosts see one directory, as `mv` and `premigrate` of a driver ask that moves no files.

#![cfg(test)]

mod common;

use causeway_core::answer::Kind;
use common::Datastores;
use serde_json::{Value, json};

fn part(of: &Datastores, order: &str) -> Value {
    json!({"probe": {"dir": of.text("100/7"), "order": order}})
}

/// The four parts of the question, in the order of the plan; what the third one says.
fn asked(from: &Datastores, to: &Datastores) -> Result<String, causeway_core::answer::Failure> {
    to.done(&part(to, "forget"));
    from.done(&part(from, "leave"));
    let found = to.perform(&part(to, "find"), &[]);
    from.done(&part(from, "forget"));
    found
}

#[test]
fn two_hosts_are_asked_whether_they_see_one_directory() {
    let (one, other) = (Datastores::new(), Datastores::new());
    // One directory, which both hosts have.
    assert!(asked(&one, &one).is_ok());
    assert_eq!(std::fs::read_dir(one.path("100")).unwrap().count(), 0);
    let failure = asked(&one, &other).unwrap_err();
    assert_eq!(failure.kind, Kind::NotBuilt);
    assert!(failure.text.contains("does not see the other one's datastore 100"), "{failure}");
    // A mark of a time when it was one directory says nothing now.
    other.done(&part(&other, "leave"));
    assert!(asked(&one, &other).is_err());
    // A destination without the datastore has nothing to forget, and sees nothing.
    std::fs::remove_dir(other.path("100")).unwrap();
    assert_eq!(asked(&one, &other).unwrap_err().kind, Kind::NotBuilt);
    assert!(one.perform(&part(&other, "leave"), &[]).is_err());
}

#[test]
fn a_mark_is_no_link() {
    let on = Datastores::new();
    let mark = on.path("100/.causeway-probe.7");
    std::os::unix::fs::symlink(on.path("1/victim"), &mark).unwrap();
    on.done(&part(&on, "leave"));
    assert!(!on.path("1/victim").exists());
    assert!(on.perform(&part(&on, "find"), &[]).is_err());
    on.done(&part(&on, "forget"));
    assert!(mark.symlink_metadata().is_err());
}
