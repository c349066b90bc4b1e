//! The two pipes to a driver process, each served by a thread, so that neither side ever waits for the other.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ChildStdin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How often an ear that hears nothing asks whether it is to be closed, milliseconds.
const GLANCE: u8 = 20;

/// What came from the driver.
#[derive(Debug)]
pub(super) enum Heard {
    /// The bytes of one read.
    Bytes(Vec<u8>),
    /// Nothing until the limit.
    Silence,
    /// The driver has closed its output.
    End,
}

/// The driver's output.
pub(super) struct Ear {
    heard: Receiver<Vec<u8>>,
    closed: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Ear {
    pub(super) fn new(pipe: OwnedFd) -> Self {
        let (sender, heard) = mpsc::channel();
        let closed = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&closed);
        let reader = std::thread::spawn(move || {
            let mut pipe = File::from(pipe);
            let mut chunk = vec![0; 256 << 10];
            while !told.load(Ordering::SeqCst) {
                if poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::from(GLANCE))
                    == Ok(0)
                {
                    continue;
                }
                let Ok(length) = pipe.read(&mut chunk) else { return };
                let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else { return };
                if sender.send(bytes.to_vec()).is_err() {
                    return;
                }
            }
        });
        Ear { heard, closed, reader: Some(reader) }
    }

    /// Closes this end of the pipe: whatever the driver writes from now on, it can't.
    pub(super) fn close(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }

    pub(super) fn hear(&self, limit: Instant) -> Heard {
        match self.heard.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(bytes) => Heard::Bytes(bytes),
            Err(RecvTimeoutError::Timeout) => Heard::Silence,
            Err(RecvTimeoutError::Disconnected) => Heard::End,
        }
    }
}

type Said = (Vec<u8>, Sender<std::io::Result<()>>);

/// The driver's input. Closed when dropped.
pub(super) struct Mouth(Sender<Said>);

impl Mouth {
    pub(super) fn new(mut pipe: ChildStdin) -> Self {
        let (sender, queue) = mpsc::channel::<Said>();
        std::thread::spawn(move || {
            while let Ok((bytes, done)) = queue.recv() {
                let _ = done.send(pipe.write_all(&bytes));
            }
        });
        Mouth(sender)
    }

    /// Writes; fails when the driver has not taken everything in that time.
    pub(super) fn say(&self, bytes: Vec<u8>, deadline: Duration) -> Result<(), String> {
        let (done, wait) = mpsc::channel();
        let length = bytes.len();
        let gone = |_| "has closed its input".to_owned();
        self.0.send((bytes, done)).map_err(|_| gone(()))?;
        match wait.recv_timeout(deadline) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(format!("does not take {length} bytes: {e}")),
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("did not take {length} bytes from its input within {} s", deadline.as_secs()))
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone(())),
        }
    }
}
