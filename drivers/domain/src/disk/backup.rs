//! A backup of a guest that runs: its disks at one moment, copied by its own QEMU while it writes on
//! (`virDomainBackupBegin`, mode `push`).
//!
//! ```text
//!   look ──> none runs ─────> checkpoints ──> rest ──> begin ──> back from rest ─┐
//!    │ ──> one to our files, left by a crash ────────────────────────────────────┴─> follow ──> ended well ──> Done
//!    └ ──> another one ──> refused                                                     │    └─> ended badly, failed
//!                                                                late, cancelled: abort ┘
//! ```
//!
//! Nothing is put over a disk, so nothing can be left there; what a backup that was given up has written is worth
//! nothing, and the guest does not know of it. A *checkpoint* is libvirt's word for a bitmap in each disk that remembers
//! what is written after it: the changes of the next increment (contract TM 2.3).

use std::thread;
use std::time::{Duration, Instant};

use causeway_core::names::DeployId;

use super::progress::Meter;
use super::rest::{self, How, Rest};
use super::{Control, Ended, JobInfo, JobKind, Names};
use crate::error::{Cause, Code, DomainError, Operation};
use crate::hypervisor::Hypervisor;
use crate::job::{JobOperation, JobPhase, JobStats};

/// How long a backup may take to end once it was told to.
const GRACE: Duration = Duration::from_secs(30);

/// What is to be copied, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Each disk by its name in the guest, and a qcow2 file that exists and has its size.
    pub targets: Vec<(String, String)>,
    /// The checkpoint that begins in the same moment.
    pub begin: Option<String>,
    /// The checkpoint whose changes are all that is copied.
    pub since: Option<String>,
}

/// How the guest rests in the moment of the beginning. Either is done, or there is no backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Its agent freezes its file systems, and is waited for so long.
    Frozen(Duration),
    /// Its processors stand still.
    Suspended,
}

impl Backup {
    /// The disks.
    pub fn disks(&self) -> Vec<&str> {
        self.targets.iter().map(|(disk, _)| disk.as_str()).collect()
    }

    /// Whether these are its files, in whatever order.
    fn is_to(&self, files: &[String], names: &dyn Names) -> bool {
        let sorted = |files: Vec<String>| {
            let mut files = files;
            files.sort();
            files
        };
        let ours = sorted(self.targets.iter().map(|(_, file)| names.name(file)).collect());
        ours == sorted(files.iter().map(|file| names.name(file)).collect())
    }
}

/// Copies the disks; goes on with a backup to the same files that runs already.
///
/// # Errors
/// * The guest could not be brought to rest as it was to be: nothing was begun.
/// * A checkpoint that it needs is not there: nothing was begun.
/// * Another backup runs.
/// * [`Cause::Cancelled`], [`Cause::Deadline`]: it was aborted. [`Cause::Silent`]: it was not seen to end.
/// * QEMU could not read a disk or write a file; the guest is absent or off, or libvirt could not be asked.
pub fn back_up(
    host: &dyn Hypervisor,
    id: &DeployId,
    backup: &Backup,
    moment: Option<Moment>,
    control: &Control<'_>,
) -> Result<Ended, DomainError> {
    let work = Work { host, id, backup, control, begun: Instant::now() };
    match host.backup_files(id)? {
        None => work.begin(moment)?,
        Some(files) if backup.is_to(&files, control.names) => {
            tracing::info!(%id, "goes on with a backup that runs");
        }
        Some(files) => {
            let text = format!("a backup to other files runs already: {}", files.join(", "));
            return Err(work.fail(Cause::libvirt(Code::WrongState, text)));
        }
    }
    work.follow()?;
    work.forget_older();
    Ok(Ended::Done)
}

/// Ends a backup that writes below `directory`, if one runs.
///
/// # Errors
/// It was told to end and was not seen to, or libvirt could not be asked. A guest that is not there has none.
pub fn end_backup(
    host: &dyn Hypervisor,
    id: &DeployId,
    directory: &str,
    control: &Control<'_>,
) -> Result<Ended, DomainError> {
    let below =
        |file: &String| control.names.name(file).starts_with(&format!("{}/", control.names.name(directory)));
    match host.backup_files(id) {
        Ok(Some(files)) if files.iter().any(below) => {}
        Ok(_) => return Ok(Ended::Already),
        Err(error) if error.is_absent() || error.code() == Some(Code::WrongState) => {
            return Ok(Ended::Already);
        }
        Err(error) => return Err(error),
    }
    abort(host, id, control)?;
    Ok(Ended::Done)
}

/// Aborts the guest's job, and waits until no backup runs.
fn abort(host: &dyn Hypervisor, id: &DeployId, control: &Control<'_>) -> Result<(), DomainError> {
    let since = Instant::now();
    if let Err(error) = host.abort_job(id) {
        // It may have ended meanwhile; the looks that follow decide.
        tracing::warn!(%id, %error, cause = %error.cause, "abort");
    }
    loop {
        match host.backup_files(id) {
            Ok(None) => return Ok(()),
            Err(error) if error.is_absent() => return Ok(()),
            Ok(Some(_)) => {}
            Err(error) if error.is_unknown() => {}
            Err(error) => return Err(error),
        }
        if since.elapsed() > GRACE {
            return Err(DomainError::new(Operation::AbortJob, id, Cause::Silent(GRACE)));
        }
        thread::sleep(control.interval);
    }
}

struct Work<'a> {
    host: &'a dyn Hypervisor,
    id: &'a DeployId,
    backup: &'a Backup,
    control: &'a Control<'a>,
    begun: Instant,
}

impl Work<'_> {
    fn begin(&self, moment: Option<Moment>) -> Result<(), DomainError> {
        if (self.control.cancelled)() {
            return Err(self.fail(Cause::Cancelled));
        }
        self.prepare()?;
        let (rest, how) = self.bring(moment)?;
        let begun = self.host.begin_backup(self.id, self.backup);
        match rest::release(self.host, self.id, rest, how, self.control.watchdog) {
            Ok(true) => {}
            Ok(false) => (self.control.warn)("the guest was let go before the backup had begun"),
            Err(error) => {
                (self.control.warn)(&format!("the guest is not back yet: {error}: {}", error.cause));
            }
        }
        match begun {
            Err(error) if error.is_unknown() => {
                // Whether it was begun is to be seen.
                let seen = self.host.backup_files(self.id)?;
                let ours = seen.is_some_and(|files| self.backup.is_to(&files, self.control.names));
                if ours { Ok(()) } else { Err(error) }
            }
            other => other,
        }
    }

    fn bring(&self, moment: Option<Moment>) -> Result<(Rest, How), DomainError> {
        let how = |agent| How { agent, or_suspend: false };
        let watchdog = self.control.watchdog;
        match moment {
            None => Ok((Rest::Still, how(Duration::ZERO))),
            Some(Moment::Suspended) => {
                let how = how(Duration::ZERO);
                rest::suspend(self.host, self.id, false, how, watchdog).map(|rest| (rest, how))
            }
            Some(Moment::Frozen(wait)) => match rest::bring(self.host, self.id, how(wait), watchdog)? {
                Rest::Running => {
                    let text = "no agent in the guest freezes it, as FS_FREEZE=AGENT asks for";
                    Err(self.fail(Cause::libvirt(Code::Agent, text)))
                }
                rest => Ok((rest, how(wait))),
            },
        }
    }

    /// The checkpoint that the changes are counted from must be known to libvirt, which forgets all of them when the
    /// guest is off; and nothing may have the name of the new one, which an increment that did not arrive has left.
    fn prepare(&self) -> Result<(), DomainError> {
        let Some(begin) = &self.backup.begin else { return Ok(()) };
        let known = self.host.checkpoints(self.id, prefix(begin))?;
        if let Some(since) = &self.backup.since
            && !known.contains(since)
        {
            self.host.redefine_checkpoint(self.id, since, &self.backup.disks()).map_err(|error| {
                if error.is_unknown() {
                    return error;
                }
                let text = format!(
                    "its disks have no bitmap {since}, which would tell what has changed since the last increment ({}): \
                     begin a new chain, by `onevm backup --reset`",
                    error.cause
                );
                self.fail(Cause::libvirt(Code::WrongState, text))
            })?;
        }
        for old in known.iter().filter(|name| self.backup.since.is_none() || *name == begin) {
            self.host.delete_checkpoint(self.id, old)?;
        }
        if !known.contains(begin) {
            self.clear(begin)?;
        }
        Ok(())
    }

    /// Removes bitmaps of that name of which libvirt does not know. It knows of none until it is told.
    fn clear(&self, name: &str) -> Result<(), DomainError> {
        for disk in self.backup.disks() {
            match self.host.redefine_checkpoint(self.id, name, &[disk]) {
                Ok(()) => self.host.delete_checkpoint(self.id, name)?,
                // There is none.
                Err(error) if !error.is_unknown() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn follow(&self) -> Result<(), DomainError> {
        let mut meter = Meter::new();
        loop {
            if let Some(why) = self.given_up() {
                abort(self.host, self.id, self.control)?;
                return Err(self.fail(why));
            }
            match self.host.job(self.id) {
                Ok(stats) if stats.is_running() => (self.control.progress)(&meter.look(&info(&stats))),
                Ok(_) => {
                    match self.ended() {
                        Err(error) if error.is_unknown() => {}
                        other => {
                            (self.control.progress)(&meter.done());
                            return other;
                        }
                    };
                }
                Err(error) if error.is_unknown() || error.code() == Some(Code::Timeout) => {}
                Err(error) => return Err(error),
            }
            thread::sleep(self.control.interval);
        }
    }

    /// How a backup that does not run any more has ended.
    fn ended(&self) -> Result<(), DomainError> {
        let stats = self.host.completed_job(self.id)?;
        match (stats.operation, stats.phase) {
            (JobOperation::Backup, JobPhase::Completed) if stats.success != Some(false) => Ok(()),
            _ => {
                let said =
                    stats.errmsg.unwrap_or_else(|| format!("{:?}, {:?}", stats.operation, stats.phase));
                Err(self.fail(Cause::Answer(format!("it has ended, and not well: {said}"))))
            }
        }
    }

    /// Two checkpoints are enough: that of this increment, and the one before, for an increment that does not arrive.
    fn forget_older(&self) {
        let Some(begin) = &self.backup.begin else { return };
        let kept = [Some(begin), self.backup.since.as_ref()];
        let known = self.host.checkpoints(self.id, prefix(begin)).unwrap_or_default();
        for old in known.iter().filter(|name| !kept.contains(&Some(*name))) {
            if let Err(error) = self.host.delete_checkpoint(self.id, old) {
                // It costs a little memory, and is tried again after the next increment.
                (self.control.warn)(&format!("checkpoint {old} stays: {error}: {}", error.cause));
            }
        }
    }

    fn given_up(&self) -> Option<Cause> {
        if (self.control.cancelled)() {
            return Some(Cause::Cancelled);
        }
        let deadline = self.control.deadline;
        (self.begun.elapsed() >= deadline).then_some(Cause::Deadline(deadline))
    }

    fn fail(&self, cause: Cause) -> DomainError {
        DomainError::new(Operation::BackUp, self.id, cause)
    }
}

/// `one-7-` of `one-7-3`: what the names of a VM's checkpoints begin with.
fn prefix(name: &str) -> &str {
    name.rfind('-').and_then(|at| name.get(..=at)).unwrap_or(name)
}

fn info(stats: &JobStats) -> JobInfo {
    JobInfo {
        kind: JobKind::Backup,
        bandwidth: 0,
        current: stats.disk_processed.unwrap_or(0),
        end: stats.disk_total.unwrap_or(0),
    }
}
