//! `@snap`: the snapshot of an image that clones stand on.

use super::error::{RbdError, code};
use super::ghost::listed;
use super::model::{Flag, HALF_REMOVED, Info};
use super::name::{SnapshotName, Volume};
use super::tool::Rbd;
use crate::host::StorageError;

/// How often it is made anew when another host removes it under us.
const TRIES: u32 = 5;

/// An image, as what is made of it finds it.
#[derive(Debug)]
pub(super) struct Base {
    /// Bytes: of the snapshot, or of the image if it has none yet.
    pub size: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    Made,
    Protected,
}

impl Base {
    /// Looks at an image; `names` are those of its pool.
    pub(super) fn read(rbd: &Rbd<'_>, image: &Volume, names: &[String]) -> Result<Base, StorageError> {
        listed(image, names)?;
        Base::look(rbd, image)
    }

    fn look(rbd: &Rbd<'_>, image: &Volume) -> Result<Base, StorageError> {
        // One question where there is the snapshot already, as for all clones but the first.
        let (info, state) = match rbd.info_at(&snapshot(image)) {
            Ok(info) if info.protected == Some(Flag::True) => (info, State::Protected),
            Ok(info) => (info, State::Made),
            Err(StorageError::Rbd(error)) if error.is(code::ENOENT) => (info(rbd, image)?, State::Missing),
            Err(other) => return Err(other),
        };
        Ok(Base { size: size_of(image, &info)?, state })
    }

    /// Makes something of an image's `@snap`, which is made and protected first if need be. Others may be doing the same on other
    /// hosts, and a stock driver may remove it when its last clone goes: whatever of it is missing is made again (W36).
    pub(super) fn make(
        mut self,
        rbd: &Rbd<'_>,
        image: &Volume,
        make: impl Fn(&str) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let from = snapshot(image);
        for _ in 0..TRIES {
            let made = self.ready(rbd, image).and_then(|()| make(&from));
            match made {
                Err(StorageError::Rbd(error)) if error.is(code::ENOENT) || error.is(code::EINVAL) => {
                    tracing::debug!(%from, %error, "looked at again");
                }
                other => return other,
            }
            self = Base::look(rbd, image)?;
        }
        self.ready(rbd, image).and_then(|()| make(&from))
    }

    fn ready(&self, rbd: &Rbd<'_>, image: &Volume) -> Result<(), StorageError> {
        let base = SnapshotName::Base;
        if self.state == State::Missing {
            rbd.snap(image, &base)?;
            rbd.worker().at("base made");
        }
        if self.state != State::Protected {
            rbd.protect(image, &base)?;
            rbd.worker().at("base protected");
        }
        Ok(())
    }
}

/// The size of an image itself, bytes; `names` are those of its pool.
pub(super) fn size(rbd: &Rbd<'_>, image: &Volume, names: &[String]) -> Result<u64, StorageError> {
    listed(image, names)?;
    size_of(image, &info(rbd, image)?)
}

fn info(rbd: &Rbd<'_>, image: &Volume) -> Result<Info, StorageError> {
    rbd.info(image).map_err(|error| absent(rbd, image, error))
}

fn size_of(image: &Volume, info: &Info) -> Result<u64, StorageError> {
    if info.format == 2 {
        return Ok(info.size);
    }
    let why =
        format!("it is of format {}, which can't be cloned; copy it to a volume of format 2", info.format);
    Err(RbdError::Volumes { volume: image.clone(), why }.into())
}

fn snapshot(image: &Volume) -> String {
    format!("{image}@{}", SnapshotName::Base)
}

/// Says whether it is the pool or the volume that is not there.
pub(super) fn absent(rbd: &Rbd<'_>, volume: &Volume, error: StorageError) -> StorageError {
    match error {
        StorageError::Rbd(found) if found.is(code::ENOENT) => match rbd.names(volume.pool()) {
            Ok(names) => listed(volume, &names).map_or_else(StorageError::from, |()| {
                RbdError::NoVolume { volume: volume.clone(), hint: HALF_REMOVED }.into()
            }),
            Err(error) => error,
        },
        other => other,
    }
}
