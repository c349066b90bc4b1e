use super::*;
use crate::domain::PauseReason;
use crate::error::Code;
use crate::hypervisor::Hypervisor;
use crate::migrate::{Drive, MigrateRequest};

const XML: &str = "<domain type='kvm'><name>one-7</name>\
    <uuid>6e1f0f2a-0000-4000-8000-000000571347</uuid><memory unit='MiB'>64</memory></domain>";

fn one_7() -> DeployId {
    "one-7".parse().unwrap()
}

#[test]
fn both_ids_find_the_guest_and_absent_is_not_unreachable() {
    let host = Fake::new("node1");
    let created = host.create(XML).unwrap();
    let by_uuid = host.lookup(&created.uuid.into()).unwrap().unwrap();
    assert_eq!(host.lookup(&one_7()).unwrap().unwrap(), by_uuid);
    host.destroy(&one_7()).unwrap();
    assert_eq!(host.lookup(&one_7()).unwrap(), None);
    assert!(host.destroy(&one_7()).unwrap_err().is_absent());
    host.set_unreachable(true);
    assert!(host.lookup(&one_7()).unwrap_err().is_unknown());
}

#[test]
fn lies_are_told_at_their_turn_only() {
    let host = Fake::new("node1");
    let busy = Cause::libvirt(Code::Timeout, "cannot acquire state change lock");
    host.lie(Operation::Destroy, 2, Lie::Instead(busy.clone()));
    host.lie(Operation::Create, 2, Lie::After(Cause::unreachable()));
    host.create(XML).unwrap();
    host.destroy(&one_7()).unwrap();
    assert!(host.create(XML).unwrap_err().is_unknown());
    assert!(host.truth(&one_7()).is_some());
    assert_eq!(host.destroy(&one_7()).unwrap_err().cause, busy);
    assert!(host.truth(&one_7()).is_some());
    host.destroy(&one_7()).unwrap();
    let operations = host.operations();
    assert_eq!(operations.len(), 5);
    assert_eq!(operations.last(), Some(&Operation::Destroy));
}

#[test]
fn a_guest_may_ignore_the_button() {
    let host = Fake::new("node1");
    host.create(XML).unwrap();
    host.ignore_shutdown(&one_7());
    host.shutdown(&one_7()).unwrap();
    assert!(host.lookup(&one_7()).unwrap().unwrap().state.is_running());
    host.set_state(&one_7(), State::Paused(PauseReason::IoError));
    let paused = host.shutdown(&one_7()).unwrap_err();
    assert_eq!(paused.code(), Some(Code::WrongState));
}

#[test]
fn a_persistent_domain_stays_until_it_is_undefined() {
    let host = Fake::new("node1");
    host.create(XML).unwrap();
    host.set_persistent(&one_7());
    host.destroy(&one_7()).unwrap();
    let off = host.lookup(&one_7()).unwrap().unwrap();
    assert_eq!((off.state, off.persistent), (State::ShutOff, true));
    assert_eq!(host.list().unwrap(), vec![]);
    host.undefine(&one_7()).unwrap();
    assert_eq!(host.lookup(&one_7()).unwrap(), None);
}

fn pair() -> (Fake, Arc<Fake>, MigrateRequest) {
    let (source, destination) = (Fake::new("node1"), Arc::new(Fake::new("node2")));
    let uri = "qemu+ssh://node2/system";
    source.connect_peer(uri, destination.clone());
    source.create(XML).unwrap();
    let request = MigrateRequest::new(Drive::Client, uri, Duration::from_secs(5));
    (source, destination, request)
}

#[test]
fn a_migration_moves_the_guest_even_if_the_answer_is_lost() {
    let (source, destination, request) = pair();
    source.lie(Operation::Migrate, 1, Lie::After(Cause::unreachable()));
    assert!(source.migrate(&one_7(), &request).unwrap_err().is_unknown());
    assert_eq!(source.truth(&one_7()), None);
    assert!(destination.truth(&one_7()).unwrap().state.is_running());
}

#[test]
fn a_migration_that_cannot_arrive_leaves_the_guest_at_the_source() {
    let (source, destination, request) = pair();
    destination.set_unreachable(true);
    source.migrate(&one_7(), &request).unwrap_err();
    assert!(source.truth(&one_7()).unwrap().state.is_running());
    destination.set_unreachable(false);
    destination.create(XML).unwrap();
    let taken = source.migrate(&one_7(), &request).unwrap_err();
    assert_eq!(taken.code(), Some(Code::Exists));
    assert!(source.truth(&one_7()).is_some());
}

#[test]
fn a_migration_can_be_aborted_while_it_runs() {
    let (source, destination, request) = pair();
    source.set_migration_takes(Duration::from_secs(60));
    let source = Arc::new(source);
    let other = source.clone();
    let moving = std::thread::spawn(move || other.migrate(&one_7(), &request));
    while source.abort_job(&one_7()).is_err() {
        std::thread::yield_now();
    }
    let error = moving.join().unwrap().unwrap_err();
    assert_eq!(error.code(), Some(Code::Aborted));
    assert!(source.truth(&one_7()).is_some());
    assert_eq!(destination.truth(&one_7()), None);
}
