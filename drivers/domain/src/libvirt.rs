//! The real side of [`Hypervisor`](crate::Hypervisor): libvirt's client library.
//!
//! **Connections.** One connection serves the short calls of all threads; it is opened at the first call and again
//! whenever it has died. Creating, destroying and migrating each take a connection of their own, because libvirtd
//! works on few calls of one client at once (`max_client_requests`, 5) and a lookup must not wait behind eight slow
//! starts. libvirt's in-memory test driver is the exception: there everything goes through the one connection.
//!
//! **Deadlines.** Two nets, since libvirt's calls wait for as long as the daemon is silent. Keep-alive messages end the
//! calls on a connection whose other side is gone (15 seconds after the last sign of life). That does not help against
//! a daemon that answers keep-alives while the call itself hangs, so every call also runs on a thread that is left
//! behind when the [deadline](Deadlines) passes, together with its connection; the next call opens a new one. After
//! eight calls that hang at once, further ones fail immediately.
//!
//! **Repeating.** A reading call whose connection breaks under it is tried once more on a new one. A call that changes
//! something never is.

mod backup;
mod bandwidths;
mod describe;
mod disks;
mod errors;
mod hypervisor;
mod link;
mod migration;
mod stats;

use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_core::names::DeployId;
use virt::connect::Connect;

use crate::calls::{self, Calls, NoAnswer};
use crate::error::{Cause, Code, DomainError, Operation};

use link::Link;

/// So many calls may hang before no further one is tried.
const HANGING_LIMIT: usize = 8;

/// How long a connection may take to close before it is left to itself.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// How long calls may take. A migration brings its own deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For short calls, opening the connection included.
    pub call: Duration,
    /// For starting a domain: huge pages and slow storage take their time.
    pub create: Duration,
    /// For destroying one: libvirt itself waits for QEMU, politely first, for up to half a minute.
    pub destroy: Duration,
    /// For a migration to end after it was told to abort.
    pub abort: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            call: Duration::from_secs(15),
            create: Duration::from_secs(120),
            destroy: Duration::from_secs(60),
            abort: Duration::from_secs(30),
        }
    }
}

/// A libvirt daemon (or its test driver); see the module for connections and deadlines.
#[derive(Debug)]
pub struct Libvirt {
    uri: String,
    deadlines: Deadlines,
    calls: Calls,
    link: Mutex<Arc<Link>>,
}

impl Libvirt {
    /// Connects with the default deadlines. URIs are libvirt's: `qemu:///system`, `qemu+ssh://host/system`,
    /// `qemu+unix:///system?socket=/run/libvirt/libvirt-sock`, `test:///default`.
    ///
    /// # Errors
    /// The URI is not one, or libvirt cannot be reached in time.
    pub fn connect(uri: &str) -> Result<Self, DomainError> {
        Self::connect_with(uri, Deadlines::default())
    }

    /// Connects with other deadlines.
    ///
    /// # Errors
    /// As [`connect`](Libvirt::connect).
    pub fn connect_with(uri: &str, deadlines: Deadlines) -> Result<Self, DomainError> {
        link::start_events();
        let libvirt =
            Libvirt { uri: uri.to_owned(), deadlines, calls: Calls::default(), link: Mutex::default() };
        libvirt.read(Operation::Connect, uri, |_| Ok(()))?;
        Ok(libvirt)
    }

    /// The URI it was connected to.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    fn link(&self) -> Arc<Link> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.clone()
    }

    /// Puts a fresh link in the place of one on which a call hangs.
    fn give_up(&self, hung: &Arc<Link>) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&link, hung) {
            let old = std::mem::take(&mut *link);
            drop(link);
            // Closing asks the daemon once more, and may hang like the call did.
            calls::leave(move || drop(old));
        }
    }

    /// A short call that only reads: once more on a new connection if the first one broke.
    fn read<T: Send + 'static>(
        &self,
        operation: Operation,
        object: &str,
        work: impl Fn(&Connect) -> Result<T, Cause> + Send + Sync + 'static,
    ) -> Result<T, DomainError> {
        let work = Arc::new(work);
        let again = work.clone();
        let deadline = self.deadlines.call;
        let first = self.call(operation, object, deadline, move |c| work(c));
        match first {
            Err(error) if error.code() == Some(Code::Connection) => {
                tracing::debug!(%error, cause = %error.cause, "once more on a new connection");
                self.call(operation, object, deadline, move |c| again(c))
            }
            other => other,
        }
    }

    /// A call on the shared connection, tried once.
    fn call<T: Send + 'static>(
        &self,
        operation: Operation,
        object: &str,
        deadline: Duration,
        work: impl FnOnce(&Connect) -> Result<T, Cause> + Send + 'static,
    ) -> Result<T, DomainError> {
        let fail = |cause| DomainError::new(operation, object, cause);
        self.check_hanging().map_err(fail)?;
        let link = self.link();
        let (uri, used) = (self.uri.clone(), link.clone());
        let answer = self.calls.run(deadline, move || work(&*used.connection(&uri)?));
        if answer.is_err() {
            self.give_up(&link);
        }
        flatten(answer, deadline).map_err(fail)
    }

    /// A long call on a connection of its own, tried once.
    fn job<T: Send + 'static>(
        &self,
        operation: Operation,
        object: &str,
        deadline: Duration,
        work: impl FnOnce(&Connect) -> Result<T, Cause> + Send + 'static,
    ) -> Result<T, DomainError> {
        if self.shares_one_connection() {
            return self.call(operation, object, deadline, work);
        }
        let fail = |cause| DomainError::new(operation, object, cause);
        self.check_hanging().map_err(fail)?;
        let uri = self.uri.clone();
        let answer = self.calls.run(deadline, move || {
            let connection = link::open(&uri)?;
            let answer = work(&connection);
            // An answer must not wait for the goodbye.
            calls::leave(move || drop(connection));
            answer
        });
        flatten(answer, deadline).map_err(fail)
    }

    fn check_hanging(&self) -> Result<(), Cause> {
        match self.calls.hanging() {
            hanging if hanging >= HANGING_LIMIT => Err(Cause::Saturated(hanging)),
            _ => Ok(()),
        }
    }

    /// Each connection to the test driver may be a world of its own.
    fn shares_one_connection(&self) -> bool {
        self.uri.starts_with("test:")
    }

    /// A short reading call on one domain.
    fn read_domain<T: Send + 'static>(
        &self,
        operation: Operation,
        id: &DeployId,
        work: impl Fn(&virt::domain::Domain) -> Result<T, Cause> + Send + Sync + 'static,
    ) -> Result<T, DomainError> {
        let wanted = id.clone();
        self.read(operation, id.as_str(), move |connection| work(&describe::find(connection, &wanted)?))
    }

    /// A short changing call on one domain.
    fn change_domain<T: Send + 'static>(
        &self,
        operation: Operation,
        id: &DeployId,
        work: impl FnOnce(&virt::domain::Domain) -> Result<T, Cause> + Send + 'static,
    ) -> Result<T, DomainError> {
        let wanted = id.clone();
        self.call(operation, id.as_str(), self.deadlines.call, move |connection| {
            work(&describe::find(connection, &wanted)?)
        })
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let link = std::mem::take(self.link.get_mut().unwrap_or_else(PoisonError::into_inner));
        // If it does not close in time, it closes when the process ends.
        let _ = self.calls.run(CLOSE_TIME, move || drop(link));
    }
}

fn flatten<T>(answer: Result<Result<T, Cause>, NoAnswer>, deadline: Duration) -> Result<T, Cause> {
    match answer {
        Ok(answer) => answer,
        Err(NoAnswer::Late) => Err(Cause::Silent(deadline)),
        Err(NoAnswer::Broken) => Err(Cause::Lost),
    }
}

/// A C string; the binding would panic on a zero byte.
fn c_string(what: &str, text: &str) -> Result<CString, Cause> {
    CString::new(text).map_err(|_| Cause::Input(format!("{what} holds a zero byte")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::Hypervisor;
    use std::os::unix::net::UnixListener;

    #[test]
    fn calls_that_hang_are_bounded_and_end_with_their_daemon() {
        link::start_events();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("libvirt-sock");
        // It accepts in the kernel's queue, and never speaks.
        let silent = UnixListener::bind(&path).unwrap();
        let call = Duration::from_millis(20);
        let host = Libvirt {
            uri: format!("qemu+unix:///system?socket={}", path.display()),
            deadlines: Deadlines { call, ..Deadlines::default() },
            calls: Calls::default(),
            link: Mutex::default(),
        };
        let id: DeployId = "one-7".parse().unwrap();
        let ask = || host.lookup(&id).unwrap_err();
        for _ in 0..HANGING_LIMIT {
            assert_eq!(ask().cause, Cause::Silent(call));
        }
        assert_eq!(ask().cause, Cause::Saturated(HANGING_LIMIT));
        drop(silent);
        while host.calls.hanging() > 0 {
            std::thread::yield_now();
        }
        // On a busy machine even a refusal may come too late for so short a deadline.
        while ask().code() != Some(Code::Connection) {}
    }
}
