//! What an action does, step by step: each one is announced before it is made and kept for the response.

use super::watch::Arrival;
use crate::fabric::Change;

/// One effect. A death before or after any of them leaves a state that the next run of the same action finishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'c> {
    /// Writes the VM's reservation.
    Reserve,
    /// Changes the kernel's network.
    Change(&'c Change),
    /// Takes the reservation back, wholly or in part.
    Release,
    /// Tells the fabric where the guest is.
    Announce,
}

/// The steps of one action, as they happen.
pub struct Log<'a> {
    /// Changes that were made; with a dry run, that would be.
    pub changes: Vec<Change>,
    /// Whether the VM has something reserved that it had not before.
    pub reserved: bool,
    /// Whether bridges have services now, or have lost them.
    pub services: bool,
    /// For the VM's log.
    pub notes: Vec<String>,
    /// How the arrival of a guest was that has moved here.
    pub arrivals: Vec<Arrival>,
    before: &'a mut dyn FnMut(&Step<'_>),
}

impl<'a> Log<'a> {
    /// An empty log; `before` is called before each step is made.
    pub fn new(before: &'a mut dyn FnMut(&Step<'_>)) -> Self {
        Log {
            changes: Vec::new(),
            reserved: false,
            services: false,
            notes: Vec::new(),
            arrivals: Vec::new(),
            before,
        }
    }

    /// Announces a step.
    pub fn begin(&mut self, step: &Step<'_>) {
        (self.before)(step);
    }
}
