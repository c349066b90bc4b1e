//! Captures around one move: the source tap, the destination tap and the observer.
//!
//! Each is a child that writes a capture to its standard output, such as `tcpdump -Q in -U --immediate-mode -w -`; its argv may
//! begin with `ip netns exec` or `nsenter`, which is how one process sees into several hosts of a lab. All stamps come
//! from the kernel's one wall clock there; captures on different machines are only as good as their clocks agree, and a
//! contradiction between the taps is reported instead of a number.
//!
//! The destination tap does not exist before the move, and the source tap vanishes with it: a capture that ends is
//! started again every 50 ms until the move is over.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use causeway_core::names::Mac;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::child::Child;
use crate::mover::last_line;
use crate::pcap::{PcapError, PcapReader};
use crate::plan::{CapturePlan, Leg, Place};
use crate::share::{NetworkShare, ShareError, Stamp, network_share};

const RESTART: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(20);
/// How long an ended capture may take to write the frames it still holds.
const FLUSH: Duration = Duration::from_secs(2);
/// Frames of the guest that one capture keeps; 8 bytes each.
const MAX_STAMPS: usize = 5_000_000;

/// Why a move has no network share.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// A capture's command could not be run, or its log not be written.
    #[error("cannot run the capture of the {place}")]
    Run {
        /// Which capture.
        place: Tap,
        /// What the system said.
        source: io::Error,
    },
    /// A capture did not begin.
    #[error("the capture of the {place} did not begin: {said}")]
    NotStarted {
        /// Which capture.
        place: Tap,
        /// The last thing its command said.
        said: String,
    },
    /// A capture runs and does not see the guest, which is being probed: a wrong device or address.
    #[error("the capture of the {place} saw no frame from {mac}")]
    NoGuest {
        /// Which capture.
        place: Tap,
        /// The guest's address in the plan.
        mac: Mac,
    },
    /// A capture's output is not a capture.
    #[error("the capture of the {place} cannot be read")]
    Format {
        /// Which capture.
        place: Tap,
        /// What is wrong with it.
        source: PcapError,
    },
    /// More frames than are kept.
    #[error("the capture of the {place} holds more than {MAX_STAMPS} frames of the guest")]
    TooMany {
        /// Which capture.
        place: Tap,
    },
    /// A capture's thread panicked; what it would have seen is unknown.
    #[error("the thread that reads the capture of the {place} died")]
    Died {
        /// Which capture.
        place: Tap,
    },
    /// The captures do not tell the share.
    #[error(transparent)]
    Share(#[from] ShareError),
}

/// Which of the three captures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tap {
    /// The guest's tap on the host it leaves.
    Source,
    /// The guest's tap on the host it goes to.
    Destination,
    /// Where the observer is.
    Observer,
}

impl std::fmt::Display for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tap::Source => "source tap",
            Tap::Destination => "destination tap",
            Tap::Observer => "observer",
        })
    }
}

/// The three captures of one move, running.
#[derive(Debug)]
pub(crate) struct Capture {
    source: Listener,
    destination: Listener,
    observer: Listener,
}

impl Capture {
    /// Starts the captures of the move of `leg`; `fill` fills the places of their commands, `log` names their logs.
    pub fn start(
        plan: &CapturePlan,
        leg: &Leg,
        fill: &dyn Fn(Place) -> String,
        log: &dyn Fn(&str) -> PathBuf,
    ) -> Result<Capture, CaptureError> {
        let listen = |tap: Tap, word: &str| {
            let argv = match tap {
                Tap::Source => plan.host(&leg.from),
                Tap::Destination => plan.host(&leg.to),
                Tap::Observer => Some(&plan.observer),
            };
            let argv = argv.map(|argv| argv.fill(fill)).unwrap_or_default();
            Listener::start(tap, argv, log(word), plan.mac)
        };
        Ok(Capture {
            source: listen(Tap::Source, "source")?,
            destination: listen(Tap::Destination, "destination")?,
            observer: listen(Tap::Observer, "observer")?,
        })
    }

    /// Whether the captures that can see the guest before the move do. A capture that merely runs is not enough: a move
    /// that silences the guest at once would leave nothing on the source tap.
    pub fn is_ready(&self) -> bool {
        self.source.has_seen() && self.observer.has_seen()
    }

    /// Whether waiting longer is of no use: they run, or one of them never will.
    pub fn is_decided(&self) -> bool {
        self.is_ready() || self.source.is_over() || self.observer.is_over()
    }

    /// Ends the captures and tells why they do not run.
    pub fn failure(self) -> CaptureError {
        let blind = if self.source.has_seen() { Tap::Observer } else { Tap::Source };
        let mac = self.source.mac;
        // The one that ended by itself goes first: the other is ended here, and may only not have come to begin.
        let (first, second) =
            if self.observer.is_over() { (self.observer, self.source) } else { (self.source, self.observer) };
        let (first, second) = (first.finish(), second.finish());
        first.err().or(second.err()).unwrap_or(CaptureError::NoGuest { place: blind, mac })
    }

    /// Ends the captures and tells the network's share.
    pub fn finish(self) -> Result<NetworkShare, CaptureError> {
        for listener in [&self.source, &self.destination, &self.observer] {
            listener.stop.store(true, Ordering::Relaxed);
        }
        let source = self.source.finish()?;
        let destination = self.destination.finish()?;
        let observer = self.observer.finish()?;
        Ok(network_share(&source, &destination, &observer)?)
    }
}

/// One capture in a thread of its own. Dropping it ends the thread and its child.
#[derive(Debug)]
struct Listener {
    tap: Tap,
    log: PathBuf,
    mac: Mac,
    started: Arc<AtomicBool>,
    seen: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Stamp>, CaptureError>>>,
}

impl Listener {
    fn start(tap: Tap, argv: Vec<String>, log: PathBuf, mac: Mac) -> Result<Listener, CaptureError> {
        let started = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            tap,
            argv,
            log: log.clone(),
            mac,
            started: Arc::clone(&started),
            seen: Arc::clone(&seen),
            stop: Arc::clone(&stop),
            stamps: Vec::new(),
        };
        let failed = |source| CaptureError::Run { place: tap, source };
        // Both are found out here, where they can still keep the move from being made.
        File::create(&log).map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || worker.run())
            .map_err(failed)?;
        Ok(Listener { tap, log, mac, started, seen, stop, thread: Some(thread) })
    }

    fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    fn has_seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn finish(mut self) -> Result<Vec<Stamp>, CaptureError> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        let stamps = match joined {
            Some(Ok(result)) => result?,
            Some(Err(_)) | None => return Err(CaptureError::Died { place: self.tap }),
        };
        if self.has_started() {
            Ok(stamps)
        } else {
            let said = last_line(&self.log).ok().filter(|line| !line.is_empty());
            let said = said.unwrap_or_else(|| "it said nothing".to_owned());
            Err(CaptureError::NotStarted { place: self.tap, said })
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its findings are not wanted any more; a panic was told by the hook.
            let _ = thread.join();
        }
    }
}

fn append_to(log: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(log)
}

struct Worker {
    tap: Tap,
    argv: Vec<String>,
    log: PathBuf,
    mac: Mac,
    started: Arc<AtomicBool>,
    seen: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    stamps: Vec<Stamp>,
}

impl Worker {
    fn run(mut self) -> Result<Vec<Stamp>, CaptureError> {
        while !self.stopped() {
            self.listen_once()?;
            // The device is not there yet, or not there any more: ask again soon, but leave the processor to the guest.
            let ended = Instant::now();
            while ended.elapsed() < RESTART && !self.stopped() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(self.stamps)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Runs the command once, until it ends or the capture is to stop.
    fn listen_once(&mut self) -> Result<(), CaptureError> {
        let place = self.tap;
        let failed = |source| CaptureError::Run { place, source };
        let log = append_to(&self.log).map_err(failed)?;
        let mut child = Child::start(&self.argv, log, true).map_err(failed)?;
        let Some(mut output) = child.take_output() else {
            return Ok(());
        };
        let mut reader = PcapReader::new();
        let mut asked: Option<Instant> = None;
        loop {
            if self.stopped() && asked.is_none() {
                child.ask_to_end();
                asked = Some(Instant::now());
            }
            if asked.is_some_and(|at| at.elapsed() >= FLUSH) {
                return Ok(());
            }
            let mut buffer = [0; 16 * 1024];
            match read_soon(&mut output, &mut buffer).map_err(failed)? {
                Piece::Nothing => {}
                Piece::End => return Ok(()),
                Piece::Bytes(length) => {
                    self.take(&mut reader, buffer.get(..length).unwrap_or_default())?;
                }
            }
        }
    }

    fn take(&mut self, reader: &mut PcapReader, bytes: &[u8]) -> Result<(), CaptureError> {
        let place = self.tap;
        let (mac, stamps) = (self.mac, &mut self.stamps);
        let result = reader.push(bytes, |frame| {
            if frame.is_from(mac) {
                stamps.push(frame.stamp);
            }
        });
        if reader.started() {
            self.started.store(true, Ordering::Relaxed);
        }
        if !stamps.is_empty() {
            self.seen.store(true, Ordering::Relaxed);
        }
        if stamps.len() > MAX_STAMPS {
            return Err(CaptureError::TooMany { place });
        }
        result.map_err(|source| CaptureError::Format { place, source })
    }
}

/// What a short wait brought.
enum Piece {
    Nothing,
    End,
    Bytes(usize),
}

/// Reads what there is within a short time.
fn read_soon(output: &mut ChildStdout, buffer: &mut [u8]) -> io::Result<Piece> {
    let mut fds = [PollFd::new(output, PollFlags::IN)];
    match poll(&mut fds, Timespec::try_from(LOOK).ok().as_ref()) {
        Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Piece::Nothing),
        Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    match output.read(buffer) {
        Ok(0) => Ok(Piece::End),
        Ok(length) => Ok(Piece::Bytes(length)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Piece::Nothing),
        Err(error) => Err(error),
    }
}
