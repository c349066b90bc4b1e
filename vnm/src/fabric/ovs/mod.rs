//! Bridges, ports and flows of Open vSwitch: by its database and by OpenFlow, without its tools.

pub mod flows;
pub mod openflow;
pub mod ovsdb;
