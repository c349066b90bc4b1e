//! An image of another host, as a stream (`SOURCE_BRIDGE_LIST`): what a guest wrote to it last, in one file.
//!
//! ```text
//! here: ssh ── order ──> there: lock, newest layer, made whole if it is not ── frames ──> here: an import like any other
//! ```
//!
//! As with what is sent to a host, an empty frame is the end, and a stream without it is no image.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::locks::Mode;
use causeway_core::reach::missing::not_started;
use serde::{Deserialize, Serialize};

use super::copy::head;
use super::deliver::{FRAME, Frames, frame, write_frame};
use super::{During, StorageError, Stored, Tool, Worker, lock};
use crate::host::Scratch;
use crate::place::Image;

/// Most that is read of what ssh complains, bytes.
const COMPLAINT: u64 = 64 << 10;

/// How long a session that sends nothing more may take to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The first frame.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    image: Image,
    stored: Stored,
    /// Longest time, in milliseconds.
    deadline_ms: u64,
}

/// An image that arrives.
pub(super) struct Remote {
    child: Child,
    frames: Frames<ChildStdout>,
    host: String,
    said: Option<std::thread::JoinHandle<String>>,
    /// What the host's shell runs.
    command: String,
}

impl Remote {
    /// Asks for it, over the session that `ssh` opens.
    pub(super) fn open(
        ssh: &[String],
        image: &Image,
        stored: Stored,
        worker: &Worker<'_>,
    ) -> Result<Self, StorageError> {
        let wrong = |why: String| StorageError::Host { failure: Failure::new(Kind::Bug, why) };
        let (program, words) = ssh.split_first().ok_or_else(|| wrong("no words for ssh".to_owned()))?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().during("start", program)?;
        let left = worker.deadline.saturating_duration_since(Instant::now());
        let deadline_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let order = Order { image: image.clone(), stored, deadline_ms };
        let order = serde_json::to_vec(&order).map_err(|e| wrong(e.to_string()))?;
        if let Some(mut input) = child.stdin.take() {
            // A host that refuses says why.
            let _ = write_frame(&mut input, &order);
        }
        let output = child.stdout.take().ok_or_else(|| wrong("no pipe".to_owned()))?;
        let said = child.stderr.take().map(|errors| {
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                let mut errors = errors;
                let _ = errors.by_ref().take(COMPLAINT).read_to_end(&mut kept);
                let _ = io::copy(&mut errors, &mut io::sink());
                String::from_utf8_lossy(&kept).into_owned()
            })
        });
        let host = words.iter().rev().nth(1).cloned().unwrap_or_default();
        let ran = words.last().cloned().unwrap_or_default();
        Ok(Remote { child, frames: Frames::new(output), host, said, command: ran })
    }

    /// Why it broke off: the host's last words, where it had any.
    pub(super) fn why(mut self, error: StorageError) -> StorageError {
        if self.frames.ended() {
            return error;
        }
        let status = self.status();
        if let Some(failure) = status.and_then(|status| not_started(status, &self.host, &self.command)) {
            return StorageError::Host { failure };
        }
        let said = self.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        match said.lines().map(str::trim).rfind(|line| !line.is_empty()) {
            None => error,
            Some(line) => {
                let failure = Failure::new(Kind::Refused, format!("{}: {line}", self.host));
                StorageError::Host { failure }
            }
        }
    }

    /// How it ended: by itself if it does so at once, for then it was not stopped from here.
    fn status(&mut self) -> Option<ExitStatus> {
        let limit = Instant::now() + LAST_WORDS;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        self.child.wait().ok()
    }

    /// Its bytes.
    pub(super) fn bytes(&mut self) -> &mut dyn Read {
        &mut self.frames
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other end: sends the image that is asked for on `input`, within the time that the order gives.
///
/// # Errors
/// As `clone`; the stream then ends without its last frame.
pub fn send(mut input: impl Read, mut output: impl Write, worker: &Worker<'_>) -> Result<(), Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::new(Kind::Input, format!("no order for an image: {e}"));
    let order: Order =
        serde_json::from_slice(&frame(&mut input).map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
    let deadline = Instant::now() + Duration::from_millis(order.deadline_ms.min(30 * 24 * 3_600_000));
    let worker = Worker { deadline, ..*worker };
    let Order { image, stored, .. } = &order;
    let _locks = lock::images(&worker, &[(image, Mode::Shared)])?;
    let head = head(image, *stored)?;
    worker.at("image opened");
    let whole = if head.is_whole() {
        let file = head.file().try_clone().during("open", head.path());
        Whole::AsItIs(file.map_err(Failure::from)?)
    } else {
        // Beside the image, where there is room for images; without a name.
        let made = Scratch::new(&image.datastore().path())?;
        let mut tool =
            Tool::convert((head.path(), stored.as_str()), &made.path(), &worker).map_err(Failure::from)?;
        tool.args(["-O", stored.as_str()]).arg(head.path()).arg(made.path());
        tool.run(&worker)?;
        Whole::Made(made)
    };
    let broken = |e: io::Error| Failure::new(Kind::Unreachable, e).context("send an image");
    let mut buffer = vec![0; FRAME];
    let mut at = 0;
    loop {
        use std::os::unix::fs::FileExt;
        let count = whole.file().read_at(&mut buffer, at).map_err(broken)?;
        write_frame(&mut output, buffer.get(..count).unwrap_or_default()).map_err(broken)?;
        if count == 0 {
            return output.flush().map_err(broken);
        }
        at += u64::try_from(count).unwrap_or(0);
    }
}

/// A file that needs no other.
enum Whole {
    AsItIs(File),
    Made(Scratch),
}

impl Whole {
    fn file(&self) -> &File {
        match self {
            Whole::AsItIs(file) => file,
            Whole::Made(staged) => staged.file(),
        }
    }
}
