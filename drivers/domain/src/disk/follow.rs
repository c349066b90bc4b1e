//! A job on a disk, followed to its end.
//!
//! ```text
//!   look ──> the chain is as wanted, no job ─────────────────────────────────────────────> Already
//!    │ ──> a job of another kind ────────────────────────────────────────────────────────> refused
//!    │ ──> a job of this kind, left by a crash ─┐
//!    └ ──> start ───────────────────────────────┴─> follow ──> ended ──> chain as wanted ─> Done
//!                                                    │  │                 chain as before > failed
//!                    ready: pivot, or rest and abort ┘  └ late, cancelled: abort ─────────> chain as before, proved
//! ```
//!
//! No return code decides anything: whatever a call said, the live chain is looked at. A look to which libvirt gives no
//! answer is repeated until the deadline; one that it refuses ends the job, and a domain that has gone ends the work.

use std::thread;
use std::time::{Duration, Instant};

use causeway_core::names::DeployId;

use super::progress::{Meter, Progress};
use super::rest::{self, How, Rest, Watchdog};
use super::snapshot::{no_disk, of_disk};
use super::{Chain, DiskJob, Format, JobEnd, JobInfo, JobKind, Mirror, MirrorKind, Names};
use crate::domain_xml::Source;
use crate::error::{Cause, Code, DomainError, Operation};
use crate::hypervisor::Hypervisor;

/// How long libvirt may take from the end of a job in QEMU to the chain in its XML, unless told otherwise.
pub const SETTLE: Duration = Duration::from_secs(5);

/// How often a job is looked at, unless told otherwise.
pub const INTERVAL: Duration = Duration::from_millis(250);

/// How long a job may take to end once it was told to.
const GRACE: Duration = Duration::from_secs(30);

/// How long a copy may take to catch up with a guest that is at rest.
const CATCH_UP: Duration = Duration::from_secs(20);

/// How often the last act of a job is tried.
const TRIES: u32 = 3;

/// What a disk's chain is to become, in names of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// What lies from `top` down to `base` is in `base`, and only that is in the chain.
    Commit {
        /// The uppermost layer that goes.
        top: String,
        /// The layer that takes the data.
        base: String,
        /// Whether `top` is the layer that the guest writes. It goes on with `base` then.
        active: bool,
        /// Whether the layer above keeps a relative name of `base`.
        relative: bool,
    },
    /// The active layer has `base` right below it, or stands alone.
    Pull {
        /// The layer that stays below.
        base: Option<String>,
        /// As in [`Commit`](Goal::Commit).
        relative: bool,
    },
    /// `to` is the disk at one moment; the chain stays.
    Copy {
        /// The file, which exists and has the size of the disk.
        to: String,
        /// Its format.
        format: Format,
        /// How the guest is brought to rest for that moment; without it the copy is what a loss of power would leave.
        rest: Option<How>,
    },
}

/// How work on a disk ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was done.
    Done,
    /// It had been done before.
    Already,
}

/// What is around a piece of work on a disk.
pub struct Control<'a> {
    /// Longest time of the work itself; when it is over, the job is aborted, which may take half a minute more.
    pub deadline: Duration,
    /// How often the job is looked at.
    pub interval: Duration,
    /// How long libvirt may take from the end of a job in QEMU to the chain in its XML.
    pub settle: Duration,
    /// Whether it is to be given up.
    pub cancelled: &'a dyn Fn() -> bool,
    /// Is told of every look at a job that runs.
    pub progress: &'a dyn Fn(&Progress),
    /// Is told of what went wrong beside the work.
    pub warn: &'a dyn Fn(&str),
    /// Which file is which.
    pub names: &'a dyn Names,
    /// Brings the guest back if this process can't.
    pub watchdog: &'a dyn Watchdog,
}

/// Brings the disk's chain to `goal`, at most `bandwidth` bytes per second (0: no limit).
///
/// # Errors
/// * A file is not in the chain, or not where the goal has it: nothing was done.
/// * Another job runs on the disk: nothing was done.
/// * [`Cause::Cancelled`], [`Cause::Deadline`]: the job was aborted, and the guest was seen on its old chain.
/// * [`Cause::Silent`]: it was told to end and was not seen to. [`Cause::Answer`]: it ended, and the chain is not what it
///   was to be; the text has it.
/// * The guest is gone, or libvirt could not be asked in the end.
pub fn follow(
    host: &dyn Hypervisor,
    id: &DeployId,
    disk: &str,
    goal: &Goal,
    bandwidth: u64,
    control: &Control<'_>,
) -> Result<Ended, DomainError> {
    let begun = Instant::now();
    let work = Work { host, id, disk, goal, bandwidth, control, begun };
    work.run()
}

struct Work<'a> {
    host: &'a dyn Hypervisor,
    id: &'a DeployId,
    disk: &'a str,
    goal: &'a Goal,
    bandwidth: u64,
    control: &'a Control<'a>,
    begun: Instant,
}

/// A disk at one moment.
struct Look {
    job: Option<JobInfo>,
    chain: Chain,
    /// The chain's files by name.
    files: Vec<String>,
}

/// What is to be done, once the chain is known.
struct Task {
    /// The chain's files before.
    before: Vec<String>,
    /// And afterwards.
    after: Vec<String>,
    /// The job, in the chain's own names; none where the chain is as wanted.
    job: Option<DiskJob>,
    kind: JobKind,
}

impl Work<'_> {
    fn run(&self) -> Result<Ended, DomainError> {
        let look = self.look_until_seen()?;
        let task = self.task(&look)?;
        match (&look.job, &task.job) {
            (None, None) => return Ok(Ended::Already),
            (Some(info), None) if !self.is_ours(info, look.chain.mirror.as_ref(), &task) => {
                return Ok(Ended::Already);
            }
            (None, Some(job)) => {
                if (self.control.cancelled)() {
                    return Err(self.fail(Cause::Cancelled));
                }
                if let Err(error) = self.host.start_disk_job(self.id, self.disk, job, self.bandwidth)
                    && !error.is_unknown()
                {
                    return Err(error);
                }
            }
            (Some(info), _) if self.is_ours(info, look.chain.mirror.as_ref(), &task) => {
                tracing::info!(id = %self.id, disk = self.disk, job = %info.kind, "goes on with a job that runs");
            }
            (Some(info), _) => {
                let text = format!("a {} runs on the disk already", info.kind);
                return Err(self.fail(Cause::libvirt(Code::WrongState, text)));
            }
        }
        self.until_done(&task)
    }

    fn until_done(&self, task: &Task) -> Result<Ended, DomainError> {
        let mut meter = Meter::new();
        let mut over: Option<Instant> = None;
        let mut tries = 0;
        let mut refusal = None;
        loop {
            if let Some(why) = self.given_up() {
                return self.stop(task, why);
            }
            thread::sleep(self.control.interval);
            let look = match self.look() {
                Ok(look) => look,
                Err(error) if error.is_absent() => return Err(error),
                // Asked again; libvirt gives up by itself where another call works on the guest.
                Err(error) if error.is_unknown() || error.code() == Some(Code::Timeout) => continue,
                Err(error) => return self.stop(task, error.cause),
            };
            let Some(info) = look.job else {
                if look.files == task.after && !matches!(self.goal, Goal::Copy { .. }) {
                    (self.control.progress)(&meter.done());
                    return Ok(Ended::Done);
                }
                // libvirt may still be writing down what QEMU has done.
                if over.get_or_insert_with(Instant::now).elapsed() > self.control.settle {
                    return Err(refusal.unwrap_or_else(|| self.ended_badly(&look)));
                }
                continue;
            };
            over = None;
            (self.control.progress)(&meter.look(&info));
            if !look.chain.mirror.as_ref().is_some_and(|mirror| mirror.ready) {
                continue;
            }
            tries += 1;
            match self.finish(task) {
                Ok(Some(ended)) => {
                    (self.control.progress)(&meter.done());
                    return Ok(ended);
                }
                Ok(None) => {}
                Err(error) if error.is_absent() => return Err(error),
                Err(error) if tries < TRIES => {
                    tracing::warn!(id = %self.id, %error, cause = %error.cause, "once more");
                    refusal = Some(error);
                }
                Err(error) => {
                    self.stop(task, error.cause.clone())?;
                    return Err(error);
                }
            }
        }
    }

    /// The last act of a job that has caught up. `None`: look again whether it has worked.
    fn finish(&self, task: &Task) -> Result<Option<Ended>, DomainError> {
        match self.goal {
            Goal::Commit { .. } | Goal::Pull { .. } => {
                match self.host.end_disk_job(self.id, self.disk, JobEnd::Pivot) {
                    Err(error) if !error.is_unknown() => Err(error),
                    _ => Ok(None),
                }
            }
            // QEMU itself sees to it that nothing is missing at the moment of the end.
            Goal::Copy { rest: None, .. } => self.cut(task).map(Some),
            Goal::Copy { rest: Some(how), .. } => {
                let (host, watchdog) = (self.host, self.control.watchdog);
                let rest = rest::bring(host, self.id, *how, watchdog)?;
                if rest == Rest::Running {
                    (self.control.warn)("no agent freezes the guest: the copy is as after a loss of power");
                }
                let cut = self.catch_up().and_then(|()| self.cut(task));
                match rest::release(host, self.id, rest, *how, watchdog) {
                    Ok(true) => {}
                    Ok(false) => (self.control.warn)("the guest was let go before the copy's end"),
                    Err(error) => {
                        (self.control.warn)(&format!("the guest is not back yet: {error}: {}", error.cause));
                    }
                }
                cut.map(Some)
            }
        }
    }

    /// Waits until nothing is left to be copied of a guest that is at rest: what fails from now on is not its data.
    fn catch_up(&self) -> Result<(), DomainError> {
        let since = Instant::now();
        loop {
            match self.host.disk_job(self.id, self.disk)? {
                None => return Err(self.ended_badly(&self.look()?)),
                Some(info) if info.is_even() => return Ok(()),
                Some(_) if since.elapsed() > CATCH_UP => return Err(self.fail(Cause::Deadline(CATCH_UP))),
                Some(_) => thread::sleep(self.control.interval.min(Duration::from_millis(20))),
            }
        }
    }

    /// Ends a copy that has caught up.
    fn cut(&self, task: &Task) -> Result<Ended, DomainError> {
        // What a lost answer has done can't be told from a job that failed in the same moment: that is an error.
        self.host.end_disk_job(self.id, self.disk, JobEnd::Abort)?;
        match self.until_quiet()? {
            Some(look) if look.files == task.before => Ok(Ended::Done),
            Some(look) => Err(self.ended_badly(&look)),
            None => Err(self.fail(Cause::Silent(GRACE))),
        }
    }

    /// Aborts the job, and says so only when the guest was seen on a chain that is known.
    fn stop(&self, task: &Task, why: Cause) -> Result<Ended, DomainError> {
        tracing::warn!(id = %self.id, disk = self.disk, job = %task.kind, %why, "the job is aborted");
        if let Err(error) = self.host.end_disk_job(self.id, self.disk, JobEnd::Abort) {
            // There may be none any more, or the answer was lost; the looks that follow decide.
            tracing::warn!(id = %self.id, %error, cause = %error.cause, "abort");
        }
        let Some(look) = self.until_quiet()? else { return Err(self.fail(Cause::Silent(GRACE))) };
        let moves = !matches!(self.goal, Goal::Copy { .. });
        if moves && look.files == task.after {
            return Ok(Ended::Done);
        }
        match look.files == task.before {
            true => Err(self.fail(why)),
            false => Err(self.ended_badly(&look)),
        }
    }

    /// Waits until no job is on the disk and no mirror in its XML, telling a job that is still there to end.
    fn until_quiet(&self) -> Result<Option<Look>, DomainError> {
        let since = Instant::now();
        let mut told = Instant::now();
        loop {
            match self.look() {
                Ok(look) if look.job.is_none() && look.chain.mirror.is_none() => return Ok(Some(look)),
                Ok(look) if look.job.is_some() && told.elapsed() > SETTLE => {
                    told = Instant::now();
                    // Its answer is the next look.
                    let _ = self.host.end_disk_job(self.id, self.disk, JobEnd::Abort);
                }
                Ok(_) => {}
                Err(error) if error.is_unknown() && since.elapsed() < GRACE => {}
                Err(error) => return Err(error),
            }
            if since.elapsed() > GRACE {
                return Ok(None);
            }
            thread::sleep(self.control.interval);
        }
    }

    fn given_up(&self) -> Option<Cause> {
        if (self.control.cancelled)() {
            return Some(Cause::Cancelled);
        }
        let deadline = self.control.deadline;
        (self.begun.elapsed() >= deadline).then_some(Cause::Deadline(deadline))
    }

    /// First the job, then the chain: a chain that is seen after the end of a job is what the job has left.
    fn look(&self) -> Result<Look, DomainError> {
        let job = self.host.disk_job(self.id, self.disk)?;
        let chains = self.host.disks(self.id)?;
        let chain = of_disk(&chains, self.disk).ok_or_else(|| self.fail(no_disk()))?.clone();
        let files = chain.files(self.control.names);
        Ok(Look { job, chain, files })
    }

    fn look_until_seen(&self) -> Result<Look, DomainError> {
        loop {
            match self.look() {
                Err(error) if error.is_unknown() && self.given_up().is_none() => {
                    thread::sleep(self.control.interval);
                }
                seen => return seen,
            }
        }
    }

    /// What the goal asks of this chain.
    fn task(&self, look: &Look) -> Result<Task, DomainError> {
        let (chain, before) = (&look.chain, look.files.clone());
        let depth = |file: &str| chain.position(file, self.control.names);
        let absent = |file: &str| self.refuse(format!("{file} is not in its chain: {}", before.join(" on ")));
        let name = |depth: usize| {
            let name = chain.layers.get(depth).and_then(|layer| layer.name(self.disk));
            name.ok_or_else(|| self.refuse("libvirt has no name for a layer of its chain".to_owned()))
        };
        let without = |from: usize, to: usize| -> Vec<String> {
            let kept = before.iter().enumerate().filter(|(at, _)| *at < from || *at >= to);
            kept.map(|(_, file)| file.clone()).collect()
        };
        match self.goal {
            Goal::Commit { top, base, active, relative } => {
                let kind = if *active { JobKind::ActiveCommit } else { JobKind::Commit };
                let low = depth(base).ok_or_else(|| absent(base))?;
                let Some(high) = depth(top) else {
                    // Where the guest was to go on with the base, it must be on it.
                    return match *active && low != 0 {
                        true => Err(absent(top)),
                        false => Ok(Task { after: before.clone(), before, job: None, kind }),
                    };
                };
                if high >= low || *active != (high == 0) {
                    let what = if *active { "the layer that the guest writes" } else { "between" };
                    let text = format!("{top} is not {what} above {base}: {}", before.join(" on "));
                    return Err(self.refuse(text));
                }
                let job = DiskJob::Commit {
                    top: name(high)?,
                    base: name(low)?,
                    active: *active,
                    relative: *relative && !*active,
                };
                Ok(Task { after: without(high, low), before, job: Some(job), kind })
            }
            Goal::Pull { base, relative } => {
                let low = match base {
                    Some(base) => depth(base).ok_or_else(|| absent(base))?,
                    None => before.len(),
                };
                if low == 0 {
                    return Err(self.refuse("the base is the layer that the guest writes".to_owned()));
                }
                let base = base.as_ref().map(|_| name(low)).transpose()?;
                let job = (low > 1).then_some(DiskJob::Pull { base, relative: *relative });
                Ok(Task { after: without(1, low), before, job, kind: JobKind::Pull })
            }
            Goal::Copy { to, format, .. } => {
                if depth(to).is_some() {
                    return Err(self.refuse(format!("{to} is in its own chain")));
                }
                let job = Some(DiskJob::Copy { to: to.clone(), format: *format });
                Ok(Task { after: before.clone(), before, job, kind: JobKind::Copy })
            }
        }
    }

    /// Whether a job that runs is the one that was to be started: its kind, and its other file where that can be seen.
    fn is_ours(&self, info: &JobInfo, mirror: Option<&Mirror>, task: &Task) -> bool {
        let other_file = match self.goal {
            Goal::Commit { active: true, base, .. } => Some((base, MirrorKind::ActiveCommit)),
            Goal::Copy { to, .. } => Some((to, MirrorKind::Copy)),
            // Which layers these work on is not to be seen; the chain will tell when they have ended.
            Goal::Commit { .. } | Goal::Pull { .. } => None,
        };
        let names = self.control.names;
        let same = match (other_file, mirror) {
            (Some((file, kind)), Some(mirror)) => {
                let path = match &mirror.source {
                    Source::File(path) | Source::Block(path) => names.name(path) == names.name(file),
                    _ => false,
                };
                path && mirror.kind == kind
            }
            (Some(_), None) => false,
            (None, _) => true,
        };
        info.kind == task.kind && same
    }

    fn ended_badly(&self, look: &Look) -> DomainError {
        let job = match look.job {
            Some(info) => format!("a {} runs", info.kind),
            None => "the job has ended by itself".to_owned(),
        };
        self.fail(Cause::Answer(format!("{job}, and the chain is {}", look.files.join(" on "))))
    }

    fn refuse(&self, text: String) -> DomainError {
        self.fail(Cause::libvirt(Code::WrongState, text))
    }

    fn fail(&self, cause: Cause) -> DomainError {
        DomainError::new(Operation::FollowDiskJob, format!("{}, disk {}", self.id, self.disk), cause)
    }
}
