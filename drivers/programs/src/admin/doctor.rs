//! `causeway doctor`: what is wrong on this host. So far of its networks only.

use std::process::ExitCode;

use clap::Args;

use super::net::Host;

/// Looks for what is wrong with this host's networks: what is missing or left over, and others' rules that drop frames of guests.
/// Exits with 1 if there is anything.
#[derive(Args)]
pub struct Doctor {
    /// Prints a JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: Host,
}

/// What was found.
#[derive(serde::Serialize)]
struct Findings {
    /// What `causeway net reconcile` would do.
    reconcile: Vec<String>,
    /// What it could not bring back.
    hindered: Vec<String>,
    /// Rules that are not ours and drop or mark frames of bridges.
    foreign_rules: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Settings that can't be read, or a privileged side that does not answer.
pub fn run(arguments: &Doctor) -> anyhow::Result<ExitCode> {
    let compared = arguments.host.reconcile(true)?;
    let inspected = arguments.host.inspect()?;
    let found =
        Findings { reconcile: compared.changes, hindered: compared.notes, foreign_rules: inspected.notes };
    if arguments.json {
        super::print_json(&found)?;
    } else {
        for (title, lines) in [
            ("`causeway net reconcile` would", &found.reconcile),
            ("can't be brought back:", &found.hindered),
            ("not ours, and asked for frames of guests too:", &found.foreign_rules),
        ] {
            lines.iter().for_each(|line| println!("{title} {line}"));
        }
    }
    let healthy = found.reconcile.is_empty() && found.hindered.is_empty() && found.foreign_rules.is_empty();
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
