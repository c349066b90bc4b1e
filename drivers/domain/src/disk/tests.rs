use std::cell::{Cell, RefCell};
use std::time::Duration;

use causeway_core::names::DeployId;

use super::follow::follow;
use super::rest::{self, How};
use super::snapshot::snapshot;
use super::*;
use crate::domain::{PauseReason, State};
use crate::error::{Cause, Code, Operation};
use crate::fake::{Agent, Fake, Lie, Pace};
use crate::hypervisor::Hypervisor;

const SNAP: &str = "/ds/0/7/disk.0.snap";

/// As libvirt 9.0 writes it for OpenNebula's chains of relative names.
const XML: &str = "<domain type='kvm'><name>one-7</name><memory unit='MiB'>64</memory><devices>\
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
    <source file='/ds/0/7/disk.0.snap/3' index='2'/>\
    <backingStore type='file' index='3'><format type='qcow2'/><source file='/ds/0/7/disk.0.snap/disk.0.snap/2'/>\
    <backingStore type='file' index='4'><format type='qcow2'/>\
    <source file='/ds/0/7/disk.0.snap/disk.0.snap/disk.0.snap/1'/>\
    <backingStore type='file' index='5'><format type='raw'/><source file='/ds/1/abc'/><backingStore/>\
    </backingStore></backingStore></backingStore><target dev='vda' bus='virtio'/></disk>\
    <disk type='file' device='cdrom'><driver name='qemu'/><target dev='hda'/></disk>\
    <disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='one/one-5-7-1'/>\
    <target dev='vdb' bus='virtio'/></disk></devices></domain>";

const HOW: How = How { agent: Duration::from_secs(5), or_suspend: true };

fn snap(number: u32) -> String {
    format!("{SNAP}/{number}")
}

fn one_7() -> DeployId {
    "one-7".parse().unwrap()
}

/// Writes down what it is told.
#[derive(Default)]
struct Dog {
    armed: Cell<Option<Hold>>,
    times: Cell<u32>,
    lame: bool,
}

impl Watchdog for Dog {
    fn arm(&self, hold: Hold) -> Result<(), String> {
        if self.lame {
            return Err("no such program".to_owned());
        }
        self.times.set(self.times.get() + 1);
        self.armed.set(Some(hold));
        Ok(())
    }
    fn disarm(&self) -> bool {
        self.armed.take().is_some()
    }
}

/// A host with the guest, and what is around the work.
struct Bench {
    host: Fake,
    dog: Dog,
    looks: RefCell<Vec<Progress>>,
    warnings: RefCell<Vec<String>>,
    cancel_at: Cell<Option<u8>>,
    deadline: Duration,
}

impl Bench {
    fn new() -> Self {
        let host = Fake::new("node1");
        host.create(XML).unwrap();
        Bench {
            host,
            dog: Dog::default(),
            looks: RefCell::default(),
            warnings: RefCell::default(),
            cancel_at: Cell::new(None),
            deadline: Duration::from_secs(60),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&Control<'_>) -> T) -> T {
        let cancelled = || {
            let at = self.looks.borrow().last().map(|p| p.percent);
            self.cancel_at.get().is_some_and(|limit| limit == 0 || at.is_some_and(|at| at >= limit))
        };
        work(&Control {
            deadline: self.deadline,
            interval: Duration::from_millis(1),
            settle: Duration::from_millis(50),
            cancelled: &cancelled,
            progress: &|progress| self.looks.borrow_mut().push(*progress),
            warn: &|text| self.warnings.borrow_mut().push(text.to_owned()),
            names: &Spelling,
            watchdog: &self.dog,
        })
    }

    fn follow(&self, goal: &Goal) -> Result<Ended, crate::DomainError> {
        self.with(|control| follow(&self.host, &one_7(), "vda", goal, 0, control))
    }

    fn snapshot(&self, quiesce: Option<How>) -> Result<Ended, crate::DomainError> {
        self.with(|control| snapshot(&self.host, &one_7(), "vda", &snap(4), quiesce, control))
    }

    /// The chain by its files' own names.
    fn chain(&self) -> Vec<String> {
        self.host.files(&one_7(), "vda").iter().map(|path| Spelling.name(path)).collect()
    }

    /// It runs, nothing in it is frozen, and nobody needs to see to that any more.
    fn is_well(&self) {
        assert_eq!(self.host.truth(&one_7()).unwrap().state, State::Running);
        assert!(!self.host.is_frozen(&one_7()));
        assert_eq!(self.dog.armed.get(), None);
    }

    fn count(&self, operation: Operation) -> usize {
        self.host.operations().iter().filter(|o| **o == operation).count()
    }
}

fn commit(top: u32, base: u32) -> Goal {
    Goal::Commit { top: snap(top), base: snap(base), active: top == 3, relative: true }
}

fn pull(base: Option<String>) -> Goal {
    Goal::Pull { base, relative: true }
}

fn copy(rest: Option<How>) -> Goal {
    Goal::Copy { to: "/ds/1/new".to_owned(), format: Format::Raw, rest }
}

fn whole() -> Vec<String> {
    vec![snap(3), snap(2), snap(1), "/ds/1/abc".to_owned()]
}

#[test]
fn chains_are_read_from_live_xml() {
    let chains = Bench::new().host.disks(&one_7()).unwrap();
    let targets: Vec<_> = chains.iter().map(|c| c.target.as_str()).collect();
    assert_eq!(targets, ["vda", "hda", "vdb"]);
    assert_eq!(chains[0].files(&Spelling), whole());
    let formats: Vec<_> = chains[0].layers.iter().filter_map(|l| l.format.as_deref()).collect();
    assert_eq!(formats, ["qcow2", "qcow2", "qcow2", "raw"]);
    assert_eq!(chains[0].layers[2].name("vda").unwrap(), "vda[4]");
    assert_eq!(chains[0].position("/ds/0//7/disk.0.snap/1", &Spelling), Some(2));
    assert_eq!(chains[0].position("/ds/0/7/disk.1.snap/1", &Spelling), None);
    assert_eq!(chains[1].layers, []);
    assert_eq!(chains[2].files(&Spelling), ["rbd:one/one-5-7-1"]);
    let none = crate::domain_xml::chains("<domain><devices><disk><target/></disk></devices></domain>");
    assert!(none.is_err());
}

#[test]
fn a_file_keeps_the_name_under_which_it_was_first_seen() {
    let there = Cell::new(true);
    let names = chain::Remembered::new(|path| (there.get() && path == "/ds/7/disk.0").then(|| snap(2)));
    assert_eq!(names.name("/ds//7/disk.0"), snap(2));
    there.set(false);
    assert_eq!(names.name("/ds/7/./disk.0"), snap(2), "though it is deleted");
    assert_eq!(names.name("/ds/7/x.snap/x.snap/1"), "/ds/7/x.snap/1");
    assert_ne!(names.name("/ds/7/x.snap/y.snap/1"), names.name("/ds/7/x.snap/1"));
}

#[test]
fn a_layer_between_is_committed() {
    let bench = Bench::new();
    assert_eq!(bench.follow(&commit(2, 1)).unwrap(), Ended::Done);
    assert_eq!(bench.chain(), [snap(3), snap(1), "/ds/1/abc".to_owned()]);
    assert_eq!(bench.count(Operation::EndDiskJob), 0);
    let percents: Vec<_> = bench.looks.borrow().iter().map(|p| p.percent).collect();
    assert!(percents.is_sorted() && percents.last() == Some(&100), "{percents:?}");
    assert_eq!(bench.follow(&commit(2, 1)).unwrap(), Ended::Already);
    assert_eq!(bench.count(Operation::StartDiskJob), 1);
}

#[test]
fn the_active_layer_is_committed_and_left() {
    let bench = Bench::new();
    assert_eq!(bench.follow(&commit(3, 1)).unwrap(), Ended::Done);
    assert_eq!(bench.chain(), [snap(1), "/ds/1/abc".to_owned()]);
    assert_eq!(bench.follow(&commit(3, 1)).unwrap(), Ended::Already);
}

#[test]
fn a_pull_ends_at_its_base_or_with_the_whole_disk() {
    let bench = Bench::new();
    assert_eq!(bench.follow(&pull(Some(snap(1)))).unwrap(), Ended::Done);
    assert_eq!(bench.chain(), [snap(3), snap(1), "/ds/1/abc".to_owned()]);
    assert_eq!(bench.follow(&pull(Some(snap(1)))).unwrap(), Ended::Already);
    assert_eq!(bench.follow(&pull(None)).unwrap(), Ended::Done);
    assert_eq!(bench.chain(), [snap(3)]);
    assert_eq!(bench.follow(&pull(None)).unwrap(), Ended::Already);
}

/// Contract TM, W6: a wrong answer about the active layer must not move the guest.
#[test]
fn what_is_not_in_the_chain_as_said_is_not_touched() {
    let bench = Bench::new();
    let wrong = [
        Goal::Commit { top: snap(2), base: snap(1), active: true, relative: false },
        Goal::Commit { top: snap(3), base: snap(1), active: false, relative: false },
        Goal::Commit { top: snap(1), base: snap(2), active: false, relative: false },
        Goal::Commit { top: snap(2), base: snap(9), active: false, relative: false },
        Goal::Commit { top: snap(9), base: snap(1), active: true, relative: false },
        pull(Some(snap(9))),
        pull(Some(snap(3))),
        Goal::Copy { to: snap(2), format: Format::Qcow2, rest: None },
    ];
    for goal in wrong {
        let error = bench.follow(&goal).unwrap_err();
        assert_eq!(error.code(), Some(Code::WrongState), "{goal:?}: {error}: {}", error.cause);
    }
    assert_eq!(bench.chain(), whole());
    assert_eq!(bench.count(Operation::StartDiskJob), 0);
}

#[test]
fn a_copy_is_cut_while_the_guest_rests() {
    for (agent, rest) in [(Agent::None, Some(HOW)), (Agent::Answers, Some(HOW)), (Agent::None, None)] {
        let bench = Bench::new();
        bench.host.set_agent(&one_7(), agent);
        assert_eq!(bench.follow(&copy(rest)).unwrap(), Ended::Done);
        assert_eq!(bench.chain(), whole());
        assert_eq!(bench.host.copies(&one_7()), ["/ds/1/new"]);
        bench.is_well();
        let suspended = rest.is_some() && agent == Agent::None;
        assert_eq!(bench.count(Operation::Suspend), usize::from(suspended));
        // A copy leaves nothing in the chain that would tell that it is done.
        assert_eq!(bench.follow(&copy(rest)).unwrap(), Ended::Done);
    }
}

#[test]
fn what_a_crash_left_is_taken_up() {
    let named = |number: u32| format!("vda[{number}]");
    let left = [
        (commit(2, 1), DiskJob::Commit { top: named(3), base: named(4), active: false, relative: true }),
        (commit(3, 1), DiskJob::Commit { top: named(2), base: named(4), active: true, relative: false }),
        (pull(Some(snap(1))), DiskJob::Pull { base: Some(named(4)), relative: true }),
        (copy(None), DiskJob::Copy { to: "/ds/1/new".to_owned(), format: Format::Raw }),
    ];
    for (goal, job) in left {
        let bench = Bench::new();
        bench.host.leave_disk_job(&one_7(), "vda", &job);
        assert_eq!(bench.follow(&goal).unwrap(), Ended::Done, "{goal:?}");
        assert_eq!(bench.count(Operation::StartDiskJob), 0);
    }
}

#[test]
fn somebody_elses_job_is_left_alone() {
    let bench = Bench::new();
    let other = DiskJob::Copy { to: "/elsewhere".to_owned(), format: Format::Raw };
    bench.host.leave_disk_job(&one_7(), "vda", &other);
    for goal in [commit(2, 1), pull(None), copy(None)] {
        assert_eq!(bench.follow(&goal).unwrap_err().code(), Some(Code::WrongState));
    }
    assert!(bench.host.has_disk_job(&one_7(), "vda"));
    assert_eq!(bench.count(Operation::EndDiskJob), 0);
}

#[test]
fn a_job_that_is_given_up_leaves_the_guest_on_its_chain() {
    for goal in [commit(2, 1), commit(3, 1), pull(None), copy(Some(HOW))] {
        let bench = Bench::new();
        bench.cancel_at.set(Some(25));
        let error = bench.follow(&goal).unwrap_err();
        assert_eq!(error.cause, Cause::Cancelled, "{goal:?}");
        assert_eq!(bench.chain(), whole());
        assert!(!bench.host.has_disk_job(&one_7(), "vda"));
        bench.is_well();
        bench.cancel_at.set(Some(0));
        assert_eq!(bench.follow(&goal).unwrap_err().cause, Cause::Cancelled);
        assert_eq!(bench.count(Operation::StartDiskJob), 1, "nothing is begun that is given up already");
    }
}

#[test]
fn a_job_that_is_late_is_aborted() {
    let mut bench = Bench::new();
    bench.deadline = Duration::from_millis(30);
    bench.host.set_pace(&one_7(), Pace { step: 0, ..Pace::default() });
    let error = bench.follow(&commit(2, 1)).unwrap_err();
    assert_eq!(error.cause, Cause::Deadline(bench.deadline));
    assert_eq!(bench.chain(), whole());
    assert!(!bench.host.has_disk_job(&one_7(), "vda"));
}

/// Contract TM, W8: a job that ended is not one that has worked.
#[test]
fn a_job_that_breaks_is_a_failure_that_shows_the_chain() {
    for goal in [commit(2, 1), copy(None)] {
        let bench = Bench::new();
        bench.host.set_pace(&one_7(), Pace { breaks_at: Some(2 << 20), ..Pace::default() });
        let error = bench.follow(&goal).unwrap_err();
        let Cause::Answer(text) = &error.cause else { panic!("{:?}", error.cause) };
        assert!(text.contains(&format!("{} on {}", snap(3), snap(2))), "{text}");
        assert_eq!(bench.host.copies(&one_7()), [""; 0]);
    }
}

#[test]
fn a_lost_answer_is_looked_up() {
    let calls = [Operation::StartDiskJob, Operation::DiskJob, Operation::Disks, Operation::EndDiskJob];
    for (operation, goal) in calls.iter().flat_map(|o| [(o, commit(3, 1)), (o, pull(None))]) {
        for cause in [Cause::unreachable(), Cause::Silent(Duration::from_secs(1)), Cause::Lost] {
            let bench = Bench::new();
            bench.host.lie(*operation, 1, Lie::After(cause));
            assert_eq!(bench.follow(&goal).unwrap(), Ended::Done, "{operation} {goal:?}");
        }
    }
}

#[test]
fn a_refusal_of_any_call_is_a_failure_and_the_guest_is_well() {
    let no = || Lie::Instead(Cause::libvirt(Code::Other, "no"));
    for goal in [commit(3, 1), copy(Some(HOW))] {
        for operation in [Operation::StartDiskJob, Operation::DiskJob, Operation::Disks] {
            let bench = Bench::new();
            bench.host.lie(operation, 1, no());
            bench.follow(&goal).unwrap_err();
            assert_eq!(bench.chain(), whole());
            bench.is_well();
        }
        // In the midst of it the job is not left to itself.
        for operation in [Operation::DiskJob, Operation::Disks] {
            let bench = Bench::new();
            bench.host.lie(operation, 2, no());
            bench.follow(&goal).unwrap_err();
            assert_eq!(bench.chain(), whole());
            assert!(!bench.host.has_disk_job(&one_7(), "vda"));
            let bench = Bench::new();
            let busy = Cause::libvirt(Code::Timeout, "cannot acquire state change lock");
            bench.host.lie(operation, 2, Lie::Instead(busy));
            assert_eq!(bench.follow(&goal).unwrap(), Ended::Done);
        }
        // Once more, then; but not for ever.
        let bench = Bench::new();
        bench.host.lie(Operation::EndDiskJob, 1, no());
        assert_eq!(bench.follow(&goal).unwrap(), Ended::Done);
        bench.is_well();
        let bench = Bench::new();
        (1..=3).for_each(|nth| bench.host.lie(Operation::EndDiskJob, nth, no()));
        bench.follow(&goal).unwrap_err();
        assert_eq!(bench.chain(), whole());
        assert!(!bench.host.has_disk_job(&one_7(), "vda"));
        bench.is_well();
    }
    let bench = Bench::new();
    bench.host.lie(Operation::Suspend, 1, Lie::After(Cause::unreachable()));
    assert_eq!(bench.follow(&copy(Some(HOW))).unwrap(), Ended::Done);
    bench.is_well();
    // A copy that was perhaps cut, and perhaps broke, is not said to be whole.
    let bench = Bench::new();
    (1..=3).for_each(|n| bench.host.lie(Operation::EndDiskJob, n, Lie::After(Cause::unreachable())));
    assert!(bench.follow(&copy(None)).is_err());
}

#[test]
fn a_guest_that_goes_away_ends_the_work() {
    let bench = Bench::new();
    bench.host.kill(&one_7());
    assert!(bench.follow(&commit(2, 1)).unwrap_err().is_absent());
    assert!(bench.snapshot(Some(HOW)).unwrap_err().is_absent());
}

#[test]
fn an_overlay_goes_over_one_disk() {
    for quiesce in [None, Some(HOW)] {
        let bench = Bench::new();
        bench.host.set_agent(&one_7(), Agent::Answers);
        assert_eq!(bench.snapshot(quiesce).unwrap(), Ended::Done);
        assert_eq!(bench.chain().first(), Some(&snap(4)));
        assert_eq!(bench.chain()[1..], whole());
        assert_eq!(bench.count(Operation::Suspend), 0);
        bench.is_well();
        assert_eq!(bench.snapshot(quiesce).unwrap(), Ended::Already);
        assert_eq!(bench.count(Operation::SnapshotDisk), 1);
    }
}

#[test]
fn a_guest_without_an_agent_is_suspended_for_the_moment() {
    for agent in [Agent::None, Agent::Refuses, Agent::Mute] {
        let bench = Bench::new();
        bench.host.set_agent(&one_7(), agent);
        assert_eq!(bench.snapshot(Some(HOW)).unwrap(), Ended::Done);
        assert_eq!(bench.chain().first(), Some(&snap(4)));
        assert_eq!((bench.count(Operation::Suspend), bench.count(Operation::Resume)), (1, 1), "{agent:?}");
        assert_eq!(bench.host.truth(&one_7()).unwrap().state, State::Running);
        assert!(!bench.host.is_frozen(&one_7()));
    }
    let strict = How { or_suspend: false, ..HOW };
    let bench = Bench::new();
    assert_eq!(bench.snapshot(Some(strict)).unwrap_err().code(), Some(Code::Agent));
    assert_eq!(bench.chain(), whole());
    bench.is_well();
}

/// A thaw that nobody has heard of is the watchdog's: it goes on until an answer comes.
#[test]
fn a_watchdog_keeps_what_could_not_be_taken_back() {
    let bench = Bench::new();
    bench.host.set_agent(&one_7(), Agent::Mute);
    assert_eq!(bench.snapshot(Some(HOW)).unwrap(), Ended::Done);
    let hold = bench.dog.armed.get().unwrap();
    assert_eq!(hold, Hold { frozen: true, suspended: false });
    assert_eq!(bench.host.truth(&one_7()).unwrap().state, State::Running);
    bench.host.set_agent(&one_7(), Agent::Answers);
    rest::take_back(&bench.host, &one_7(), hold, HOW.agent, 1).unwrap();

    let bench = Bench::new();
    (1..=9).for_each(|nth| bench.host.lie(Operation::Resume, nth, Lie::Instead(Cause::unreachable())));
    assert_eq!(bench.snapshot(Some(HOW)).unwrap(), Ended::Done, "the disk is what was asked about");
    assert_eq!(bench.dog.armed.get(), Some(Hold { frozen: false, suspended: true }));
    assert!(bench.warnings.borrow()[0].contains("not back yet"));
}

#[test]
fn no_guest_is_brought_to_rest_without_a_watchdog() {
    let mut bench = Bench::new();
    bench.dog.lame = true;
    bench.snapshot(Some(HOW)).unwrap_err();
    bench.follow(&copy(Some(HOW))).unwrap_err();
    assert_eq!(bench.count(Operation::Suspend) + bench.count(Operation::Freeze), 0);
    assert_eq!(bench.chain(), whole());
    assert!(!bench.host.has_disk_job(&one_7(), "vda"));
}

#[test]
fn a_guest_that_stands_already_is_left_so() {
    let bench = Bench::new();
    let by_user = State::Paused(PauseReason::User);
    bench.host.set_state(&one_7(), by_user);
    assert_eq!(bench.snapshot(Some(HOW)).unwrap(), Ended::Done);
    assert_eq!(bench.follow(&copy(Some(HOW))).unwrap(), Ended::Done);
    assert_eq!(bench.host.truth(&one_7()).unwrap().state, by_user);
    assert_eq!(bench.count(Operation::Resume), 0);
}

#[test]
fn only_what_we_have_suspended_is_resumed() {
    let bench = Bench::new();
    for reason in [PauseReason::Migration, PauseReason::IoError, PauseReason::PostCopyFailed] {
        bench.host.set_state(&one_7(), State::Paused(reason));
        let hold = Hold { frozen: false, suspended: true };
        rest::take_back(&bench.host, &one_7(), hold, HOW.agent, 1).unwrap();
    }
    assert_eq!(bench.count(Operation::Resume), 0);
}

#[test]
fn a_snapshot_that_fails_or_is_lost_is_looked_up() {
    let no = || Cause::libvirt(Code::Other, "Failed to get \"write\" lock");
    for quiesce in [None, Some(HOW)] {
        let bench = Bench::new();
        (1..=2).for_each(|nth| bench.host.lie(Operation::SnapshotDisk, nth, Lie::Instead(no())));
        assert_eq!(bench.snapshot(quiesce).unwrap_err().cause, no());
        assert_eq!(bench.chain(), whole());
        bench.is_well();

        let bench = Bench::new();
        bench.host.set_agent(&one_7(), Agent::Answers);
        bench.host.lie(Operation::SnapshotDisk, 1, Lie::After(Cause::unreachable()));
        assert_eq!(bench.snapshot(quiesce).unwrap(), Ended::Done);
        bench.is_well();
    }
}
