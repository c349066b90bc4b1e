//! The places of executables.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::NameError;

/// The place of an executable below the remotes: `vmm/kvm/deploy`, `vnm/vxlan/pre`, `tm/qcow2/clone.ssh`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot {
    family: String,
    driver: String,
    verb: String,
}

impl Slot {
    /// The slot of `verb` for that family and driver.
    ///
    /// # Errors
    /// A part that is empty, holds anything but letters, digits, `_`, `-` and `.`, or begins with a dot.
    pub fn new(family: &str, driver: &str, verb: &str) -> Result<Self, NameError> {
        for part in [family, driver, verb] {
            let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            if part.is_empty() || part.len() > 64 || part.starts_with(['.', '-']) || !part.bytes().all(word) {
                return Err(NameError::new("slot part", part, "a name of letters, digits, '_', '-' and '.'"));
            }
        }
        Ok(Slot { family: family.to_owned(), driver: driver.to_owned(), verb: verb.to_owned() })
    }

    /// `vmm`, `vnm`, `tm` or `datastore`.
    pub fn family(&self) -> &str {
        &self.family
    }

    /// The driver's directory: `kvm`, `vxlan`, `qcow2`.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The executable's name.
    pub fn verb(&self) -> &str {
        &self.verb
    }

    /// The same slot with the last `.suffix` of its verb dropped, where it has one (contract TM 1.3).
    pub fn without_suffix(&self) -> Option<Slot> {
        let (verb, _) = self.verb.rsplit_once('.')?;
        Slot::new(&self.family, &self.driver, verb).ok()
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.family, self.driver, self.verb)
    }
}

impl FromStr for Slot {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(family), Some(driver), Some(verb), None) => Slot::new(family, driver, verb),
            _ => Err(NameError::new("slot", text, "FAMILY/DRIVER/VERB")),
        }
    }
}

impl TryFrom<String> for Slot {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> String {
        slot.to_string()
    }
}
