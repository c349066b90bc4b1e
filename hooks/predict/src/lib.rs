//! The migration model: how long a live migration takes, how long the guest stands still, how many
//! bytes it costs and whether it ends at all, each with its interval; and what to answer when asked
//! whether a guest may move.
//!
//! The crate is arithmetic only. It reads no file, opens no socket, looks at no clock and knows no
//! hypervisor library, host or test rig: facts come in as numbers, answers go out as numbers. The same
//! input gives the same answer on every machine; where chance is modelled, a low-discrepancy sequence
//! takes the place of random numbers.
//!
//! **Units** everywhere, unless a name says otherwise: bytes, seconds, bytes per second. A time that
//! never comes is `f64::INFINITY`, written `"inf"` in JSON.
//!
//! # From facts to a verdict
//!
//! ```text
//!  path ──► rates ─┐
//!  dirty samples ──┼─► precopy │ postcopy ─┬─► migration ──► uncertainty ──► estimate
//!  tuning ─────────┘      disk ────────────┘       │              │
//!                                                  └──► decide ◄──┴── preflight
//!                                     samples of a running move ──► monitor
//! ```
//!
//! Most callers want [`estimate::estimate`] (facts about one guest and one path, intervals back) or
//! [`decide::decide`] (the same and a policy, a verdict back). [`vectors::run`] checks the whole crate
//! against a file of known answers.
//!
//! ```
//! use causeway_predict::estimate::{Bandwidth, Dirty, Facts, estimate};
//! use causeway_predict::dirty::Sample;
//!
//! // 4 GiB, a quarter of it in use; 30 MB dirtied in a second and 60 MB in five; a gigabit path.
//! let samples = [(1.0, 30e6), (5.0, 60e6)].map(Sample::from).to_vec();
//! let path = Bandwidth::Measured { rate: 117e6, cap: None, rtt_s: 0.0005 };
//! let facts = Facts { nonzero_bytes: 1e9, ..Facts::new(4.3e9, Dirty::Samples(samples), path) };
//!
//! let answer = estimate(&facts)?;
//! assert!(answer.converges && answer.p_converge > 0.9);
//! assert!(answer.time_s.low < answer.time_s.median && answer.time_s.median < answer.time_s.high);
//! # Ok::<(), causeway_predict::Error>(())
//! ```
//!
//! Every public function checks its numbers first and answers [`Error`] for what is not finite or out
//! of range; behind that check every loop is bounded.

pub mod cost;
pub mod decide;
pub mod dirty;
pub mod disk;
mod error;
pub mod estimate;
pub mod guest;
pub mod migration;
pub mod monitor;
mod number;
pub mod path;
pub mod postcopy;
pub mod precopy;
pub mod preflight;
pub mod tuning;
pub mod uncertainty;
pub mod vectors;

pub use error::{Error, Kind};
pub use estimate::{Estimate, Facts, Interval, estimate};
pub use vectors::Report;

/// Bytes of one guest page; the model counts in the small pages QEMU tracks dirtiness in.
pub const PAGE: f64 = 4096.0;
