//! Frames as they are, sent and heard in a guest's network: what passes is not what a kernel would make of it.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use causeway_core::names::Mac;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use super::guests::Guest;

/// A frame that belongs to no address of IP and to no connection: reverse ARP.
pub const STRANGE: u16 = 0x8035;

/// Somebody who hears all that comes to a guest.
pub struct Ear {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Ear {
    /// How many frames were heard that bear that mark.
    pub fn heard(self, mark: &[u8]) -> usize {
        let marked = |frame: &&Vec<u8>| frame.windows(mark.len()).any(|part| part == mark);
        self.frames().iter().filter(marked).count()
    }

    /// All frames that were heard, also those that went out.
    pub fn frames(self) -> Vec<Vec<u8>> {
        // What is under way arrives.
        std::thread::sleep(Duration::from_millis(300));
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// Stops a sender, also where a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn open() -> OwnedFd {
    let all = SockProtocol::EthAll;
    let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), all).unwrap();
    let devices = getifaddrs().unwrap().filter(|device| device.interface_name == "eth0");
    let address = devices.filter_map(|device| device.address?.as_link_addr().copied()).next().unwrap();
    bind(wire.as_raw_fd(), &address).unwrap();
    wire
}

impl Guest {
    /// Begins to hear what comes to it.
    pub fn listens(&self) -> Ear {
        let wire = self.within(open);
        let patience = nix::sys::time::TimeVal::new(0, 50_000);
        setsockopt(&wire, sockopt::ReceiveTimeout, &patience).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let hear = move || {
            let mut frames = Vec::new();
            let mut buffer = vec![0; 2048];
            while !ended.load(Ordering::SeqCst) {
                if let Ok(length) = recv(wire.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    frames.push(buffer[..length].to_vec());
                }
            }
            frames
        };
        Ear { stop, thread: std::thread::spawn(hear) }
    }

    /// Sends frames from it.
    pub fn sends(&self, frames: &[Vec<u8>]) {
        let wire = self.within(open);
        for frame in frames {
            send(wire.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
        }
    }

    /// Sends frames from it over and over, until the work is done.
    pub fn sends_during<T>(&self, frames: &[Vec<u8>], work: impl FnOnce() -> T) -> T {
        let (wire, stop) = (self.within(open), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    for frame in frames {
                        // While its device comes and goes, some are lost.
                        let _ = send(wire.as_raw_fd(), frame, MsgFlags::empty());
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let _stop = Stop(&stop);
            work()
        })
    }
}

/// A frame of Ethernet with these tags, the outer one first.
pub fn frame(to: [u8; 6], from: Mac, tags: &[u16], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = [&to[..], &from.0].concat();
    for tag in tags {
        out.extend([0x81, 0]);
        out.extend(tag.to_be_bytes());
    }
    out.extend(kind.to_be_bytes());
    out.extend(payload);
    out.resize(out.len().max(60), 0);
    out
}

/// A datagram in IPv4.
pub fn udp(from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 28).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend(length.to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.octets());
    let words = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend(9_u16.to_be_bytes());
    ip.extend(port.to_be_bytes());
    ip.extend((length - 20).to_be_bytes());
    ip.extend([0, 0]);
    ip.extend(payload);
    ip
}

/// A datagram from one guest to another.
pub fn datagram(from: &Guest, to: &Guest, port: u16, mark: &[u8]) -> Vec<u8> {
    frame(to.mac.0, from.mac, &[], 0x0800, &udp(from.four, to.four, port, mark))
}

/// How often something marked comes to a guest while frames are sent once.
pub fn arrives(from: &Guest, to: &Guest, frames: &[Vec<u8>], mark: &[u8]) -> usize {
    let ear = to.listens();
    from.sends(frames);
    ear.heard(mark)
}
