//! The `vxlan` driver: one bridge and one tunnel per network (contract VNM 4.1).

use std::net::{IpAddr, Ipv4Addr};

use causeway_core::document::{BridgeType, Nic, VmDocument, VxlanMode, VxlanTep};
use causeway_core::names::{LinkName, Mac, VmId, Vni};

use super::facts::{Facts, UPLINKS_FILE, Uplink};
use super::refusal::Refusal;
use super::security;
use super::settings::{Effective, Settings};
use super::state::{Bridge, Desired, FdbEntry, Port, Vxlan, VxlanIdentity};

/// The driver's name, `VN_MAD`.
pub const DRIVER: &str = "vxlan";

/// Bytes of the outer headers: Ethernet, UDP, VXLAN and IPv4 (RFC 7348 section 5).
const OVERHEAD_V4: u32 = 50;
/// The same with IPv6.
const OVERHEAD_V6: u32 = 70;
/// The smallest MTU that the kernel gives an Ethernet device.
const MTU_MIN: u32 = 68;

/// A desired state and what the VM's owner should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What must exist.
    pub desired: Desired,
    /// What was not taken as it was asked for.
    pub notes: Vec<String>,
}

/// The NICs an action is about: the one with `ATTACH` if there is one, none if an alias or a PCI device has it, else
/// all of this driver's (contract VNM 4.6).
pub fn selected(vm: &VmDocument) -> Vec<&Nic> {
    let other = vm.aliases.iter().any(|alias| alias.attach) || vm.pcis.iter().any(|pci| pci.attach);
    let single = vm.nics.iter().any(|nic| nic.attach);
    let chosen = |nic: &&Nic| nic.is(DRIVER) && !other && (nic.attach || !single);
    vm.nics.iter().filter(chosen).collect()
}

/// Works out what must exist for the selected NICs of `vm`.
///
/// # Errors
/// A [`Refusal`], for the first thing that is wrong; protections are checked before anything else.
pub fn desired(vm: &VmDocument, settings: &Settings, facts: &Facts) -> Result<Answer, Refusal> {
    // An alias that is being attached brings its filter to a NIC that is not selected.
    let parent =
        |nic: &&Nic| vm.aliases.iter().any(|alias| alias.attach && alias.parent_id == Some(nic.nic_id));
    let affected = vm.nics.iter().filter(|nic| nic.is(DRIVER)).filter(parent);
    selected(vm).into_iter().chain(affected).try_for_each(|nic| security::check(nic, vm))?;
    if let Some(nic) = vm.pcis.iter().filter_map(|pci| pci.nic.as_ref()).find(|nic| nic.is(DRIVER)) {
        return Err(Refusal::malformed(nic.nic_id, "VN_MAD", DRIVER, "possible for a PCI device"));
    }
    let mut answer = Answer { desired: Desired::nothing(vm.id), notes: Vec::new() };
    for nic in selected(vm) {
        if nic.phydev.is_none() {
            // Stock does nothing for such a NIC either: its bridge is the operator's.
            answer.notes.push(format!("NIC {}: no PHYDEV, so nothing to prepare", nic.nic_id));
            continue;
        }
        add(nic, vm.id, settings, facts, &mut answer)?;
    }
    finish(&mut answer.desired);
    Ok(answer)
}

fn add(nic: &Nic, vm: VmId, settings: &Settings, facts: &Facts, answer: &mut Answer) -> Result<(), Refusal> {
    let effective = settings.effective(nic)?;
    let port = port(nic, vm)?;
    let tunnel = tunnel(nic, &effective, &port, facts, &mut answer.notes)?;
    let bridge = Bridge { name: port.bridge.clone(), options: effective.bridge, keep: effective.keep };
    let state = &mut answer.desired;
    let clash = |name: &LinkName, ports: &[Port], bridge: &LinkName| Refusal::Clash {
        nic: nic.nic_id,
        other: ports.iter().find(|p| p.bridge == *bridge).map_or(nic.nic_id, |p| p.nic),
        name: name.clone(),
    };
    match state.bridges.iter().find(|b| b.name == bridge.name) {
        Some(same) if *same == bridge => {}
        Some(_) => return Err(clash(&bridge.name, &state.ports, &bridge.name)),
        None => state.bridges.push(bridge),
    }
    // One bridge has one tunnel, and one tunnel is in one bridge: anything else joins two networks (W25).
    let near = |t: &&Vxlan| t.name == tunnel.name || t.bridge == tunnel.bridge;
    match state.tunnels.iter().find(near) {
        Some(same) if *same == tunnel => {}
        Some(other) => return Err(clash(&tunnel.name, &state.ports, &other.bridge)),
        None => state.tunnels.push(tunnel),
    }
    state.ports.push(port);
    Ok(())
}

/// The NIC's device, under the name that OpenNebula gives it.
///
/// A `TARGET` of the user's own choice is refused: the privileged side acts on devices by name, and a user who chooses
/// names could have it act on another guest's.
fn port(nic: &Nic, vm: VmId) -> Result<Port, Refusal> {
    let id = nic.nic_id;
    let missing = |attribute, why| Refusal::Missing { nic: id, attribute, why };
    let name = format!("one-{vm}-{id}");
    let bad = |text: &str| Refusal::malformed(id, "TARGET", text, "a device name of at most 15 characters");
    let tap: LinkName = name.parse().map_err(|_| bad(&name))?;
    if let Some(target) = nic.target.as_ref().filter(|target| **target != tap) {
        return Err(Refusal::malformed(id, "TARGET", target.as_str(), format!("{tap}, or absent")));
    }
    if !matches!(nic.bridge_type, None | Some(BridgeType::Linux | BridgeType::None)) {
        let found = format!("{:?}", nic.bridge_type.unwrap_or(BridgeType::None)).to_ascii_lowercase();
        return Err(Refusal::malformed(id, "BRIDGE_TYPE", &found, "linux, the only one this driver has"));
    }
    let bridge =
        nic.bridge.clone().ok_or_else(|| missing("BRIDGE", "the guest's device is plugged into it"))?;
    if is_tap_name(&bridge) {
        return Err(Refusal::malformed(
            id,
            "BRIDGE",
            bridge.as_str(),
            "a name unlike those of guests' devices",
        ));
    }
    let mac = nic.mac.ok_or_else(|| missing("MAC", "the fabric finds the guest by it"))?;
    if mac.0.first().is_some_and(|first| first & 1 == 1) || mac == Mac([0; 6]) {
        return Err(Refusal::malformed(id, "MAC", &mac.to_string(), "the address of one device"));
    }
    Ok(Port { nic: id, tap, bridge, mac, addresses: nic.addresses.all().collect() })
}

/// Whether a name could be that of a guest's device.
pub fn is_tap_name(name: &LinkName) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts = name.as_str().strip_prefix("one-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(vm, nic)| digits(vm) && digits(nic))
}

fn tunnel(
    nic: &Nic,
    effective: &Effective,
    port: &Port,
    facts: &Facts,
    notes: &mut Vec<String>,
) -> Result<Vxlan, Refusal> {
    let id = nic.nic_id;
    let missing = |attribute, why| Refusal::Missing { nic: id, attribute, why };
    let uplink = nic.phydev.clone().ok_or_else(|| missing("PHYDEV", "tunnels leave the host by it"))?;
    let vni = nic.vni().ok_or_else(|| missing("VLAN_ID", "it is the number of the VXLAN network"))?;
    let fact = fact(id, &uplink, facts)?;
    let name = tunnel_name(id, &uplink, vni)?;
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
        bridge: port.bridge.clone(),
        uplink,
        identity,
        tuning: effective.link.tuning,
    })
}

fn tunnel_name(nic: u32, uplink: &LinkName, vni: Vni) -> Result<LinkName, Refusal> {
    let full = format!("{uplink}.{vni}");
    full.parse().map_err(|_| {
        let accepted = "short enough for PHYDEV.VLAN_ID to be a device name of at most 15 characters";
        Refusal::malformed(nic, "PHYDEV", &full, accepted)
    })
}

/// What a NIC's devices are called: enough to take them away, whatever the rest of the document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Its device and its bridge.
    pub port: Port,
    /// Whether the bridge is kept when it is empty.
    pub keep: bool,
    /// Its tunnel, if it has one.
    pub tunnel: Option<LinkName>,
}

/// Works out the names of a NIC's devices.
///
/// # Errors
/// A [`Refusal`] if there are no such devices; then there is nothing to take away.
pub fn names(nic: &Nic, vm: VmId, settings: &Settings) -> Result<Names, Refusal> {
    let tunnel = match (&nic.phydev, nic.vni()) {
        (Some(uplink), Some(vni)) => Some(tunnel_name(nic.nic_id, uplink, vni)?),
        _ => None,
    };
    Ok(Names {
        port: port(nic, vm)?,
        // With settings that cannot be read, nobody knows that the bridge may go.
        keep: settings.effective(nic).map_or(true, |effective| effective.keep),
        tunnel,
    })
}

fn fact<'a>(nic: u32, uplink: &LinkName, facts: &'a Facts) -> Result<&'a Uplink, Refusal> {
    let name = uplink.clone();
    if !facts.listed.contains(uplink) {
        return Err(Refusal::NotListed { nic, name, file: UPLINKS_FILE });
    }
    facts.uplinks.get(uplink).ok_or(Refusal::NoUplink { nic, name })
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

/// Sorts, and derives where each address is found.
fn finish(state: &mut Desired) {
    state.ports.sort_by_key(|port| port.nic);
    state.bridges.sort_by(|a, b| a.name.cmp(&b.name));
    state.tunnels.sort_by(|a, b| a.name.cmp(&b.name));
    state.fdb = fdb(&state.ports);
}

/// One entry per address and bridge; an address that two NICs of one bridge share is found nowhere in particular.
pub fn fdb(ports: &[Port]) -> Vec<FdbEntry> {
    let shared =
        |port: &Port| ports.iter().filter(|p| p.mac == port.mac && p.bridge == port.bridge).count() > 1;
    let entry = |port: &Port| FdbEntry { bridge: port.bridge.clone(), mac: port.mac, port: port.tap.clone() };
    let mut entries: Vec<FdbEntry> = ports.iter().filter(|port| !shared(port)).map(entry).collect();
    entries.sort();
    entries
}
