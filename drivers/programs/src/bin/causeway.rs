//! `causeway`: the admin's program.

use std::process::ExitCode;

use causeway_programs::admin::{doctor, measure, net, plan, predict, survey};
use causeway_programs::driver::front;
use causeway_programs::start;
use clap::{Parser, Subcommand};

/// Looks ahead of and after live migrations: survey, predict, measure; and shows what the drivers would do.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Predict(predict::Predict),
    Survey(survey::Survey),
    Measure(measure::Measure),
    Plan(plan::Plan),
    Net(net::Net),
    Doctor(doctor::Doctor),
    /// Reads the front-end's files for `plan`.
    #[command(hide = true)]
    Worker {
        /// Where its locks lie.
        #[arg(long)]
        state: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    start::log_to(None);
    let result = match Arguments::parse().command {
        Command::Predict(arguments) => predict::run(&arguments),
        Command::Survey(arguments) => survey::run(arguments),
        Command::Measure(arguments) => measure::run(arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Net(arguments) => net::run(arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Worker { state } => front::serve(&state).map(|()| ExitCode::SUCCESS).map_err(Into::into),
    };
    result.unwrap_or_else(|error| {
        eprintln!("causeway: {error:#}");
        ExitCode::FAILURE
    })
}
