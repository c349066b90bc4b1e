//! From a desired and an observed state to the shortest list of changes between them, or to the reason why there is no
//! safe one. Pure.
//!
//! What we did not make is never changed. Such a bridge is used as it is where the operator lists it for that, or where
//! it carries the very tunnel already (the state that the stock driver leaves); else it is a conflict.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::LinkName;

use super::change::Change;
use super::mark::Mark;
use super::observe::{Observed, remotes};
use super::parse::{Link, LinkKind, VxlanSeen};
use crate::desired::{Bridge, BridgeOption, Checksums, Desired, Vxlan};

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
}

/// The way from the observed state to the desired one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// In order; each one leaves a state that a second run finishes.
    pub changes: Vec<Change>,
    /// What is not as asked and stays so, for the VM's log.
    pub notes: Vec<String>,
}

/// Why a host cannot be brought to the desired state without harm to somebody else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The name is taken by something else.
    #[error("{name} is {found} on this host, not {wanted}")]
    Kind {
        /// The device.
        name: LinkName,
        /// What it should be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// A bridge that we neither made nor may use.
    #[error(
        "bridge {name} was not made by causeway: remove it, or list it in the file of permitted devices to let virtual \
         networks into it"
    )]
    ForeignBridge {
        /// The bridge.
        name: LinkName,
    },
    /// A tunnel that we did not make and that is not where it should be.
    #[error("vxlan device {name} was not made by causeway and is no port of {bridge}: remove it")]
    ForeignTunnel {
        /// The tunnel.
        name: LinkName,
        /// The bridge it should be in.
        bridge: LinkName,
    },
    /// A second way out of a bridge (contract VNM 5, W25).
    #[error(
        "bridge {bridge} already leads out by {found}: with {wanted} as well, two networks would become one"
    )]
    SecondUplink {
        /// The bridge.
        bridge: LinkName,
        /// Its way out.
        found: String,
        /// The other one.
        wanted: LinkName,
    },
    /// The tunnel exists with another identity (W21).
    #[error(
        "vxlan device {name} exists with {found}, but the network wants {wanted}: remove it when no guest uses it"
    )]
    Identity {
        /// The tunnel.
        name: LinkName,
        /// What it has.
        found: String,
        /// What it should have.
        wanted: String,
    },
    /// The tunnel is plugged into another bridge.
    #[error("vxlan device {name} is a port of {found}, not of {wanted}: two networks share a VLAN_ID")]
    Elsewhere {
        /// The tunnel.
        name: LinkName,
        /// The bridge it is in.
        found: String,
        /// The bridge it should be in.
        wanted: LinkName,
    },
    /// The uplink is plugged into another bridge.
    #[error("uplink {name} is a port of {found}: as a port of {wanted} as well, it would be in two networks")]
    UplinkElsewhere {
        /// The uplink.
        name: LinkName,
        /// The bridge it is in.
        found: String,
        /// The bridge it should be in.
        wanted: LinkName,
    },
    /// The number is taken by another tunnel; the kernel has one per number and port.
    #[error(
        "VNI {vni} with UDP port {port} is taken on this host by {found}: the network cannot also use {wanted}"
    )]
    Number {
        /// The number.
        vni: u32,
        /// The UDP port.
        port: u16,
        /// The tunnel that has it.
        found: String,
        /// The tunnel that should have it.
        wanted: LinkName,
    },
    /// The network's old way out, which we did not make.
    #[error(
        "{name} in bridge {bridge} was not made by causeway: take it out of there, for the network has another way out now"
    )]
    ForeignWayOut {
        /// The tunnel or uplink.
        name: LinkName,
        /// The bridge it is in.
        bridge: String,
    },
    /// A bridge that we may not change, and whose frames no rule sees.
    #[error(
        "bridge {name} does not hand its frames to the firewall, and causeway did not make it: run `ip link set {name} type bridge \
         nf_call_iptables 1 nf_call_ip6tables 1`"
    )]
    Unfiltered {
        /// The bridge.
        name: LinkName,
    },
    /// The uplink went away, or was never there.
    #[error("uplink {name} does not exist on this host")]
    NoUplink {
        /// The uplink.
        name: LinkName,
    },
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
        bridge_changes(bridge, &tunnels, observed, around, &mut out)?;
    }
    for tunnel in &desired.tunnels {
        tunnel_changes(tunnel, observed, around, &mut out)?;
    }
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
        (LinkKind::Vxlan(_), _) if link.mark.is_ours() => {
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
        return Err(Conflict::Kind { name: name.clone(), wanted: "a bridge", found: kind(link) });
    };
    if !link.mark.is_ours() {
        let carries = !tunnels.is_empty() && tunnels.iter().all(|t| is_in_place(t, link, observed));
        if !around.listed.contains(name) && !carries {
            return Err(Conflict::ForeignBridge { name: name.clone() });
        }
        return foreign(bridge, link, options, observed, around, out);
    }
    only_way_out(bridge, link, tunnels, observed, around)?;
    if link.mark == Mark::Newborn {
        out.changes.push(Change::Mark { name: name.clone() });
    }
    let differing: BTreeMap<_, _> = bridge
        .options
        .iter()
        .filter(|(option, value)| options.get(option) != Some(value))
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

/// Refuses a bridge of ours that leads out of the host by anything but `tunnels` and its uplink.
fn only_way_out(
    bridge: &Bridge,
    link: &Link,
    tunnels: &[&Vxlan],
    observed: &Observed,
    around: &Surroundings,
) -> Result<(), Conflict> {
    let wanted = tunnels.first().map(|tunnel| &tunnel.name).or(bridge.uplink.as_ref());
    let Some(wanted) = wanted else { return Ok(()) };
    let ours = |port: &Link| {
        let named = |name: &LinkName| name.as_str() == port.name;
        let mut known =
            tunnels.iter().map(|tunnel| &tunnel.name).chain(&bridge.uplink).chain(&around.given_up);
        known.any(named)
    };
    let leads_out = |port: &&Link| !matches!(port.kind, LinkKind::Tap | LinkKind::Inner) && !ours(port);
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
        return Err(Conflict::Kind { name: name.clone(), wanted: "a vxlan device", found: kind(link) });
    };
    if !same_identity(tunnel, seen, observed) {
        return Err(Conflict::Identity {
            name: name.clone(),
            found: identity(seen, observed),
            wanted: tunnel.identity.to_string(),
        });
    }
    if let Some(wanted) = &tunnel.bridge {
        is_free_for(wanted, tunnel, link, observed)?;
    }
    repairs(tunnel, link, seen, around, out);
    Ok(())
}

/// Refuses a tunnel that is plugged in elsewhere, or that is somebody else's and in no bridge.
fn is_free_for(wanted: &LinkName, tunnel: &Vxlan, link: &Link, observed: &Observed) -> Result<(), Conflict> {
    let (name, bridge) = (tunnel.name.clone(), observed.named(wanted).map(|link| link.index));
    match link.bridge {
        Some(index) if Some(index) != bridge => {
            let found = observed.name_of(index).to_owned();
            Err(Conflict::Elsewhere { name, found, wanted: wanted.clone() })
        }
        None if !link.mark.is_ours() => Err(Conflict::ForeignTunnel { name, bridge: wanted.clone() }),
        _ => Ok(()),
    }
}

/// What is mended on a tunnel that is the right one.
fn repairs(tunnel: &Vxlan, link: &Link, seen: &VxlanSeen, around: &Surroundings, out: &mut Difference) {
    let name = tunnel.name.clone();
    let ours = link.mark.is_ours();
    if link.mark == Mark::Newborn {
        out.changes.push(Change::Mark { name: name.clone() });
    }
    if let Some(bridge) = tunnel.bridge.as_ref().filter(|_| link.bridge.is_none()) {
        out.changes.push(Change::SetBridgeOf { name: name.clone(), bridge: bridge.clone() });
    }
    if tunnel.tuning != seen.tuning && ours {
        out.changes.push(Change::SetVxlan { name: name.clone(), tuning: tunnel.tuning });
    }
    if link.mtu != tunnel.mtu {
        if ours && !tunnel.bridge.as_ref().is_some_and(|bridge| around.shared.contains(bridge)) {
            out.changes.push(Change::SetMtu { name: name.clone(), mtu: tunnel.mtu });
        } else {
            let whose = if ours { "other guests use it" } else { "causeway did not make it" };
            out.notes.push(format!("{name} keeps its MTU of {} (wanted: {}): {whose}", link.mtu, tunnel.mtu));
        }
    }
    match (link.up, ours) {
        (false, true) => out.changes.push(Change::SetUp { name }),
        (false, false) => out.notes.push(format!("{name} is down, and causeway did not make it")),
        (true, _) => {}
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

/// What a device is, for a message.
fn kind(link: &Link) -> String {
    match &link.kind {
        LinkKind::Bridge(_) => "a bridge".to_owned(),
        LinkKind::Vxlan(_) => "a vxlan device".to_owned(),
        LinkKind::Tap => "a tap device".to_owned(),
        LinkKind::Inner => "a virtual device".to_owned(),
        LinkKind::Outer(kind) => format!("a device ({kind})"),
    }
}
