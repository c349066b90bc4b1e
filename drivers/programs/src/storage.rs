//! A piece of the transfer manager's work, on its way to the child that does it: the same on a host and on the front-end.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::HostName;
use causeway_core::plan::Input;
use causeway_core::protocol::Severity;
use causeway_core::reach::resident::Ssh;
use causeway_core::reach::worker;
use causeway_core::settings::{Causeway, Copies};
use causeway_tm::Confined;
use causeway_tm::carry::{Courier, End, PAUSES, carry};
use causeway_tm::host::{Call, Copying, Idle, RUNTIME_DIR, Worker, perform, prefix, runtime_dir};
use serde::{Deserialize, Serialize};

use crate::driver::config::quoted;
use crate::host::DISKS;

/// How a child reaches another host, for what takes a session of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// The client and its options.
    client: Vec<String>,
    /// Our program there, as the remote shell takes it.
    program: String,
}

impl Away {
    /// As the settings say. The agent is not forwarded any further.
    pub fn of(causeway: &Causeway) -> Self {
        let program = quoted(&causeway.libexec_dir.join(DISKS).display().to_string());
        let client = causeway.ssh.display().to_string();
        let ssh = Ssh::kept(&client, &program, causeway.deadlines.connect.duration());
        Away { client: ssh.client, program: ssh.command }
    }

    /// The command that starts one end of a move on that host. The line that the remote shell takes is made of the
    /// admin's settings and two words of ours; all else goes over the session.
    fn start(&self, host: &HostName, end: End) -> Command {
        let (program, options) = self.client.split_first().map_or(("ssh", &[][..]), |(p, o)| (p.as_str(), o));
        let mut command = Command::new(program);
        // In this child's process group: what ends the child ends the session.
        command.args(options).arg("--").arg(host.as_str());
        command.arg(format!("exec {} carry {}", self.program, end.word()));
        command
    }
}

/// How a child copies images, as this machine's admin wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    idle: bool,
}

impl Pace {
    /// As the settings say.
    pub fn of(causeway: &Causeway) -> Self {
        let Copies { bandwidth, idle } = causeway.copy;
        Pace { bytes_per_second: (bandwidth > 0).then_some(u64::from(bandwidth) << 20), idle }
    }
}

/// How long before it would be killed a child gives up by itself.
const MARGIN: Duration = Duration::from_secs(1);

/// One call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// In the `tm` crate's own form.
    call: serde_json::Value,
    /// Bytes that came with it, in the order of its step.
    inputs: Vec<Input>,
    /// Longest time, in milliseconds; the child is killed soon after ([`MARGIN`]).
    deadline_ms: u64,
    /// To other hosts.
    away: Away,
    /// On this one.
    pace: Pace,
}

impl Transfer {
    /// A call that may take so long.
    pub fn new(call: serde_json::Value, inputs: Vec<Input>, deadline: Duration, causeway: &Causeway) -> Self {
        // It is to end by itself, and leave nothing half-made, before it is killed.
        let deadline = deadline.saturating_sub(MARGIN.min(deadline / 4));
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        Transfer { call, inputs, deadline_ms, away: Away::of(causeway), pace: Pace::of(causeway) }
    }

    /// Does it, in this process; its locks lie below `state`, and `log` is the VM's.
    ///
    /// # Errors
    /// What it failed of.
    pub fn perform(mut self, state: &Path, log: &dyn Fn(Severity, &str)) -> Result<String, Failure> {
        let wrong = |e: serde_json::Error| Failure::new(Kind::Bug, format!("transfer call: {e}"));
        let call = serde_json::from_value(self.call.take()).map_err(wrong)?;
        let inputs: Vec<Vec<u8>> = self.inputs.iter().map(|input| input.0.to_vec()).collect();
        let locks = state.join("locks");
        let deadline = Instant::now() + Duration::from_millis(self.deadline_ms);
        let copying = Copying { bytes_per_second: self.pace.bytes_per_second, log };
        let worker = Worker { copying, ..Worker::new(&locks, deadline) };
        match &call {
            Call::CarryDir(order) => {
                let reach = |host: &HostName, end| self.away.start(host, end);
                let courier = Courier { worker: &worker, reach: &reach, log, pauses: &PAUSES };
                carry(order, &courier)?;
                Ok(String::new())
            }
            Call::Confined(confined) => self.confined(confined, state, &worker),
            call => {
                let _idle = self.pace.idle.then(Idle::begin);
                perform(call, &inputs, &worker)
            }
        }
    }

    /// Has it done by a child that is kept within limits from its first instruction on.
    fn confined(self, confined: &Confined, state: &Path, worker: &Worker<'_>) -> Result<String, Failure> {
        let program = std::env::current_exe().map_err(|e| Failure::new(Kind::HostState, e))?;
        let mut words = prefix(confined, worker);
        words.extend([program.into(), CONFINED.into(), "--state".into(), state.into()]);
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).env(RUNTIME_DIR, runtime_dir());
        let call = serde_json::to_value(&confined.call).map_err(|e| Failure::new(Kind::Bug, e))?;
        let left = worker.deadline.saturating_duration_since(Instant::now());
        let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        worker::ask_one(command, &Transfer { call, deadline_ms, ..self }, worker.copying.log)
    }
}

/// The word that starts a child which does one call within limits.
pub const CONFINED: &str = "confined";

/// Such a child's life; its locks lie below `state`.
///
/// # Errors
/// A broken pipe or frame.
pub fn serve_confined(state: &Path) -> io::Result<()> {
    worker::serve_and_tell(|transfer: Transfer, log| transfer.perform(state, log))
}

/// The other end of a move, on the standard streams; its locks lie below `state`.
///
/// # Errors
/// What it failed of, which the end that started it was told.
pub fn serve_carry(end: End, state: &Path) -> Result<(), Failure> {
    let locks = state.join("locks");
    let worker = Worker::new(&locks, Instant::now());
    Ok(causeway_tm::carry::serve(end, std::io::stdin(), std::io::stdout(), &worker)?)
}

/// Makes an image of what comes on standard input, as this machine's settings say; its locks lie below `state`. The answer,
/// a result as JSON, goes to standard output.
///
/// # Errors
/// Standard output is closed.
pub fn receive(state: &Path, causeway: &Causeway) -> io::Result<()> {
    let result =
        at_the_pace(causeway, state, |worker| causeway_tm::host::receive(io::stdin().lock(), worker));
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, &result)?;
    output.flush()
}

/// Sends the image that is asked for on standard input, as this machine's settings say; its locks lie below `state`.
///
/// # Errors
/// What it failed of: the stream has no end then.
pub fn send(state: &Path, causeway: &Causeway) -> Result<(), Failure> {
    let output = io::BufWriter::new(io::stdout().lock());
    at_the_pace(causeway, state, |worker| causeway_tm::host::send(io::stdin().lock(), output, worker))
}

/// Does something with a worker that has no deadline of its own yet, and that nobody hears.
fn at_the_pace<T>(causeway: &Causeway, state: &Path, work: impl FnOnce(&Worker<'_>) -> T) -> T {
    let (pace, locks) = (Pace::of(causeway), state.join("locks"));
    let copying = Copying { bytes_per_second: pace.bytes_per_second, ..Copying::default() };
    let _idle = pace.idle.then(Idle::begin);
    work(&Worker { copying, ..Worker::new(&locks, Instant::now()) })
}
