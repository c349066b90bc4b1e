//! One table of a plan file, read key by key.
//!
//! Each key is taken out as it is read, so that what is left at the end is what nobody knows, and every error can name
//! the key with its section, the value, and the accepted form.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::{Table, Value};

use super::PlanError;
use super::span;

/// Characters of a value that are repeated in a message.
const SHOWN: usize = 80;

/// A table that is being read.
pub struct Section {
    /// `""` for the file itself, else `guest`, `probe[2]`, …
    path: String,
    table: Table,
    known: Vec<&'static str>,
}

impl Section {
    pub fn new(path: impl Into<String>, table: Table) -> Section {
        Section { path: path.into(), table, known: Vec::new() }
    }

    /// A key with its section in front.
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The error for a value of `key` that is not `accepted`.
    pub fn bad(&self, key: &str, value: impl Display, accepted: impl Into<String>) -> PlanError {
        PlanError::Bad { key: self.name(key), value: shown(&value.to_string()), accepted: accepted.into() }
    }

    /// The error for a `key` that must be there.
    pub fn missing(&self, key: &str, accepted: impl Into<String>) -> PlanError {
        PlanError::Missing { key: self.name(key), accepted: accepted.into() }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// A text, read by `parse`; `parse` says `None` for what is not `accepted`.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        accepted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, PlanError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => match parse(&text) {
                Some(value) => Ok(Some(value)),
                None => Err(self.bad(key, Value::String(text), accepted)),
            },
            Some(other) => Err(self.bad(key, other, accepted)),
        }
    }

    /// A span of time within `range`.
    pub fn span(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, PlanError> {
        let accepted = format!(
            "{}, from {} to {}",
            span::ACCEPTED,
            span::print(*range.start()),
            span::print(*range.end())
        );
        let read = |text: &str| span::parse(text).filter(|s| range.contains(s));
        self.parsed(key, &accepted, read)
    }

    /// A span of time within `range`, or `default`.
    pub fn span_or(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Result<Duration, PlanError> {
        Ok(self.span(key, range)?.unwrap_or(default))
    }

    /// A whole number within `range`.
    pub fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
    ) -> Result<Option<u32>, PlanError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let number = value.as_integer().and_then(|n| u32::try_from(n).ok());
        match number.filter(|n| range.contains(n)) {
            Some(number) => Ok(Some(number)),
            None => {
                let accepted = format!("a whole number from {} to {}", range.start(), range.end());
                Err(self.bad(key, value, accepted))
            }
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>, PlanError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let list = value.as_array().and_then(|items| {
            let text = |item: &Value| item.as_str().map(str::to_owned);
            items.iter().map(text).collect::<Option<Vec<_>>>()
        });
        match list {
            Some(list) => Ok(Some(list)),
            None => Err(self.bad(key, value, "a list of texts, one per argument")),
        }
    }

    /// A table.
    pub fn section(&mut self, key: &'static str) -> Result<Option<Section>, PlanError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Table(table)) => Ok(Some(Section::new(self.name(key), table))),
            Some(other) => Err(self.bad(key, other, "a section of its own")),
        }
    }

    /// A list of at most `limit` tables, counted from 1 in messages.
    pub fn sections(&mut self, key: &'static str, limit: usize) -> Result<Vec<Section>, PlanError> {
        let accepted = || format!("a list of at most {limit} sections");
        let Some(value) = self.take(key) else {
            return Ok(Vec::new());
        };
        let name = self.name(key);
        let Value::Array(items) = value else {
            return Err(self.bad(key, value, accepted()));
        };
        if items.len() > limit {
            return Err(self.bad(key, format!("{} sections", items.len()), accepted()));
        }
        let mut sections = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{name}[{}]", index + 1);
            match item {
                Value::Table(table) => sections.push(Section::new(path, table)),
                other => return Err(self.bad(key, other, accepted())),
            }
        }
        Ok(sections)
    }

    /// Refuses what was not read.
    pub fn finish(self) -> Result<(), PlanError> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => {
                Err(PlanError::Unknown { key: self.name(&shown(key)), known: self.known.join(", ") })
            }
        }
    }
}

/// `text` without control characters and cut to a length that a message can hold.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut out: String = text.chars().take(SHOWN).map(plain).collect();
    if text.chars().nth(SHOWN).is_some() {
        out.push_str("...");
    }
    out
}
