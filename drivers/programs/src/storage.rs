//! A piece of the transfer manager's work, on its way to the child that does it: the same on a host and on the front-end.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::plan::Input;
use causeway_tm::host::{Worker, perform};
use serde::{Deserialize, Serialize};

/// One call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// In the `tm` crate's own form.
    call: serde_json::Value,
    /// Bytes that came with it, in the order of its step.
    inputs: Vec<Input>,
    /// Longest time, in milliseconds; the child is killed soon after.
    deadline_ms: u64,
}

impl Transfer {
    /// A call that may take so long.
    pub fn new(call: serde_json::Value, inputs: Vec<Input>, deadline: Duration) -> Self {
        Transfer { call, inputs, deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Does it, in this process; its locks lie below `state`.
    ///
    /// # Errors
    /// What it failed of.
    pub fn perform(self, state: &Path) -> Result<String, Failure> {
        let wrong = |e: serde_json::Error| Failure::new(Kind::Bug, format!("transfer call: {e}"));
        let call = serde_json::from_value(self.call).map_err(wrong)?;
        let inputs: Vec<Vec<u8>> = self.inputs.into_iter().map(|input| input.0.to_vec()).collect();
        let worker = Worker {
            locks: &state.join("locks"),
            qemu_img: Path::new("qemu-img"),
            deadline: Instant::now() + Duration::from_millis(self.deadline_ms),
            between: &|_| {},
        };
        perform(&call, &inputs, &worker)
    }
}

/// Makes an image of what comes on standard input; its locks lie below `state`. The answer, a result as JSON, goes to
/// standard output.
///
/// # Errors
/// Standard output is closed.
pub fn receive(state: &Path) -> io::Result<()> {
    let result = causeway_tm::host::receive(io::stdin().lock(), &state.join("locks"), &|_| {});
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, &result)?;
    output.flush()
}
