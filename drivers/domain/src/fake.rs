//! A hypervisor in memory that records what it is asked and lies when told to.
//!
//! It keeps the promises of [`Hypervisor`](crate::Hypervisor) that callers lean on: transient domains vanish when they
//! stop, a wrong state is an error, both forms of id are taken, a migration moves the domain to the fake that stands
//! behind the destination's URI. What a test wants otherwise it scripts:
//!
//! ```
//! use causeway_domain::fake::{Fake, Lie};
//! use causeway_domain::{Cause, Hypervisor, Operation};
//!
//! let host = Fake::new("node1");
//! host.lie(Operation::Create, 1, Lie::After(Cause::unreachable()));
//! let xml = "<domain type='kvm'><name>one-7</name><memory>1024</memory></domain>";
//! assert!(host.create(xml).unwrap_err().is_unknown());
//! assert!(host.lookup(&"one-7".parse().unwrap()).unwrap().is_some(), "it was created all the same");
//! ```

mod backup;
mod disks;
mod guest;
mod hypervisor;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use causeway_core::names::DeployId;
use serde_json::Value;

use crate::domain::{Domain, State};
use crate::error::{Cause, DomainError, Operation};
use crate::host::{HostFacts, MemoryStats, Version};
use crate::job::JobStats;
use crate::snapshot::Snapshot;

pub use disks::{Agent, Pace};
use guest::Guest;

/// One recorded call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub operation: Operation,
    /// The deploy id, name or URI it was asked of; the host's name where it concerns no domain.
    pub object: String,
    /// What else was passed, in short: a limit, a destination, a monitor command.
    pub detail: String,
}

/// How one call is answered wrongly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    /// The call fails and does nothing.
    Instead(Cause),
    /// The call does its work, and then reports a failure: a connection that broke a moment too late.
    After(Cause),
}

/// A hypervisor in memory; see the module.
#[derive(Debug)]
pub struct Fake {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    host: HostFacts,
    capabilities: String,
    guests: Vec<Guest>,
    next_id: u32,
    calls: Vec<Call>,
    seen: BTreeMap<Operation, usize>,
    lies: Vec<(Operation, usize, Lie)>,
    unreachable: bool,
    peers: BTreeMap<String, Arc<Fake>>,
    monitor: BTreeMap<String, VecDeque<Value>>,
    migration_takes: Duration,
}

impl Fake {
    /// An empty host of that name.
    pub fn new(hostname: &str) -> Self {
        let host = HostFacts {
            hostname: hostname.to_owned(),
            hypervisor: "FAKE".to_owned(),
            hypervisor_version: Version::from_libvirt(8_002_000),
            libvirt_version: Version::from_libvirt(9_000_000),
            cpu_model: "x86_64".to_owned(),
            cpus: 8,
            max_vcpus: 255,
            memory: 64 << 30,
            memory_free: 48 << 30,
        };
        Fake {
            inner: Mutex::new(Inner {
                host,
                capabilities: "<capabilities/>".to_owned(),
                guests: Vec::new(),
                next_id: 1,
                calls: Vec::new(),
                seen: BTreeMap::new(),
                lies: Vec::new(),
                unreachable: false,
                peers: BTreeMap::new(),
                monitor: BTreeMap::new(),
                migration_takes: Duration::ZERO,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked while it held the lock has failed already.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All calls so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// The operations so far, in order.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().calls.iter().map(|c| c.operation).collect()
    }

    /// Forgets the calls so far, and with them the count that [`lie`](Fake::lie) goes by.
    pub fn forget_calls(&self) {
        let mut inner = self.lock();
        inner.calls.clear();
        inner.seen.clear();
    }

    /// Answers the `nth` call (from 1) of `operation` with a lie.
    pub fn lie(&self, operation: Operation, nth: usize, lie: Lie) {
        self.lock().lies.push((operation, nth, lie));
    }

    /// From now on every call fails as if libvirt could not be reached; `false` ends that.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.lock().unreachable = unreachable;
    }

    /// Migrations to that URI arrive at `peer`.
    pub fn connect_peer(&self, uri: &str, peer: Arc<Fake>) {
        self.lock().peers.insert(uri.to_owned(), peer);
    }

    /// Migrations take that long, and can be aborted meanwhile.
    pub fn set_migration_takes(&self, duration: Duration) {
        self.lock().migration_takes = duration;
    }

    /// Sets what [`host`](crate::Hypervisor::host) answers.
    pub fn set_host(&self, host: HostFacts) {
        self.lock().host = host;
    }

    /// Sets what [`capabilities`](crate::Hypervisor::capabilities) answers.
    pub fn set_capabilities(&self, xml: &str) {
        xml.clone_into(&mut self.lock().capabilities);
    }

    /// Queues an answer of QEMU's monitor to that command (`query-migrate`, ...).
    pub fn queue_monitor(&self, command: &str, answer: Value) {
        let mut inner = self.lock();
        let queue = inner.monitor.entry(command.to_owned()).or_default();
        queue.push_back(answer);
    }

    /// Puts a domain into a state. Nothing happens if there is no such domain.
    pub fn set_state(&self, id: &DeployId, state: State) {
        self.change(id, |guest| guest.domain.state = state);
    }

    /// Makes a domain persistent, as somebody's `virsh define` would.
    pub fn set_persistent(&self, id: &DeployId) {
        self.change(id, |guest| guest.domain.persistent = true);
    }

    /// Makes the guest ignore [`shutdown`](crate::Hypervisor::shutdown).
    pub fn ignore_shutdown(&self, id: &DeployId) {
        self.change(id, |guest| guest.ignores_shutdown = true);
    }

    /// Sets the figures of the running job.
    pub fn set_job(&self, id: &DeployId, job: JobStats) {
        self.change(id, |guest| guest.job = job);
    }

    /// Sets the figures of the last job.
    pub fn set_completed_job(&self, id: &DeployId, job: JobStats) {
        self.change(id, |guest| guest.completed_job = job);
    }

    /// Sets the memory figures.
    pub fn set_memory(&self, id: &DeployId, memory: MemoryStats) {
        self.change(id, |guest| guest.memory = memory);
    }

    /// Gives the domain a snapshot of that name and parent, the current one.
    pub fn add_snapshot(&self, id: &DeployId, name: &str, parent: Option<&str>) {
        self.change(id, |guest| {
            guest.snapshots.iter_mut().for_each(|snapshot| snapshot.current = false);
            let parent = parent.map_or_else(String::new, |p| format!("<parent><name>{p}</name></parent>"));
            let (name, uuid) = (name.to_owned(), guest.domain.uuid);
            let xml = format!(
                "<domainsnapshot><name>{name}</name>{parent}<domain><uuid>{uuid}</uuid></domain></domainsnapshot>"
            );
            guest.snapshots.push(Snapshot { name, xml, current: true });
        });
    }

    /// The domain's snapshots, as [`truth`](Fake::truth) tells the rest.
    pub fn snapshots_of(&self, id: &DeployId) -> Vec<Snapshot> {
        self.lock().find(id).map(|g| g.snapshots.clone()).unwrap_or_default()
    }

    /// Stops the guest without anybody having asked: it shut down by itself, or its process was killed.
    pub fn kill(&self, id: &DeployId) {
        self.lock().stop(id);
    }

    /// Looks a domain up without recording it, even on an unreachable host: the truth, for a test's own checks.
    pub fn truth(&self, id: &DeployId) -> Option<Domain> {
        self.lock().find(id).map(|g| g.domain.clone())
    }

    /// The limits that were set on a domain: longest downtime, and MiB per second.
    pub fn limits(&self, id: &DeployId) -> Option<(Duration, Option<u32>)> {
        self.lock().find(id).map(|g| (g.max_downtime, g.max_speed))
    }

    fn change(&self, id: &DeployId, change: impl FnOnce(&mut Guest)) {
        if let Some(guest) = self.lock().find_mut(id) {
            change(guest);
        }
    }

    /// Records the call, applies the lies that are due, and does the work in between.
    fn answer<T>(
        &self,
        operation: Operation,
        object: &str,
        detail: String,
        work: impl FnOnce(&mut Inner) -> Result<T, Cause>,
    ) -> Result<T, DomainError> {
        let mut inner = self.lock();
        let fail = |cause| DomainError::new(operation, object, cause);
        match inner.record(operation, object, detail).map_err(fail)? {
            Some(cause) => work(&mut inner).and(Err(cause)).map_err(fail),
            None => work(&mut inner).map_err(fail),
        }
    }
}

impl Inner {
    /// Records a call. `Err` is a lie told instead of the work, `Ok(Some)` one to be told after it.
    fn record(&mut self, operation: Operation, object: &str, detail: String) -> Result<Option<Cause>, Cause> {
        self.calls.push(Call { operation, object: object.to_owned(), detail });
        let seen = self.seen.entry(operation).or_default();
        *seen += 1;
        let nth = *seen;
        if self.unreachable {
            return Err(Cause::unreachable());
        }
        let due = self.lies.iter().position(|(o, n, _)| *o == operation && *n == nth);
        match due.map(|index| self.lies.remove(index).2) {
            Some(Lie::Instead(cause)) => Err(cause),
            Some(Lie::After(cause)) => Ok(Some(cause)),
            None => Ok(None),
        }
    }

    fn find(&self, id: &DeployId) -> Option<&Guest> {
        self.guests.iter().find(|g| g.is(id))
    }

    fn find_mut(&mut self, id: &DeployId) -> Option<&mut Guest> {
        self.guests.iter_mut().find(|g| g.is(id))
    }

    fn stop(&mut self, id: &DeployId) {
        self.guests.retain_mut(|guest| {
            if !guest.is(id) {
                return true;
            }
            guest.domain.state = State::ShutOff;
            guest.domain.id = None;
            guest.domain.persistent
        });
    }
}

#[cfg(test)]
mod tests;
