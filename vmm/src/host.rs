//! What our own `vmm/kvm` slots do on a host.
//!
//! Each verb takes the argv and standard input of the stock script in its slot, so that the same code serves the
//! resident and the stand-alone executable. Calls block: the resident gives each its own thread.

mod clock;
mod deploy;
mod machine;
mod migrate;
mod sighting;
mod snapshots;
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

pub use clock::sync_clock;
pub use machine::{Helper, Later, Machine};
pub use sighting::{settle, sighting};

/// The verbs that are built. `depart`, `stay` and `arrive` are our own: what the stock `migrate` does before and after
/// the move itself, as steps of the plan, each on the host that it concerns.
pub const BUILT: [&str; 7] = ["deploy", "shutdown", "cancel", "migrate", "depart", "stay", "arrive"];

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
    /// Reads the snapshots' metadata that lie in the VM directory as `snap-<id>.xml`.
    Snapshots {
        /// The VM directory.
        directory: DiskPath,
    },
    /// Writes snapshots' metadata to the VM directory, each under its name; mode 0600.
    KeepSnapshots {
        /// The VM directory.
        directory: DiskPath,
        /// Names, `snap-<id>`, and metadata.
        snapshots: Vec<(String, String)>,
        /// The name of the current one, which the metadata do not tell; without one, what was written last stays.
        current: Option<String>,
    },
    /// Sees to it that an emulated TPM's state lies in the VM directory, made from the VM's template if it is not there
    /// yet and `vm.xml` has it in `USER_TEMPLATE/TPM_STATE` (contract VMM 3.3, deploy step 6).
    TpmState {
        /// The VM directory.
        directory: DiskPath,
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
    /// Snapshots' metadata, the oldest first.
    Snapshots {
        /// Their texts.
        saved: Vec<String>,
        /// The name of the one that was current when they were kept.
        current: Option<String>,
    },
    /// Whether it is there.
    There(bool),
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
    /// The machine.
    pub machine: &'a (dyn Machine + Sync),
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
        "depart" => snapshots::depart(call),
        "stay" => snapshots::stay(call),
        "arrive" => snapshots::arrive(call),
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

    fn directory(&self, index: usize) -> Result<DiskPath, Failure> {
        self.text(index, "VM directory")?.parse().map_err(|e| Failure::new(Kind::Input, e))
    }

    fn host(&self, index: usize) -> Result<HostName, Failure> {
        self.text(index, "host")?.parse().map_err(|e| Failure::new(Kind::Input, e))
    }

    fn vm(&self, index: usize) -> Result<VmId, Failure> {
        self.text(index, "VM id")?.parse().map_err(|e| Failure::new(Kind::Input, e))
    }

    /// Gives the machine's memory back, where the admin wants that (contract VMM 3.1). Nothing depends on it.
    fn compact_memory(&self, wanted: bool) {
        if wanted && let Err(failure) = self.machine.compact_memory() {
            (self.log)(Severity::Warning, &format!("the host's memory was not compacted: {failure}"));
        }
    }

    /// Has a helper of the stock release do its work, where there is one; its failure is told and no more (contract
    /// VMM 3.5).
    fn help(&self, helper: &Helper) {
        if let Err(failure) = self.machine.help(helper) {
            (self.log)(Severity::Warning, &format!("{helper}: {failure}"));
        }
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
