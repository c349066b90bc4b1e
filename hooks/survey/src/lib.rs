//! Facts that the model needs, measured before a migration starts.
//!
//! * [`guest`]: what the guest is, and how much of its memory is not zero;
//! * [`curve`]: how many distinct pages it makes dirty within intervals of several lengths;
//! * [`path`]: what the way from host to host carries, by a short and bounded trial;
//! * [`mod@facts`]: all of it in the form that `causeway-predict` takes.
//!
//! Every measurement says how far off it may be, and every one is bounded: in time, in bytes, and in what it costs the
//! guest. Nothing here may run while the guest migrates.

pub mod curve;
pub mod facts;
pub mod guest;
pub mod nonzero;
pub mod path;

pub use curve::DirtyCurve;
pub use facts::facts;
pub use guest::GuestFacts;
pub use nonzero::Nonzero;
pub use path::{Throughput, Token};
