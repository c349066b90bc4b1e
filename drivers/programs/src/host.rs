//! The host's side: the resident, the stand-alone slots, and the children that touch file systems.

pub mod breakpoint;
mod disks;
pub mod files;
pub mod guard;
mod machine;
pub mod network;
pub mod resident;
mod saved;
pub mod settings;
pub mod slot;
pub mod turn;
pub mod work;

use std::path::PathBuf;
use std::time::Duration;

/// How a host program was started.
#[derive(Debug, Clone)]
pub struct Options {
    /// `SCRIPTS_REMOTE_DIR`: where the slots are.
    pub remotes: PathBuf,
    /// Our own state, the user's part of it.
    pub state: PathBuf,
    /// libvirt on this host; `LIBVIRT_URI` of `kvmrc` where it is not given.
    pub uri: Option<String>,
    /// Starts causeway-root.
    pub root: Vec<String>,
    /// Whether this process was started with a forwarded agent, for one action.
    pub delegated: bool,
    /// How long a resident takes its driver for there without a word.
    pub lease: Duration,
    /// Our own settings on this host.
    pub settings: PathBuf,
    /// Where a test holds exchanges.
    pub breakpoints: Option<PathBuf>,
}
