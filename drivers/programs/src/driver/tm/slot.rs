//! A slot by itself: for the stock driver processes, which start our wrapper, and for people with `--dry-run`.
//!
//! The same steps as in a script or in a request, run by the same engine on the host's resident; without a journal, for
//! whoever started this waits for its end and asks again by itself.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use causeway_core::answer::{Failure, Kind, one_line};
use causeway_core::document::{VmDocument, decode};
use causeway_core::engine::{Engine, Log, Outcome, Patience};
use causeway_core::journal::Journal;
use causeway_core::names::{RequestId, VmId};
use causeway_core::plan::{Answer, Plan, Slot};
use causeway_core::protocol::{Severity, TmOptions};
use causeway_tm::facts::{VmFacts, VmNeed, gather};
use causeway_tm::plan::{Stdin, built, needs, reading, stdin_of, steps};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::driver::config::{Config, Directories};
use crate::driver::expand::{Known, at_home, not_built, read};

/// Most that is read of standard input, bytes: a VM's document in base64.
const STDIN_LIMIT: u64 = 8 << 20;

/// One call of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRun {
    slot: Slot,
    argv: Vec<String>,
    dry_run: bool,
}

impl SlotRun {
    /// Reads `[--dry-run] tm/qcow2/clone ARGUMENT...`.
    ///
    /// # Errors
    /// No slot, or one that is none.
    pub fn parse(words: &[String]) -> anyhow::Result<Self> {
        let dry_run = words.first().is_some_and(|word| word == "--dry-run");
        let words = words.get(usize::from(dry_run)..).unwrap_or_default();
        let (slot, argv) = words.split_first().context("no slot, such as tm/qcow2/clone")?;
        Ok(SlotRun { slot: slot.parse()?, argv: argv.to_vec(), dry_run })
    }

    /// Does it, or prints its steps. Log lines go to standard error as the contract marks them (TM 1.3), and the reason
    /// of a failure in a line without a mark; the exit code is that of [`causeway_core::answer`].
    ///
    /// # Errors
    /// The front-end's settings can't be read.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let options = TmOptions { threads: 1, tm_types: None, timeout: None };
        let config = Config::of(options, &Directories::from_environment())?;
        if causeway_tm::datastore::built(&self.slot) {
            return super::datastore::run(&self.slot, &self.argv, self.dry_run, &config).await;
        }
        if self.verb().starts_with("prebackup") {
            be_found_by_stock();
        }
        let plan = match self.plan(&config).await {
            Ok(plan) => plan,
            Err(failure) => return Ok(failed(&failure)),
        };
        if self.dry_run {
            print!("{}", plan.render());
            return Ok(ExitCode::SUCCESS);
        }
        let places = config.places_in_passing(config.front()?, &plan.steps);
        let journal = Journal::none();
        let cancelled = cancelled_by_signal()?;
        let engine = Engine {
            reach: &places,
            log: &Stderr,
            journal: &journal,
            patience: Patience::default(),
            cancelled,
        };
        let request = RequestId::new(0, std::process::id(), 0);
        Ok(match engine.run(&plan, &request).await {
            Outcome::Success(_) => ExitCode::SUCCESS,
            Outcome::Failure(failure) => failed(&failure),
            Outcome::Cancelled => failed(&Failure::new(Kind::Cancelled, "cancelled")),
        })
    }

    async fn plan(&self, config: &Config<TmOptions>) -> Result<Plan, Failure> {
        if !built(&self.slot) {
            return Err(not_built(&self.slot));
        }
        let needs = needs(&self.slot, &self.argv)?;
        let form = stdin_of(&self.slot);
        let stdin = if form == Stdin::Nothing { Vec::new() } else { read_stdin()? };
        let mut known = Known::default();
        if let Some(VmNeed::Document(id)) = needs.vm.filter(|_| !stdin.trim_ascii().is_empty()) {
            known.take_vm(id, facts_in(&stdin, form));
        }
        known.ask(&config.oned(), &needs).await;
        let mut facts = gather(&needs, &known)?;
        let settings = config.transfer_settings();
        if let Some(mut reading) = reading(&self.slot, &self.argv, &facts, &settings)? {
            let front = config.front().map_err(|e| Failure::new(Kind::HostState, e))?;
            let id = RequestId::new(0, std::process::id(), 1);
            let inputs = front.sources(std::mem::take(&mut reading.inputs)).await?;
            let places = config.places_in_passing(front, &reading.steps);
            facts.take_reading(&read(&places, id, self.vm()?, reading, inputs).await?)?;
        }
        let transfer = steps(&self.slot, &self.argv, &stdin, &facts, &settings)?;
        // A dry run reads no files either: the steps are the same without them.
        let inputs =
            if self.dry_run { Default::default() } else { front_sources(config, transfer.inputs).await? };
        Ok(Plan {
            action: self.slot.to_string(),
            vm: self.vm()?,
            deploy_id: None,
            steps: at_home(transfer.steps),
            inputs,
            answer: Answer::Empty,
            first_word: None,
            recall: None,
        })
    }

    fn verb(&self) -> &str {
        self.slot.verb().split('.').next().unwrap_or_default()
    }

    /// The VM that the arguments are about (contract TM 1.4): a host does one thing for a VM at a time.
    fn vm(&self) -> Result<VmId, Failure> {
        let from_end = match self.verb() {
            // `Hsrc Hdst VMDIR vmid dsid [TM]`
            "premigrate" | "postmigrate" | "failmigrate" => Some(3),
            // `Hsrc:VMDIR vmid img_id inc_id disk_id`
            "restore" => Some(1),
            // `... vmid dsid`
            _ => self.argv.len().checked_sub(2),
        };
        let word = from_end.and_then(|index| self.argv.get(index));
        let word = word.ok_or_else(|| Failure::new(Kind::Input, format!("{}: no VM id", self.slot)))?;
        word.parse().map_err(|e| Failure::new(Kind::Input, e))
    }
}

async fn front_sources(
    config: &Config<TmOptions>,
    sources: std::collections::BTreeMap<String, causeway_tm::Source>,
) -> Result<std::collections::BTreeMap<String, causeway_core::plan::Input>, Failure> {
    let front = config.front().map_err(|e| Failure::new(Kind::HostState, e))?;
    front.sources(sources).await
}

pub(super) fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(STDIN_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|e| Failure::new(Kind::Input, format!("standard input: {e}")))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > STDIN_LIMIT) {
        return Err(Failure::new(Kind::Input, format!("standard input is above {} MiB", STDIN_LIMIT >> 20)));
    }
    Ok(bytes)
}

/// The facts of the document on standard input.
fn facts_in(stdin: &[u8], form: Stdin) -> Result<VmFacts, Failure> {
    let wrong = |e: &dyn std::error::Error| Failure::new(Kind::Input, e).context("standard input");
    let bytes = match form {
        Stdin::Encoded => decode(stdin).map_err(|e| wrong(&e))?,
        Stdin::Nothing | Stdin::Plain => stdin.to_vec(),
    };
    let vm = VmDocument::parse(&bytes).map_err(|e| wrong(&e))?;
    Ok(VmFacts::of(&vm)?)
}

/// Turns true when this process is told to end: what runs on the host is stopped first.
pub(super) fn cancelled_by_signal() -> std::io::Result<watch::Receiver<bool>> {
    let (sender, receiver) = watch::channel(false);
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::task::spawn_local(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
        // Kept: an end of the channel would be one more thing to wait for.
        sender.closed().await;
    });
    Ok(receiver)
}

/// The stock `backup_cancel` looks for the processes of `prebackup` by the name of the interpreter that stock's run in
/// (contract TM 2.3), and sends them SIGTERM.
fn be_found_by_stock() {
    if let Err(error) = std::fs::write("/proc/self/comm", "ruby") {
        tracing::debug!(%error, "backup_cancel will not find this process");
    }
}

pub(super) fn failed(failure: &Failure) -> ExitCode {
    eprintln!("{}", one_line(&failure.text));
    ExitCode::from(failure.kind.exit_code())
}

/// Standard error, as the stock driver reads it: a mark, the VM, the text.
struct Stderr;

impl Log for Stderr {
    fn log(&self, vm: VmId, severity: Severity, text: &str) {
        let mark = match severity {
            Severity::Error => "ERROR",
            Severity::Warning => "WARN",
            Severity::Info => "INFO",
            Severity::Debug => "DEBUG",
        };
        eprintln!("{mark}: {vm} {}", one_line(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> anyhow::Result<SlotRun> {
        SlotRun::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_words_of_a_wrapper_and_of_a_person() {
        let clone = run("tm/qcow2/clone fe:/ds/1/abc h1:/ds/100/7/disk.0 7 1").unwrap();
        assert_eq!((clone.argv.len(), clone.dry_run, clone.vm().unwrap()), (4, false, VmId(7)));
        assert!(run("--dry-run tm/qcow2/delete h1:/ds/100/7 7 100").unwrap().dry_run);
        let moved = run("tm/shared/postmigrate h1 h2 /ds/100/8 8 100 ceph").unwrap();
        assert_eq!(moved.vm().unwrap(), VmId(8));
        let restored = run("tm/qcow2/restore h1:/ds/100/9 9 39 -1 -1").unwrap();
        assert_eq!(restored.vm().unwrap(), VmId(9));
        assert_eq!(
            run("tm/qcow2/context /x/context.sh h1:/ds/100/9/disk.1 9 100").unwrap().vm().unwrap(),
            VmId(9)
        );
        assert!(run("").is_err() && run("--dry-run").is_err() && run("tm/../clone x").is_err());
    }
}
