//! What a verb needs of the machine it runs on, besides libvirt and the VM directory.

use std::fmt;
use std::sync::Arc;

use causeway_core::answer::Failure;
use causeway_core::names::{DeployId, DiskPath};
use causeway_domain::Hypervisor;

/// A root helper of the stock release, by its contract (VMM 3.5). Their places, `vgpu` and `vtpm_setup` at the root of
/// the remotes, stand in the stock sudo rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Helper {
    /// `vgpu CREATE`: virtual GPUs for the PCI devices of the VM document in that file.
    CreateGpus(DiskPath),
    /// `vgpu DELETE`.
    DeleteGpus(DiskPath),
    /// `vtpm_setup backup`: the TPM's state of the domain with this UUID, from libvirt's directory to the VM's.
    BackupTpm(DeployId, DiskPath),
    /// `vtpm_setup recover`: the other way.
    RecoverTpm(DeployId, DiskPath),
}

impl Helper {
    /// The helper's name at the root of the remotes.
    pub fn name(&self) -> &'static str {
        match self {
            Helper::CreateGpus(_) | Helper::DeleteGpus(_) => "vgpu",
            Helper::BackupTpm(..) | Helper::RecoverTpm(..) => "vtpm_setup",
        }
    }

    /// Its arguments.
    pub fn argv(&self) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        match self {
            Helper::CreateGpus(file) => words(&["CREATE", file.as_str()]),
            Helper::DeleteGpus(file) => words(&["DELETE", file.as_str()]),
            Helper::BackupTpm(uuid, directory) => words(&["backup", uuid.as_str(), directory.as_str()]),
            Helper::RecoverTpm(uuid, directory) => words(&["recover", uuid.as_str(), directory.as_str()]),
        }
    }
}

/// As a line of a log names it: `vgpu CREATE`.
impl fmt::Display for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.argv().first().map_or("", String::as_str))
    }
}

/// Work that nobody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Later {
    /// [`sync_clock`](super::sync_clock) of this guest, on this host.
    SyncClock(DeployId),
}

/// The machine.
pub trait Machine {
    /// Drops the kernel's caches and compacts its memory.
    ///
    /// # Errors
    /// The privileged program refuses or does not answer.
    fn compact_memory(&self) -> Result<(), Failure>;

    /// Runs a helper to its end; nothing happens where the host has none of that name.
    ///
    /// # Errors
    /// It can't be started, fails, or does not end in time.
    fn help(&self, helper: &Helper) -> Result<(), Failure>;

    /// Has something done once the verb has ended, if this process lives on; whatever becomes of it.
    fn later(&self, work: Later);

    /// The other host's libvirt, for a verb that no plan is around: it does there itself what a plan has a step for.
    /// None for a verb that is a step of a plan.
    ///
    /// # Errors
    /// That libvirt can't be reached.
    fn peer(&self, uri: &str) -> Option<Result<Arc<dyn Hypervisor>, Failure>>;
}
