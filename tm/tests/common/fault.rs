//! Faults at every system call of a call that changes something, of its tools too: the points come from what a call does
//! when nobody disturbs it.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use causeway_core::answer::Failure;
use causeway_testing::tracer::{self, Does, Ended, Fate, SystemCall};
use rustix::io::Errno;

use super::Kept;

/// Whether every point is to be tried; else a share, always the same one.
pub fn long() -> bool {
    std::env::var_os("CAUSEWAY_TEST_LONG").is_some()
}

/// What tools say that don't tell the cause; what they were doing, and to which file, is told all the same.
const KEEP_THE_CAUSE: [&str; 5] = [
    "No space left in the file header",
    "mkswap: unable to erase bootbits sectors",
    "error while reading from old backing file",
    "error while reading from new backing file",
    // Whatever hindered `rbd` from giving the file its size.
    "export error: (1) Operation not permitted",
];

/// What is done to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is killed with its tools before a change.
    Killed,
    /// From a change on there is no room: nothing new, nothing longer.
    Full,
    /// From a change on nothing can be changed.
    ReadOnly,
    /// One read, one change or one attempt to bring it to the disk fails.
    Broken,
}

pub const FAULTS: [Fault; 4] = [Fault::Killed, Fault::Full, Fault::ReadOnly, Fault::Broken];

impl Fault {
    /// Whether it can strike at such a call.
    fn strikes(self, call: &SystemCall) -> bool {
        match self {
            Fault::Killed | Fault::ReadOnly => call.changes(),
            Fault::Full => call.does == Does::Fills,
            Fault::Broken => call.does != Does::Opens,
        }
    }

    /// What becomes of the call at its point, and of the calls after it at which it can strike.
    fn fates(self) -> (Fate, Fate) {
        let fails = |error: Errno| Fate::Fail(error.raw_os_error());
        match self {
            Fault::Killed => (Fate::Kill, Fate::Kill),
            Fault::Full => (fails(Errno::NOSPC), fails(Errno::NOSPC)),
            Fault::ReadOnly => (fails(Errno::ROFS), fails(Errno::ROFS)),
            Fault::Broken => (fails(Errno::IO), Fate::Pass),
        }
    }

    /// What a failure must say of it.
    fn cause(self) -> &'static str {
        match self {
            Fault::Killed => "",
            Fault::Full => "No space left on device",
            Fault::ReadOnly => "Read-only file system",
            Fault::Broken => "Input/output error",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Killed => "kill",
            Fault::Full => "ENOSPC",
            Fault::ReadOnly => "EROFS",
            Fault::Broken => "EIO",
        })
    }
}

/// One step that is to be disturbed, and what it works on.
pub trait Scene {
    /// What is compared.
    type Seen: PartialEq + Debug;
    fn name(&self) -> String;
    /// Everything that the step may touch; each is taken for a file system of its own.
    fn dirs(&self) -> Vec<PathBuf>;
    /// Whether a disturbed step left all as it was. Then it is disturbed at its next point at once: that it can be done is known.
    /// Only where that takes long.
    fn untouched(&self, _now: &Self::Seen, _before: &Self::Seen) -> bool {
        false
    }
    /// Puts everything back that the step may have changed, which is less if it was left [untouched](Scene::untouched).
    fn restore(&mut self, kept: &Kept, _untouched: bool) {
        kept.restore();
    }
    /// What a failure may name instead of a file in them.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
    /// The step as a process, and the file into which it writes what came of it.
    fn child(&self) -> (Command, PathBuf);
    fn see(&self) -> Self::Seen;
    /// Panics if what a disturbed step left is not as it should be: what is there, what was, what is to be.
    fn judge(&self, at: &str, now: &Self::Seen, before: &Self::Seen, after: &Self::Seen);
    /// Does the step again, undisturbed, and finds nothing half-made behind it.
    fn again(&self) -> Result<(), Failure>;
}

/// What was tried of a list of trials.
#[derive(Debug, Default)]
pub struct Tally {
    steps: usize,
    /// By fault: points that there are, that were tried, at which the call came to its end all the same; steps without any.
    points: BTreeMap<Fault, [usize; 4]>,
    wrong: Vec<String>,
    /// Trials that have points for a fault, none of which was tried.
    missed: Vec<String>,
    /// Hostile things among the files that a step was done to.
    plants: usize,
}

impl Tally {
    /// What was tried of more trials.
    pub fn add(&mut self, other: Tally) {
        self.steps += other.steps;
        for (fault, counts) in other.points {
            let sum = self.points.entry(fault).or_default();
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        self.wrong.extend(other.wrong);
        self.missed.extend(other.missed);
        self.plants += other.plants;
    }

    /// Of one step that was done among so many hostile things.
    pub fn of_plants(plants: usize) -> Self {
        Tally { steps: 1, plants, ..Tally::default() }
    }

    /// Says in one line how many hostile things there were.
    pub fn close_plants(self, test: &str) {
        let (steps, plants) = (self.steps, self.plants);
        let text = format!(
            "{test}: {steps} steps, {plants} times something hostile among the files; nothing outside touched\n"
        );
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }

    /// Says in one line what was covered, which `tests/run` shows, and fails if anything was lost or otherwise wrong.
    pub fn close(self, test: &str) {
        let all = self.steps;
        self.close_of(test, all);
    }

    /// The same of a share of so many steps.
    pub fn close_of(self, test: &str, all: usize) {
        let mut parts = Vec::new();
        assert_eq!(self.missed, [""; 0], "no point of these was tried");
        for fault in FAULTS.into_iter().filter(|fault| self.points.contains_key(fault)) {
            let [all, tried, survived, none] = self.points.get(&fault).copied().unwrap_or_default();
            let none = if none == 0 { String::new() } else { format!(", on {none} steps") };
            parts.push(format!("{fault} at {tried} of {all} ({survived} without effect{none})"));
        }
        let lost =
            if self.wrong.is_empty() { "0 bytes".to_owned() } else { format!("{} LOSSES", self.wrong.len()) };
        let text = format!(
            "\n{test}: {} of {all} steps, system calls: {}; {lost} lost\n",
            self.steps,
            parts.join(", ")
        );
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        assert!(self.wrong.is_empty(), "{} wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }
}

/// Tries every fault at every point of every trial, or at a share of one in `share`.
pub fn campaign<T: Sync>(all: &[T], share: usize, one: impl Fn(&T, &Sharing) -> Tally + Sync) -> Tally {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    campaign_of(all, share, threads, one)
}

/// The same, so many trials at once.
pub fn campaign_of<T: Sync>(
    all: &[T],
    share: usize,
    threads: usize,
    one: impl Fn(&T, &Sharing) -> Tally + Sync,
) -> Tally {
    let (next, sum) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(trial) = all.get(number) else { return };
                    let share = if long() { 1 } else { share };
                    let tally = one(trial, &Sharing { share, offset: number });
                    sum.lock().unwrap().add(tally);
                }
            });
        }
    });
    sum.into_inner().unwrap()
}

/// Which of many points are tried.
pub struct Sharing {
    share: usize,
    offset: usize,
}

impl Sharing {
    /// As many, but others.
    pub fn shifted(&self, by: usize) -> Self {
        Sharing { share: self.share, offset: self.offset + by }
    }

    /// At least one of each trial.
    pub fn takes(&self, point: usize, of: usize) -> bool {
        let share = self.share.min(of);
        point % share == self.offset % share
    }
}

/// One step, all faults.
pub fn trial(scene: &mut impl Scene, sharing: &Sharing) -> Tally {
    trial_of(scene, sharing, &FAULTS)
}

/// One step, some faults.
pub fn trial_of(scene: &mut impl Scene, sharing: &Sharing, faults: &[Fault]) -> Tally {
    let mut tally = Tally { steps: 1, ..Tally::default() };
    let (name, kept, before) = (scene.name(), Kept::of(scene.dirs()), scene.see());
    let mut calls = Vec::new();
    let (ended, came) = traced(scene, &mut |call, _| {
        calls.push(call.clone());
        Fate::Pass
    });
    assert_eq!(ended, Ended::Exited(0), "{name}");
    came.unwrap().unwrap_or_else(|failure| panic!("{name}: {failure}"));
    let after = scene.see();
    for &fault in faults {
        let points: Vec<&SystemCall> = calls.iter().filter(|call| fault.strikes(call)).collect();
        let counts = tally.points.entry(fault).or_default();
        counts[0] = points.len();
        counts[3] = usize::from(points.is_empty());
        let taken: Vec<usize> =
            (0..points.len()).filter(|number| sharing.takes(*number, points.len())).collect();
        let mut untouched = false;
        for &number in &taken {
            let call = points[number];
            counts[1] += 1;
            scene.restore(&kept, untouched);
            let at = format!("{name}, {fault} at {number}, {} {}", call.name, call.path.display());
            let judged = catch_unwind(AssertUnwindSafe(|| {
                let survived = strike(scene, fault, number, &at);
                let now = scene.see();
                assert!(!survived || now == after, "{at}: it says that all went well: {now:#?}");
                scene.judge(&at, &now, &before, &after);
                untouched = taken.last() != Some(&number) && scene.untouched(&now, &before);
                if untouched {
                    return survived;
                }
                scene.again().unwrap_or_else(|failure| panic!("{at}: again: {failure}"));
                assert_eq!(scene.see(), after, "{at}: again");
                survived
            }));
            match judged {
                Ok(survived) => counts[2] += usize::from(survived),
                Err(panic) => {
                    untouched = false;
                    let text = panic.downcast_ref::<String>().cloned();
                    tally.wrong.push(text.unwrap_or_else(|| format!("{at}: panicked")));
                }
            }
        }
        if counts[0] > 0 && counts[1] == 0 {
            tally.missed.push(format!("{name}, {fault}"));
        }
    }
    tally
}

/// Whether the step came to its end in spite of the fault. If it failed, it said why.
fn strike(scene: &impl Scene, fault: Fault, point: usize, at: &str) -> bool {
    let (mut passed, mut struck) = (0, None);
    let (first, then) = fault.fates();
    let (ended, came) = traced(scene, &mut |call, dir| {
        if !fault.strikes(call) {
            return Fate::Pass;
        }
        passed += 1;
        match (passed - 1).cmp(&point) {
            std::cmp::Ordering::Less => Fate::Pass,
            std::cmp::Ordering::Equal => {
                struck = Some(dir);
                first
            }
            std::cmp::Ordering::Greater if struck == Some(dir) => then,
            std::cmp::Ordering::Greater => Fate::Pass,
        }
    });
    match came {
        None => {
            assert!(matches!(ended, Ended::Killed(_)) && fault == Fault::Killed, "{at}: {ended:?}");
            false
        }
        // Some refusals there is another way around, and its tools may take fewer calls than they did before.
        Some(Ok(())) => true,
        Some(Err(failure)) => {
            let dirs = scene.dirs().into_iter().map(|dir| dir.display().to_string());
            let names = dirs.chain(scene.names()).any(|name| failure.text.contains(&name));
            let silent = KEEP_THE_CAUSE.iter().any(|words| failure.text.contains(words));
            let says = failure.text.contains(fault.cause()) || silent;
            assert!(names && says, "{at}: says {failure:?}");
            false
        }
    }
}

/// The step in a process of its own; what it does below its directories is judged, with the directory's number. What came
/// of it, unless it was killed.
fn traced(
    scene: &impl Scene,
    judge: &mut dyn FnMut(&SystemCall, usize) -> Fate,
) -> (Ended, Option<Result<(), Failure>>) {
    let (mut child, answer) = scene.child();
    let _ = std::fs::remove_file(&answer);
    let dirs = scene.dirs();
    let ended = tracer::run(&mut child, &mut |call| {
        let dir = dirs.iter().position(|dir| call.below(dir));
        dir.map_or(Fate::Pass, |dir| judge(call, dir))
    });
    let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes).unwrap();
    (ended.unwrap(), std::fs::read(answer).ok().map(read))
}
