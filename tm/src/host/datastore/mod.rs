//! The actions of a file datastore (contract TM 3), with the same promises as the calls about VMs.

use std::fs::File;

use causeway_core::locks::Mode;

use super::{Datastore, During, Home, StorageError, Temporary, Tool, Worker, lock, make, remove, snapshot};
use crate::datastore::told;
use crate::place::Image;
use crate::rbd;
use crate::store::file::MIB;
use crate::store::header::Header;

mod call;
mod copy;
mod deliver;
mod export;
mod flatten;
#[cfg(test)]
mod fuzz;
mod import;
mod measure;
mod remote;
mod removal;
mod upload;
mod usage;

pub use call::{
    Checksum, DatastoreCall, Dirs, DiskSizes, Exported, Fetch, ImageOrder, Origin, Stored, VmSizes,
};
pub use deliver::receive;
pub(super) use import::LEAKS;
pub(crate) use import::{compare, pour};
pub use remote::send;
pub(crate) use upload::{Upload, expect_qcow2, is_encrypted, kind};

/// Performs one call; what it prints.
///
/// # Errors
/// [`StorageError`]; the call can be repeated.
pub(super) fn perform(call: &DatastoreCall, worker: &Worker<'_>) -> Result<String, StorageError> {
    let quiet = |done: Result<(), StorageError>| done.map(|()| String::new());
    match call {
        DatastoreCall::Import { image, origin, format, opened, sparse } => {
            import::import(image, origin, *format, *opened, *sparse, None, worker)
        }
        DatastoreCall::Stage { .. } => Err(deliver::refused("what is staged must be sent")),
        DatastoreCall::Deliver { import, ssh } => deliver::deliver(import, ssh, worker),
        DatastoreCall::Copy { original, stored, image, format, sparse } => {
            copy::copy(original, *stored, image, *format, *sparse, worker)
        }
        DatastoreCall::Blank { image, size_mb, format, blank } => {
            let _locks = lock::images(worker, &[(image, Mode::Exclusive)])?;
            let folder = ready(image, worker)?;
            let size = size_mb.saturating_mul(MIB);
            let made = make::build(&folder, image.name(), size, *format == Stored::Qcow2, blank, worker)?;
            quiet(publish(made, image, &folder, worker))
        }
        DatastoreCall::Remove { image } => quiet(removal::remove_image(image, worker)),
        DatastoreCall::Volume(call) => rbd::perform_on_image(call, None, worker),
        DatastoreCall::Measure { origin } => measure::measure(origin),
        DatastoreCall::AskSize { address } => measure::ask(address, worker),
        DatastoreCall::Usage { datastore, disks } => usage::usage(datastore, *disks),
        DatastoreCall::Sizes { datastore } => usage::of_vms(datastore).map(|vms| told(&vms)),
        DatastoreCall::Export { image, stored } => export::export(image, *stored, worker),
        DatastoreCall::Snapshot { image, chain, order, id } => {
            let _locks = lock::images(worker, &[(image, Mode::Exclusive)])?;
            match order {
                ImageOrder::Revert => snapshot::revert_image(image, *chain, *id, worker)?,
                ImageOrder::Delete => snapshot::delete_image(image, *chain, *id, worker)?,
                ImageOrder::Flatten => flatten::flatten(image, *chain, *id, worker)?,
            }
            quiet(removal::forget_sum(image, worker))
        }
    }
}

/// The datastore, ready for a new image: there, and without what an earlier try left.
fn ready(image: &Image, worker: &Worker<'_>) -> Result<Home, StorageError> {
    let folder = Datastore::ensure(image.datastore())?.into_folder();
    worker.at("datastore marked");
    folder.sweep(image.name())?;
    worker.at("leftovers removed");
    Ok(folder)
}

/// Gives a new image its name.
fn publish(
    made: Temporary<'_>,
    image: &Image,
    folder: &Home,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    made.publish(image.name().as_str())?;
    worker.at("image in place");
    folder.sync()
}

/// Has `qemu-img` make a qcow2 image of plain bytes.
pub(crate) fn raw_to_qcow2(
    raw: &Temporary<'_>,
    size: u64,
    made: &Temporary<'_>,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    convert((&raw.path(), "raw"), size, (made, Stored::Qcow2), true, worker)
}

/// Has `qemu-img` make a new file of another one, and compares what came out.
pub(super) fn convert(
    from: (&std::path::Path, &str),
    size: u64,
    (made, format): (&Temporary<'_>, Stored),
    sparse: bool,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let mut tool = Tool::convert(from, &made.path(), worker)?;
    tool.args(["-O", format.as_str()]);
    if !sparse {
        tool.args(["-S", "0"]);
    }
    tool.arg(from.0).arg(made.path()).run(worker)?;
    worker.at("converted");
    let file = File::options().read(true).write(true).open(made.path()).during("open", made.path())?;
    file.sync_all().during("write out", made.path())?;
    let found = match format {
        Stored::Raw => Some(file.metadata().during("look at", made.path())?.len()),
        Stored::Qcow2 => {
            let header = Header::read(&file).map_err(|why| StorageError::Image { path: made.path(), why })?;
            header.filter(|header| header.backing.is_none()).map(|header| header.size)
        }
    };
    // QEMU counts in sectors of 512 bytes.
    if found.and_then(|found| found.checked_sub(size)).is_none_or(|more| more >= 512) {
        let why = format!("{found:?} bytes where {size} were wanted");
        return Err(StorageError::Incomplete { path: from.0.to_owned(), why });
    }
    worker.at("data on disk");
    Ok(())
}
