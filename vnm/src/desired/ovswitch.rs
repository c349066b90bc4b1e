//! A bridge of Open vSwitch and a guest's port on it (contract VNM 4.2).

use std::collections::BTreeSet;
use std::path::Path;

use causeway_core::document::{BridgeType, Nic, QinqType};

use super::facts::Facts;
use super::guard::Guard;
use super::refusal::Refusal;
use super::settings::Effective;
use super::state::Port;
use super::switch::{Datapath, SOCKETS, Switch, SwitchPort, Vlans};

/// The bridge that a NIC is plugged into.
///
/// # Errors
/// A [`Refusal`] for an uplink that is not permitted or not there.
pub(super) fn switch(
    nic: &Nic,
    port: &Port,
    effective: &Effective,
    facts: &Facts,
) -> Result<Switch, Refusal> {
    if let Some(uplink) = &nic.phydev {
        facts.uplink(nic.nic_id, uplink)?;
    }
    Ok(Switch {
        name: port.bridge.clone(),
        datapath: if is_dpdk(nic) { Datapath::Userspace } else { Datapath::Any },
        options: effective.switch.clone(),
        uplinks: nic.phydev.iter().cloned().collect(),
        keep: effective.keep,
    })
}

fn is_dpdk(nic: &Nic) -> bool {
    nic.bridge_type == Some(BridgeType::OpenVSwitchDpdk)
}

/// The NIC's port.
///
/// # Errors
/// A [`Refusal`] for VLANs that can't be, or that its guard does not cover.
pub(super) fn seat(
    nic: &Nic,
    port: &Port,
    effective: &Effective,
    guard: Option<&Guard>,
) -> Result<SwitchPort, Refusal> {
    let vlans = vlans(nic, effective)?;
    if guard.is_some_and(Guard::is_stateful) && !matches!(vlans, Vlans::Access(_)) {
        let accepted = "absent for a NIC with rules in its SECURITY_GROUPS: a guest that tags its own frames is in many networks";
        let (attribute, found) = match nic.cvlans.is_empty() {
            true => ("VLAN_TAGGED_ID", &nic.vlan_tagged_id),
            false => ("CVLANS", &nic.cvlans),
        };
        return Err(Refusal::malformed(nic.nic_id, attribute, &found.to_string(), accepted));
    }
    Ok(SwitchPort {
        nic: nic.nic_id,
        tap: port.tap.clone(),
        switch: port.bridge.clone(),
        vlans,
        mtu: nic.mtu,
        socket: is_dpdk(nic).then(|| Path::new(SOCKETS).join(port.tap.as_str())),
    })
}

/// The stock driver makes every port a trunk of all VLANs (W1); here one is what its network says.
fn vlans(nic: &Nic, effective: &Effective) -> Result<Vlans, Refusal> {
    let (tag, id) = (nic.vlan_tag(), nic.nic_id);
    if !nic.cvlans.is_empty() {
        let why = "it is the outer tag of CVLANS";
        let outer = tag.ok_or(Refusal::Missing { nic: id, attribute: "VLAN_ID", why })?;
        let ethertype = match nic.qinq_type {
            QinqType::Dot1q => "802.1q",
            QinqType::Dot1ad => "802.1ad",
        };
        return Ok(Vlans::Tunnel {
            outer,
            inner: nic.cvlans.tags().collect(),
            ethertype: ethertype.to_owned(),
        });
    }
    let tagged: BTreeSet<u16> = nic.vlan_tagged_id.tags().collect();
    Ok(match (tagged.is_empty(), effective.open_trunks) {
        (false, _) => Vlans::Trunk { untagged: tag, tagged: Some(tagged) },
        (true, true) => Vlans::Trunk { untagged: tag, tagged: None },
        (true, false) => Vlans::Access(tag.unwrap_or(0)),
    })
}
