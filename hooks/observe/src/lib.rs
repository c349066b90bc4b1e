//! Watching a migration from outside: probes, results, plots.
//!
//! A [plan](plan::Plan) names a guest, probes, and what moves the guest; [`measure::run`] carries it out and
//! leaves CSV files and a page with plots; [`respond`] is the service that probes can talk to in the guest.
//!
//! ```no_run
//! use causeway_observe::{measure, plan::Plan};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plan = Plan::read("plan.toml".as_ref())?;
//! let report = measure::run(plan, &mut |progress| eprintln!("{progress}"))?;
//! if let Some(silence) = report.silence(0) {
//!     println!("median {:?}, worst {:?}", silence.median, silence.worst);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The figures are defined once: silence in [`silence`], the network's share of it in [`share`]. Everything between the
//! sockets and the files is a pure function of what the probes wrote down ([`ledger`]).

pub mod capture;
mod child;
pub mod ledger;
pub mod measure;
pub mod moment;
pub mod mover;
pub mod pcap;
pub mod plan;
pub mod probe;
pub mod report;
pub mod respond;
pub mod share;
pub mod silence;
