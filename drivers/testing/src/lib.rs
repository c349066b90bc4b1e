//! What tests of more than one crate are made of: a world of simulated hosts that can be broken in every way we know
//! of, the promises that must hold in it all the same, and a fake host that speaks to real sessions.
//!
//! * [`World`] stands in for the hosts and the VM's log: it is the recording side of
//!   [`Reach`](causeway_core::engine::Reach) and [`Log`](causeway_core::engine::Log). Steps change it as the real ones
//!   change a host, [`Fault`]s are scripted by step, and everything that happens is recorded in order. It lives on the
//!   runtime's clock, so a test that stops the clock plays a day in a moment.
//! * [`promise`] says what is wrong with an outcome, given what the world went through. Nothing in it knows how the
//!   engine works.
//! * [`faults`] generates every fault for every step of a plan: a new step is covered without a new test.
//! * [`plans`] are small plans of the shapes that matter.
//! * [`golden`] compares a text with a file next to the test.
//! * [`tracer`] runs a program and decides over each of its system calls: it passes, fails, or is the program's last.
//! * [`host`] is the far end of a session and [`worker`] a file worker, well-behaved or not; the program
//!   `causeway-fake-host` is both.

pub mod faults;
pub mod golden;
pub mod host;
pub mod plans;
pub mod promise;
#[cfg(target_arch = "x86_64")]
pub mod tracer;
pub mod trial;
pub mod worker;
pub mod world;

pub use faults::{Away, Fault, Took};
pub use trial::{Report, Trial};
pub use world::{Event, World};
