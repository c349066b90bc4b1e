//! `causeway net`: the networks of this host's guests.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_core::names::RequestId;
use causeway_core::settings::{NetworkConf, read_file};
use causeway_vnm::root::client::COMMAND;
use causeway_vnm::root::{Outcome, Reconcile, Response, RootClient};
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
        #[command(flatten)]
        host: Host,
    },
}

/// This host, as the drivers see it.
#[derive(Args)]
pub(super) struct Host {
    /// The drivers' settings on this host.
    #[arg(long, default_value = "/var/tmp/one/etc/vnm/OpenNebulaNetwork.conf")]
    configuration: PathBuf,
    /// Seconds that it may take.
    #[arg(long, default_value_t = 120)]
    deadline: u64,
    /// The privileged side, as a test starts it.
    #[arg(long, hide = true, num_args = 1.., default_values = COMMAND)]
    root: Vec<String>,
}

impl Host {
    /// Names requests of this process.
    fn id() -> RequestId {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        RequestId::new(now, std::process::id(), 0)
    }

    /// Has the host's networks compared with what is reserved, and brought back unless this is a dry run.
    pub(super) fn reconcile(&self, dry_run: bool) -> anyhow::Result<Response> {
        let conf = match read_file(&self.configuration)? {
            Some(text) => NetworkConf::parse(&self.configuration.display().to_string(), &text)?,
            None => NetworkConf::default(),
        };
        let ask = Reconcile { reconcile: Host::id(), settings: (&conf).into(), dry_run };
        let mut root = RootClient::start(&self.root, START)?;
        answered(root.reconcile(&ask, Duration::from_secs(self.deadline))?)
    }

    /// Has it inspected for what is not ours and may hinder guests.
    pub(super) fn inspect(&self) -> anyhow::Result<Response> {
        let mut root = RootClient::start(&self.root, START)?;
        answered(root.inspect(&Host::id(), Duration::from_secs(self.deadline))?)
    }
}

fn answered(response: Response) -> anyhow::Result<Response> {
    match response.outcome {
        Outcome::Failed(failure) => anyhow::bail!("{failure}"),
        Outcome::Done => Ok(response),
    }
}

/// Runs the command.
///
/// # Errors
/// Settings that can't be read, or a privileged side that does not answer.
pub fn run(arguments: Net) -> anyhow::Result<ExitCode> {
    let Command::Reconcile { dry_run, host } = arguments.command;
    let response = host.reconcile(dry_run)?;
    response.changes.iter().for_each(|change| println!("{change}"));
    response.notes.iter().for_each(|note| eprintln!("causeway: {note}"));
    Ok(if response.notes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
