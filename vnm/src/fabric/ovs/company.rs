//! What the guarded guests of one bridge share: the patch, the flows, and who they are.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::names::VmId;

use super::change::{Edit, Table, Transaction};
use super::flows::{Hatch, Member, of_nobody};
use super::mark::{self, HATCH, Memory, hatch_names};
use super::observe::{Observed, PortSeen};
use super::openflow::{Flow, FlowChange, FlowKey, Match, Which};
use super::ovsdb::{Row, RowId};
use super::row;

/// The identity of a row that was read.
pub(super) fn id(row: &Row) -> Option<String> {
    match row.id()? {
        RowId::Known(id) => Some(id),
        RowId::Inserted(_) => None,
    }
}

/// The guarded guests of a bridge, as their rows remember them; `gone` are not counted.
pub(super) fn members(observed: &Observed, bridge: &str, gone: &BTreeSet<(VmId, u32)>) -> Vec<Member> {
    let guarded = |seen: &&PortSeen| {
        let here = seen.port.map("external_ids").get(mark::GUARDED).is_some_and(|name| name == bridge);
        here && seen.bridge.as_deref() == Some(bridge)
    };
    let stays = |seen: &&PortSeen| mark::owner(&seen.port).is_some_and(|owner| !gone.contains(&owner));
    let ports = observed.ports.values().filter(guarded).filter(stays);
    ports.filter_map(|seen| Some(Memory::of(&seen.port)?.member(seen.number_to_come()?))).collect()
}

/// The numbers of a bridge's patch.
pub(super) fn hatch(observed: &Observed, bridge: &str) -> Hatch {
    let [guarded, guards] = hatch_names(bridge);
    let number = |name: &str, asked| {
        let number = observed.on(bridge, name).and_then(PortSeen::number);
        number.and_then(|number| u16::try_from(number).ok()).unwrap_or(asked)
    };
    Hatch { guarded: number(&guarded, HATCH.guarded), guards: number(&guards, HATCH.guards) }
}

/// Makes the patch, or mends it. The name of a port of another bridge that bears its name, if there is one.
pub(super) fn open_hatch(observed: &Observed, bridge: &str, into: &mut Transaction) -> Result<(), String> {
    for (name, port, interface, number) in row::hatch(bridge) {
        let Some(seen) = observed.ports.get(&name) else {
            let bridge = bridge.to_owned();
            let edit =
                Edit::AddPort { bridge, name: name.clone(), port, interface, counted_on: Some(number) };
            into.edit(Table::Port, &name, None, edit);
            into.wait = true;
            continue;
        };
        if seen.bridge.as_deref() != Some(bridge) || !mark::is_ours(&seen.port) {
            return Err(name);
        }
        let (port, interface) =
            (port.unlike(&seen.port), interface.unlike(&seen.interface.clone().unwrap_or_default()));
        if !port.is_empty() || !interface.is_empty() {
            let edit = Edit::SetPort { name: name.clone(), port, interface };
            into.edit(Table::Port, &name, id(&seen.port), edit);
            into.wait = true;
        }
    }
    Ok(())
}

/// Takes the patch away.
pub(super) fn close_hatch(observed: &Observed, bridge: &str, into: &mut Transaction) {
    for name in hatch_names(bridge) {
        if let Some(seen) = observed.on(bridge, &name).filter(|seen| mark::is_ours(&seen.port)) {
            remove_port(bridge, &name, seen, into);
        }
    }
}

/// Takes a port away.
pub(super) fn remove_port(bridge: &str, name: &str, seen: &PortSeen, into: &mut Transaction) {
    let Some(row) = id(&seen.port) else { return };
    let edit = Edit::RemovePort { bridge: bridge.to_owned(), name: name.to_owned(), row: row.clone() };
    into.edit(Table::Port, name, Some(row), edit);
}

/// The changes from the flows that are there to those that are wanted; `stock` are ports that keep none of the stock driver's.
pub(super) fn flow_changes<'a>(
    seen: impl Iterator<Item = &'a Flow>,
    wanted: Vec<Flow>,
    stock: &BTreeSet<u32>,
) -> Vec<FlowChange> {
    let seen: BTreeMap<&FlowKey, &Flow> = seen.map(|flow| (&flow.key, flow)).collect();
    let wanted: BTreeMap<FlowKey, Flow> = wanted.into_iter().map(|flow| (flow.key.clone(), flow)).collect();
    let stock = stock
        .iter()
        .map(|port| FlowChange::RemoveAll(Which::from(of_nobody()).about(Match::any().in_port(*port))));
    let old = seen.keys().filter(|key| !wanted.contains_key(key));
    let old = old.map(|key| FlowChange::Remove((*key).clone()));
    let new = wanted.values().filter(|flow| seen.get(&flow.key) != Some(flow));
    stock.chain(old).chain(new.cloned().map(FlowChange::Put)).collect()
}
