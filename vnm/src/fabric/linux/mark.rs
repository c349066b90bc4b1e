//! How a device says that we made it.
//!
//! The lasting mark is the interface alias `causeway`, which `ip link` shows and an administrator can change: a device
//! with any other alias is not ours. Until the alias is set (the kernel ignores it in the message that creates a
//! device) the first half of the Ethernet address tells.

use causeway_core::names::Mac;
use serde::{Deserialize, Serialize};

/// The alias of what we made.
pub const ALIAS: &str = "causeway";

/// The first half of the address of what we made: locally administered, unicast.
pub const BIRTH: [u8; 3] = [0x0a, 0xca, 0x5e];

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
    /// Reads the mark of a device of a kind that we make.
    pub fn of(alias: Option<&str>, address: Option<Mac>) -> Self {
        let born = address.is_some_and(|mac| mac.0.starts_with(&BIRTH));
        match alias {
            Some(ALIAS) => Mark::Ours,
            None | Some("") if born => Mark::Newborn,
            _ => Mark::Foreign,
        }
    }

    /// Whether we may change or remove it.
    pub fn is_ours(self) -> bool {
        self != Mark::Foreign
    }
}

/// A fresh address with the birth mark.
///
/// # Errors
/// The kernel gave no random bytes.
pub fn fresh_address() -> std::io::Result<Mac> {
    let mut random = [0u8; 3];
    let got = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    if got != random.len() {
        return Err(std::io::Error::other("too few random bytes"));
    }
    let [a, b, c] = BIRTH;
    let [x, y, z] = random;
    Ok(Mac([a, b, c, x, y, z]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_of_the_operator_outweighs_the_address() {
        let born = Some(fresh_address().unwrap());
        let other = Some(Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(Mark::of(Some("causeway"), other), Mark::Ours);
        assert_eq!(Mark::of(None, born), Mark::Newborn);
        assert_eq!(Mark::of(Some("mine now"), born), Mark::Foreign);
        assert_eq!(Mark::of(None, other), Mark::Foreign);
        assert_eq!(Mark::of(None, None), Mark::Foreign);
    }

    #[test]
    fn a_fresh_address_is_unicast_and_locally_administered() {
        let Mac([first, ..]) = fresh_address().unwrap();
        assert_eq!(first & 0b11, 0b10);
    }
}
