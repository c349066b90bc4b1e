//! Bridges, VXLAN devices and forwarding tables of the Linux kernel, by netlink.
//!
//! ```text
//! desired ----.
//!              difference (pure) --> changes --apply--> kernel
//! observed ---'                                            |
//!    ^-----------------------------------------------------'
//! ```
//!
//! One message makes one device whole (name, parameters, bridge, up), so that no half-made device is ever
//! seen. The kernel takes no alias at that moment; the device's group is our [mark] until the alias follows, and a device
//! that was orphaned in between is still known as ours.

pub mod apply;
pub mod change;
pub mod conflict;
pub mod difference;
pub mod ethtool;
pub mod functions;
#[cfg(test)]
mod fuzz;
pub mod mark;
pub mod netlink;
pub mod observe;
pub mod parse;
pub mod removal;
pub mod sysfs;
pub mod vlan_table;
pub mod vlans;

pub use change::Change;
pub use conflict::Conflict;
pub use difference::{Difference, Surroundings, difference};
pub use netlink::{NetlinkError, Rtnetlink};
pub use observe::{Observed, Scope, observe};
pub use removal::{Leaving, Place, Removal, removal};
