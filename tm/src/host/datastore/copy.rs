//! `clone`: an image made of another one, of what a guest wrote to it last (W14).

use std::os::unix::fs::MetadataExt;

use causeway_core::locks::Mode;

use super::super::image::Reading;
use super::super::{ImageFile, copy_data, while_copying};
use super::upload::{expect_qcow2, is_luks};
use super::{During, StorageError, Stored, Worker, convert, lock, publish, ready};
use crate::place::Image;

/// Opens what an image holds now: of a chain its newest layer, which the image's own file lags behind.
pub(super) fn head(image: &Image, stored: Stored) -> Result<ImageFile, StorageError> {
    let reading = if stored == Stored::Raw { Reading::Bytes } else { Reading::Newest };
    let found = ImageFile::open(image, reading)?;
    if stored == Stored::Qcow2 {
        expect_qcow2(found.file(), found.path())?;
    }
    Ok(found)
}

/// Makes the image; what it prints is its format.
pub(super) fn copy(
    original: &Image,
    stored: Stored,
    image: &Image,
    format: Stored,
    sparse: bool,
    worker: &Worker<'_>,
) -> Result<String, StorageError> {
    if original == image {
        let why = "it would become a copy of itself".to_owned();
        return Err(StorageError::Image { path: image.path(), why });
    }
    // The original's first, always: nobody waits for an original who holds a new image.
    let _locks = lock::images(worker, &[(original, Mode::Shared), (image, Mode::Exclusive)])?;
    let head = head(original, stored)?;
    worker.at("image opened");
    // As `cp` leaves it: what is in an encrypted disk is not ours to read.
    let format =
        if stored == Stored::Raw && is_luks(head.file(), head.path())? { Stored::Raw } else { format };
    let folder = ready(image, worker)?;
    let made = folder.temporary(image.name());
    if head.is_whole() && stored == format {
        let found = head.file().metadata().during("look at", head.path())?;
        let copy = made.create(found.mode() & 0o777)?;
        worker.at("file made");
        copy_data((head.path(), head.file()), &copy, found.len(), worker)
            .map_err(while_copying(head.path(), made.path()))?;
        worker.at("data copied");
        copy.sync_all().during("write out", made.path())?;
        let length = copy.metadata().during("look at", made.path())?.len();
        if length != found.len() {
            let why = format!("{length} of {} bytes", found.len());
            return Err(StorageError::Incomplete { path: head.path().to_owned(), why });
        }
        worker.at("data on disk");
    } else {
        convert((head.path(), stored.as_str()), head.virtual_size(), (&made, format), sparse, worker)?;
    }
    publish(made, image, &folder, worker)?;
    Ok(format.as_str().to_owned())
}
