//! The fabrics that a desired state is applied to: observe, difference, apply.

pub mod firewall;
pub mod linux;
pub mod ovs;
