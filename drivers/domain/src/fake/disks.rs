//! The disks of a fake guest: chains that jobs change as QEMU does, and an agent that may be there.

use causeway_core::names::DeployId;

use super::Fake;
use super::guest::Guest;
use crate::disk::{AgentAnswer, Chain, DiskJob, JobEnd, JobInfo, Layer, Mirror, MirrorKind, Overlay};
use crate::domain_xml::Source;
use crate::error::{Cause, Code};

/// The guest's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Agent {
    /// There is none.
    #[default]
    None,
    /// It does as it is told.
    Answers,
    /// It does as it is told, and libvirt never hears of it.
    Mute,
    /// It answers with an error.
    Refuses,
}

/// How jobs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes to move.
    pub end: u64,
    /// Bytes moved between two looks.
    pub step: u64,
    /// A job ends by itself, without having done anything, once it has moved so much.
    pub breaks_at: Option<u64>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { end: 4 << 20, step: 1 << 20, breaks_at: None }
    }
}

/// A job that runs.
#[derive(Debug, Clone)]
pub(super) struct Job {
    job: DiskJob,
    bandwidth: u64,
    current: u64,
}

impl Fake {
    /// Sets the guest's agent; a guest has none before.
    pub fn set_agent(&self, id: &DeployId, agent: Agent) {
        self.change(id, |guest| guest.agent = agent);
    }

    /// Sets how the jobs on the guest's disks go.
    pub fn set_pace(&self, id: &DeployId, pace: Pace) {
        self.change(id, |guest| guest.pace = pace);
    }

    /// Starts a job that nobody has asked this fake for: what a crash left, or somebody else's.
    pub fn leave_disk_job(&self, id: &DeployId, disk: &str, job: &DiskJob) {
        self.change(id, |guest| guest.start_job(disk, job, 0).unwrap_or_default());
    }

    /// Whether the guest's file systems are frozen.
    pub fn is_frozen(&self, id: &DeployId) -> bool {
        self.lock().find(id).is_some_and(|guest| guest.frozen)
    }

    /// The files that are whole copies of a disk, in the order of their ends.
    pub fn copies(&self, id: &DeployId) -> Vec<String> {
        self.lock().find(id).map(|guest| guest.copies.clone()).unwrap_or_default()
    }

    /// The disk's files, the one that the guest writes first: the truth, for a test's own checks.
    pub fn files(&self, id: &DeployId, disk: &str) -> Vec<String> {
        let inner = self.lock();
        let chain = inner.find(id).and_then(|guest| guest.chains.iter().find(|c| c.target == disk));
        let layers = chain.map(|chain| chain.layers.as_slice()).unwrap_or_default();
        layers.iter().filter_map(|layer| layer.path().map(str::to_owned)).collect()
    }

    /// Whether a job runs on the disk.
    pub fn has_disk_job(&self, id: &DeployId, disk: &str) -> bool {
        self.lock().find(id).is_some_and(|guest| guest.disk_jobs.contains_key(disk))
    }
}

fn no_job() -> Cause {
    Cause::libvirt(Code::Xml, "the disk does not have an active block job")
}

impl Guest {
    fn chain(&mut self, disk: &str) -> Result<&mut Chain, Cause> {
        self.check_active()?;
        let found = self.chains.iter_mut().find(|chain| chain.target == disk);
        found.ok_or_else(|| Cause::libvirt(Code::Xml, format!("disk '{disk}' not found in domain")))
    }

    pub fn snapshot_disk(&mut self, overlay: &Overlay) -> Result<(), Cause> {
        if self.disk_jobs.contains_key(&overlay.disk) {
            return Err(Cause::libvirt(Code::Other, "the disk has an active block job"));
        }
        if overlay.quiesce.is_some() {
            match self.ask_agent(true)? {
                AgentAnswer::Done(_) => {}
                AgentAnswer::NoAgent(said) => return Err(Cause::libvirt(Code::Agent, said)),
            }
            self.ask_agent(false)?;
        }
        let chain = self.chain(&overlay.disk)?;
        if chain.layers.iter().any(|layer| layer.path() == Some(&overlay.file)) {
            return Err(Cause::libvirt(Code::Other, "Failed to get \"write\" lock"));
        }
        let index = chain.layers.iter().filter_map(|layer| layer.index).max().map(|top| top + 1);
        let source = Source::File(overlay.file.clone());
        chain.layers.insert(0, Layer { source, format: Some("qcow2".to_owned()), index });
        Ok(())
    }

    pub fn ask_agent(&mut self, freeze: bool) -> Result<AgentAnswer, Cause> {
        self.check_running()?;
        match self.agent {
            Agent::None => Ok(AgentAnswer::NoAgent("QEMU guest agent is not connected".to_owned())),
            Agent::Refuses => Err(Cause::libvirt(Code::Other, "the hook has failed")),
            Agent::Answers => {
                self.frozen = freeze;
                Ok(AgentAnswer::Done(1))
            }
            Agent::Mute => {
                self.frozen = freeze;
                Err(Cause::libvirt(Code::Timeout, "Guest agent is not responding"))
            }
        }
    }

    pub fn start_job(&mut self, disk: &str, job: &DiskJob, bandwidth: u64) -> Result<(), Cause> {
        if self.disk_jobs.contains_key(disk) {
            return Err(Cause::libvirt(Code::Other, "disk already in active block job"));
        }
        let chain = self.chain(disk)?;
        let known = |name: &str| depth(chain, name).map(drop);
        let mirror = match job {
            DiskJob::Commit { top, base, active, .. } => {
                known(top)?;
                let source = depth(chain, base)?;
                let source = chain.layers.get(source).map(|layer| layer.source.clone());
                source.filter(|_| *active).map(|source| (MirrorKind::ActiveCommit, source))
            }
            DiskJob::Pull { base, .. } => {
                base.as_deref().map(known).transpose()?;
                None
            }
            DiskJob::Copy { to, .. } => Some((MirrorKind::Copy, Source::File(to.clone()))),
        };
        chain.mirror = mirror.map(|(kind, source)| Mirror { kind, source, ready: false });
        self.disk_jobs.insert(disk.to_owned(), Job { job: job.clone(), bandwidth, current: 0 });
        Ok(())
    }

    /// Every look at a job finds it further.
    pub fn look_at_job(&mut self, disk: &str) -> Result<Option<JobInfo>, Cause> {
        self.chain(disk)?;
        let pace = self.pace;
        let Some(job) = self.disk_jobs.get_mut(disk) else { return Ok(None) };
        let info =
            JobInfo { kind: job.job.kind(), bandwidth: job.bandwidth, current: job.current, end: pace.end };
        job.current = pace.end.min(job.current + pace.step);
        let (ended, job) = (info.is_even(), job.job.clone());
        if pace.breaks_at.is_some_and(|at| info.current >= at) {
            self.disk_jobs.remove(disk);
            self.chain(disk)?.mirror = None;
            return Ok(None);
        }
        match (&mut self.chain(disk)?.mirror, ended) {
            (Some(mirror), ended) => mirror.ready |= ended,
            (None, true) => {
                self.disk_jobs.remove(disk);
                self.apply(disk, &job)?;
                return Ok(None);
            }
            (None, false) => {}
        }
        Ok(Some(info))
    }

    pub fn end_job(&mut self, disk: &str, end: JobEnd) -> Result<(), Cause> {
        let ready = self.chain(disk)?.mirror.as_ref().is_some_and(|mirror| mirror.ready);
        let Some(job) = self.disk_jobs.get(disk).map(|job| job.job.clone()) else { return Err(no_job()) };
        if end == JobEnd::Pivot && !ready {
            return Err(Cause::libvirt(Code::Other, "the disk is not ready for pivot yet"));
        }
        self.disk_jobs.remove(disk);
        self.chain(disk)?.mirror = None;
        match (end, &job) {
            (JobEnd::Pivot, job) => self.apply(disk, job)?,
            (JobEnd::Abort, DiskJob::Copy { to, .. }) if ready => self.copies.push(to.clone()),
            (JobEnd::Abort, _) => {}
        }
        Ok(())
    }

    /// What a job that has ended well leaves.
    fn apply(&mut self, disk: &str, job: &DiskJob) -> Result<(), Cause> {
        let chain = self.chain(disk)?;
        let gone = match job {
            DiskJob::Commit { top, base, .. } => depth(chain, top)?..depth(chain, base)?,
            DiskJob::Pull { base: Some(base), .. } => 1..depth(chain, base)?,
            DiskJob::Pull { base: None, .. } => 1..chain.layers.len(),
            DiskJob::Copy { to, format } => {
                let source = Source::File(to.clone());
                chain.layers = vec![Layer { source, format: Some(format.as_str().to_owned()), index: None }];
                return Ok(());
            }
        };
        if gone.start < gone.end {
            chain.layers.drain(gone);
        }
        Ok(())
    }
}

/// How deep the layer lies that a job calls so.
fn depth(chain: &Chain, name: &str) -> Result<usize, Cause> {
    let is = |layer: &Layer| layer.name(&chain.target).as_deref() == Some(name) || layer.path() == Some(name);
    let found = chain.layers.iter().position(is);
    found.ok_or_else(|| Cause::libvirt(Code::Xml, format!("could not find image '{name}' in chain")))
}
