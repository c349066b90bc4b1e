//! Guests whose interfaces can be limited, in memory.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::Bandwidths;
use causeway_core::names::DeployId;
use causeway_vnm::bandwidth::{Guests, Interface};

/// For slots that must not ask for any.
pub struct NoGuests;

impl Guests for NoGuests {
    fn interfaces(&self, guest: &DeployId) -> Result<Option<Vec<Interface>>, Failure> {
        panic!("{guest} was asked for");
    }

    fn limit(&self, guest: &DeployId, _: &str, _: &Bandwidths) -> Result<(), Failure> {
        panic!("{guest} was limited");
    }
}

/// One guest; every call is recorded, and those that a test says fail.
#[derive(Default)]
pub struct OneGuest {
    /// `None`: the guest is not here.
    pub interfaces: Mutex<Option<Vec<Interface>>>,
    pub calls: Mutex<Vec<String>>,
    /// The answers to the calls of `limit` that come next; those after them end well.
    pub failures: Mutex<VecDeque<Option<&'static str>>>,
    pub silent: bool,
    /// After so many calls more, the process is no more.
    pub dies_before: Mutex<Option<usize>>,
}

impl OneGuest {
    fn call(&self, what: String) {
        let mut dies = self.dies_before.lock().unwrap_or_else(PoisonError::into_inner);
        assert_ne!(*dies, Some(0), "killed by the test");
        *dies = dies.map(|left| left - 1);
        self.calls.lock().unwrap().push(what);
    }

    pub fn with(interfaces: Vec<Interface>) -> Self {
        OneGuest { interfaces: Mutex::new(Some(interfaces)), ..OneGuest::default() }
    }

    pub fn limits(&self) -> Vec<Bandwidths> {
        self.interfaces.lock().unwrap().iter().flatten().map(|it| it.limits).collect()
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

impl Guests for OneGuest {
    fn interfaces(&self, guest: &DeployId) -> Result<Option<Vec<Interface>>, Failure> {
        self.call(format!("look at {guest}"));
        match self.silent {
            true => Err(Failure::new(Kind::Unreachable, "no answer within 15 s")),
            false => Ok(self.interfaces.lock().unwrap().clone()),
        }
    }

    fn limit(&self, _: &DeployId, device: &str, limits: &Bandwidths) -> Result<(), Failure> {
        self.call(format!("{device}: {limits}"));
        let failure = self.failures.lock().unwrap().pop_front().flatten();
        let mut interfaces = self.interfaces.lock().unwrap();
        let named = |it: &&mut Interface| {
            it.target.as_ref().map_or(it.mac.unwrap().to_string(), ToString::to_string) == device
        };
        let interface = interfaces.iter_mut().flatten().find(named).unwrap();
        // What fails has got half way, as with the kernel's traffic control.
        interface.limits = if failure.is_some() { Bandwidths::default() } else { *limits };
        failure.map_or(Ok(()), |text| Err(Failure::new(Kind::Refused, text)))
    }
}
