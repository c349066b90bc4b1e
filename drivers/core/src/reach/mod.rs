//! The ways to reach the place where a step runs: this process, a child of it, the resident on a host, a script of
//! somebody else's.

pub mod child;
pub mod frame;
pub mod group;
pub mod missing;
pub mod resident;
pub mod slots;
pub mod standard;
pub mod wire;
pub mod worker;
