//! `mkfs`: an empty image, or one with a file system, which is made in a file without a name and imported without its
//! holes.

use std::path::Path;

use super::super::name::Volume;
use super::super::tool::Rbd;
use super::{New, is_made, new_image};
use crate::host::{Blank, During, Scratch, StorageError, format};

pub(super) fn make(
    rbd: &Rbd<'_>,
    image: &Volume,
    size: u64,
    (blank, staging): (&Blank, &Path),
    new: &New,
) -> Result<(), StorageError> {
    if is_made(rbd, image, new)? {
        return Ok(());
    }
    new_image(rbd, image, new, Some(size), |made| {
        let data = new.data_pool.as_ref();
        if *blank == Blank::Empty {
            return rbd.create(made, size, data);
        }
        let staged = Scratch::new(staging)?;
        staged.file().set_len(size).during("grow a file in", staging)?;
        format(&staged.path(), staging, blank, rbd.worker())?;
        rbd.import(&staged.path(), made, data)
    })
}
