//! The two ends as processes: one runs the step and starts the other one; a connection that is cut is opened again.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use causeway_core::names::HostName;
use causeway_core::protocol::Severity;
use causeway_core::reach::missing::not_started;

use super::error::CarryError;
use super::frame::{FrameError, Say, VERSION};
use super::order::{Carry, End};
use super::receive::receive;
use super::send::send;
use super::wire::{LEASE, Link};
use super::{Ended, Told};
use crate::host::{Idle, Worker};
use crate::pace::{Progress, size};

/// How long to wait before each new try when a connection was cut. Bytes that came through give all of them back.
pub const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(30),
];

/// How long the other end may take to end by itself once all is said.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long what it said on standard error is waited for after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Most bytes kept of what the session says on standard error.
const COMPLAINT: usize = 1000;

/// What a move works with.
pub struct Courier<'a> {
    /// This end.
    pub worker: &'a Worker<'a>,
    /// The command that starts the other end on that host. It speaks on its standard streams, and stays in this
    /// process's group, to die with it.
    pub reach: &'a dyn Fn(&HostName, End) -> Command,
    /// The VM's log.
    pub log: &'a dyn Fn(Severity, &str),
    /// [`PAUSES`], or others for tests.
    pub pauses: &'a [Duration],
}

/// Moves a directory, from the end that this process is at.
///
/// # Errors
/// [`CarryError`]; the same call goes on from there.
pub fn carry(carry: &Carry, courier: &Courier<'_>) -> Result<Ended, CarryError> {
    let _idle = carry.manner.idle.then(Idle::begin);
    let begun = Instant::now();
    let mut teller = Teller { courier, begun, progress: None, most: 0, wire: None };
    let mut pauses = courier.pauses.iter();
    loop {
        let before = teller.most;
        match once(carry, courier, &mut teller) {
            Ok(ended) => {
                teller.ended(ended, carry);
                return Ok(ended);
            }
            Err(error) if error.passes() => {
                if teller.most > before {
                    pauses = courier.pauses.iter();
                }
                let pause = pauses.next().filter(|pause| Instant::now() + **pause < courier.worker.deadline);
                let Some(pause) = pause else { return Err(error) };
                let text = format!("{error}; trying again in {} s", pause.as_secs());
                (courier.log)(Severity::Warning, &text);
                std::thread::sleep(*pause);
            }
            Err(error) => return Err(error),
        }
    }
}

/// One connection.
fn once(carry: &Carry, courier: &Courier<'_>, teller: &mut Teller<'_>) -> Result<Ended, CarryError> {
    let host = carry.far();
    let lost = |why: &dyn std::fmt::Display| CarryError::Lost(format!("cannot reach {host}: {why}"));
    let deadline = courier.worker.deadline;
    let mut command = (courier.reach)(host, carry.runs_at.other());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut far = Far::start(&mut command).map_err(|e| lost(&e))?;
    let ran = command.get_args().last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    let mut link = far.link(deadline).map_err(|e| lost(&e))?;
    let talked = talk(carry, courier.worker, &mut link, teller);
    match talked {
        Err(CarryError::Lost(why)) => {
            // It may have said of what it ended before the stream did.
            let said = link.incoming.last_words();
            drop(link);
            Err(match said {
                Some(CarryError::Far(failure)) => CarryError::Far(failure.context(host)),
                _ => {
                    let complaint = far.complaint();
                    let absent = far.status().and_then(|status| not_started(status, host.as_str(), &ran));
                    match absent {
                        Some(failure) => CarryError::Far(failure),
                        None => lost(if complaint.is_empty() { &why } else { &complaint }),
                    }
                }
            })
        }
        Err(CarryError::Far(failure)) => Err(CarryError::Far(failure.context(host))),
        Err(error) => {
            // So that it need not wait for its lease. Whether it hears it makes no difference here.
            let failure = causeway_core::answer::Failure::new(error.kind(), &error);
            let _ = link.outgoing.say(Say::Failed(failure));
            Err(error)
        }
        Ok(ended) => {
            drop(link);
            far.farewell();
            Ok(ended)
        }
    }
}

fn talk(
    carry: &Carry,
    worker: &Worker<'_>,
    link: &mut Link,
    teller: &mut Teller<'_>,
) -> Result<Ended, CarryError> {
    let left = worker.deadline.saturating_duration_since(Instant::now());
    link.outgoing.say(Say::Open {
        version: VERSION,
        from: carry.from.clone(),
        to: carry.to.clone(),
        manner: carry.manner,
        part: carry.part,
        local: carry.local,
        deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
    })?;
    match link.incoming.say()? {
        Say::Ready { version: VERSION } => {}
        Say::Ready { version } => return Err(CarryError::Version { ours: VERSION, theirs: version }),
        _ => return Err(FrameError::Malformed("no greeting").into()),
    }
    let mut note = |told| teller.hear(told);
    match carry.runs_at {
        End::Source => send(carry, link, worker, &mut note),
        End::Destination => receive(carry, link, worker, &mut note),
    }
}

/// The other end's life: `end` is what it is, the streams lead to whoever started it, and `worker`'s deadline is taken
/// from there.
///
/// # Errors
/// What it failed of, which the other side was told.
pub fn serve(end: End, input: impl AsFd, output: impl AsFd, worker: &Worker<'_>) -> Result<(), CarryError> {
    let link = Link::new(input, output, Instant::now() + LEASE);
    let mut link = link.map_err(|e| CarryError::Lost(e.to_string()))?;
    let served = answer(end, &mut link, worker);
    if let Err(error) = &served
        && !matches!(error, CarryError::Lost(_) | CarryError::Far(_))
    {
        let failure = causeway_core::answer::Failure::from_chain(error.kind(), error);
        // Who does not hear it sees the end of the stream.
        let _ = link.outgoing.say(Say::Failed(failure));
    }
    served
}

fn answer(end: End, link: &mut Link, worker: &Worker<'_>) -> Result<(), CarryError> {
    let (carry, deadline_ms) = match link.incoming.say()? {
        Say::Open { version: VERSION, from, to, manner, part, local, deadline_ms } => {
            (Carry { from, to, runs_at: end, manner, part, local }, deadline_ms)
        }
        Say::Open { version, .. } => {
            link.outgoing.say(Say::Ready { version: VERSION })?;
            return Err(CarryError::Version { ours: VERSION, theirs: version });
        }
        _ => return Err(FrameError::Malformed("no greeting").into()),
    };
    if carry.from.dir.vm() != carry.to.dir.vm() {
        return Err(FrameError::Malformed("directories of two VMs").into());
    }
    // A day more than any deadline is no deadline.
    let deadline = Instant::now() + Duration::from_millis(deadline_ms.min(32 * 86_400_000));
    link.incoming.until(deadline);
    link.outgoing.say(Say::Ready { version: VERSION })?;
    let _idle = carry.manner.idle.then(Idle::begin);
    let worker = Worker { deadline, ..*worker };
    match end {
        End::Source => send(&carry, link, &worker, &mut |_| {}),
        End::Destination => receive(&carry, link, &worker, &mut |_| {}),
    }
    .map(drop)
}

/// The process of the other end. Killed when this value goes.
struct Far {
    child: Child,
    complaint: Arc<Mutex<String>>,
    listener: std::thread::JoinHandle<()>,
}

impl Far {
    fn start(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command.spawn()?;
        let complaint = Arc::new(Mutex::new(String::new()));
        let (errors, kept) = (child.stderr.take(), Arc::clone(&complaint));
        let listener = std::thread::spawn(move || {
            let Some(mut errors) = errors else { return };
            let mut chunk = [0; 1024];
            while let Ok(length @ 1..) = errors.read(&mut chunk) {
                let text = String::from_utf8_lossy(chunk.get(..length).unwrap_or_default());
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < COMPLAINT {
                    kept.push_str(&text);
                }
            }
        });
        Ok(Far { child, complaint, listener })
    }

    fn link(&mut self, deadline: Instant) -> std::io::Result<Link> {
        let pipes = (self.child.stdout.take(), self.child.stdin.take());
        let (Some(output), Some(input)) = pipes else {
            return Err(std::io::Error::other("a session without pipes"));
        };
        // The link has them by descriptors of its own: dropping it closes them.
        Link::new(output, input, deadline)
    }

    /// What it said on standard error, in one line.
    fn complaint(&mut self) -> String {
        self.end(FAREWELL);
        // A process that it left behind may hold the pipe.
        let limit = Instant::now() + LAST_WORDS;
        while !self.listener.is_finished() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(2));
        }
        let said = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// How it ended, if it has.
    fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn farewell(&mut self) {
        self.end(FAREWELL);
    }

    fn end(&mut self, patience: Duration) {
        let limit = Instant::now() + patience;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Ended already is the usual case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells the VM's log.
struct Teller<'a> {
    courier: &'a Courier<'a>,
    begun: Instant,
    progress: Option<Progress>,
    /// Most bytes that were ever at the destination.
    most: u64,
    wire: Option<(u64, u64)>,
}

impl Teller<'_> {
    fn hear(&mut self, told: Told) {
        let now = self.begun.elapsed();
        match told {
            Told::Begins { bytes, resumed } => {
                if resumed {
                    let text = "the destination has some of it: what it has is compared first";
                    (self.courier.log)(Severity::Info, text);
                }
                self.progress.get_or_insert_with(|| Progress::new(bytes, 0, now));
            }
            Told::Done(bytes) => {
                self.most = self.most.max(bytes);
                if let Some(line) = self.progress.as_mut().and_then(|it| it.line(self.most, now)) {
                    (self.courier.log)(Severity::Info, &line);
                }
            }
            Told::Sent { bytes, wire } => self.wire = Some((bytes, wire)),
        }
    }

    fn ended(&self, ended: Ended, carry: &Carry) {
        let text = match (ended, self.wire) {
            (Ended::Same, _) => {
                let Carry { from, to, .. } = carry;
                format!("{from} and {to} are one directory: nothing is to be moved")
            }
            (Ended::Dropped, _) => format!("{} is gone: the guest stayed where it was", carry.to),
            (Ended::Moved | Ended::Copied, wire) => {
                let seconds = self.begun.elapsed().as_secs_f64();
                let wire =
                    wire.map_or(String::new(), |(_, wire)| format!(", {} over the connection", size(wire)));
                let done = if ended == Ended::Moved { "moved" } else { "copied" };
                format!("{} of data {done} in {seconds:.1} s{wire}", size(self.most))
            }
        };
        (self.courier.log)(Severity::Info, &text);
    }
}
