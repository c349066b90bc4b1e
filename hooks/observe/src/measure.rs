//! One measurement from beginning to end.
//!
//! ```text
//! check ─> start probes ─> all answered? ─┬─> settle ─> captures ─> move ─> all answered again? ─> settle ─┬─> late answers ─> results
//!                                         └──────────────────────── next move ─────────────────────────────┘
//! ```
//!
//! A move's window begins when its command starts and ends `settle_after` after every probe was answered again. Until the
//! probes run nothing outside this process has changed and every failure is an [`Error`]. From then on the run ends in a
//! [`Report`]: a move that failed, a guest that fell silent for good, a deadline or an interruption are findings, told
//! in [`Report::stopped`] with everything that was seen until then, and the results are written all the same.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use causeway_core::answer::Kind;

use crate::capture::{Capture, CaptureError};
use crate::moment::{Clock, Moment};
use crate::mover::{CommandMover, Move, Mover, Outcome, Watcher};
use crate::plan::{Address, Drive, Leg, OnFailure, Plan};
use crate::probe::{self, Probe, ProbeError};
use crate::report::{self, MoveResult, ProbeRecord, Report, Stopped};
use crate::share::NetworkShare;
use crate::silence::{Window, watch};

/// Late answers are waited for this long after the last question.
const LATE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(5);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The plan names the guest by its deploy id only, and nobody filled in the address.
    #[error("the address of the guest {guest} is not known")]
    NoAddress {
        /// The guest.
        guest: String,
    },
    /// The plan says neither `command` nor `watch`, and the caller brought no [`Mover`].
    #[error("the plan does not say what makes a move: command or watch is missing")]
    NoMover,
    /// The output directory, or a file in it, cannot be written.
    #[error("cannot write {}", path.display())]
    Output {
        /// What cannot be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A probe did not start or did not last.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A probe was not answered before the first move: there is nothing whose silence could be measured.
    #[error("probe {probe} got no answer from {guest} within {}{}", report::readable(*.waited), because(*.trouble))]
    NoAnswer {
        /// The probe.
        probe: String,
        /// The guest.
        guest: String,
        /// How long it was waited for.
        waited: Duration,
        /// Why its latest question could not even be sent, if it could not.
        trouble: Option<io::ErrorKind>,
    },
    /// A capture could not be started before the first move.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The run was told to stop before the first move.
    #[error("told to stop before the first move")]
    Interrupted,
    /// A plot could not be drawn.
    #[error("cannot draw the plots: {0}")]
    Draw(String),
}

impl Error {
    /// Whose fault it is; exit codes follow from it.
    pub fn kind(&self) -> Kind {
        match self {
            Error::NoAddress { .. } | Error::NoMover => Kind::Input,
            Error::Output { .. } | Error::Capture(_) => Kind::HostState,
            Error::Probe(error) => error.kind(),
            Error::NoAnswer { .. } => Kind::Unreachable,
            Error::Interrupted => Kind::Cancelled,
            Error::Draw(_) => Kind::Bug,
        }
    }
}

/// What a run tells while it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Every probe is being answered.
    Watching {
        /// The probes' names.
        probes: Vec<String>,
        /// How many moves will be made.
        moves: u32,
    },
    /// A move begins.
    Moving {
        /// Its number, from 1.
        number: u32,
        /// How many moves will be made.
        moves: u32,
        /// Where from and where to, if the plan says.
        leg: Option<Leg>,
    },
    /// A move is over and its silence is known so far; late answers may still shorten it.
    Moved {
        /// Its number.
        number: u32,
        /// How it went.
        outcome: Outcome,
        /// Each probe's silence.
        silences: Vec<(String, Duration)>,
        /// The network's share, if it was captured and could be told.
        share: Option<NetworkShare>,
    },
    /// A file of results lies in its place.
    Wrote {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Progress::Watching { probes, moves } => {
                write!(f, "watching with {}; {moves} moves to make", probes.join(", "))
            }
            Progress::Moving { number, moves, leg } => {
                write!(f, "move {number} of {moves}")?;
                match leg {
                    Some(leg) => write!(f, ": {} to {}", leg.from, leg.to),
                    None => Ok(()),
                }
            }
            Progress::Moved { number, outcome, silences, share } => {
                write!(f, "move {number} {}", outcome.word())?;
                if let Outcome::Failed(why) = outcome {
                    write!(f, " ({why})")?;
                }
                f.write_str("; silence")?;
                for (probe, length) in silences {
                    write!(f, " {probe} {}", report::readable(*length))?;
                }
                match share {
                    Some(share) => write!(f, "; network share {}", report::readable(share.share())),
                    None => Ok(()),
                }
            }
            Progress::Wrote { path } => write!(f, "wrote {}", path.display()),
        }
    }
}

/// Runs a plan that says itself what makes its moves. See [`Measurement`] for one that does not, and for stopping early.
///
/// # Errors
/// [`Error`] for everything that goes wrong before the first move, and for results that cannot be written.
pub fn run(plan: Plan, progress: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
    Measurement::new(plan).run(progress)
}

/// A measurement that is about to be run: a plan with what it needs from its caller.
pub struct Measurement<'a> {
    plan: Plan,
    mover: Option<&'a mut dyn Mover>,
    stop: Option<&'a AtomicBool>,
}

impl<'a> Measurement<'a> {
    /// A measurement of `plan` as it stands.
    pub fn new(plan: Plan) -> Measurement<'a> {
        Measurement { plan, mover: None, stop: None }
    }

    /// Has the moves made by `mover` instead of what the plan says.
    #[must_use]
    pub fn mover(mut self, mover: &'a mut dyn Mover) -> Measurement<'a> {
        self.mover = Some(mover);
        self
    }

    /// Ends the run early when `stop` is set, as on Ctrl-C: the move's command and the captures are ended, and what was
    /// seen until then is written.
    #[must_use]
    pub fn stop(mut self, stop: &'a AtomicBool) -> Measurement<'a> {
        self.stop = Some(stop);
        self
    }

    /// Runs everything and writes the results into the plan's output directory.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(self, progress: &mut dyn FnMut(Progress)) -> Result<Report, Error> {
        let Measurement { plan, mover, stop } = self;
        let address =
            plan.guest.address.clone().ok_or_else(|| Error::NoAddress { guest: plan.guest.to_string() })?;
        let mut from_plan: Option<Box<dyn Mover>> = match &plan.drive {
            Drive::Command(argv) => Some(Box::new(CommandMover(argv.clone()))),
            Drive::Watch(span) => Some(Box::new(Watcher(*span))),
            Drive::Caller => None,
        };
        let mover: &mut dyn Mover = match (mover, &mut from_plan) {
            (Some(mover), _) => mover,
            (None, Some(mover)) => mover.as_mut(),
            (None, None) => return Err(Error::NoMover),
        };
        report::prepare(&plan.output)?;
        let clock = Clock::start();
        let probes = start_probes(&plan, &address, clock)?;
        let mut run = Run { plan: &plan, probes, clock, stop, moves: Vec::new() };
        run.first_answers(progress)?;
        let stopped = run.moves(mover, progress)?;
        let report = run.finish(stopped)?;
        for path in report::write(&report)? {
            progress(Progress::Wrote { path });
        }
        Ok(report)
    }
}

fn start_probes(plan: &Plan, address: &Address, clock: Clock) -> Result<Vec<Probe>, Error> {
    let count = plan.probes.len();
    let start = |(index, probe): (usize, &crate::plan::ProbePlan)| {
        let offset = probe::offset(index, count, probe.interval);
        Probe::start(probe, address, clock, offset)
    };
    let probes = plan.probes.iter().enumerate().map(start);
    Ok(probes.collect::<Result<Vec<_>, _>>()?)
}

/// A run under way. Dropping it ends the probes.
struct Run<'a> {
    plan: &'a Plan,
    probes: Vec<Probe>,
    clock: Clock,
    stop: Option<&'a AtomicBool>,
    moves: Vec<MoveResult>,
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    Met,
    TooLong,
    Stopped(Stopped),
}

impl Run<'_> {
    /// Why the run may not go on, if it may not.
    fn stopped(&self) -> Option<Stopped> {
        if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            Some(Stopped::Interrupted)
        } else if self.clock.now() >= Moment(0).plus(self.plan.deadline) {
            Some(Stopped::Deadline)
        } else {
            None
        }
    }

    /// Waits until `met`, at most `span`.
    fn wait(&self, span: Duration, met: impl Fn() -> bool) -> Wait {
        let until = self.clock.now().plus(span);
        loop {
            if let Some(why) = self.stopped() {
                return Wait::Stopped(why);
            }
            if met() {
                return Wait::Met;
            }
            let left = until.since(self.clock.now());
            if left.is_zero() {
                return Wait::TooLong;
            }
            std::thread::sleep(LOOK.min(left));
        }
    }

    fn check_alive(&self) -> Result<(), Error> {
        match self.probes.iter().find(|probe| probe.is_dead()) {
            None => Ok(()),
            Some(probe) => {
                let name = probe.name().to_owned();
                Err(ProbeError::Died { name }.into())
            }
        }
    }

    /// Waits until every probe has been answered since `since`; gives the first that has not been in time.
    fn answers(&self, since: Moment) -> Result<Option<Stopped>, Error> {
        let unanswered = || probe::unanswered_since(&self.probes, since).map(|p| p.name().to_owned());
        let wait = self.wait(self.plan.answer_deadline, || unanswered().is_none());
        self.check_alive()?;
        Ok(match (wait, unanswered()) {
            (Wait::Met, _) | (Wait::TooLong, None) => None,
            (Wait::TooLong, Some(probe)) => Some(Stopped::NoAnswer { probe }),
            (Wait::Stopped(why), _) => Some(why),
        })
    }

    fn first_answers(&self, progress: &mut dyn FnMut(Progress)) -> Result<(), Error> {
        let names = || self.probes.iter().map(|probe| probe.name().to_owned());
        match self.answers(Moment(0))? {
            None => {
                progress(Progress::Watching { probes: names().collect(), moves: self.plan.total_moves() });
                Ok(())
            }
            Some(Stopped::Interrupted) => Err(Error::Interrupted),
            Some(_) => {
                let silent = probe::unanswered_since(&self.probes, Moment(0));
                Err(Error::NoAnswer {
                    probe: silent.map(Probe::name).unwrap_or_default().to_owned(),
                    guest: self.plan.guest.to_string(),
                    waited: self.clock.now().since(Moment(0)),
                    trouble: silent.and_then(Probe::trouble),
                })
            }
        }
    }

    /// Makes every move; says why if not every one was made.
    fn moves(
        &mut self,
        mover: &mut dyn Mover,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<Stopped>, Error> {
        for number in 1..=self.plan.total_moves() {
            let before = self.clock.now();
            if let Wait::Stopped(why) = self.wait(self.plan.settle_before, || false) {
                return Ok(Some(why));
            }
            if let Some(why) = self.answers(before)? {
                return Ok(Some(why));
            }
            if let Some(why) = self.one_move(number, mover, progress)? {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }

    fn one_move(
        &mut self,
        number: u32,
        mover: &mut dyn Mover,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Option<Stopped>, Error> {
        let capture = match self.start_capture(number) {
            Ok(capture) => capture,
            // The first move has not been made: nothing is lost by saying so plainly.
            Err(error) if number == 1 => return Err(error.into()),
            Err(error) => {
                return Ok(Some(Stopped::Capture { why: chain(&error) }));
            }
        };
        if let Some(why) = self.stopped() {
            return Ok(Some(why));
        }
        progress(Progress::Moving {
            number,
            moves: self.plan.total_moves(),
            leg: self.plan.leg(number).cloned(),
        });
        let started = self.clock.now();
        let outcome = mover.make(&self.order(number));
        let ended = self.clock.now();
        let mut stopped = self.answers(ended)?;
        if stopped.is_none()
            && let Wait::Stopped(why) = self.wait(self.plan.settle_after, || false)
        {
            stopped = Some(why);
        }
        let window = Window { from: started, to: self.clock.now() };
        let failed = outcome != Outcome::Done;
        let share = capture.map(Capture::finish).filter(|_| !failed);
        let result = MoveResult {
            number,
            leg: self.plan.leg(number).cloned(),
            window,
            ended,
            outcome,
            watches: self.probes.iter().map(|probe| probe.look(|ledger| watch(ledger, window))).collect(),
            network: share,
        };
        progress(self.moved(&result));
        let interrupted = result.outcome == Outcome::Interrupted;
        self.moves.push(result);
        if stopped.is_none() && failed {
            stopped = if interrupted {
                Some(Stopped::Interrupted)
            } else if self.plan.on_failure == OnFailure::Stop {
                Some(Stopped::MoveFailed { number })
            } else {
                None
            };
        }
        Ok(stopped)
    }

    fn order(&self, number: u32) -> Move<'_> {
        let left = Moment(0).plus(self.plan.deadline).since(self.clock.now());
        let limit = match self.plan.drive {
            Drive::Watch(_) => left,
            Drive::Command(_) | Drive::Caller => left.min(self.plan.move_deadline),
        };
        let log = self.log(number, "move");
        Move::new(self.plan, number, log, limit, self.stop)
    }

    fn log(&self, number: u32, what: &str) -> PathBuf {
        self.plan.output.join(format!("{what}-{number:04}.log"))
    }

    fn start_capture(&self, number: u32) -> Result<Option<Capture>, CaptureError> {
        let (Some(plan), Some(leg)) = (&self.plan.capture, self.plan.leg(number)) else {
            return Ok(None);
        };
        let fill = |place| self.plan.place(place, number);
        let log = |word: &str| self.log(number, &format!("capture-{word}"));
        let capture = Capture::start(plan, leg, &fill, &log)?;
        match self.wait(self.plan.answer_deadline, || capture.is_decided()) {
            // The caller looks for this before it goes on.
            Wait::Stopped(_) => Ok(None),
            _ if capture.is_ready() => Ok(Some(capture)),
            _ => Err(capture.failure()),
        }
    }

    fn moved(&self, result: &MoveResult) -> Progress {
        let silence = |(probe, watch): (&Probe, &crate::silence::Watch)| {
            (probe.name().to_owned(), watch.silence.length())
        };
        Progress::Moved {
            number: result.number,
            outcome: result.outcome.clone(),
            silences: self.probes.iter().zip(&result.watches).map(silence).collect(),
            share: result.network.as_ref().and_then(|r| r.as_ref().ok()).copied(),
        }
    }

    /// Waits for late answers, ends the probes, and computes every move's figures again from the whole ledgers.
    fn finish(self, stopped: Option<Stopped>) -> Result<Report, Error> {
        for probe in &self.probes {
            probe.stop_asking();
        }
        let until = self.clock.now().plus(LATE);
        while self.clock.now() < until {
            std::thread::sleep(LOOK);
        }
        let finish = |(probe, plan): (Probe, &crate::plan::ProbePlan)| {
            Ok(ProbeRecord { plan: plan.clone(), ledger: probe.finish()? })
        };
        let pairs = self.probes.into_iter().zip(&self.plan.probes);
        let probes = pairs.map(finish).collect::<Result<Vec<_>, ProbeError>>()?;
        let mut moves = self.moves;
        for result in &mut moves {
            let again = |record: &ProbeRecord| watch(&record.ledger, result.window);
            result.watches = probes.iter().map(again).collect();
        }
        Ok(Report { plan: self.plan.clone(), clock: self.clock, probes, moves, stopped })
    }
}

fn because(trouble: Option<io::ErrorKind>) -> String {
    trouble.map(|kind| format!(": {kind}")).unwrap_or_default()
}

/// An error with what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
