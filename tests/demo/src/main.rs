//! `causeway-demo`: one guest's road through everything there is, on real libvirt, QEMU, sshd and VXLAN.
//!
//! It plays oned to our driver processes. Two hosts and a front-end are started in namespaces; a guest that writes its
//! memory at a known rate is deployed, surveyed, its migration predicted and then made, watched from outside; its
//! memory is checked by its own verifier; and everything is taken down and looked for once more.

mod fabric;
mod lab;
mod road;
mod silence;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;

/// Deploys a guest, predicts its live migration, makes it, measures it from outside, and tears everything down.
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    /// How often the guest moves, there and back in turn.
    #[arg(long, default_value_t = 1)]
    moves: u32,
    /// Rate of the cables between the hosts, Mbit per second; 0 leaves them as fast as this machine is.
    #[arg(long, default_value_t = 400)]
    link: u32,
    /// What carries the guest's network.
    #[arg(long, value_enum, default_value = "vxlan")]
    fabric: fabric::Fabric,
    /// Makes the same moves once more on a bare bridge, and prints both silences side by side.
    #[arg(long, conflicts_with = "fabric")]
    beside_bridge: bool,
    /// Where the results go: tables and the page with the picture of the silence.
    #[arg(long, default_value = "demo-results")]
    output: PathBuf,
    /// The lab's directory; caches stay there between runs.
    #[arg(long, env = "LAB", default_value = "/var/tmp/causeway-demo")]
    lab: PathBuf,
    /// Set by the program itself once the lab stands: the observer sits between the hosts.
    #[arg(long, hide = true)]
    inside: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // Without a handler the program would die at the signal and leave the lab standing.
        if signal_hook::flag::register(signal, Arc::clone(&stop)).is_err() {
            return ExitCode::FAILURE;
        }
    }
    let result =
        if arguments.inside { road::travel(&arguments, &stop) } else { lab::roads(&arguments, &stop) };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("causeway-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// `install.sh demo --help` can't ask this program: it may not be built yet.
    #[test]
    fn the_help_of_install_sh_has_every_option() {
        let help = include_str!("../../../install.sh");
        let mut count = 0;
        for option in Arguments::command().get_arguments().filter(|option| !option.is_hide_set()) {
            let name = option.get_long().unwrap();
            let listed =
                help.lines().any(|line| line.starts_with("   ") && line.contains(&format!("--{name}")));
            assert!(listed, "--{name}");
            count += 1;
        }
        assert_eq!(count, 6);
    }
}
