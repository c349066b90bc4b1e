//! Plans and steps of the transfer manager: how a VM gets its disks, keeps them when it moves, and gives them back.
//!
//! [`plan`] turns the arguments of a slot into steps and is pure; [`host`] performs the calls that those steps carry,
//! in a child of the resident that can be killed; [`carry`] moves a VM's directory between two hosts; [`front`] reads
//! the files of the front-end, and fetches others, likewise in a child; [`datastore`] is the same for the actions of datastores;
//! [`script`] reads the scripts that oned hands to the transfer manager's process.
//!
//! Built for the drivers `shared` and `qcow2`, which are one (contract TM 0), and for `ceph`; [`built`] says which of their
//! slots.

mod address;
mod automount;
pub mod carry;
mod chain;
mod confine;
pub mod datastore;
mod error;
pub mod facts;
pub mod front;
mod half_made;
pub mod host;
mod iso;
mod pace;
pub mod place;
pub mod plan;
pub mod rbd;
mod request;
pub mod script;
#[cfg(test)]
#[path = "../../tests/fuzz/seeded.rs"]
mod seeded;
mod settings;
mod store;

pub use address::WebAddress;
pub use automount::{AutoMount, MOUNT_LIMIT, Mount, MountOptions, Mounted, Share, automounted};
pub use chain::{Beneath, Chain};
pub use confine::Confined;
pub use error::TmError;
pub use plan::{Source, Transfer, built, needs, steps};
pub use settings::{CephSettings, TmSettings};
