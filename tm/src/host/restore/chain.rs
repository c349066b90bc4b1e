//! A disk that is a chain of layers becomes one layer again.
//!
//! ```text
//! disk.0 -> disk.0.snap/2                      as it was
//!           disk.0.snap/3 = what was fetched   a second name of it, which nothing had
//! disk.0 -> disk.0.snap/3                      from here on it is the disk
//!           disk.0.snap/0 = what was fetched   (of a persistent disk: the image, to which 0 is a link)
//! disk.0 -> disk.0.snap/0                      as OpenNebula lays out a disk without snapshots
//!           all else in disk.0.snap goes
//! ```

use rustix::fs::{AtFlags, Mode, StatxFlags, linkat, mkdirat, readlinkat, statx, symlinkat};
use rustix::io::Errno;

use super::super::{During, Home, Kept, StorageError, Worker, remove};
use super::{RestoreDisk, gone};
use crate::place::TEMPORARY;

/// The first layer.
const FIRST: &str = "0";

/// Puts what lies in `folder` as `staged` in the disk's place.
pub(super) fn put(
    disk: &RestoreDisk,
    staged: &str,
    folder: &Home,
    home: &Home,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let target = Target::of(disk, folder)?;
    let inode = inode(folder, staged)?;
    let inode = inode.ok_or_else(|| StorageError::NoDisk { path: folder.path().join(staged) })?;
    worker.at("directory of layers made");
    let names = target.snap.names()?;
    let number = |name: &String| name.parse::<u32>().ok();
    let second = names.iter().find(|name| {
        *name != FIRST
            && number(name).is_some()
            && matches!(self::inode(&target.snap, name), Ok(Some(i)) if i == inode)
    });
    let second = match second {
        Some(second) => second.clone(),
        None => {
            let next = names.iter().filter_map(number).max().map_or(1, |highest| highest.saturating_add(1));
            let next = next.max(1).to_string();
            linkat(folder.handle(), staged, target.snap.handle(), next.as_str(), AtFlags::empty())
                .during("link", target.snap.path().join(&next))?;
            worker.at("second name given");
            next
        }
    };
    target.snap.sync()?;
    if home.link(disk.file.name().as_str())? != Some(target.layer(FIRST)) || !target.is_done(inode)? {
        home.point(disk.file.name(), target.layer(&second))?;
        worker.at("disk in place");
        home.sync()?;
        target.fill_first(folder, staged)?;
        worker.at("first layer in place");
        target.snap.sync()?;
        folder.sync()?;
        home.point(disk.file.name(), target.layer(FIRST))?;
        worker.at("disk leads to its first layer");
        home.sync()?;
    }
    target.forget_others(worker)?;
    if let Kept::WithImage(_) = disk.kept {
        // Of a time when the disk was a copy.
        let own = disk.file.name().snap();
        remove(home.handle(), &own, &home.path().join(&own))?;
    }
    folder.sync()
}

/// Where the layers lie.
struct Target {
    snap: Home,
    /// Of the directory of the layers.
    snap_name: String,
    /// What stands before a layer's number in the link that is the disk.
    prefix: String,
    /// The image's name, of a persistent disk: the first layer is a link to it.
    image: Option<(String, std::path::PathBuf)>,
}

impl Target {
    fn of(disk: &RestoreDisk, folder: &Home) -> Result<Self, StorageError> {
        let (snap_name, image) = match &disk.kept {
            Kept::Beside => (disk.file.name().snap(), None),
            Kept::WithImage(image) => (image.name().snap(), Some((image.name().to_string(), image.path()))),
        };
        let path = folder.path().join(&snap_name);
        match mkdirat(folder.handle(), snap_name.as_str(), Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).during("make", path),
        }
        let snap =
            folder.folder(&snap_name)?.ok_or_else(|| StorageError::NotADirectory { path: path.clone() })?;
        match symlinkat(".", snap.handle(), snap_name.as_str()) {
            Ok(()) => {}
            Err(Errno::EXIST) if leads(&snap, &snap_name).as_deref() == Some(".") => {}
            Err(Errno::EXIST) => return Err(StorageError::SelfLink { path: path.join(&snap_name) }),
            Err(e) => return Err(e).during("make", path.join(&snap_name)),
        }
        // Relative for a disk of the VM's own, so that its directory can move.
        let prefix = if image.is_none() { snap_name.clone() } else { path.display().to_string() };
        Ok(Target { snap, snap_name, prefix, image })
    }

    fn layer(&self, number: &str) -> String {
        format!("{}/{number}", self.prefix)
    }

    /// Whether the first layer is what was fetched.
    fn is_done(&self, wanted: (u32, u32, u64)) -> Result<bool, StorageError> {
        match &self.image {
            None => Ok(inode(&self.snap, FIRST)? == Some(wanted)),
            Some((_, path)) => {
                let link = leads(&self.snap, FIRST);
                let linked = link.is_some_and(|link| link == path.display().to_string());
                let parent = path.parent().map(Home::at).transpose()?;
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let image = parent.map(|parent| inode(&parent, name)).transpose()?.flatten();
                Ok(linked && image == Some(wanted))
            }
        }
    }

    fn fill_first(&self, folder: &Home, staged: &str) -> Result<(), StorageError> {
        match &self.image {
            None => second_name(&self.snap, folder, staged, FIRST),
            Some((name, path)) => {
                second_name(folder, folder, staged, name)?;
                let made = self.snap.temporary(FIRST);
                symlinkat(path, self.snap.handle(), made.name()).during("make", made.path())?;
                made.publish(FIRST)
            }
        }
    }

    /// Nothing stands on the other layers any more, and oned has forgotten the snapshots.
    fn forget_others(&self, worker: &Worker<'_>) -> Result<(), StorageError> {
        for name in self.snap.names()? {
            if name != FIRST && name != self.snap_name {
                remove(self.snap.handle(), &name, &self.snap.path().join(&name))?;
                worker.at("older layer removed");
            }
        }
        self.snap.sync()
    }
}

/// Gives a file a further name, in place of whatever has it.
pub(super) fn second_name(into: &Home, folder: &Home, file: &str, name: &str) -> Result<(), StorageError> {
    let other = format!("{TEMPORARY}{name}.second");
    gone(into, &other)?;
    let path = into.path().join(&other);
    linkat(folder.handle(), file, into.handle(), other.as_str(), AtFlags::empty()).during("link", path)?;
    into.rename(&other, name)?;
    // To rename one name of a file over another one does nothing.
    gone(into, &other)
}

fn leads(folder: &Home, name: &str) -> Option<String> {
    readlinkat(folder.handle(), name, Vec::new()).ok()?.into_string().ok()
}

/// The file of that name, if there is one: device and inode.
fn inode(folder: &Home, name: &str) -> Result<Option<(u32, u32, u64)>, StorageError> {
    match statx(folder.handle(), name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
        Ok(found) => Ok(Some((found.stx_dev_major, found.stx_dev_minor, found.stx_ino))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e).during("look at", folder.path().join(name)),
    }
}
