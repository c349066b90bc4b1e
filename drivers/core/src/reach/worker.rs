//! Children that touch file systems, so that we don't have to.
//!
//! A file system on a dead NFS server stops whoever asks it something, and nothing but a kill ends that. So every file
//! operation is done by a child: it is kept, because starting one costs more than most operations, and it is killed
//! and replaced when a call outlives its deadline.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;

use crate::answer::{Failure, Kind};
use crate::reach::frame::{self, FRAME_LIMIT};

struct Running {
    // Killed when dropped.
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

/// A few workers of one kind, started when they are first needed.
pub struct Workers {
    command: Vec<OsString>,
    idle: Mutex<Vec<Running>>,
    room: Semaphore,
}

impl Workers {
    /// At most `count` workers, each started as `command`.
    pub fn new(command: Vec<OsString>, count: usize) -> Self {
        Workers { command, idle: Mutex::new(Vec::new()), room: Semaphore::new(count) }
    }

    /// Has a worker answer `request`.
    ///
    /// # Errors
    /// What the worker answers; [`Kind::Timeout`] when it does not, in which case it was killed.
    pub async fn call<Q, A>(&self, request: &Q, deadline: Duration) -> Result<A, Failure>
    where
        Q: Serialize,
        A: DeserializeOwned,
    {
        let late = || Failure::new(Kind::Timeout, format!("no answer from the file system within {deadline:?}"));
        let talk = async {
            let _room = self.room.acquire().await.map_err(|e| Failure::new(Kind::Bug, e))?;
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut worker = match idle {
                Some(worker) => worker,
                None => self.start()?,
            };
            // A future dropped in here takes the worker with it: a half-spoken dialogue can't be taken up again.
            let broken = |e| Failure::from_chain(Kind::HostState, &e).context("file worker");
            frame::write(&mut worker.input, request).await.map_err(broken)?;
            let answer = frame::read::<Result<A, Failure>>(&mut worker.output).await.map_err(broken)?;
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
            answer
        };
        tokio::time::timeout(deadline, talk).await.unwrap_or_else(|_| Err(late()))
    }

    fn start(&self) -> Result<Running, Failure> {
        let (program, args) = self.command.split_first().ok_or_else(|| Failure::new(Kind::Bug, "no worker command"))?;
        let mut command = Command::new(program);
        // Its own group: a signal meant for the driver does not cut a copy short.
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let failed = |e: io::Error| Failure::new(Kind::HostState, e).context("cannot start a file worker");
        let mut child = command.spawn().map_err(failed)?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Running { _child: child, input, output }),
            _ => Err(Failure::new(Kind::Bug, "a file worker without pipes")),
        }
    }
}

/// The worker's side: answers requests from standard input until it ends.
///
/// # Errors
/// A broken pipe or frame; the parent has gone or is not ours.
pub fn serve<Q, A>(answer: impl Fn(Q) -> Result<A, Failure>) -> io::Result<()>
where
    Q: DeserializeOwned,
    A: Serialize,
{
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    loop {
        let mut prefix = [0; 4];
        match input.read_exact(&mut prefix) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
        if length > FRAME_LIMIT {
            return Err(io::Error::other("a frame above the limit"));
        }
        let mut bytes = vec![0; length];
        input.read_exact(&mut bytes)?;
        let reply = match serde_json::from_slice(&bytes) {
            Ok(request) => answer(request),
            Err(e) => Err(Failure::new(Kind::Bug, e).context("file worker")),
        };
        output.write_all(&frame::encode(&reply).map_err(io::Error::other)?)?;
        output.flush()?;
    }
}
