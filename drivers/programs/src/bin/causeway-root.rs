//! `causeway-root`: the one program of ours that runs as root. It makes and removes the bridges and tunnels that guests
//! need, and compacts the host's memory where an admin has set that; see [`causeway_vnm::root`] for what it does and does
//! not touch.
//!
//! Started by `sudo -n` without arguments, it speaks length-prefixed JSON on its standard streams and ends with its
//! input. It reads no environment variable and starts no other program.

use std::io;
use std::process::ExitCode;

use causeway_vnm::root::{Places, nest, server};

const HELP: &str = "\
causeway-root prepares the networks of virtual machines on this host. It is started by causeway-host with
`sudo -n /usr/libexec/causeway/causeway-root` and takes its requests from a pipe; there is nothing to type here.
Which devices virtual networks may use is listed in /etc/causeway/uplinks, one name per line, by root.
";

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        None => {}
        Some(word) if word == "--version" => {
            println!("causeway-root {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(word) if word == "--help" => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some(word) => {
            eprint!("causeway-root: unknown argument {word:?}\n{HELP}");
            return ExitCode::from(2);
        }
    }
    if let Err(error) = nest::enter() {
        eprint!("causeway-root: {error}\n{HELP}");
        return ExitCode::from(2);
    }
    match server::serve(&Places::default(), &mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-root: {error}");
            ExitCode::from(3)
        }
    }
}
