//! A slot by itself: for the stock driver process, which starts our wrapper, and for people with `--dry-run`.

use std::io::Read;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use causeway_core::answer::{Failure, one_line};
use causeway_core::names::{RequestId, VmId};
use causeway_core::plan::{Input, OnFailure, Place as PlanPlace, Slot, Step, Work};
use causeway_core::reach::wire::{Exchange, FromResident, WireStep};
use clap::{Args, Subcommand};
use tokio::sync::{mpsc, watch};

use super::work::{Place, Surroundings};
use super::{Connect, Options, Where};
use crate::start;

/// Longest time of a stand-alone slot. Its caller, the stock driver, has none of its own.
const DEADLINE: Duration = Duration::from_secs(4 * 3600);

/// One call as the stock driver makes it, on the command line of a program.
#[derive(Args)]
pub struct SlotWords {
    #[command(flatten)]
    place: Where,
    /// Prints what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(subcommand)]
    call: Call,
}

/// A slot such as vmm/kvm/deploy, and its own arguments, none of which is an option of ours.
#[derive(Subcommand)]
enum Call {
    #[command(external_subcommand)]
    Words(Vec<String>),
}

impl SlotWords {
    /// Which slot it is.
    ///
    /// # Errors
    /// None, or what is none.
    pub fn slot(&self) -> anyhow::Result<Slot> {
        let Call::Words(words) = &self.call;
        Ok(words.first().context("no slot, such as vmm/kvm/deploy")?.parse()?)
    }

    /// Does it: what it answers goes to standard output, and a failure to standard error.
    ///
    /// # Errors
    /// It is no slot, or this process can't work on this host.
    pub fn serve(self, delegated: bool, connect: Connect) -> anyhow::Result<ExitCode> {
        let slot = self.slot()?;
        let Call::Words(words) = self.call;
        let run = SlotRun { slot, argv: words.into_iter().skip(1).collect() };
        if self.dry_run {
            println!("{}", run.describe());
            return Ok(ExitCode::SUCCESS);
        }
        match start::run_local(run.run(&self.place.options(delegated, connect)))?? {
            Ok(output) if output.is_empty() => {}
            Ok(output) => println!("{output}"),
            Err(failure) => {
                // One unmarked line: the stock engine makes it the user's error (contract VMM 2.3 step 7).
                eprintln!("{}", one_line(&failure.text));
                return Ok(ExitCode::from(failure.kind.exit_code()));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The call itself.
struct SlotRun {
    slot: Slot,
    argv: Vec<String>,
}

impl SlotRun {
    fn step(&self) -> Step {
        let argv = self.argv.iter().map(|word| word.as_str().into()).collect();
        let work = Work::Slot { slot: self.slot.clone(), argv, input: Some("stdin".to_owned()) };
        Step::new(self.slot.verb(), PlanPlace::FrontEnd, work, DEADLINE)
    }

    /// What the slot would do, a line.
    fn describe(&self) -> String {
        causeway_core::plan::describe(&self.step().work)
    }

    /// Does it: standard input is read, log lines go to standard error as the contract marks them, and what the step
    /// prints is returned.
    async fn run(&self, options: &Options) -> anyhow::Result<Result<String, Failure>> {
        let mut stdin = Vec::new();
        std::io::stdin().lock().read_to_end(&mut stdin)?;
        let place = Rc::new(Place::new(options)?);
        let step = self.step();
        let exchange = Exchange {
            request: RequestId::new(0, std::process::id(), 0),
            action: self.slot.verb().to_owned(),
            vm: VmId(0),
            steps: vec![WireStep { on_failure: OnFailure::Stop, ..WireStep::from(&step) }],
            inputs: [("stdin".to_owned(), Input::new(stdin))].into(),
            outputs: Default::default(),
        };
        let (out, mut lines) = mpsc::unbounded_channel();
        let (_stop, cancelled) = watch::channel(false);
        let printer = tokio::task::spawn_local(async move {
            while let Some(event) = lines.recv().await {
                if let FromResident::Log { severity, text, .. } = event {
                    eprintln!("{}: {text}", mark(severity));
                }
            }
        });
        let Some(step) = exchange.steps.first() else { anyhow::bail!("a slot without a step") };
        let surroundings = Surroundings { outputs: &exchange.outputs, turn: None, out: &out };
        let result = place.run(&exchange, step, &surroundings, &cancelled).await;
        // This process ends now, and nobody waits for the privileged side to do so too.
        place.let_root_go();
        drop(out);
        printer.await?;
        Ok(result.map(|done| done.output))
    }
}

/// The marks that the stock engine reads (contract VMM 5).
fn mark(severity: causeway_core::protocol::Severity) -> &'static str {
    use causeway_core::protocol::Severity;
    match severity {
        Severity::Error => "ERROR",
        Severity::Warning => "WARN",
        Severity::Info => "INFO",
        Severity::Debug => "DEBUG",
    }
}
