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
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
/// Nice level that probes ask for where they cannot have real-time scheduling.
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

/// What a probe's thread and its owner both see.
#[derive(Debug, Default)]
struct Shared {
    /// [`ASK`], [`LISTEN`] or [`END`].
    phase: AtomicU8,
    /// When the latest first answer was read, beside the ledger so that looking at it needs no lock.
    answered: AtomicU64,
    /// Why the latest question could not be sent, until one can.
    trouble: Mutex<Option<io::ErrorKind>>,
    ledger: Mutex<Ledger>,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Whoever panicked with the lock in hand left whole entries: each change is one push or one assignment.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running probe. Dropping it ends its thread.
#[derive(Debug)]
pub struct Probe {
    name: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Opens the probe's socket and starts asking. `offset` delays its first question, so that several probes do not
    /// all wake in the same instant.
    ///
    /// # Errors
    /// If the socket cannot be opened, or the system gives no thread. A guest that does not answer is no error here.
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
        let shared = Arc::new(Shared::default());
        let pace = Pace::new(clock.now().plus(offset), plan.interval);
        let worker = Worker { wire, pace, clock, shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new()
            .name(format!("probe-{name}"))
            .spawn(move || worker.run())
            .map_err(|source| ProbeError::Thread { name: name.clone(), source })?;
        Ok(Probe { name, shared, thread: Some(thread) })
    }

    /// The probe's name in the plan.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When the latest first answer was read; the run's zero before there is one. Never makes the probe wait, so it may be
    /// asked as often as one likes while a guest moves.
    pub fn last_answer(&self) -> Moment {
        Moment(self.shared.answered.load(Ordering::Relaxed))
    }

    /// Why the latest question could not be sent, if it could not.
    pub fn trouble(&self) -> Option<io::ErrorKind> {
        *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the ledger while the probe runs. The probe waits meanwhile if it has something to write, and so looks
    /// like a silent guest: not for use while a guest moves.
    pub fn look<T>(&self, reader: impl FnOnce(&Ledger) -> T) -> T {
        reader(&self.shared.ledger())
    }

    /// Whether the thread has died; what looks like a silence then is our own.
    pub fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops asking; answers are still read.
    pub fn stop_asking(&self) {
        self.shared.phase.fetch_max(LISTEN, Ordering::Relaxed);
    }

    /// Ends the probe and gives its ledger.
    ///
    /// # Errors
    /// If the thread had died.
    pub fn finish(mut self) -> Result<Ledger, ProbeError> {
        self.shared.phase.store(END, Ordering::Relaxed);
        let joined = self.thread.take().map(JoinHandle::join);
        if let Some(Err(_)) = joined {
            let name = std::mem::take(&mut self.name);
            return Err(ProbeError::Died { name });
        }
        Ok(std::mem::take(&mut *self.shared.ledger()))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.phase.store(END, Ordering::Relaxed);
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
        ProbeKind::Tcp { .. } => Box::new(tcp::TcpWire::new(target, nonce)),
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
    shared: Arc<Shared>,
}

impl Worker {
    fn run(mut self) {
        hurry();
        loop {
            let phase = self.shared.phase.load(Ordering::Relaxed);
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
        let (clock, shared) = (&self.clock, &self.shared);
        self.wire.hear(ready, &mut |heard| {
            let at = clock.now();
            let mut ledger = shared.ledger();
            match heard {
                Heard::Answer(sequence) => {
                    if ledger.answered(sequence, at) {
                        shared.answered.store(at.0, Ordering::Relaxed);
                    }
                }
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
        *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) =
            result.as_ref().err().map(io::Error::kind);
        self.edit(|ledger| {
            ledger.asked(sent, result.is_ok());
            if tick.lag >= LAG_NOTED {
                ledger.lagged(sent, tick.lag);
            }
        });
    }

    fn edit<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        change(&mut self.shared.ledger())
    }
}

/// Has this thread run before ordinary ones, so that a busy machine does not look like a silent guest. Measured side by
/// side on two processors with seven runnable processes, three probes at 1 ms for 13 s: 13 late ticks, the worst by
/// 2.2 ms, against 767 and 14.5 ms without. A probe works for some microseconds per tick, so it takes next to nothing
/// from the others. Only root may; elsewhere the lags tell.
fn hurry() {
    use thread_priority::{RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy};
    let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let this = thread_priority::thread_native_id();
    if let Err(error) = thread_priority::set_thread_priority_and_policy(this, ThreadPriority::Min, fifo) {
        tracing::debug!(%error, "no real-time scheduling for a probe");
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!(%error, "no higher priority for a probe");
        }
    }
}

/// When each of `count` probes with `interval` sends its first question, counted from the start of all.
pub fn offset(index: usize, count: usize, interval: Duration) -> Duration {
    let (Ok(index), Ok(count)) = (u32::try_from(index), u32::try_from(count)) else {
        return Duration::ZERO;
    };
    interval.checked_div(count).unwrap_or_default().saturating_mul(index)
}

/// The first of `probes` that was not answered after `since`.
pub fn unanswered_since(probes: &[Probe], since: Moment) -> Option<&Probe> {
    probes.iter().find(|probe| probe.last_answer() <= since)
}
