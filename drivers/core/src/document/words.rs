//! Words that become a directory, a program or an argument: names of drivers and verbs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::NameError;

/// The name of a driver (`VN_MAD`, `TM_MAD`, `DS_MAD`, `VM_MAD`) or of a transfer manager's verb.
///
/// It becomes a part of a path below the remotes, hence neither slashes nor a leading dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DriverName(String);

impl DriverName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The network drivers that are built here (contract VNM 1.1).
    pub const OURS: [&str; 6] = ["bridge", "fw", "802.1Q", "vxlan", "ovswitch", "ovswitch_vxlan"];

    /// Whether it is the name of one of those. On a host somebody else's may bear it all the same.
    pub fn is_ours(&self) -> bool {
        DriverName::OURS.contains(&self.as_str())
    }
}

impl FromStr for DriverName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let ok = (1..=64).contains(&text.len()) && text.bytes().all(word) && !text.starts_with(['.', '-']);
        if ok {
            Ok(DriverName(text.to_owned()))
        } else {
            Err(NameError::new(
                "driver name",
                text,
                "1 to 64 letters, digits, '_', '.' and '-', not beginning with '.' or '-'",
            ))
        }
    }
}

impl TryFrom<String> for DriverName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<DriverName> for String {
    fn from(name: DriverName) -> String {
        name.0
    }
}

impl AsRef<str> for DriverName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DriverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq<str> for DriverName {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for DriverName {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}
