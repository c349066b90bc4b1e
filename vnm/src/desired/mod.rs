//! What must exist on a host for a VM: pure, from a checked document, the settings and facts about the host.
//!
//! Nothing here touches the host. The same input gives the same state on the source, on the destination and in a test;
//! [`crate::fabric`] makes a host agree with it.

pub mod driver;
pub mod facts;
pub mod function;
#[cfg(test)]
mod fuzz;
pub mod guard;
pub mod nics;
pub mod number;
pub mod options;
mod ovswitch;
pub mod port;
pub mod refusal;
pub mod services;
pub mod settings;
pub mod state;
pub mod switch;
pub mod tags;
mod vlan;
pub mod vxlan;

pub use driver::Driver;
pub use facts::{Facts, Uplink};
pub use function::{Function, Located};
pub use guard::Guard;
pub use nics::{Answer, desired};
pub use number::Number;
pub use refusal::Refusal;
pub use services::{Endpoint, Service, Services};
pub use settings::Settings;
pub use state::{
    Bridge, BridgeOption, Checksums, Desired, FdbEntry, Port, Vlan, VlanIdentity, Vxlan, VxlanIdentity,
    VxlanTuning,
};
pub use switch::{Datapath, Switch, SwitchPort, Vlans};
pub use tags::Tags;
