//! `clone`: an image made of another one, of what a guest wrote to it last (W14).

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use causeway_core::locks::Mode;

use super::super::image::Reading;
use super::super::{ImageFile, Inside, copy_data, while_copying};
use super::upload::is_luks;
use super::{During, StorageError, Stored, Worker, convert, lock, publish, ready};
use crate::place::Image;
use crate::store::layers::Layers;

/// The file that holds an image's bytes as they are now.
pub(super) struct Head {
    /// By the name that QEMU is to open.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
    /// The size that a guest sees, bytes.
    pub size: u64,
    /// Whether it needs no other file.
    pub whole: bool,
}

/// Opens what an image holds now: of a chain its newest layer, which the image's own file lags behind.
pub(super) fn head(image: &Image, stored: Stored) -> Result<Head, StorageError> {
    let plain = match stored {
        Stored::Raw => true,
        Stored::Qcow2 => Layers::of_image(image)?.is_none_or(|layers| layers.is_the_image(layers.active())),
    };
    if plain {
        let reading = if stored == Stored::Raw { Reading::Bytes } else { Reading::Chain };
        let found = ImageFile::open(image, reading)?;
        let file = found.file().try_clone().during("open", image.path())?;
        let header = found.header();
        if stored == Stored::Qcow2 && header.is_none() {
            let why = "oned says that it is a qcow2 image, and it is none".to_owned();
            return Err(StorageError::Image { path: image.path(), why });
        }
        let whole = header.is_none_or(|header| header.backing.is_none());
        return Ok(Head { path: image.path(), file, size: found.virtual_size(), whole });
    }
    let path = Layers::of_image(image)?.map_or_else(|| image.path(), |layers| layers.path(layers.active()));
    let inside = Inside::new(image.datastore())?;
    let real = inside.resolve(&path, &path.display().to_string())?;
    let header = inside.check_chain(&path, &real)?;
    let why = || StorageError::Image { path: path.clone(), why: "it is no qcow2 layer".to_owned() };
    let header = header.ok_or_else(why)?;
    let file = File::open(&real).during("open", &path)?;
    Ok(Head { file, size: header.size, whole: header.backing.is_none(), path })
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
    let format = if stored == Stored::Raw && is_luks(&head.file, &head.path)? { Stored::Raw } else { format };
    let folder = ready(image, worker)?;
    let made = folder.temporary(image.name());
    if head.whole && stored == format {
        let found = head.file.metadata().during("look at", &head.path)?;
        let copy = made.create(found.mode() & 0o777)?;
        worker.at("file made");
        copy_data((&head.path, &head.file), &copy, found.len(), worker)
            .map_err(while_copying(&head.path, made.path()))?;
        worker.at("data copied");
        copy.sync_all().during("write out", made.path())?;
        let length = copy.metadata().during("look at", made.path())?.len();
        if length != found.len() {
            let why = format!("{length} of {} bytes", found.len());
            return Err(StorageError::Incomplete { path: head.path, why });
        }
        worker.at("data on disk");
    } else {
        convert((&head.path, stored.as_str()), head.size, (&made, format), sparse, worker)?;
    }
    publish(made, image, &folder, worker)?;
    Ok(format.as_str().to_owned())
}
