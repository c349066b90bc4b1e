//! The VLANs within a Linux bridge that a guest is in: `VLAN_TAGGED_ID` of `bridge` and `fw`, `CVLANS` of `802.1Q` (contract
//! VNM 4.1, `post`).

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::document::{Nic, TagRanges};
use causeway_core::names::LinkName;
use serde::{Deserialize, Serialize};

use super::driver::Driver;
use super::guard::Guard;
use super::refusal::Refusal;
use super::state::{BridgeOption, Port};

/// The VLAN of frames without a tag, where nobody has told the bridge otherwise.
pub const NATIVE: u16 = 1;

/// The VLANs of a guest's device on a bridge that filters by them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    /// `NIC_ID`.
    pub nic: u32,
    /// The guest's device.
    pub tap: LinkName,
    /// The bridge.
    pub bridge: LinkName,
    /// The uplink or VLAN device that carries the same VLANs.
    pub way_out: Option<LinkName>,
    /// The VLAN of the frames that the guest does not tag; none leaves it to the bridge.
    pub untagged: Option<u16>,
    /// Those that it tags itself.
    pub tagged: BTreeSet<u16>,
}

impl Tags {
    /// What the bridge must be told so that the guest's device is in no other VLAN from its first moment on.
    ///
    /// A device that is plugged in is in the bridge's default VLAN until it has its own. For `802.1Q` that becomes the network's
    /// `VLAN_ID`, which is the one it is to have.
    pub fn options(&self) -> BTreeMap<BridgeOption, u32> {
        let native = self.untagged.map(|tag| (BridgeOption::VlanDefaultPvid, u32::from(tag)));
        [(BridgeOption::VlanFiltering, 1)].into_iter().chain(native).collect()
    }

    /// Every VLAN that it names.
    pub fn all(&self) -> BTreeSet<u16> {
        self.tagged.iter().copied().chain(self.untagged).collect()
    }
}

/// The VLANs of a NIC; none where its network names none.
///
/// # Errors
/// A [`Refusal`] for a list that a bridge can't keep, or that what guards the NIC does not cover.
pub(super) fn tags(
    driver: Driver,
    nic: &Nic,
    port: &Port,
    way_out: Option<&LinkName>,
    options: &BTreeMap<BridgeOption, u32>,
    guard: Option<&Guard>,
) -> Result<Option<Tags>, Refusal> {
    let id = nic.nic_id;
    let (attribute, list, untagged) = match driver {
        Driver::Bridge | Driver::Fw => ("VLAN_TAGGED_ID", &nic.vlan_tagged_id, None),
        Driver::Dot1q => ("CVLANS", &nic.cvlans, nic.vlan_tag()),
        _ => return Ok(None),
    };
    if driver == Driver::Dot1q && !nic.vlan_tagged_id.is_empty() {
        let accepted = "absent: the VLANs within a network of 802.1Q are its CVLANS";
        return Err(Refusal::malformed(id, "VLAN_TAGGED_ID", &nic.vlan_tagged_id.to_string(), accepted));
    }
    if list.is_empty() {
        return Ok(None);
    }
    let refused = |accepted: String| Err(Refusal::malformed(id, attribute, &list.to_string(), accepted));
    let tagged: BTreeSet<u16> = list.tags().collect();
    let chosen = options.get(&BridgeOption::VlanDefaultPvid).and_then(|pvid| u16::try_from(*pvid).ok());
    let native = untagged.or(chosen).unwrap_or(NATIVE);
    if tagged.contains(&0) || tagged.contains(&native) {
        return refused(format!("tags from 1 to 4094 without {native}, the VLAN of frames without a tag"));
    }
    if guard.is_some_and(|guard| guard.is_stateful() || guard.senders.is_some()) {
        let accepted = "absent for a NIC with rules in its SECURITY_GROUPS or with FILTER_IP_SPOOFING: frames that a guest \
                        tags itself are hidden from both";
        return refused(accepted.to_owned());
    }
    Ok(Some(Tags {
        nic: id,
        tap: port.tap.clone(),
        bridge: port.bridge.clone(),
        way_out: way_out.cloned(),
        untagged,
        tagged,
    }))
}

/// A list of VLANs in the form of `VLAN_TAGGED_ID`: `3,10-12`.
pub fn ranges(tags: &BTreeSet<u16>) -> TagRanges {
    let mut out: Vec<(u16, u16)> = Vec::new();
    for tag in tags {
        match out.last_mut() {
            Some((_, high)) if high.checked_add(1) == Some(*tag) => *high = *tag,
            _ => out.push((*tag, *tag)),
        }
    }
    TagRanges(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_ranges() {
        let text = |tags: &[u16]| ranges(&tags.iter().copied().collect()).to_string();
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[3, 10, 11, 12, 4094]), "3,10-12,4094");
        assert_eq!(text(&[65_534, 65_535]), "65534-65535");
    }
}
