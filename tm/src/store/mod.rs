//! The kinds of storage: how a disk of each is copied and linked, once its places are open and locked.
//!
//! `file` serves every format but qcow2, byte by byte; `qcow2` makes and follows chains of backing files; `stack` copies a
//! disk with all its snapshots. What they
//! share (temporary names, locks, proving a datastore present) is the host's part.

pub(crate) mod file;
#[cfg(test)]
mod fuzz;
pub(crate) mod header;
pub(crate) mod increment;
pub(crate) mod layers;
pub(crate) mod qcow2;
pub(crate) mod stack;
