//! A slot by itself: for the stock driver process, which starts our wrapper, and for people with `--dry-run`.

use std::io::Read;
use std::rc::Rc;
use std::time::Duration;

use causeway_core::answer::Failure;
use causeway_core::names::{RequestId, VmId};
use causeway_core::plan::{Input, OnFailure, Place as PlanPlace, Slot, Step, Work};
use causeway_core::reach::wire::{Exchange, FromResident, WireStep};
use tokio::sync::{mpsc, watch};

use super::Options;
use super::work::{Place, Surroundings};

/// Longest time of a stand-alone slot. Its caller, the stock driver, has none of its own.
const DEADLINE: Duration = Duration::from_secs(4 * 3600);

/// One call as the stock driver makes it.
pub struct SlotRun {
    /// Which slot.
    pub slot: Slot,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Print the step, do nothing.
    pub dry_run: bool,
}

impl SlotRun {
    fn step(&self) -> Step {
        let argv = self.argv.iter().map(|word| word.as_str().into()).collect();
        let work = Work::Slot { slot: self.slot.clone(), argv, input: Some("stdin".to_owned()) };
        Step::new(self.slot.verb(), PlanPlace::FrontEnd, work, DEADLINE)
    }

    /// What the slot would do, a line.
    pub fn describe(&self) -> String {
        causeway_core::plan::describe(&self.step().work)
    }

    /// Does it: standard input is read, log lines go to standard error as the contract marks them, and what the step
    /// prints is returned.
    ///
    /// # Errors
    /// What the step failed of.
    pub async fn run(&self, options: &Options) -> anyhow::Result<Result<String, Failure>> {
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
