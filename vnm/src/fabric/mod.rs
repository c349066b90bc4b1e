//! The networks of a host: what is observed, how that differs from what must be, and the changes between the two.

pub mod change;
pub mod firewall;
pub mod linux;
pub mod ovs;
pub mod services;

pub use change::Change;
