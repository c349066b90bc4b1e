//! `bench-drivers`: what a driver process costs per action.
//!
//! Table 1 gives the stock driver and ours the same no-op scripts in all slots: what is measured is the driver and its
//! way to the host. Table 2 has our own steps in the slots, on libvirt's test driver. Everything runs on this machine,
//! over a real sshd on loopback.

mod contender;
mod figures;
mod requests;

use std::path::PathBuf;
use std::process::ExitCode;

use causeway_suite::front_end::FrontEnd;
use clap::Parser;

use contender::Contender;

/// Measures the driver process and prints the tables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The sources of OpenNebula 7.4: adds the stock driver to table 1.
    #[arg(long, env = "STOCK")]
    stock: Option<PathBuf>,
    /// Actions of each kind.
    #[arg(long, default_value_t = 20)]
    repeat: u32,
    /// DEPLOYs at once in table 2.
    #[arg(long, default_value_t = 1000)]
    burst: u32,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-drivers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // All sites stay until the end: while ext4 has many files newly removed, making one is slow.
    let (site, beside) = (FrontEnd::new()?, FrontEnd::new()?);
    println!("Table 1: the same no-op scripts in every slot, over loopback sshd");
    let ours = figures::foreign(&Contender::Ours, &site, arguments.repeat, 100)?;
    let stock = match &arguments.stock {
        Some(sources) => {
            let stock = Contender::Stock(sources.clone());
            Some(figures::foreign(&stock, &beside, arguments.repeat, 100)?)
        }
        None => {
            println!("(STOCK names no stock driver: ours alone)");
            None
        }
    };
    figures::print(&ours, stock.as_ref());
    println!("\nTable 2: our own steps, libvirt's test driver");
    let site = FrontEnd::with_libvirt("test:///default")?;
    figures::print(&figures::built_in(&site, arguments.repeat, arguments.burst)?, None);
    Ok(())
}
