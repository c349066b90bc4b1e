//! `bench-network`: what the network driver costs above the datapath's own floor, and beside the stock scripts.
//!
//! Every case has a network, mounts and an Open vSwitch of its own. Four ways of ours (the kept connection of a resident,
//! `causeway-root` for one request, the slot as the stock driver process starts it) and stock's go through `pre`, `post`
//! and `clean` one after the other; the floor is the very changes that ours makes, worked out beforehand and applied by
//! hand.

mod case;
mod floor;
mod growth;
mod once;
mod ours;
mod site;
mod stock;
mod table;
mod tools;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use case::Standing;
use vm::Kind;

/// Measures the network driver and prints the tables. It needs root.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The sources of OpenNebula 7.4: adds the stock scripts.
    #[arg(long, env = "STOCK")]
    stock: Option<PathBuf>,
    /// How often each action is done.
    #[arg(long, default_value_t = 11)]
    repeat: u32,
    /// NICs on one host in the second table; 0 leaves it out.
    #[arg(long, default_value_t = 1000)]
    nics: u32,
    /// NICs of one VM in the second table: they come in one batch.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 50])]
    batches: Vec<u32>,
    /// Tells the best of all repetitions instead of the median: for a machine that is busy with other things.
    #[arg(long)]
    best: bool,
    /// Only these drivers: fw, vxlan, ovswitch.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

impl Arguments {
    fn wants(&self, kind: Kind) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == kind.driver())
    }
}

/// Sizes of the first table: NICs, and rules for each of them.
const SIZES: [(u32, u32); 3] = [(1, 0), (1, 10), (4, 10)];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let done = match words.split_first() {
        Some((_, [word, report, command @ ..])) if word == once::WORD => once::main(report, command),
        _ => run(&Arguments::parse()).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("bench-network: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let standing = if arguments.best { Standing::Best } else { Standing::Median };
    table::head(standing);
    for kind in Kind::ALL.into_iter().filter(|kind| arguments.wants(*kind)) {
        for (nics, rules) in SIZES {
            let measured = site::inside(|| {
                case::measure(kind, nics, rules, arguments.repeat, arguments.stock.as_deref())
            })?;
            table::case(kind, nics, rules, &measured, standing);
        }
    }
    let tools = site::inside(|| tools::measure(arguments.repeat, standing))?;
    table::tools(&tools);
    if arguments.nics == 0 {
        return Ok(());
    }
    table::growth_head();
    for kind in [Kind::Fw, Kind::Ovswitch].into_iter().filter(|kind| arguments.wants(*kind)) {
        for batch in arguments.batches.iter().copied().filter(|batch| *batch > 0) {
            let grown =
                site::inside(|| growth::measure(kind, arguments.nics, batch, arguments.repeat.min(5)))?;
            table::grown(kind, arguments.nics, batch, &grown, standing);
        }
    }
    Ok(())
}
