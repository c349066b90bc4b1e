//! `migrate`.

use std::sync::Arc;

use causeway_core::document::Envelope;
use causeway_domain::fake::Lie;
use causeway_domain::{
    AutoConverge, Cause, Code, JobOperation, JobPhase, JobStats, MigrateRequest, PauseReason, State,
};

use super::*;
use crate::host::migrate::{request, tried};

/// The request of `k-qcow2-06-migrate-live`: VM 0 from node1 to node2, on shared storage.
const ENVELOPE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/data/requests/k-qcow2-06-migrate-live.migrate.xml"
));
const ARGV: [&str; 5] = [UUID, "node2", "node1", "0", "node1"];
const URI: &str = "qemu+ssh://node2/system?no_tty=1";

fn migrate(bench: &Bench) -> Result<Done, Failure> {
    bench.run("migrate", &ARGV, ENVELOPE.as_bytes())
}

/// The guest on its host, and a second host for it.
fn pair() -> (Bench, Arc<Fake>) {
    let bench = Bench::with_guest();
    let destination = Arc::new(Fake::new("node2"));
    bench.host.connect_peer(URI, Arc::clone(&destination));
    (bench, destination)
}

fn asked(settings: &Settings, envelope: &str) -> Result<MigrateRequest, Failure> {
    let envelope = Envelope::parse(envelope.as_bytes()).unwrap();
    request(settings, &"node2".parse().unwrap(), &"node1".parse().unwrap(), &envelope)
}

fn with_options(options: &str) -> Result<MigrateRequest, Failure> {
    let mut settings = Bench::new().settings;
    settings.kvmrc.migrate_options = options.split_ascii_whitespace().map(str::to_owned).collect();
    asked(&settings, ENVELOPE)
}

#[test]
fn a_guest_moves_and_the_log_says_how_it_was() {
    let (bench, destination) = pair();
    let figures = JobStats { downtime_ms: Some(43), ..JobStats::default() };
    bench.host.set_completed_job(&id(), figures);
    done(migrate(&bench), Effect::Made);
    assert_eq!(bench.host.truth(&id()), None);
    let arrived = destination.truth(&id()).unwrap();
    assert_eq!((arrived.state, arrived.persistent), (State::Running, false));
}

/// Under a real oned: libvirt refused, and the VM's log said first "migrated: ? ms in all".
#[test]
fn the_log_of_a_move_that_failed_does_not_say_that_it_was_made() {
    let bench = Bench::with_guest();
    bench.host.set_completed_job(&id(), JobStats::default());
    refused(migrate(&bench), Kind::Unreachable, "");
    assert!(!bench.lines().iter().any(|line| line.contains("migrated")), "{:?}", bench.lines());
}

#[test]
fn only_a_guest_that_lives_here_is_sent() {
    let bench = Bench::new();
    refused(migrate(&bench), Kind::HostState, "is not on node1");
    let bench = Bench::with_guest();
    bench.host.set_unreachable(true);
    refused(migrate(&bench), Kind::Unreachable, "cannot reach libvirt");

    let bench = Bench::with_guest();
    let (phase, operation) = (JobPhase::Unbounded, JobOperation::MigrationOut);
    bench.host.set_job(&id(), JobStats { phase, operation, ..JobStats::default() });
    refused(migrate(&bench), Kind::HostState, "is being migrated already");
    bench.host.set_state(&id(), State::Paused(PauseReason::User));
    refused(migrate(&bench), Kind::HostState, "is being migrated already");

    let bench = Bench::with_guest();
    bench.host.set_state(&id(), State::Paused(PauseReason::Migration));
    refused(migrate(&bench), Kind::HostState, "PausedByMigration");
    assert_eq!(bench.count(Operation::Migrate), 0);
}

#[test]
fn what_is_not_built_is_refused_before_libvirt_is_asked() {
    let bench = Bench::with_guest();
    let local = ENVELOPE.replace("<SHARED><![CDATA[YES]]></SHARED>", "<SHARED><![CDATA[NO]]></SHARED>");
    assert_ne!(local, ENVELOPE);
    refused(bench.run("migrate", &ARGV, local.as_bytes()), Kind::NotBuilt, "SHARED=YES");
    let same = [UUID, "node1", "node1", "0", "node1"];
    refused(bench.run("migrate", &same, ENVELOPE.as_bytes()), Kind::NotBuilt, "on one host");
    refused(bench.run("migrate", &ARGV, b"<VM/>"), Kind::Input, "VMM_DRIVER_ACTION_DATA");
    assert_eq!(bench.host.operations(), []);
}

/// Contract VMM 3.1: `MIGRATE_OPTIONS`.
#[test]
fn migrate_options_are_taken_or_named_and_never_dropped() {
    let plain = with_options("").unwrap();
    assert_eq!(
        (plain.bandwidth_mib, plain.parallel, plain.auto_converge, plain.xbzrle_cache),
        (None, None, None, None)
    );
    assert!(!plain.post_copy && !plain.allow_unsafe && !plain.tunnelled);
    assert_eq!(with_options("--live").unwrap(), plain);
    assert_eq!(with_options("--bandwidth 100").unwrap().bandwidth_mib, Some(100));
    assert_eq!(with_options("--bandwidth=100 --live").unwrap().bandwidth_mib, Some(100));
    assert_eq!(with_options("--parallel").unwrap().parallel, Some(0));
    for both in ["--parallel --parallel-connections 4", "--parallel-connections=4 --parallel"] {
        assert_eq!(with_options(both).unwrap().parallel, Some(4), "{both}");
    }
    let converging = AutoConverge { initial: Some(20), increment: Some(10) };
    assert_eq!(with_options("--auto-converge").unwrap().auto_converge, Some(converging));
    assert_eq!(with_options("--compressed").unwrap().xbzrle_cache, Some(0));
    // A shared file system that libvirt does not know as one: only the admin can say that it is.
    assert!(with_options("--bandwidth 100 --unsafe").unwrap().allow_unsafe);
    for (options, part) in [
        ("--unsafe=yes", "\"--unsafe=yes\" is not one of --live"),
        ("--live --postcopy", "\"--postcopy\" is not one of"),
        ("--auto-converge=20", "\"--auto-converge=20\" is not one of"),
        ("--auto-converge-initial 20", "\"--auto-converge-initial\" is not one of"),
        ("--parallel=4", "\"--parallel=4\" is not one of"),
        ("--live=yes", "\"--live=yes\" is not one of"),
        ("100", "\"100\" is not one of"),
        ("--bandwidth", "--bandwidth needs a whole number, not \"\""),
        ("--bandwidth=", "--bandwidth needs a whole number, not \"\""),
        ("--bandwidth --live", "--bandwidth needs a whole number, not \"--live\""),
        ("--bandwidth 1.5", "not \"1.5\""),
        ("--bandwidth -1", "not \"-1\""),
        ("--bandwidth 0", "migration options: bandwidth_mib is 0"),
        ("--parallel-connections 256", "--parallel-connections 256 is above 255"),
        ("--parallel --compressed", "xbzrle and parallel exclude each other"),
    ] {
        let failure = with_options(options).unwrap_err();
        assert_eq!(failure.kind, Kind::Input, "{options}: {failure}");
        assert!(failure.text.contains(part), "{options}: {failure}");
    }
}

#[test]
fn the_vms_own_word_on_its_migration_counts() {
    let features = "<FEATURES><MIGRATE_AUTO_CONVERGE>40,5</MIGRATE_AUTO_CONVERGE>\
                    <MIGRATE_COMPRESSED>YES</MIGRATE_COMPRESSED></FEATURES>";
    let envelope = ENVELOPE.replacen("<TEMPLATE>", &format!("<TEMPLATE>{features}"), 1);
    let request = asked(&Bench::new().settings, &envelope).unwrap();
    assert_eq!(request.auto_converge, Some(AutoConverge { initial: Some(40), increment: Some(5) }));
    assert_eq!(request.xbzrle_cache, Some(0));
}

#[test]
fn libvirtd_drives_over_tls_and_we_over_ssh_that_never_asks() {
    let mut settings = Bench::new().settings;
    let uri = |settings: &Settings, host: &str| {
        let envelope = Envelope::parse(ENVELOPE.as_bytes()).unwrap();
        let request =
            request(settings, &host.parse().unwrap(), &"node1".parse().unwrap(), &envelope).unwrap();
        (request.destination, request.tls)
    };
    assert_eq!(uri(&settings, "node2"), (URI.to_owned(), false));
    assert_eq!(uri(&settings, "fd00::2"), ("qemu+ssh://[fd00::2]/system?no_tty=1".to_owned(), false));
    for protocol in ["qemu+tls", "qemu+tcp", "qemu+libssh2"] {
        protocol.clone_into(&mut settings.kvmrc.qemu_protocol);
        assert_eq!(uri(&settings, "node2"), (format!("{protocol}://node2/system"), false));
    }
    settings.drive = Drive::PeerToPeer;
    assert_eq!(uri(&settings, "node2"), ("qemu+tls://node2/system".to_owned(), true));
}

/// Contract VMM 7, D2.
#[test]
fn a_migration_that_fails_destroys_nothing_on_either_host() {
    let (bench, destination) = pair();
    let cause = Cause::libvirt(Code::Other, "internal error: qemu unexpectedly closed the monitor");
    bench.host.lie(Operation::Migrate, 1, Lie::Instead(cause));
    refused(migrate(&bench), Kind::Refused, "closed the monitor");
    assert_eq!(bench.host.truth(&id()).unwrap().state, State::Running);
    // The answer is lost after the guest has gone: its only copy is at the destination.
    bench.host.lie(Operation::Migrate, 2, Lie::After(Cause::unreachable()));
    refused(migrate(&bench), Kind::Unreachable, "cannot reach libvirt");
    assert_eq!(destination.truth(&id()).unwrap().state, State::Running);
    for host in [&bench.host, destination.as_ref()] {
        let changed = [Operation::Destroy, Operation::Undefine, Operation::Resume];
        assert!(!host.operations().iter().any(|o| changed.contains(o)), "{:?}", host.operations());
    }
}

#[test]
fn a_block_job_in_the_way_is_waited_for() {
    let cause = Cause::libvirt(Code::WrongState, "domain has an active block job");
    for (tries, refusals, moved) in [(3, 2, true), (3, 3, false), (1, 1, false), (1, 0, true), (5, 4, true)] {
        let (mut bench, destination) = pair();
        bench.settings.kvmrc.virsh_tries = tries;
        (1..=refusals).for_each(|nth| bench.host.lie(Operation::Migrate, nth, Lie::Instead(cause.clone())));
        let request = asked(&bench.settings, ENVELOPE).unwrap();
        let result = bench.call(&ARGV, b"", |call| tried(call, &id(), &request, Duration::ZERO));
        assert_eq!(result.is_ok(), moved, "{tries} {refusals}");
        assert_eq!(destination.truth(&id()).is_some(), moved);
        assert_eq!(bench.count(Operation::Migrate), refusals + usize::from(moved));
    }
    let (bench, _) = pair();
    bench.host.lie(Operation::Migrate, 1, Lie::Instead(cause));
    let told = |bench: &Bench| bench.lines().iter().any(|line| line.ends_with("trying again"));
    let request = asked(&bench.settings, ENVELOPE).unwrap();
    let wait = Duration::from_secs(3600);
    let result = bench
        .meanwhile(told, Bench::cancel, || bench.call(&ARGV, b"", |call| tried(call, &id(), &request, wait)));
    assert_eq!(result.unwrap_err().kind, Kind::Cancelled);
    assert!(bench.host.truth(&id()).is_some());
}

#[test]
fn a_cancel_aborts_the_job_and_the_guest_stays() {
    let (bench, destination) = pair();
    bench.host.set_migration_takes(Duration::from_secs(600));
    let begun = |bench: &Bench| bench.count(Operation::Migrate) == 1;
    let result = bench.meanwhile(begun, Bench::cancel, || migrate(&bench));
    refused(result, Kind::Cancelled, "cancelled; the job was aborted");
    assert!(bench.count(Operation::AbortJob) >= 1);
    assert_eq!(bench.host.truth(&id()).unwrap().state, State::Running);
    assert_eq!(destination.truth(&id()), None);
}

#[test]
fn a_cancel_that_comes_too_late_changes_no_answer() {
    let (bench, destination) = pair();
    bench.cancel();
    done(migrate(&bench), Effect::Made);
    assert!(destination.truth(&id()).is_some());
    // Nobody has said that the job was aborted.
    let (bench, _) = pair();
    bench.cancel();
    bench.host.lie(Operation::Migrate, 1, Lie::After(Cause::unreachable()));
    refused(migrate(&bench), Kind::Unreachable, "cannot reach libvirt");
}

/// By itself, as the stock driver process runs it, the verb does all that a plan has steps for.
#[test]
fn a_move_without_a_plan_takes_snapshots_and_clock_along() {
    let moved = |lie: Option<Lie>, peer: Option<Failure>| {
        let (mut bench, destination) = pair();
        bench.machine.peer = Some(peer.map_or_else(|| Ok(Arc::clone(&destination)), Err));
        bench.host.add_snapshot(&id(), "snap-0", None);
        let before = bench.host.snapshots_of(&id());
        lie.into_iter().for_each(|lie| bench.host.lie(Operation::Migrate, 1, lie));
        let result = migrate(&bench);
        (bench, destination, result, before)
    };
    let (_, destination, result, before) = moved(None, None);
    done(result, Effect::Made);
    assert_eq!(destination.snapshots_of(&id()), before);
    assert_eq!(destination.operations().last(), Some(&Operation::SyncTime));

    let cause = Cause::libvirt(Code::Other, "the other side hung up");
    let (bench, destination, result, before) = moved(Some(Lie::Instead(cause)), None);
    refused(result, Kind::Refused, "hung up");
    assert_eq!((bench.host.snapshots_of(&id()), destination.operations()), (before, Vec::new()));

    // It moved, and the verb can't know.
    let (bench, _, result, _) = moved(Some(Lie::After(Cause::unreachable())), None);
    refused(result, Kind::Unreachable, "cannot reach libvirt");
    assert_eq!(bench.count(Operation::RedefineSnapshot), 0);

    let (bench, destination, result, _) =
        moved(None, Some(Failure::new(Kind::Unreachable, "no certificate")));
    done(result, Effect::Made);
    assert_eq!(destination.snapshots_of(&id()), []);
    assert!(
        bench.lines().iter().any(|l| l.contains("left as they are: no certificate")),
        "{:?}",
        bench.lines()
    );
}

#[test]
fn a_move_in_a_plan_leaves_to_its_steps_what_they_are_for() {
    let (mut bench, destination) = pair();
    bench.settings.kvmrc.cleanup_memory_on_stop = true;
    done(migrate(&bench), Effect::Made);
    assert_eq!(bench.count(Operation::Snapshots) + destination.operations().len(), 0);
    assert_eq!(bench.asked(), ["compact memory"]);
    // Contract VMM 3.4 step 1: libvirt lets no guest go that has any.
    let (bench, _) = pair();
    bench.host.add_snapshot(&id(), "snap-0", None);
    refused(migrate(&bench), Kind::HostState, "with 1 snapshots");
}
