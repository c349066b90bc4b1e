//! `ln.ssh`: a VM on a host's own disk gets its image with all its snapshots, as copies, and brings them back at its end
//! ([`take_back`](super::take_back)). Until then the image is what it was.

use causeway_core::locks::Mode;

use super::image::Reading;
use super::{Datastore, Home, ImageFile, Layout, Recipient, Size, StorageError, Worker, give};
use crate::place::{Image, VmFile};
use crate::store::file;
use crate::store::stack::{self, Proof, Stack};

/// Copies the image and its snapshots.
///
/// # Errors
/// The image is not what it should be, or there is no room; whatever had the disk's name is then as it was.
pub(crate) fn lend(
    image: &Image,
    file: &VmFile,
    layout: Layout,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let to = Recipient { file, local: true };
    match layout {
        Layout::Chain => give(image, &to, Mode::Shared, Reading::Chain, worker, |image, home| {
            chain(image, home, file, worker)
        }),
        Layout::Image => give(image, &to, Mode::Shared, Reading::Bytes, worker, |image, home| {
            flat(image, home, file, worker)
        }),
    }
}

fn chain(image: &ImageFile, home: &Home, to: &VmFile, worker: &Worker<'_>) -> Result<(), StorageError> {
    let (stack, name) = (Stack::of_image(image)?, to.name());
    worker.at("image read");
    let made = stack.copy(home, name, &format!("{}/", name.snap()), Proof::Shape, worker)?;
    let old = stack::put(made, home, name, worker)?;
    stack::lead(home, name, stack.newest().unwrap_or_default(), old, worker)
}

fn flat(image: &ImageFile, home: &Home, to: &VmFile, worker: &Worker<'_>) -> Result<(), StorageError> {
    let (place, name) = (image.place(), to.name());
    let snapshots = Datastore::open(place.datastore())?.folder(&place.name().snap())?;
    let stack = Stack::of_copies(snapshots.as_ref())?;
    worker.at("image read");
    // The disk first: what had its name has snapshots of its own, which go with it.
    file::copy(image, home, name, Size { grown_mb: None, sparse: true }, worker)?;
    if stack.newest().is_none() {
        return Ok(());
    }
    let made = stack.copy(home, name, "", Proof::Shape, worker)?;
    drop(stack::put(made, home, name, worker)?);
    home.sync()
}
