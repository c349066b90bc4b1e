//! The host's side: the resident, the stand-alone slots, and the children that touch file systems.

pub mod breakpoint;
mod disks;
pub mod files;
pub mod guard;
mod guests;
mod machine;
pub mod network;
mod place;
pub mod resident;
mod saved;
mod services;
pub mod settings;
pub mod slot;
pub mod turn;
pub mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway_domain::{DomainError, Hypervisor};

pub use place::Where;

/// The program that works on guests, networks and disks.
pub const HOST: &str = "causeway-host";
/// The program that works on disks, and is started in a tenth of that one's time.
pub const DISKS: &str = "causeway-disks";

/// Opens a client of libvirt at a URI.
pub type Connect = fn(&str) -> Result<Arc<dyn Hypervisor>, DomainError>;

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
    /// How libvirt is reached.
    pub connect: Connect,
    /// Whether this process was started with a forwarded agent, for one action.
    pub delegated: bool,
    /// How long a resident takes its driver for there without a word.
    pub lease: Duration,
    /// Our own settings on this host.
    pub settings: PathBuf,
    /// Where a test holds exchanges.
    pub breakpoints: Option<PathBuf>,
}
