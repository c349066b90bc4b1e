//! Probes: questions sent to the guest at a steady pace, and the answers read as they come.
//!
//! Each probe is one thread with one loop: wait until an answer can be read or the next question is due, read, ask. One
//! thread per probe and one wait for both, so that reading never delays asking by more than the reading itself, and the
//! stamp of an answer is taken by whoever read it. The wait is `ppoll` until an absolute moment of the
//! [`Pace`], worked out anew each time, so it cannot drift.
//!
//! | probe | a question is | answered by | a silence of it means |
//! |---|---|---|---|
//! | ICMP | an echo request | the guest's kernel | the guest could not be reached, or did not run |
//! | UDP | a datagram | a service in the guest | as ICMP, or the service was late |
//! | TCP | 24 bytes on one connection | an echo service in the guest | what an application feels: TCP repeats lost segments with growing pauses, so this silence may exceed the others by far |

mod icmp;
pub mod pace;
pub mod record;
mod tcp;
mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use causeway_core::answer::Kind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::ledger::Ledger;
use crate::moment::{Clock, Moment};
use crate::plan::{Address, ProbeKind, ProbePlan, UdpAnswers};
use pace::Pace;

/// Ticks that are late by less are not worth a line in the ledger.
const LAG_NOTED: Duration = Duration::from_millis(1);
/// How often a probe that asks no more looks whether it may end.
const IDLE: Duration = Duration::from_millis(10);
/// Nice level that probes ask for, so that a busy machine does not look like a silent guest.
const NICE: i32 = -10;

/// Why a probe did not start or did not last.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The device of a link-local address is not there.
    #[error("no device for the address {address}")]
    Device {
        /// The address with its device.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
    /// The probe's socket could not be made or connected.
    #[error("probe {name}: cannot open its socket to {target}")]
    Open {
        /// The probe.
        name: String,
        /// Where its questions go.
        target: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The system gave no thread.
    #[error("probe {name}: cannot start its thread")]
    Thread {
        /// The probe.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The probe's thread panicked; what it would have seen is unknown.
    #[error("probe {name}: its thread died")]
    Died {
        /// The probe.
        name: String,
    },
}

impl ProbeError {
    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self {
            ProbeError::Device { .. } => Kind::Input,
            ProbeError::Open { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::AddrNotAvailable => Kind::HostState,
                io::ErrorKind::TimedOut => Kind::Timeout,
                _ => Kind::Unreachable,
            },
            ProbeError::Thread { .. } => Kind::HostState,
            ProbeError::Died { .. } => Kind::Bug,
        }
    }
}

/// What was found when a wire was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// The answer to this question.
    Answer(u64),
    /// Something that is no answer of ours.
    Stray,
    /// The connection is gone; a new one is being made.
    Broke,
}

/// One protocol's way of asking. Nothing in here waits.
trait Wire: Send {
    /// Sends question `sequence`; an error means that the kernel did not take it.
    fn ask(&mut self, sequence: u64) -> io::Result<()>;
    /// The sockets to wait for, in a steady order.
    fn sockets<'a>(&'a self, out: &mut Vec<PollFd<'a>>);
    /// Reads everything there is on the sockets whose places are `ready`.
    fn hear(&mut self, ready: &[usize], each: &mut dyn FnMut(Heard));
}

/// What the probe's thread is to do; only ever goes up.
const ASK: u8 = 0;
const LISTEN: u8 = 1;
const END: u8 = 2;

/// A running probe. Dropping it ends its thread.
#[derive(Debug)]
pub struct Probe {
    name: String,
    phase: Arc<AtomicU8>,
    ledger: Arc<Mutex<Ledger>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Opens the probe's socket and starts asking. `offset` delays its first question, so that several probes do not
    /// all wake in the same instant.
    ///
    /// # Errors
    /// If the socket cannot be opened or (TCP) connected within three seconds, or the system gives no thread.
    pub fn start(
        plan: &ProbePlan,
        address: &Address,
        clock: Clock,
        offset: Duration,
    ) -> Result<Probe, ProbeError> {
        let target = target(address, plan)?;
        let name = plan.name.clone();
        let wire =
            open(plan, target).map_err(|source| ProbeError::Open { name: name.clone(), target, source })?;
        let phase = Arc::new(AtomicU8::new(ASK));
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let pace = Pace::new(clock.now().plus(offset), plan.interval);
        let worker = Worker { wire, pace, clock, phase: Arc::clone(&phase), ledger: Arc::clone(&ledger) };
        let thread = std::thread::Builder::new()
            .name(format!("probe-{name}"))
            .spawn(move || worker.run())
            .map_err(|source| ProbeError::Thread { name: name.clone(), source })?;
        Ok(Probe { name, phase, ledger, thread: Some(thread) })
    }

    /// The probe's name in the plan.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Looks at the ledger while the probe runs. The probe waits meanwhile if it has something to write, so be brief.
    pub fn look<T>(&self, reader: impl FnOnce(&Ledger) -> T) -> T {
        reader(&self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the thread has died; what looks like a silence then is our own.
    pub fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops asking; answers are still read.
    pub fn stop_asking(&self) {
        self.phase.fetch_max(LISTEN, Ordering::Relaxed);
    }

    /// Ends the probe and gives its ledger.
    ///
    /// # Errors
    /// If the thread had died.
    pub fn finish(mut self) -> Result<Ledger, ProbeError> {
        self.phase.store(END, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = joined {
            let name = std::mem::take(&mut self.name);
            return Err(ProbeError::Died { name });
        }
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *ledger))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.phase.store(END, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was told by the hook already; there is nobody left to tell here.
            let _ = thread.join();
        }
    }
}

fn open(plan: &ProbePlan, target: SocketAddr) -> io::Result<Box<dyn Wire>> {
    let nonce = nonce()?;
    Ok(match &plan.kind {
        ProbeKind::Icmp => Box::new(icmp::IcmpWire::open(target, nonce)?),
        ProbeKind::Udp { answers, .. } => match answers {
            UdpAnswers::Echo => Box::new(udp::EchoWire::open(target, nonce)?),
            UdpAnswers::Any { payload, sources } => {
                Box::new(udp::AnyWire::open(target, payload.as_bytes(), *sources)?)
            }
        },
        ProbeKind::Tcp { .. } => Box::new(tcp::TcpWire::open(target, nonce)?),
    })
}

fn target(address: &Address, plan: &ProbePlan) -> Result<SocketAddr, ProbeError> {
    let port = match plan.kind {
        ProbeKind::Icmp => 0,
        ProbeKind::Udp { port, .. } | ProbeKind::Tcp { port } => port,
    };
    let (IpAddr::V6(ip), Some(device)) = (address.ip, &address.device) else {
        return Ok(SocketAddr::new(address.ip, port));
    };
    let index = device_index(device.as_str())
        .map_err(|source| ProbeError::Device { address: address.clone(), source })?;
    Ok(SocketAddrV6::new(ip, port, 0, index).into())
}

fn device_index(name: &str) -> io::Result<u32> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let any = socket(AddressFamily::INET6, SocketType::DGRAM, None)?;
    Ok(netdevice::name_to_index(&any, name)?)
}

/// A number that another probe, or another run, does not have.
fn nonce() -> io::Result<u64> {
    let mut bytes = [0; 8];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if got == bytes.len() { Ok(u64::from_ne_bytes(bytes)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// What the thread owns.
struct Worker {
    wire: Box<dyn Wire>,
    pace: Pace,
    clock: Clock,
    phase: Arc<AtomicU8>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Worker {
    fn run(mut self) {
        // Only root may; without it the probe runs at its usual priority, and lags tell if that was not enough.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "probe keeps its priority");
        }
        loop {
            let phase = self.phase.load(Ordering::Relaxed);
            if phase >= END {
                return;
            }
            let asking = phase == ASK;
            let now = self.clock.now();
            let until = if asking { self.pace.due() } else { now.plus(IDLE) };
            let ready = self.wait(until.since(now));
            if !ready.is_empty() {
                self.hear(&ready);
            }
            if asking {
                self.ask();
            }
        }
    }

    /// Waits until something can be read, at most `span`; gives the places of the sockets that are ready.
    fn wait(&self, span: Duration) -> Vec<usize> {
        let mut sockets = Vec::new();
        self.wire.sockets(&mut sockets);
        let timeout = Timespec::try_from(span).ok();
        // An interrupted wait is a short one: the loop works out the next from the clock.
        if poll(&mut sockets, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let ready = |(place, fd): (usize, &PollFd<'_>)| (fd.revents() != PollFlags::empty()).then_some(place);
        sockets.iter().enumerate().filter_map(ready).collect()
    }

    fn hear(&mut self, ready: &[usize]) {
        let (clock, ledger) = (&self.clock, &self.ledger);
        self.wire.hear(ready, &mut |heard| {
            let at = clock.now();
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            match heard {
                Heard::Answer(sequence) => ledger.answered(sequence, at),
                Heard::Stray => ledger.stray(),
                Heard::Broke => ledger.broke(at),
            }
        });
    }

    fn ask(&mut self) {
        let Some(tick) = self.pace.take(self.clock.now()) else {
            return;
        };
        let sequence = self.edit(|ledger| ledger.next_sequence());
        let sent = self.clock.now();
        let result = self.wire.ask(sequence);
        if let Err(error) = &result {
            tracing::trace!(sequence, %error, "question not sent");
        }
        self.edit(|ledger| {
            ledger.asked(sent, result.is_ok());
            if tick.lag >= LAG_NOTED {
                ledger.lagged(sent, tick.lag);
            }
        });
    }

    fn edit<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        change(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// When each of `count` probes with `interval` sends its first question, counted from the start of all.
pub fn offset(index: usize, count: usize, interval: Duration) -> Duration {
    let (Ok(index), Ok(count)) = (u32::try_from(index), u32::try_from(count)) else {
        return Duration::ZERO;
    };
    interval.checked_div(count).unwrap_or_default().saturating_mul(index)
}

/// Whether each of `probes` has been answered at or after `since`; gives the name of the first that has not.
pub fn unanswered_since(probes: &[Probe], since: Moment) -> Option<&str> {
    let silent = |probe: &&Probe| probe.look(|l| l.last_answer().is_none_or(|at| at < since));
    probes.iter().find(silent).map(Probe::name)
}
