//! Operations of a transaction (RFC 7047 section 5.2).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::datum::{Datum, Row, RowId};

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// What it does, for messages.
    pub(super) what: String,
    pub(super) body: Value,
}

/// Which rows an operation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Those with this value.
    Is(&'static str, Datum),
    /// Those whose set or map has at least these members.
    Includes(&'static str, Datum),
}

/// A change of a set or map by some of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// They are in it.
    Insert(&'static str, Datum),
    /// They are not.
    Delete(&'static str, Datum),
    /// Of a map, whatever has these keys goes.
    DeleteKeys(&'static str, Vec<String>),
    /// A number grows by one.
    Increment(&'static str),
}

impl Condition {
    /// The row of that name.
    pub fn named(name: &str) -> Self {
        Condition::Is("name", Datum::text(name))
    }

    /// The row itself.
    pub fn row(id: &RowId) -> Self {
        Condition::Is("_uuid", Datum::Row(id.clone()))
    }

    fn to_json(&self) -> Value {
        match self {
            Condition::Is(column, value) => json!([column, "==", value.to_json()]),
            Condition::Includes(column, value) => json!([column, "includes", value.to_json()]),
        }
    }
}

impl Mutation {
    fn to_json(&self) -> Value {
        match self {
            Mutation::Insert(column, value) => json!([column, "insert", value.to_json()]),
            Mutation::Delete(column, value) => json!([column, "delete", value.to_json()]),
            Mutation::DeleteKeys(column, keys) => json!([column, "delete", ["set", keys]]),
            Mutation::Increment(column) => json!([column, "+=", 1]),
        }
    }
}

fn conditions(all: &[Condition]) -> Vec<Value> {
    all.iter().map(Condition::to_json).collect()
}

impl Operation {
    fn new(what: String, body: Value) -> Self {
        Operation { what, body }
    }

    /// Reads columns of rows.
    pub fn select(table: &str, which: &[Condition], columns: &[&str]) -> Self {
        let body = json!({"op": "select", "table": table, "where": conditions(which), "columns": columns});
        Operation::new(format!("read {table}"), body)
    }

    /// Makes a row; `name` is what the same transaction calls it.
    pub fn insert(table: &str, name: &str, row: &Row) -> Self {
        let body = json!({"op": "insert", "table": table, "uuid-name": name, "row": row.to_json()});
        Operation::new(format!("make a row of {table}"), body)
    }

    /// Overwrites columns of rows.
    pub fn update(table: &str, which: &[Condition], row: &Row) -> Self {
        let body = json!({"op": "update", "table": table, "where": conditions(which), "row": row.to_json()});
        Operation::new(format!("change {table}"), body)
    }

    /// Changes columns of rows by some of their members.
    pub fn mutate(table: &str, which: &[Condition], mutations: &[Mutation]) -> Self {
        let mutations: Vec<Value> = mutations.iter().map(Mutation::to_json).collect();
        let body =
            json!({"op": "mutate", "table": table, "where": conditions(which), "mutations": mutations});
        Operation::new(format!("change {table}"), body)
    }

    /// Fails the transaction unless exactly these rows are there: what it was worked out from still holds.
    pub fn expect(table: &str, which: &[Condition], columns: &[&str], rows: &[Row]) -> Self {
        let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
        let body = json!({
            "op": "wait", "timeout": 0, "table": table, "where": conditions(which), "columns": columns,
            "until": "==", "rows": rows,
        });
        Operation::new(format!("find {table} unchanged"), body)
    }

    /// Waits until the rows of a table are others than these.
    pub fn until_not(table: &str, columns: &[&str], rows: &[Row], longest: Duration) -> Self {
        let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
        let timeout = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        let body = json!({
            "op": "wait", "timeout": timeout, "table": table, "where": [], "columns": columns, "until": "!=",
            "rows": rows,
        });
        Operation::new(format!("wait for {table}"), body)
    }

    /// Changes some keys of a map: all of them go, and those with a value come.
    pub fn mutate_map(
        table: &str,
        which: &[Condition],
        column: &str,
        keys: Vec<String>,
        values: BTreeMap<String, String>,
    ) -> Self {
        let mut mutations = vec![json!([column, "delete", ["set", keys]])];
        if !values.is_empty() {
            mutations.push(json!([column, "insert", Datum::Map(values).to_json()]));
        }
        let body =
            json!({"op": "mutate", "table": table, "where": conditions(which), "mutations": mutations});
        Operation::new(format!("change {table}"), body)
    }

    /// A line for the database's log.
    pub fn comment(text: &str) -> Self {
        Operation::new("comment".to_owned(), json!({"op": "comment", "comment": text}))
    }

    /// The same, called so in messages.
    #[must_use]
    pub fn called(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }
}
