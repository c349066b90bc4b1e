//! What makes a move while the probes watch.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::child::Child;
use crate::plan::{Argv, Leg, Plan};

/// How a move went, as far as whoever made it can tell. What the guest felt is in the silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was made.
    Done,
    /// It was refused, or failed on the way.
    Failed(String),
    /// Its deadline passed; what was still running of it was ended.
    TimedOut,
    /// The run was told to stop; what was still running of it was ended.
    Interrupted,
}

impl Outcome {
    /// One word for tables: `done`, `failed`, `timed_out`, `interrupted`.
    pub fn word(&self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Failed(_) => "failed",
            Outcome::TimedOut => "timed_out",
            Outcome::Interrupted => "interrupted",
        }
    }
}

/// One move to make.
#[derive(Debug)]
pub struct Move<'a> {
    /// Its number, from 1.
    pub number: u32,
    /// Where from and where to, if the plan says.
    pub leg: Option<&'a Leg>,
    /// The plan it belongs to.
    pub plan: &'a Plan,
    /// A file for what it has to say.
    pub log: PathBuf,
    started: Instant,
    limit: Duration,
    stop: Option<&'a AtomicBool>,
}

impl<'a> Move<'a> {
    pub(crate) fn new(
        plan: &'a Plan,
        number: u32,
        log: PathBuf,
        limit: Duration,
        stop: Option<&'a AtomicBool>,
    ) -> Move<'a> {
        Move { number, leg: plan.leg(number), plan, log, started: Instant::now(), limit, stop }
    }

    /// What to answer if the move has to be given up now: its deadline has passed, or the run was told to stop.
    /// Whoever makes moves looks at it often.
    pub fn given_up(&self) -> Option<Outcome> {
        if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            Some(Outcome::Interrupted)
        } else if self.started.elapsed() >= self.limit {
            Some(Outcome::TimedOut)
        } else {
            None
        }
    }
}

/// Makes the moves of a plan that has neither `command` nor `watch`, such as one that is driven through a library.
pub trait Mover {
    /// Makes one move and says how it went; returns when it is over or [`Move::given_up`] says so.
    fn make(&mut self, order: &Move<'_>) -> Outcome;
}

impl<F: FnMut(&Move<'_>) -> Outcome> Mover for F {
    fn make(&mut self, order: &Move<'_>) -> Outcome {
        self(order)
    }
}

/// Runs a command for each move.
pub(crate) struct CommandMover(pub Argv);

impl Mover for CommandMover {
    fn make(&mut self, order: &Move<'_>) -> Outcome {
        let argv = self.0.fill(|place| order.plan.place(place, order.number));
        match run(&argv, order) {
            Ok(outcome) => outcome,
            Err(error) => {
                let program = argv.first().map(String::as_str).unwrap_or_default();
                Outcome::Failed(format!("cannot run {program}: {error}"))
            }
        }
    }
}

fn run(argv: &[String], order: &Move<'_>) -> io::Result<Outcome> {
    let log = OpenOptions::new().create(true).write(true).truncate(true).open(&order.log)?;
    let mut child = Child::start(argv, log, false)?;
    let Some(status) = child.wait_unless(|| order.given_up().is_some())? else {
        child.end();
        return Ok(order.given_up().unwrap_or(Outcome::TimedOut));
    };
    if status.success() {
        return Ok(Outcome::Done);
    }
    let said = last_line(&order.log).unwrap_or_default();
    Ok(Outcome::Failed(if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }))
}

/// Watches while somebody else makes the move.
pub(crate) struct Watcher(pub Duration);

impl Mover for Watcher {
    fn make(&mut self, order: &Move<'_>) -> Outcome {
        let start = Instant::now();
        while start.elapsed() < self.0 {
            if let Some(outcome) = order.given_up() {
                return outcome;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Outcome::Done
    }
}

/// The last line that says anything in a log, as printable text of at most 300 characters.
pub(crate) fn last_line(log: &Path) -> io::Result<String> {
    const TAIL: u64 = 4096;
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().map(str::trim).find(|l| !l.is_empty());
    let printable = line.unwrap_or_default().chars().filter(|c| !c.is_control());
    Ok(printable.take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order<'a>(plan: &'a Plan, log: &Path, limit: Duration, stop: &'a AtomicBool) -> Move<'a> {
        Move::new(plan, 2, log.to_owned(), limit, Some(stop))
    }

    fn plan(command: &str) -> Plan {
        Plan::parse(&format!(
            "command = {command}\n[guest]\naddress = \"10.9.0.11\"\n[[moves]]\nfrom = \"h1\"\nto = \"h2\"\n"
        ))
        .unwrap()
    }

    fn mover(plan: &Plan) -> CommandMover {
        match &plan.drive {
            crate::plan::Drive::Command(argv) => CommandMover(argv.clone()),
            _ => panic!("the plan has a command"),
        }
    }

    #[test]
    fn a_command_tells_how_it_went() {
        let dir = tempfile::tempdir().unwrap();
        let (log, stop) = (dir.path().join("log"), AtomicBool::new(false));
        let long = Duration::from_secs(60);
        let make = |command: &str, limit| {
            let plan = plan(command);
            mover(&plan).make(&order(&plan, &log, limit, &stop))
        };
        assert_eq!(make(r#"["true"]"#, long), Outcome::Done);
        let said = make(r#"["sh", "-c", "echo error: no {to} >&2; echo; exit 4"]"#, long);
        assert_eq!(said, Outcome::Failed("exit status: 4: error: no h2".to_owned()));
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "error: no h2\n\n");
        let Outcome::Failed(why) = make(r#"["/nonexistent/mover"]"#, long) else {
            panic!("it cannot be run");
        };
        assert!(why.starts_with("cannot run /nonexistent/mover: "), "{why}");
        assert_eq!(make(r#"["sleep", "1000"]"#, Duration::from_millis(50)), Outcome::TimedOut);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(make(r#"["sleep", "1000"]"#, long), Outcome::Interrupted);
    }

    #[test]
    fn a_name_stays_inside_its_argument() {
        let dir = tempfile::tempdir().unwrap();
        let (log, stop) = (dir.path().join("log"), AtomicBool::new(false));
        let plan = plan(r#"["printf", "%s|", "{from} {to}", "$(id);{move}"]"#);
        let outcome = mover(&plan).make(&order(&plan, &log, Duration::from_secs(60), &stop));
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "h1 h2|$(id);2|");
    }

    #[test]
    fn a_log_of_any_bytes_has_a_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, [b"x\n".repeat(9_000), b"\xff\x1b[31mbad\x07\n \n".to_vec()].concat()).unwrap();
        assert_eq!(last_line(&log).unwrap(), "\u{fffd}[31mbad");
        std::fs::write(&log, "").unwrap();
        assert_eq!(last_line(&log).unwrap(), "");
    }
}
