//! Stands between a driver process and a script of somebody else's on the front-end.
//!
//! ```text
//! driver ── starts ──> guard, leader of a process group ── starts ──> the script, in the same group
//!    │                    │
//!    └ dies ── SIGTERM ──>└ kills the group
//! ```
//!
//! The driver kills the group itself at a deadline or a cancel. When the driver is killed, nobody would: the script
//! would go on beside the one that the next process starts in its place (contract TM 6.3, W35, W54). A process that the
//! script leaves behind when it ends by itself is left alone.
//!
//! It also gives the script what the stock driver's wrapper does (contract TM 1.1): the variables of the two `rc` files,
//! the working directory and the priority.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use causeway_core::answer::{Failure, Kind};
use rustix::process::{
    Signal, getpid, getppid, kill_current_process_group, set_parent_process_death_signal, setpriority_process,
};
use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

/// The word that makes a driver's executable a guard.
pub const WORD: &str = "guard";

/// What a shell answers for a program that can't be started.
const NOT_STARTED: u8 = 127;

/// What a script is given besides its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Surroundings {
    /// `/var/lib/one`; none leaves it as it is.
    pub directory: Option<PathBuf>,
    /// Variables of `defaultrc`, and of `tmrc` or `vmm_execrc`.
    pub variables: BTreeMap<String, String>,
    /// `PRIORITY`: how much it yields to others, 0 to 19.
    pub niceness: i32,
}

#[derive(Serialize, Deserialize)]
struct Order {
    /// The driver: a guard that is started when it has gone already must not wait for its death.
    parent: i32,
    surroundings: Surroundings,
}

/// The program and the arguments that run `script` under a guard of this process.
///
/// # Errors
/// A path that is not UTF-8.
pub fn guarded(
    script: &Path,
    argv: &[String],
    surroundings: &Surroundings,
) -> Result<(PathBuf, Vec<String>), Failure> {
    let order = Order { parent: getpid().as_raw_nonzero().get(), surroundings: surroundings.clone() };
    let order = serde_json::to_string(&order).map_err(|e| Failure::new(Kind::Bug, e))?;
    let script = script.to_str().ok_or_else(|| {
        Failure::new(Kind::Input, format!("{} is not a path that can be passed on", script.display()))
    })?;
    let mut words = vec![WORD.to_owned(), order, script.to_owned()];
    words.extend_from_slice(argv);
    // This very program, also while an upgrade has put another one into its place.
    Ok((PathBuf::from("/proc/self/exe"), words))
}

/// The guard's life: `words` are those after [`WORD`]. Returns the script's exit code.
///
/// # Errors
/// Words that are none of [`guarded`], or the kernel refuses something.
pub fn serve(words: &[String]) -> anyhow::Result<u8> {
    let [order, script, argv @ ..] = words else { anyhow::bail!("{WORD} is for our own use") };
    let Order { parent, surroundings } = serde_json::from_str(order)?;
    let mut signals = Signals::new([SIGTERM])?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            // This process too.
            let _ = kill_current_process_group(Signal::KILL);
        }
    });
    set_parent_process_death_signal(Some(Signal::TERM))?;
    if getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent) {
        anyhow::bail!("the driver process has gone");
    }
    // A priority that is not ours to give up is no reason not to work.
    let _ = setpriority_process(None, surroundings.niceness.clamp(0, 19));
    match start(script, argv, &surroundings) {
        Ok(status) => Ok(code_of(status)),
        Err(error) => {
            eprintln!("cannot start {script}: {error}");
            Ok(NOT_STARTED)
        }
    }
}

fn start(script: &str, argv: &[String], surroundings: &Surroundings) -> io::Result<ExitStatus> {
    let prepared = |mut command: Command| {
        command.envs(&surroundings.variables);
        if let Some(directory) = &surroundings.directory {
            command.current_dir(directory);
        }
        command
    };
    let mut command = Command::new(script);
    command.args(argv);
    match prepared(command).status() {
        // A script without a first line that names its interpreter: the stock driver starts it by a shell, which then
        // reads it itself.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            let mut command = Command::new("/bin/sh");
            command.arg(script).args(argv);
            prepared(command).status()
        }
        other => other,
    }
}

/// As a shell says it: 128 and the signal's number for one that was killed.
fn code_of(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
