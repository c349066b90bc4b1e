//! Why an action was not done, and whose fault that is.

use std::collections::BTreeSet;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::DocumentError;
use causeway_core::names::LinkName;

use super::uplinks::UplinksError;
use crate::connections::ConnectionsError;
use crate::desired::Refusal;
use crate::fabric::firewall::FirewallError;
use crate::fabric::linux::sysfs::LocateError;
use crate::fabric::linux::{Conflict, NetlinkError};
use crate::fabric::ovs::{self, OvsError};
use crate::fabric::services::ServicesError;
use crate::lock::LockError;
use crate::reservation::ReservationError;

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The document or the settings ask for what we do not do.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// The list of devices does not count.
    #[error(transparent)]
    Uplinks(#[from] UplinksError),
    /// The host cannot be brought there without harm.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A PCI device of a network can't be found, or not all of it.
    #[error("NIC {nic}")]
    Function {
        /// `NIC_ID`.
        nic: u32,
        /// What is lacking.
        source: LocateError,
    },
    /// The kernel said no.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The firewall can't be read or changed, or not keep what is asked of it.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// Open vSwitch could not be read or changed.
    #[error(transparent)]
    Switch(#[from] OvsError),
    /// Open vSwitch cannot be brought there without harm.
    #[error(transparent)]
    SwitchConflict(#[from] ovs::Conflict),
    /// Services of a bridge could not be read or changed.
    #[error(transparent)]
    Services(#[from] ServicesError),
    /// Reservations could not be read or written.
    #[error(transparent)]
    Reservation(#[from] ReservationError),
    /// What another host told is no list of connections.
    #[error(transparent)]
    Connections(#[from] ConnectionsError),
    /// An object stayed locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// One of these, and whose NICs it is about.
    #[error("{}: {error}", names(nics))]
    Of {
        /// `NIC_ID` of each.
        nics: BTreeSet<u32>,
        /// What is wrong.
        error: Box<ActionError>,
    },
    /// A guard is to be kept for a NIC that has no number.
    #[error("NIC {nic} has rules, and no number by which they would know it")]
    Unnumbered {
        /// `NIC_ID`.
        nic: u32,
    },
    /// The guest's device is not where it should be.
    #[error("device {tap} of NIC {nic} {state}")]
    Tap {
        /// The device.
        tap: LinkName,
        /// `NIC_ID`.
        nic: u32,
        /// What is wrong.
        state: String,
    },
    /// What was changed before a failure could not all be taken back.
    #[error("{first}; taking it back failed as well: {undo}")]
    Undo {
        /// The first cause.
        first: Box<ActionError>,
        /// What went wrong afterwards.
        undo: Box<ActionError>,
    },
}

impl From<DocumentError> for ActionError {
    fn from(error: DocumentError) -> Self {
        ActionError::Refusal(error.into())
    }
}

/// `NIC 0`, or `NIC 0 and NIC 2`.
fn names(nics: &BTreeSet<u32>) -> String {
    nics.iter().map(|nic| format!("NIC {nic}")).collect::<Vec<_>>().join(" and ")
}

impl ActionError {
    /// The same, said of those NICs; as it is where there are none.
    pub(super) fn of(self, nics: BTreeSet<u32>) -> Self {
        match nics.is_empty() {
            true => self,
            false => ActionError::Of { nics, error: Box::new(self) },
        }
    }

    /// Whose fault it is.
    pub fn kind(&self) -> Kind {
        match self {
            ActionError::Refusal(refusal) => refusal.kind(),
            ActionError::Connections(_) => Kind::Input,
            ActionError::Netlink(_) => Kind::Refused,
            ActionError::Firewall(error) | ActionError::Services(ServicesError::Firewall(error)) => {
                match error {
                    FirewallError::Refused { .. } => Kind::Refused,
                    FirewallError::Deadline { .. } => Kind::Timeout,
                    _ => Kind::HostState,
                }
            }
            ActionError::Lock(LockError::Busy { .. }) => Kind::Timeout,
            ActionError::Undo { first, .. } => first.kind(),
            ActionError::Of { error, .. } => error.kind(),
            _ => Kind::HostState,
        }
    }
}

impl From<ActionError> for Failure {
    fn from(error: ActionError) -> Self {
        Failure::from_chain(error.kind(), &error)
    }
}
