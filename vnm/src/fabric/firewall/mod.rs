//! Guards of NICs on Linux bridges, by nftables (contract VNM 4.5).
//!
//! ```text
//!               frames from the guest                                     frames to the guest
//! bridge  prerouting  own addresses only; mark: to be checked    forward  mark: to be checked
//! inet    prerouting  of a connection, or a rule lets it begin   forward  of a connection, or a rule lets it begin
//!                       └─> the mark goes                                   └─> the mark goes
//! bridge  forward     who still has the mark was not checked: dropped     forward (later)  the same
//!         input
//! ```
//!
//! Frames of a bridge are tracked by the hooks of IP only where the kernel has no tracking for bridges, and there a frame's device
//! is the bridge. So the tables of the bridge mark a frame by the guest's device, and those of `inet` take the mark off what
//! may pass. A bridge that does not hand its frames to IP (`nf_call_iptables`) lets nothing pass by a guard, rather than all.
//!
//! Everything is keyed by the device's name and is there before the device is. What is there is read by netlink; what is to be is one
//! batch for `nft`, which the kernel takes as a whole or not at all. Our tables only take away: whoever else has rules is asked as well.
//!
//! Whoever observes, works out a difference and applies it holds one lock of the host for the three: two that did so at once could
//! number two bridges alike, or take the tables away under each other.

pub mod change;
mod expr;
pub mod fence;
pub mod foreign;
mod groups;
mod kernel;
pub mod nft;
pub mod observed;
mod plan;
pub mod probe;
pub mod services;
mod skeleton;
mod spoofing;
pub mod stock;
mod tracked;

pub use change::Change;
pub use fence::{Fence, Owner};
pub use foreign::Foreign;
pub use nft::{FirewallError, Nft};
pub use observed::{Observed, Scope};
pub use plan::{difference, plain, removal};
pub use services::{ServicesChange, ServicesSeen};
pub use stock::Stock;
pub use tracked::{Entry, Tracked, Tracking};

/// The name of our tables.
pub const TABLE: &str = "causeway";
