//! `causeway-disks`: what works on disks and never asks libvirt, whose fifty libraries take longer to load than most of
//! this work takes: the children of a resident, both ends of a stream, and the resident of a storage slot's one call.

use std::path::PathBuf;
use std::process::ExitCode;

use causeway_core::answer::one_line;
use causeway_programs::host::{Where, files, resident, settings};
use causeway_programs::{start, storage};
use causeway_tm::carry::End;
use clap::{Parser, Subcommand, ValueEnum};

/// Causeway's program for disks on a host. Started over ssh by the driver processes, and by causeway-host.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves one call of a slot on the standard streams.
    Resident {
        #[command(flatten)]
        place: Where,
    },
    /// One end of a move of a VM's directory, on the standard streams. Started over ssh by the other end.
    #[command(hide = true)]
    Carry {
        /// What is done here.
        end: Direction,
        /// Our state on this host.
        #[arg(long, env = "CAUSEWAY_STATE", default_value = "/var/lib/causeway")]
        state: PathBuf,
    },
    /// Makes an image of what comes on standard input. Started over ssh by causeway-tm.
    #[command(hide = true)]
    Receive {
        /// Our state on this host, the unprivileged user's part.
        #[arg(long, env = "CAUSEWAY_STATE", default_value = "/var/lib/causeway")]
        state: PathBuf,
        /// Our own settings.
        #[arg(long, env = "CAUSEWAY_SETTINGS", default_value = "/etc/causeway/causeway.toml")]
        settings: PathBuf,
    },
    /// Sends an image that is asked for on standard input. Started over ssh by causeway-tm.
    #[command(hide = true)]
    Send {
        /// Our state on this host, the unprivileged user's part.
        #[arg(long, env = "CAUSEWAY_STATE", default_value = "/var/lib/causeway")]
        state: PathBuf,
        /// Our own settings.
        #[arg(long, env = "CAUSEWAY_SETTINGS", default_value = "/etc/causeway/causeway.toml")]
        settings: PathBuf,
    },
    /// Answers file requests on the standard streams. Started by residents.
    #[command(hide = true)]
    Worker {
        /// Our state on this host.
        #[arg(long)]
        state: PathBuf,
    },
    /// Does one call within limits that it was started with. Started by a worker.
    #[command(hide = true)]
    Confined {
        /// Our state on this host.
        #[arg(long)]
        state: PathBuf,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Direction {
    Send,
    Receive,
}

fn main() -> ExitCode {
    start::end("causeway-disks", run(Arguments::parse().command))
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    start::clean_nest()?;
    start::log_to(None);
    match command {
        Command::Resident { place } => {
            start::run_local(resident::serve(place.options(false, start::no_libvirt)))??;
        }
        Command::Worker { state } => files::serve(&state)?,
        Command::Confined { state } => storage::serve_confined(&state)?,
        Command::Carry { end, state } => {
            let end = match end {
                Direction::Send => End::Source,
                Direction::Receive => End::Destination,
            };
            if let Err(failure) = storage::serve_carry(end, &state) {
                // Whoever started us was told on the stream.
                return Ok(ExitCode::from(failure.kind.exit_code()));
            }
        }
        Command::Receive { state, settings: path } => storage::receive(&state, &settings::causeway(&path)?)?,
        Command::Send { state, settings: path } => {
            if let Err(failure) = storage::send(&state, &settings::causeway(&path)?) {
                // The last line is what whoever asked is told.
                eprintln!("{}", one_line(&failure.text));
                return Ok(ExitCode::from(failure.kind.exit_code()));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
