//! What can go wrong with libvirt, in classes that decide what to do next.
//!
//! "Absent" is never an error of [`lookup`](crate::Hypervisor::lookup); everywhere else it is the code
//! [`Code::NoDomain`]. "Unreachable" is always an error: its state is unknown, and nothing may be concluded from it.

use std::fmt;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use serde::{Deserialize, Serialize};

/// The calls of [`Hypervisor`](crate::Hypervisor), as error texts and recordings name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Open a connection.
    Connect,
    /// Look a domain up.
    Lookup,
    /// List the active domains.
    List,
    /// Create a transient domain.
    Create,
    /// Read the domain's XML.
    Xml,
    /// Read OpenNebula's metadata.
    Metadata,
    /// Power off at once.
    Destroy,
    /// Forget a persistent definition.
    Undefine,
    /// Ask the guest to shut down.
    Shutdown,
    /// Ask the guest to reboot.
    Reboot,
    /// Reset the virtual machine.
    Reset,
    /// Stop the virtual CPUs.
    Suspend,
    /// Start the virtual CPUs.
    Resume,
    /// Set the guest's clock from the host's.
    SyncTime,
    /// Read figures of the host.
    Host,
    /// Read the host's capabilities.
    Capabilities,
    /// Read the running job's figures.
    Job,
    /// Read the last job's figures.
    CompletedJob,
    /// Abort the running job.
    AbortJob,
    /// Switch a migration to post-copy.
    StartPostCopy,
    /// Set the downtime a migration may cost.
    SetMaxDowntime,
    /// Read the downtime a migration may cost.
    MaxDowntime,
    /// Set the bandwidth of a migration.
    SetMaxSpeed,
    /// Migrate a domain.
    Migrate,
    /// List the domain's snapshots.
    Snapshots,
    /// Give back a snapshot's metadata.
    RedefineSnapshot,
    /// Forget a snapshot's metadata.
    ForgetSnapshot,
    /// Pass a command to QEMU's monitor.
    Monitor,
    /// Read the domain's memory figures.
    Memory,
    /// Read the chains of the disks.
    Disks,
    /// Put an overlay over a disk.
    SnapshotDisk,
    /// Have the guest's file systems frozen.
    Freeze,
    /// Have them thawed.
    Thaw,
    /// Begin a job on a disk.
    StartDiskJob,
    /// Read how far the job on a disk is.
    DiskJob,
    /// End the job on a disk.
    EndDiskJob,
    /// Follow the job on a disk to its end.
    FollowDiskJob,
    /// Back up the disks.
    BackUp,
    /// Read where a backup goes.
    BackupFiles,
    /// List the domain's checkpoints.
    Checkpoints,
    /// Give back a checkpoint's metadata.
    RedefineCheckpoint,
    /// Delete a checkpoint.
    DeleteCheckpoint,
    /// Read the limits of the interfaces.
    Bandwidths,
    /// Set the limits of an interface.
    SetBandwidths,
    /// Wait for a state.
    Await,
}

impl Operation {
    /// The operation in words, for an error text.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Connect => "connect to",
            Operation::Lookup => "look up",
            Operation::List => "list domains of",
            Operation::Create => "create",
            Operation::Xml => "read the XML of",
            Operation::Metadata => "read the metadata of",
            Operation::Destroy => "destroy",
            Operation::Undefine => "undefine",
            Operation::Shutdown => "shut down",
            Operation::Reboot => "reboot",
            Operation::Reset => "reset",
            Operation::Suspend => "suspend",
            Operation::Resume => "resume",
            Operation::SyncTime => "set the clock of",
            Operation::Host => "read the facts of",
            Operation::Capabilities => "read the capabilities of",
            Operation::Job => "read the job of",
            Operation::CompletedJob => "read the completed job of",
            Operation::AbortJob => "abort the job of",
            Operation::StartPostCopy => "start post-copy of",
            Operation::SetMaxDowntime => "set the downtime limit of",
            Operation::MaxDowntime => "read the downtime limit of",
            Operation::SetMaxSpeed => "set the migration speed of",
            Operation::Migrate => "migrate",
            Operation::Snapshots => "list the snapshots of",
            Operation::RedefineSnapshot => "redefine a snapshot of",
            Operation::ForgetSnapshot => "forget a snapshot of",
            Operation::Monitor => "ask the monitor of",
            Operation::Memory => "read the memory of",
            Operation::Disks => "read the disks of",
            Operation::SnapshotDisk => "snapshot a disk of",
            Operation::Freeze => "freeze the file systems of",
            Operation::Thaw => "thaw the file systems of",
            Operation::StartDiskJob => "start a job on a disk of",
            Operation::DiskJob => "read a disk's job of",
            Operation::EndDiskJob => "end a disk's job of",
            Operation::FollowDiskJob => "follow a disk's job of",
            Operation::BackUp => "back up",
            Operation::BackupFiles => "read the backup of",
            Operation::Checkpoints => "list the checkpoints of",
            Operation::RedefineCheckpoint => "redefine a checkpoint of",
            Operation::DeleteCheckpoint => "delete a checkpoint of",
            Operation::Bandwidths => "read the limits of the interfaces of",
            Operation::SetBandwidths => "set the limits of an interface of",
            Operation::Await => "wait for",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// libvirt's error numbers, in the classes that make a difference here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// No such domain (`VIR_ERR_NO_DOMAIN`): the only proof of absence.
    NoDomain,
    /// A domain of that name or UUID is there already.
    Exists,
    /// The connection could not be opened, or broke.
    Connection,
    /// libvirt could not read the XML or an argument.
    Xml,
    /// Not possible in the domain's present state, such as "domain is not running".
    WrongState,
    /// The host, its QEMU or its libvirt cannot do it.
    Unsupported,
    /// No metadata of the asked kind.
    NoMetadata,
    /// The guest agent is missing or silent.
    Agent,
    /// libvirt gave up waiting, for instance for another job of the domain.
    Timeout,
    /// The job was aborted on request.
    Aborted,
    /// The login was refused, or the user may not do this.
    Denied,
    /// The migration would not be safe with the disks' cache mode.
    Unsafe,
    /// Anything else.
    Other,
}

impl Code {
    /// Whose fault an error of this class is.
    pub fn kind(self) -> Kind {
        match self {
            Code::Connection => Kind::Unreachable,
            Code::Xml => Kind::Input,
            Code::NoDomain | Code::Exists | Code::WrongState | Code::NoMetadata => Kind::HostState,
            Code::Timeout => Kind::Timeout,
            Code::Aborted => Kind::Cancelled,
            Code::Unsupported | Code::Agent | Code::Denied | Code::Unsafe | Code::Other => Kind::Refused,
        }
    }
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// libvirt answered with an error.
    #[error("{message}")]
    Libvirt {
        /// Its class.
        code: Code,
        /// libvirt's own text.
        message: String,
    },
    /// libvirt did not answer in time. The operation may still happen: look before acting on it.
    #[error("libvirt gave no answer within {0:?}")]
    Silent(Duration),
    /// The call ended without an answer, by a fault of ours or of the binding. It may have done its work.
    #[error("the call was lost")]
    Lost,
    /// So many earlier calls still hang that no further one is tried.
    #[error("{0} earlier calls to libvirt still hang")]
    Saturated(usize),
    /// What the caller passed cannot be passed on.
    #[error("{0}")]
    Input(String),
    /// libvirt or QEMU answered something that cannot be read.
    #[error("unexpected answer: {0}")]
    Answer(String),
    /// The caller gave the wait up.
    #[error("cancelled")]
    Cancelled,
    /// The awaited state did not come in time; the hypervisor did answer.
    #[error("not so after {0:?}")]
    Deadline(Duration),
}

impl Cause {
    /// A cause as libvirt would give it.
    pub fn libvirt(code: Code, message: impl Into<String>) -> Self {
        Cause::Libvirt { code, message: message.into() }
    }

    /// A broken connection, for tests and fakes.
    pub fn unreachable() -> Self {
        Cause::libvirt(Code::Connection, "cannot reach libvirt")
    }
}

/// An operation that failed: what was tried, on what, and why.
///
/// `Display` gives the first two; the cause is the error's source. [`Failure`] is made with both.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {object}")]
pub struct DomainError {
    /// What was tried.
    pub operation: Operation,
    /// The deploy id, domain name or connection URI it was tried on.
    pub object: String,
    /// Why it failed.
    #[source]
    pub cause: Cause,
}

impl DomainError {
    /// Puts an error together.
    pub fn new(operation: Operation, object: impl fmt::Display, cause: Cause) -> Self {
        DomainError { operation, object: object.to_string(), cause }
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match &self.cause {
            Cause::Libvirt { code, .. } => code.kind(),
            Cause::Silent(_) | Cause::Deadline(_) => Kind::Timeout,
            Cause::Saturated(_) => Kind::Unreachable,
            Cause::Input(_) => Kind::Input,
            Cause::Answer(_) => Kind::Refused,
            Cause::Cancelled => Kind::Cancelled,
            Cause::Lost => Kind::Bug,
        }
    }

    /// libvirt's class of error, where libvirt answered.
    pub fn code(&self) -> Option<Code> {
        match &self.cause {
            Cause::Libvirt { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// True only where libvirt itself said that there is no such domain.
    pub fn is_absent(&self) -> bool {
        self.code() == Some(Code::NoDomain)
    }

    /// True where the operation may have happened although it is reported as failed: the connection broke, or libvirt
    /// was silent. The truth must be looked up.
    pub fn is_unknown(&self) -> bool {
        matches!(self.cause, Cause::Silent(_) | Cause::Lost) || self.code() == Some(Code::Connection)
    }
}

impl From<DomainError> for Failure {
    fn from(error: DomainError) -> Self {
        Failure::from_chain(error.kind(), &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_operation_object_and_cause_once() {
        let error = DomainError::new(
            Operation::Destroy,
            "one-7",
            Cause::libvirt(Code::WrongState, "domain is not running"),
        );
        let failure = Failure::from(error);
        assert_eq!(failure.text, "destroy one-7: domain is not running");
        assert_eq!(failure.kind, Kind::HostState);
    }

    #[test]
    fn silence_and_broken_links_prove_nothing() {
        let silent = DomainError::new(Operation::Lookup, "one-7", Cause::Silent(Duration::from_secs(1)));
        let broken = DomainError::new(Operation::Lookup, "one-7", Cause::unreachable());
        let absent =
            DomainError::new(Operation::Destroy, "one-7", Cause::libvirt(Code::NoDomain, "Domain not found"));
        assert!(silent.is_unknown() && broken.is_unknown());
        assert!(!silent.is_absent() && !broken.is_absent());
        assert!(absent.is_absent() && !absent.is_unknown());
        assert_eq!(broken.kind(), Kind::Unreachable);
    }
}
