//! Backups of the fake guest: what was begun before, what dies, and what libvirt has forgotten.

use std::cell::Cell;
use std::time::Duration;

use causeway_core::names::DeployId;

use super::backup::{Backup, Moment, back_up, end_backup};
use super::*;
use crate::domain::State;
use crate::error::{Cause, Code, DomainError, Operation};
use crate::fake::{Agent, Fake, Lie, Pace};
use crate::hypervisor::Hypervisor;

const XML: &str = "<domain type='kvm'><name>one-7</name><memory unit='MiB'>64</memory><devices><disk type='file'>\
    <source file='/ds/0/7/disk.0'/><target dev='vda'/></disk></devices></domain>";

fn one_7() -> DeployId {
    "one-7".parse().unwrap()
}

struct Dog(Cell<bool>);

impl Watchdog for Dog {
    fn arm(&self, _: Hold) -> Result<(), String> {
        self.0.set(true);
        Ok(())
    }
    fn disarm(&self) -> bool {
        self.0.replace(false)
    }
}

fn guest() -> Fake {
    let host = Fake::new("node1");
    host.create(XML).unwrap();
    host
}

fn with<T>(cancelled: &dyn Fn() -> bool, deadline: Duration, work: impl FnOnce(&Control<'_>) -> T) -> T {
    let dog = Dog(Cell::new(false));
    let control = Control {
        deadline,
        interval: Duration::from_millis(1),
        settle: Duration::from_millis(1),
        cancelled,
        progress: &|_| {},
        warn: &|_| {},
        names: &Spelling,
        watchdog: &dog,
    };
    let done = work(&control);
    assert!(!dog.0.get(), "a guest is left to its guard");
    done
}

fn run(host: &Fake, backup: &Backup, moment: Option<Moment>) -> Result<Ended, DomainError> {
    with(&|| false, Duration::from_secs(60), |control| back_up(host, &one_7(), backup, moment, control))
}

fn full() -> Backup {
    Backup { targets: vec![("vda".into(), "/ds/0/7/backup/x".into())], begin: None, since: None }
}

fn increment(number: u32) -> Backup {
    let name = |number: u32| format!("one-7-{number}");
    Backup { begin: Some(name(number)), since: number.checked_sub(1).map(name), ..full() }
}

#[test]
fn a_backup_is_of_one_moment_and_the_guest_goes_on() {
    let moment = |agent, moment| {
        let host = guest();
        host.set_agent(&one_7(), agent);
        let done = run(&host, &full(), moment);
        assert_eq!(host.truth(&one_7()).unwrap().state, State::Running);
        assert!(!host.is_frozen(&one_7()));
        (done.map_err(|e| e.code()), host.backups(&one_7()).len())
    };
    let frozen = Some(Moment::Frozen(Duration::from_secs(1)));
    assert_eq!(moment(Agent::None, None), (Ok(Ended::Done), 1));
    assert_eq!(moment(Agent::None, Some(Moment::Suspended)), (Ok(Ended::Done), 1));
    assert_eq!(moment(Agent::Answers, frozen), (Ok(Ended::Done), 1));
    // Who asks for the agent does not get a backup without it.
    assert_eq!(moment(Agent::None, frozen), (Err(Some(Code::Agent)), 0));
}

#[test]
fn increments_keep_two_checkpoints_and_are_found_again_after_a_power_cycle() {
    let host = guest();
    for number in 0..4 {
        run(&host, &increment(number), None).unwrap();
    }
    assert_eq!(host.bitmaps(&one_7()), ["vda one-7-2", "vda one-7-3"]);
    host.forget_checkpoints(&one_7());
    run(&host, &increment(4), None).unwrap();
    assert_eq!(host.backups(&one_7()).last(), Some(&increment(4)));
    // One that did not arrive is made again.
    run(&host, &increment(4), None).unwrap();
    host.forget_checkpoints(&one_7());
    run(&host, &increment(4), None).unwrap();
    assert!(host.bitmaps(&one_7()).contains(&"vda one-7-4".to_owned()));
    // A new chain needs none of the old one.
    host.forget_checkpoints(&one_7());
    run(&host, &increment(0), None).unwrap();
    run(&host, &increment(1), None).unwrap();
    let missing = run(&host, &increment(9), None).unwrap_err();
    let said = missing.cause.to_string();
    assert!(said.contains("no bitmap one-7-8") && said.contains("onevm backup --reset"), "{said}");
}

#[test]
fn one_that_runs_is_gone_on_with_or_refused() {
    let host = guest();
    host.begin_backup(&one_7(), &increment(0)).unwrap();
    assert_eq!(run(&host, &increment(0), None).unwrap(), Ended::Done);
    assert_eq!(host.backups(&one_7()).len(), 1);
    let other = Backup { targets: vec![("vda".into(), "/elsewhere/x".into())], ..full() };
    host.begin_backup(&one_7(), &other).unwrap();
    let refused = run(&host, &full(), None).unwrap_err();
    assert!(
        refused.cause.to_string().contains("other files runs already: /elsewhere/x"),
        "{}",
        refused.cause
    );
    let end = |below| with(&|| false, Duration::from_secs(60), |c| end_backup(&host, &one_7(), below, c));
    assert_eq!(end("/elsewhere/x").unwrap(), Ended::Already);
    assert!(host.backup_files(&one_7()).unwrap().is_some());
    assert_eq!(end("/elsewhere").unwrap(), Ended::Done);
    assert_eq!(host.backup_files(&one_7()).unwrap(), None);
    host.destroy(&one_7()).unwrap();
    assert_eq!(end("/ds").unwrap(), Ended::Already);
}

#[test]
fn a_lost_answer_is_looked_up() {
    let host = guest();
    host.lie(Operation::BackUp, 1, Lie::After(Cause::Lost));
    assert_eq!(run(&host, &full(), None).unwrap(), Ended::Done);
    host.lie(Operation::BackUp, 2, Lie::Instead(Cause::Lost));
    assert!(run(&host, &full(), None).unwrap_err().is_unknown());
    assert_eq!(host.backups(&one_7()).len(), 1);
}

#[test]
fn what_fails_or_is_given_up_is_no_backup() {
    let host = guest();
    host.set_pace(&one_7(), Pace { breaks_at: Some(1 << 20), ..Pace::default() });
    let failed = run(&host, &full(), None).unwrap_err();
    assert!(failed.cause.to_string().contains("not well"), "{}", failed.cause);
    host.set_pace(&one_7(), Pace { step: 0, ..Pace::default() });
    let looks = Cell::new(0);
    let cancelled = || looks.replace(looks.get() + 1) > 3;
    let late = with(&cancelled, Duration::from_secs(60), |c| back_up(&host, &one_7(), &full(), None, c));
    assert!(matches!(late.unwrap_err().cause, Cause::Cancelled));
    let late = with(&|| false, Duration::from_millis(5), |c| back_up(&host, &one_7(), &full(), None, c));
    assert!(matches!(late.unwrap_err().cause, Cause::Deadline(_)));
    assert_eq!(host.backup_files(&one_7()).unwrap(), None);
    assert!(host.backups(&one_7()).is_empty());
}
