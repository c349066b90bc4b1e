//! The services of Linux bridges (contract VNM 4.11): desired, observed, the changes between, and how each is made.
//!
//! ```text
//! guest ── bridge ── BRIDGEb ══ BRIDGEa in one_tproxy_BRIDGE, 169.254.16.9 ── the stock program ── where the map says
//! ```
//!
//! Whoever observes and changes holds one lock of the host, as the stock driver does.

mod apply;
pub mod namespace;

use std::fmt;
use std::io;
use std::path::PathBuf;

use causeway_core::names::LinkName;

use super::firewall::{FirewallError, Nft, ServicesChange, ServicesSeen};
use super::linux::parse::{Link, LinkKind};
use super::linux::{NetlinkError, Rtnetlink};
use crate::desired::services::{Parts, Services};

pub use apply::apply;

/// Why services could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The firewall refused.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The namespace.
    #[error("network namespace {}", path.display())]
    Namespace {
        /// Its file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A device of that name is something else.
    #[error(
        "{name} is no end of a pair in bridge {bridge}: its name is that of the bridge's services (:tproxy:)"
    )]
    Taken {
        /// The device.
        name: LinkName,
        /// The bridge.
        bridge: LinkName,
    },
}

/// What one bridge has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The device called as its port would be.
    pub outer: Option<Link>,
    /// The bridge's number in the kernel, where there is one.
    pub bridge: Option<u32>,
    /// Whether its namespace is there.
    pub namespace: bool,
    /// Whether the inner end is there, up, and has address and route.
    pub inside: bool,
    /// What the firewall has.
    pub rules: ServicesSeen,
}

/// One change; the order of a list is theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes the namespace.
    MakeNamespace(Parts),
    /// Makes the pair of devices, one end in the bridge and the other in the namespace.
    MakePair(Parts),
    /// Plugs the outer end into the bridge, and brings it up.
    Plug(Parts),
    /// Gives the inner end address and route.
    SetInside(Parts),
    /// The firewall's part.
    Rules(ServicesChange),
    /// Removes the pair.
    RemovePair(Parts),
    /// Removes the namespace.
    RemoveNamespace(Parts),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::MakeNamespace(parts) => write!(f, "create network namespace {}", parts.namespace),
            Change::MakePair(parts) => write!(f, "create {} in {}", parts.outer, parts.bridge),
            Change::Plug(parts) => write!(f, "set {} bridge {} up", parts.outer, parts.bridge),
            Change::SetInside(parts) => write!(f, "set address and route of {}", parts.inner),
            Change::Rules(change) => change.fmt(f),
            Change::RemovePair(parts) => write!(f, "delete {}", parts.outer),
            Change::RemoveNamespace(parts) => write!(f, "delete network namespace {}", parts.namespace),
        }
    }
}

/// The changes that bring `seen` to `wanted`; none if it is there already.
///
/// # Errors
/// [`ServicesError::Taken`], before anything is changed.
pub fn difference(wanted: &Services, parts: &Parts, seen: &Seen) -> Result<Vec<Change>, ServicesError> {
    let mut changes = Vec::new();
    let outer = match &seen.outer {
        Some(link) if link.kind != LinkKind::Inner || elsewhere(link, seen) => {
            return Err(ServicesError::Taken { name: parts.outer.clone(), bridge: parts.bridge.clone() });
        }
        // Its other end went with a namespace that is no more, or is in one that has lost its name.
        Some(_) if !seen.namespace => {
            changes.push(Change::RemovePair(parts.clone()));
            None
        }
        other => other.as_ref(),
    };
    if !seen.namespace {
        changes.push(Change::MakeNamespace(parts.clone()));
    }
    match outer {
        None => changes.push(Change::MakePair(parts.clone())),
        Some(link) if !link.up || link.bridge.is_none() => changes.push(Change::Plug(parts.clone())),
        Some(_) => {}
    }
    if outer.is_none() || !seen.inside {
        changes.push(Change::SetInside(parts.clone()));
    }
    if !seen.rules.has(wanted) {
        changes.push(Change::Rules(ServicesChange::Set(wanted.clone())));
    }
    Ok(changes)
}

/// The changes that take away what is there.
pub fn removal(parts: &Parts, seen: &Seen) -> Vec<Change> {
    let mut changes = Vec::new();
    if seen.rules.chain.is_some() || !seen.rules.endpoints.is_empty() {
        let tables = !seen.rules.company;
        changes.push(Change::Rules(ServicesChange::Remove { parts: parts.clone(), tables }));
    }
    if seen.outer.as_ref().is_some_and(|link| link.kind == LinkKind::Inner && !elsewhere(link, seen)) {
        changes.push(Change::RemovePair(parts.clone()));
    }
    if seen.namespace {
        changes.push(Change::RemoveNamespace(parts.clone()));
    }
    changes
}

fn elsewhere(link: &Link, seen: &Seen) -> bool {
    link.bridge.is_some() && link.bridge != seen.bridge
}

/// Where namespaces are, and the ways to kernel and firewall.
pub struct Hands<'a> {
    /// Devices.
    pub netlink: &'a mut Rtnetlink,
    /// The firewall.
    pub nft: &'a mut Nft,
    /// The directory of namespaces.
    pub namespaces: &'a std::path::Path,
}
