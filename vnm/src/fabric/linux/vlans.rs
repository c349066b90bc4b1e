//! The VLANs of a bridge's ports: what is missing, what is one's own to take away, and when a bridge begins to filter. Pure.
//!
//! A guest's device is in exactly the VLANs of its network and in the one of frames without a tag; it gets them when it is there.
//! Until then it is in the bridge's default VLAN alone, because the bridge filters before the guest comes. An uplink is in the VLANs of
//! all guests behind it: it gets what one brings, and loses what the last one took along.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::LinkName;

use super::change::Change;
use super::conflict::Conflict;
use super::difference::{Difference, Surroundings};
use super::observe::Observed;
use super::parse::{Link, LinkKind};
use super::removal::{Leaving, Place};
use super::vlan_table::{Tagging, VlanTable};
use crate::desired::tags::ranges;
use crate::desired::{Bridge, BridgeOption, Desired, Tags};

/// The VLANs that the devices and ways out of some NICs carry for them.
pub fn carried<'t>(tags: impl IntoIterator<Item = &'t Tags>) -> BTreeMap<Place, BTreeSet<u16>> {
    let mut out: BTreeMap<Place, BTreeSet<u16>> = BTreeMap::new();
    for tags in tags {
        for name in tags.way_out.iter().chain([&tags.tap]) {
            let place = Place { name: name.clone(), bridge: tags.bridge.clone() };
            out.entry(place).or_default().extend(&tags.tagged);
        }
    }
    out
}

/// Refuses a bridge of the operator's that does not sort frames as the guest's network needs it.
///
/// # Errors
/// It lets every VLAN pass, or a new port would be in a VLAN of other guests.
pub(super) fn sorts(
    bridge: &Bridge,
    options: &BTreeMap<BridgeOption, u32>,
    tags: &[Tags],
) -> Result<(), Conflict> {
    let Some(tags) = tags.iter().find(|tags| tags.bridge == bridge.name) else { return Ok(()) };
    let name = bridge.name.clone();
    if options.get(&BridgeOption::VlanFiltering) != Some(&1) {
        return Err(Conflict::Unsorted { name });
    }
    match (tags.untagged, options.get(&BridgeOption::VlanDefaultPvid)) {
        (Some(wanted), Some(found)) if ![0, u32::from(wanted)].contains(found) => {
            Err(Conflict::Native { name, found: *found, wanted })
        }
        _ => Ok(()),
    }
}

/// The changes of the ports' tables, and of the bridges that are to filter by them.
///
/// # Errors
/// Other guests would lose their VLANs, or frames of a VLAN have no tag where a guest is to tag them.
pub(super) fn changes(
    desired: &Desired,
    observed: &Observed,
    around: &Surroundings,
    out: &mut Difference,
) -> Result<(), Conflict> {
    let mut ways_out: BTreeMap<&LinkName, Tags> = BTreeMap::new();
    for tags in &desired.tags {
        own_device(tags, observed, out)?;
        if let Some(name) = &tags.way_out {
            let known = ways_out.entry(name).or_insert_with(|| tags.clone());
            known.tagged.extend(&tags.tagged);
        }
    }
    for (name, tags) in &ways_out {
        way_out(name, tags, observed, out)?;
    }
    for (place, vlans) in &around.vlans_given_up {
        give_up(place, vlans, desired, observed, around, out);
    }
    // A guest that runs already loses nothing of its own on the way.
    for bridge in &desired.bridges {
        begin_to_filter(bridge, desired, observed, around, out)?;
    }
    Ok(())
}

/// The table of a port of that bridge; none while it is not plugged in there.
fn table<'o>(port: &LinkName, bridge: &LinkName, observed: &'o Observed) -> Option<&'o VlanTable> {
    let link = observed.named(port).filter(|_| observed.is_port_of(port, bridge))?;
    Some(observed.vlans.get(&link.index).unwrap_or(&NOTHING))
}

static NOTHING: VlanTable = VlanTable::new();

fn own_device(tags: &Tags, observed: &Observed, out: &mut Difference) -> Result<(), Conflict> {
    let Some(table) = table(&tags.tap, &tags.bridge, observed) else { return Ok(()) };
    let pvid = table.iter().find(|(_, how)| how.pvid).map(|(vlan, _)| *vlan);
    let native = tags.untagged.or(pvid);
    if let Some(vlan) = native.filter(|vlan| tags.tagged.contains(vlan)) {
        return Err(Conflict::NoTag { vlan, port: tags.tap.clone(), bridge: tags.bridge.clone() });
    }
    let kept = |vlan: &u16| tags.tagged.contains(vlan) || Some(*vlan) == native;
    forget(&tags.tap, table.keys().copied().filter(|vlan| !kept(vlan)).collect(), out);
    let as_wanted = |vlan: &u16| table.get(vlan) == Some(&Tagging::TAGGED);
    let tagged = tags.tagged.iter().copied().filter(|vlan| !as_wanted(vlan)).collect();
    set(&tags.tap, tags.untagged.filter(|vlan| table.get(vlan) != Some(&Tagging::NATIVE)), tagged, out);
    Ok(())
}

/// What the uplink or VLAN device lacks. What it has besides is somebody else's.
fn way_out(name: &LinkName, tags: &Tags, observed: &Observed, out: &mut Difference) -> Result<(), Conflict> {
    let bridge = observed.named(&tags.bridge);
    let table = table(name, &tags.bridge, observed).unwrap_or(&NOTHING);
    let without_tag = |vlan: &&u16| table.get(vlan).is_some_and(|how| *how != Tagging::TAGGED);
    // A port that is about to be plugged in gets its frames without a tag from the bridge, as a guest's does.
    let shown = tags.tagged.iter().find(without_tag).filter(|_| tags.untagged.is_none());
    if let Some(vlan) = shown {
        return Err(Conflict::NoTag { vlan: *vlan, port: name.clone(), bridge: tags.bridge.clone() });
    }
    let lacks = |vlan: &u16| table.get(vlan) != Some(&Tagging::TAGGED);
    let missing: BTreeSet<u16> = tags.tagged.iter().copied().filter(lacks).collect();
    let native = tags.untagged.filter(|vlan| table.get(vlan) != Some(&Tagging::NATIVE));
    if is_ours_to_change(bridge, observed.named(name)) {
        set(name, native, missing, out);
    } else if !missing.is_empty() {
        let bridge = &tags.bridge;
        let missing = ranges(&missing);
        out.notes
            .push(format!("{name} does not carry VLANs {missing} in {bridge}, which causeway did not make"));
    }
    Ok(())
}

/// A bridge that is not there yet will be ours, and so will be what is plugged into it.
fn is_ours_to_change(bridge: Option<&Link>, port: Option<&Link>) -> bool {
    bridge.is_none_or(|bridge| bridge.mark.is_ours()) || port.is_none_or(|port| port.mark.is_ours())
}

/// Takes VLANs from a port that the VM's networks had and have no more, as far as nobody else needs them.
fn give_up(
    place: &Place,
    vlans: &BTreeSet<u16>,
    desired: &Desired,
    observed: &Observed,
    around: &Surroundings,
    out: &mut Difference,
) {
    let Place { name, bridge } = place;
    let Some(table) = table(name, bridge, observed) else { return };
    // A device that has a list is brought to it already; one that leaves the bridge takes its VLANs along.
    if desired.tags.iter().any(|tags| tags.tap == *name) || around.given_up.contains(name) {
        return;
    }
    let mut gone: BTreeSet<u16> = vlans.iter().copied().filter(|vlan| may_go(table, *vlan)).collect();
    if !desired.ports.iter().any(|port| port.tap == *name) {
        let others = desired.tags.iter().chain(&around.tags).filter(|tags| tags.bridge == *bridge);
        others.for_each(|tags| gone.retain(|vlan| !tags.tagged.contains(vlan)));
        let own = |port: &str| desired.ports.iter().any(|own| own.tap.as_str() == port);
        let used = used_beside(name, bridge, observed, own);
        gone.retain(|vlan| !used.contains(vlan));
        if !is_ours_to_change(observed.named(bridge), observed.named(name)) {
            return;
        }
    }
    forget(name, gone, out);
}

/// Whether a port is in that VLAN, and not with what it sends without a tag.
fn may_go(table: &VlanTable, vlan: u16) -> bool {
    table.get(&vlan).is_some_and(|how| !how.pvid)
}

/// The VLANs that the bridge itself and its other ports are in, but `own` ones.
fn used_beside(
    way_out: &LinkName,
    bridge: &LinkName,
    observed: &Observed,
    own: impl Fn(&str) -> bool,
) -> BTreeSet<u16> {
    let Some(bridge) = observed.named(bridge) else { return BTreeSet::new() };
    let others = observed.ports_of(bridge.index);
    let others = others.filter(|port| port.name != way_out.as_str() && !own(&port.name));
    let all = others.chain([bridge]).filter_map(|link| observed.vlans.get(&link.index));
    all.flat_map(|table| table.keys().copied()).collect()
}

fn begin_to_filter(
    bridge: &Bridge,
    desired: &Desired,
    observed: &Observed,
    around: &Surroundings,
    out: &mut Difference,
) -> Result<(), Conflict> {
    let Some(link) = observed.named(&bridge.name).filter(|link| link.mark.is_ours()) else { return Ok(()) };
    let LinkKind::Bridge(options) = &link.kind else { return Ok(()) };
    let found = options.get(&BridgeOption::VlanFiltering).copied().unwrap_or(0);
    match (bridge.options.get(&BridgeOption::VlanFiltering), found) {
        (Some(1), 0) => {}
        (Some(0), 1) => {
            let name = &bridge.name;
            out.notes.push(format!(
                "bridge {name} goes on to filter by VLAN: guests may be in it that rely on it"
            ));
            return Ok(());
        }
        _ => return Ok(()),
    }
    let name = bridge.name.clone();
    let own = |tap: &str| desired.ports.iter().any(|port| port.tap.as_str() == tap);
    let sorted = |tap: &str| around.tags.iter().any(|tags| tags.tap.as_str() == tap);
    let strangers = observed.ports_of(link.index).filter(|port| port.is_guests());
    let mut strangers = strangers.filter(|port| !own(&port.name) && !sorted(&port.name));
    if let Some(stranger) = strangers.next() {
        // One that is to come can go elsewhere; one that is here must not go on in every VLAN.
        let here = desired.tags.iter().any(|tags| observed.is_port_of(&tags.tap, &name));
        if !here && desired.tags.iter().any(|tags| tags.bridge == name) {
            return Err(Conflict::CutOff { bridge: name, tap: stranger.name.clone() });
        }
        out.notes.push(format!(
            "bridge {name} filters by VLAN from now on: {} of a network without VLAN_TAGGED_ID or CVLANS can no longer tag its frames",
            stranger.name
        ));
    }
    let options = [(BridgeOption::VlanFiltering, 1)].into();
    out.changes.push(Change::SetBridge { name, options });
    Ok(())
}

/// The changes that take the VLANs of a VM that leaves from the ways out that stay.
pub(super) fn removal(leaving: &Leaving, observed: &Observed, gone: &[Change]) -> Vec<Change> {
    let deleted = |name: &LinkName| gone.contains(&Change::Delete { name: name.clone() });
    let mut out = Difference::default();
    for (place, vlans) in &leaving.vlans {
        let Place { name, bridge } = place;
        let Some(table) = table(name, bridge, observed).filter(|_| !deleted(name) && !deleted(bridge)) else {
            continue;
        };
        if !is_ours_to_change(observed.named(bridge), observed.named(name)) {
            continue;
        }
        // A device of the VM that is still plugged in keeps what it is in.
        let used = used_beside(name, bridge, observed, |_| false);
        let gone = vlans.iter().copied().filter(|vlan| may_go(table, *vlan) && !used.contains(vlan));
        forget(name, gone.collect(), &mut out);
    }
    out.changes
}

fn forget(port: &LinkName, vlans: BTreeSet<u16>, out: &mut Difference) {
    if !vlans.is_empty() {
        out.changes.push(Change::ForgetVlans { port: port.clone(), vlans });
    }
}

fn set(port: &LinkName, untagged: Option<u16>, tagged: BTreeSet<u16>, out: &mut Difference) {
    if untagged.is_some() || !tagged.is_empty() {
        out.changes.push(Change::SetVlans { port: port.clone(), untagged, tagged });
    }
}
