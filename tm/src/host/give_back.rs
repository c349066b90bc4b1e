//! `mvds`: a VM gives its image back. Where the image is shared, what the guest wrote is in it already, and the link goes:
//! disk numbers are given out again, and whoever wrote through an old link would write over the image (W1).

use super::{Datastore, StorageError, Worker, lock, remove};
use crate::place::{Image, VmFile, plain};

/// Removes the VM's link to its image.
pub(crate) fn give_back(file: &VmFile, image: &Image, worker: &Worker<'_>) -> Result<(), StorageError> {
    let _locks = lock::hold(worker, file.dir().vm(), None)?;
    let datastore = Datastore::open(file.dir().datastore())?;
    let Some(home) = datastore.home(file.dir())? else {
        return datastore.prove();
    };
    home.sweep(file.name())?;
    worker.at("leftovers removed");
    let target = match home.link(file.name().as_str()) {
        Ok(None) => return home.sync(),
        Ok(Some(target)) => target,
        Err(StorageError::NotALink { path }) => {
            let why = format!(
                "it is a file of its own where a link to {image} should be: what the guest wrote is in it and not in \
                 the image; copy it over the image or take it away, then try again"
            );
            return Err(StorageError::Disk { path, why });
        }
        Err(e) => return Err(e),
    };
    if !leads_to(&target, image) {
        let why = format!("it leads to {target}, which is not {image} nor a layer of it");
        return Err(StorageError::Disk { path: file.path(), why });
    }
    datastore.mark()?;
    worker.at("datastore marked");
    remove(home.handle(), file.name().as_str(), &file.path())?;
    worker.at("link removed");
    home.sync()
}

/// Whether a link leads to the image or to one of its layers; by its last components, for an admin may have moved the
/// datastores since it was made.
fn leads_to(target: &str, image: &Image) -> bool {
    let Ok(path) = target.parse() else { return false };
    let path = plain(&path);
    let tail = format!("/{}/{}", image.datastore().id(), image.name());
    let layer = || {
        let (directory, number) = path.rsplit_once('/')?;
        Some(number.parse::<u32>().is_ok() && directory.ends_with(&format!("{tail}.snap")))
    };
    path.ends_with(&tail) || layer().unwrap_or(false)
}
