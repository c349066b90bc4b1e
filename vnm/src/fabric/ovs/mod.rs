//! Bridges, ports and flows of Open vSwitch: by its database and by OpenFlow, without its tools.
//!
//! ```text
//! desired ----.
//!              difference (pure) --> one transaction, one bundle per bridge --apply--> switch
//! observed ---'                                                                          |
//!    ^-----------------------------------------------------------------------------------'
//! ```
//!
//! A transaction fails as [stale](OvsError::is_stale) where somebody has changed what it was worked out from: the caller
//! observes anew. A guest's port is closed by its row as long as its flows are not there ([`row`]).

mod apply;
pub mod census;
pub mod change;
mod company;
mod control;
pub mod difference;
pub mod flows;
#[cfg(test)]
mod fuzz;
pub mod mark;
pub mod observe;
pub mod openflow;
pub mod ovsdb;
pub mod removal;
pub mod row;
mod tracked;

use std::path::PathBuf;
use std::time::Instant;

pub use census::Census;
pub use change::Change;
pub use difference::{Conflict, Difference, Surroundings, difference};
pub use observe::{Observed, Scope};
pub use removal::{Leaving, Removal, removal};

use openflow::{Openflow, OpenflowError};
use ovsdb::{Ovsdb, OvsdbError};

/// Where Open vSwitch is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The socket of its database.
    pub database: PathBuf,
    /// The directory with the sockets of its bridges.
    pub run: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Places { database: "/var/run/openvswitch/db.sock".into(), run: "/var/run/openvswitch".into() }
    }
}

/// Why the switch could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum OvsError {
    /// Its database.
    #[error(transparent)]
    Database(#[from] OvsdbError),
    /// One of its bridges.
    #[error(transparent)]
    Bridge(#[from] OpenflowError),
    /// Its control.
    #[error("the control of ovs-vswitchd, asked for the connections of zone {zone}")]
    Control {
        /// The zone.
        zone: u16,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The database has it, and the switch does not act on it.
    #[error("ovs-vswitchd has not taken up a change of its database in time: is it running?")]
    NotTakenUp,
    /// There is nobody to act on the database.
    #[error(
        "ovs-vswitchd does not run, so nobody acts on the database of Open vSwitch: start openvswitch-switch"
    )]
    NotRunning,
    /// A port did not get the number that flows count on.
    #[error("port {port} has not got the number that was asked for")]
    Renumbered {
        /// The port.
        port: String,
    },
    /// Connections can't be known there.
    #[error(
        "security groups need connections to be tracked, which the datapath of bridge {bridge} does not do"
    )]
    NoTracking {
        /// The bridge.
        bridge: String,
        /// What it said.
        source: OpenflowError,
    },
}

impl OvsError {
    /// Whether what a change was worked out from is not so any more: observe anew.
    pub fn is_stale(&self) -> bool {
        match self {
            OvsError::Database(error) => error.is_stale(),
            OvsError::Renumbered { .. } => true,
            OvsError::Bridge(_)
            | OvsError::Control { .. }
            | OvsError::NoTracking { .. }
            | OvsError::NotTakenUp
            | OvsError::NotRunning => false,
        }
    }
}

/// A connection to the switch of this host.
pub struct Ovs {
    database: Ovsdb,
    run: PathBuf,
    deadline: Instant,
}

impl Ovs {
    /// Connects to the switch's database; until `deadline` every call may take.
    ///
    /// # Errors
    /// Nobody serves it.
    pub fn open(places: &Places, deadline: Instant) -> Result<Ovs, OvsError> {
        let database = Ovsdb::connect(&places.database, deadline)?;
        Ok(Ovs { database, run: places.run.clone(), deadline })
    }

    /// Reads a part of the switch's state.
    ///
    /// # Errors
    /// The database or a bridge can't be read; that a bridge is not there is no error.
    pub fn observe(&mut self, scope: &Scope) -> Result<Observed, OvsError> {
        observe::observe(&mut self.database, &self.run, self.deadline, scope)
    }

    /// All that we have of guests on this switch.
    ///
    /// # Errors
    /// The database or a bridge can't be read.
    pub fn census(&mut self) -> Result<Census, OvsError> {
        census::census(&mut self.database, &self.run, self.deadline)
    }

    /// Sends frames as if the guest of that port of a bridge had sent them: they pass as its own would, and the switch learns
    /// where it is. From a port that is not there, nothing comes.
    ///
    /// # Errors
    /// The bridge is not there.
    pub fn announce(&mut self, bridge: &str, port: u32, frames: &[Vec<u8>]) -> Result<(), OvsError> {
        let mut connection = Openflow::connect(&self.run, bridge, self.deadline)?;
        Ok(connection.send_from(port, frames)?)
    }

    /// Makes a change: all of it, or nothing.
    ///
    /// # Errors
    /// [`OvsError`]; where it [is stale](OvsError::is_stale), observe anew.
    pub fn apply(&mut self, change: &Change) -> Result<(), OvsError> {
        match change {
            Change::Database(transaction) => apply::transact(&mut self.database, &self.run, transaction),
            Change::Flows { bridge, forget, changes, settle } => {
                let made = Openflow::connect(&self.run, bridge, self.deadline).and_then(|mut connection| {
                    connection.forget(forget)?;
                    connection.change(changes)?;
                    // What still came for a guest that has gone was let begin once more until just now.
                    connection.forget(forget)?;
                    Ok(connection)
                });
                let mut connection = made.map_err(|error| match error.is_of_tracking() {
                    true => OvsError::NoTracking { bridge: bridge.clone(), source: error },
                    false => error.into(),
                })?;
                if *settle {
                    // The flows are made; what can't be waited for comes by itself.
                    let wake = || drop(connection.change(&flows::come_and_gone()));
                    let _ = control::wait_for_datapath(&self.run, self.deadline, wake);
                }
                Ok(())
            }
        }
    }
}
