//! `bench-storage`: what the transfer manager's actions cost, ours and the stock ones side by side, and by hand.
//!
//! Everything runs on this machine: hosts over a real sshd on loopback, look-ups answered by one ear for both, files in a
//! temporary directory, volumes on the cluster that `--ceph` names. Each action goes through the driver process, as a
//! script of one line, and as an executable by itself.

mod actions;
mod cluster;
mod contest;
mod stock;
mod usage;
mod vm;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use actions::ACTIONS;
use cluster::Cluster;
use contest::{Contender, Cost, Figures, Site};
use usage::Group;

/// Measures the transfer manager and prints the tables.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The sources of OpenNebula 7.4: adds the stock drivers.
    #[arg(long, env = "STOCK")]
    stock: Option<PathBuf>,
    /// The configuration of a Ceph cluster as tests/lab/ceph.sh makes it: adds its actions.
    #[arg(long, env = "CAUSEWAY_TEST_CEPH")]
    ceph: Option<PathBuf>,
    /// Actions of each kind.
    #[arg(long, default_value_t = 15)]
    repeat: u32,
    /// Clones at once.
    #[arg(long, default_value_t = 200)]
    burst: u32,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-storage: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let group = Group::enter();
    let data = tempfile::NamedTempFile::new()?;
    let cluster = arguments.ceph.as_deref().map(|conf| {
        contest::make_image(data.path(), "raw")?;
        Cluster::open(conf, data.path())
    });
    let cluster = cluster.transpose()?;
    let ours = Site::new(&Contender::Ours, cluster.as_ref())?;
    let [shared, own] = contest::sessions(&ours, arguments.repeat)?;
    let by_hand = contest::by_hand(&ours, &group, arguments.repeat)?;
    let our_figures = ours.measure(&group, arguments.repeat, arguments.burst)?;
    let stock = match &arguments.stock {
        Some(sources) => {
            let contender = Contender::Stock(sources.clone());
            let site = Site::new(&contender, cluster.as_ref())?;
            Some(site.measure(&group, arguments.repeat, arguments.burst)?)
        }
        None => {
            println!("(STOCK names no stock drivers: ours alone)");
            None
        }
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{} of each; medians; load averages at the end {}", arguments.repeat, load.trim());
    print("Through the driver process", &our_figures.driver, stock.as_ref().map(|f| &f.driver), &by_hand);
    println!(
        "\nAn ssh session that does nothing: {:.1} ms over the connection that is open, {:.1} ms over one of its own",
        shared.as_secs_f64() * 1e3,
        own.as_secs_f64() * 1e3
    );
    print(
        "As executables, over the connection that is open",
        &our_figures.slot,
        stock.as_ref().map(|f| &f.slot),
        &by_hand,
    );
    summary("ours", &our_figures);
    if let Some(stock) = &stock {
        summary("stock", stock);
    }
    Ok(())
}

type Costs = BTreeMap<&'static str, Cost>;

/// One form of all actions. What the commands by hand take is in both contenders' times.
fn print(title: &str, ours: &Costs, stock: Option<&Costs>, by_hand: &Costs) {
    println!("\n{title}: ms (ms of processor, processes and threads begun)");
    println!("{:<34} {:>9} {:>24} {:>24} {:>7}", "", "by hand", "ours", "stock", "ratio");
    for action in &ACTIONS {
        let Some(cost) = ours.get(action.name) else { continue };
        let hand =
            by_hand.get(action.name).map_or_else(|| "-".to_owned(), |hand| format!("{:.1}", hand.median()));
        let beside = stock.and_then(|costs| costs.get(action.name));
        let ratio =
            beside.map_or_else(|| "-".to_owned(), |other| format!("{:.1}", other.median() / cost.median()));
        let stock = beside.map_or_else(|| "-".to_owned(), told);
        println!("{:<34} {hand:>9} {:>24} {stock:>24} {ratio:>7}", action.name, told(cost));
    }
}

fn told(cost: &Cost) -> String {
    let processor = cost.processor().map_or_else(|| "?".to_owned(), |time| format!("{time:.0}"));
    format!("{:.1} ({processor}, {})", cost.median(), cost.forks())
}

fn summary(name: &str, figures: &Figures) {
    if let Some((count, took)) = figures.burst {
        println!("\n{name}: {count} clones at once, all answered SUCCESS, in {:.1} s", took.as_secs_f64());
    }
    let (driver, helper) = figures.memory;
    println!(
        "{name}: peak memory of the driver process {driver:.1} MiB, of the largest other one {helper:.1} MiB"
    );
}
