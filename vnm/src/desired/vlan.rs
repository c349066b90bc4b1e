//! VLAN devices: one per network of `802.1Q` (contract VNM 4.1).

use causeway_core::document::Nic;

use super::facts::Facts;
use super::port::device_name;
use super::refusal::Refusal;
use super::settings::Effective;
use super::state::{Port, Vlan, VlanIdentity};

/// The VLAN device of a NIC's network.
///
/// # Errors
/// A [`Refusal`] for what is missing, not permitted or can't be.
pub(super) fn vlan(
    nic: &Nic,
    effective: &Effective,
    port: &Port,
    facts: &Facts,
    notes: &mut Vec<String>,
) -> Result<Vlan, Refusal> {
    let id = nic.nic_id;
    let missing = |attribute, why| Refusal::Missing { nic: id, attribute, why };
    let uplink = nic.phydev.clone().ok_or_else(|| missing("PHYDEV", "its frames leave the host by it"))?;
    let tag = nic.vlan_tag().ok_or_else(|| missing("VLAN_ID", "it is the tag of the network"))?;
    if tag == 0 {
        return Err(Refusal::malformed(id, "VLAN_ID", "0", "a tag from 1 to 4094"));
    }
    let fact = facts.uplink(id, &uplink)?;
    let name = device_name(id, &uplink, "VLAN_ID", &tag)?;
    if [&uplink, &name].contains(&&port.bridge) {
        let accepted = "a name other than those of uplink and VLAN device";
        return Err(Refusal::malformed(id, "BRIDGE", port.bridge.as_str(), accepted));
    }
    let asked = nic.mtu.unwrap_or(effective.vlan_mtu);
    if asked > fact.mtu {
        notes.push(format!("NIC {id}: MTU is {asked}, but {uplink} carries only {0}: {0} is used", fact.mtu));
    }
    if !fact.up {
        notes.push(format!("NIC {id}: uplink {uplink} is down"));
    }
    let identity = VlanIdentity { tag, provider: effective.provider };
    Ok(Vlan { name, bridge: port.bridge.clone(), uplink, identity, mtu: asked.min(fact.mtu) })
}
