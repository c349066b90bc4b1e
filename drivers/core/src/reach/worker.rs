//! Children that touch file systems, so that we don't have to.
//!
//! A file system on a dead NFS server stops whoever asks it something, and nothing but a kill ends that. So every file
//! operation is done by a child: it is kept, because starting one costs more than most operations, and it is killed
//! and replaced when a call outlives its deadline.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::process::{Signal, getpgrp, getpid, kill_current_process_group};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;

use crate::answer::{Failure, Kind};
use crate::protocol::Severity;
use crate::reach::frame::{self, FRAME_LIMIT};
use crate::reach::group::{Group, once_ended};

/// What a worker says.
#[derive(Serialize, Deserialize)]
enum Word<A> {
    /// A line for the log, before the answer.
    Note(Severity, String),
    Answer(Result<A, Failure>),
}

struct Running {
    // Killed when dropped, with what it started; before the child, whose number it bears.
    _group: Group,
    child: Child,
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
        self.call_and_listen(request, deadline, |_, _| ()).await
    }

    /// As [`call`](Workers::call), and hears what the worker has to say on the way.
    ///
    /// # Errors
    /// As [`call`](Workers::call).
    pub async fn call_and_listen<Q, A>(
        &self,
        request: &Q,
        deadline: Duration,
        listen: impl Fn(Severity, &str),
    ) -> Result<A, Failure>
    where
        Q: Serialize,
        A: DeserializeOwned,
    {
        let late = || {
            let text = format!(
                "not done within {deadline:?}, and ended: its file system does not answer, or it takes longer than the \
                     settings `deadlines.*` of causeway.toml, or -w, allow"
            );
            Failure::new(Kind::Timeout, text)
        };
        let talk = async {
            let _room = self.room.acquire().await.map_err(|e| Failure::new(Kind::Bug, e))?;
            let mut worker = match self.idle() {
                Some(worker) => worker,
                None => self.start()?,
            };
            // A future dropped in here takes the worker with it: a half-spoken dialogue can't be taken up again.
            let broken = |e| Failure::from_chain(Kind::HostState, &e).context("file worker");
            frame::write(&mut worker.input, request).await.map_err(broken)?;
            let answer = loop {
                match frame::read::<Word<A>>(&mut worker.output).await.map_err(broken)? {
                    Word::Note(severity, text) => listen(severity, &text),
                    Word::Answer(answer) => break answer,
                }
            };
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
            answer
        };
        match tokio::time::timeout(deadline, talk).await {
            Ok(answer) => answer,
            Err(_) => Err(once_ended(late()).await),
        }
    }

    /// A worker that waits for work. One that died meanwhile is passed over.
    fn idle(&self) -> Option<Running> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut worker) = idle.pop() {
            if matches!(worker.child.try_wait(), Ok(None)) {
                return Some(worker);
            }
        }
        None
    }

    fn start(&self) -> Result<Running, Failure> {
        let (program, args) =
            self.command.split_first().ok_or_else(|| Failure::new(Kind::Bug, "no worker command"))?;
        let mut command = Command::new(program);
        // Its own group: a signal meant for the driver does not cut a copy short.
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let failed = |e: io::Error| Failure::new(Kind::HostState, e).context("cannot start a file worker");
        let mut child = command.spawn().map_err(failed)?;
        let group = Group::led_by(&child);
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Running { _group: group, child, input, output }),
            _ => Err(Failure::new(Kind::Bug, "a file worker without pipes")),
        }
    }
}

/// Has a worker of its own answer one request, from a thread that may wait: it ends with its answer. It is in the caller's
/// process group, so that what ends the caller ends it too.
///
/// # Errors
/// What the worker answers; its last words, if it ends without an answer.
pub fn ask_one<Q, A>(
    mut command: std::process::Command,
    request: &Q,
    listen: &dyn Fn(Severity, &str),
) -> Result<A, Failure>
where
    Q: Serialize,
    A: DeserializeOwned,
{
    let broken = |e: io::Error| Failure::new(Kind::HostState, e).context("file worker");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| {
        let program = command.get_program().display();
        Failure::new(Kind::HostState, format!("cannot start {program}: {e}"))
    })?;
    let (input, output, words) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // Drained at once, and passed on: it is the worker's log.
    let words = std::thread::spawn(move || {
        let mut last = String::new();
        for line in
            words.into_iter().flat_map(|w| io::BufRead::lines(io::BufReader::new(w))).map_while(Result::ok)
        {
            eprintln!("{line}");
            last = line;
        }
        last
    });
    let talk = || -> io::Result<Option<Result<A, Failure>>> {
        let (Some(mut input), Some(mut output)) = (input, output) else { return Ok(None) };
        input.write_all(&frame::encode(request).map_err(io::Error::other)?)?;
        while let Some(bytes) = read_message(&mut output)? {
            match serde_json::from_slice(&bytes)? {
                Word::Note(severity, text) => listen(severity, &text),
                Word::Answer(answer) => return Ok(Some(answer)),
            }
        }
        Ok(None)
    };
    // The end of its input is its end.
    let answer = talk();
    let status = child.wait().map_err(broken)?;
    let last = words.join().unwrap_or_default();
    match answer {
        Ok(Some(answer)) => answer,
        Ok(None) | Err(_) if !status.success() => {
            let last = if last.is_empty() { status.to_string() } else { last };
            Err(Failure::new(Kind::HostState, last).context("file worker"))
        }
        Ok(None) => Err(Failure::new(Kind::HostState, "it ended without an answer").context("file worker")),
        Err(e) => Err(broken(e)),
    }
}

/// The worker's side: answers requests from standard input until it ends.
///
/// A worker whose parent goes in the middle of a request ends at once, with everything it started: nobody waits for the
/// answer, and whoever takes the request up again must not find it half at work.
///
/// # Errors
/// A broken pipe or frame; the parent has gone or is not ours.
pub fn serve<Q, A>(answer: impl Fn(Q) -> Result<A, Failure>) -> io::Result<()>
where
    Q: DeserializeOwned,
    A: Serialize,
{
    serve_and_tell(|request, _| answer(request))
}

/// As [`serve`], with something to say on the way.
///
/// # Errors
/// As [`serve`].
pub fn serve_and_tell<Q, A>(
    answer: impl Fn(Q, &dyn Fn(Severity, &str)) -> Result<A, Failure>,
) -> io::Result<()>
where
    Q: DeserializeOwned,
    A: Serialize,
{
    let open = Arc::new(AtomicUsize::new(0));
    let (sender, requests) = mpsc::channel();
    let counter = Arc::clone(&open);
    // Reads on while a request is at work, to see the end of the input.
    std::thread::spawn(move || {
        loop {
            let request = read_message(&mut io::stdin().lock());
            let last = !matches!(request, Ok(Some(_)));
            if last && counter.load(Ordering::SeqCst) > 0 {
                die();
            }
            counter.fetch_add(1, Ordering::SeqCst);
            if sender.send(request).is_err() || last {
                return;
            }
        }
    });
    let output = RefCell::new(io::stdout().lock());
    let say = |word: &Word<A>| -> io::Result<()> {
        let mut output = output.borrow_mut();
        output.write_all(&frame::encode(word).map_err(io::Error::other)?)?;
        output.flush()
    };
    let tell = |severity, text: &str| {
        // A parent that has gone is noticed by the thread that reads.
        let _ = say(&Word::Note(severity, text.to_owned()));
    };
    while let Some(bytes) = requests.recv().unwrap_or(Ok(None))? {
        let reply = match serde_json::from_slice(&bytes) {
            Ok(request) => answer(request, &tell),
            Err(e) => Err(Failure::new(Kind::Bug, e).context("file worker")),
        };
        say(&Word::Answer(reply))?;
        open.fetch_sub(1, Ordering::SeqCst);
    }
    Ok(())
}

/// One message's bytes; none at the end of the input.
fn read_message(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut prefix = [0; 4];
    match input.read_exact(&mut prefix) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > FRAME_LIMIT {
        return Err(io::Error::other("a frame above the limit"));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

fn die() -> ! {
    // A worker leads a group of its own; one that a person started by hand belongs to that person's.
    if getpgrp() == getpid() {
        let _ = kill_current_process_group(Signal::KILL);
    }
    std::process::exit(1);
}
