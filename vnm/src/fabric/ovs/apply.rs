//! Changes as operations of the database, and what they wait for.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::change::{Edit, Expected, Table, Transaction};
use super::ovsdb::{Condition, Datum, Mutation, Operation, Ovsdb, OvsdbError, Row, RowId};
use super::row::Columns;
use super::{OvsError, control, mark};

/// The longest wait in one question, so that a deadline is kept.
const STEP: Duration = Duration::from_millis(500);

/// How long the switch may be away: so much takes a restart of it.
const RESTART: Duration = Duration::from_secs(5);

/// Makes a transaction, and waits until the switch has taken it up where flows count on it. With nobody there to take it up, it is
/// not made.
pub(super) fn transact(database: &mut Ovsdb, run: &Path, transaction: &Transaction) -> Result<(), OvsError> {
    if transaction.wait {
        is_served(database, run)?;
    }
    let mut operations: Vec<Operation> = transaction.expect.iter().map(expected).collect();
    for (index, edit) in transaction.edits.iter().enumerate() {
        operations.extend(edited(index, edit));
    }
    operations.push(Operation::comment("causeway"));
    let asked = operations.len();
    if transaction.wait {
        operations.push(Operation::mutate("Open_vSwitch", &[], &[Mutation::Increment("next_cfg")]));
        operations.push(Operation::select("Open_vSwitch", &[], &["next_cfg"]));
    }
    let results = database.transact(&operations)?;
    if !transaction.wait {
        return Ok(());
    }
    let number = |row: &Value| row.get("rows")?.get(0)?.get("next_cfg")?.as_i64();
    taken_up(database, run, results.get(asked.saturating_add(1)).and_then(number).unwrap_or(0))?;
    counted_on(database, transaction)
}

/// Waits for a switch that is away, as long as a restart takes.
fn is_served(database: &mut Ovsdb, run: &Path) -> Result<(), OvsError> {
    let end = Instant::now() + RESTART;
    while control::is_gone(run) {
        if Instant::now() >= end {
            return Err(OvsError::NotRunning);
        }
        let waited = current(database).and_then(|current| until_not(database, current));
        waited.map_err(|error| late(error, OvsError::NotRunning))?;
    }
    Ok(())
}

/// Waits until the switch has taken up all changes to that number.
fn taken_up(database: &mut Ovsdb, run: &Path, number: i64) -> Result<(), OvsError> {
    let failed = |error| late(error, OvsError::NotTakenUp);
    loop {
        let current = current(database).map_err(failed)?;
        if current >= number {
            return Ok(());
        }
        is_served(database, run)?;
        until_not(database, current).map_err(failed)?;
    }
}

/// The number to which the switch has taken up all changes.
fn current(database: &mut Ovsdb) -> Result<i64, OvsdbError> {
    let rows = database.select(&[Operation::select("Open_vSwitch", &[], &["cur_cfg"])])?;
    Ok(rows.first().and_then(|rows| rows.first()?.integer("cur_cfg")).unwrap_or(0))
}

/// Waits until that number is another one, for [`STEP`] at most.
fn until_not(database: &mut Ovsdb, current: i64) -> Result<(), OvsdbError> {
    let row = Row::default().with("cur_cfg", Datum::Integer(current));
    match database.transact(&[Operation::until_not("Open_vSwitch", &["cur_cfg"], &[row], STEP)]) {
        Err(error) if !error.is_stale() => Err(error),
        _ => Ok(()),
    }
}

/// What it means that the time is over.
fn late(error: OvsdbError, means: OvsError) -> OvsError {
    match error {
        OvsdbError::Deadline => means,
        other => other.into(),
    }
}

/// Whether ports that flows count on have the numbers that were asked for.
fn counted_on(database: &mut Ovsdb, transaction: &Transaction) -> Result<(), OvsError> {
    for edit in &transaction.edits {
        let Edit::AddPort { name, counted_on: Some(number), .. } = edit else { continue };
        let read = [Operation::select("Interface", &[Condition::named(name)], &["ofport"])];
        let rows = database.select(&read)?;
        let found = rows.first().and_then(|rows| rows.first()?.integer("ofport"));
        if found != Some(i64::from(*number)) {
            return Err(OvsError::Renumbered { port: name.clone() });
        }
    }
    Ok(())
}

fn known(row: &str) -> RowId {
    RowId::Known(row.to_owned())
}

fn expected(expected: &Expected) -> Operation {
    match expected {
        Expected::Named { table, name, row } => {
            let table = match table {
                Table::Bridge => "Bridge",
                Table::Port => "Port",
            };
            let rows = row.iter().map(|row| Row::default().with("_uuid", Datum::Row(known(row))));
            let rows: Vec<Row> = rows.collect();
            Operation::expect(table, &[Condition::named(name)], &["_uuid"], &rows)
                .called(format!("find {name} as it was"))
        }
        Expected::Ports { bridge, ports } => {
            let ports = Datum::Set(ports.iter().map(|port| Datum::Row(known(port))).collect());
            let row = Row::default().with("ports", ports);
            Operation::expect("Bridge", &[Condition::named(bridge)], &["ports"], &[row])
                .called(format!("find the ports of {bridge} as they were"))
        }
    }
}

fn edited(index: usize, edit: &Edit) -> Vec<Operation> {
    let (port_row, interface_row, bridge_row) =
        (format!("port{index}"), format!("interface{index}"), format!("bridge{index}"));
    let new = |name: &str| Datum::Row(RowId::Inserted(name.to_owned()));
    let what = edit.to_string();
    let add_port = |name: &str, port: Row, interface: Row| {
        let named = |row: Row| row.with("name", Datum::text(name));
        [
            Operation::insert("Interface", &interface_row, &named(interface)).called(what.clone()),
            Operation::insert("Port", &port_row, &named(port).with("interfaces", new(&interface_row)))
                .called(what.clone()),
        ]
    };
    match edit {
        Edit::AddBridge { name, bridge } => {
            let internal = Row::default().with("type", Datum::text("internal"));
            let mut out = add_port(name, Row::default(), internal).to_vec();
            let row = bridge.as_row().with("name", Datum::text(name)).with("ports", new(&port_row));
            out.push(Operation::insert("Bridge", &bridge_row, &row).called(what.clone()));
            let insert = [Mutation::Insert("bridges", new(&bridge_row))];
            out.push(Operation::mutate("Open_vSwitch", &[], &insert).called(what));
            out
        }
        Edit::AddPort { bridge, name, port, interface, .. } => {
            let mut out = add_port(name, port.as_row(), interface.as_row()).to_vec();
            let insert = [Mutation::Insert("ports", new(&port_row))];
            out.push(Operation::mutate("Bridge", &[Condition::named(bridge)], &insert).called(what));
            out
        }
        Edit::SetPort { name, port, interface } => {
            let mut out = set("Port", name, port);
            out.extend(set("Interface", name, interface));
            out.into_iter().map(|operation| operation.called(what.clone())).collect()
        }
        Edit::RemovePort { bridge, row, .. } => {
            let delete = [Mutation::Delete("ports", Datum::Row(known(row)))];
            vec![Operation::mutate("Bridge", &[Condition::named(bridge)], &delete).called(what)]
        }
        Edit::RemoveBridge { row, .. } => {
            let delete = [Mutation::Delete("bridges", Datum::Row(known(row)))];
            vec![Operation::mutate("Open_vSwitch", &[], &delete).called(what)]
        }
        Edit::ReadTwoTags => {
            let map = |value: &str| mark::ids([("vlan-limit", value.to_owned())]);
            let mutations = [
                Mutation::DeleteKeys("other_config", vec!["vlan-limit".to_owned()]),
                Mutation::Insert("other_config", Datum::Map(map("2"))),
            ];
            vec![Operation::mutate("Open_vSwitch", &[], &mutations).called(what)]
        }
    }
}

/// Sets columns of the row of that name.
fn set(table: &'static str, name: &str, columns: &Columns) -> Vec<Operation> {
    let which = [Condition::named(name)];
    let mut out = Vec::new();
    if !columns.whole.is_empty() {
        out.push(Operation::update(table, &which, &columns.whole));
    }
    for (column, keys) in &columns.maps {
        let some = keys.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        out.push(Operation::mutate_map(
            table,
            &which,
            column,
            keys.keys().cloned().collect(),
            some.collect(),
        ));
    }
    out
}
