//! Somebody in a guest's network, outside both hosts: what it reaches, and what it keeps up while the guest moves.

use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use causeway_observe::moment::Clock;
use causeway_observe::plan::{Address, ProbeKind, ProbePlan, UdpAnswers};
use causeway_observe::probe::Probe;

use super::far::within;
use super::{FRONT_END, Lab, LabError, guest};

/// How long an answer may take: a first one waits for ARP, and for a guest under an interpreter.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Between two questions of a probe.
const INTERVAL: Duration = Duration::from_millis(10);

/// The smallest buffer that the kernel gives: more than some tens of KiB can then not be written unless they are acknowledged.
const BUFFER: usize = 4608;

/// What came of a connection that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knock {
    /// There is one.
    Open,
    /// The guest says that nobody listens: nothing kept the frames away.
    Refused,
    /// Nothing came back.
    Silent,
}

/// Somebody outside both hosts with an address of its own in a guest's network.
#[derive(Debug)]
pub struct Observer<'a> {
    lab: &'a Lab,
    place: &'static str,
    namespace: PathBuf,
    device: String,
}

impl<'a> Observer<'a> {
    /// Joins a VXLAN network.
    ///
    /// # Errors
    /// It can't be joined.
    pub fn in_vxlan(lab: &'a Lab, vni: u32) -> Result<Observer<'a>, LabError> {
        let device = lab.run(&["observer", &vni.to_string(), guest::OBSERVER])?;
        Ok(Observer::new(lab, "fab", &device))
    }

    /// Joins a VLAN of the hosts' second cables, or with 0 what goes there without a tag. Needs
    /// [`super::Standing::with_switches`].
    ///
    /// # Errors
    /// It can't be joined.
    pub fn in_vlan(lab: &'a Lab, vid: u32) -> Result<Observer<'a>, LabError> {
        let device = lab.run(&["observer-vlan", &vid.to_string(), guest::OBSERVER])?;
        Ok(Observer::new(lab, FRONT_END, &device))
    }

    /// Gives the lab's physical switch an address in the guest's network, which is bare of any tunnel or tag.
    ///
    /// # Errors
    /// It can't have it.
    pub fn at_the_fabric(lab: &'a Lab) -> Result<Observer<'a>, LabError> {
        lab.run(&["exec", "fab", "ip", "addr", "add", guest::OBSERVER, "dev", "fab0"])?;
        Ok(Observer::new(lab, "fab", "fab0"))
    }

    fn new(lab: &'a Lab, place: &'static str, device: &str) -> Observer<'a> {
        Observer { lab, place, namespace: lab.network_namespace(place), device: device.trim().to_owned() }
    }

    /// The device by which it is in that network.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Leaves its network.
    ///
    /// # Errors
    /// It can't.
    pub fn leave(&self) -> Result<(), LabError> {
        self.lab.run(&["observer-off"]).map(drop)
    }

    /// Whether that address answers a ping.
    pub fn pings(&self, address: Ipv4Addr) -> bool {
        let address = address.to_string();
        self.lab.run(&["exec", self.place, "ping", "-q", "-c", "1", "-W", "1", &address]).is_ok()
    }

    /// Tries a connection.
    ///
    /// # Errors
    /// It could not be tried.
    pub fn knocks(&self, to: (Ipv4Addr, u16)) -> Result<Knock, LabError> {
        let tried = self.inside(|| TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE))?;
        match tried.map_err(|error| error.kind()) {
            Ok(_) => Ok(Knock::Open),
            Err(ErrorKind::ConnectionRefused) => Ok(Knock::Refused),
            Err(ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::HostUnreachable) => {
                Ok(Knock::Silent)
            }
            Err(kind) => LabError::promise(format!("connect to {to:?}: {kind}")),
        }
    }

    /// Whether a datagram is answered; it is sent twice.
    ///
    /// # Errors
    /// It could not be sent.
    pub fn asks(&self, to: (Ipv4Addr, u16), question: &str) -> Result<bool, LabError> {
        let asked = self.inside(|| -> std::io::Result<bool> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(PATIENCE / 2))?;
            let mut answer = [0; 512];
            for _ in 0..2 {
                socket.send(question.as_bytes())?;
                if socket.recv(&mut answer).is_ok() {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        asked.map_err(LabError::io(format!("ask {to:?}")))
    }

    /// Listens for a connection that the guest begins.
    ///
    /// # Errors
    /// The port is taken.
    pub fn listens(&self, port: u16) -> Result<TcpListener, LabError> {
        let listener = self.inside(|| -> std::io::Result<TcpListener> {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        listener.map_err(LabError::io(format!("listen at {port}")))
    }

    /// Begins to ask the guest again and again: one probe, whose ledger tells what came back.
    ///
    /// # Errors
    /// It can't begin.
    pub fn watches(&self, name: &str, to: Ipv4Addr, kind: ProbeKind) -> Result<Probe, LabError> {
        let plan = ProbePlan { name: name.to_owned(), interval: INTERVAL, kind };
        let address = Address::from(IpAddr::V4(to));
        let started = self.inside(|| Probe::start(&plan, &address, Clock::start(), Duration::ZERO))?;
        started.or_else(|error| LabError::promise(format!("probe {name}: {error}")))
    }

    /// Does something on a thread in its network namespace. Sockets, threads and processes that begin there stay there.
    ///
    /// # Errors
    /// It can't be entered.
    pub fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        within(&self.namespace, what)
    }
}

/// A probe that asks the guest's writer for its state.
pub fn writer() -> ProbeKind {
    ProbeKind::Udp { port: 7007, answers: UdpAnswers::Any { payload: "get".to_owned(), sources: 16 } }
}

/// A probe by datagrams that the guest echoes.
pub fn echoed() -> ProbeKind {
    ProbeKind::Udp { port: 7, answers: UdpAnswers::Echo }
}

/// Waits for a connection that the guest begins; none if there is none in time.
///
/// # Errors
/// The listener is broken.
pub fn accepts(listener: &TcpListener, patience: Duration) -> Result<Option<TcpStream>, LabError> {
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                return Err(LabError::io("accept")(error));
            }
            Err(_) if start.elapsed() > patience => return Ok(None),
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
}

/// A connection by which only the observer speaks.
#[derive(Debug)]
pub struct Speech {
    end: Arc<AtomicBool>,
    thread: JoinHandle<Spoken>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Spoken {
    /// Bytes that were taken; the last tens of KiB may be on their way.
    pub bytes: u64,
    /// The longest time for which none were taken.
    pub longest: Duration,
    /// For how long none were taken at the end.
    pub at_the_end: Duration,
    /// Why the connection is lost, if it is.
    pub lost: Option<String>,
}

impl Spoken {
    /// Whether it was heard to the end.
    pub fn went_on(&self) -> bool {
        self.lost.is_none() && self.at_the_end < Duration::from_secs(1)
    }
}

impl Speech {
    /// Begins to speak.
    ///
    /// # Errors
    /// The connection is broken already.
    pub fn begin(stream: TcpStream) -> Result<Speech, LabError> {
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, BUFFER)
            .map_err(|error| LabError::io("SO_SNDBUF")(error.into()))?;
        stream.set_nonblocking(true).map_err(LabError::io("O_NONBLOCK"))?;
        let end = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&end);
        let thread = std::thread::spawn(move || speak(stream, &ends));
        Ok(Speech { end, thread })
    }

    /// Ends it.
    ///
    /// # Errors
    /// Its thread has died.
    pub fn ends(self) -> Result<Spoken, LabError> {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| LabError::Promise("the speaking thread died".to_owned()))
    }
}

fn speak(mut stream: TcpStream, end: &AtomicBool) -> Spoken {
    let mut spoken = Spoken { bytes: 0, longest: Duration::ZERO, at_the_end: Duration::ZERO, lost: None };
    let mut last = Instant::now();
    while !end.load(Ordering::Relaxed) && spoken.lost.is_none() {
        match stream.write(&[b'.'; 512]) {
            Ok(taken) => {
                spoken.longest = spoken.longest.max(last.elapsed());
                spoken.bytes += u64::try_from(taken).unwrap_or_default();
                last = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => spoken.lost = Some(error.to_string()),
        }
        sleep(INTERVAL);
    }
    spoken.at_the_end = last.elapsed();
    spoken.longest = spoken.longest.max(spoken.at_the_end);
    spoken
}
