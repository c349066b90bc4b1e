//! Disks that are files on a host's own disk, of images that are volumes (`.ssh`, contract TM 2.2).
//!
//! ```text
//!  image@snap ──> disk.0                                                       clone.ssh
//!  image      ──> disk.0                                                       ln.ssh
//!  disk.0 ──> image.causeway-tmp. ── compare ── image aside ── rename ── the old one goes, then disk.0      mvds.ssh
//!  disk.0 ──> image.causeway-tmp. ── mark ── rename                            cpds.ssh
//! ```

use std::fs::File;
use std::path::Path;

use super::MIB;
use super::base::{Base, absent, size};
use super::delete::strangers;
use super::error::RbdError;
use super::model::{Family, Member};
use super::name::{PoolName, Role, Volume};
use super::place::{Removal, check, half_made, remove_all, sweep, sweep_strays};
use super::save::{MARK, saved};
use super::tool::Rbd;
use crate::host::{Datastore, During, Home, StorageError, live_copy, not_in_use, remove};
use crate::place::VmFile;
use crate::store::file::take_place;

/// Under this name an image says of which file it was made last.
const RETURNED: &str = "causeway.returned";

/// `clone.ssh`, `ln.ssh`: a file of the image's bytes.
pub(super) fn fetch(
    rbd: &Rbd<'_>,
    image: &Volume,
    file: &VmFile,
    persistent: bool,
    grown_mb: Option<u64>,
) -> Result<(), StorageError> {
    let worker = rbd.worker();
    let names = rbd.names(image.pool())?;
    let base = if persistent { None } else { Some(Base::read(rbd, image, &names)?) };
    let have = base.as_ref().map_or_else(|| size(rbd, image, &names), |base| Ok(base.size))?;
    let want = grown_mb.map_or(have, |size_mb| size_mb.saturating_mul(MIB));
    if want < have {
        return Err(RbdError::Shrinks { volume: image.clone(), have, want }.into());
    }
    if persistent {
        // It is this VM's alone, and nobody may be writing it.
        super::link::link(rbd, image)?;
        rbd.idle(image)?;
        // What is given out has not come back.
        if rbd.mark(image, RETURNED)?.is_some() {
            rbd.unmark(image, RETURNED)?;
            worker.at("mark removed");
        }
    }
    worker.at("volume read");
    let home = Home::ensure_local(file.dir(), worker)?;
    home.sweep(file.name())?;
    worker.at("leftovers removed");
    let made = home.temporary(file.name());
    let export = |from: &str| {
        // Of a try before this one.
        remove(home.handle(), made.name(), &made.path())?;
        rbd.export(from, &made.path())
    };
    let fetched = match base {
        Some(base) => base.make(rbd, image, export),
        None => export(&image.to_string()),
    };
    worker.at("exported");
    home.or_gone(fetched.and_then(|()| finish(&made.path(), have, want)))?;
    worker.at("data on disk");
    take_place(made, &home, file.name(), worker)
}

/// Looks at the file's size, grows it and brings it to the disk; bytes.
fn finish(path: &Path, have: u64, want: u64) -> Result<(), StorageError> {
    let file = File::options().read(true).write(true).open(path).during("open", path)?;
    let found = file.metadata().during("look at", path)?.len();
    if found != have {
        let why = format!("{found} of {have} bytes");
        return Err(StorageError::Incomplete { path: path.to_owned(), why });
    }
    file.set_len(want).during("grow", path)?;
    file.sync_all().during("write out", path)
}

/// `mvds.ssh`: the file takes its image's place.
pub(super) fn take_back(rbd: &Rbd<'_>, file: &VmFile, image: &Volume) -> Result<(), StorageError> {
    let worker = rbd.worker();
    let local = Datastore::open(file.dir().datastore())?;
    let home = local.home(file.dir())?;
    let Some(home) = home.filter(|home| !matches!(home.has(file.name().as_str()), Ok(false))) else {
        local.prove()?;
        let mark = rbd.mark(image, RETURNED).map_err(|error| absent(rbd, image, error))?;
        // A retry of the whole script: the disk has gone because its image is whole.
        if mark.as_deref() == Some(file.to_string().as_str()) {
            return Ok(());
        }
        let why = format!("it is not there, and {image} was not made of it");
        return Err(StorageError::Disk { path: file.path(), why });
    };
    home.sweep(file.name())?;
    worker.at("leftovers removed");
    let (bytes, path) = plain(&home, file)?;
    not_in_use(&path)?;
    let size = bytes.metadata().during("look at", &path)?.len();
    let family = Family::read(rbd, image)?;
    if let Some(current) = family.current() {
        rbd.idle(&current.volume)?;
    }
    // What can't be replaced is not begun with.
    strangers(rbd, &family)?;
    worker.at("volumes read");
    sweep(rbd, &family);
    sweep_strays(rbd, &family);
    let there = family.current().or_else(|| family.of(Role::Aside).last());
    let data = there.and_then(|member| member.info.data_pool.as_ref());
    let made = half_made(rbd, image, |made| {
        rbd.import(&path, made, data)?;
        worker.at("volume made");
        check(rbd, made, None, size)?;
        rbd.compare(made, &bytes, &path)?;
        rbd.set_mark(made, RETURNED, &file.to_string())
    })?;
    worker.at("compared");
    if let Some(current) = family.current() {
        let numbers = current.numbers();
        // As a revert leaves it: its snapshots are the image's, and oned knows of them.
        let away = if numbers.is_empty() { image.aside() } else { image.renamed(&numbers) };
        rbd.rename(&current.volume, &away)?;
        worker.at("old volume renamed");
    }
    rbd.rename(&made, image)?;
    worker.at("image in place");
    let family = Family::read(rbd, image)?;
    let given_up: Vec<&Member> = family.of(Role::Aside).collect();
    remove_all(rbd, &given_up, Removal::Gone)?;
    for name in [file.name().to_string(), file.name().snap()] {
        remove(home.handle(), &name, &home.path().join(&name))?;
        worker.at("removed");
    }
    home.sync()
}

/// `cpds.ssh`: an image is made of the file, or of the copy that the hypervisor of a running guest has made of it.
pub(super) fn save(
    rbd: &Rbd<'_>,
    file: &VmFile,
    copied: bool,
    image: &Volume,
    data: Option<&PoolName>,
) -> Result<(), StorageError> {
    let no_disk = || StorageError::NoDisk { path: file.path() };
    let home = Datastore::open(file.dir().datastore())?.home(file.dir())?.ok_or_else(no_disk)?;
    let copy = live_copy(file.name());
    let drop_copy = || match copied {
        true => remove(home.handle(), &copy, &home.path().join(&copy)),
        false => Ok(()),
    };
    let mark = format!("{image} from {file}");
    let Some(target) = saved(rbd, image, &mark)? else { return drop_copy() };
    let (bytes, path) = if copied {
        (home.open(&copy)?, home.path().join(&copy))
    } else {
        let (bytes, path) = plain(&home, file)?;
        not_in_use(&path)?;
        (bytes, path)
    };
    let size = bytes.metadata().during("look at", &path)?.len();
    sweep(rbd, &target);
    sweep_strays(rbd, &target);
    rbd.worker().at("volumes read");
    half_made(rbd, image, |made| {
        rbd.import(&path, made, data)?;
        rbd.worker().at("volume made");
        check(rbd, made, None, size)?;
        rbd.set_mark(made, MARK, &mark)?;
        rbd.worker().at("marked");
        rbd.rename(made, image)?;
        rbd.worker().at("image in place");
        Ok(())
    })?;
    drop_copy()
}

/// The disk, which must be a plain file: through a link something else would become the image.
fn plain(home: &Home, file: &VmFile) -> Result<(File, std::path::PathBuf), StorageError> {
    let path = home.path().join(file.name().as_str());
    if let Ok(Some(target)) = home.link(file.name().as_str()) {
        let why = format!("it is a link to {target} where the VM's own copy should be");
        return Err(StorageError::Disk { path, why });
    }
    Ok((home.open(file.name().as_str())?, path))
}
