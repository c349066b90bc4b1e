//! A change of any fabric: what is logged, told to the unprivileged side and printed by a dry run.

use std::fmt;

use super::{firewall, linux, ovs, services};

/// One change: a netlink message, a transaction or a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Of the kernel's devices and tables.
    Linux(linux::Change),
    /// Of Open vSwitch.
    Switch(ovs::Change),
    /// Of the rules that guard its bridges.
    Fence(firewall::Change),
    /// Of what guests reach in their own network.
    Services(services::Change),
    /// Of the connections that those rules know.
    Track(firewall::Tracking),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Linux(change) => change.fmt(f),
            Change::Switch(change) => change.fmt(f),
            Change::Fence(change) => change.fmt(f),
            Change::Services(change) => change.fmt(f),
            Change::Track(change) => change.fmt(f),
        }
    }
}

impl From<ovs::Change> for Change {
    fn from(change: ovs::Change) -> Self {
        Change::Switch(change)
    }
}

impl From<firewall::Change> for Change {
    fn from(change: firewall::Change) -> Self {
        Change::Fence(change)
    }
}

impl From<firewall::Tracking> for Change {
    fn from(change: firewall::Tracking) -> Self {
        Change::Track(change)
    }
}

impl From<linux::Change> for Change {
    fn from(change: linux::Change) -> Self {
        Change::Linux(change)
    }
}

impl From<services::Change> for Change {
    fn from(change: services::Change) -> Self {
        Change::Services(change)
    }
}
