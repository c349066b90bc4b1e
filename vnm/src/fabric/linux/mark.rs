//! How a device says that we made it.
//!
//! The lasting mark is the interface alias `causeway`, which `ip link` shows and an administrator can change: a device
//! with any other alias is not ours. The kernel ignores an alias in the message that creates a device, so until it
//! follows the interface group tells: it is set with the device's first breath, and no other device inherits it. (An
//! Ethernet address would not do: a bridge takes over that of its first port.)

use serde::{Deserialize, Serialize};

/// The alias of what we made.
pub const ALIAS: &str = "causeway";

/// The interface group of what we made.
pub const GROUP: u32 = 0xca5e;

/// Whose a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Ours, and says so.
    Ours,
    /// Ours, but a process died before it could say so.
    Newborn,
    /// The operator's, or another program's.
    Foreign,
}

impl Mark {
    /// Reads the mark of a device.
    pub fn of(alias: Option<&str>, group: u32) -> Self {
        match alias {
            Some(ALIAS) => Mark::Ours,
            None | Some("") if group == GROUP => Mark::Newborn,
            _ => Mark::Foreign,
        }
    }

    /// Whether we may change or remove it.
    pub fn is_ours(self) -> bool {
        self != Mark::Foreign
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_of_the_operator_outweighs_the_group() {
        assert_eq!(Mark::of(Some("causeway"), 0), Mark::Ours);
        assert_eq!(Mark::of(None, GROUP), Mark::Newborn);
        assert_eq!(Mark::of(Some("mine now"), GROUP), Mark::Foreign);
        assert_eq!(Mark::of(None, 0), Mark::Foreign);
    }
}
