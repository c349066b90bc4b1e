//! `causeway measure`: watches migrations from outside.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use causeway_observe::measure::Measurement;
use causeway_observe::plan::Plan;
use causeway_observe::respond::Responder;
use clap::{Args, Subcommand};

/// Probes a guest while it moves, and writes CSV files and a page with plots.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Measure {
    #[command(subcommand)]
    command: Option<Command>,
    /// The plan: guest, probes, moves (TOML).
    #[arg(required = true)]
    plan: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Answers UDP and TCP probes at an address, until it is stopped.
    Respond {
        /// Address and port for both.
        address: SocketAddr,
    },
}

/// Runs the command. SIGINT and SIGTERM end it early; what was seen until then is written.
///
/// # Errors
/// A plan that makes no sense, a guest that does not answer, results that can't be written.
pub fn run(arguments: Measure) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    if let Some(Command::Respond { address }) = arguments.command {
        Responder::bind(address)?.serve(&stop)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Some(plan) = &arguments.plan else { anyhow::bail!("no plan") };
    Measurement::new(Plan::read(plan)?).stop(&stop).run(&mut |progress| eprintln!("{progress}"))?;
    Ok(ExitCode::SUCCESS)
}
