//! From a desired and an observed state to the shortest list of changes between them, or to the reason why there is no
//! safe one. Pure.
//!
//! What we did not make is never changed. Such a bridge is used as it is where the operator lists it for that, or where
//! it carries the very tunnel already (the state that the stock driver leaves); else it is a conflict.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::LinkName;

use super::change::Change;
use super::conflict::Conflict;
use super::mark::Mark;
use super::observe::{Observed, remotes};
use super::parse::{Link, LinkKind, VxlanSeen};
use super::removal::Place;
use super::{functions, vlans};
use crate::desired::{Bridge, BridgeOption, Checksums, Desired, Tags, Vlan, Vxlan};

/// What the two states alone do not tell.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Devices of the operator's that networks may use (`/etc/causeway/uplinks`).
    pub listed: BTreeSet<LinkName>,
    /// Bridges that another VM has reserved or is plugged into.
    pub shared: BTreeSet<LinkName>,
    /// Whether every bridge of the host hands its frames to the rules of `inet` (`net.bridge.bridge-nf-call-*`).
    pub filtered: bool,
    /// Ways out that the VM's networks had until now, and give up for others (`update_nic`).
    pub given_up: BTreeSet<LinkName>,
    /// VLANs that ports of its bridges carry for the VM's networks until now, and for them no more.
    pub vlans_given_up: BTreeMap<Place, BTreeSet<u16>>,
    /// The VLANs of other VMs' guests in the same bridges, as they are reserved.
    pub tags: Vec<Tags>,
}

/// The way from the observed state to the desired one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// In order; each one leaves a state that a second run finishes.
    pub changes: Vec<Change>,
    /// What is not as asked and stays so, for the VM's log.
    pub notes: Vec<String>,
}

/// The changes that bring `observed` to `desired`; none if it is there already.
///
/// # Errors
/// A [`Conflict`], found before anything is changed.
pub fn difference(
    desired: &Desired,
    observed: &Observed,
    around: &Surroundings,
) -> Result<Difference, Conflict> {
    let mut out = Difference::default();
    for name in &around.given_up {
        give_up(name, desired, observed, &mut out)?;
    }
    for bridge in &desired.bridges {
        let within = |tunnel: &&Vxlan| tunnel.bridge.as_ref() == Some(&bridge.name);
        let tunnels: Vec<&Vxlan> = desired.tunnels.iter().filter(within).collect();
        let vlans = desired.vlans.iter().filter(|vlan| vlan.bridge == bridge.name);
        let made = tunnels.iter().map(|tunnel| &tunnel.name).chain(vlans.map(|vlan| &vlan.name));
        let ways_out = made.chain(&bridge.uplink).collect();
        bridge_changes(bridge, &tunnels, ways_out, observed, around, &mut out)?;
        if let Some(LinkKind::Bridge(options)) = foreign_kind(&bridge.name, observed) {
            vlans::sorts(bridge, options, &desired.tags)?;
        }
    }
    for tunnel in &desired.tunnels {
        tunnel_changes(tunnel, observed, around, &mut out)?;
    }
    for vlan in &desired.vlans {
        vlan_changes(vlan, observed, around, &mut out)?;
    }
    functions::changes(&desired.functions, observed, &mut out)?;
    vlans::changes(desired, observed, around, &mut out)?;
    for entry in &desired.fdb {
        // Before its port is plugged, an address is nowhere.
        if observed.is_port_of(&entry.port, &entry.bridge) && !observed.fdb.contains(entry) {
            out.changes.push(Change::SetFdb(entry.clone()));
        }
    }
    for remote in remotes(desired) {
        let mut here = desired.fdb.iter().filter(|entry| entry.mac == remote.mac);
        let arrived = here.any(|entry| observed.is_port_of(&entry.port, &entry.bridge));
        if arrived && observed.remotes.contains(&remote) {
            out.changes.push(Change::ForgetRemote(remote));
        }
    }
    Ok(out)
}

/// Takes a way out from its bridge: a tunnel of ours altogether, a device of the operator's only from there.
fn give_up(
    name: &LinkName,
    desired: &Desired,
    observed: &Observed,
    out: &mut Difference,
) -> Result<(), Conflict> {
    let Some(link) = observed.named(name) else { return Ok(()) };
    let mut bridges = desired.bridges.iter().filter_map(|bridge| observed.named(&bridge.name));
    let bridge = bridges.find(|bridge| link.bridge == Some(bridge.index));
    match (&link.kind, bridge) {
        (LinkKind::Vxlan(_) | LinkKind::Vlan(_), _) if link.mark.is_ours() => {
            out.changes.push(Change::Delete { name: name.clone() });
        }
        (_, Some(bridge)) if bridge.mark.is_ours() => {
            out.changes.push(Change::TakeOut { name: name.clone() });
        }
        // Neither is ours to change, and with a second way out two networks would become one.
        (_, Some(bridge)) => {
            return Err(Conflict::ForeignWayOut { name: name.clone(), bridge: bridge.name.clone() });
        }
        (_, None) => {}
    }
    Ok(())
}

fn bridge_changes(
    bridge: &Bridge,
    tunnels: &[&Vxlan],
    ways_out: Vec<&LinkName>,
    observed: &Observed,
    around: &Surroundings,
    out: &mut Difference,
) -> Result<(), Conflict> {
    let name = &bridge.name;
    let Some(link) = observed.named(name) else {
        out.changes.push(Change::CreateBridge { name: name.clone(), options: bridge.options.clone() });
        out.changes.push(Change::Mark { name: name.clone() });
        return plug_uplink(bridge, None, observed, out);
    };
    let LinkKind::Bridge(options) = &link.kind else {
        return Err(Conflict::Kind { name: name.clone(), wanted: "a bridge", found: link.what() });
    };
    if !link.mark.is_ours() {
        let carries = !tunnels.is_empty() && tunnels.iter().all(|t| is_in_place(t, link, observed));
        if !around.listed.contains(name) && !carries {
            return Err(Conflict::ForeignBridge { name: name.clone() });
        }
        return foreign(bridge, link, options, observed, around, out);
    }
    only_ways_out(bridge, link, ways_out, observed, around)?;
    if link.mark == Mark::Newborn {
        out.changes.push(Change::Mark { name: name.clone() });
    }
    let differing: BTreeMap<_, _> = bridge
        .options
        .iter()
        // When a bridge begins to filter is a question of all of its ports.
        .filter(|(option, value)| {
            **option != BridgeOption::VlanFiltering && options.get(option) != Some(value)
        })
        .map(|(o, v)| (*o, *v))
        .collect();
    if !differing.is_empty() {
        out.changes.push(Change::SetBridge { name: name.clone(), options: differing });
    }
    if !link.up {
        out.changes.push(Change::SetUp { name: name.clone() });
    }
    plug_uplink(bridge, Some(link.index), observed, out)
}

/// What a bridge of the operator's is, if it is one.
fn foreign_kind<'o>(name: &LinkName, observed: &'o Observed) -> Option<&'o LinkKind> {
    observed.named(name).filter(|link| !link.mark.is_ours()).map(|link| &link.kind)
}

/// What a bridge of the operator's lacks, which stays as it is.
fn foreign(
    bridge: &Bridge,
    link: &Link,
    options: &BTreeMap<BridgeOption, u32>,
    observed: &Observed,
    around: &Surroundings,
    out: &mut Difference,
) -> Result<(), Conflict> {
    let on = |option| options.get(&option) == Some(&1) || around.filtered;
    let wanted = [BridgeOption::NfCallIptables, BridgeOption::NfCallIp6tables];
    let mut wanted = wanted.into_iter().filter(|option| bridge.options.get(option) == Some(&1));
    if !wanted.all(on) {
        return Err(Conflict::Unfiltered { name: bridge.name.clone() });
    }
    if let Some(uplink) = bridge.uplink.as_ref().filter(|uplink| !observed.is_port_of(uplink, &bridge.name)) {
        out.notes.push(format!("{uplink} is no port of {}, which causeway did not make", link.name));
    }
    Ok(())
}

/// Makes the uplink a port of its bridge, where it is free.
fn plug_uplink(
    bridge: &Bridge,
    place: Option<u32>,
    observed: &Observed,
    out: &mut Difference,
) -> Result<(), Conflict> {
    let Some(uplink) = &bridge.uplink else { return Ok(()) };
    let link = observed.named(uplink).ok_or_else(|| Conflict::NoUplink { name: uplink.clone() })?;
    match link.bridge {
        Some(index) if Some(index) == place => {}
        Some(index) => {
            return Err(Conflict::UplinkElsewhere {
                name: uplink.clone(),
                found: observed.name_of(index).to_owned(),
                wanted: bridge.name.clone(),
            });
        }
        None => out.changes.push(Change::SetBridgeOf { name: uplink.clone(), bridge: bridge.name.clone() }),
    }
    Ok(())
}

/// Whether the tunnel is there, with the right identity, as a port of `bridge`.
fn is_in_place(tunnel: &Vxlan, bridge: &Link, observed: &Observed) -> bool {
    observed.named(&tunnel.name).is_some_and(|link| {
        let right = matches!(&link.kind, LinkKind::Vxlan(seen) if same_identity(tunnel, seen, observed));
        right && link.bridge == Some(bridge.index)
    })
}

/// Refuses a bridge of ours that leads out of the host by anything but its own ways.
fn only_ways_out<'n>(
    bridge: &Bridge,
    link: &Link,
    mut known: Vec<&'n LinkName>,
    observed: &Observed,
    around: &'n Surroundings,
) -> Result<(), Conflict> {
    let Some(wanted) = known.first().copied() else { return Ok(()) };
    known.extend(&around.given_up);
    let leads_out = |port: &&Link| {
        let inward = matches!(port.kind, LinkKind::Tap | LinkKind::Inner);
        !inward && !known.iter().any(|name| name.as_str() == port.name)
    };
    match observed.ports_of(link.index).find(leads_out) {
        Some(port) => Err(Conflict::SecondUplink {
            bridge: bridge.name.clone(),
            found: port.name.clone(),
            wanted: wanted.clone(),
        }),
        None => Ok(()),
    }
}

fn tunnel_changes(
    tunnel: &Vxlan,
    observed: &Observed,
    around: &Surroundings,
    out: &mut Difference,
) -> Result<(), Conflict> {
    let name = &tunnel.name;
    if observed.named(&tunnel.uplink).is_none() {
        return Err(Conflict::NoUplink { name: tunnel.uplink.clone() });
    }
    let Some(link) = observed.named(name) else {
        number_is_free(tunnel, observed)?;
        out.changes.push(Change::CreateVxlan(tunnel.clone()));
        out.changes.push(Change::Mark { name: name.clone() });
        return Ok(());
    };
    let LinkKind::Vxlan(seen) = &link.kind else {
        return Err(Conflict::Kind { name: name.clone(), wanted: "a vxlan device", found: link.what() });
    };
    if !same_identity(tunnel, seen, observed) {
        return Err(Conflict::Identity {
            name: name.clone(),
            found: identity(seen, observed),
            wanted: tunnel.identity.to_string(),
        });
    }
    let made = Made { name, bridge: tunnel.bridge.as_ref(), mtu: tunnel.mtu };
    made.is_free(link, observed)?;
    made.repair_place(link, out);
    if tunnel.tuning != seen.tuning && link.mark.is_ours() {
        out.changes.push(Change::SetVxlan { name: name.clone(), tuning: tunnel.tuning });
    }
    made.repair_state(link, around, out);
    Ok(())
}

fn vlan_changes(
    vlan: &Vlan,
    observed: &Observed,
    around: &Surroundings,
    out: &mut Difference,
) -> Result<(), Conflict> {
    let name = &vlan.name;
    let Some(below) = observed.named(&vlan.uplink) else {
        return Err(Conflict::NoUplink { name: vlan.uplink.clone() });
    };
    let Some(link) = observed.named(name) else {
        out.changes.push(Change::CreateVlan(vlan.clone()));
        out.changes.push(Change::Mark { name: name.clone() });
        return Ok(());
    };
    let LinkKind::Vlan(seen) = &link.kind else {
        return Err(Conflict::Kind { name: name.clone(), wanted: "a VLAN device", found: link.what() });
    };
    if seen.device != Some(below.index) || seen.identity != vlan.identity {
        let on = seen.device.map_or("an unknown device", |index| observed.name_of(index));
        return Err(Conflict::Identity {
            name: name.clone(),
            found: format!("{} on {on}", seen.identity),
            wanted: format!("{} on {}", vlan.identity, vlan.uplink),
        });
    }
    let made = Made { name, bridge: Some(&vlan.bridge), mtu: vlan.mtu };
    made.is_free(link, observed)?;
    made.repair_place(link, out);
    made.repair_state(link, around, out);
    Ok(())
}

/// A tunnel or VLAN device that is the right one: what the two have in common.
struct Made<'a> {
    name: &'a LinkName,
    bridge: Option<&'a LinkName>,
    mtu: u32,
}

impl Made<'_> {
    /// Refuses one that is plugged in elsewhere, or that is somebody else's and in no bridge.
    fn is_free(&self, link: &Link, observed: &Observed) -> Result<(), Conflict> {
        let Some(wanted) = self.bridge else { return Ok(()) };
        let (name, bridge) = (self.name.clone(), observed.named(wanted).map(|link| link.index));
        match link.bridge {
            Some(index) if Some(index) != bridge => {
                let found = observed.name_of(index).to_owned();
                Err(Conflict::Elsewhere { name, found, wanted: wanted.clone() })
            }
            None if !link.mark.is_ours() => Err(Conflict::ForeignTunnel { name, bridge: wanted.clone() }),
            _ => Ok(()),
        }
    }

    fn repair_place(&self, link: &Link, out: &mut Difference) {
        if link.mark == Mark::Newborn {
            out.changes.push(Change::Mark { name: self.name.clone() });
        }
        if let Some(bridge) = self.bridge.filter(|_| link.bridge.is_none()) {
            out.changes.push(Change::SetBridgeOf { name: self.name.clone(), bridge: bridge.clone() });
        }
    }

    fn repair_state(&self, link: &Link, around: &Surroundings, out: &mut Difference) {
        let (name, ours) = (self.name.clone(), link.mark.is_ours());
        if link.mtu != self.mtu {
            if ours && !self.bridge.is_some_and(|bridge| around.shared.contains(bridge)) {
                out.changes.push(Change::SetMtu { name: name.clone(), mtu: self.mtu });
            } else {
                let whose = if ours { "other guests use it" } else { "causeway did not make it" };
                out.notes
                    .push(format!("{name} keeps its MTU of {} (wanted: {}): {whose}", link.mtu, self.mtu));
            }
        }
        match (link.up, ours) {
            (false, true) => out.changes.push(Change::SetUp { name }),
            (false, false) => out.notes.push(format!("{name} is down, and causeway did not make it")),
            (true, _) => {}
        }
    }
}

fn number_is_free(tunnel: &Vxlan, observed: &Observed) -> Result<(), Conflict> {
    let wanted = &tunnel.identity;
    let taken = observed.links.values().find(|link| match &link.kind {
        LinkKind::Vxlan(seen) => seen.vni == Some(wanted.vni) && seen.port == wanted.port,
        _ => false,
    });
    match taken {
        None => Ok(()),
        Some(link) => Err(Conflict::Number {
            vni: wanted.vni.get(),
            port: wanted.port,
            found: link.name.clone(),
            wanted: tunnel.name.clone(),
        }),
    }
}

fn same_identity(tunnel: &Vxlan, seen: &VxlanSeen, observed: &Observed) -> bool {
    let wanted = &tunnel.identity;
    let device = match &wanted.device {
        None => seen.device.is_none(),
        // A device that is not there is not the one below the tunnel.
        Some(name) => seen.device.is_some() && seen.device == observed.named(name).map(|link| link.index),
    };
    device
        && seen.vni == Some(wanted.vni)
        && seen.group == wanted.group
        && seen.local == wanted.local
        && seen.port == wanted.port
        && seen.checksums == wanted.checksums
}

/// The identity of a device as [`crate::desired::VxlanIdentity`] prints it.
fn identity(seen: &VxlanSeen, observed: &Observed) -> String {
    let part = |word: &str, value: Option<String>| value.map_or(String::new(), |v| format!(" {word} {v}"));
    let vni = seen.vni.map_or_else(|| "no vni".to_owned(), |vni| format!("vni {vni}"));
    let mut text = vni;
    text.push_str(&part("dev", seen.device.map(|index| observed.name_of(index).to_owned())));
    text.push_str(&part("group", seen.group.map(|a| a.to_string())));
    text.push_str(&part("local", seen.local.map(|a| a.to_string())));
    text.push_str(&format!(" dstport {}", seen.port));
    if seen.checksums != Checksums::default() {
        text.push_str(" other checksums");
    }
    text
}
