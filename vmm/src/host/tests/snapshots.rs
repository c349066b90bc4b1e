//! `depart`, `stay`, `arrive`, and what `deploy` gives back.

use causeway_domain::fake::Lie;
use causeway_domain::{Cause, Code, DomainError};

use super::*;
use crate::host::sync_clock;

const DIRECTORY: &str = "/var/lib/one//datastores/102/0";
const ARGV: [&str; 4] = [UUID, DIRECTORY, "0", "node1"];

/// A guest with two snapshots, the second one current.
fn bench() -> Bench {
    let bench = Bench::with_guest();
    bench.host.add_snapshot(&id(), "snap-0", None);
    bench.host.add_snapshot(&id(), "snap-1", Some("snap-0"));
    bench
}

fn names(host: &Fake) -> Vec<(String, bool)> {
    host.snapshots_of(&id()).into_iter().map(|s| (s.name, s.current)).collect()
}

/// Contract VMM 3.4, steps 1 and 6; 7 D1.
#[test]
fn snapshots_are_written_down_before_they_are_forgotten_and_given_back_where_the_guest_is() {
    let bench = bench();
    let before = bench.host.snapshots_of(&id());
    done(bench.run("depart", &ARGV, b""), Effect::Made);
    assert_eq!(names(&bench.host), []);
    let kept = FileCall::KeepSnapshots {
        directory: DIRECTORY.parse().unwrap(),
        snapshots: before.iter().map(|s| (s.name.clone(), s.xml.clone())).collect(),
        current: Some("snap-1".to_owned()),
    };
    assert_eq!(bench.file_calls(), [kept]);
    done(bench.run("depart", &ARGV, b""), Effect::Already);

    // The move failed.
    done(bench.run("stay", &ARGV, b""), Effect::Made);
    assert_eq!(bench.host.snapshots_of(&id()), before);
    done(bench.run("stay", &ARGV, b""), Effect::Already);
    assert_eq!(bench.asked(), [] as [&str; 0], "its clock has not stood still");

    // It came. The clock is set whatever becomes of the snapshots.
    let there = Bench::with_guest();
    *there.directory.snapshots.lock().unwrap() = bench.directory.snapshots.lock().unwrap().clone();
    done(there.run("arrive", &ARGV, b""), Effect::Made);
    assert_eq!(there.host.snapshots_of(&id()), before);
    done(there.run("arrive", &ARGV, b""), Effect::Already);
}

#[test]
fn a_snapshot_that_somebody_else_made_is_named_and_nothing_is_forgotten() {
    let bench = bench();
    bench.host.add_snapshot(&id(), "before-upgrade", None);
    refused(bench.run("depart", &ARGV, b""), Kind::HostState, "\"before-upgrade\" of ");
    assert_eq!((names(&bench.host).len(), bench.file_calls().len()), (3, 0));
}

#[test]
fn nothing_is_forgotten_that_could_not_be_written_down() {
    let mut bench = bench();
    bench.directory.broken = true;
    refused(bench.run("depart", &ARGV, b""), Kind::HostState, "read-only");
    bench.directory.broken = false;
    bench.cancel();
    refused(bench.run("depart", &ARGV, b""), Kind::Cancelled, "before libvirt was asked");
    assert_eq!(names(&bench.host).len(), 2);
}

#[test]
fn what_is_half_forgotten_is_given_back_whole() {
    let bench = bench();
    let before = bench.host.snapshots_of(&id());
    bench.host.lie(Operation::ForgetSnapshot, 2, Lie::Instead(Cause::unreachable()));
    refused(bench.run("depart", &ARGV, b""), Kind::Unreachable, "snap-0: forget a snapshot of");
    assert_eq!(names(&bench.host), [("snap-0".to_owned(), false)]);
    done(bench.run("stay", &ARGV, b""), Effect::Made);
    assert_eq!(bench.host.snapshots_of(&id()), before);
}

#[test]
fn one_snapshot_that_libvirt_does_not_take_keeps_none_of_the_others() {
    let bench = bench();
    done(bench.run("depart", &ARGV, b""), Effect::Made);
    let cause = Cause::libvirt(Code::Xml, "parent not found");
    bench.host.lie(Operation::RedefineSnapshot, 1, Lie::Instead(cause));
    refused(bench.run("arrive", &ARGV, b""), Kind::Refused, "snap-0: redefine a snapshot of");
    assert_eq!(names(&bench.host), [("snap-1".to_owned(), true)]);
    assert_eq!(bench.asked(), [format!("SyncClock(DeployId({UUID:?}))")]);
    if let FileAnswer::Snapshots { saved, .. } = &mut *bench.directory.snapshots.lock().unwrap() {
        saved.push("<domain/>".to_owned());
    }
    refused(bench.run("stay", &ARGV, b""), Kind::Refused, "not <domainsnapshot>");
}

#[test]
fn a_guest_that_is_gone_has_left_and_cannot_arrive() {
    let bench = Bench::new();
    done(bench.run("depart", &ARGV, b""), Effect::Already);
    done(bench.run("stay", &ARGV, b""), Effect::Already);
    refused(bench.run("arrive", &ARGV, b""), Kind::HostState, "is not on this host");
    bench.host.set_unreachable(true);
    for verb in ["depart", "stay", "arrive"] {
        refused(bench.run(verb, &ARGV, b""), Kind::Unreachable, "cannot reach libvirt");
    }
    assert_eq!(bench.asked(), [] as [&str; 0]);
}

/// Contract VMM 3.3, deploy step 9: a VM keeps its UUID, and where it has another one its snapshots follow.
#[test]
fn a_guest_that_starts_gets_its_snapshots_back() {
    let bench = bench();
    let before = bench.host.snapshots_of(&id());
    done(bench.run("depart", &ARGV, b""), Effect::Made);
    bench.host.kill(&id());
    let file = format!("{DIRECTORY}/deployment.1");
    let argv = [file.as_str(), "node1", "0", "node1"];
    done(bench.run("deploy", &argv, domain("").as_bytes()), Effect::Made);
    assert_eq!(bench.host.snapshots_of(&id()), before);

    // The one who started it died before that.
    bench.host.forget_snapshot(&id(), "snap-1").unwrap();
    done(bench.run("deploy", &argv, domain("").as_bytes()), Effect::Already);
    assert_eq!(bench.host.snapshots_of(&id()), before);

    bench.host.kill(&id());
    let other: DeployId = "11111111-0000-4000-8000-000000000000".parse().unwrap();
    let xml = domain("").replace(UUID, other.as_str());
    done(bench.run("deploy", &argv, xml.as_bytes()), Effect::Made);
    let theirs = bench.host.snapshots_of(&other);
    assert!(theirs.len() == 2 && theirs.iter().all(|s| s.xml.contains(other.as_str())), "{theirs:?}");

    // It runs all the same.
    bench.host.kill(&other);
    let seen = bench.count(Operation::RedefineSnapshot);
    bench.host.lie(Operation::RedefineSnapshot, seen + 1, Lie::Instead(Cause::unreachable()));
    done(bench.run("deploy", &argv, domain("").as_bytes()), Effect::Made);
    assert!(bench.lines().iter().any(|line| line.contains("snapshots that can't be gone back to: snap-0")));
}

#[test]
fn the_clock_is_left_alone_where_the_admin_wants_that() {
    let mut bench = Bench::with_guest();
    bench.settings.kvmrc.sync_time = false;
    done(bench.run("arrive", &ARGV, b""), Effect::Already);
    assert_eq!(bench.asked(), [] as [&str; 0]);
}

/// Contract VMM 3.3, *clock sync*.
#[test]
fn the_clock_is_tried_four_times_where_that_may_help() {
    let sync = |cause: Option<Cause>, lies: usize| {
        let bench = Bench::with_guest();
        let lie = |nth| bench.host.lie(Operation::SyncTime, nth, Lie::Instead(cause.clone().unwrap()));
        (1..=lies).for_each(lie);
        let result: Result<(), DomainError> = sync_clock(&bench.host, &id(), Duration::ZERO);
        (result.is_ok(), bench.count(Operation::SyncTime))
    };
    assert_eq!(sync(None, 0), (true, 1));
    let deaf =
        Cause::libvirt(Code::Agent, "Guest agent is not responding: QEMU guest agent is not connected");
    assert_eq!(sync(Some(deaf.clone()), 3), (true, 4));
    assert_eq!(sync(Some(deaf), 4), (false, 4));
    for cause in [
        Cause::libvirt(Code::Unsupported, "QEMU guest agent is not configured"),
        Cause::libvirt(Code::NoDomain, "Domain not found"),
        Cause::Silent(Duration::from_secs(15)),
        Cause::unreachable(),
    ] {
        assert_eq!(sync(Some(cause.clone()), 1), (false, 1), "{cause:?}");
    }
}
