//! Tells the fabric that a guest is here: at once, without a word from the guest.
//!
//! QEMU itself sends RARP frames the moment a moved guest resumes, through the tap, and those teach every bridge and
//! tunnel on the way if the ports are ready by then; `pre` sees to that. What follows here covers frames that were lost
//! and what QEMU does not know: the guest's addresses.
//!
//! Frames leave by the tunnel or uplink itself, so that only other hosts see them; this host's own tables are programmed instead. On
//! Open vSwitch they take the way of the guest's own frames, and the switch learns from them.

pub mod frames;
mod packet;

use std::net::IpAddr;

use causeway_core::names::LinkName;

use packet::Wire;

use crate::desired::{Desired, Port};

/// Sends what announces each of the VM's NICs on Linux bridges; what could not be sent comes back as notes.
pub fn announce(desired: &Desired) -> Vec<String> {
    let ways: Vec<(&Port, &LinkName)> = desired.ports.iter().flat_map(|port| ways(desired, port)).collect();
    if ways.is_empty() {
        return Vec::new();
    }
    let wire = match Wire::open() {
        Ok(wire) => wire,
        Err(error) => return vec![format!("announcement failed: {error}")],
    };
    let mut notes = Vec::new();
    for (port, device) in ways {
        let mut frames = all(port).into_iter();
        if let Err(error) = frames.try_for_each(|frame| wire.send(device.as_str(), &frame)) {
            notes.push(format!("announcement by {device} failed: {error}"));
        }
    }
    wire.close();
    notes
}

/// The devices by which the network of a port on a Linux bridge leaves the host.
fn ways<'d>(desired: &'d Desired, port: &'d Port) -> Vec<(&'d Port, &'d LinkName)> {
    let tunnels = desired.tunnels.iter().filter(|t| t.bridge.as_ref() == Some(&port.bridge));
    let vlans = desired.vlans.iter().filter(|vlan| vlan.bridge == port.bridge);
    let bridges = desired.bridges.iter().filter(|bridge| bridge.name == port.bridge);
    let made = tunnels.map(|tunnel| &tunnel.name).chain(vlans.map(|vlan| &vlan.name));
    made.chain(bridges.filter_map(|bridge| bridge.uplink.as_ref())).map(|way| (port, way)).collect()
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
