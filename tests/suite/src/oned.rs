//! A player of oned: starts a driver process as oned does, speaks its lines, and holds it to the contract (VMM 1).
//!
//! ```text
//!            start                init            send ... reply            finalize
//!   (none) ─────────> started ─────────> ready ────────────────> ready ─────────────────> ended
//!                        │                                         │  close, kill            ^
//!                        └─────────────────────────────────────────┴─────────────────────────┘
//! ```
//!
//! Whatever the driver writes is kept: replies until they are asked for, log lines for good, and everything that oned
//! would drop (contract VMM 1.3) as a *breach*. [`Oned::finalize`] and its sisters fail if there was a breach, and
//! [`Oned::is_square`] if a request has no reply, or has two.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};

use crate::error::SuiteError;

mod api;
mod ear;
mod ledger;
mod nest;

pub use api::{Api, Query};
use ear::{Ear, Heard, Mouth};
use ledger::Ledger;
pub use ledger::{Log, Reply};
pub use nest::Nest;

/// oned's patience with `INIT` (contract VMM 1.3).
const INIT_DEADLINE: Duration = Duration::from_secs(30);

/// oned's single read of the answer to `INIT`, in bytes.
const INIT_READ: usize = 31;

/// How long the pipe to the driver may be full: oned blocks in its write, and with it every other VM.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// oned's patience when it stops (contract VMM 1.5).
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// A driver process, from oned's side.
pub struct Oned {
    child: Child,
    mouth: Option<Mouth>,
    ear: Ear,
    ledger: Ledger,
    /// How long a reply is waited for.
    patience: Duration,
}

/// How a driver process ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// From the end of its input to its end.
    pub took: Duration,
    /// Replies that nobody had asked for yet.
    pub replies: Vec<Reply>,
}

impl Oned {
    /// Starts a driver process; the next thing is [`init`](Oned::init).
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(nest: &Nest) -> Result<Oned, SuiteError> {
        let (child, mouth, ear) = nest.spawn()?;
        Ok(Oned {
            child,
            mouth: Some(mouth),
            ear,
            ledger: Ledger::default(),
            patience: Duration::from_secs(60),
        })
    }

    /// With another limit for the wait for a reply than 60 s.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Oned {
        self.patience = patience;
        self
    }

    /// Sends `INIT` and reads the answer as oned does: once, at most 31 bytes, within ten seconds. What is in the same
    /// read behind the answer would be lost. Returns the time it took.
    ///
    /// # Errors
    /// No answer in time, another than `INIT SUCCESS`, or not alone in its read.
    pub fn init(&mut self) -> Result<Duration, SuiteError> {
        let start = Instant::now();
        self.say(b"INIT\n")?;
        let said = match self.ear.hear(start + INIT_DEADLINE) {
            Heard::Bytes(bytes) => bytes,
            Heard::Silence => return Err(broken("did not answer INIT within 10 s")),
            Heard::End => return Err(broken("ended instead of answering INIT")),
        };
        let text = String::from_utf8_lossy(&said).into_owned();
        let alone = text.strip_suffix('\n').is_some_and(|line| !line.contains('\n'));
        if !text.starts_with("INIT SUCCESS") || !alone || said.len() > INIT_READ {
            return Err(broken(format!("answered INIT with {text:?}")));
        }
        Ok(start.elapsed())
    }

    /// Sends a request; exactly one reply is owed for it.
    ///
    /// # Errors
    /// The driver does not take it from the pipe, or has ended.
    pub fn send(&mut self, action: &str, vm: u32, document: &str) -> Result<(), SuiteError> {
        self.send_payload(action, vm, &BASE64_STANDARD.encode(document))
    }

    /// Sends a request with this payload as it stands.
    ///
    /// # Errors
    /// As [`send`](Oned::send).
    pub fn send_payload(&mut self, action: &str, vm: u32, payload: &str) -> Result<(), SuiteError> {
        self.ledger.owe(action, vm);
        // The status field is sent empty (contract VMM 1.3): two blanks.
        self.say(format!("{action}  {vm} {payload}\n").as_bytes())
    }

    /// Sends these bytes; no reply is owed.
    ///
    /// # Errors
    /// The driver does not take them from the pipe, or has ended.
    pub fn say(&mut self, bytes: &[u8]) -> Result<(), SuiteError> {
        let mouth = self.mouth.as_ref().ok_or_else(|| broken("has no input any more"))?;
        mouth.say(bytes.to_vec(), WRITE_DEADLINE).map_err(broken)
    }

    /// Notes that one reply of `action` for `vm` is owed for what [`say`](Oned::say) sends.
    pub fn owe(&mut self, action: &str, vm: u32) {
        self.ledger.owe(action, vm);
    }

    /// Cancels whatever is at work for a VM. No reply is owed for it any more.
    ///
    /// # Errors
    /// As [`say`](Oned::say).
    pub fn cancel(&mut self, vm: u32) -> Result<(), SuiteError> {
        self.ledger.forgive(vm);
        self.say(format!("DRIVER_CANCEL  {vm} \n").as_bytes())
    }

    /// The reply to `action` for `vm`, waited for.
    ///
    /// # Errors
    /// None comes, or the driver ends first.
    pub fn reply(&mut self, action: &str, vm: u32) -> Result<Reply, SuiteError> {
        let limit = Instant::now() + self.patience;
        loop {
            if let Some(reply) = self.ledger.take(action, vm) {
                return Ok(reply);
            }
            match self.ear.hear(limit) {
                Heard::Bytes(bytes) => self.ledger.listen(&bytes),
                Heard::Silence => {
                    let said = self.ledger.last_words();
                    return Err(broken(format!("did not answer {action} {vm}; its last words: {said}")));
                }
                Heard::End => return Err(broken(format!("ended before it answered {action} {vm}"))),
            }
        }
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// As [`send`](Oned::send) and [`reply`](Oned::reply).
    pub fn ask(&mut self, action: &str, vm: u32, document: &str) -> Result<Reply, SuiteError> {
        self.send(action, vm, document)?;
        self.reply(action, vm)
    }

    /// Listens for a while.
    pub fn listen(&mut self, time: Duration) {
        let limit = Instant::now() + time;
        while let Heard::Bytes(bytes) = self.ear.hear(limit) {
            self.ledger.listen(&bytes);
        }
    }

    /// Closes oned's end of the driver's output, as an oned that dies does: what the driver writes from now on is lost.
    pub fn turn_deaf(&mut self) {
        self.ear.close();
    }

    /// Listens until a log line for `vm` holds `text`; returns the line.
    ///
    /// # Errors
    /// None comes.
    pub fn await_log(&mut self, vm: i64, text: &str) -> Result<Log, SuiteError> {
        let limit = Instant::now() + self.patience;
        let mut seen = 0;
        loop {
            let fresh = self.ledger.log.get(seen..).unwrap_or_default();
            if let Some(line) = fresh.iter().find(|line| line.vm == vm && line.text.contains(text)) {
                return Ok(line.clone());
            }
            seen = self.ledger.log.len();
            match self.ear.hear(limit) {
                Heard::Bytes(bytes) => self.ledger.listen(&bytes),
                Heard::Silence | Heard::End => {
                    return Err(broken(format!("logged nothing with {text:?} for VM {vm}")));
                }
            }
        }
    }

    /// All log lines so far.
    pub fn log(&self) -> &[Log] {
        &self.ledger.log
    }

    /// Replies that were read and that nobody has asked for yet.
    pub fn heard(&self) -> &[Reply] {
        self.ledger.heard()
    }

    /// Whether every request has had its one reply, no cancelled one had any, and all that was written was in the
    /// protocol's form; listens for a moment first.
    ///
    /// # Errors
    /// What is not.
    pub fn is_square(&mut self) -> Result<(), SuiteError> {
        self.listen(Duration::from_millis(50));
        self.ledger.is_square().map_err(broken)
    }

    /// The driver's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The driver's largest resident memory so far, in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn peak_memory(&self) -> Result<u64, SuiteError> {
        let path = PathBuf::from(format!("/proc/{}/status", self.child.id()));
        let status = std::fs::read_to_string(&path).map_err(SuiteError::io(path.display().to_string()))?;
        let field = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = field.and_then(|text| text.split_ascii_whitespace().next()?.parse().ok());
        number.ok_or_else(|| broken("has no VmHWM: it has ended"))
    }

    /// Stops the driver as oned does: `FINALIZE`, both pipes closed at once, ten seconds to go.
    ///
    /// # Errors
    /// It does not end in time, or there was a breach of the protocol.
    pub fn finalize(mut self) -> Result<Ended, SuiteError> {
        self.say(b"FINALIZE\n")?;
        self.close()
    }

    /// Closes the driver's input without a word and waits for its end.
    ///
    /// # Errors
    /// As [`finalize`](Oned::finalize).
    pub fn close(mut self) -> Result<Ended, SuiteError> {
        let start = Instant::now();
        self.mouth = None;
        let status = self.await_end(start + STOP_DEADLINE)?;
        let took = start.elapsed();
        while let Heard::Bytes(bytes) = self.ear.hear(Instant::now() + Duration::from_secs(1)) {
            self.ledger.listen(&bytes);
        }
        self.ledger.unbroken().map_err(broken)?;
        Ok(Ended { status, took, replies: self.ledger.take_all() })
    }

    /// Kills the driver with SIGKILL, and returns the replies that it had given and nobody had asked for yet. Its children
    /// are not killed: that they end is the driver's affair.
    ///
    /// # Errors
    /// It can't be waited for, or there was a breach of the protocol.
    pub fn kill(mut self) -> Result<Vec<Reply>, SuiteError> {
        self.child.kill().map_err(SuiteError::io("kill the driver"))?;
        let status = self.child.wait().map_err(SuiteError::io("wait for the driver"))?;
        if status.signal().is_none() {
            return Err(broken(format!("had ended before it was killed: {status}")));
        }
        while let Heard::Bytes(bytes) = self.ear.hear(Instant::now() + STOP_DEADLINE) {
            self.ledger.listen(&bytes);
        }
        self.ledger.unbroken().map_err(broken)?;
        Ok(self.ledger.take_all())
    }

    fn await_end(&mut self, limit: Instant) -> Result<ExitStatus, SuiteError> {
        loop {
            match self.child.try_wait().map_err(SuiteError::io("wait for the driver"))? {
                Some(status) => return Ok(status),
                None if Instant::now() > limit => {
                    return Err(broken("did not end within 10 s of the end of its input"));
                }
                // The pipe must not fill up meanwhile: its reader thread drains it.
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Oned {
    fn drop(&mut self) {
        // Ended already is the usual case.
        let _ = self.child.kill();
        let _: io::Result<ExitStatus> = self.child.wait();
    }
}

fn broken(what: impl Into<String>) -> SuiteError {
    SuiteError::Driver(what.into())
}
