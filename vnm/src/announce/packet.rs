//! Raw frames out of a device.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

/// A socket that sends by any device and receives nothing: it has no protocol.
pub(super) struct Wire {
    socket: OwnedFd,
    devices: BTreeMap<String, LinkAddr>,
}

impl Wire {
    /// Opens the socket.
    ///
    /// # Errors
    /// The caller may not.
    pub(super) fn open() -> io::Result<Self> {
        // The list of interfaces is the one place where the packet address of a device can be had without unsafe code.
        let address = |interface: nix::ifaddrs::InterfaceAddress| {
            Some((interface.interface_name, *interface.address?.as_link_addr()?))
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(Wire {
            devices: getifaddrs()?.filter_map(address).collect(),
            socket: socket(AddressFamily::Packet, SockType::Raw, flags, None)?,
        })
    }

    /// Sends one frame, from its Ethernet header on.
    ///
    /// # Errors
    /// The device is not there or down, or its queue is full.
    pub(super) fn send(&self, device: &str, frame: &[u8]) -> io::Result<()> {
        let address = self.devices.get(device).ok_or(io::ErrorKind::NotFound)?;
        let sent = sendto(self.socket.as_raw_fd(), frame, address, MsgFlags::empty())?;
        if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Closes the socket without waiting: the kernel lets every CPU pass a quiet moment first, some 10 ms.
    pub(super) fn close(self) {
        std::thread::spawn(move || drop(self));
    }
}
