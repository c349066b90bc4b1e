//! Numbered datagrams: to a service that sends them back, or to one that answers in its own words.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags};

use super::record::Record;
use super::{Heard, Wire};

/// The largest answer that is looked at; longer ones are cut, which changes nothing.
const BUFFER: usize = 2048;

fn open(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    // Connected, so that only the guest's datagrams come in.
    socket.connect(target)?;
    Ok(socket)
}

/// Reads all that waits on `socket`. A port that nobody listens on is told as an error on the next call, once per
/// question, and must not end the reading.
fn drain(socket: &UdpSocket, mut each: impl FnMut(&[u8])) {
    let mut buffer = [0; BUFFER];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => each(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

/// Sends one datagram. A refusal told here belongs to an earlier one and kept this one from being sent: it is sent again.
fn send(socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
    match socket.send(bytes) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => socket.send(bytes).map(drop),
        result => result.map(drop),
    }
}

/// Questions whose answers carry them back.
pub struct EchoWire {
    socket: UdpSocket,
    nonce: u64,
}

impl EchoWire {
    pub fn open(target: SocketAddr, nonce: u64) -> io::Result<EchoWire> {
        let socket = open(target)?;
        Ok(EchoWire { socket, nonce })
    }
}

impl Wire for EchoWire {
    fn ask(&mut self, sequence: u64) -> io::Result<()> {
        let record = Record { nonce: self.nonce, sequence };
        send(&self.socket, &record.encode())
    }

    fn sockets<'a>(&'a self, out: &mut Vec<PollFd<'a>>) {
        out.push(PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN));
    }

    fn hear(&mut self, _ready: &[usize], each: &mut dyn FnMut(Heard)) {
        let nonce = self.nonce;
        drain(&self.socket, |bytes| match Record::decode(bytes) {
            Some(record) if record.nonce == nonce => each(Heard::Answer(record.sequence)),
            _ => each(Heard::Stray),
        });
    }
}

/// Questions whose answers say nothing: the port that an answer comes back to tells which question it belongs to.
pub struct AnyWire {
    sockets: Vec<UdpSocket>,
    payload: Vec<u8>,
    book: PortBook,
}

impl AnyWire {
    pub fn open(target: SocketAddr, payload: &[u8], sources: u16) -> io::Result<AnyWire> {
        let sockets = (0..sources.max(1)).map(|_| open(target)).collect::<io::Result<Vec<_>>>()?;
        Ok(AnyWire { book: PortBook::new(sockets.len()), payload: payload.to_vec(), sockets })
    }
}

impl Wire for AnyWire {
    fn ask(&mut self, sequence: u64) -> io::Result<()> {
        let port = self.book.port_of(sequence);
        let socket = self.sockets.get(port).ok_or(io::ErrorKind::NotFound)?;
        send(socket, &self.payload)?;
        self.book.asked(sequence);
        Ok(())
    }

    fn sockets<'a>(&'a self, out: &mut Vec<PollFd<'a>>) {
        let wait = |s: &'a UdpSocket| PollFd::from_borrowed_fd(s.as_fd(), PollFlags::IN);
        out.extend(self.sockets.iter().map(wait));
    }

    fn hear(&mut self, ready: &[usize], each: &mut dyn FnMut(Heard)) {
        for port in ready {
            let Some(socket) = self.sockets.get(*port) else {
                continue;
            };
            let book = &mut self.book;
            drain(socket, |_| match book.answered(*port) {
                Some(sequence) => each(Heard::Answer(sequence)),
                None => each(Heard::Stray),
            });
        }
    }
}

/// Which questions went out of which port, used in turn.
///
/// An answer is credited to the newest question of its port that has none yet. That is certain as long as the answer
/// comes before the port's turn comes again; later it may shorten a round trip, but never changes when an answer came
/// or how many are missing.
#[derive(Debug)]
struct PortBook {
    open: Vec<Vec<u64>>,
    last: Vec<Option<u64>>,
}

/// Questions remembered per port. With 64 ports at 5 ms the oldest is 20 s back.
const REMEMBERED: usize = 64;

impl PortBook {
    fn new(ports: usize) -> PortBook {
        PortBook { open: vec![Vec::new(); ports], last: vec![None; ports] }
    }

    fn port_of(&self, sequence: u64) -> usize {
        let ports = u64::try_from(self.open.len()).unwrap_or(u64::MAX).max(1);
        usize::try_from(sequence % ports).unwrap_or_default()
    }

    fn asked(&mut self, sequence: u64) {
        let port = self.port_of(sequence);
        if let Some(open) = self.open.get_mut(port) {
            if open.len() == REMEMBERED {
                open.remove(0);
            }
            open.push(sequence);
        }
    }

    /// The question that an answer at `port` belongs to. When none is open it is one answer too many to the port's
    /// last answered question; `None` if there is no such question either.
    fn answered(&mut self, port: usize) -> Option<u64> {
        let last = self.last.get_mut(port)?;
        if let Some(sequence) = self.open.get_mut(port).and_then(Vec::pop) {
            *last = Some(sequence);
        }
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_finds_its_question_by_port() {
        let mut book = PortBook::new(4);
        assert_eq!(book.answered(0), None, "an answer before any question");
        for sequence in 0..8 {
            book.asked(sequence);
        }
        assert_eq!(book.answered(1), Some(5), "the newest of port 1");
        assert_eq!(book.answered(1), Some(1), "then the one before it");
        assert_eq!(book.answered(1), Some(1), "then it is a duplicate");
        assert_eq!(book.answered(3), Some(7));
        assert_eq!(book.answered(9), None);
    }

    proptest! {
        /// Whatever is lost: if each answer comes before its port's next turn, every question is credited rightly.
        #[test]
        fn losses_do_not_shift_the_rest(
            ports in 1usize..20,
            lost in prop::collection::vec(any::<bool>(), 0..200),
            delay in 0usize..20,
        ) {
            let delay = delay % ports;
            let mut book = PortBook::new(ports);
            for now in 0..lost.len() + delay {
                if now < lost.len() {
                    book.asked(now as u64);
                }
                if let Some(answered) = now.checked_sub(delay)
                    && !lost[answered]
                {
                    prop_assert_eq!(book.answered(answered % ports), Some(answered as u64));
                }
            }
        }
    }
}
