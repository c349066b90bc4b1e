//! What may be taken away when a VM leaves: only what we made, and only what nobody else uses. Pure.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::LinkName;

use super::change::Change;
use super::observe::{Observed, Scope};
use super::parse::{Link, LinkKind};
use super::{functions, vlans};
use crate::desired::{Desired, FdbEntry, Function, Port, Tags};

/// What a VM, or one of its NICs, leaves behind: names are all that is needed to take it away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaving {
    /// The guest's devices.
    pub taps: BTreeSet<Place>,
    /// Its bridges, but those that are kept when they are empty.
    pub bridges: BTreeSet<LinkName>,
    /// Its tunnels and VLAN devices.
    pub tunnels: BTreeSet<Place>,
    /// The operator's devices that its bridges lead out by: they stay, and keep no bridge.
    pub uplinks: BTreeSet<Place>,
    /// Tunnels that were ports of Open vSwitch and are no more.
    pub loose: BTreeSet<LinkName>,
    /// Bridges that had services for its guests.
    pub services: BTreeSet<LinkName>,
    /// Its virtual functions.
    pub functions: Vec<Function>,
    /// The VLANs that its ways out carried for it.
    pub vlans: BTreeMap<Place, BTreeSet<u16>>,
    /// Where its addresses were.
    pub fdb: Vec<FdbEntry>,
}

/// A device and the bridge it belongs into.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The device.
    pub name: LinkName,
    /// The bridge.
    pub bridge: LinkName,
}

impl Leaving {
    /// Adds what one NIC leaves on a Linux bridge; `keep` spares the bridge, and with it the tunnel.
    pub fn add(&mut self, port: &Port, keep: bool, tunnel: Option<&LinkName>, uplink: Option<&LinkName>) {
        let place = |name: &LinkName| Place { name: name.clone(), bridge: port.bridge.clone() };
        self.taps.insert(place(&port.tap));
        if !keep {
            self.bridges.insert(port.bridge.clone());
        }
        self.tunnels.extend(tunnel.map(place));
        self.uplinks.extend(uplink.map(place));
        self.fdb.push(FdbEntry { bridge: port.bridge.clone(), mac: port.mac, port: port.tap.clone() });
    }

    /// Adds a way out that a bridge was about to lose.
    pub fn give_up(&mut self, name: &LinkName, bridge: &LinkName) {
        let place = Place { name: name.clone(), bridge: bridge.clone() };
        self.uplinks.insert(place.clone());
        self.tunnels.insert(place);
    }

    /// Adds the VLANs that one NIC brought.
    pub fn add_vlans(&mut self, tags: &Tags) {
        if let Some(name) = tags.way_out.clone() {
            let place = Place { name, bridge: tags.bridge.clone() };
            self.vlans.entry(place).or_default().extend(&tags.tagged);
        }
    }

    /// Spares the VLANs that NICs need which stay.
    pub fn spare_vlans<'t>(&mut self, staying: impl IntoIterator<Item = &'t Tags>) {
        for tags in staying {
            let here = self.vlans.iter_mut().filter(|(place, _)| place.bridge == tags.bridge);
            here.for_each(|(_, vlans)| vlans.retain(|vlan| !tags.tagged.contains(vlan)));
        }
        self.vlans.retain(|_, vlans| !vlans.is_empty());
    }

    /// Whether there is nothing to take away.
    pub fn is_empty(&self) -> bool {
        let places = self.taps.is_empty() && self.tunnels.is_empty() && self.vlans.is_empty();
        let bridges = self.bridges.is_empty() && self.services.is_empty() && self.loose.is_empty();
        places && bridges && self.functions.is_empty()
    }
}

impl From<&Desired> for Leaving {
    fn from(state: &Desired) -> Self {
        let mut leaving = Leaving::default();
        leaving.services.extend(state.services.iter().map(|services| services.bridge.clone()));
        for port in &state.ports {
            let Some(bridge) = state.bridges.iter().find(|b| b.name == port.bridge) else { continue };
            let tunnel = state.tunnels.iter().find(|t| t.bridge.as_ref() == Some(&port.bridge));
            let vlan = state.vlans.iter().find(|vlan| vlan.bridge == port.bridge);
            let made = tunnel.map(|t| &t.name).or(vlan.map(|vlan| &vlan.name));
            leaving.add(port, bridge.keep, made, bridge.uplink.as_ref());
        }
        state.tags.iter().for_each(|tags| leaving.add_vlans(tags));
        leaving.functions.extend(state.functions.iter().cloned());
        leaving
    }
}

impl From<&Leaving> for Scope {
    fn from(leaving: &Leaving) -> Self {
        let places = leaving.taps.iter().chain(&leaving.tunnels);
        Scope {
            links: places.map(|place| &place.name).chain(&leaving.loose).cloned().collect(),
            bridges: leaving
                .taps
                .iter()
                .map(|tap| tap.bridge.clone())
                .chain(leaving.bridges.iter().chain(&leaving.services).cloned())
                .chain(leaving.vlans.keys().map(|place| place.bridge.clone()))
                .collect(),
            fdb: leaving.fdb.clone(),
            vlans: !leaving.vlans.is_empty(),
            functions: leaving.functions.iter().map(|function| function.device.clone()).collect(),
            ..Scope::default()
        }
    }
}

/// What a removal comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// In order; each one leaves a state that a second run finishes.
    pub changes: Vec<Change>,
    /// What stays although the VM leaves, and why.
    pub notes: Vec<String>,
    /// Taps of the VM itself that are still plugged in, wherever that is: its guest may still run.
    pub lingering: BTreeSet<LinkName>,
}

/// The changes that take away `leaving` as far as nothing else needs it. `reserved` holds the bridges of other VMs.
pub fn removal(leaving: &Leaving, observed: &Observed, reserved: &BTreeSet<LinkName>) -> Removal {
    let mut out = Removal::default();
    let is_port = |tap: &&Place| observed.named(&tap.name).is_some_and(|link| link.bridge.is_some());
    let plugged = leaving.taps.iter().filter(is_port);
    out.lingering.extend(plugged.map(|tap| tap.name.clone()));
    for entry in &leaving.fdb {
        if observed.fdb.contains(entry) {
            out.changes.push(Change::ForgetFdb(entry.clone()));
        }
    }
    for bridge in leaving.bridges.difference(reserved) {
        take_away(bridge, leaving, observed, &mut out);
    }
    out.changes.extend(functions::removal(&leaving.functions, observed));
    out.changes.extend(vlans::removal(leaving, observed, &out.changes));
    let loose = leaving.loose.iter().filter(|name| {
        let ours = |link: &Link| link.mark.is_ours() && matches!(link.kind, LinkKind::Vxlan(_));
        observed.named(name).is_some_and(ours)
    });
    out.changes.extend(loose.map(|name| Change::Delete { name: name.clone() }));
    out
}

fn take_away(bridge: &LinkName, leaving: &Leaving, observed: &Observed, out: &mut Removal) {
    let found = observed.named(bridge).filter(|link| matches!(link.kind, LinkKind::Bridge(_)));
    let place = found.map(|link| link.index);
    // A tunnel that was plugged into another bridge meanwhile serves somebody else.
    let tunnels: Vec<&Link> = leaving
        .tunnels
        .iter()
        .filter(|tunnel| tunnel.bridge == *bridge)
        .filter_map(|tunnel| observed.named(&tunnel.name))
        .filter(|link| link.mark.is_ours() && matches!(link.kind, LinkKind::Vxlan(_) | LinkKind::Vlan(_)))
        .filter(|link| link.bridge.is_none() || link.bridge == place)
        .collect();
    if let Some(link) = found
        && is_needed(link, &tunnels, leaving, observed)
    {
        return;
    }
    let delete = |link: &Link| Some(Change::Delete { name: link.name.parse().ok()? });
    out.changes.extend(tunnels.iter().filter_map(|link| delete(link)));
    let Some(link) = found.filter(|link| link.mark.is_ours()) else {
        return;
    };
    match observed.addresses.get(&link.index).and_then(|list| list.first()) {
        Some(address) => out.notes.push(format!("bridge {bridge} stays: it has the address {address}")),
        None => out.changes.extend(delete(link)),
    }
}

/// Whether anything but `tunnels`, its uplink and the end of its services is plugged in. In a bridge of the operator's, the
/// operator's own devices are no reason to keep our tunnel; a guest is.
fn is_needed(bridge: &Link, tunnels: &[&Link], leaving: &Leaving, observed: &Observed) -> bool {
    let uplink = |port: &Link| {
        let here = leaving.uplinks.iter().filter(|uplink| uplink.bridge.as_str() == bridge.name);
        here.into_iter().any(|uplink| uplink.name.as_str() == port.name)
    };
    // What TProxy plugs in (contract VNM 4.11) is for the guests, and none itself.
    let services = |port: &Link| port.kind == LinkKind::Inner && port.name == format!("{}b", bridge.name);
    let tunnel = |port: &Link| tunnels.iter().any(|tunnel| tunnel.index == port.index);
    let ours = |port: &Link| uplink(port) || services(port) || tunnel(port);
    let counts = |port: &&Link| bridge.mark.is_ours() || port.is_guests();
    observed.ports_of(bridge.index).filter(counts).any(|port| !ours(port))
}
