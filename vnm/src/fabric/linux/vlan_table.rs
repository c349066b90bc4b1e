//! The VLANs of a bridge's ports as netlink messages, to the kernel and from it.
//!
//! Each port, and the bridge itself, has a table: which VLANs it is in, which one its frames without a tag belong to (`PVID`), and
//! which ones its frames leave without a tag for (linux/if_bridge.h, `IFLA_BRIDGE_VLAN_INFO`).

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use crate::desired::tags::ranges;

/// The VLANs of one port.
pub type VlanTable = BTreeMap<u16, Tagging>;

/// How a port is in a VLAN.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tagging {
    /// Frames that come without a tag belong to it.
    pub pvid: bool,
    /// Its frames leave without a tag.
    pub untagged: bool,
}

impl Tagging {
    /// The VLAN of frames without a tag, both ways.
    pub const NATIVE: Tagging = Tagging { pvid: true, untagged: true };
    /// A VLAN whose frames have their tag.
    pub const TAGGED: Tagging = Tagging { pvid: false, untagged: false };
}

/// A list of VLANs that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("VLANs from {low} to {high} are no range")]
pub struct RangeError {
    low: u16,
    high: u16,
}

/// Asks for the tables of every bridge and port. A kernel that checks requests strictly takes no narrower one.
pub fn request() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed])];
    RouteNetlinkMessage::GetLink(message)
}

/// Puts a port into VLANs, as the body of an `RTM_SETLINK`: what it is in already stays.
pub fn set(index: u32, untagged: Option<u16>, tagged: &BTreeSet<u16>) -> LinkMessage {
    let native = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
    let native = untagged.map(|vid| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags: native, vid }));
    message(index, native.into_iter().chain(spans(tagged)).collect())
}

/// Takes a port out of VLANs, as the body of an `RTM_DELLINK`: of this family it takes away no device.
pub fn forget(index: u32, vlans: &BTreeSet<u16>) -> LinkMessage {
    message(index, spans(vlans).collect())
}

fn message(index: u32, infos: Vec<AfSpecBridge>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    message.attributes = vec![LinkAttribute::AfSpecBridge(infos)];
    message
}

/// Each VLAN, or the two ends of several that follow each other.
fn spans(vlans: &BTreeSet<u16>) -> impl Iterator<Item = AfSpecBridge> {
    let info = |flags, vid| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid });
    ranges(vlans).0.into_iter().flat_map(move |(low, high)| match low == high {
        true => vec![info(BridgeVlanInfoFlags::empty(), low)],
        false => vec![info(BridgeVlanInfoFlags::RangeBegin, low), info(BridgeVlanInfoFlags::RangeEnd, high)],
    })
}

/// Reads the table of one port.
///
/// # Errors
/// A range without an end, or that ends before it begins.
pub fn read(message: &LinkMessage) -> Result<VlanTable, RangeError> {
    let mut table = VlanTable::new();
    let mut begin = None;
    let infos = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::AfSpecBridge(infos) => Some(infos),
        _ => None,
    });
    for info in infos.flatten() {
        let AfSpecBridge::VlanInfo(info) = info else { continue };
        let tagging = Tagging {
            pvid: info.flags.contains(BridgeVlanInfoFlags::Pvid),
            untagged: info.flags.contains(BridgeVlanInfoFlags::Untagged),
        };
        if info.flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            begin = Some(info.vid);
            continue;
        }
        let low = match info.flags.contains(BridgeVlanInfoFlags::RangeEnd) {
            true => begin.take().ok_or(RangeError { low: 0, high: info.vid })?,
            false => info.vid,
        };
        if low > info.vid {
            return Err(RangeError { low, high: info.vid });
        }
        table.extend((low..=info.vid).map(|vid| (vid, tagging)));
    }
    match begin {
        Some(low) => Err(RangeError { low, high: 0 }),
        None => Ok(table),
    }
}
