//! `cp` into a datastore of another host: the bytes go there in one stream on an ssh session of their own, and become an
//! image there as they would here.
//!
//! ```text
//! front-end: file or downloader ── frames ── ssh ── receive: beside, to the disk, looked at, renamed
//! ```
//!
//! The first frame is the call, the last one is empty. A stream that ends without it ended too early: the script that
//! fetched the bytes failed, or the session did, and nothing becomes an image.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::reach::missing::not_started;
use serde::{Deserialize, Serialize};

use super::import::{compare, descriptor, import, named, script};
use super::remote::Remote;
use super::upload::is_packed;
use super::{DatastoreCall, During, Origin, StorageError, Worker, rbd};
use crate::host::restore;
use crate::pace::Paced;

/// Most bytes of a frame.
pub(super) const FRAME: usize = 64 << 10;
/// Most bytes of an answer.
const ANSWER: u64 = 64 << 10;

/// The first frame.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    pub call: DatastoreCall,
    /// Longest time, in milliseconds.
    pub deadline_ms: u64,
}

/// Sends what `call`, an import, is to be made of, to the program that `ssh` starts; what that printed.
pub(super) fn deliver(
    call: &DatastoreCall,
    ssh: &[String],
    worker: &Worker<'_>,
) -> Result<String, StorageError> {
    let origin =
        call.origin().ok_or_else(|| refused("only what is imported or staged can be sent to a host"))?;
    let (file, checksum) = match origin {
        Origin::File { path, dirs, checksum, .. } => (Some(named(path, dirs)?), checksum),
        Origin::Address { checksum, .. } | Origin::Stream { checksum, .. } => (None, checksum),
        Origin::Host { .. } => (None, &None),
    };
    let unpacked = match (origin, &file) {
        (Origin::File { path, unpack: Some(_), .. }, Some(file)) => is_packed(file, &path.path())?,
        _ => false,
    };
    // What is unpacked on the way is compared before; anything else where it arrives.
    if let (true, Some(wanted), Some(file), Origin::File { path, .. }) = (unpacked, checksum, &file, origin) {
        compare(wanted, file, &path.path())?;
    }
    let checksum = checksum.clone().filter(|_| !unpacked);
    let promised = checksum.is_some();
    // The sum of what is downloaded is that of the archive; to unpack it on the way would be too early.
    let refuses = promised && matches!(origin, Origin::Address { fetch, .. } if fetch.decompress);
    let call = call.clone().made_of(Origin::Stream { checksum, unpacked: refuses });
    let left = worker.deadline.saturating_duration_since(Instant::now());
    let order = Order { call, deadline_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) };
    let order = serde_json::to_vec(&order).map_err(|e| refused(&e.to_string()))?;
    let mut session = Session::start(ssh)?;
    let rate = worker.copying.bytes_per_second;
    let sent = session.frame(&order).and_then(|()| match (origin, &file) {
        (Origin::File { unpack: Some(by), .. }, Some(file)) if unpacked => {
            let tool = script(by, &descriptor(file), by.decompress);
            Ok(tool.stream(worker, |pipe| session.pass(&mut Paced::new(pipe, rate))))
        }
        (Origin::Address { fetch: by, .. }, _) => {
            let tool = script(by, by.address.as_deref().unwrap_or_default(), by.decompress && !promised);
            Ok(tool.stream(worker, |pipe| session.pass(&mut Paced::new(pipe, rate))))
        }
        (Origin::Host { ssh, image, stored }, _) => Ok(match Remote::open(ssh, image, *stored, worker) {
            Ok(mut remote) => match session.pass(&mut remote.bytes()) {
                Ok(()) => Ok(Ok(())),
                Err(e) => match remote.why(broken_off()) {
                    said @ StorageError::Host { .. } => Err(said),
                    _ => Ok(Err(e)),
                },
            },
            Err(error) => Err(error),
        }),
        (_, Some(file)) => Ok(Ok(session.pass(&mut &*file))),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    });
    worker.at("sent");
    let told = match sent {
        Ok(Ok(Ok(()))) => session.end(),
        // A host that refused says why, and that is what broke the pipe.
        Ok(Ok(Err(e))) | Err(e) => session.broken(e),
        Ok(Err(failed)) => {
            session.give_up();
            Err(failed)
        }
    };
    told.map_err(|error| about(origin, error))
}

/// Names what was sent, where the host found it to be wrong: there it has no name.
fn about(origin: &Origin, error: StorageError) -> StorageError {
    match error {
        StorageError::Host { failure } if matches!(failure.kind, Kind::Input | Kind::Refused) => {
            let failure = match origin {
                Origin::File { path, .. } => failure.context(path),
                Origin::Address { fetch, .. } => failure.context(fetch.what.as_deref().unwrap_or("PATH")),
                Origin::Stream { .. } | Origin::Host { .. } => failure,
            };
            StorageError::Host { failure }
        }
        other => other,
    }
}

/// What stands for a stream without an end until somebody says why.
pub(super) fn broken_off() -> StorageError {
    StorageError::Incomplete { path: "what was sent".into(), why: "the stream broke off".to_owned() }
}

pub(super) fn refused(why: &str) -> StorageError {
    StorageError::Host { failure: Failure::new(Kind::Bug, why) }
}

/// An ssh session to a receiver.
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    /// Reads what ssh says of itself, so that it never waits for a reader.
    said: std::thread::JoinHandle<Vec<u8>>,
    host: String,
    /// What the host's shell runs.
    command: String,
}

impl Session {
    fn start(ssh: &[String]) -> Result<Self, StorageError> {
        let (program, words) = ssh.split_first().ok_or_else(|| refused("no words for ssh"))?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().during("start", program)?;
        let host = words.iter().rev().nth(1).cloned().unwrap_or_default();
        let errors = child.stderr.take();
        let said = std::thread::spawn(move || {
            let mut kept = Vec::new();
            if let Some(mut errors) = errors {
                let _ = errors.by_ref().take(ANSWER).read_to_end(&mut kept);
                let _ = io::copy(&mut errors, &mut io::sink());
            }
            kept
        });
        let ran = words.last().cloned().unwrap_or_default();
        Ok(Session { input: child.stdin.take(), child, said, host, command: ran })
    }

    fn frame(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_frame(self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?, bytes)
    }

    fn pass(&mut self, from: &mut impl Read) -> io::Result<()> {
        let mut buffer = vec![0; FRAME];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.frame(buffer.get(..count).unwrap_or_default())?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn end(mut self) -> Result<String, StorageError> {
        match self.frame(&[]) {
            Ok(()) => self.answer(),
            Err(e) => self.broken(e),
        }
    }

    fn broken(self, error: io::Error) -> Result<String, StorageError> {
        match self.answer() {
            Err(said @ StorageError::Host { .. }) => Err(said),
            _ => Err(error).during("send an image to", "the host"),
        }
    }

    /// What the receiver says at its end.
    fn answer(mut self) -> Result<String, StorageError> {
        drop(self.input.take());
        let mut text = Vec::new();
        if let Some(output) = self.child.stdout.take() {
            output.take(ANSWER).read_to_end(&mut text).during("read", "the host's answer")?;
        }
        let status = self.child.wait().during("wait for", "ssh")?;
        let (host, said) = (self.host, self.said.join().unwrap_or_default());
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let silent = || {
            let text = format!("{host}: ssh ended without an answer: {status}: {last}");
            let absent = not_started(status, &host, &self.command);
            absent.unwrap_or_else(|| Failure::new(Kind::Unreachable, text))
        };
        let answer: Result<String, Failure> = serde_json::from_slice(&text).unwrap_or_else(|_| Err(silent()));
        answer.map_err(|failure| StorageError::Host { failure })
    }

    /// Ends it without the last frame.
    fn give_up(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other end: makes an image of what comes on `input`.
///
/// # Errors
/// As the call; the stream is broken, or ended too early.
pub fn receive(mut input: impl Read, worker: &Worker<'_>) -> Result<String, Failure> {
    let wrong =
        |e: &dyn std::fmt::Display| Failure::new(Kind::Input, format!("a stream that is no image: {e}"));
    let first = frame(&mut input).map_err(|e| wrong(&e))?;
    let order: Order = serde_json::from_slice(&first).map_err(|e| wrong(&e))?;
    let deadline = Instant::now() + Duration::from_millis(order.deadline_ms.min(30 * 24 * 3_600_000));
    let worker = Worker { deadline, ..*worker };
    let mut frames = Frames::new(input);
    let made = match (order.call.origin(), &order.call) {
        (
            Some(origin @ Origin::Stream { .. }),
            DatastoreCall::Import { image, format, opened, sparse, .. },
        ) => import(image, origin, *format, *opened, *sparse, Some(&mut frames), &worker),
        (Some(Origin::Stream { .. }), DatastoreCall::Volume(call)) => {
            rbd::perform_on_image(call, Some(&mut frames), &worker)
        }
        (Some(Origin::Stream { .. }), DatastoreCall::Stage { staged, .. }) => {
            restore::stage(staged, &mut frames, &worker).map(|()| String::new())
        }
        _ => return Err(wrong(&"another call")),
    };
    made.map_err(Failure::from)
}

pub(super) fn write_frame(output: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    output.write_all(&length.to_be_bytes())?;
    output.write_all(bytes)
}

pub(super) fn frame(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > FRAME {
        return Err(io::Error::other("a frame above the limit"));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The bytes inside the frames, up to the empty one; an earlier end is an error.
pub(super) struct Frames<R> {
    input: R,
    rest: io::Cursor<Vec<u8>>,
    ended: bool,
}

impl<R> Frames<R> {
    pub(super) fn new(input: R) -> Self {
        Frames { input, rest: io::Cursor::new(Vec::new()), ended: false }
    }

    /// Whether the empty frame has come.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.rest.read(buffer)?;
            if count > 0 || self.ended || buffer.is_empty() {
                return Ok(count);
            }
            let next = frame(&mut self.input)?;
            self.ended = next.is_empty();
            self.rest = io::Cursor::new(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(pieces: &[Vec<u8>]) -> Vec<u8> {
        let one =
            |piece: &Vec<u8>| [&u32::try_from(piece.len()).unwrap().to_be_bytes(), piece.as_slice()].concat();
        pieces.iter().flat_map(one).collect()
    }

    proptest! {
        #[test]
        fn frames_come_back_and_none_is_missed(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..6), cut: u16,
        ) {
            let mut stream = framed(&pieces);
            stream.extend([0; 4]);
            let read = |stream: &[u8]| {
                let mut all = Vec::new();
                let mut frames = Frames::new(stream);
                frames.read_to_end(&mut all).map(|_| all)
            };
            prop_assert_eq!(read(&stream).unwrap(), pieces.concat());
            let cut = usize::from(cut) % stream.len();
            prop_assert!(read(&stream[..cut]).is_err());
        }
    }
}
