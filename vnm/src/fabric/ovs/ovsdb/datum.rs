//! Values of the database (RFC 7047 section 5.1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The identity of a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowId {
    /// One that is there.
    Known(String),
    /// One that the same transaction inserts, by the name it has there.
    Inserted(String),
}

/// The value of a column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Datum {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Integer(i64),
    /// A string.
    Text(String),
    /// A reference to a row.
    Row(RowId),
    /// A set; a set of one is the same as its member.
    Set(Vec<Datum>),
    /// A map of strings.
    Map(BTreeMap<String, String>),
    /// A map of strings to rows.
    References(BTreeMap<String, RowId>),
}

impl Datum {
    /// The empty set: a column that says nothing.
    pub fn none() -> Self {
        Datum::Set(Vec::new())
    }

    /// A set of numbers.
    pub fn integers(numbers: impl IntoIterator<Item = impl Into<i64>>) -> Self {
        Datum::Set(numbers.into_iter().map(|number| Datum::Integer(number.into())).collect())
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Datum::Text(text.into())
    }

    /// As it is sent.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Datum::Bool(value) => json!(value),
            Datum::Integer(value) => json!(value),
            Datum::Text(value) => json!(value),
            Datum::Row(RowId::Known(id)) => json!(["uuid", id]),
            Datum::Row(RowId::Inserted(name)) => json!(["named-uuid", name]),
            Datum::Set(members) => json!(["set", members.iter().map(Datum::to_json).collect::<Vec<_>>()]),
            Datum::Map(pairs) => json!(["map", pairs.iter().collect::<Vec<_>>()]),
            Datum::References(pairs) => {
                let pair = |(key, id): (&String, &RowId)| json!([key, Datum::Row(id.clone()).to_json()]);
                json!(["map", pairs.iter().map(pair).collect::<Vec<_>>()])
            }
        }
    }

    /// As it was received; none for what no column of ours holds.
    pub(super) fn from_json(value: &Value) -> Option<Datum> {
        match value {
            Value::Bool(value) => Some(Datum::Bool(*value)),
            Value::Number(value) => value.as_i64().map(Datum::Integer),
            Value::String(value) => Some(Datum::Text(value.clone())),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(kind), Value::String(id)] if kind == "uuid" => {
                    Some(Datum::Row(RowId::Known(id.clone())))
                }
                [Value::String(kind), Value::Array(members)] if kind == "set" => {
                    // Sets of sets do not exist, so nothing deep is ever walked.
                    let member = |value: &Value| match value {
                        Value::Array(pair) if pair.first() != Some(&json!("uuid")) => None,
                        other => Datum::from_json(other),
                    };
                    Some(Datum::Set(members.iter().map(member).collect::<Option<_>>()?))
                }
                [Value::String(kind), Value::Array(pairs)] if kind == "map" => {
                    let pair = |pair: &Value| match pair.as_array()?.as_slice() {
                        [Value::String(key), Value::String(value)] => Some((key.clone(), value.clone())),
                        _ => None,
                    };
                    let strings = pairs.iter().map(pair).collect::<Option<_>>().map(Datum::Map);
                    strings.or_else(|| {
                        Some(Datum::References(pairs.iter().map(reference).collect::<Option<_>>()?))
                    })
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Its members; those of a single value are itself.
    pub fn members(&self) -> &[Datum] {
        match self {
            Datum::Set(members) => members,
            one => std::slice::from_ref(one),
        }
    }

    /// As people write it: the members with blanks between, or `absent`.
    pub fn words(&self) -> String {
        let word = |datum: &Datum| match datum {
            Datum::Bool(value) => value.to_string(),
            Datum::Integer(value) => value.to_string(),
            Datum::Text(value) => value.clone(),
            other => other.to_json().to_string(),
        };
        let words: Vec<String> = self.members().iter().map(word).collect();
        if words.is_empty() { "absent".to_owned() } else { words.join(" ") }
    }

    /// The one member, if there is exactly one.
    pub fn one(&self) -> Option<&Datum> {
        match self.members() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The same set in one form: sorted, and a set also where it has one member.
    fn normal(&self) -> Datum {
        match self {
            Datum::Map(_) | Datum::References(_) => self.clone(),
            other => {
                let mut members = other.members().to_vec();
                members.sort();
                Datum::Set(members)
            }
        }
    }

    /// Whether both are the same value of a column.
    pub fn is(&self, other: &Datum) -> bool {
        self.normal() == other.normal()
    }
}

/// A pair of a map whose values are rows.
fn reference(pair: &Value) -> Option<(String, RowId)> {
    match pair.as_array()?.as_slice() {
        [Value::String(key), Value::Array(id)] => match id.as_slice() {
            [Value::String(kind), Value::String(id)] if kind == "uuid" => {
                Some((key.clone(), RowId::Known(id.clone())))
            }
            _ => None,
        },
        _ => None,
    }
}

/// A row, or a part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row(BTreeMap<String, Datum>);

impl Row {
    /// With a column.
    #[must_use]
    pub fn with(mut self, column: &str, value: Datum) -> Self {
        self.0.insert(column.to_owned(), value);
        self
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The columns.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &Datum)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// A column's value.
    pub fn get(&self, column: &str) -> Option<&Datum> {
        self.0.get(column)
    }

    /// A column that is a text.
    pub fn text(&self, column: &str) -> Option<&str> {
        match self.get(column)?.one()? {
            Datum::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A column that is a number.
    pub fn integer(&self, column: &str) -> Option<i64> {
        match self.get(column)?.one()? {
            Datum::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The numbers of a column.
    pub fn integers(&self, column: &str) -> Vec<i64> {
        let number = |datum: &Datum| match datum {
            Datum::Integer(number) => Some(*number),
            _ => None,
        };
        self.get(column).map(|datum| datum.members().iter().filter_map(number).collect()).unwrap_or_default()
    }

    /// A column that is a map.
    pub fn map(&self, column: &str) -> BTreeMap<String, String> {
        match self.get(column) {
            Some(Datum::Map(pairs)) => pairs.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// A column that is a map to rows.
    pub fn references(&self, column: &str) -> BTreeMap<String, RowId> {
        match self.get(column) {
            Some(Datum::References(pairs)) => pairs.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// The rows that a column refers to.
    pub fn rows(&self, column: &str) -> Vec<RowId> {
        let row = |datum: &Datum| match datum {
            Datum::Row(id) => Some(id.clone()),
            _ => None,
        };
        self.get(column).map(|datum| datum.members().iter().filter_map(row).collect()).unwrap_or_default()
    }

    /// Its own identity, where it was asked for.
    pub fn id(&self) -> Option<RowId> {
        self.rows("_uuid").into_iter().next()
    }

    pub(super) fn to_json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, value)| (name.clone(), value.to_json())).collect())
    }

    /// Columns whose values are of no kind that we know are left out.
    pub(super) fn from_json(value: &Value) -> Option<Row> {
        let columns = value.as_object()?;
        let read = |(name, value): (&String, &Value)| Some((name.clone(), Datum::from_json(value)?));
        Some(Row(columns.iter().filter_map(read).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datum() -> impl Strategy<Value = Datum> {
        let atom = prop_oneof![
            any::<bool>().prop_map(Datum::Bool),
            any::<i64>().prop_map(Datum::Integer),
            ".{0,8}".prop_map(Datum::Text),
            "[0-9a-f-]{1,36}".prop_map(|id| Datum::Row(RowId::Known(id))),
        ];
        prop_oneof![
            atom.clone(),
            proptest::collection::vec(atom, 0..4).prop_map(Datum::Set),
            proptest::collection::btree_map(".{0,4}", ".{0,4}", 0..4).prop_map(Datum::Map),
            proptest::collection::btree_map(".{0,4}", "[0-9a-f-]{1,36}".prop_map(RowId::Known), 1..4)
                .prop_map(Datum::References),
        ]
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read_again(datum in datum()) {
            prop_assert_eq!(Datum::from_json(&datum.to_json()), Some(datum));
        }
    }

    #[test]
    fn a_set_of_one_is_its_member_and_order_means_nothing() {
        assert!(Datum::Integer(5).is(&Datum::integers([5])));
        assert!(Datum::integers([5, 7]).is(&Datum::integers([7, 5])));
        assert!(!Datum::none().is(&Datum::Integer(0)));
        let row = Row::from_json(
            &json!({"tag": 5, "trunks": ["set", [1, 2]], "ports": ["uuid", "a"], "odd": [[]]}),
        );
        let row = row.unwrap();
        assert_eq!(
            (row.integer("tag"), row.integers("trunks"), row.rows("ports")),
            (Some(5), vec![1, 2], vec![RowId::Known("a".to_owned())])
        );
        assert_eq!((row.get("odd"), row.text("tag")), (None, None));
    }
}
