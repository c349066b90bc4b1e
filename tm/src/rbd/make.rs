//! `mkimage`, `mkswap`: an empty disk.
//!
//! What is to be in it is made in a sparse file of the VM's directory, which goes with the call however it ends (W25), and
//! imported without its holes.

use super::delete::refuse_in_use;
use super::model::Family;
use super::name::{PoolName, Volume};
use super::place::{check, half_made, replace, sweep};
use super::tool::Rbd;
use crate::host::{Blank, Home, StorageError, fill};
use crate::place::VmFile;

pub(super) fn make(
    rbd: &Rbd<'_>,
    disk: &Volume,
    size: u64,
    blank: &Blank,
    beside: &VmFile,
    data: Option<&PoolName>,
) -> Result<(), StorageError> {
    let family = Family::read(rbd, disk)?;
    // Before anything changes: what can't go can't be replaced.
    refuse_in_use(rbd, &family)?;
    rbd.worker().at("volumes read");
    sweep(rbd, &family);
    let made = half_made(rbd, disk, |made| {
        match blank {
            Blank::Empty => rbd.create(made, size, data)?,
            Blank::Swap | Blank::FileSystem { .. } => formatted(rbd, made, size, blank, beside, data)?,
        }
        rbd.worker().at("volume made");
        check(rbd, made, None, size)
    })?;
    replace(rbd, &family, &made, disk)
}

fn formatted(
    rbd: &Rbd<'_>,
    made: &Volume,
    size: u64,
    blank: &Blank,
    beside: &VmFile,
    data: Option<&PoolName>,
) -> Result<(), StorageError> {
    let worker = rbd.worker();
    let home = Home::ensure(beside.dir(), worker)?;
    home.sweep(beside.name())?;
    worker.at("leftovers removed");
    let file = home.temporary(beside.name());
    let filled = fill(&file, size, blank, worker).and_then(|()| rbd.import(&file.path(), made, data));
    drop(file);
    home.or_gone(filled)
}
