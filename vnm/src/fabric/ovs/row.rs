//! What rows of the database must say: of guests' ports, uplinks, patches and bridges (contract VNM 4.2).
//!
//! The row of a guarded port is *closed*: a trunk of the one VLAN that no frame may have, and protected from other such
//! ports. So the switch by itself takes nothing from it and sends nothing to it, whatever happens to the flows; they know the
//! real VLANs. The port must be closed by its row, as flows and their companions (`no-flood`, static addresses) are lost when
//! the switch restarts.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::VmId;
use serde::{Deserialize, Serialize};

use super::flows::RESERVED;
use super::mark::{self, Memory};
use super::ovsdb::{Datum, Row};
use crate::desired::switch::{Datapath, Switch, SwitchPort, Vlans};

/// Values of columns: whole ones, and some keys of maps, of which none means that the key is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// Columns that are wholly ours.
    pub whole: Row,
    /// Columns that others have keys in as well.
    pub maps: BTreeMap<String, BTreeMap<String, Option<String>>>,
}

impl Columns {
    fn with(mut self, column: &str, value: Datum) -> Self {
        self.whole = self.whole.with(column, value);
        self
    }

    fn key(mut self, column: &str, key: &str, value: Option<String>) -> Self {
        self.maps.entry(column.to_owned()).or_default().insert(key.to_owned(), value);
        self
    }

    fn id(self, key: &str, value: Option<String>) -> Self {
        self.key("external_ids", key, value)
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.maps.is_empty()
    }

    /// What of this is otherwise in a row that was read.
    #[must_use]
    pub fn unlike(&self, seen: &Row) -> Columns {
        let mut out = Columns::default();
        for (column, value) in self.whole.columns() {
            if !seen.get(column).is_some_and(|seen| seen.is(value)) {
                out.whole = out.whole.with(column, value.clone());
            }
        }
        for (column, keys) in &self.maps {
            let there = seen.map(column);
            for (key, value) in keys.iter().filter(|(key, value)| there.get(*key) != value.as_ref()) {
                out.maps.entry(column.clone()).or_default().insert(key.clone(), value.clone());
            }
        }
        out
    }

    /// A row that says this and nothing else.
    pub fn as_row(&self) -> Row {
        self.maps.iter().fold(self.whole.clone(), |row, (column, keys)| {
            let some = keys.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
            row.with(column, Datum::Map(some.collect()))
        })
    }
}

fn none() -> Datum {
    Datum::none()
}

/// The port of a guest; with a memory it is closed.
pub fn guest_port(vm: VmId, seat: &SwitchPort, memory: Option<&Memory>) -> Columns {
    let columns = if memory.is_some() { closed() } else { open(&seat.vlans) };
    columns
        .with("protected", Datum::Bool(memory.is_some()))
        .id(mark::KEY, Some(mark::GUEST.to_owned()))
        .id(mark::VM, Some(vm.to_string()))
        .id(mark::NIC, Some(seat.nic.to_string()))
        .id(mark::GUARDED, memory.map(|_| seat.switch.to_string()))
        .id(mark::MEMORY, memory.map(Memory::text))
}

fn vlans(mode: &str, tag: Option<u16>, trunks: &BTreeSet<u16>, inner: &BTreeSet<u16>) -> Columns {
    Columns::default()
        .with("vlan_mode", Datum::text(mode))
        .with("tag", tag.map_or_else(none, |tag| Datum::Integer(tag.into())))
        .with("trunks", Datum::integers(trunks.iter().copied()))
        .with("cvlans", Datum::integers(inner.iter().copied()))
}

fn closed() -> Columns {
    vlans("trunk", None, &[RESERVED].into(), &BTreeSet::new()).key("other_config", "qinq-ethtype", None)
}

/// As the VLANs are; an empty list of the database means all, so one that holds none is closed.
fn open(of: &Vlans) -> Columns {
    let empty = BTreeSet::new();
    let (columns, ethertype) = match of {
        Vlans::Access(tag) => (vlans("access", Some(*tag), &empty, &empty), None),
        Vlans::Trunk { untagged: Some(tag), tagged: Some(list) } if list.is_empty() => {
            (vlans("access", Some(*tag), &empty, &empty), None)
        }
        Vlans::Trunk { untagged: None, tagged: Some(list) } if list.is_empty() => return closed(),
        Vlans::Trunk { untagged, tagged } => {
            let mode = if untagged.is_some() { "native-untagged" } else { "trunk" };
            (vlans(mode, *untagged, tagged.as_ref().unwrap_or(&empty), &empty), None)
        }
        Vlans::Tunnel { outer, inner, ethertype } => {
            (vlans("dot1q-tunnel", Some(*outer), &empty, inner), Some(ethertype.clone()))
        }
    };
    columns.key("other_config", "qinq-ethtype", ethertype)
}

/// The interface of a guest's port, which is to have that number.
pub fn guest_interface(seat: &SwitchPort, number: Option<u32>, guarded: bool) -> Columns {
    let mut columns = Columns::default().id(mark::GUARDED, guarded.then(|| seat.switch.to_string()));
    if let Some(number) = number {
        columns = columns.with("ofport_request", Datum::Integer(number.into()));
    }
    if let Some(mtu) = seat.mtu {
        columns = columns.with("mtu_request", Datum::Integer(mtu.into()));
    }
    if let Some(socket) = &seat.socket {
        let path = socket.display().to_string();
        columns = columns.with("type", Datum::text("dpdkvhostuserclient"));
        columns = columns.key("options", "vhost-server-path", Some(path));
    }
    columns
}

/// The port of an uplink that we add.
pub fn uplink_port(bridge: &str) -> Columns {
    Columns::default().id(mark::UPLINK, Some(bridge.to_owned()))
}

/// Both ends of a bridge's patch: name, port, interface and the number that is asked for.
pub fn hatch(bridge: &str) -> [(String, Columns, Columns, u16); 2] {
    let [guarded, guards] = mark::hatch_names(bridge);
    let empty = BTreeSet::new();
    let port = |columns: Columns| {
        columns.with("protected", Datum::Bool(true)).id(mark::KEY, Some(mark::MADE.to_owned()))
    };
    let interface = |peer: &str, number: u16| {
        Columns::default()
            .with("type", Datum::text("patch"))
            .with("ofport_request", Datum::Integer(number.into()))
            .key("options", "peer", Some(peer.to_owned()))
    };
    let (first, second) = (mark::HATCH.guarded, mark::HATCH.guards);
    let (near, far) = (interface(&guards, first), interface(&guarded, second));
    [
        (guarded, port(vlans("trunk", None, &empty, &empty)), near, first),
        // Without flows, what comes to it ends here, and does not go round.
        (guards, port(closed()), far, second),
    ]
}

/// A bridge of ours.
///
/// # Errors
/// An option that can't be set, and what could be.
pub fn bridge(switch: &Switch) -> Result<Columns, OptionError> {
    Ok(options(switch)?.id(mark::KEY, Some(mark::MADE.to_owned())))
}

/// What a bridge of ours gets that is not about whose it is.
///
/// # Errors
/// As [`bridge`].
pub fn options(switch: &Switch) -> Result<Columns, OptionError> {
    let mut columns = Columns::default();
    if switch.datapath == Datapath::Userspace {
        columns = columns.with("datapath_type", Datum::text("netdev"));
    }
    for (option, value) in &switch.options {
        columns = set(columns, option, value)?;
    }
    Ok(columns)
}

/// An option of `ovs_bridge_conf` that can't be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ovs_bridge_conf {option}: {value:?} can't be set; accepted is {accepted}")]
pub struct OptionError {
    /// The option.
    pub option: String,
    /// Its value.
    pub value: String,
    /// What could be.
    pub accepted: &'static str,
}

fn set(columns: Columns, option: &str, value: &str) -> Result<Columns, OptionError> {
    const KNOWN: &str = "datapath_type fail_mode flood_vlans mcast_snooping_enable protocols rstp_enable stp_enable, \
                         or other_config:KEY";
    let wrong = |accepted| OptionError { option: option.to_owned(), value: value.to_owned(), accepted };
    let words = || value.split([',', ' ']).filter(|word| !word.is_empty());
    Ok(match option.split_once(':') {
        Some(("other_config", key)) if !key.is_empty() => {
            columns.key("other_config", key, Some(value.to_owned()))
        }
        Some(_) => return Err(wrong(KNOWN)),
        None => match option {
            "stp_enable" | "rstp_enable" | "mcast_snooping_enable" => match value {
                "true" => columns.with(option, Datum::Bool(true)),
                "false" => columns.with(option, Datum::Bool(false)),
                _ => return Err(wrong("true or false")),
            },
            "fail_mode" if ["secure", "standalone"].contains(&value) => {
                columns.with(option, Datum::text(value))
            }
            "fail_mode" => return Err(wrong("secure or standalone")),
            "datapath_type" if ["system", "netdev"].contains(&value) => {
                columns.with(option, Datum::text(value))
            }
            "datapath_type" => return Err(wrong("system or netdev")),
            "flood_vlans" => {
                let number = |word: &str| word.parse().ok().filter(|n: &u16| *n < RESERVED);
                let numbers: Option<Vec<u16>> = words().map(number).collect();
                columns.with(option, Datum::integers(numbers.ok_or_else(|| wrong("numbers from 0 to 4094"))?))
            }
            "protocols" => columns.with(option, Datum::Set(words().map(Datum::text).collect())),
            _ => return Err(wrong(KNOWN)),
        },
    })
}
