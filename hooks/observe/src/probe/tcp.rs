//! Numbered records on one long-lived connection to an echo service.
//!
//! The connection is the point: a move that keeps it open is one that applications survive. If it breaks, that is
//! recorded, and a new one is opened so that the length of the silence is still seen.
//!
//! ```text
//! Up ──read 0, reset, or bytes that are not ours──> Down ──next question, 20 ms at the earliest──> Opening
//! Up <──────────────── connected ───────────────────────────────────────────────────────────────── Opening
//!                                                   Down <──── refused, or 250 ms without answer ─ Opening
//! ```
//!
//! A question that falls due while nothing can be written (a full buffer, no connection) counts as *not sent*: it is not
//! put aside and sent later, which would blur when it was asked. The error that goes with it says why there is no
//! connection. The first connection is made like every other: a guest may still be starting its service.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::record::{LENGTH, Record};
use super::{Heard, Wire};

const RETRY: Duration = Duration::from_millis(20);
/// A new attempt sends a new SYN at once; the kernel would repeat the old one after a second at the earliest.
const OPENING: Duration = Duration::from_millis(250);

enum State {
    Up {
        stream: TcpStream,
        /// The end of a record that the kernel took only in part.
        unsent: Vec<u8>,
        records: Reassembly,
    },
    Opening {
        socket: OwnedFd,
        since: Instant,
        /// Why the attempt before this one came to nothing.
        why: io::ErrorKind,
    },
    Down {
        since: Instant,
        why: io::ErrorKind,
    },
}

pub struct TcpWire {
    target: SocketAddr,
    nonce: u64,
    state: State,
}

impl TcpWire {
    pub fn new(target: SocketAddr, nonce: u64) -> TcpWire {
        let mut wire = TcpWire { target, nonce, state: down(io::ErrorKind::NotConnected) };
        let first = wire.reopen(io::ErrorKind::NotConnected);
        wire.state = first.unwrap_or_else(|error| down(error.kind()));
        wire
    }

    /// Begins a new connection without waiting for it.
    fn reopen(&self, why: io::ErrorKind) -> io::Result<State> {
        let family = match self.target {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        match connect(&socket, &self.target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {
                Ok(State::Opening { socket, since: Instant::now(), why })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn down(why: io::ErrorKind) -> State {
    State::Down { since: Instant::now(), why }
}

fn up(stream: TcpStream, nonce: u64) -> io::Result<State> {
    stream.set_nonblocking(true)?;
    // Each record leaves when it is due, not when a segment is full.
    stream.set_nodelay(true)?;
    Ok(State::Up { stream, unsent: Vec::new(), records: Reassembly::new(nonce) })
}

impl Wire for TcpWire {
    fn ask(&mut self, sequence: u64) -> io::Result<()> {
        match &mut self.state {
            State::Up { stream, unsent, .. } => {
                flush(stream, unsent)?;
                let record = Record { nonce: self.nonce, sequence };
                let bytes = record.encode();
                let taken = stream.write(&bytes)?;
                unsent.extend(bytes.get(taken..).unwrap_or_default());
                Ok(())
            }
            State::Opening { since, why, .. } => {
                let why = *why;
                if since.elapsed() >= OPENING {
                    self.state = down(io::ErrorKind::TimedOut);
                }
                Err(why.into())
            }
            State::Down { since, why } => {
                let why = *why;
                if since.elapsed() >= RETRY {
                    self.state = self.reopen(why).unwrap_or_else(|error| down(error.kind()));
                }
                Err(why.into())
            }
        }
    }

    fn sockets<'a>(&'a self, out: &mut Vec<PollFd<'a>>) {
        match &self.state {
            State::Up { stream, .. } => {
                out.push(PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN));
            }
            State::Opening { socket, .. } => {
                out.push(PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT));
            }
            State::Down { .. } => {}
        }
    }

    fn hear(&mut self, _ready: &[usize], each: &mut dyn FnMut(Heard)) {
        let state = std::mem::replace(&mut self.state, down(io::ErrorKind::NotConnected));
        self.state = match state {
            State::Up { mut stream, unsent, mut records } => match listen(&mut stream, &mut records, each) {
                Ok(()) => State::Up { stream, unsent, records },
                Err(error) => {
                    tracing::debug!(target = %self.target, %error, "connection broke");
                    each(Heard::Broke);
                    down(error.kind())
                }
            },
            State::Opening { socket, .. } => {
                let connected = match sockopt::socket_error(&socket) {
                    Ok(result) => result.map_err(io::Error::from),
                    Err(error) => Err(error.into()),
                };
                connected
                    .and_then(|()| up(TcpStream::from(socket), self.nonce))
                    .unwrap_or_else(|error| down(error.kind()))
            }
            state @ State::Down { .. } => state,
        };
    }
}

/// Sends the rest of a record; an error if some of it is still left.
fn flush(stream: &mut TcpStream, unsent: &mut Vec<u8>) -> io::Result<()> {
    while !unsent.is_empty() {
        let taken = stream.write(unsent)?;
        unsent.drain(..taken);
    }
    Ok(())
}

/// Reads all there is; an error if the connection is over, or carries what we did not send.
fn listen(stream: &mut TcpStream, records: &mut Reassembly, each: &mut dyn FnMut(Heard)) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                if !records.push(bytes, &mut |sequence| each(Heard::Answer(sequence))) {
                    each(Heard::Stray);
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Cuts the stream that comes back into records again.
struct Reassembly {
    nonce: u64,
    rest: Vec<u8>,
}

impl Reassembly {
    fn new(nonce: u64) -> Reassembly {
        Reassembly { nonce, rest: Vec::new() }
    }

    /// Takes the next bytes and hands each complete record's number to `each`; `false` if the stream is not an echo of
    /// what this probe sends.
    fn push(&mut self, bytes: &[u8], each: &mut dyn FnMut(u64)) -> bool {
        self.rest.extend_from_slice(bytes);
        let mut chunks = self.rest.chunks_exact(LENGTH);
        for chunk in &mut chunks {
            match Record::decode(chunk) {
                Some(record) if record.nonce == self.nonce => each(record.sequence),
                _ => return false,
            }
        }
        self.rest = chunks.remainder().to_vec();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stream_that_is_not_an_echo_is_told() {
        let mut records = Reassembly::new(1);
        let other = Record { nonce: 2, sequence: 0 }.encode();
        assert!(!records.push(&other, &mut |_| panic!("not ours")));
        let mut records = Reassembly::new(1);
        assert!(!records.push(b"SSH-2.0-OpenSSH_9.2p1 Debian-2", &mut |_| panic!("not ours")));
    }

    proptest! {
        #[test]
        fn records_come_out_however_the_stream_is_cut(count in 0u64..40, cuts in prop::collection::vec(1usize..70, 1..60)) {
            let stream: Vec<u8> = (0..count)
                .flat_map(|sequence| Record { nonce: 9, sequence }.encode())
                .collect();
            let (mut records, mut got, mut rest) = (Reassembly::new(9), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                prop_assert!(records.push(now, &mut |sequence| got.push(sequence)));
                rest = later;
            }
            prop_assert_eq!(got, (0..count).collect::<Vec<_>>());
        }
    }
}
