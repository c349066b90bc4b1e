//! oned's line protocol, as the drivers of the virtual machine manager and the transfer manager speak it
//! (contracts VMM 1.2 to 1.4, TM 1.1, 1.2).
//!
//! ```text
//! stdin ── LineReader ──> Line ── Message::parse ──> Init | Request | DriverCancel | Finalize | Malformed
//! stdout <── render ── INIT_SUCCESS | Reply | Log
//! argv ── DriverOptions | TmOptions
//! ```
//!
//! Promises:
//! * No line kills the reader, however long or undecodable, and none makes it hold more than [`LINE_LIMIT`] bytes.
//! * Whatever of a bad request can be recovered is, so that it can be answered: the stock driver lets such a VM hang.
//! * Whatever is written is one line that oned takes.

mod action;
mod argv;
mod lines;
mod message;
mod reply;

pub use action::{Action, OtherAction};
pub use argv::{ArgvError, DriverOptions, TmOptions, delegates};
pub use lines::{LINE_LIMIT, Line, LineReader, Lines};
pub use message::{Malformed, Message, Reason, Request};
pub use reply::{INIT_SUCCESS, Log, Reply, Severity};
