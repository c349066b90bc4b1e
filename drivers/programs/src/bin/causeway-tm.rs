//! `causeway-tm`: the transfer manager's driver process. oned starts it with the words of `ARGUMENTS` in one string; our
//! wrappers in the slots start it with the word `slot`.

use std::process::ExitCode;

use causeway_programs::driver::tm::{self, slot::SlotRun};
use causeway_programs::driver::{config::Config, front, guard};
use causeway_programs::{start, storage};

fn main() -> ExitCode {
    start::end("causeway-tm", run())
}

fn run() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    start::clean_nest()?;
    match arguments.split_first() {
        Some((word, [_, state])) if word == "worker" => {
            start::log_to(None);
            front::serve(state.as_ref())?;
            Ok(ExitCode::SUCCESS)
        }
        Some((word, [_, state])) if word == storage::CONFINED => {
            start::log_to(None);
            storage::serve_confined(state.as_ref())?;
            Ok(ExitCode::SUCCESS)
        }
        Some((word, rest)) if word == guard::WORD => Ok(ExitCode::from(guard::serve(rest)?)),
        Some((word, rest)) if word == "slot" => {
            start::log_to(None);
            let run = SlotRun::parse(rest)?;
            start::run_local(run.run())?
        }
        _ => {
            let config = Config::read_and_log(&arguments)?;
            start::run_local(tm::serve(config))??;
            Ok(ExitCode::SUCCESS)
        }
    }
}
