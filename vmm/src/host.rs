//! What our own `vmm/kvm` slots do on a host.
//!
//! Each verb takes the argv and standard input of the stock script in its slot, so that the same code serves the
//! resident and the stand-alone executable. Calls block: the resident gives each its own thread.

mod deploy;
mod migrate;
mod sighting;
mod stop;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::Features;
use causeway_core::names::{DeployId, DiskPath, HostName, VmId};
use causeway_core::reach::wire::{Done, Severity};
use causeway_core::settings::{Causeway, Effective, Kvmrc};
use causeway_domain::{DomainError, Drive, Hypervisor};
use serde::{Deserialize, Serialize};

pub use sighting::{settle, sighting};

/// The verbs that are built.
pub const BUILT: [&str; 4] = ["deploy", "shutdown", "cancel", "migrate"];

/// File operations of the VM directory. They may hang on a dead file server, so the resident has them done by a child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileCall {
    /// Stores the deployment file under its final name; mode 0600.
    Store {
        /// Where.
        path: DiskPath,
        /// What.
        text: String,
    },
    /// Reads where the symbolic link at each path leads; none where there is no link or nothing behind it.
    Links {
        /// The disks' paths.
        paths: Vec<String>,
    },
    /// Makes a guest's firmware variables out of their template, where they are absent.
    Firmware {
        /// The variables' file.
        path: DiskPath,
        /// The template.
        template: PathBuf,
        /// `raw` or `qcow2`.
        format: String,
    },
}

/// The answer to a [`FileCall`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileAnswer {
    /// Done.
    Done,
    /// In the order of the paths.
    Links(Vec<Option<String>>),
}

/// Who does file operations: a child of the resident, or the slot's own process.
pub trait Files {
    /// Does one.
    ///
    /// # Errors
    /// The file system refused, or did not answer in time.
    fn call(&self, call: FileCall) -> Result<FileAnswer, Failure>;
}

/// What this host's files say (contract VMM 3.1), and how this process was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The admin's `kvmrc`.
    pub kvmrc: Kvmrc,
    /// Our own settings.
    pub causeway: Causeway,
    /// Who drives a live migration: this process, where its session forwards an agent.
    pub drive: Drive,
}

impl Settings {
    /// What counts for a VM with these features.
    fn effective(&self, features: &Features) -> Effective {
        Effective::of(&self.kvmrc, &self.causeway, features)
    }
}

/// One call of a slot, with everything it touches.
pub struct Call<'a> {
    /// The arguments, without the program's name.
    pub argv: &'a [String],
    /// The standard input.
    pub stdin: &'a [u8],
    /// libvirt on this host.
    pub hypervisor: &'a dyn Hypervisor,
    /// The VM directory.
    pub files: &'a (dyn Files + Sync),
    /// Settings of this host.
    pub settings: &'a Settings,
    /// Turns true when the action is cancelled.
    pub cancelled: &'a AtomicBool,
    /// The VM's log.
    pub log: &'a (dyn Fn(Severity, &str) + Sync),
}

/// Runs a built verb.
///
/// # Errors
/// [`Kind::NotBuilt`] for any other; else what the verb says.
pub fn run(verb: &str, call: &Call<'_>) -> Result<Done, Failure> {
    match verb {
        "deploy" => deploy::deploy(call),
        "shutdown" => stop::shutdown(call),
        "cancel" => stop::cancel(call),
        "migrate" => migrate::migrate(call),
        other => Err(not_built(other)),
    }
}

/// The answer of a verb that is not built.
pub fn not_built(verb: &str) -> Failure {
    let text = format!(
        "vmm/kvm/{verb} is not built in this version of causeway: put the stock script back into its slot to use it"
    );
    Failure::new(Kind::NotBuilt, text)
}

impl Call<'_> {
    /// The argument at `index`.
    fn text(&self, index: usize, name: &str) -> Result<&str, Failure> {
        let missing = || Failure::new(Kind::Input, format!("argument {} ({name}) is missing", index + 1));
        self.argv.get(index).map(String::as_str).ok_or_else(missing)
    }

    fn deploy_id(&self, index: usize) -> Result<DeployId, Failure> {
        self.text(index, "deploy id")?.parse().map_err(|e| Failure::new(Kind::Input, e))
    }

    fn host(&self, index: usize) -> Result<HostName, Failure> {
        self.text(index, "host")?.parse().map_err(|e| Failure::new(Kind::Input, e))
    }

    fn vm(&self, index: usize) -> Result<VmId, Failure> {
        self.text(index, "VM id")?.parse().map_err(|e| Failure::new(Kind::Input, e))
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Waits, unless the action is cancelled meanwhile.
    fn pause(&self, time: Duration) -> Result<(), Failure> {
        let slice = Duration::from_millis(50);
        let mut left = time;
        loop {
            if self.is_cancelled() {
                return Err(Failure::new(Kind::Cancelled, "cancelled"));
            }
            let Some(rest) = left.checked_sub(slice) else {
                std::thread::sleep(left);
                return Ok(());
            };
            std::thread::sleep(slice);
            left = rest;
        }
    }
}

/// A failure out of libvirt's word, with its chain.
fn failure(error: &DomainError) -> Failure {
    Failure::from_chain(error.kind(), error)
}

#[cfg(test)]
mod tests;
