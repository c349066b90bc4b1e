//! Virtual functions: what a physical function has set for them, what must be set, and how the kernel is told.

use std::collections::BTreeMap;

use causeway_core::names::{LinkName, Mac};
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkMessage, LinkVfInfo, VfInfo, VfInfoMac, VfInfoSpoofCheck, VfInfoTrust,
    VfInfoVlan,
};
use serde::{Deserialize, Serialize};

use super::change::Change;
use super::conflict::Conflict;
use super::difference::Difference;
use super::ethtool::Offload;
use super::observe::Observed;
use crate::desired::Function;

/// What a physical function has set for a virtual one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSeen {
    /// The guest's address; all zero leaves it to the guest.
    pub mac: Mac,
    /// The VLAN; 0 is none.
    pub vlan: u16,
    /// Whether frames from other addresses are dropped; off where the driver can't.
    pub spoofchk: bool,
    /// Whether the guest may change what the host has set; off where the driver can't.
    pub trust: bool,
}

/// The same for every virtual function of a physical one, by its number.
pub type FunctionTable = BTreeMap<u32, FunctionSeen>;

/// What is to be set; what is none stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSetting {
    /// The guest's address.
    pub mac: Option<Mac>,
    /// The VLAN; 0 is none.
    pub vlan: Option<u16>,
    /// Drop frames from other addresses.
    pub spoofchk: Option<bool>,
    /// Let the guest change what the host has set.
    pub trust: Option<bool>,
}

impl FunctionSetting {
    /// Whether nothing is to be set.
    pub fn is_empty(&self) -> bool {
        *self == FunctionSetting::default()
    }
}

/// In the words of `ip link`.
impl std::fmt::Display for FunctionSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let on = |on: bool| if on { "on" } else { "off" };
        self.mac.map_or(Ok(()), |mac| write!(f, " mac {mac}"))?;
        self.vlan.map_or(Ok(()), |vlan| write!(f, " vlan {vlan}"))?;
        self.spoofchk.map_or(Ok(()), |check| write!(f, " spoofchk {}", on(check)))?;
        self.trust.map_or(Ok(()), |trust| write!(f, " trust {}", on(trust)))
    }
}

/// The message that sets it, as the body of an `RTM_NEWLINK` of the physical function's device (linux/if_link.h, `IFLA_VFINFO_LIST`).
pub fn set(device: u32, index: u32, setting: &FunctionSetting) -> LinkMessage {
    let mac = setting.mac.map(|mac| VfInfo::Mac(VfInfoMac::new(index, &mac.0)));
    let vlan = setting.vlan.map(|vlan| VfInfo::Vlan(VfInfoVlan::new(index, u32::from(vlan), 0)));
    let spoofchk = setting.spoofchk.map(|on| VfInfo::SpoofCheck(VfInfoSpoofCheck::new(index, on)));
    let trust = setting.trust.map(|on| VfInfo::Trust(VfInfoTrust::new(index, on)));
    let infos = mac.into_iter().chain(vlan).chain(spoofchk).chain(trust).collect();
    let mut message = LinkMessage::default();
    message.header.index = device;
    message.attributes = vec![LinkAttribute::VfInfoList(vec![LinkVfInfo(infos)])];
    message
}

/// Asks for a physical function's device with what it has set.
pub fn request(device: &LinkName) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::ExtMask(vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats]),
        LinkAttribute::IfName(device.to_string()),
    ];
    message
}

/// Reads what a physical function has set, from the kernel's answer about its device; by the functions' numbers.
pub fn read(message: &LinkMessage) -> FunctionTable {
    let lists = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::VfInfoList(list) => Some(list),
        _ => None,
    });
    lists.flatten().filter_map(one).collect()
}

fn one(LinkVfInfo(infos): &LinkVfInfo) -> Option<(u32, FunctionSeen)> {
    let mut index = None;
    let mut seen = FunctionSeen { mac: Mac([0; 6]), vlan: 0, spoofchk: false, trust: false };
    for info in infos {
        match info {
            VfInfo::Mac(found) => {
                index = Some(found.vf_id);
                seen.mac = found.mac.first_chunk().map_or(seen.mac, |bytes| Mac(*bytes));
            }
            // A number that no VLAN has is like none that is wanted.
            VfInfo::Vlan(found) => seen.vlan = u16::try_from(found.vlan_id).unwrap_or(u16::MAX),
            VfInfo::SpoofCheck(found) => seen.spoofchk = found.enabled,
            VfInfo::Trust(found) => seen.trust = found.enabled,
            _ => {}
        }
    }
    Some((index?, seen))
}

/// What is set of that function; none where its physical function knows none of that number.
fn seen<'o>(device: &LinkName, index: u32, observed: &'o Observed) -> Option<&'o FunctionSeen> {
    let link = observed.named(device)?;
    observed.functions.get(&link.index)?.get(&index)
}

/// The changes that give functions to their guests.
///
/// # Errors
/// The host has no such function.
pub(super) fn changes(
    functions: &[Function],
    observed: &Observed,
    out: &mut Difference,
) -> Result<(), Conflict> {
    for function in functions {
        let (device, index) = (&function.device, function.index);
        let lacking = || Conflict::NoFunction { device: device.clone(), index };
        let seen = seen(device, index, observed).ok_or_else(lacking)?;
        let setting = FunctionSetting {
            mac: Some(function.mac).filter(|mac| *mac != seen.mac),
            // The host's switch has the VLANs of one that it has a device for.
            vlan: Some(function.vlan).filter(|vlan| *vlan != seen.vlan && function.representor.is_none()),
            spoofchk: function.spoofchk.filter(|on| *on != seen.spoofchk),
            trust: function.trust.filter(|on| *on != seen.trust),
        };
        if !setting.is_empty() {
            out.changes.push(Change::SetFunction { device: device.clone(), index, setting });
        }
        let down = |name: &LinkName| observed.named(name).is_some_and(|link| !link.up);
        if function.representor.is_none() && down(device) {
            out.notes.push(format!("{device} is down, and so is its function {index}"));
        }
        for name in function.switching() {
            if down(name) {
                out.changes.push(Change::SetUp { name: name.clone() });
            }
            match observed.offload.get(name) {
                Some(Offload::Off) => out.changes.push(Change::SetOffload { name: name.clone() }),
                Some(Offload::Never) => {
                    out.notes.push(format!("{name} can't hand frames to its card: the host moves them"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The changes that leave nothing of a guest on a function: the next one may be of anybody (W31).
///
/// The VLAN goes first and by itself: a driver that takes no address of zeros must not keep it.
pub(super) fn removal(functions: &[Function], observed: &Observed) -> Vec<Change> {
    let mut out = Vec::new();
    for function in functions {
        let (device, index) = (function.device.clone(), function.index);
        let Some(seen) = seen(&device, index, observed) else { continue };
        let rest = FunctionSetting {
            mac: None,
            vlan: Some(0).filter(|_| seen.vlan != 0),
            spoofchk: Some(true).filter(|_| function.spoofchk == Some(false) && !seen.spoofchk),
            trust: Some(false).filter(|_| function.trust == Some(true) && seen.trust),
        };
        // An address that somebody else has set since is somebody else's.
        let mac = Some(Mac([0; 6])).filter(|_| seen.mac == function.mac);
        let address = FunctionSetting { mac, ..FunctionSetting::default() };
        if mac.is_none() && seen.mac != Mac([0; 6]) {
            continue;
        }
        let settings = [rest, address].into_iter().filter(|setting| !setting.is_empty());
        out.extend(settings.map(|setting| Change::ResetFunction { device: device.clone(), index, setting }));
    }
    out
}
