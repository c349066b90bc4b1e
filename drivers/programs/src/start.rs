//! A process of ours begins in a hostile nest: oned leaves nearly every signal blocked and descriptors of its own open
//! (contract VMM 1.1). The closed descriptor 2 is the one thing that needs no care: the Rust runtime opens the null
//! device in its place before `main`.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use causeway_core::answer::one_line;
use causeway_domain::{Cause, DomainError, Hypervisor, Operation};
use nix::sys::signal::SigSet;
use tracing_subscriber::EnvFilter;

/// Unblocks all signals and closes every descriptor but the standard three. Call it first, while there is one thread:
/// children and threads inherit the mask.
///
/// # Errors
/// The kernel refused to set the mask or to list the descriptors.
pub fn clean_nest() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    let listing: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in listing {
        // The listing's own descriptor is among them and is closed already.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// Sends the log to `file`, or to standard error where none is named or it can't be opened: a log that can't be written
/// is no reason for a driver not to start. `CAUSEWAY_LOG` sets the levels, as in
/// `debug` or `causeway_core=debug,info`; the default is warnings.
pub fn log_to(file: Option<&Path>) {
    let filter = EnvFilter::try_from_env("CAUSEWAY_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match file.and_then(|path| OpenOptions::new().create(true).append(true).open(path).ok()) {
        Some(file) => subscriber.with_writer(std::sync::Mutex::new(file)).init(),
        None => subscriber.with_writer(io::stderr).init(),
    }
}

/// Runs `future` on a runtime of one thread, with a place for tasks that stay on it.
///
/// # Errors
/// The runtime can't be built.
pub fn run_local<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    Ok(tasks.block_on(&runtime, future))
}

/// How a program ends: what it failed of is its last line on standard error, which is what whoever started it is told.
pub fn end(program: &str, result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("{program}: {}", one_line(&format!("{error:#}")));
        ExitCode::FAILURE
    })
}

/// Instead of libvirt's client, for programs that start sooner without: whoever has work on a guest starts `causeway-host`.
///
/// # Errors
/// Always.
pub fn no_libvirt(_uri: &str) -> Result<Arc<dyn Hypervisor>, DomainError> {
    let cause = Cause::Input("this program knows no guest: causeway-host does".to_owned());
    Err(DomainError::new(Operation::Connect, "libvirt", cause))
}
