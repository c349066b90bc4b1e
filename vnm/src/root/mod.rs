//! The privileged side of the drivers: what it is asked, what it does, what it answers. Nearly all of it is networks.
//!
//! It trusts nothing it is told. A request carries the VM's document and the settings as text; the state that must
//! exist is worked out here, and what is touched are
//!
//! * devices named as OpenNebula names a guest's, `one-<VM>-<NIC>`, of the document's own VM;
//! * bridges and tunnels that bear our mark, or do not exist yet;
//! * network namespaces named as OpenNebula names those of a bridge's services, and the pair of devices that leads there;
//! * uplinks (and bridges of the operator's) that a root-owned file lists;
//! * two switches of the kernel's memory, which are turned one way only.
//!
//! ```text
//! resident ── sudo -n causeway-root ──> Hello
//!    │ ── Request ──────────────────────> │  one at a time, in order
//!    │ <───────────────────── Response ── │
//!    │ ── end of input ─────────────────> exit
//! ```

pub mod action;
mod arrive;
mod clean;
pub mod client;
mod connections;
pub mod error;
mod fences;
pub mod frame;
#[cfg(test)]
mod fuzz;
mod host;
mod left;
mod memory;
pub mod nest;
pub mod place;
mod prepare;
pub mod reconcile;
mod serve;
pub mod server;
pub mod step;
mod switches;
mod update;
pub mod uplinks;
pub mod watch;
pub mod wire;

pub use client::{ClientError, RootClient};
pub use place::Places;
pub use update::network as updated_network;
pub use wire::{CompactMemory, Hello, Inspect, Outcome, Reconcile, Request, Response, SCHEMA, Verb};
