//! `causeway-vmm`: the virtual machine manager's driver process. oned starts it with the words of `ARGUMENTS` in one
//! string.

use std::process::ExitCode;

use causeway_programs::driver::{config::Config, front, guard, vmm};
use causeway_programs::{start, storage};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("causeway-vmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    start::clean_nest()?;
    if let [word, _, state] = arguments.as_slice()
        && word == "worker"
    {
        start::log_to(None);
        front::serve(state.as_ref())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let [word, _, state] = arguments.as_slice()
        && word == storage::CONFINED
    {
        start::log_to(None);
        storage::serve_confined(state.as_ref())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some((word, rest)) = arguments.split_first()
        && word == guard::WORD
    {
        return Ok(ExitCode::from(guard::serve(rest)?));
    }
    let config = Config::read_and_log(&arguments)?;
    start::run_local(vmm::serve(config))??;
    Ok(ExitCode::SUCCESS)
}
