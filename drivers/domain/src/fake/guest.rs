//! A domain that a [`Fake`](super::Fake) holds.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_core::document::Bandwidths;
use causeway_core::names::DeployId;

use crate::disk::Chain;
use crate::domain::Domain;
use crate::domain_xml::{self, InterfaceBandwidths};
use crate::error::{Cause, Code};
use crate::host::MemoryStats;
use crate::job::JobStats;
use crate::snapshot::Snapshot;

use super::backup::Backups;
use super::disks::{Agent, Job, Pace};

/// A domain and what a test can set on it.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub domain: Domain,
    pub xml: String,
    pub ignores_shutdown: bool,
    pub max_downtime: Duration,
    pub max_speed: Option<u32>,
    pub job: JobStats,
    pub completed_job: JobStats,
    pub memory: MemoryStats,
    pub abort_wanted: bool,
    pub post_copy: bool,
    pub snapshots: Vec<Snapshot>,
    pub chains: Vec<Chain>,
    pub interfaces: Vec<InterfaceBandwidths>,
    pub disk_jobs: BTreeMap<String, Job>,
    pub pace: Pace,
    pub copies: Vec<String>,
    pub agent: Agent,
    pub frozen: bool,
    pub backups: Backups,
}

impl Guest {
    pub fn new(domain: Domain, xml: &str) -> Self {
        Guest {
            domain,
            xml: xml.to_owned(),
            ignores_shutdown: false,
            // QEMU's default.
            max_downtime: Duration::from_millis(300),
            max_speed: None,
            job: JobStats::default(),
            completed_job: JobStats::default(),
            memory: MemoryStats::default(),
            abort_wanted: false,
            post_copy: false,
            snapshots: Vec::new(),
            // What is wrong with the XML is found where it is asked for.
            chains: domain_xml::chains(xml).unwrap_or_default(),
            interfaces: domain_xml::bandwidths(xml).unwrap_or_default(),
            disk_jobs: BTreeMap::new(),
            pace: Pace::default(),
            copies: Vec::new(),
            agent: Agent::default(),
            frozen: false,
            backups: Backups::default(),
        }
    }

    pub fn is(&self, id: &DeployId) -> bool {
        match id.uuid() {
            Some(uuid) => self.domain.uuid == uuid,
            None => self.domain.name == id.as_str(),
        }
    }

    pub fn check_running(&self) -> Result<(), Cause> {
        if self.domain.state.is_running() {
            Ok(())
        } else {
            Err(Cause::libvirt(Code::WrongState, "domain is not running"))
        }
    }

    /// libvirt lets no guest go that has snapshots: its other side would not know them.
    pub fn check_movable(&self) -> Result<(), Cause> {
        match self.snapshots.len() {
            0 => Ok(()),
            count => {
                let text = format!("cannot migrate domain with {count} snapshots");
                Err(Cause::libvirt(Code::WrongState, text))
            }
        }
    }

    pub fn limit(&mut self, device: &str, limits: &Bandwidths) -> Result<(), Cause> {
        self.check_active()?;
        let named = |of: &&mut InterfaceBandwidths| {
            let target = of.target.as_ref().is_some_and(|target| target.as_str() == device);
            target || of.mac.is_some_and(|mac| mac.to_string() == device)
        };
        match self.interfaces.iter_mut().find(named) {
            Some(interface) => interface.limits = limits.in_force(),
            None => {
                let text = format!("invalid argument: '{device}' is not a known interface");
                return Err(Cause::libvirt(Code::Xml, text));
            }
        }
        Ok(())
    }

    pub fn check_active(&self) -> Result<(), Cause> {
        if self.domain.state.is_active() {
            Ok(())
        } else {
            Err(Cause::libvirt(Code::WrongState, "domain is not active"))
        }
    }
}

/// libvirt's answer about a domain that it does not know.
pub(super) fn absent() -> Cause {
    Cause::libvirt(Code::NoDomain, "Domain not found")
}
