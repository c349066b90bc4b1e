//! Settings: the administrator's files as typed values, read without a shell.
//!
//! | File | Where | Type |
//! |---|---|---|
//! | `etc/vmm/kvm/kvmrc` | hosts, below the remotes | [`Kvmrc`] |
//! | `etc/vnm/OpenNebulaNetwork.conf` | hosts, below the remotes | [`NetworkConf`] |
//! | `/etc/one/vmm_exec/vmm_execrc` | front-end | [`VmmExecrc`] |
//! | `/etc/one/tmrc`, `/etc/one/defaultrc` | front-end | [`ShellRc`] |
//! | `/var/lib/one/config` | front-end, written by oned | [`OneConfig`] |
//! | `causeway.toml` | both | [`Causeway`] |
//!
//! Promises:
//! * Parsing is pure: text in, values or an error out that names file, setting, value and accepted form.
//! * A setting that is absent or empty has the meaning that it has for the stock programs.
//! * A file that is broken is an error, not a fall-back to defaults.
//! * What counts where several files have a say is one function, [`layered`].

mod causeway;
mod error;
mod front_end;
mod kvmrc;
mod layers;
mod network;
mod shell_rc;
mod yaml;

pub use causeway::{Carry, Causeway, Copies, Deadlines, KvmOverrides, Migration, Seconds, Transport};
pub use error::{SettingsError, read_file};
pub use front_end::{OneConfig, VmmExecrc};
pub use kvmrc::{DefaultAttach, Kvmrc};
pub use layers::{Effective, layered};
pub use network::{NetworkConf, TproxyService};
pub use shell_rc::ShellRc;
