//! A connection that is opened when it is needed, and libvirt's event loop that keeps it alive.

use std::ops::Deref;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use virt::connect::Connect;

use super::c_string;
use crate::error::Cause;
use crate::ffi;

/// Seconds between two keep-alive messages, and how many may go unanswered before the connection counts as dead.
const KEEP_ALIVE: (i32, u32) = (5, 3);

/// A connection that closes when it is dropped; the binding's own does not. Closing asks the daemon, and may hang.
#[derive(Debug)]
pub(super) struct Connection(Connect);

impl Deref for Connection {
    type Target = Connect;
    fn deref(&self) -> &Connect {
        &self.0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Err(error) = self.0.close() {
            tracing::debug!(%error, "a connection did not close well");
        }
    }
}

/// A slot for one connection.
#[derive(Debug, Default)]
pub(super) struct Link {
    open: Mutex<Option<Arc<Connection>>>,
}

impl Link {
    /// The connection, opened now if there is none or the one there is has died. Others wait meanwhile: they would have
    /// to open one too.
    pub fn connection(&self, uri: &str) -> Result<Arc<Connection>, Cause> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = open.as_ref()
            && connection.is_alive().unwrap_or(false)
        {
            return Ok(connection.clone());
        }
        let connection = Arc::new(self::open(uri)?);
        *open = Some(connection.clone());
        Ok(connection)
    }
}

/// Opens a connection and turns keep-alive on where the driver has it.
pub(super) fn open(uri: &str) -> Result<Connection, Cause> {
    c_string("the connection URI", uri)?;
    let connection = Connection(Connect::open(Some(uri))?);
    let (interval, count) = KEEP_ALIVE;
    if let Err(error) = connection.set_keep_alive(interval, count) {
        // The test driver has nobody to keep alive.
        tracing::debug!(uri, %error, "no keep-alive");
    }
    Ok(connection)
}

/// Starts libvirt's event loop, once per process and before the first connection: without it there is no keep-alive.
pub(super) fn start_events() {
    static START: Once = Once::new();
    START.call_once(|| {
        ffi::initialize();
        if let Err(error) = virt::event::event_register_default_impl() {
            tracing::warn!(%error, "no event loop, hence no keep-alive");
            return;
        }
        let started = thread::Builder::new().name("libvirt-events".to_owned()).spawn(run_events);
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for the event loop, hence no keep-alive");
        }
    });
}

fn run_events() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            tracing::warn!(%error, "libvirt's event loop stumbled");
            // So that a lasting fault does not burn a CPU.
            thread::sleep(Duration::from_secs(1));
        }
    }
}
