//! `causeway net`: the networks of this host's guests.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_core::names::RequestId;
use causeway_core::settings::{NetworkConf, read_file};
use causeway_vnm::root::client::COMMAND;
use causeway_vnm::root::{Outcome, Reconcile, RootClient};
use clap::{Args, Subcommand};

/// How long the privileged side may take to start.
const START: Duration = Duration::from_secs(10);

/// Looks after the networks of this host's guests.
#[derive(Args)]
pub struct Net {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes bridges, ports, flows and rules again that Open vSwitch, the firewall or the host's network has lost, and removes
    /// what belongs to no VM. Exits with 1 if something could not be brought back.
    Reconcile {
        /// Prints what would be done.
        #[arg(long)]
        dry_run: bool,
        /// The drivers' settings on this host.
        #[arg(long, default_value = "/var/tmp/one/etc/vnm/OpenNebulaNetwork.conf")]
        configuration: PathBuf,
        /// Seconds that it may take.
        #[arg(long, default_value_t = 120)]
        deadline: u64,
        /// The privileged side, as a test starts it.
        #[arg(long, hide = true, num_args = 1.., default_values = COMMAND)]
        root: Vec<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// Settings that can't be read, or a privileged side that does not answer.
pub fn run(arguments: Net) -> anyhow::Result<ExitCode> {
    let Command::Reconcile { dry_run, configuration, deadline, root } = arguments.command;
    let conf = match read_file(&configuration)? {
        Some(text) => NetworkConf::parse(&configuration.display().to_string(), &text)?,
        None => NetworkConf::default(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    let id = RequestId::new(now, std::process::id(), 0);
    let ask = Reconcile { reconcile: id, settings: (&conf).into(), dry_run };
    let response = RootClient::start(&root, START)?.reconcile(&ask, Duration::from_secs(deadline))?;
    response.changes.iter().for_each(|change| println!("{change}"));
    response.notes.iter().for_each(|note| eprintln!("causeway: {note}"));
    match response.outcome {
        Outcome::Failed(failure) => anyhow::bail!("{failure}"),
        Outcome::Done if response.notes.is_empty() => Ok(ExitCode::SUCCESS),
        Outcome::Done => Ok(ExitCode::FAILURE),
    }
}
