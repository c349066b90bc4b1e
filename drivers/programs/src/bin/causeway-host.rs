//! `causeway-host`: the resident on a host, and every slot stand-alone.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use causeway_core::answer::one_line;
use causeway_core::names::DeployId;
use causeway_domain::{DomainError, Hypervisor, Libvirt};
use causeway_programs::host::{Where, guard, resident, slot::SlotRun, work};
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
    Slot {
        #[command(flatten)]
        place: Where,
        /// Prints what would be done.
        #[arg(long)]
        dry_run: bool,
        #[command(subcommand)]
        call: Call,
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

/// A slot such as vmm/kvm/deploy, and its own arguments, none of which is an option of ours.
#[derive(Subcommand)]
enum Call {
    #[command(external_subcommand)]
    Words(Vec<String>),
}

fn libvirt(uri: &str) -> Result<Arc<dyn Hypervisor>, DomainError> {
    Ok(Arc::new(Libvirt::connect(uri)?))
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
        Command::Guard { uri, id } => guard::serve(&uri, &id)?,
        Command::Resident { place, delegated } => {
            start::run_local(resident::serve(place.options(delegated, libvirt)))??;
        }
        Command::Slot { place, dry_run, call: Call::Words(words) } => {
            let (slot, argv) = words.split_first().context("no slot, such as vmm/kvm/deploy")?;
            let call = SlotRun { slot: slot.parse()?, argv: argv.to_vec(), dry_run };
            if call.dry_run {
                println!("{}", call.describe());
                return Ok(ExitCode::SUCCESS);
            }
            // The session that the stock driver process starts a migration in forwards the agent.
            match start::run_local(call.run(&place.options(!work::has_certificates(), libvirt)))?? {
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
