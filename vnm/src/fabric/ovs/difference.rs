//! From a desired and an observed state to the changes between them, or to the reason why there is no safe one. Pure.
//!
//! What we did not make is never changed: of a bridge that the operator made, only ports come and go.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::{LinkName, VmId};

use super::change::{Change, Edit, Table, Transaction};
use super::company::{self, flow_changes, id, members, remove_port};
use super::flows::{self, Member, Seat};
use super::mark::{self, Memory};
use super::observe::{Observed, PortSeen};
use super::openflow::{Flow, FlowChange};
use super::ovsdb::Datum;
use super::row::{self, Columns, OptionError};
use crate::desired::switch::{Datapath, Switch, SwitchPort, Vlans};
use crate::desired::{Desired, Guard};

/// What the two states alone do not tell.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Bridges that another VM has reserved or is plugged into.
    pub shared: BTreeSet<LinkName>,
    /// Devices of the kernel that no switch has made, and what they are: a bridge can't bear the name of one.
    pub devices: BTreeMap<LinkName, String>,
    /// Devices that are ports of a bridge of Linux, and which.
    pub linux_ports: BTreeMap<LinkName, String>,
    /// `arp_cache_poisoning`: guests are held to their addresses in ARP too.
    pub arp: bool,
}

/// The way from the observed state to the desired one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// At most one transaction, and after it at most one bundle for each bridge. A guest's port is closed before its flows
    /// change, so it may hear nothing for some milliseconds, and nothing that it may not.
    pub changes: Vec<Change>,
    /// What is not as asked and stays so, for the VM's log.
    pub notes: Vec<String>,
}

/// Why a switch can't be brought to the desired state without harm to somebody else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The name is taken by something else.
    #[error("{name} is {found} on this host, not {wanted}")]
    Kind {
        /// The name.
        name: String,
        /// What it should be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// A device is a port of another bridge.
    #[error("{name} is a port of {found}, not of {wanted}: take it out there")]
    Elsewhere {
        /// The device.
        name: String,
        /// The bridge it is in.
        found: String,
        /// The bridge it should be in.
        wanted: String,
    },
    /// A second way out of a bridge (contract VNM 5, W25).
    #[error(
        "bridge {bridge} already leads out by {found}: with {wanted} as well, two networks would become one"
    )]
    SecondUplink {
        /// The bridge.
        bridge: String,
        /// Its way out.
        found: String,
        /// The other one.
        wanted: String,
    },
    /// An option of a bridge.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Connections can't be known.
    #[error(
        "NIC {nic}: its security groups need connections to be tracked, which the datapath {datapath} of bridge {bridge} does \
         not do"
    )]
    NoTracking {
        /// `NIC_ID`.
        nic: u32,
        /// The bridge.
        bridge: String,
        /// Its datapath.
        datapath: String,
    },
    /// Rules for connections on a port of several networks.
    #[error(
        "NIC {nic}: security groups are for ports of one VLAN; with VLAN_TAGGED_ID or CVLANS, accepted are groups that let all pass"
    )]
    ManyNetworks {
        /// `NIC_ID`.
        nic: u32,
    },
}

impl Conflict {
    /// The device that the network wants, and does not get; none where the NIC is named.
    pub fn device(&self) -> Option<&str> {
        match self {
            Conflict::Kind { name, .. } | Conflict::Elsewhere { name, .. } => Some(name),
            Conflict::SecondUplink { bridge, .. } => Some(bridge),
            Conflict::Option(_) | Conflict::NoTracking { .. } | Conflict::ManyNetworks { .. } => None,
        }
    }
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
    let mut transaction = Transaction::default();
    for switch in &desired.switches {
        bridge_changes(switch, observed, around, &mut transaction)?;
        out.notes.extend(uplink_notes(switch, observed).chain(option_notes(switch, observed)));
    }
    let mut places = Vec::new();
    for seat in &desired.seats {
        let guard = desired.guards.iter().find(|guard| guard.nic == seat.nic && !guard.is_open());
        if let Some(guard) = guard {
            can_be_guarded(seat, guard, observed)?;
        }
        let place = Place::of(desired, seat, guard, observed);
        port_changes(desired.vm, &place, observed, &mut transaction)?;
        out.notes.extend(place.note());
        places.push(place);
    }
    let mut bundles = Vec::new();
    for switch in &desired.switches {
        let bridge = switch.name.as_str();
        let here: Vec<&Place<'_>> = places.iter().filter(|place| place.seat.switch == switch.name).collect();
        let wanted = flows_of(desired.vm, &here, bridge, observed, around, &mut transaction)?;
        let seen = observed.bridges.get(bridge).and_then(|bridge| bridge.flows.as_ref());
        let own: Vec<_> = here.iter().map(|place| flows::cookie(desired.vm, place.seat.nic)).collect();
        let of_nics = seen.iter().flat_map(|seen| &seen.of_vm).filter(|flow| own.contains(&flow.cookie));
        // Whoever had the number before may have let more pass.
        let is_stray = |flow: &&Flow| {
            here.iter().any(|place| place.port.is_some() && flows::port_of(flow) == place.port)
                && !own.contains(&flow.cookie)
        };
        let strays = seen.iter().flat_map(|seen| &seen.strays).filter(is_stray);
        let there = of_nics.chain(strays).chain(seen.iter().flat_map(|seen| &seen.shared));
        let stock = seen.map(|seen| seen.stock.clone()).unwrap_or_default();
        let mut changes = flow_changes(there, wanted, &stock);
        // To who is still to come, or has no rules that know connections, nothing is lent.
        let due = |place: &&&Place<'_>| {
            let is_new = !place.is_there && !place.was_guarded;
            let has = seen.is_some_and(|seen| seen.lent.contains(&place.seat.nic));
            has && (is_new || !place.is_stateful())
        };
        let due = here.iter().filter(due).map(|place| flows::lent(desired.vm, place.seat.nic));
        changes.extend(due.map(|lent| FlowChange::RemoveAll(lent.into())));
        if !changes.is_empty() {
            // Whose connections begin to count: in its zone there are none but another's, which had the number before.
            let begins = here.iter().filter(|place| place.is_stateful() && !place.was_guarded);
            let forget = begins.filter_map(|place| place.zone);
            let (bridge, forget) = (bridge.to_owned(), forget.collect());
            let settle = here.iter().any(|place| place.is_there) || !stock.is_empty();
            bundles.push(Change::Flows { bridge, forget, changes, settle });
        }
    }
    let tunnel = |place: &Place<'_>| matches!(place.seat.vlans, Vlans::Tunnel { .. });
    if observed.vlan_limit == 1 && places.iter().any(tunnel) {
        transaction.edits.push(Edit::ReadTwoTags);
        transaction.wait = true;
    }
    if !transaction.edits.is_empty() {
        out.changes.push(Change::Database(transaction));
    }
    out.changes.extend(bundles);
    Ok(out)
}

/// Where a NIC is, or will be.
struct Place<'a> {
    seat: &'a SwitchPort,
    guard: Option<&'a Guard>,
    /// The number that its port has, or that it will get when its device is there.
    port: Option<u32>,
    /// The reserved one: where its connections are counted.
    zone: Option<u16>,
    /// Who has that number on the bridge now.
    taken: Option<String>,
    /// Whether its device is on the bridge.
    is_there: bool,
    /// Whether its row says that it has a guard already: what it has under way is its own.
    was_guarded: bool,
}

impl<'a> Place<'a> {
    fn of(desired: &Desired, seat: &'a SwitchPort, guard: Option<&'a Guard>, observed: &Observed) -> Self {
        let zone = desired.numbers.get(&seat.nic).map(|number| number.get());
        let bridge = seat.switch.as_str();
        let (tap, wanted) = (seat.tap.as_str(), zone.map(u32::from));
        let held =
            |(on, number, by): &&(String, u32, String)| on == bridge && Some(*number) == wanted && by != tap;
        let taken = observed.taken.iter().find(held).map(|held| held.2.clone());
        let real = observed.on(bridge, tap).and_then(PortSeen::number);
        let port = real.or(wanted.filter(|_| taken.is_none()));
        let is_there = real.is_some();
        let row = observed.on(bridge, tap).map(|seen| seen.port.map("external_ids"));
        let was_guarded = row.is_some_and(|ids| ids.contains_key(mark::GUARDED));
        Place { seat, guard, port, zone, taken: taken.filter(|_| !is_there), is_there, was_guarded }
    }

    fn is_stateful(&self) -> bool {
        self.guard.is_some_and(Guard::is_stateful)
    }

    fn memory(&self) -> Option<Memory> {
        let any = flows::has_any_address(self.guard?);
        Some(Memory { vlans: self.seat.vlans.clone(), any })
    }

    fn member(&self) -> Option<Member> {
        Some(self.memory()?.member(self.port?))
    }

    fn note(&self) -> Option<String> {
        let (nic, bridge) = (self.seat.nic, &self.seat.switch);
        self.guard?;
        match (&self.taken, self.zone) {
            (Some(by), Some(number)) => Some(format!(
                "NIC {nic}: port number {number} of bridge {bridge} is taken by {by}: nothing passes until its port has another"
            )),
            (_, None) => Some(format!("NIC {nic}: no number is reserved for it yet: nothing passes")),
            _ => None,
        }
    }
}

fn can_be_guarded(seat: &SwitchPort, guard: &Guard, observed: &Observed) -> Result<(), Conflict> {
    if !guard.is_stateful() {
        return Ok(());
    }
    if !matches!(seat.vlans, Vlans::Access(_)) {
        return Err(Conflict::ManyNetworks { nic: seat.nic });
    }
    let bridge = seat.switch.as_str();
    let Some(seen) = observed.bridges.get(bridge) else { return Ok(()) };
    match observed.tracking.get(seen.datapath()) {
        Some(false) => Err(Conflict::NoTracking {
            nic: seat.nic,
            bridge: bridge.to_owned(),
            datapath: seen.datapath().to_owned(),
        }),
        _ => Ok(()),
    }
}

fn bridge_changes(
    switch: &Switch,
    observed: &Observed,
    around: &Surroundings,
    into: &mut Transaction,
) -> Result<(), Conflict> {
    let name = switch.name.as_str();
    let wrong =
        |found: String| Conflict::Kind { name: name.to_owned(), wanted: "a bridge of Open vSwitch", found };
    match observed.bridges.get(name) {
        Some(seen) if switch.datapath == Datapath::Userspace && seen.datapath() != "netdev" => {
            let (name, found) = (name.to_owned(), format!("one of the datapath {}", seen.datapath()));
            return Err(Conflict::Kind { name, wanted: "a bridge of the datapath netdev", found });
        }
        Some(seen) => into.expect(Table::Bridge, name, id(&seen.row)),
        None => {
            if let Some(device) = around.devices.get(&switch.name) {
                return Err(wrong(device.clone()));
            }
            if let Some(port) = observed.ports.get(name) {
                let bridge = port.bridge.as_deref().unwrap_or("another bridge");
                return Err(wrong(format!("a port of {bridge}")));
            }
            let edit = Edit::AddBridge { name: name.to_owned(), bridge: row::bridge(switch)? };
            into.edit(Table::Bridge, name, None, edit);
            into.wait = true;
        }
    }
    let ours = |seen: &&PortSeen| {
        let of = seen.port.map("external_ids").get(mark::UPLINK).is_some_and(|bridge| bridge == name);
        of && seen.bridge.as_deref() == Some(name)
    };
    let old = observed.ports.iter().filter(|(_, seen)| ours(seen));
    let old = old.filter(|(port, _)| !switch.uplinks.iter().any(|uplink| uplink.as_str() == *port));
    for (port, seen) in old {
        if let Some(wanted) = switch.uplinks.first()
            && around.shared.contains(&switch.name)
        {
            let (bridge, found, wanted) = (name.to_owned(), port.clone(), wanted.to_string());
            return Err(Conflict::SecondUplink { bridge, found, wanted });
        }
        if !around.shared.contains(&switch.name) {
            remove_port(name, port, seen, into);
        }
    }
    switch.uplinks.iter().try_for_each(|uplink| uplink_changes(name, uplink, observed, around, into))
}

/// What a bridge that is there has otherwise than `ovs_bridge_conf` asks for: that is for whoever makes it (contract VNM 2).
fn option_notes(switch: &Switch, observed: &Observed) -> Vec<String> {
    let name = switch.name.as_str();
    let Some((seen, wanted)) = observed.bridges.get(name).zip(row::options(switch).ok()) else {
        return Vec::new();
    };
    let note = |option: &str, has: &str, wanted: &str| {
        format!(
            "bridge {name} keeps {option} as it is, {has} (ovs_bridge_conf: {wanted}): it is set on a new bridge only"
        )
    };
    let Columns { whole, maps } = wanted.unlike(&seen.row);
    let whole = whole.columns().filter(|(column, value)| {
        // An empty type is the kernel's.
        *column != "datapath_type" || **value != Datum::text(seen.datapath())
    });
    let whole = whole.map(|(column, value)| {
        note(column, &seen.row.get(column).map_or_else(String::new, Datum::words), &value.words())
    });
    let keys =
        maps.iter().flat_map(|(column, keys)| keys.iter().map(move |(key, value)| (column, key, value)));
    let keys = keys.map(|(column, key, value)| {
        let has = seen.row.map(column).get(key).cloned().unwrap_or_else(|| "absent".to_owned());
        note(&format!("{column}:{key}"), &has, value.as_deref().unwrap_or("absent"))
    });
    whole.chain(keys).collect()
}

/// What the switch says of uplinks that it can't use.
fn uplink_notes(switch: &Switch, observed: &Observed) -> impl Iterator<Item = String> {
    switch.uplinks.iter().filter_map(|uplink| {
        let seen = observed.on(switch.name.as_str(), uplink.as_str())?;
        let error = seen.interface.as_ref()?.text("error")?;
        Some(format!("bridge {} can't lead out by {uplink}: {error}", switch.name))
    })
}

fn uplink_changes(
    bridge: &str,
    uplink: &LinkName,
    observed: &Observed,
    around: &Surroundings,
    into: &mut Transaction,
) -> Result<(), Conflict> {
    let elsewhere = |found: &str| Conflict::Elsewhere {
        name: uplink.to_string(),
        found: found.to_owned(),
        wanted: bridge.to_owned(),
    };
    if let Some(found) = around.linux_ports.get(uplink) {
        return Err(elsewhere(found));
    }
    if let Some(seen) = observed.ports.get(uplink.as_str()) {
        return match seen.bridge.as_deref() {
            Some(found) if found != bridge => Err(elsewhere(found)),
            _ => Ok(()),
        };
    }
    let edit = Edit::AddPort {
        bridge: bridge.to_owned(),
        name: uplink.to_string(),
        port: row::uplink_port(bridge),
        interface: Columns::default(),
        counted_on: None,
    };
    into.edit(Table::Port, uplink.as_str(), None, edit);
    Ok(())
}

fn port_changes(
    vm: VmId,
    place: &Place<'_>,
    observed: &Observed,
    into: &mut Transaction,
) -> Result<(), Conflict> {
    let seat = place.seat;
    let (bridge, tap) = (seat.switch.as_str(), seat.tap.as_str());
    let memory = place.memory();
    // A number that it has is asked for from now on, so that it never gets another by itself.
    let asked = place.port.or(place.zone.map(u32::from));
    let port = row::guest_port(vm, seat, memory.as_ref());
    let interface = row::guest_interface(seat, asked, memory.is_some());
    let Some(seen) = observed.ports.get(tap) else {
        let (bridge, name) = (bridge.to_owned(), tap.to_owned());
        let edit = Edit::AddPort { bridge, name, port, interface, counted_on: None };
        into.edit(Table::Port, tap, None, edit);
        return Ok(());
    };
    if let Some(found) = seen.bridge.as_deref().filter(|found| *found != bridge) {
        if mark::owner(&seen.port) == Some((vm, seat.nic)) && seen.number().is_none() {
            // Its network was changed while its guest was away.
            remove_port(found, tap, seen, into);
            let (bridge, name) = (bridge.to_owned(), tap.to_owned());
            into.edits.push(Edit::AddPort { bridge, name, port, interface, counted_on: None });
            return Ok(());
        }
        let (name, found, wanted) = (tap.to_owned(), found.to_owned(), bridge.to_owned());
        return Err(Conflict::Elsewhere { name, found, wanted });
    }
    let Some(device) = &seen.interface else {
        let (name, found) = (tap.to_owned(), "a bond".to_owned());
        return Err(Conflict::Kind { name, wanted: "a guest's port", found });
    };
    let (port, interface) = (port.unlike(&seen.port), interface.unlike(device));
    if !port.is_empty() || !interface.is_empty() {
        // Its guest may run: what its row says now must hold before the flows change.
        into.wait |= seen.number().is_some();
        let edit = Edit::SetPort { name: tap.to_owned(), port, interface };
        into.edit(Table::Port, tap, id(&seen.port), edit);
    }
    Ok(())
}

/// The flows that a bridge must have for these NICs and for all guarded guests; the patch is made, or goes with the last of them.
fn flows_of(
    vm: VmId,
    here: &[&Place<'_>],
    bridge: &str,
    observed: &Observed,
    around: &Surroundings,
    into: &mut Transaction,
) -> Result<Vec<Flow>, Conflict> {
    let own = here.iter().map(|place| (vm, place.seat.nic)).collect();
    let mut all = members(observed, bridge, &own);
    all.extend(here.iter().filter_map(|place| place.member()));
    all.sort_by_key(|member| member.port);
    if all.is_empty() && here.iter().all(|place| place.guard.is_none()) {
        company::close_hatch(observed, bridge, into);
        return Ok(Vec::new());
    }
    company::open_hatch(observed, bridge, into).map_err(|name| Conflict::Kind {
        name,
        wanted: "the way to the guarded guests of a bridge",
        found: "a port that causeway did not make".to_owned(),
    })?;
    let hatch = company::hatch(observed, bridge);
    let mut wanted = flows::shared(&all, hatch);
    for place in here {
        let (Some(guard), Some(port), Some(zone)) = (place.guard, place.port, place.zone) else { continue };
        let seat = Seat { vm, port, zone, vlans: place.seat.vlans.clone() };
        wanted.extend(flows::flows(&seat, guard, hatch, around.arp));
    }
    Ok(wanted)
}
