//! Backups of a fake guest: a job that gets on with every look, and bitmaps that outlive libvirt's memory of them.

use std::collections::BTreeSet;

use causeway_core::names::DeployId;

use super::Fake;
use super::guest::Guest;
use crate::disk::Backup;
use crate::error::{Cause, Code};
use crate::job::{JobOperation, JobPhase, JobStats};

/// What is known of a guest's backups.
#[derive(Debug, Clone, Default)]
pub(super) struct Backups {
    runs: Option<Backup>,
    done: Vec<Backup>,
    /// What libvirt knows.
    checkpoints: BTreeSet<String>,
    /// What is in the disks: disk and name.
    bitmaps: BTreeSet<(String, String)>,
}

impl Fake {
    /// The backups that have ended well, the oldest first.
    pub fn backups(&self, id: &DeployId) -> Vec<Backup> {
        self.lock().find(id).map(|guest| guest.backups.done.clone()).unwrap_or_default()
    }

    /// libvirt forgets the guest's checkpoints, as it does when the guest is off.
    pub fn forget_checkpoints(&self, id: &DeployId) {
        self.change(id, |guest| guest.backups.checkpoints.clear());
    }

    /// The bitmaps in the guest's disks, as `vda one-7-0`.
    pub fn bitmaps(&self, id: &DeployId) -> Vec<String> {
        let inner = self.lock();
        let bitmaps = inner.find(id).map(|guest| &guest.backups.bitmaps);
        bitmaps.into_iter().flatten().map(|(disk, name)| format!("{disk} {name}")).collect()
    }
}

fn refused(text: String) -> Cause {
    Cause::libvirt(Code::Other, text)
}

impl Guest {
    pub fn begin_backup(&mut self, backup: &Backup) -> Result<(), Cause> {
        self.check_active()?;
        let known = &mut self.backups;
        if known.runs.is_some() {
            return Err(Cause::libvirt(Code::WrongState, "another backup runs"));
        }
        if let Some(since) = backup.since.as_ref().filter(|since| !known.checkpoints.contains(*since)) {
            return Err(refused(format!("checkpoint {since} for disk not found")));
        }
        if let Some(begin) = &backup.begin {
            if !known.checkpoints.insert(begin.clone()) {
                return Err(refused(format!("checkpoint {begin} already exists")));
            }
            for disk in backup.disks() {
                if !known.bitmaps.insert((disk.to_owned(), begin.clone())) {
                    return Err(refused(format!("Bitmap already exists: {begin}")));
                }
            }
        }
        known.runs = Some(backup.clone());
        self.job = JobStats {
            phase: JobPhase::Unbounded,
            operation: JobOperation::Backup,
            disk_total: Some(self.pace.end),
            disk_processed: Some(0),
            ..JobStats::default()
        };
        Ok(())
    }

    pub fn backup_files(&mut self) -> Result<Option<Vec<String>>, Cause> {
        self.check_active()?;
        let runs = self.backups.runs.as_ref();
        Ok(runs.map(|backup| backup.targets.iter().map(|(_, file)| file.clone()).collect()))
    }

    /// Every look at the job finds it further.
    pub fn look_at_backup(&mut self) -> JobStats {
        if self.backups.runs.is_some() {
            let (now, pace) = (self.job.disk_processed.unwrap_or(0), self.pace);
            if pace.breaks_at.is_some_and(|at| now >= at) {
                self.end_backup(JobPhase::Failed);
            } else if now >= pace.end {
                self.end_backup(JobPhase::Completed);
            } else {
                self.job.disk_processed = Some(pace.end.min(now + pace.step));
            }
        }
        self.job.clone()
    }

    /// Whether a backup ran.
    pub fn end_backup(&mut self, phase: JobPhase) -> bool {
        let Some(backup) = self.backups.runs.take() else { return false };
        if phase == JobPhase::Completed {
            self.backups.done.push(backup);
        }
        let success = Some(phase == JobPhase::Completed);
        self.completed_job = JobStats { phase, success, ..std::mem::take(&mut self.job) };
        true
    }

    pub fn checkpoints_of(&mut self, prefix: &str) -> Result<Vec<String>, Cause> {
        self.check_active()?;
        Ok(self.backups.checkpoints.iter().filter(|name| name.starts_with(prefix)).cloned().collect())
    }

    pub fn redefine_checkpoint(&mut self, name: &str, disks: &[&str]) -> Result<(), Cause> {
        self.check_active()?;
        let known = &mut self.backups;
        match disks.iter().find(|disk| !known.bitmaps.contains(&((**disk).to_owned(), name.to_owned()))) {
            Some(disk) => Err(refused(format!("no such bitmap '{name}' for disk '{disk}'"))),
            None => {
                known.checkpoints.insert(name.to_owned());
                Ok(())
            }
        }
    }

    pub fn delete_checkpoint(&mut self, name: &str) -> Result<(), Cause> {
        self.check_active()?;
        if self.backups.checkpoints.remove(name) {
            self.backups.bitmaps.retain(|(_, bitmap)| bitmap != name);
        }
        Ok(())
    }
}
