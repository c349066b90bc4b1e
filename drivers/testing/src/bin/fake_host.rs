//! `causeway-fake-host [OPTIONS] -- HOST REGISTER` stands in for ssh; `causeway-fake-host worker` is a file worker.

use std::io;
use std::process::ExitCode;

use causeway_testing::{host, worker};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["worker"] => worker::serve(),
        ["linger"] => {
            worker::linger();
            Ok(())
        }
        [.., "--", host, register] => session(host, register),
        _ => Err(io::Error::other("usage: causeway-fake-host worker | [OPTIONS] -- HOST REGISTER")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("causeway-fake-host: {e}");
            ExitCode::FAILURE
        }
    }
}

fn session(host: &str, register: &str) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(host::play(host, register));
    // A read of standard input may still be waiting in a thread of its own.
    runtime.shutdown_background();
    result
}
