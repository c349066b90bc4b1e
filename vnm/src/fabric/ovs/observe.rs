//! What a switch has of a VM: the rows and the flows that a desired state, or one that leaves, is about. Of others only what
//! all guests of a bridge share is read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use causeway_core::names::{LinkName, VmId};
use serde::{Deserialize, Serialize};

use super::flows::{self, STOCK_TABLES};
use super::mark::{self, hatch_names};
use super::openflow::{Flow, Match, Openflow, OpenflowError, Which};
use super::ovsdb::{Condition, Datum, Operation, Ovsdb, Row, RowId};
use super::removal::{Leaving, Left};
use super::{OvsError, company};
use crate::desired::{Desired, Number, SwitchPort};

/// Which part of the switch to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    vm: VmId,
    bridges: BTreeSet<LinkName>,
    /// Guests' ports, by NIC.
    seats: BTreeMap<u32, Sought>,
    /// Uplinks.
    uplinks: BTreeSet<LinkName>,
    /// Whether they leave: then flows of the stock driver are looked for by their notes, and other guests by their names.
    leaves: bool,
}

/// A guest's port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sought {
    tap: LinkName,
    bridge: LinkName,
    number: Option<Number>,
}

impl From<&Desired> for Scope {
    fn from(desired: &Desired) -> Self {
        let seat = |seat: &SwitchPort| {
            let number = desired.numbers.get(&seat.nic).copied();
            (seat.nic, Sought { tap: seat.tap.clone(), bridge: seat.switch.clone(), number })
        };
        Scope {
            vm: desired.vm,
            bridges: desired.switches.iter().map(|switch| switch.name.clone()).collect(),
            seats: desired.seats.iter().map(seat).collect(),
            uplinks: desired.switches.iter().flat_map(|switch| switch.uplinks.clone()).collect(),
            leaves: false,
        }
    }
}

impl From<&Leaving> for Scope {
    fn from(leaving: &Leaving) -> Self {
        let switches = leaving.switches.keys().chain(leaving.seats.values().map(|seat| &seat.switch));
        let seat = |(nic, left): (&u32, &Left)| {
            (*nic, Sought { tap: left.tap.clone(), bridge: left.switch.clone(), number: None })
        };
        Scope {
            vm: leaving.vm,
            bridges: switches.cloned().collect(),
            seats: leaving.seats.iter().map(seat).collect(),
            uplinks: leaving.switches.values().flatten().cloned().collect(),
            leaves: true,
        }
    }
}

/// A part of a switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Bridges, by name, as far as they exist.
    pub bridges: BTreeMap<String, BridgeSeen>,
    /// Ports, by name: those that were asked for, our uplinks and patches, and of guarded ones what all guests of their bridge share.
    pub ports: BTreeMap<String, PortSeen>,
    /// Ports that have a number of a NIC: the bridge, the number, the port.
    pub taken: BTreeSet<(String, u32, String)>,
    /// By the datapath's type, whether it tracks connections in zones; absent where the database does not say.
    pub tracking: BTreeMap<String, bool>,
    /// Identities of ports with the name of a guest's device; looked for where somebody leaves.
    pub guests: BTreeSet<String>,
    /// How many tags of a frame are read (`vlan-limit`); 0 is as many as possible.
    pub vlan_limit: u32,
}

/// A bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeSeen {
    /// Its row.
    pub row: Row,
    /// Its flows; none while the switch does not serve the bridge.
    pub flows: Option<FlowsSeen>,
}

/// Flows of a bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsSeen {
    /// Ours, of the VM's NICs.
    pub of_vm: Vec<Flow>,
    /// NICs of the VM to which some are lent.
    pub lent: BTreeSet<u32>,
    /// Ours, about ports that have come to be the VM's: left by somebody else who had their numbers. They are looked for as
    /// long as a NIC has no flows of its own.
    pub strays: Vec<Flow>,
    /// Ours, of all guarded guests.
    pub shared: Vec<Flow>,
    /// Numbers of ports with flows of the stock driver: the VM's, or those that bear the note of one of its NICs.
    pub stock: BTreeSet<u32>,
}

/// A port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSeen {
    /// The bridge it is on.
    pub bridge: Option<String>,
    /// Its row.
    pub port: Row,
    /// The row of its one interface.
    pub interface: Option<Row>,
}

impl BridgeSeen {
    /// Whether we made it.
    pub fn is_ours(&self) -> bool {
        mark::is_ours(&self.row)
    }

    /// Which datapath it has.
    pub fn datapath(&self) -> &str {
        self.row.text("datapath_type").filter(|kind| !kind.is_empty()).unwrap_or("system")
    }
}

impl PortSeen {
    /// Its number; none while its device is not there.
    pub fn number(&self) -> Option<u32> {
        let number = self.interface.as_ref()?.integer("ofport")?;
        u32::try_from(number).ok().filter(|number| *number > 0)
    }

    /// The number that it has, or that is asked for.
    pub fn number_to_come(&self) -> Option<u32> {
        let asked = || u32::try_from(self.interface.as_ref()?.integer("ofport_request")?).ok();
        self.number().or_else(asked)
    }
}

impl Observed {
    /// The port of that name on that bridge.
    pub fn on(&self, bridge: &str, port: &str) -> Option<&PortSeen> {
        self.ports.get(port).filter(|seen| seen.bridge.as_deref() == Some(bridge))
    }
}

const BRIDGE: [&str; 12] = [
    "_uuid",
    "name",
    "ports",
    "datapath_type",
    "external_ids",
    "other_config",
    "fail_mode",
    "flood_vlans",
    "protocols",
    "stp_enable",
    "rstp_enable",
    "mcast_snooping_enable",
];
const PORT: [&str; 10] = [
    "_uuid",
    "name",
    "interfaces",
    "tag",
    "trunks",
    "vlan_mode",
    "cvlans",
    "protected",
    "other_config",
    "external_ids",
];
const INTERFACE: [&str; 9] =
    ["_uuid", "name", "type", "options", "ofport", "ofport_request", "mtu_request", "external_ids", "error"];

fn named(name: &str) -> [Operation; 2] {
    let which = [Condition::named(name)];
    [Operation::select("Port", &which, &PORT), Operation::select("Interface", &which, &INTERFACE)]
}

fn marked(key: &str, bridge: &LinkName) -> [Condition; 1] {
    let ids = mark::ids([(key, bridge.to_string())]);
    [Condition::Includes("external_ids", Datum::Map(ids))]
}

fn uplinks_of(bridge: &LinkName) -> [Operation; 2] {
    let which = marked(mark::UPLINK, bridge);
    [Operation::select("Port", &which, &PORT), Operation::select("Interface", &which, &INTERFACE)]
}

/// Of every guarded guest of a bridge no more than the others need to know, for there may be many.
fn guarded_on(bridge: &LinkName) -> [Operation; 2] {
    let which = marked(mark::GUARDED, bridge);
    [
        Operation::select("Port", &which, &["_uuid", "name", "interfaces", "external_ids"]),
        Operation::select("Interface", &which, &["_uuid", "ofport", "ofport_request"]),
    ]
}

/// Reads that part.
///
/// # Errors
/// The database or a bridge can't be read; that a bridge is not there is no error.
pub(super) fn observe(
    database: &mut Ovsdb,
    run: &Path,
    deadline: Instant,
    scope: &Scope,
) -> Result<Observed, OvsError> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    names.extend(scope.bridges.iter().chain(&scope.uplinks).map(ToString::to_string));
    names.extend(scope.seats.values().map(|sought| sought.tap.to_string()));
    names.extend(scope.bridges.iter().flat_map(|bridge| hatch_names(bridge.as_str())));
    let mut asked = vec![
        Operation::select("Open_vSwitch", &[], &["other_config", "datapaths"]),
        Operation::select("Bridge", &[], &BRIDGE),
        Operation::select("Datapath", &[], &["_uuid", "capabilities"]),
    ];
    // No port has no name: so nothing is found where nothing need be.
    let all: &[Condition] = if scope.leaves { &[] } else { &[Condition::named("")] };
    asked.push(Operation::select("Port", all, &["_uuid", "name"]));
    for number in scope.seats.values().filter_map(|sought| sought.number) {
        let which = [Condition::Is("ofport", Datum::Integer(number.get().into()))];
        asked.push(Operation::select("Interface", &which, &INTERFACE));
    }
    let first = asked.len();
    asked.extend(names.iter().flat_map(|name| named(name)));
    for bridge in &scope.bridges {
        asked.extend(uplinks_of(bridge));
    }
    for bridge in &scope.bridges {
        asked.extend(guarded_on(bridge));
    }
    let answers = database.select(&asked)?;

    let mut rows = Rows::default();
    let part = |index: usize| answers.get(index).map(Vec::as_slice).unwrap_or_default();
    for pair in answers.get(first..).unwrap_or_default().chunks(2) {
        let [ports, interfaces] = pair else { continue };
        rows.add(ports, interfaces);
    }
    // Whoever has a number that is one of ours may be on another bridge.
    let holders: Vec<Row> = answers.get(4..first).unwrap_or_default().concat();
    let strangers: BTreeSet<&str> =
        holders.iter().filter_map(|row| row.text("name")).filter(|name| !names.contains(*name)).collect();
    if !strangers.is_empty() {
        let asked: Vec<Operation> = strangers.iter().flat_map(|name| named(name)).collect();
        for pair in database.select(&asked)?.chunks(2) {
            let [ports, interfaces] = pair else { continue };
            rows.add(ports, interfaces);
        }
    }
    let mut seen = rows.observed(part(1));
    for row in &holders {
        let (Some(name), Some(number)) = (row.text("name"), row.integer("ofport")) else { continue };
        let bridge = seen.ports.get(name).and_then(|port| port.bridge.clone());
        if let (Some(bridge), Ok(number)) = (bridge, u32::try_from(number)) {
            seen.taken.insert((bridge, number, name.to_owned()));
        }
    }
    let open = part(0).first().cloned().unwrap_or_default();
    seen.vlan_limit = open.map("other_config").get("vlan-limit").and_then(|n| n.parse().ok()).unwrap_or(1);
    seen.tracking = tracking(&open, part(2));
    let guests = part(3).iter().filter(|row| row.text("name").is_some_and(is_guests));
    seen.guests = guests.filter_map(company::id).collect();
    seen.bridges.retain(|name, _| scope.bridges.iter().any(|wanted| wanted.as_str() == name));
    for (name, bridge) in &mut seen.bridges {
        bridge.flows = flows_of(run, deadline, name, scope, &seen.ports)?;
    }
    Ok(seen)
}

/// Whether a device is called as OpenNebula calls those of guests: `one-VM-NIC`.
fn is_guests(name: &str) -> bool {
    let numbers = name.strip_prefix("one-").and_then(|rest| rest.split_once('-'));
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(vm, nic)| number(vm) && number(nic))
}

/// Rows of ports and interfaces, on the way to [`Observed`].
#[derive(Default)]
struct Rows {
    ports: BTreeMap<String, Row>,
    interfaces: BTreeMap<RowId, Row>,
}

impl Rows {
    /// Adds rows; of one that is there already, what was read first stays.
    fn add(&mut self, ports: &[Row], interfaces: &[Row]) {
        for row in ports {
            let Some(name) = row.text("name") else { continue };
            self.ports.entry(name.to_owned()).or_insert_with(|| row.clone());
        }
        for row in interfaces {
            let Some(id) = row.id() else { continue };
            self.interfaces.entry(id).or_insert_with(|| row.clone());
        }
    }

    fn observed(self, bridges: &[Row]) -> Observed {
        let mut seen = Observed { vlan_limit: 1, ..Observed::default() };
        let mut places: BTreeMap<RowId, String> = BTreeMap::new();
        for row in bridges {
            let Some(name) = row.text("name") else { continue };
            places.extend(row.rows("ports").into_iter().map(|port| (port, name.to_owned())));
            seen.bridges.insert(name.to_owned(), BridgeSeen { row: row.clone(), flows: None });
        }
        for (name, port) in self.ports {
            let bridge = port.id().and_then(|id| places.get(&id).cloned());
            let interface = match port.rows("interfaces").as_slice() {
                [one] => self.interfaces.get(one).cloned(),
                _ => None,
            };
            seen.ports.insert(name, PortSeen { bridge, port, interface });
        }
        seen
    }
}

/// What the database says of datapaths. It does so only for those that somebody has made a row for.
fn tracking(open: &Row, datapaths: &[Row]) -> BTreeMap<String, bool> {
    let mut out = BTreeMap::new();
    for (kind, id) in open.references("datapaths") {
        let row = datapaths.iter().find(|row| row.id().as_ref() == Some(&id));
        let says = |key: &str| row?.map("capabilities").get(key).map(|value| value == "true");
        if let (Some(state), Some(zone)) = (says("ct_state"), says("ct_zone")) {
            out.insert(kind, state && zone);
        }
    }
    out
}

/// Each NIC on a bridge, with the number that its port has.
fn seats_on<'s>(
    bridge: &str,
    scope: &'s Scope,
    ports: &BTreeMap<String, PortSeen>,
) -> Vec<(u32, Option<u32>, &'s Sought)> {
    let here = scope.seats.iter().filter(|(_, sought)| sought.bridge.as_str() == bridge);
    here.map(|(nic, sought)| {
        let port = ports.get(sought.tap.as_str()).filter(|port| port.bridge.as_deref() == Some(bridge));
        (*nic, port.and_then(PortSeen::number), sought)
    })
    .collect()
}

fn flows_of(
    run: &Path,
    deadline: Instant,
    bridge: &str,
    scope: &Scope,
    ports: &BTreeMap<String, PortSeen>,
) -> Result<Option<FlowsSeen>, OvsError> {
    let mut connection = match Openflow::connect(run, bridge, deadline) {
        Ok(connection) => connection,
        // It is in the database, and not yet, or no more, in the switch.
        Err(OpenflowError::Connect { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let nobody = || Which::from(flows::of_nobody());
    let here = seats_on(bridge, scope, ports);
    let strays = |number: u32| flows::about(number).map(|port| Which::from(flows::ours()).about(port));
    let mut asked = vec![Which::from(flows::of_all())];
    for (nic, number, sought) in &here {
        asked.push(Which::from(flows::of_nic(scope.vm, *nic)));
        match (number, sought.number) {
            (Some(number), _) => asked.push(nobody().about(Match::any().in_port(*number))),
            // Its guest is to come, so that it has none yet.
            (None, Some(number)) => asked.extend(strays(number.get().into())),
            (None, None) => {}
        }
    }
    let mut answers = connection.flows_of_each(&asked)?.into_iter();
    let mut answer = || answers.next().unwrap_or_default();
    let mut seen = FlowsSeen { shared: answer(), ..FlowsSeen::default() };
    let mut late = Vec::new();
    for (nic, number, sought) in here {
        let (lent, own): (Vec<Flow>, Vec<Flow>) = answer().into_iter().partition(flows::is_lent);
        seen.lent.extend((!lent.is_empty()).then_some(nic));
        match (number, sought.number) {
            (Some(number), _) => {
                if answer().iter().any(|flow| STOCK_TABLES.contains(&flow.key.table)) {
                    seen.stock.insert(number);
                }
                if own.is_empty() {
                    late.extend(strays(number));
                }
            }
            (None, Some(_)) => {
                let found = [answer(), answer()].concat();
                seen.strays.extend(found.into_iter().filter(|_| own.is_empty()));
            }
            (None, None) => {}
        }
        seen.of_vm.extend(own);
    }
    if !late.is_empty() {
        seen.strays.extend(connection.flows_of_each(&late)?.concat());
    }
    if scope.leaves {
        let notes: Vec<_> = scope.seats.keys().map(|nic| flows::note(scope.vm, *nic)).collect();
        let found = connection.flows(nobody().of_table(STOCK_TABLES[0]))?;
        let theirs = found.iter().filter(|flow| flow.actions.iter().any(|action| notes.contains(action)));
        seen.stock.extend(theirs.filter_map(flows::port_of));
    }
    Ok(Some(seen))
}
