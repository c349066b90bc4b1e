//! The receiving side.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::wire::{self, BLOCK, PINGS};
use super::{Limits, PathError, Throughput, Token};

/// How long a caller may take to say who it is.
const GREETING: Duration = Duration::from_millis(500);

/// Callers that are listened to at once; further ones are sent away.
const CALLERS: usize = 16;

/// How often the listener looks for callers.
const POLL: Duration = Duration::from_millis(5);

/// Length of the intervals that are counted.
const INTERVAL: Duration = Duration::from_millis(50);

/// A listener for one trial.
#[derive(Debug)]
pub struct Sink {
    listener: TcpListener,
    address: SocketAddr,
    token: Token,
    limits: Limits,
}

impl Sink {
    /// Listens on `address`; port 0 lets the system choose, see [`address`](Sink::address).
    ///
    /// # Errors
    /// The address is not this host's, or is taken.
    pub fn bind(address: SocketAddr, token: Token, limits: Limits) -> Result<Self, PathError> {
        let failed = || PathError::io(format!("listen on {address}"));
        let listener = TcpListener::bind(address).map_err(failed())?;
        listener.set_nonblocking(true).map_err(failed())?;
        Ok(Sink { address: listener.local_addr().map_err(failed())?, listener, token, limits })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the source, counts what it sends, and tells it. Returns within the limits' `wait`, `stream` and once
    /// more `wait`.
    ///
    /// # Errors
    /// [`PathError::Nobody`] if no source with the token came, [`PathError::TooLittle`] if it sent next to nothing,
    /// [`PathError::Io`] if the connection broke.
    pub fn serve(self) -> Result<Throughput, PathError> {
        let limits = self.limits;
        let mut stream = self.admit()?;
        let failed = || PathError::io("talk to the source");
        echo(&mut stream, &limits).map_err(failed())?;
        let intervals = count(&mut stream, &limits).map_err(PathError::io("read the stream"))?;
        let found = Throughput::of(&intervals, 0.0);
        wire::write_report(&mut stream, &found).map_err(failed())?;
        drain(stream, limits.wait);
        enough(found)
    }

    /// The first caller with the right token. The listener ends with this call.
    fn admit(self) -> Result<TcpStream, PathError> {
        let (admitted, first): (Sender<TcpStream>, Receiver<TcpStream>) = mpsc::channel();
        let callers = Arc::new(AtomicUsize::new(0));
        let start = Instant::now();
        while start.elapsed() < self.limits.wait {
            // A failing accept (out of descriptors, an aborted caller) is as good as nobody: time decides.
            if let Ok((stream, _)) = self.listener.accept() {
                let caller = Caller::new(&callers);
                let (admitted, token) = (admitted.clone(), self.token);
                let listen = move || {
                    if let Some(stream) = identify(stream, &token, &caller) {
                        // The first one counts; whoever comes second finds nobody.
                        let _ = admitted.send(stream);
                    }
                };
                // Without a thread the caller is sent away.
                let _ = thread::Builder::new().spawn(listen);
            }
            if let Ok(stream) = first.recv_timeout(POLL) {
                return Ok(stream);
            }
        }
        Err(PathError::Nobody(self.limits.wait))
    }
}

/// One of the callers that are there at once.
struct Caller {
    all: Arc<AtomicUsize>,
    number: usize,
}

impl Caller {
    fn new(all: &Arc<AtomicUsize>) -> Self {
        Caller { number: all.fetch_add(1, Ordering::SeqCst), all: all.clone() }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::SeqCst);
    }
}

fn identify(mut stream: TcpStream, token: &Token, caller: &Caller) -> Option<TcpStream> {
    if caller.number >= CALLERS {
        return None;
    }
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(GREETING)).ok()?;
    let right = wire::is_greeting(&mut stream, token).ok()?;
    right.then_some(stream)
}

/// Answers the source and gives its pings back, all within one `wait`.
fn echo(stream: &mut TcpStream, limits: &Limits) -> io::Result<()> {
    let start = Instant::now();
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(limits.wait))?;
    wire::answer(stream, limits)?;
    let mut ping = [0];
    for _ in 0..PINGS {
        stream.set_read_timeout(Some(left(start, limits.wait)?))?;
        stream.read_exact(&mut ping)?;
        stream.write_all(&ping)?;
    }
    stream.set_read_timeout(Some(left(start, limits.wait)?))
}

/// What remains of a time; an error if nothing does.
fn left(start: Instant, limit: Duration) -> io::Result<Duration> {
    match limit.saturating_sub(start.elapsed()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Seconds and bytes of each interval, until the source ends or a limit is reached.
fn count(stream: &mut TcpStream, limits: &Limits) -> io::Result<Vec<(f64, u64)>> {
    let mut block = vec![0; BLOCK];
    // The clock starts with the first block, which is not counted: when it was sent is not known.
    let mut open = stream.read(&mut block)? > 0;
    let start = Instant::now();
    let (mut begun, mut within, mut total) = (start, 0, 0);
    let mut intervals = Vec::new();
    stream.set_read_timeout(Some(INTERVAL))?;
    while open && total < limits.bytes && start.elapsed() < limits.stream {
        match stream.read(&mut block) {
            Ok(received) => {
                open = received > 0;
                let bytes = u64::try_from(received).unwrap_or(u64::MAX);
                (within, total) = (within + bytes, total + bytes);
            }
            // A stall: the interval ends without bytes.
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
        if begun.elapsed() >= INTERVAL {
            intervals.push((begun.elapsed().as_secs_f64(), within));
            (begun, within) = (Instant::now(), 0);
        }
    }
    // What remains is an interval too, unless it is so short that its rate is noise.
    if within > 0 && (begun.elapsed() >= INTERVAL / 2 || intervals.is_empty()) {
        intervals.push((begun.elapsed().as_secs_f64(), within));
    }
    Ok(intervals)
}

/// Reads away what is still on its way. Closing at once would reset the connection, and the report with it.
fn drain(mut stream: TcpStream, wait: Duration) {
    let start = Instant::now();
    let mut block = vec![0; BLOCK];
    // The trial is over: whatever goes wrong here, the connection ends.
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    while let Ok(left) = left(start, wait) {
        let read = stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut block));
        if !matches!(read, Ok(1..)) {
            return;
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::WouldBlock | K::TimedOut | K::Interrupted)
}

/// Refuses a trial of which nothing can be said.
pub(super) fn enough(found: Throughput) -> Result<Throughput, PathError> {
    if found.rate > 0.0 && found.bytes > 0 {
        Ok(found)
    } else {
        Err(PathError::TooLittle { bytes: found.bytes, seconds: found.seconds })
    }
}
