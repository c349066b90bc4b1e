//! What NICs had before their networks were changed while their guest was away: `pre` takes it away when what they have now is
//! there, and whoever finishes after a `pre` that died, before that.

use std::collections::BTreeSet;

use causeway_core::names::LinkName;
use serde::{Deserialize, Serialize};

use super::{FunctionReservation, NicReservation, Place, Reservation};
use crate::desired::Number;

/// What is still to be taken away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// Places, by `NIC_ID`.
    pub nics: Vec<(u32, NicReservation)>,
    /// Virtual functions.
    pub functions: Vec<FunctionReservation>,
}

impl Former {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.nics.is_empty() && self.functions.is_empty()
    }

    /// The bridges, and the physical functions of the virtual ones.
    pub fn bridges(&self) -> impl Iterator<Item = &LinkName> {
        let devices = self.functions.iter().map(|reserved| &reserved.function.device);
        self.nics.iter().map(|(_, reserved)| &reserved.port.bridge).chain(devices)
    }
}

impl Reservation {
    /// Writes down what its NICs had `before` and have no more, and what has not been taken away since earlier.
    pub fn replace(&mut self, before: &Reservation) {
        let old = before.nics.iter().map(|(nic, old)| (*nic, old.clone()));
        let gone =
            |(nic, old): &(u32, NicReservation)| self.nics.get(nic).is_none_or(|new| !new.is_where(old));
        let nics = before.former.nics.iter().cloned().chain(old).filter(gone).collect();
        let functions = before.former.functions.iter().chain(before.functions.values());
        let functions = functions.filter(|old| !self.has_function(&old.function)).cloned().collect();
        self.former = Former { nics, functions };
    }

    /// NICs that have left a Linux bridge for another one, and what is known of their connections there: the bridge, the number.
    pub fn moved(&self) -> Vec<(LinkName, Number)> {
        let moved = self.former.nics.iter().filter(|(nic, old)| {
            let new = self.nics.get(nic);
            new.is_some_and(|new| new.port.bridge != old.port.bridge)
        });
        let tracked = moved.filter(|(_, old)| old.is_stateful() && matches!(old.place, Place::Bridge(_)));
        tracked.filter_map(|(_, old)| Some((old.port.bridge.clone(), old.number?))).collect()
    }

    /// The same, with that to be taken away and no more.
    #[must_use]
    pub fn with_former(&self, former: Former) -> Self {
        Reservation { former, ..self.clone() }
    }

    /// The numbers of its NICs, as long as anything is known by them.
    pub fn numbers(&self) -> BTreeSet<(u32, Number)> {
        let former = self.former.nics.iter().map(|(nic, reserved)| (nic, reserved));
        let numbers = self.nics.iter().chain(former);
        numbers.filter_map(|(nic, reserved)| Some((*nic, reserved.number?))).collect()
    }
}
