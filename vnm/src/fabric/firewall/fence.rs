//! One NIC with its guard and its place, and how what is made for it says whose it is.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use causeway_core::names::{DeployId, LinkName, Mac, VmId};
use serde::{Deserialize, Serialize};

use crate::desired::{Guard, Number};

/// One NIC on a Linux bridge, and what may pass by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Whose it is.
    pub vm: VmId,
    /// The guest, where it is known: rules carry it.
    pub deploy: Option<DeployId>,
    /// What its frames are marked with until they are checked.
    pub number: Number,
    /// The bridge.
    pub bridge: LinkName,
    /// The Ethernet addresses by which frames of the bridge reach the host itself: the bridge's own, and its uplink's.
    pub hosts: BTreeSet<Mac>,
    /// What may pass.
    pub guard: Guard,
}

impl Fence {
    /// Whose what is made for it is.
    pub fn owner(&self) -> Owner {
        Owner { vm: self.vm, nic: self.guard.nic, bridge: self.bridge.clone() }
    }

    /// The chain of what the guest sends.
    pub fn out_chain(&self) -> String {
        out_chain(&self.guard.tap)
    }

    /// The chain of what the guest is sent.
    pub fn in_chain(&self) -> String {
        in_chain(&self.guard.tap)
    }
}

/// The chain of what the guest behind that device sends: named as the stock driver names its own.
pub fn out_chain(tap: &LinkName) -> String {
    format!("{tap}-o")
}

/// The chain of what it is sent.
pub fn in_chain(tap: &LinkName) -> String {
    format!("{tap}-i")
}

/// Who an element of a map belongs to; in the kernel as its comment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// The VM.
    pub vm: VmId,
    /// `NIC_ID`.
    pub nic: u32,
    /// The bridge that the NIC is plugged into.
    pub bridge: LinkName,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VM {} NIC {} bridge {}", self.vm, self.nic, self.bridge)
    }
}

/// A comment that is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not of the form VM <id> NIC <id> bridge <name>")]
pub struct OwnerError;

impl FromStr for Owner {
    type Err = OwnerError;
    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let words: Vec<&str> = text.split(' ').collect();
        let ["VM", vm, "NIC", nic, "bridge", bridge] = words.as_slice() else { return Err(OwnerError) };
        let vm = vm.parse().map_err(|_| OwnerError)?;
        let nic = nic.parse().map_err(|_| OwnerError)?;
        Ok(Owner { vm, nic, bridge: bridge.parse().map_err(|_| OwnerError)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_owner_is_read_as_it_is_written(vm in any::<u32>(), nic in any::<u32>(), bridge in "[a-z][!-.0-9;-~]{0,14}") {
            if let Ok(bridge) = bridge.parse() {
                let owner = Owner { vm: VmId(vm), nic, bridge };
                prop_assert_eq!(owner.to_string().parse(), Ok(owner));
            }
        }

        #[test]
        fn any_other_comment_is_nobodys(text in "\\PC{0,40}") {
            if let Ok(owner) = text.parse::<Owner>() {
                prop_assert_eq!(owner.to_string().parse(), Ok(owner));
            }
        }
    }
}
