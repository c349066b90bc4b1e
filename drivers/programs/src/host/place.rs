//! The command line that the host's programs have in common.

use std::path::PathBuf;
use std::time::Duration;

use causeway_core::reach::wire::LEASE;
use clap::Args;

use super::{Connect, Options};

/// What a program of a host is told on its command line, or finds in its environment.
#[derive(Args)]
pub struct Where {
    /// The directory that holds the slots (SCRIPTS_REMOTE_DIR).
    #[arg(long, env = "CAUSEWAY_REMOTES", default_value = "/var/tmp/one")]
    remotes: PathBuf,
    /// Our state on this host, the unprivileged user's part.
    #[arg(long, env = "CAUSEWAY_STATE", default_value = "/var/lib/causeway")]
    state: PathBuf,
    /// libvirt on this host; LIBVIRT_URI of kvmrc if not given.
    #[arg(long, env = "CAUSEWAY_LIBVIRT_URI")]
    uri: Option<String>,
    /// Starts causeway-root; blanks separate the words.
    #[arg(long, env = "CAUSEWAY_ROOT", default_value = "sudo -n /usr/libexec/causeway/causeway-root")]
    root: String,
    /// Seconds without a word of the driver after which a resident takes it for gone, for tests.
    #[arg(long, env = "CAUSEWAY_LEASE", hide = true)]
    lease: Option<u64>,
    /// Our own settings.
    #[arg(long, env = "CAUSEWAY_SETTINGS", default_value = "/etc/causeway/causeway.toml")]
    settings: PathBuf,
    /// Holds exchanges at the points that files in this directory name, for tests.
    #[arg(long, env = "CAUSEWAY_BREAKPOINTS", hide = true)]
    breakpoints: Option<PathBuf>,
}

impl Where {
    /// These, in a process that was started so.
    pub fn options(self, delegated: bool, connect: Connect) -> Options {
        Options {
            remotes: self.remotes,
            state: self.state,
            uri: self.uri,
            root: self.root.split_whitespace().map(str::to_owned).collect(),
            delegated,
            connect,
            lease: self.lease.map_or(LEASE, Duration::from_secs),
            settings: self.settings,
            breakpoints: self.breakpoints,
        }
    }
}
