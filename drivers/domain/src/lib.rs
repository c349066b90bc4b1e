//! Libvirt, and the only crate that knows it.
//!
//! [`Hypervisor`] is the door; [`Libvirt`] is the real side of it, [`fake::Fake`] a recording one for tests.
//! [`domain_xml`] reads and edits domain XML without any hypervisor; [`watch`] waits for states, [`dirty`] measures how
//! fast a guest writes, [`disk`] works on the disks of a guest that runs, all through the door.

mod calls;
pub mod dirty;
pub mod disk;
pub mod domain;
pub mod domain_xml;
pub mod error;
pub mod fake;
mod ffi;
pub mod host;
pub mod hypervisor;
pub mod job;
mod libvirt;
pub mod migrate;
#[cfg(test)]
#[path = "../../../tests/fuzz/seeded.rs"]
mod seeded;
pub mod snapshot;
pub mod watch;

pub use domain::{Domain, PauseReason, State};
pub use error::{Cause, Code, DomainError, Operation};
pub use host::{HostFacts, MemoryStats, Version};
pub use hypervisor::{Hypervisor, XmlView};
pub use job::{JobOperation, JobPhase, JobStats};
pub use libvirt::{Deadlines, Libvirt};
pub use migrate::{AutoConverge, Disks, Drive, MigrateRequest};
pub use snapshot::Snapshot;
