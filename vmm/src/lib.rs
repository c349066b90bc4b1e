//! The virtual machine manager: plans for oned's actions, and the work that our own slots do on a host.
//!
//! [`plan`] is pure and runs on the front-end; [`host`] talks to libvirt and runs on the host.

pub mod host;
pub mod plan;
