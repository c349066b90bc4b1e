//! `causeway-vmm`: the virtual machine manager's driver process. oned starts it with the words of `ARGUMENTS` in one
//! string.

use std::process::ExitCode;

use causeway_programs::driver::{config::Config, front, vmm};
use causeway_programs::start;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-vmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    start::clean_nest()?;
    if let [word, _, state] = arguments.as_slice()
        && word == "worker"
    {
        start::log_to(None)?;
        return Ok(front::serve(state.as_ref())?);
    }
    let config = Config::read(&arguments)?;
    start::log_to(config.log_file.as_deref())?;
    start::run_local(vmm::serve(config))?
}
