//! The streams between the two ends: frames in order, a sign of life while there is nothing to say, and an end where the
//! other side has none.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::error::CarryError;
use super::frame::{self, Frame, FrameError, HEAD, RUN, Say};

/// How often an end says that it is there.
const BEAT: Duration = Duration::from_secs(5);
/// How long an end may say nothing at all. A link that is cut without a word ends the session at both ends.
pub const LEASE: Duration = Duration::from_secs(30);

/// What comes in.
pub struct Incoming {
    stream: BufReader<Patient>,
    rest: Vec<u8>,
}

/// A stream that is given up when it is silent for too long.
struct Patient {
    stream: std::fs::File,
    /// When all of it is over.
    deadline: Instant,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = (Instant::now() + LEASE).min(self.deadline);
        loop {
            let left = Timespec::try_from(limit.saturating_duration_since(Instant::now())).ok();
            match poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], left.as_ref()) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return self.stream.read(buffer),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl Incoming {
    /// Reads from that stream, until `deadline`.
    pub fn new(stream: OwnedFd, deadline: Instant) -> Self {
        let patient = Patient { stream: stream.into(), deadline };
        Incoming { stream: BufReader::with_capacity(64 << 10, patient), rest: Vec::new() }
    }

    /// Sets another end.
    pub fn until(&mut self, deadline: Instant) {
        self.stream.get_mut().deadline = deadline;
    }

    /// The next thing that is said, but for signs of life.
    ///
    /// # Errors
    /// [`CarryError::Lost`] at the end of the stream, what the other end has failed of, or a frame that is none.
    pub fn next(&mut self) -> Result<Frame<'_>, CarryError> {
        let kind = loop {
            let mut head = [0; HEAD];
            self.stream.read_exact(&mut head).map_err(lost)?;
            let (kind, length) = frame::head(head)?;
            self.rest.resize(length, 0);
            self.stream.read_exact(&mut self.rest).map_err(lost)?;
            if !matches!(frame::decode(kind, &self.rest)?, Frame::Beat) {
                break kind;
            }
        };
        match frame::decode(kind, &self.rest)? {
            Frame::Say(say) => match *say {
                Say::Failed(failure) => Err(CarryError::Far(failure)),
                other => Ok(Frame::Say(Box::new(other))),
            },
            other => Ok(other),
        }
    }

    /// The next step of the dialogue.
    ///
    /// # Errors
    /// As [`next`](Incoming::next), or something else is said.
    pub fn say(&mut self) -> Result<Say, CarryError> {
        match self.next()? {
            Frame::Say(say) => Ok(*say),
            _ => Err(FrameError::Malformed("a frame out of place").into()),
        }
    }

    /// What the other end failed of, if it said so before its stream ended.
    pub fn last_words(&mut self) -> Option<CarryError> {
        loop {
            match self.next() {
                Ok(_) => {}
                Err(CarryError::Far(failure)) => return Some(CarryError::Far(failure)),
                Err(_) => return None,
            }
        }
    }
}

fn lost(error: io::Error) -> CarryError {
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the other side closed the connection".to_owned(),
        io::ErrorKind::TimedOut => format!("the other side has said nothing for {} s", LEASE.as_secs()),
        _ => error.to_string(),
    };
    CarryError::Lost(why)
}

/// What goes out.
pub struct Outgoing {
    stream: Arc<Mutex<Stream>>,
    // The thread that beats ends with it.
    _beating: Sender<()>,
}

struct Stream {
    stream: std::fs::File,
    buffer: Vec<u8>,
}

impl Stream {
    fn send(&mut self, frame: &Frame<'_>) -> Result<usize, CarryError> {
        self.buffer.clear();
        frame.encode(&mut self.buffer)?;
        self.stream.write_all(&self.buffer).map_err(lost)?;
        Ok(self.buffer.len())
    }
}

impl Outgoing {
    /// Writes to that stream, and says every few seconds that this end is there.
    pub fn new(stream: OwnedFd) -> Self {
        let stream = Arc::new(Mutex::new(Stream { stream: stream.into(), buffer: Vec::new() }));
        let (beating, ended) = channel::<()>();
        let weak = Arc::downgrade(&stream);
        std::thread::spawn(move || {
            while ended.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                let Some(stream) = weak.upgrade() else { return };
                let beaten = stream.lock().unwrap_or_else(PoisonError::into_inner).send(&Frame::Beat);
                if beaten.is_err() {
                    return;
                }
            }
        });
        Outgoing { stream, _beating: beating }
    }

    /// Says something; how many bytes went out.
    ///
    /// # Errors
    /// [`CarryError::Lost`], or a name that no frame can hold.
    pub fn send(&self, frame: &Frame<'_>) -> Result<usize, CarryError> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).send(frame)
    }

    /// Says a step of the dialogue.
    ///
    /// # Errors
    /// As [`send`](Outgoing::send).
    pub fn say(&self, say: Say) -> Result<(), CarryError> {
        self.send(&Frame::Say(Box::new(say))).map(drop)
    }
}

/// Both directions.
pub struct Link {
    /// From the other end.
    pub incoming: Incoming,
    /// To it.
    pub outgoing: Outgoing,
}

impl Link {
    /// Of two streams, until `deadline`.
    ///
    /// # Errors
    /// A stream can't be shared with the thread that beats.
    pub fn new(input: impl AsFd, output: impl AsFd, deadline: Instant) -> io::Result<Self> {
        for stream in [input.as_fd(), output.as_fd()] {
            // A pipe that holds a frame spares both ends from waking for each 64 KiB; a socket is as it is.
            let _ = rustix::pipe::fcntl_setpipe_size(stream, RUN);
        }
        let incoming = Incoming::new(input.as_fd().try_clone_to_owned()?, deadline);
        Ok(Link { incoming, outgoing: Outgoing::new(output.as_fd().try_clone_to_owned()?) })
    }
}
