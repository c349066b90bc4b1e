//! Calls that are disturbed by what happens to their cluster: at each of their points it begins, and some time later it is
//! over. The call comes to an end, nothing is lost, and made again it does what it was to do. The points come from the
//! calls themselves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use causeway_core::answer::Failure;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};

use super::case::{Case, Known, chosen};
use super::faults::{self, FAULTS, Fault};
use super::kill;
use super::{Stage, at_once, pool};

/// So many calls are disturbed at once: a fault is one for the whole cluster.
const AT_ONCE: usize = 6;
/// After so many rounds the pool begins anew.
const ROUNDS: usize = 16;
/// So many calls the short form takes, others in each run.
const SHORT: usize = 4;

/// A call that stands still at a point.
struct Standing<'a> {
    known: &'a Known<'a>,
    point: usize,
    on: Stage,
    child: Child,
}

/// What came of a call.
enum Came {
    /// It waited, and was cancelled.
    Cancelled,
    /// Its process ended without a word of it.
    BrokeOff(ExitStatus),
    Ended(Result<(), Failure>),
}

impl<'a> Standing<'a> {
    fn new(conf: &Path, known: &'a Known<'a>, point: usize) -> Self {
        let on = Stage::new(conf).before(known.case, faults::USER);
        let mut child = kill::command(&on, &(known.case.call)(&on), point);
        child.env("CAUSEWAY_TEST_SIGNAL", "stop").process_group(0).stdin(Stdio::null());
        child.stderr(File::create(on.dir().join("said")).unwrap());
        let standing = Standing { known, point, on, child: child.spawn().unwrap() };
        let stopped = waitpid(Some(standing.id()), WaitOptions::UNTRACED).unwrap().unwrap().1;
        assert!(stopped.stopped(), "{}: {stopped:?}", standing.name());
        standing
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32).unwrap()
    }

    fn name(&self) -> String {
        format!("{} at {}", self.known.case.name, self.known.passed[self.point])
    }

    /// Lets it go on, and cancels it with all of its tools if it does not come to an end.
    fn go_on(&mut self, patience: Duration) -> Came {
        let _ = kill_process_group(self.id(), Signal::CONT);
        let begun = Instant::now();
        while begun.elapsed() < patience {
            if let Some(status) = self.child.try_wait().unwrap() {
                return kill::came(&self.on).map_or(Came::BrokeOff(status), Came::Ended);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.end();
        Came::Cancelled
    }

    fn end(&mut self) {
        let _ = kill_process_group(self.id(), Signal::KILL);
        let _ = self.child.wait();
    }

    /// Looks at what is there after a fault, and after the call was made again. Whether it came to its end all the same.
    fn judge(&self, fault: Fault, came: &Came) -> bool {
        let (on, case, known) = (&self.on, self.known.case, self.known);
        let at = format!("{}, {fault}", known.passed[self.point]);
        match came {
            Came::Cancelled => assert!(fault != Fault::ReadOnly, "{} at {at}: did not end", case.name),
            Came::BrokeOff(status) => {
                let said = std::fs::read_to_string(on.dir().join("said")).unwrap();
                panic!("{} at {at}: {status}: {said}", case.name);
            }
            Came::Ended(Ok(())) => assert_eq!(on.settled(), known.after, "{} at {at}", case.name),
            Came::Ended(Err(failure)) => {
                // What failed, of what, and what the cluster said of it.
                let said = ["Read-only", "not permitted", "Permission denied"];
                let says = said.iter().any(|said| failure.text.contains(said));
                assert!(says && failure.text.contains("one/one-"), "{} at {at}: {failure}", case.name);
            }
        }
        let left = on.picture();
        case.judge(&at, &left, &known.before, &known.after);
        let again = on.act(&(case.call)(on), &|_| {});
        assert!(again.is_ok(), "{} at {at}: again: {again:?}: {left:#?}", case.name);
        assert_eq!(on.settled(), known.after, "{} at {at}: again", case.name);
        on.nothing_staged();
        matches!(came, Came::Ended(Ok(())))
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// What was tried.
#[derive(Default)]
struct Tally {
    /// By fault: points that were tried, at which the call came to its end all the same.
    points: BTreeMap<Fault, [usize; 2]>,
    /// MiB that had to survive.
    kept: u64,
    wrong: Vec<String>,
}

/// Tries every fault at every point of all steps, or at one point each of some, others in each run. Whoever calls it has the
/// cluster to himself.
pub fn run(test: &str, conf: &Path, all: Vec<Case>) {
    faults::user(conf);
    let all = chosen("CAUSEWAY_TEST_STEP", all, |case| case.name);
    let cases = super::share(&all, SHORT.min(all.len()));
    let known: Vec<Known<'_>> = collect(&cases, |case| Known::learn(conf, case, faults::USER).0);
    for known in &known {
        println!("{}: {:?}", known.case.name, known.passed);
    }
    let mut tally = Tally::default();
    let faults = chosen("CAUSEWAY_TEST_FAULT", FAULTS.to_vec(), |fault| fault.name());
    for (number, fault) in faults.into_iter().enumerate() {
        let mut points: Vec<(&Known<'_>, usize)> = Vec::new();
        for known in &known {
            let count = known.passed.len();
            match super::long() {
                true => points.extend((0..count).map(|point| (known, point))),
                // Another one for each fault.
                false => points.push((known, (std::process::id() as usize + number) % count)),
            }
        }
        let points = chosen("CAUSEWAY_TEST_AT", points, |(known, point)| known.passed[*point]);
        for (number, round) in points.chunks(AT_ONCE).enumerate() {
            disturb(conf, fault, round, &mut tally);
            if (number + 1).is_multiple_of(ROUNDS) {
                pool::anew(conf);
            }
        }
    }
    if super::long() {
        pool::anew(conf);
    }
    let of: usize = known.iter().map(|known| known.passed.len()).sum();
    close(test, &tally, &format!("{} of {} steps", known.len(), all.len()), of);
}

/// Has a fault happen to calls that stand at their points.
fn disturb(conf: &Path, fault: Fault, round: &[(&Known<'_>, usize)], tally: &mut Tally) {
    let mut standing = collect(round, |(known, point)| Standing::new(conf, known, *point));
    let lasting = fault.begin(conf);
    let slots: Vec<Mutex<&mut Standing<'_>>> = standing.iter_mut().map(Mutex::new).collect();
    let came = collect(&slots, |slot| slot.lock().unwrap().go_on(fault.patience()));
    drop(lasting);
    drop(slots);
    let ended: Vec<_> = standing.iter().zip(&came).collect();
    let judged = collect(&ended, |(standing, came)| {
        let judged = catch_unwind(AssertUnwindSafe(|| standing.judge(fault, came)));
        judged.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_else(|| standing.name()))
    });
    let counts = tally.points.entry(fault).or_default();
    for (standing, judged) in standing.iter().zip(judged) {
        counts[0] += 1;
        counts[1] += usize::from(judged == Ok(true));
        tally.wrong.extend(judged.err());
        tally.kept += standing.known.before.values().map(|seen| seen.size).sum::<u64>();
    }
    println!("{fault}: {} points so far, {} wrong", counts[0], tally.wrong.len());
}

/// Says in one line what was covered, which `tests/run` shows, and fails if anything was lost or otherwise wrong.
fn close(test: &str, tally: &Tally, steps: &str, of: usize) {
    let part = |(fault, [tried, survived]): (&Fault, &[usize; 2])| {
        format!("{fault} at {tried} of {of} ({survived} without effect)")
    };
    let parts: Vec<String> = tally.points.iter().map(part).collect();
    let wrong = &tally.wrong;
    let lost = if wrong.is_empty() { "0 bytes".to_owned() } else { format!("{} LOSSES", wrong.len()) };
    let text =
        format!("\n{test}: {steps}, points: {}; {} MiB to keep, {lost} lost\n", parts.join(", "), tally.kept);
    std::io::stderr().write_all(text.as_bytes()).unwrap();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn collect<'a, T: Sync, R: Send>(all: &'a [T], act: impl Fn(&'a T) -> R + Sync) -> Vec<R> {
    let results: Vec<Mutex<Option<R>>> = all.iter().map(|_| Mutex::new(None)).collect();
    let pairs: Vec<_> = all.iter().zip(&results).collect();
    at_once(&pairs, |(one, result)| *result.lock().unwrap() = Some(act(one)));
    results.into_iter().map(|result| result.into_inner().unwrap().unwrap()).collect()
}
