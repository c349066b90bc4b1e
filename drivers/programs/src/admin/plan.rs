//! `causeway plan`: what the driver would do for a request, step by step, without doing any of it.

use std::path::PathBuf;
use std::process::ExitCode;

use causeway_core::protocol::{Line, Message};
use clap::Args;

use crate::driver::config::Config;
use crate::driver::vmm;

/// Prints the plan of a request.
#[derive(Args)]
pub struct Plan {
    /// A request line as oned sends it; `-` is standard input.
    request: PathBuf,
    /// The driver's ARGUMENTS.
    #[arg(long, default_value = "-t 15 -r 0 kvm -p", allow_hyphen_values = true)]
    arguments: String,
    /// Prints the plan as JSON, without the bytes that its steps read.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// A line that is no request, or a request that can't be planned.
pub fn run(arguments: &Plan) -> anyhow::Result<ExitCode> {
    let bytes = super::read(&arguments.request)?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes).to_vec();
    let Some(Message::Request(request)) = Message::parse(&Line::Whole(line)) else {
        anyhow::bail!("{} holds no request line", arguments.request.display());
    };
    let config = Config::read(std::slice::from_ref(&arguments.arguments))?;
    let mut plan = crate::start::run_local(vmm::dry_run(config, &request))??;
    plan.inputs.clear();
    if arguments.json {
        super::print_json(&plan)?;
    } else {
        print!("{}", plan.render());
    }
    Ok(ExitCode::SUCCESS)
}
