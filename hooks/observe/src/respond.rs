//! The other end: a UDP and TCP service that sends every question back.
//!
//! It runs where the probes point to, in the guest, when the guest has no echo service of its own. One thread and one
//! wait serve both protocols, so an answer never waits for another client's.
//!
//! * **UDP**: only datagrams that are a probe's question are answered, each once, to its sender, never with more bytes
//!   than came: the service cannot be used to amplify traffic, and two of them cannot keep each other busy.
//! * **TCP**: whatever comes is sent back. A client that does not read is not read from either once 64 KiB wait for
//!   it; at most 64 clients are served, further ones are closed at once.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::probe::record::Record;

const MAX_CLIENTS: usize = 64;
const MAX_WAITING: usize = 64 * 1024;
/// How often the service looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// A service that has its ports and does not answer yet.
#[derive(Debug)]
pub struct Responder {
    udp: UdpSocket,
    tcp: TcpListener,
    clients: Vec<Client>,
}

impl Responder {
    /// Takes the UDP and TCP port of `address`; with port 0 the kernel chooses each, see [`udp`](Responder::udp) and
    /// [`tcp`](Responder::tcp).
    ///
    /// # Errors
    /// If one of the ports cannot be had.
    pub fn bind(address: SocketAddr) -> io::Result<Responder> {
        let udp = UdpSocket::bind(address)?;
        let tcp = TcpListener::bind(address)?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Responder { udp, tcp, clients: Vec::new() })
    }

    /// Where it takes datagrams.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn udp(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Where it takes connections.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn tcp(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Answers until `stop` is set (looked at every 50 ms).
    ///
    /// # Errors
    /// If waiting itself fails; a client's error only ends that client.
    pub fn serve(mut self, stop: &AtomicBool) -> io::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let ready = self.wait()?;
            if ready.udp {
                self.answer_datagrams();
            }
            // Before new clients are taken in, which have no place in `ready`.
            let mut places = ready.clients.into_iter();
            self.clients.retain_mut(|client| !places.next().unwrap_or(false) || client.serve().is_ok());
            if ready.tcp {
                self.accept();
            }
        }
        Ok(())
    }

    /// Answers in a thread of its own until the returned handle is dropped.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn spawn(self) -> io::Result<Serving> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("respond".to_owned()).spawn({
            let stop = Arc::clone(&stop);
            move || self.serve(&stop)
        })?;
        Ok(Serving { stop, thread: Some(thread) })
    }
}

/// What can be done without waiting.
struct Ready {
    udp: bool,
    tcp: bool,
    clients: Vec<bool>,
}

impl Responder {
    fn wait(&self) -> io::Result<Ready> {
        let mut sockets = vec![
            PollFd::from_borrowed_fd(self.udp.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.tcp.as_fd(), PollFlags::IN),
        ];
        sockets.extend(self.clients.iter().map(Client::poll_fd));
        match poll(&mut sockets, Timespec::try_from(LOOK).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = sockets.iter().map(|fd| fd.revents() != PollFlags::empty());
        Ok(Ready {
            udp: ready.next().unwrap_or_default(),
            tcp: ready.next().unwrap_or_default(),
            clients: ready.collect(),
        })
    }

    fn answer_datagrams(&self) {
        let mut buffer = [0; 2048];
        // An error of one sender (its port is closed) must not keep the others waiting; "nothing more" ends the round.
        loop {
            match self.udp.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let bytes = buffer.get_mut(..length).unwrap_or_default();
                    // A full queue or a vanished client loses this answer, as a network would.
                    if Record::answer_in_place(bytes)
                        && let Err(error) = self.udp.send_to(bytes, from)
                    {
                        tracing::debug!(%from, %error, "answer not sent");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(%error, "datagram not read");
                    return;
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, from)) = self.tcp.accept() {
            if self.clients.len() >= MAX_CLIENTS {
                tracing::warn!(%from, "client refused: {MAX_CLIENTS} are being served");
            } else if stream.set_nonblocking(true).is_ok() && stream.set_nodelay(true).is_ok() {
                self.clients.push(Client { stream, waiting: Vec::new() });
            }
        }
    }
}

/// One connection and what has not been sent back on it yet.
#[derive(Debug)]
struct Client {
    stream: TcpStream,
    waiting: Vec<u8>,
}

impl Client {
    fn poll_fd(&self) -> PollFd<'_> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.waiting.len() < MAX_WAITING);
        flags.set(PollFlags::OUT, !self.waiting.is_empty());
        PollFd::from_borrowed_fd(self.stream.as_fd(), flags)
    }

    /// Reads once and writes what can be written; an error when the connection is over.
    fn serve(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        if self.waiting.len() < MAX_WAITING {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.waiting.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error) => passing(error)?,
            }
        }
        while !self.waiting.is_empty() {
            match self.stream.write(&self.waiting) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => drop(self.waiting.drain(..length)),
                Err(error) => return passing(error),
            }
        }
        Ok(())
    }
}

/// Keeps the errors that say "not now" from ending a connection.
fn passing(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

/// A responder at work; dropping it ends the work and frees the ports.
#[derive(Debug)]
pub struct Serving {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            tracing::warn!(%error, "the responder ended by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn questions_are_answered_and_nothing_else() {
        let responder = Responder::bind(local()).unwrap();
        let target = responder.udp().unwrap();
        let _serving = responder.spawn().unwrap();
        let socket = UdpSocket::bind(local()).unwrap();
        socket.connect(target).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let record = Record { nonce: 1, sequence: 2 };
        let question = record.encode();
        let mut answer = question;
        assert!(Record::answer_in_place(&mut answer));
        // The first two must not be answered, or the one read below would not be the third's.
        socket.send(b"get").unwrap();
        socket.send(&answer).unwrap();
        socket.send(&question).unwrap();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], &answer);
    }

    #[test]
    fn a_client_that_does_not_read_holds_up_nobody() {
        let responder = Responder::bind(local()).unwrap();
        let target = responder.tcp().unwrap();
        let _serving = responder.spawn().unwrap();

        let mut greedy = TcpStream::connect(target).unwrap();
        greedy.set_nonblocking(true).unwrap();
        let block = [7; 65_536];
        // Until the kernel takes no more on either side: the responder has stopped reading.
        let mut still = 0;
        while still < 5 {
            match greedy.write(&block) {
                Ok(taken) => still = usize::from(taken == 0),
                Err(_) => {
                    still += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }

        let mut other = TcpStream::connect(target).unwrap();
        other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        other.write_all(b"still there?").unwrap();
        let mut buffer = [0; 12];
        other.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"still there?");
    }

    #[test]
    fn dropping_it_frees_the_ports() {
        let responder = Responder::bind(local()).unwrap();
        let (udp, tcp) = (responder.udp().unwrap(), responder.tcp().unwrap());
        drop(responder.spawn().unwrap());
        UdpSocket::bind(udp).unwrap();
        TcpListener::bind(tcp).unwrap();
    }
}
