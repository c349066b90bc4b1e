//! A mark in a system datastore, by which another host shows that it sees the same directory.

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;

use super::{Datastore, During, ProbeOrder, StorageError, Worker, lock};
use crate::place::VmDir;

/// Leaves, finds or removes the mark.
///
/// # Errors
/// [`StorageError::Apart`] if it is not there to be found.
pub(crate) fn probe(dir: &VmDir, order: ProbeOrder, worker: &Worker<'_>) -> Result<(), StorageError> {
    let _locks = lock::hold(worker, dir.vm(), None)?;
    // In the datastore, not in the VM's directory: that one may not be there.
    let name = format!(".causeway-probe.{}", dir.vm());
    let datastore = match (Datastore::open(dir.datastore()), order) {
        (Err(StorageError::NoDatastore { .. }), ProbeOrder::Forget) => return Ok(()),
        (Err(StorageError::NoDatastore { .. }), ProbeOrder::Find) => {
            return Err(StorageError::Apart { datastore: dir.datastore().clone() });
        }
        (found, _) => found?,
    };
    let path = dir.datastore().path().join(&name);
    let folder = datastore.as_folder()?;
    match order {
        ProbeOrder::Leave => match folder.create(&name, 0o600) {
            Ok(_) => datastore.sync()?,
            Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        },
        ProbeOrder::Find => match folder.open(&name) {
            Ok(_) => {}
            Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(StorageError::Apart { datastore: dir.datastore().clone() });
            }
            Err(error) => return Err(error),
        },
        ProbeOrder::Forget => match unlinkat(datastore.handle(), name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error).during("remove", path),
        },
    }
    worker.at("probed");
    Ok(())
}
