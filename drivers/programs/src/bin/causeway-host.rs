//! `causeway-host`: the resident on a host, every slot stand-alone, and the children that touch file systems.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use causeway_core::answer::one_line;
use causeway_core::names::DeployId;
use causeway_core::reach::wire::LEASE;
use causeway_programs::host::{Options, files, guard, resident, settings, slot::SlotRun, work};
use causeway_programs::{start, storage};
use causeway_tm::carry::End;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Causeway's program on a host. Started over ssh by the driver processes, and by the wrappers in the slots.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves a driver process on the standard streams.
    Resident {
        #[command(flatten)]
        place: Where,
        /// The session forwards an agent: migrations are driven from here.
        #[arg(long)]
        delegated: bool,
    },
    /// Does one slot's work: FAMILY/DRIVER/VERB and the arguments that the contract gives it.
    #[command(subcommand_value_name = "SLOT")]
    Slot {
        #[command(flatten)]
        place: Where,
        /// Prints what would be done.
        #[arg(long)]
        dry_run: bool,
        #[command(subcommand)]
        call: Call,
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
    /// Answers file requests on the standard streams. Started by the other two.
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
    /// Lets a guest run again that was brought to rest, when whoever started this says so no more. Started by the
    /// resident.
    #[command(hide = true)]
    Guard {
        /// libvirt on this host.
        #[arg(long)]
        uri: String,
        /// The guest.
        id: DeployId,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Direction {
    Send,
    Receive,
}

/// A slot such as vmm/kvm/deploy, and its own arguments, none of which is an option of ours.
#[derive(Subcommand)]
enum Call {
    #[command(external_subcommand)]
    Words(Vec<String>),
}

#[derive(Args)]
struct Where {
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
    fn options(self, delegated: bool) -> Options {
        Options {
            remotes: self.remotes,
            state: self.state,
            uri: self.uri,
            root: self.root.split_whitespace().map(str::to_owned).collect(),
            delegated,
            lease: self.lease.map_or(LEASE, Duration::from_secs),
            settings: self.settings,
            breakpoints: self.breakpoints,
        }
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("causeway-host: {}", one_line(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    start::clean_nest()?;
    start::log_to(None);
    match command {
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
        Command::Guard { uri, id } => guard::serve(&uri, &id)?,
        Command::Resident { place, delegated } => {
            start::run_local(resident::serve(place.options(delegated)))??;
        }
        Command::Slot { place, dry_run, call: Call::Words(words) } => {
            let (slot, argv) = words.split_first().context("no slot, such as vmm/kvm/deploy")?;
            let call = SlotRun { slot: slot.parse()?, argv: argv.to_vec(), dry_run };
            if call.dry_run {
                println!("{}", call.describe());
                return Ok(ExitCode::SUCCESS);
            }
            // The session that the stock driver process starts a migration in forwards the agent.
            match start::run_local(call.run(&place.options(!work::has_certificates())))?? {
                Ok(output) if output.is_empty() => {}
                Ok(output) => println!("{output}"),
                Err(failure) => {
                    // One unmarked line: the stock engine makes it the user's error (contract VMM 2.3 step 7).
                    eprintln!("{}", one_line(&failure.text));
                    return Ok(ExitCode::from(failure.kind.exit_code()));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
