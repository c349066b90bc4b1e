//! oned's documents as checked types.
//!
//! ```text
//! bytes ── parse ──> tree::Element ── reading ──> Envelope { VmDocument { Nic, Disk, ... }, Datastore, TmCommand }
//!                          │
//!                          └── render ──> vm.xml, ds.xml, the reduced document of network steps
//! ```
//!
//! Promises:
//! * Hostile bytes end in an error, never in a panic, and never cost more memory than [`Limits`] allow.
//! * An unknown attribute is ignored. A malformed known one is an error that names the attribute, the value and the
//!   accepted form; an empty one is absent.
//! * Elements are collected over *all* their repeated parents, so that the same code reads a whole document and the
//!   reduced one (contract VNM 1.4).
//! * What is handed on is written as the stock driver writes it.
//! * `Debug` of these types shows no part of a document that may hold a secret: no template, context or command.

mod bandwidth;
mod base64;
mod command;
mod datastore;
mod disk;
mod envelope;
mod guest;
mod nic;
mod parse;
mod reading;
mod reduced;
mod rule;
pub mod tree;
mod vm;
mod words;

pub use bandwidth::{Bandwidth, Bandwidths};
pub use base64::{Base64Error, decode, encode, encode_lines};
pub use command::TmCommand;
pub use datastore::Datastore;
pub use disk::Disk;
pub use envelope::Envelope;
pub use guest::{AutoConverge, Features, GuestExec, OldCapacity, ResizeMode, SystemSnapshot};
pub use nic::{
    Addresses, BridgeType, NetworkOverrides, Nic, Pci, QinqType, TagRanges, VXLAN_MODES, VXLAN_TEPS,
    VxlanMode, VxlanTep,
};
pub use parse::{Limits, XmlError, XmlFault, parse, parse_within};
pub use reading::{DocumentError, Form, NumberList, YesNo};
pub use reduced::{reduce, reduced_vm};
pub use rule::{Direction, PortRanges, Protocol, SecurityGroupRule};
pub use vm::{Context, History, VmDocument};
pub use words::DriverName;

#[cfg(test)]
mod tests;
