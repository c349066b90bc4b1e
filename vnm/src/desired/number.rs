//! The number of a NIC on its host: one for all that a kernel or a switch knows by number.
//!
//! It is the OpenFlow port that is asked for, the zone of the NIC's connections and the mark of its frames. It lies above the
//! numbers that Open vSwitch gives by itself (from 1 on), so that a port which is asked for is free.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number that no other NIC of the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Number(u16);

/// A number outside of [`Number::FIRST`] to [`Number::LAST`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no number of a NIC: those are from {first} to {last}", first = Number::FIRST, last = Number::LAST)]
pub struct NumberError(String);

impl Number {
    /// The lowest.
    pub const FIRST: u16 = 0x4000;
    /// The highest: OpenFlow 1.0 keeps those from 0xff00 on for itself.
    pub const LAST: u16 = 0xfeff;

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Number {
    type Error = NumberError;
    fn try_from(number: u16) -> Result<Self, NumberError> {
        match (Number::FIRST..=Number::LAST).contains(&number) {
            true => Ok(Number(number)),
            false => Err(NumberError(number.to_string())),
        }
    }
}

impl From<Number> for u16 {
    fn from(number: Number) -> u16 {
        number.0
    }
}

impl FromStr for Number {
    type Err = NumberError;
    fn from_str(text: &str) -> Result<Self, NumberError> {
        let number: u16 = text.parse().map_err(|_| NumberError(text.to_owned()))?;
        Number::try_from(number)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
