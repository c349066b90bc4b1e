//! The disks of a running domain: chains, overlays, jobs, and the agent that freezes them.

use std::ffi::{CString, c_ulong};
use std::time::{Duration, Instant};

use causeway_core::names::DeployId;
use virt::domain::Domain as Handle;
use virt::domain_snapshot::DomainSnapshot;
use virt::error::Error;
use virt::sys;

use super::{Libvirt, c_string, describe};
use crate::disk::{AgentAnswer, Chain, DiskJob, Format, JobEnd, JobInfo, JobKind, Overlay};
use crate::domain_xml;
use crate::error::{Cause, Code, DomainError, Operation};
use crate::ffi::{self, TypedParams};

/// How long libvirt waits for the answer to its greeting, unless the bound that was set is shorter.
const GREETING: Duration = Duration::from_secs(5);

/// What is left to libvirt for everything about a call to the agent that is not the agent's own wait: the greeting that
/// comes before each question has five seconds of its own.
const AGENT_MARGIN: Duration = Duration::from_secs(15);

impl Libvirt {
    /// See [`Hypervisor::disks`](crate::Hypervisor::disks).
    pub(super) fn read_chains(&self, id: &DeployId) -> Result<Vec<Chain>, DomainError> {
        self.read_domain(Operation::Disks, id, |handle| {
            let xml = handle.get_xml_desc(0)?;
            domain_xml::chains(&xml).map_err(|e| Cause::Answer(e.to_string()))
        })
    }

    /// See [`Hypervisor::snapshot_disk`](crate::Hypervisor::snapshot_disk).
    pub(super) fn put_overlay(&self, id: &DeployId, overlay: &Overlay) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::SnapshotDisk, id, cause);
        let xml = overlay_xml(overlay).map_err(fail)?;
        let (id_, quiesce) = (id.clone(), overlay.quiesce);
        // Frozen and thawed within.
        let deadline = self.deadlines.create + quiesce.map_or(Duration::ZERO, |wait| wait * 2 + AGENT_MARGIN);
        self.job(Operation::SnapshotDisk, id.as_str(), deadline, move |connection| {
            let handle = describe::find(connection, &id_)?;
            let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
                | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
                | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
                | sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT;
            let create = |flags| DomainSnapshot::create_xml(&handle, &xml, flags).map(drop);
            match quiesce {
                None => Ok(create(flags)?),
                Some(wait) => {
                    with_agent(&handle, wait, || create(flags | sys::VIR_DOMAIN_SNAPSHOT_CREATE_QUIESCE))
                }
            }
        })
    }

    /// A question to the guest's agent, on a connection of its own: others need not wait for a guest.
    pub(super) fn ask_agent(
        &self,
        operation: Operation,
        id: &DeployId,
        wait: Duration,
        ask: fn(&Handle) -> Result<u32, Error>,
    ) -> Result<AgentAnswer, DomainError> {
        let wanted = id.clone();
        self.job(operation, id.as_str(), wait + AGENT_MARGIN, move |connection| {
            let handle = describe::find(connection, &wanted)?;
            let start = Instant::now();
            let asked = with_agent(&handle, wait, || ask(&handle));
            answer(asked, start.elapsed() >= wait.min(GREETING))
        })
    }

    /// See [`Hypervisor::start_disk_job`](crate::Hypervisor::start_disk_job).
    pub(super) fn start_job(
        &self,
        id: &DeployId,
        disk: &str,
        job: &DiskJob,
        bandwidth: u64,
    ) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::StartDiskJob, id, cause);
        let call = JobCall::of(disk, job, bandwidth).map_err(fail)?;
        let wanted = id.clone();
        // QEMU opens the files, on storage that may be slow.
        self.job(Operation::StartDiskJob, id.as_str(), self.deadlines.create, move |connection| {
            call.start(&describe::find(connection, &wanted)?)
        })
    }

    /// See [`Hypervisor::disk_job`](crate::Hypervisor::disk_job).
    pub(super) fn read_job(&self, id: &DeployId, disk: &str) -> Result<Option<JobInfo>, DomainError> {
        let fail = |cause| DomainError::new(Operation::DiskJob, id, cause);
        let disk = c_string("the disk", disk).map_err(fail)?;
        self.read_domain(Operation::DiskJob, id, move |handle| {
            let found = ffi::block_job(handle, &disk)?;
            Ok(found.map(|(kind, bandwidth, current, end)| JobInfo {
                kind: JobKind::from_libvirt(kind),
                bandwidth,
                current,
                end,
            }))
        })
    }

    /// See [`Hypervisor::end_disk_job`](crate::Hypervisor::end_disk_job).
    pub(super) fn end_job(&self, id: &DeployId, disk: &str, end: JobEnd) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::EndDiskJob, id, cause);
        let disk = c_string("the disk", disk).map_err(fail)?;
        let wanted = id.clone();
        let flags = match end {
            JobEnd::Abort => 0,
            JobEnd::Pivot => sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT,
        };
        // Without the flag `ASYNC` the call returns when the job has ended, and a pivot that failed says so.
        self.job(Operation::EndDiskJob, id.as_str(), self.deadlines.abort, move |connection| {
            Ok(ffi::block_job_abort(&describe::find(connection, &wanted)?, &disk, flags)?)
        })
    }
}

/// Asks with the wait for the agent bounded. It belongs to the domain, not to the call, so libvirt's own setting, no
/// bound at all, is put back.
fn with_agent<T>(
    handle: &Handle,
    wait: Duration,
    ask: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Cause> {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    ffi::agent_timeout(handle, i32::try_from(seconds.max(1)).unwrap_or(i32::MAX))?;
    let answer = ask();
    if let Err(error) = ffi::agent_timeout(handle, sys::VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK) {
        tracing::debug!(%error, "the wait for the agent stays bounded");
    }
    Ok(answer?)
}

/// Tells an agent that is not there from one that failed. libvirt has one number for an agent that nobody has started
/// and for one that swallowed the command; only the second has been `waited` for, and may do it yet.
fn answer(asked: Result<u32, Cause>, waited: bool) -> Result<AgentAnswer, Cause> {
    match asked {
        Ok(count) => Ok(AgentAnswer::Done(count)),
        Err(Cause::Libvirt { code: Code::Agent, message }) if waited => {
            Err(Cause::libvirt(Code::Timeout, message))
        }
        // None in the domain's definition; or nobody at the guest's end of it.
        Err(Cause::Libvirt { code: Code::Unsupported | Code::Agent, message }) => {
            Ok(AgentAnswer::NoAgent(message))
        }
        Err(other) => Err(other),
    }
}

fn overlay_xml(overlay: &Overlay) -> Result<String, Cause> {
    let disk = escaped("the disk", &overlay.disk)?;
    let mut xml = format!(
        "<domainsnapshot><disks><disk name='{disk}' snapshot='external' type='file'>\
         <driver type='qcow2'/><source file='{}'/></disk>",
        escaped("the overlay", &overlay.file)?
    );
    for other in &overlay.others {
        xml.push_str(&format!("<disk name='{}' snapshot='no'/>", escaped("a disk", other)?));
    }
    xml.push_str("</disks></domainsnapshot>");
    Ok(xml)
}

fn copy_xml(to: &str, format: Format) -> Result<String, Cause> {
    let (to, format) = (escaped("the copy", to)?, format.as_str());
    Ok(format!("<disk type='file'><driver type='{format}'/><source file='{to}'/></disk>"))
}

/// A text between XML's quotes.
fn escaped(what: &str, text: &str) -> Result<String, Cause> {
    domain_xml::escaped(text).map_err(|e| Cause::Input(format!("{what}: {e}")))
}

/// A job's arguments, checked; they become libvirt's own on the thread that uses them.
#[derive(Debug, PartialEq)]
struct JobCall {
    disk: CString,
    bandwidth: c_ulong,
    flags: u32,
    what: What,
}

#[derive(Debug, PartialEq)]
enum What {
    Commit { top: CString, base: CString },
    Pull { base: Option<CString> },
    Copy { destination: CString },
}

impl JobCall {
    fn of(disk: &str, job: &DiskJob, bandwidth: u64) -> Result<Self, Cause> {
        let too_much = |_| Cause::Input(format!("{bandwidth} bytes per second is more than libvirt takes"));
        let bandwidth = c_ulong::try_from(bandwidth).map_err(too_much)?;
        let if_set = |set: bool, flag: u32| if set { flag } else { 0 };
        let (flags, what) = match job {
            DiskJob::Commit { top, base, active, relative } => {
                let flags = if_set(*active, sys::VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
                    | if_set(*relative, sys::VIR_DOMAIN_BLOCK_COMMIT_RELATIVE);
                (flags, What::Commit { top: c_string("the top", top)?, base: c_string("the base", base)? })
            }
            DiskJob::Pull { base, relative } => {
                // Without a base nothing below is named any more.
                let relative = *relative && base.is_some();
                let base = base.as_deref().map(|base| c_string("the base", base)).transpose()?;
                (if_set(relative, sys::VIR_DOMAIN_BLOCK_REBASE_RELATIVE), What::Pull { base })
            }
            DiskJob::Copy { to, format } => {
                let destination = c_string("the copy", &copy_xml(to, *format)?)?;
                // A job that is to end with the file aside needs no promise to survive QEMU's end, which libvirt would
                // ask of a domain with a definition.
                let flags = sys::VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | sys::VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB;
                (flags, What::Copy { destination })
            }
        };
        Ok(JobCall { disk: c_string("the disk", disk)?, bandwidth, flags, what })
    }

    fn start(&self, handle: &Handle) -> Result<(), Cause> {
        let JobCall { disk, bandwidth, flags, what } = self;
        let started = match what {
            What::Commit { top, base } => ffi::block_commit(handle, disk, base, top, *bandwidth, *flags),
            What::Pull { base } => ffi::block_pull(handle, disk, base.as_deref(), *bandwidth, *flags),
            What::Copy { destination } => {
                let mut params = TypedParams::new();
                if *bandwidth > 0 {
                    params.add_unsigned(sys::VIR_DOMAIN_BLOCK_COPY_BANDWIDTH, *bandwidth)?;
                }
                ffi::block_copy(handle, disk, destination, &params, *flags)
            }
        };
        Ok(started?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_disk_is_in_a_snapshot_and_no_path_leaves_its_quotes() {
        let overlay = Overlay {
            disk: "vda".into(),
            file: "/ds/7/it's <odd> & long".into(),
            others: vec!["vdb".into(), "hda".into()],
            quiesce: None,
        };
        let expected = "<domainsnapshot><disks><disk name='vda' snapshot='external' type='file'>\
            <driver type='qcow2'/><source file='/ds/7/it&apos;s &lt;odd&gt; &amp; long'/></disk>\
            <disk name='vdb' snapshot='no'/><disk name='hda' snapshot='no'/></disks></domainsnapshot>";
        assert_eq!(overlay_xml(&overlay).unwrap(), expected);
        let broken = Overlay { file: "/ds/7/a\nb".into(), ..overlay };
        assert!(matches!(overlay_xml(&broken), Err(Cause::Input(_))));
    }

    #[test]
    fn a_job_becomes_the_call_that_it_says() {
        let commit =
            DiskJob::Commit { top: "vda[4]".into(), base: "vda[5]".into(), active: false, relative: true };
        let call = JobCall::of("vda", &commit, 1 << 20).unwrap();
        assert_eq!((call.flags, call.bandwidth), (sys::VIR_DOMAIN_BLOCK_COMMIT_RELATIVE, 1 << 20));
        let pull = DiskJob::Pull { base: None, relative: true };
        let call = JobCall::of("vda", &pull, 0).unwrap();
        assert_eq!((call.flags, call.what), (0, What::Pull { base: None }));
        let copy = DiskJob::Copy { to: "/ds/1/a'b".into(), format: Format::Raw };
        let destination = c"<disk type='file'><driver type='raw'/><source file='/ds/1/a&apos;b'/></disk>";
        let call = JobCall::of("vda", &copy, 0).unwrap();
        assert_eq!(call.what, What::Copy { destination: destination.into() });
        assert!(JobCall::of("v\0a", &copy, 0).is_err());
    }

    #[test]
    fn an_agent_that_is_not_there_is_an_answer() {
        let missing = Cause::libvirt(Code::Unsupported, "QEMU guest agent is not configured");
        let expected = AgentAnswer::NoAgent("QEMU guest agent is not configured".into());
        assert_eq!(answer(Err(missing), false), Ok(expected));
        let silent = Cause::libvirt(Code::Agent, "Guest agent is not responding");
        let absent = AgentAnswer::NoAgent("Guest agent is not responding".into());
        assert_eq!(answer(Err(silent.clone()), false), Ok(absent));
        let late = Cause::libvirt(Code::Timeout, "Guest agent is not responding");
        assert_eq!(answer(Err(silent), true), Err(late), "it may freeze all the same");
        assert_eq!(answer(Ok(2), true), Ok(AgentAnswer::Done(2)));
    }
}
