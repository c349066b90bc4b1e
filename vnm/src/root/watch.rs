//! The network's share of the silence that a move costs: how long after the guest was let run here the fabric knew of it.
//!
//! QEMU speaks for a guest the moment that it lets it run (RARP, by every NIC): the first frame that comes out of its device. From then on
//! the fabric can bring it something, at the latest when `post` has told where it is. What lies between is the network's; what
//! lies before is the move's own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use causeway_core::names::LinkName;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

/// No move takes longer and is waited for.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// How often it is looked whether the guest is still to come: another process may have cleaned up after it.
const LOOK: Duration = Duration::from_secs(2);
/// How often a device is looked for that is to come, and to come up, with its guest: long before that runs.
const PAUSE: Duration = Duration::from_millis(50);
/// How often a quiet device is given up, if its action is over.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// What a host sends by a device, as the kernel marks it (packet(7)): here, what is brought to the guest.
const OUTGOING: u8 = 4;

/// How long the fabric had no way to a guest that had come, by one NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// `NIC_ID`.
    pub nic: u32,
    /// How long after the guest's first frame something was first brought to it, in microseconds.
    pub heard_us: Option<u64>,
    /// How long after the guest's first frame the fabric was told where it is, in microseconds.
    pub told_us: u64,
}

impl Arrival {
    /// The network's share of the silence, in microseconds: at most that.
    pub fn share_us(&self) -> u64 {
        self.heard_us.map_or(self.told_us, |heard| heard.min(self.told_us))
    }
}

impl std::fmt::Display for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1e3;
        write!(
            f,
            "NIC {}: the network's share of the silence is at most {:.1} ms",
            self.nic,
            ms(self.share_us())
        )?;
        write!(f, " (told of the guest {:.1} ms after its first frame", ms(self.told_us))?;
        match self.heard_us {
            Some(heard) => write!(f, ", which was brought something after {:.1} ms)", ms(heard)),
            None => write!(f, ", which was brought nothing before)"),
        }
    }
}

/// Devices that are watched until their guest has come.
#[derive(Debug, Default)]
pub struct Watches(Mutex<BTreeMap<LinkName, Arc<Watch>>>);

#[derive(Debug, Default)]
struct Watch {
    seen: Mutex<Seen>,
    over: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    /// Hears the device, once it is there. Whoever reads from it holds the lock until what was read is taken.
    wire: Option<Arc<Wire>>,
    /// When there was a first frame; the second one counts from the first on.
    from_it: Option<SystemTime>,
    to_it: Option<SystemTime>,
}

impl Watches {
    /// Begins to watch a device that is to come, for as long as its VM has that reservation; one that is watched already goes on being so.
    pub(super) fn begin(&self, tap: &LinkName, reservation: PathBuf) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, watch| !watch.over.load(Ordering::Relaxed));
        if all.contains_key(tap) {
            return;
        }
        let watch = Arc::new(Watch::default());
        all.insert(tap.clone(), Arc::clone(&watch));
        let (tap, thread) = (tap.clone(), std::thread::Builder::new().name(format!("watch {tap}")));
        // A thread that can't be had costs a figure.
        let _ = thread.spawn(move || watch.run(&tap, &reservation));
    }

    /// Ends the watch of a device: what its NIC's arrival was like, `told` being when the fabric was told of it. None where it was not
    /// watched, or the guest has sent nothing.
    pub(super) fn end(&self, tap: &LinkName, nic: u32, told: SystemTime) -> Option<Arrival> {
        let watch = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(tap)?;
        watch.over.store(true, Ordering::Relaxed);
        let mut seen = watch.seen();
        // What the kernel has kept for the thread, which may not have had a processor yet.
        let _ = seen.take_all();
        let Seen { from_it, to_it, .. } = *seen;
        // Told before it spoke, which only the clock being set can bring about: then there was no silence.
        let after = |then: SystemTime| {
            let passed = then.duration_since(from_it?).unwrap_or_default();
            Some(u64::try_from(passed.as_micros()).unwrap_or(u64::MAX))
        };
        Some(Arrival { nic, heard_us: to_it.and_then(after), told_us: after(told)? })
    }

    /// Ends the watch of a device whose guest is not to come.
    pub(super) fn give_up(&self, tap: &LinkName) {
        if let Some(watch) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(tap) {
            watch.over.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        let all = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        all.values().for_each(|watch| watch.over.store(true, Ordering::Relaxed));
    }
}

impl Watch {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, tap: &LinkName, reservation: &Path) {
        let end = Instant::now() + LONGEST;
        let mut look = Instant::now() + LOOK;
        let mut wire = None;
        while !self.over.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now >= look {
                if now >= end || !reservation.exists() {
                    self.over.store(true, Ordering::Relaxed);
                    return;
                }
                look = now + LOOK;
            }
            let Some(listening) = wire.take() else {
                wire = listen(tap).map(Arc::new);
                self.seen().wire.clone_from(&wire);
                if wire.is_none() {
                    std::thread::sleep(PAUSE);
                }
                continue;
            };
            let _ = poll(&mut [PollFd::new(&listening.socket, PollFlags::IN)], Some(&QUIET));
            match self.seen().take_all() {
                Ok(true) => return,
                Ok(false) => wire = Some(listening),
                // Its device has gone, or is not up yet.
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

impl Seen {
    /// Takes what has been heard; whether nothing more is to be waited for.
    fn take_all(&mut self) -> io::Result<bool> {
        while let Some(wire) = &self.wire
            && let Some((at, to_it)) = frame(wire)?
        {
            if self.take(at, to_it) {
                self.wire = None;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn take(&mut self, at: SystemTime, to_it: bool) -> bool {
        match (to_it, self.from_it) {
            (false, None) => self.from_it = Some(at),
            (true, Some(_)) => self.to_it = Some(at),
            _ => return false,
        }
        self.to_it.is_some()
    }
}

/// Hears all of a device.
#[derive(Debug)]
struct Wire {
    socket: OwnedFd,
    device: usize,
}

/// Begins to hear a device; none while it is not there.
fn listen(tap: &LinkName) -> Option<Wire> {
    if_nametoindex(tap.as_str()).ok()?;
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let is_it = interface.interface_name == tap.as_str();
        interface.address.filter(|_| is_it)?.as_link_addr().copied()
    };
    let address: LinkAddr = getifaddrs().ok()?.find_map(address)?;
    let wire =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).ok()?;
    setsockopt(&wire, sockopt::ReceiveTimestampns, &true).ok()?;
    bind(wire.as_raw_fd(), &address).ok()?;
    Some(Wire { socket: wire, device: address.ifindex() })
}

/// The next frame: when it was seen, and whether it was on its way to the guest. None where none is waiting.
fn frame(wire: &Wire) -> io::Result<Option<(SystemTime, bool)>> {
    let socket = wire.socket.as_raw_fd();
    let mut control = cmsg_space!(TimeSpec);
    loop {
        // Nothing of the frame itself is wanted.
        let heard = match recvmsg::<LinkAddr>(socket, &mut [], Some(&mut control), MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            other => other?,
        };
        // Until it was bound to its device, the socket heard all of them.
        let Some(from) = heard.address.filter(|address| address.ifindex() == wire.device) else { continue };
        let to_it = from.pkttype() == OUTGOING;
        let stamp = heard.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
            _ => None,
        });
        let at = stamp.map_or_else(SystemTime::now, |stamp| SystemTime::UNIX_EPOCH + Duration::from(stamp));
        return Ok(Some((at, to_it)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_ends_with_its_reservation() {
        let reservation = tempfile::NamedTempFile::new().unwrap();
        let watches = Watches::default();
        watches.begin(&"one-7-0".parse().unwrap(), reservation.path().to_owned());
        let watch = Arc::clone(watches.0.lock().unwrap().values().next().unwrap());
        drop(reservation);
        let begun = Instant::now();
        // The thread holds it as long as it runs.
        while Arc::strong_count(&watch) > 2 {
            assert!(begun.elapsed() < Duration::from_secs(60), "it goes on");
            std::thread::sleep(PAUSE);
        }
        assert!(watch.over.load(Ordering::Relaxed));
    }

    #[test]
    fn the_share_is_what_passed_until_somebody_could_reach_it() {
        let watches = Watches::default();
        let tap: LinkName = "one-7-0".parse().unwrap();
        let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let watched = |frames: &[(u64, bool)], told: u64| {
            let watch = Arc::new(Watch::default());
            watches.0.lock().unwrap().insert(tap.clone(), Arc::clone(&watch));
            let mut seen = watch.seen();
            let over: Vec<bool> = frames.iter().map(|(ms, to_it)| seen.take(at(*ms), *to_it)).collect();
            drop(seen);
            assert!(over.iter().rev().skip(1).all(|over| !over));
            watches.end(&tap, 0, at(told))
        };
        // What is brought to a device before its guest runs counts for nothing.
        let heard = watched(&[(5, true), (10, false), (12, false), (13, true)], 40).unwrap();
        assert_eq!((heard.heard_us, heard.told_us, heard.share_us()), (Some(3000), 30_000, 3000));
        let told = watched(&[(10, false)], 40).unwrap();
        assert_eq!((told.heard_us, told.share_us()), (None, 30_000));
        assert_eq!(watched(&[(50, false)], 40).unwrap().share_us(), 0);
        assert_eq!((watched(&[(5, true)], 40), watches.end(&tap, 0, at(1))), (None, None));
        let text = heard.to_string();
        assert!(text.starts_with("NIC 0: the network's share of the silence is at most 3.0 ms"), "{text}");
    }
}
