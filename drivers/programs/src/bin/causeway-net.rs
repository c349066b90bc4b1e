//! `causeway-net`: the network slots stand-alone, for the stock driver process, which starts one for each action. It never asks
//! libvirt, whose fifty libraries take longer to load than such a slot takes.

use std::process::ExitCode;

use anyhow::ensure;
use causeway_programs::host::slot::SlotWords;
use causeway_programs::start;
use clap::{Parser, Subcommand};

/// Causeway's program for networks on a host. Started by the wrappers in the slots.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Does one network slot's work: vnm/DRIVER/VERB and the arguments that the contract gives it.
    #[command(subcommand_value_name = "SLOT")]
    Slot(SlotWords),
}

fn main() -> ExitCode {
    start::end("causeway-net", run(Arguments::parse().command))
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    start::clean_nest()?;
    start::log_to(None);
    match command {
        Command::Slot(words) => {
            let slot = words.slot()?;
            ensure!(slot.family() == "vnm", "{slot} is no network slot: causeway-host does it");
            words.serve(false, start::no_libvirt)
        }
    }
}
