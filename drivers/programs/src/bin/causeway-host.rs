//! `causeway-host`: the resident on a host, and every slot stand-alone.

use std::process::ExitCode;
use std::sync::Arc;

use causeway_core::names::DeployId;
use causeway_domain::{DomainError, Hypervisor, Libvirt};
use causeway_programs::host::{Where, guard, resident, slot::SlotWords, work};
use causeway_programs::start;
use clap::{Parser, Subcommand};

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
    Slot(SlotWords),
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

fn libvirt(uri: &str) -> Result<Arc<dyn Hypervisor>, DomainError> {
    Ok(Arc::new(Libvirt::connect(uri)?))
}

fn main() -> ExitCode {
    start::end("causeway-host", run(Arguments::parse().command))
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    start::clean_nest()?;
    start::log_to(None);
    match command {
        Command::Guard { uri, id } => guard::serve(&uri, &id)?,
        Command::Resident { place, delegated } => {
            start::run_local(resident::serve(place.options(delegated, libvirt)))??;
        }
        // The session that the stock driver process starts a migration in forwards the agent.
        Command::Slot(words) => return words.serve(!work::has_certificates(), libvirt),
    }
    Ok(ExitCode::SUCCESS)
}
