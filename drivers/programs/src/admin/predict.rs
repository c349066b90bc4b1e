//! `causeway predict`: what a migration will need, from measured facts; or a check of the model against known answers.

use std::path::PathBuf;
use std::process::ExitCode;

use causeway_predict::estimate::{Estimate, Facts, Interval, estimate};
use causeway_predict::vectors;
use clap::Args;

/// Predicts time, downtime and bytes of a live migration, each with a 90 % interval.
#[derive(Args)]
pub struct Predict {
    /// Facts as `causeway survey facts` writes them; `-` is standard input.
    #[arg(required_unless_present = "vectors")]
    facts: Option<PathBuf>,
    /// Runs a file of known answers instead, prints what differs, and fails if anything does.
    #[arg(long, value_name = "FILE", conflicts_with = "facts")]
    vectors: Option<PathBuf>,
    /// Prints the prediction as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A file that can't be read or makes no sense.
pub fn run(arguments: &Predict) -> anyhow::Result<ExitCode> {
    if let Some(file) = &arguments.vectors {
        let report = vectors::run(&super::read(file)?)?;
        println!("{report}");
        return Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let Some(file) = &arguments.facts else { anyhow::bail!("no facts") };
    let facts: Facts = super::read_json(file)?;
    let estimate = estimate(&facts)?;
    if arguments.json {
        super::print_json(&estimate)?;
    } else {
        print!("{}", table(&estimate));
    }
    Ok(ExitCode::SUCCESS)
}

/// The prediction for a person.
fn table(estimate: &Estimate) -> String {
    let row = |name: &str, interval: &Interval, scale: f64, unit: &str| {
        let [median, low, high] = [interval.median, interval.low, interval.high].map(|v| v / scale);
        format!("{name:<18} {median:>9.2} {unit:<4} 90 % within {low:.2} to {high:.2} {unit}\n")
    };
    let mut text = row("total time", &estimate.time_s, 1.0, "s");
    text += &row("switch-over time", &estimate.downtime_s, 1e-3, "ms");
    text += &row("bytes sent", &estimate.bytes, 1_048_576.0, "MiB");
    let percent = estimate.p_converge * 100.0;
    text + &format!("{:<18} {percent:>9.0} %\n", "will converge")
}
