//! Tunnels: a VXLAN device per network, of `vxlan` and of `ovswitch_vxlan` (contract VNM 4.1, 4.4).

use std::net::{IpAddr, Ipv4Addr};

use causeway_core::document::{Nic, VxlanMode, VxlanTep};
use causeway_core::names::{LinkName, Vni};

use super::driver::Driver;
use super::facts::{Facts, Uplink};
use super::port::device_name;
use super::refusal::Refusal;
use super::settings::Effective;
use super::state::{Port, Vxlan, VxlanIdentity};

/// Bytes of the outer headers: Ethernet, UDP, VXLAN and IPv4 (RFC 7348 section 5).
const OVERHEAD_V4: u32 = 50;
/// The same with IPv6.
const OVERHEAD_V6: u32 = 70;
/// The smallest MTU that the kernel gives an Ethernet device.
const MTU_MIN: u32 = 68;

/// The tunnel of a NIC's network.
///
/// # Errors
/// A [`Refusal`] for what is missing, not permitted or can't be.
pub fn tunnel(
    driver: Driver,
    nic: &Nic,
    effective: &Effective,
    port: &Port,
    facts: &Facts,
    notes: &mut Vec<String>,
) -> Result<Vxlan, Refusal> {
    let id = nic.nic_id;
    let missing = |attribute, why| Refusal::Missing { nic: id, attribute, why };
    let uplink = nic.phydev.clone().ok_or_else(|| missing("PHYDEV", "tunnels leave the host by it"))?;
    let vni = nic.vni().ok_or_else(|| missing(number(driver), "it is the number of the VXLAN network"))?;
    let fact = facts.uplink(id, &uplink)?;
    let name = tunnel_name(driver, id, &uplink, vni)?;
    if [&uplink, &name].contains(&&port.bridge) {
        let accepted = "a name other than those of uplink and tunnel";
        return Err(Refusal::malformed(id, "BRIDGE", port.bridge.as_str(), accepted));
    }
    let identity = identity(id, effective, &uplink, vni, fact)?;
    if identity.group.is_some() && fact.addresses.is_empty() {
        notes.push(format!("NIC {id}: uplink {uplink} has no address: its multicast may not leave the host"));
    }
    if !fact.up {
        notes.push(format!("NIC {id}: uplink {uplink} is down"));
    }
    Ok(Vxlan {
        mtu: mtu(nic, effective, &identity, &uplink, fact, notes)?,
        name,
        bridge: (!driver.is_switch()).then(|| port.bridge.clone()),
        uplink,
        identity,
        tuning: effective.link.tuning,
    })
}

/// The attribute with the number of a network.
fn number(driver: Driver) -> &'static str {
    if driver.is_switch() { "OUTER_VLAN_ID" } else { "VLAN_ID" }
}

/// The tunnel's name.
///
/// # Errors
/// It is longer than that of a device.
pub fn tunnel_name(driver: Driver, nic: u32, uplink: &LinkName, vni: Vni) -> Result<LinkName, Refusal> {
    device_name(nic, uplink, number(driver), &vni)
}

fn identity(
    nic: u32,
    effective: &Effective,
    uplink: &LinkName,
    vni: Vni,
    fact: &Uplink,
) -> Result<VxlanIdentity, Refusal> {
    let mut identity = VxlanIdentity {
        vni,
        device: Some(uplink.clone()),
        group: None,
        local: effective.link.local,
        port: effective.link.port,
        checksums: effective.link.checksums,
    };
    match (effective.mode, effective.tep) {
        (VxlanMode::Multicast, _) => identity.group = Some(group(effective.base, vni)?),
        (VxlanMode::Evpn, VxlanTep::Dev) => {}
        (VxlanMode::Evpn, VxlanTep::LocalIp) => {
            let first = fact.addresses.iter().find(|a| !a.is_loopback()).copied();
            let lack = "has no address, which VXLAN_TEP=local_ip takes";
            let none = Refusal::Uplink { nic, name: uplink.clone(), lack };
            identity.local = Some(identity.local.or(first).ok_or(none)?);
            identity.device = None;
        }
    }
    if let (Some(group), Some(local)) = (identity.group, identity.local)
        && group.is_ipv4() != local.is_ipv4()
    {
        return Err(Refusal::setting(
            "ip_link_conf local",
            &local.to_string(),
            "of the same IP version as vxlan_mc",
        ));
    }
    Ok(identity)
}

/// The base address plus the network's number, as integers.
fn group(base: Ipv4Addr, vni: Vni) -> Result<IpAddr, Refusal> {
    let group = u32::from(base).checked_add(vni.get()).map(Ipv4Addr::from);
    let accepted = format!("a multicast address that is still one with {vni} added to it");
    let group = group.filter(|group| base.is_multicast() && group.is_multicast()).map(IpAddr::V4);
    group.ok_or_else(|| Refusal::setting("vxlan_mc", &base.to_string(), accepted))
}

/// What the tunnel can carry, at most what is asked for (W23: stock asks for 1500 whatever lies below).
fn mtu(
    nic: &Nic,
    effective: &Effective,
    identity: &VxlanIdentity,
    uplink: &LinkName,
    fact: &Uplink,
    notes: &mut Vec<String>,
) -> Result<u32, Refusal> {
    let six = identity.group.or(identity.local).is_some_and(|address| address.is_ipv6());
    let overhead = if six { OVERHEAD_V6 } else { OVERHEAD_V4 };
    let carried = fact.mtu.saturating_sub(overhead);
    if carried < MTU_MIN {
        return Err(Refusal::Uplink {
            nic: nic.nic_id,
            name: uplink.clone(),
            lack: "has an MTU too small for a tunnel",
        });
    }
    if let Some(asked) = nic.mtu.filter(|asked| *asked > carried) {
        notes.push(format!(
            "NIC {}: MTU is {asked}, but {uplink} carries only {carried} besides the tunnel's {overhead} bytes: {carried} is used",
            nic.nic_id
        ));
    }
    Ok(nic.mtu.unwrap_or(effective.mtu).min(carried))
}
