//! What the way from host to host carries: a short stream of TCP from a source to a sink, both bounded.
//!
//! The destination runs a [`Sink`], the source host then [`send`]s to it. The address, and the one-time [`Token`] without
//! which the sink takes nothing, travel over the caller's own protected channel.
//!
//! ```text
//!  source                                   sink
//!    | "CWPROBE1", token                     |  at most 16 callers at a time, each half a second to say this
//!    |-------------------------------------->|  wrong: closed without a word
//!    |               "CWPROBE1", its limits  |  right: nobody else is listened to any more
//!    |<--------------------------------------|
//!    | one byte                              |  nine times: the round trip
//!    |<------------------------------------->|
//!    | bytes, within the limits of both      |  counted per interval
//!    |-------------------------------------->|
//!    |         what was counted, as JSON     |
//!    |<--------------------------------------|
//! ```
//!
//! The rate is that of one plain TCP stream: an upper bound for a migration, whose sending thread also copies and may
//! encrypt. The bytes look random, so that a tunnel that compresses does not flatter itself.

mod sink;
mod source;
mod throughput;
mod token;
mod wire;

pub use sink::Sink;
pub use source::send;
pub use throughput::Throughput;
pub use token::Token;

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What one trial may cost. The narrower limits of the two sides hold, and each side keeps to its own in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most bytes in the stream.
    pub bytes: u64,
    /// Longest duration of the stream.
    pub stream: Duration,
    /// Longest wait for the other side to appear and greet, and for its last word.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 256 << 20, stream: Duration::from_millis(1500), wait: Duration::from_secs(10) }
    }
}

/// Why a trial failed.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// A step of the trial failed in the network or the system.
    #[error("{step}")]
    Io {
        /// What was tried, and on what.
        step: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nobody with the right token came in time.
    #[error("nobody with the right token came within {0:?}")]
    Nobody(Duration),
    /// The other side does not speak this protocol, or refused the token.
    #[error("{0} does not answer as a sink with this token does")]
    Stranger(String),
    /// So little arrived that nothing can be said.
    #[error("only {bytes} bytes arrived in {seconds:.3} s")]
    TooLittle {
        /// What arrived.
        bytes: u64,
        /// In what time.
        seconds: f64,
    },
}

impl PathError {
    fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| PathError::Io { step, source }
    }
}
