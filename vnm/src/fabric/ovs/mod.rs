//! Bridges, ports and flows of Open vSwitch: by its database and by OpenFlow, without its tools.

pub mod openflow;
pub mod ovsdb;
