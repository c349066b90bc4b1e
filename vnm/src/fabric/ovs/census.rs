//! All that we have of guests on a switch, whoever they are: what a reconciliation compares with who runs here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use causeway_core::names::VmId;
use serde::{Deserialize, Serialize};

use super::openflow::{Openflow, OpenflowError};
use super::ovsdb::{Condition, Datum, Operation, Ovsdb, Row, RowId};
use super::{OvsError, flows, mark};

/// What there is of one NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Its port, if it has one.
    pub port: Option<String>,
    /// Whether the port's device is there.
    pub plugged: bool,
    /// Whether it has flows.
    pub flows: bool,
}

/// NICs with ports or flows of ours: by bridge, VM and NIC.
pub type Census = BTreeMap<(String, VmId, u32), Found>;

/// Reads all of it. A bridge that the switch does not serve has no flows.
///
/// # Errors
/// The database or a bridge can't be read.
pub(super) fn census(database: &mut Ovsdb, run: &Path, deadline: Instant) -> Result<Census, OvsError> {
    let guests =
        [Condition::Includes("external_ids", Datum::Map(mark::ids([(mark::KEY, mark::GUEST.to_owned())])))];
    let answers = database.select(&[
        Operation::select("Bridge", &[], &["name", "ports"]),
        Operation::select("Port", &guests, &["_uuid", "name", "interfaces", "external_ids"]),
        Operation::select("Interface", &[], &["_uuid", "ofport"]),
    ])?;
    let [bridges, ports, interfaces] = answers.as_slice() else { return Ok(Census::new()) };
    let places: BTreeMap<RowId, &str> = bridges
        .iter()
        .filter_map(|row| Some((row.rows("ports"), row.text("name")?)))
        .flat_map(|(ports, name)| ports.into_iter().map(move |port| (port, name)))
        .collect();
    let plugged: BTreeSet<RowId> = interfaces
        .iter()
        .filter(|row| row.integer("ofport").is_some_and(|number| number > 0))
        .filter_map(Row::id)
        .collect();
    let mut out = Census::new();
    for port in ports {
        let bridge = port.id().and_then(|id| places.get(&id));
        let (Some(bridge), Some((vm, nic))) = (bridge, mark::owner(port)) else { continue };
        let found = Found {
            port: port.text("name").map(str::to_owned),
            plugged: port.rows("interfaces").iter().any(|interface| plugged.contains(interface)),
            flows: false,
        };
        out.insert(((*bridge).to_owned(), vm, nic), found);
    }
    for bridge in bridges.iter().filter_map(|row| row.text("name")) {
        let flows = match Openflow::connect(run, bridge, deadline) {
            Ok(mut connection) => connection.flows(flows::ours())?,
            Err(OpenflowError::Connect { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let owners: BTreeSet<(VmId, u32)> =
            flows.iter().filter_map(|flow| flows::owner(flow.cookie)).collect();
        for (vm, nic) in owners {
            out.entry((bridge.to_owned(), vm, nic)).or_default().flows = true;
        }
    }
    Ok(out)
}
