//! Every call on volumes, with a cluster that falls silent, is full, or lets the user only read, from each of its points on:
//! the call comes to an end, nothing is lost, and when the fault is over the same call comes to its end. On a real cluster;
//! the points come from the calls themselves.

#![cfg(test)]

mod ceph;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use causeway_core::answer::Kind;
use ceph::cases::{self, Case, judge};
use ceph::faults::{self, FAULTS, Fault};
use ceph::kill::{self, ended};
use ceph::{Picture, Stage, at_once, cluster};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};

/// So many calls are disturbed at once: a fault is one for the whole cluster.
const AT_ONCE: usize = 6;
/// So many calls the short form takes, others in each run.
const SHORT: usize = 4;

/// Whoever disturbs the cluster.
static ALONE: Mutex<()> = Mutex::new(());

/// The child's part of the test below: stands still at its point until it is told to go on.
#[test]
#[ignore = "run by the test below, in processes of its own"]
fn killed_child() {
    kill::child(|on, call, between| {
        let came = on.perform_at(call, between);
        std::fs::write(on.dir().join("came"), format!("{came:?}")).unwrap();
    });
}

/// A call, what it passes, and what is there before and after it.
struct Known<'a> {
    case: &'a Case,
    passed: Vec<&'static str>,
    before: Picture,
    after: Picture,
}

fn stage(conf: &Path) -> Stage {
    let mut on = Stage::new(conf);
    on.user = faults::USER.to_owned();
    on
}

fn learn<'a>(conf: &Path, case: &'a Case) -> Known<'a> {
    let on = stage(conf);
    (case.prepare)(&on);
    let before = on.picture();
    let passed = RefCell::new(Vec::new());
    on.perform_at(&(case.call)(&on), &|point| passed.borrow_mut().push(point)).unwrap();
    Known { case, passed: passed.into_inner(), before, after: ended(&on) }
}

/// A call that stands still at a point.
struct Standing<'a> {
    known: &'a Known<'a>,
    point: usize,
    on: Stage,
    child: Child,
}

impl<'a> Standing<'a> {
    fn new(conf: &Path, known: &'a Known<'a>, point: usize) -> Self {
        let on = stage(conf);
        (known.case.prepare)(&on);
        let mut child = kill::command(&on, &(known.case.call)(&on), point);
        child.env("CAUSEWAY_TEST_SIGNAL", "stop").process_group(0).stdin(Stdio::null());
        let standing = Standing { known, point, on, child: child.spawn().unwrap() };
        let stopped = waitpid(Some(standing.id()), WaitOptions::UNTRACED).unwrap().unwrap().1;
        assert!(stopped.stopped(), "{}: {stopped:?}", standing.context());
        standing
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32).unwrap()
    }

    fn context(&self) -> String {
        format!("{} at {}", self.known.case.name, self.known.passed[self.point])
    }

    /// Lets it go on, and cancels it with all of its tools if it does not come to an end. Whether it did, and how.
    fn go_on(&mut self, patience: Duration) -> Option<String> {
        let _ = kill_process_group(self.id(), Signal::CONT);
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if self.child.try_wait().unwrap().is_some() {
                return Some(std::fs::read_to_string(self.on.dir().join("came")).unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.end();
        None
    }

    fn end(&mut self) {
        let _ = kill_process_group(self.id(), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn every_call_outlives_every_fault() {
    let Some(conf) = cluster() else { return };
    let _alone = ALONE.lock().unwrap();
    faults::user(&conf);
    let cases = cases::all();
    let chosen = ceph::share(&cases, SHORT);
    let known: Vec<Known<'_>> = collect(chosen, |case| learn(&conf, case));
    let mut table: BTreeMap<(Fault, &str), BTreeSet<&str>> = BTreeMap::new();
    let (mut tried, looked_at) = (0, AtomicU64::new(0));
    for (number, fault) in FAULTS.into_iter().enumerate() {
        let mut points: Vec<(&Known<'_>, usize)> = Vec::new();
        for known in &known {
            let count = known.passed.len();
            // In the short form one point of each call, another one for each fault and in each run.
            match ceph::long() {
                true => points.extend((0..count).map(|point| (known, point))),
                false => points.push((known, (std::process::id() as usize + number) % count)),
            }
        }
        for round in points.chunks(AT_ONCE) {
            let mut standing = collect(round, |(known, point)| Standing::new(&conf, known, *point));
            let lasting = fault.begin(&conf);
            let slots: Vec<Mutex<&mut Standing<'_>>> = standing.iter_mut().map(Mutex::new).collect();
            let came = collect(&slots, |slot| slot.lock().unwrap().go_on(fault.patience()));
            drop(lasting);
            drop(slots);
            let ended: Vec<_> = standing.iter().zip(&came).collect();
            at_once(&ended, |(standing, came)| {
                look(fault, standing, came.as_deref());
                let bytes = standing.known.before.values().map(|seen| seen.size).sum();
                looked_at.fetch_add(bytes, Ordering::Relaxed);
            });
            tried += round.len();
            println!("{fault:?}: {tried} points so far");
            for (known, point) in round {
                table.entry((fault, known.case.name)).or_default().insert(known.passed[*point]);
            }
        }
    }
    for ((fault, name), points) in &table {
        println!("{fault:?} x {name}: {points:?}");
    }
    let all: usize = known.iter().map(|known| known.passed.len()).sum();
    println!(
        "ceph_faults: {tried} of {} points in {} of {} calls, {} MiB to keep, 0 bytes lost",
        all * FAULTS.len(),
        known.len(),
        cases.len(),
        looked_at.into_inner()
    );
}

fn collect<'a, T: Sync, R: Send>(all: &'a [T], act: impl Fn(&'a T) -> R + Sync) -> Vec<R> {
    let results: Vec<Mutex<Option<R>>> = all.iter().map(|_| Mutex::new(None)).collect();
    let pairs: Vec<_> = all.iter().zip(&results).collect();
    at_once(&pairs, |(one, result)| *result.lock().unwrap() = Some(act(one)));
    results.into_iter().map(|result| result.into_inner().unwrap().unwrap()).collect()
}

/// What is there after a fault, and after the call was made again.
fn look(fault: Fault, standing: &Standing<'_>, came: Option<&str>) {
    let (on, known) = (&standing.on, standing.known);
    let context = || format!("{fault:?}, {}: {came:?}", standing.context());
    if fault == Fault::ReadOnly {
        assert!(came.is_some(), "{}", context());
    }
    if let Some(came) = came.filter(|came| came.starts_with("Err")) {
        // What failed, of what, and what the cluster said of it.
        let says = ["Read-only", "not permitted", "Permission denied"].iter().any(|said| came.contains(said));
        assert!(says && came.contains("one/one-"), "{}", context());
    }
    let left = on.picture();
    judge(known.case, known.passed[standing.point], &left, &known.before, &known.after);
    let again = on.perform_at(&(known.case.call)(on), &|_| {});
    assert!(again.is_ok(), "{}: again: {again:?}: {left:#?}", context());
    assert_eq!(on.settled(), known.after, "{}", context());
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
