//! Tells the fabric that a guest is here: at once, without a word from the guest.
//!
//! QEMU itself sends RARP frames the moment a moved guest resumes, through the tap, and those teach every bridge and
//! tunnel on the way if the ports are ready by then; `pre` sees to that. What follows here covers frames that were lost
//! and what QEMU does not know: the guest's addresses.
//!
//! Frames leave by the tunnel, so that only other hosts see them; this host's own tables are programmed instead.

pub mod frames;
mod packet;

use std::net::IpAddr;

use packet::Wire;

use crate::desired::{Desired, Port};

/// Sends what announces each of the VM's NICs; what could not be sent comes back as notes.
pub fn announce(desired: &Desired) -> Vec<String> {
    if desired.tunnels.is_empty() {
        return Vec::new();
    }
    let wire = match Wire::open() {
        Ok(wire) => wire,
        Err(error) => return vec![format!("announcement failed: {error}")],
    };
    let mut notes = Vec::new();
    for tunnel in &desired.tunnels {
        let ports = desired.ports.iter().filter(|port| Some(&port.bridge) == tunnel.bridge.as_ref());
        let mut frames = ports.flat_map(all);
        if let Err(error) = frames.try_for_each(|frame| wire.send(tunnel.name.as_str(), &frame)) {
            notes.push(format!("announcement by {} failed: {error}", tunnel.name));
        }
    }
    wire.close();
    notes
}

/// The frames of one NIC.
pub fn all(port: &Port) -> Vec<Vec<u8>> {
    let mut frames = vec![frames::rarp(port.mac)];
    frames.extend(port.addresses.iter().map(|address| match address {
        IpAddr::V4(four) => frames::gratuitous_arp(port.mac, *four),
        IpAddr::V6(six) => frames::unsolicited_advertisement(port.mac, *six),
    }));
    frames
}
