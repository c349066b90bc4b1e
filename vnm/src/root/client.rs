//! The unprivileged side of the connection: one child kept for many requests.
//!
//! Every wait has a deadline. A connection that missed one is of no more use, because the late answer would be taken
//! for that of the next request; its child is told to end and reaped.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use causeway_core::names::RequestId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::{self, FrameError};
use super::wire::{CompactMemory, Hello, Inspect, Reconcile, Request, Response, SCHEMA};

/// How the privileged side is started; the sudoers line names the same program.
pub const COMMAND: [&str; 3] = ["sudo", "-n", "/usr/libexec/causeway/causeway-root"];

/// How much of what the child complains about is kept.
const COMPLAINT: usize = 4096;

/// Why the privileged side did not answer. Its own refusals are no such errors: they come in the [`Response`].
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The program could not be started.
    #[error("start {program}")]
    Start {
        /// The program.
        program: String,
        /// The reason.
        source: io::Error,
    },
    /// It ended instead of answering.
    #[error("{program} ended ({status}){}", Complaint(complaint))]
    Ended {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// What it said.
        complaint: String,
    },
    /// It did not answer in time.
    #[error("{program} did not answer within {} ms", waited.as_millis())]
    Late {
        /// The program.
        program: String,
        /// How long it had.
        waited: Duration,
    },
    /// It is of another release.
    #[error(
        "{program} is version {version} (schema {schema}), this side needs schema {SCHEMA}: run `install.sh host` on this host"
    )]
    Mismatch {
        /// The program.
        program: String,
        /// Its version.
        version: String,
        /// Its schema.
        schema: u32,
    },
    /// What it said makes no sense.
    #[error("{program} gave an answer that cannot be read")]
    Answer {
        /// The program.
        program: String,
        /// What is wrong with it.
        source: FrameError,
    },
    /// It answered another request.
    #[error("{program} answered another request than {id}")]
    Stray {
        /// The program.
        program: String,
        /// The request that is unanswered.
        id: String,
    },
}

/// What a child said before it ended.
struct Complaint<'a>(&'a str);

impl std::fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

/// A connection to the privileged side.
pub struct RootClient {
    program: String,
    child: Option<Child>,
    input: Option<ChildStdin>,
    output: ChildStdout,
    errors: ChildStderr,
    complaint: Vec<u8>,
    /// Bytes that came and were not taken yet.
    received: Vec<u8>,
}

impl RootClient {
    /// Starts the program and checks its hello; `argv` is [`COMMAND`] unless a test says otherwise.
    ///
    /// # Errors
    /// It cannot be started, ends, is late, or is of another release.
    pub fn start<S: AsRef<str>>(argv: &[S], deadline: Duration) -> Result<Self, ClientError> {
        let mut words = argv.iter().map(AsRef::as_ref);
        let first = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let program = rest.last().copied().unwrap_or(first).to_owned();
        let failed = |source| ClientError::Start { program: program.clone(), source };
        let mut command = Command::new(first);
        command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let missing = || failed(io::ErrorKind::BrokenPipe.into());
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut client = RootClient {
            input: Some(input.ok_or_else(missing)?),
            output: output.ok_or_else(missing)?,
            errors: errors.ok_or_else(missing)?,
            program: program.clone(),
            child: Some(child),
            complaint: Vec::new(),
            received: Vec::new(),
        };
        let input = client.input.as_ref().map(AsFd::as_fd);
        for stream in input.into_iter().chain([client.output.as_fd(), client.errors.as_fd()]) {
            rustix::io::ioctl_fionbio(stream, true).map_err(|e| failed(e.into()))?;
        }
        let hello: Hello = client.exchange(&[], deadline)?;
        if hello.schema == SCHEMA {
            return Ok(client);
        }
        Err(ClientError::Mismatch { program, version: hello.version, schema: hello.schema })
    }

    /// Sends a request and waits for its response. After an error the connection is closed; start another.
    ///
    /// # Errors
    /// As the variants of [`ClientError`] say; whether the action was done is then unknown, and asking again is safe.
    pub fn call(&mut self, request: &Request, deadline: Duration) -> Result<Response, ClientError> {
        self.ask(request, &request.id, deadline)
    }

    /// Has the host's memory compacted.
    ///
    /// # Errors
    /// As [`call`](RootClient::call).
    pub fn compact_memory(&mut self, id: &RequestId, deadline: Duration) -> Result<Response, ClientError> {
        self.ask(&CompactMemory { compact_memory: id.clone() }, id, deadline)
    }

    /// Has the networks of all guests brought back to what is reserved for them.
    ///
    /// # Errors
    /// As [`call`](RootClient::call).
    pub fn reconcile(&mut self, ask: &Reconcile, deadline: Duration) -> Result<Response, ClientError> {
        self.ask(ask, &ask.reconcile, deadline)
    }

    /// Has the host inspected; the response's notes are what was found.
    ///
    /// # Errors
    /// As [`call`](RootClient::call).
    pub fn inspect(&mut self, id: &RequestId, deadline: Duration) -> Result<Response, ClientError> {
        self.ask(&Inspect { inspect: id.clone() }, id, deadline)
    }

    fn ask(
        &mut self,
        what: &impl Serialize,
        asked: &RequestId,
        deadline: Duration,
    ) -> Result<Response, ClientError> {
        let program = self.program.clone();
        let bytes = frame::encode(what).map_err(|source| ClientError::Answer { program, source })?;
        let response: Response = self.exchange(&bytes, deadline)?;
        match &response.id {
            Some(id) if id != asked => {
                self.close();
                Err(ClientError::Stray { program: self.program.clone(), id: asked.to_string() })
            }
            _ => Ok(response),
        }
    }

    /// Ends the connection and leaves the child to end by itself, for a caller that ends too: the kernel takes some 15 ms to close the
    /// socket that a guest was announced by, and a process that has it can't end before.
    pub fn let_go(mut self) {
        self.input = None;
        self.child = None;
    }

    /// Whether a call can still be made.
    pub fn is_open(&self) -> bool {
        self.input.is_some()
    }

    /// Writes `bytes` and reads one frame, whatever the order in which the pipes become ready.
    fn exchange<T: DeserializeOwned>(&mut self, bytes: &[u8], deadline: Duration) -> Result<T, ClientError> {
        let end = Instant::now() + deadline;
        let mut unsent = bytes;
        loop {
            match self.take_frame() {
                Ok(Some(body)) => return frame::decode(&body).map_err(|source| self.unreadable(source)),
                Ok(None) => {}
                Err(source) => return Err(self.unreadable(source)),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.close();
                return Err(ClientError::Late { program: self.program.clone(), waited: deadline });
            }
            if !matches!(self.turn(&mut unsent, left), Ok(true)) {
                // Its last words may be the answer.
                let _ = drain(&mut self.output, &mut self.received);
                return match self.take_frame() {
                    Ok(Some(body)) => frame::decode(&body).map_err(|source| self.unreadable(source)),
                    _ => Err(self.ended(end)),
                };
            }
        }
    }

    /// The body of the first frame that has come in whole.
    fn take_frame(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let Some((prefix, body)) = self.received.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = frame::length(*prefix)?;
        let Some(body) = body.get(..length).map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        self.received.drain(..4 + length);
        Ok(Some(body))
    }

    /// Waits once and moves what can be moved; false when the child has closed its output.
    fn turn(&mut self, unsent: &mut &[u8], left: Duration) -> io::Result<bool> {
        let Some(input) = self.input.as_mut() else {
            return Ok(false);
        };
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut ready =
            vec![PollFd::new(&self.output, PollFlags::IN), PollFd::new(&self.errors, PollFlags::IN)];
        if !unsent.is_empty() {
            ready.push(PollFd::new(&*input, PollFlags::OUT));
        }
        match poll(&mut ready, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => return Ok(true),
            other => other?,
        };
        if !unsent.is_empty() {
            match input.write(unsent) {
                Ok(n) => *unsent = unsent.get(n..).unwrap_or_default(),
                Err(error) if is_not_yet(&error) => {}
                Err(error) => return Err(error),
            }
        }
        drain(&mut self.errors, &mut self.complaint)?;
        let excess = self.complaint.len().saturating_sub(COMPLAINT);
        self.complaint.drain(..excess);
        drain(&mut self.output, &mut self.received)
    }

    fn unreadable(&mut self, source: FrameError) -> ClientError {
        self.close();
        ClientError::Answer { program: self.program.clone(), source }
    }

    /// The child closed its side: says how it ended, as far as that is known by `end`.
    fn ended(&mut self, end: Instant) -> ClientError {
        self.input = None;
        let mut status = "no status".to_owned();
        while let Some(child) = self.child.as_mut() {
            match child.try_wait() {
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
                Ok(Some(found)) => {
                    status = describe(found);
                    self.child = None;
                }
                _ => break,
            }
        }
        let _ = drain(&mut self.errors, &mut self.complaint);
        let complaint = causeway_core::answer::one_line(&String::from_utf8_lossy(&self.complaint));
        self.close();
        ClientError::Ended { program: self.program.clone(), status, complaint }
    }

    /// Ends the connection. The end of its input tells the child to end; as the child of `sudo` it is root's, and a
    /// signal of ours may not reach it.
    fn close(&mut self) {
        self.input = None;
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            if !matches!(child.try_wait(), Ok(Some(_))) {
                // It ends after the action it is in; somebody has to take its status.
                std::thread::spawn(move || child.wait());
            }
        }
    }
}

impl Drop for RootClient {
    fn drop(&mut self) {
        self.input = None;
        // Between two requests the child ends as soon as its input does.
        let end = Instant::now() + Duration::from_millis(100);
        while let Some(child) = self.child.as_mut() {
            match child.try_wait() {
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
                Ok(None) => break,
                _ => self.child = None,
            }
        }
        self.close();
    }
}

/// Reads what is there; false at the end of the stream.
fn drain(stream: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; 65536];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(n) => into.extend(chunk.get(..n).unwrap_or_default()),
            Err(error) if is_not_yet(&error) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => "killed by a signal".to_owned(),
    }
}
