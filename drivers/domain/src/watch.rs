//! Waiting for a domain to reach a state: one look at the host serves everybody who waits.
//!
//! libvirt would tell of changes by itself, but an event that was lost with a connection is not sent again, and a
//! callback out of C is the last thing a driver wants to debug at night. So the truth is asked for, a few times a
//! second, by one list call however many domains are awaited.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use causeway_core::names::DeployId;

use crate::domain::Domain;
use crate::error::{Cause, DomainError, Operation};
use crate::hypervisor::Hypervisor;

/// How often a host is looked at unless told otherwise.
pub const INTERVAL: Duration = Duration::from_millis(100);

/// Looks at one host on behalf of all who wait for its domains.
pub struct Watch {
    host: Arc<dyn Hypervisor>,
    interval: Duration,
    last: Mutex<Option<Look>>,
}

/// The active domains at one moment, or why they could not be seen.
#[derive(Clone)]
struct Look {
    begun: Instant,
    active: Result<Arc<Vec<Domain>>, DomainError>,
}

impl Watch {
    /// A watch that looks every [`INTERVAL`].
    pub fn new(host: Arc<dyn Hypervisor>) -> Self {
        Self::with_interval(host, INTERVAL)
    }

    /// A watch that looks at another interval.
    pub fn with_interval(host: Arc<dyn Hypervisor>, interval: Duration) -> Self {
        Watch { host, interval, last: Mutex::new(None) }
    }

    /// Waits until the domain is not active on this host. (A persistent one may still be defined.)
    ///
    /// # Errors
    /// As [`until`](Watch::until).
    pub fn until_off(
        &self,
        id: &DeployId,
        deadline: Duration,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), DomainError> {
        self.until(id, deadline, cancelled, |domain| domain.is_none()).map(|_| ())
    }

    /// Waits until `goal` holds for the domain, which is `None` while it is not active on this host. Only looks begun
    /// after this call count. A host that cannot be asked for a while is asked again until the deadline.
    ///
    /// # Errors
    /// [`Cause::Deadline`] if the host answers but the goal does not come, its own error if the host could not be asked
    /// at the end, [`Cause::Cancelled`] if `cancelled` said so. The deadline may be overrun by one call.
    pub fn until(
        &self,
        id: &DeployId,
        deadline: Duration,
        cancelled: &dyn Fn() -> bool,
        goal: impl Fn(Option<&Domain>) -> bool,
    ) -> Result<Option<Domain>, DomainError> {
        let start = Instant::now();
        let fail = |cause| DomainError::new(Operation::Await, id, cause);
        loop {
            if cancelled() {
                return Err(fail(Cause::Cancelled));
            }
            let look = self.look(start);
            if let Ok(active) = &look.active {
                let domain = active.iter().find(|d| is(d, id));
                if goal(domain) {
                    return Ok(domain.cloned());
                }
            }
            let left = deadline.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(match look.active {
                    Ok(_) => fail(Cause::Deadline(deadline)),
                    Err(error) => fail(error.cause),
                });
            }
            thread::sleep(self.interval.min(left));
        }
    }

    /// A look that was begun after `since` and is not older than the interval: the last one, or a new one. Who needs a
    /// new one takes it while the others wait for it.
    fn look(&self, since: Instant) -> Look {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |look: &&Look| look.begun >= since && look.begun.elapsed() < self.interval;
        if let Some(look) = last.as_ref().filter(fresh) {
            return look.clone();
        }
        let begun = Instant::now();
        let look = Look { begun, active: self.host.list().map(Arc::new) };
        last.insert(look).clone()
    }
}

fn is(domain: &Domain, id: &DeployId) -> bool {
    match id.uuid() {
        Some(uuid) => domain.uuid == uuid,
        None => domain.name == id.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::State;
    use crate::fake::Fake;

    const LONG: Duration = Duration::from_secs(60);
    const TICK: Duration = Duration::from_millis(1);

    fn guest(vm: u32) -> (DeployId, String) {
        let name = format!("one-{vm}");
        let xml = format!("<domain type='kvm'><name>{name}</name><memory>1024</memory></domain>");
        (name.parse().unwrap(), xml)
    }

    fn never() -> bool {
        false
    }

    #[test]
    fn waiting_ends_when_the_guest_is_off() {
        let host = Arc::new(Fake::new("node1"));
        let (id, xml) = guest(7);
        host.create(&xml).unwrap();
        let watch = Watch::with_interval(host.clone(), TICK);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| watch.until_off(&id, LONG, &never));
            while host.operations().len() < 4 {
                thread::yield_now();
            }
            host.kill(&id);
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_goal_may_be_any_state() {
        let host = Arc::new(Fake::new("node1"));
        let (id, xml) = guest(7);
        host.create(&xml).unwrap();
        let watch = Watch::with_interval(host, TICK);
        let running = |d: Option<&Domain>| d.is_some_and(|d| d.state == State::Running);
        let found = watch.until(&id, LONG, &never, running).unwrap();
        assert_eq!(found.unwrap().name, "one-7");
    }

    #[test]
    fn an_unreachable_host_is_not_an_empty_one() {
        let host = Arc::new(Fake::new("node1"));
        let (id, xml) = guest(7);
        host.create(&xml).unwrap();
        host.set_unreachable(true);
        let watch = Watch::with_interval(host.clone(), TICK);
        let error = watch.until_off(&id, TICK * 20, &never).unwrap_err();
        assert!(error.is_unknown());
        host.set_unreachable(false);
        let error = watch.until_off(&id, TICK * 20, &never).unwrap_err();
        assert_eq!(error.cause, Cause::Deadline(TICK * 20));
        let error = watch.until_off(&id, LONG, &|| true).unwrap_err();
        assert_eq!(error.cause, Cause::Cancelled);
    }

    #[test]
    fn a_look_from_before_the_wait_does_not_count() {
        let host = Arc::new(Fake::new("node1"));
        let (id, xml) = guest(7);
        let watch = Watch::with_interval(host.clone(), LONG);
        watch.until_off(&id, LONG, &never).unwrap();
        host.create(&xml).unwrap();
        let error = watch.until_off(&id, TICK, &never).unwrap_err();
        assert_eq!(error.cause, Cause::Deadline(TICK));
    }

    #[test]
    fn many_waiters_share_their_looks() {
        let host = Arc::new(Fake::new("node1"));
        let guests: Vec<_> = (0..32).map(guest).collect();
        let watch = Watch::with_interval(host.clone(), LONG);
        for (_, xml) in &guests {
            host.create(xml).unwrap();
        }
        host.forget_calls();
        thread::scope(|scope| {
            for (id, _) in &guests {
                scope.spawn(|| watch.until_off(id, TICK, &never).unwrap_err());
            }
        });
        // Each waiter looks twice, and its second look may always be somebody's earlier one.
        let looks = host.operations().len();
        assert!(looks <= guests.len(), "{looks}");
    }
}
