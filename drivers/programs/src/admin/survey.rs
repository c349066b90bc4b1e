//! `causeway survey`: measures, before a move, what the model must know.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use causeway_core::names::DeployId;
use causeway_domain::{Hypervisor, Libvirt};
use causeway_predict::tuning::Tuning;
use causeway_survey::curve::{self, DirtyCurve, dirty_curve};
use causeway_survey::guest::{GuestFacts, guest_facts};
use causeway_survey::path::{Limits, Sink, Throughput, Token, send};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

/// Measures a guest and a path before a migration.
#[derive(Args)]
pub struct Survey {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// On the guest's host: its memory, and how fast it writes to it.
    Guest {
        /// UUID or one-<VM id>.
        id: DeployId,
        /// libvirt on this host.
        #[arg(long, default_value = "qemu:///system")]
        uri: String,
        /// Pages looked at for being zero.
        #[arg(long, default_value_t = 512)]
        pages: u32,
    },
    /// On the destination: takes one trial stream from whoever knows the token on standard input.
    Sink {
        /// Where to listen.
        address: SocketAddr,
    },
    /// On the source: sends a trial stream to a sink; the token is read from standard input.
    Send {
        /// The sink.
        address: SocketAddr,
    },
    /// On the destination: what libvirt measured of the guest's last migration.
    Job {
        /// UUID or one-<VM id>.
        id: DeployId,
        /// libvirt on this host.
        #[arg(long, default_value = "qemu:///system")]
        uri: String,
    },
    /// Prints a new token for one trial.
    Token,
    /// Puts what was measured together, in the form that `causeway predict` takes.
    Facts {
        /// What `survey guest` printed.
        #[arg(long)]
        guest: PathBuf,
        /// What `survey send` printed.
        #[arg(long)]
        path: PathBuf,
        /// The bandwidth that will be set on the migration, MiB per second.
        #[arg(long, value_name = "MIB")]
        cap: Option<u32>,
        /// Settings and constants of the pair of hosts (JSON); the model's own if not given.
        #[arg(long)]
        tuning: Option<PathBuf>,
    },
}

#[derive(Serialize, Deserialize)]
struct Guest {
    guest: GuestFacts,
    curve: DirtyCurve,
}

/// Runs the command.
///
/// # Errors
/// libvirt, the network or a file said no.
pub fn run(arguments: Survey) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Guest { id, uri, pages } => {
            let libvirt = Libvirt::connect(&uri)?;
            let guest = guest_facts(&libvirt, &id, pages)?;
            let plan = curve::Plan::default();
            let curve = dirty_curve(&libvirt, &id, guest.emulator, guest.ram_bytes, &plan)?;
            super::print_json(&Guest { guest, curve })?;
        }
        Command::Job { id, uri } => super::print_json(&Libvirt::connect(&uri)?.completed_job(&id)?)?,
        Command::Sink { address } => {
            let sink = Sink::bind(address, token()?, Limits::default())?;
            // Whoever started this waits for the address: with port 0 only the kernel knew it.
            println!("{}", sink.address());
            sink.serve()?;
        }
        Command::Send { address } => super::print_json(&send(address, &token()?, Limits::default())?)?,
        Command::Token => println!("{}", String::from(Token::random()?)),
        Command::Facts { guest, path, cap, tuning } => {
            let Guest { guest, curve } = super::read_json(&guest)?;
            let path: Throughput = super::read_json(&path)?;
            let tuning =
                tuning.map(|file| super::read_json::<Tuning>(&file)).transpose()?.unwrap_or_default();
            let cap = cap.map(|mib| f64::from(mib) * 1_048_576.0);
            super::print_json(&causeway_survey::facts(&guest, &curve, &path, cap, tuning))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The token on standard input: not an argument, for those are shown to every user of the host.
fn token() -> anyhow::Result<Token> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim().parse()?)
}
