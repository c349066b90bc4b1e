//! oned's XML-RPC interface, played in another network namespace.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::LabError;
use crate::oned::Api;

/// oned's XML-RPC interface in a network namespace.
pub(super) struct Far {
    /// Taken only by the drop.
    api: Option<Api>,
    endpoint: String,
    namespace: PathBuf,
}

impl Far {
    pub(super) fn start(namespace: &Path) -> Result<Far, LabError> {
        let api = within(namespace, Api::start)??;
        Ok(Far { endpoint: api.endpoint(), api: Some(api), namespace: namespace.to_owned() })
    }

    /// Where it is to be asked, from in there.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Lets it know a VM by this document.
    pub(super) fn know_vm(&self, id: u32, document: &str) {
        if let Some(api) = &self.api {
            api.know_vm(id, document);
        }
    }

    /// Lets it know an image by this document.
    pub(super) fn know_image(&self, id: u32, document: &str) {
        if let Some(api) = &self.api {
            api.know_image(id, document);
        }
    }

    /// Lets it know the hosts by this document.
    pub(super) fn know_hosts(&self, document: &str) {
        if let Some(api) = &self.api {
            api.know_hosts(document);
        }
    }

    /// Lets it know a datastore by this document.
    pub(super) fn know_datastore(&self, id: u32, document: &str) {
        if let Some(api) = &self.api {
            api.know_datastore(id, document);
        }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let api = self.api.take();
        // It knocks at its own door to end, and only in there does that lead to it.
        let _ = within(&self.namespace, move || drop(api));
    }
}

/// Does something on a thread in that network namespace. Sockets and threads that are made there stay there.
pub(super) fn within<T: Send>(namespace: &Path, what: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    let entered = || -> std::io::Result<()> { Ok(setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?) };
    let done = thread::scope(|scope| {
        let thread = scope.spawn(|| entered().map(|()| what()));
        thread.join().unwrap_or_else(|_| Err(std::io::Error::other("its thread panicked")))
    });
    done.map_err(LabError::io(format!("enter {}", namespace.display())))
}
