//! What tests of more than one crate share: a player of oned, the traffic recorded from a stock front-end, and a
//! front-end with its hosts in a temporary directory.

pub mod error;
pub mod front_end;
pub mod oned;
pub mod programs;
pub mod recorded;
pub mod replay;
pub mod request;
pub mod xml;
