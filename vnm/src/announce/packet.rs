//! Raw frames out of one device.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};

/// A device that frames can be sent by. Nothing is received: the socket has no protocol.
pub(super) struct Device(OwnedFd);

impl Device {
    /// Opens the device of that name.
    ///
    /// # Errors
    /// There is none, or the caller may not.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        // The list of interfaces is the one place where the packet address of a device can be had without unsafe code.
        let found = getifaddrs()?
            .filter(|interface| interface.interface_name == name)
            .find_map(|interface| interface.address?.as_link_addr().copied());
        let address =
            found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no device {name}")))?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        bind(socket.as_raw_fd(), &address)?;
        Ok(Device(socket))
    }

    /// Sends one frame, from its Ethernet header on.
    ///
    /// # Errors
    /// The device is down, or its queue is full.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        if sent == frame.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}
