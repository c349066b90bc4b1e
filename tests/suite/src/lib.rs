//! What tests of more than one crate share: a player of oned, the traffic recorded from a stock front-end, a front-end
//! with its hosts in a temporary directory, and the lab of real hosts with what can be done to it.

pub mod error;
pub mod front_end;
pub mod lab;
pub mod oned;
pub mod programs;
pub mod recorded;
pub mod replay;
pub mod request;
pub mod transfers;
pub mod volumes;
pub mod xml;
