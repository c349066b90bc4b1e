//! Disks that are chains of qcow2 files (contract TM 2.1).
//!
//! ```text
//! a copy                                       the image itself
//! VM/disk.0      -> disk.0.snap/0              VM/disk.0       -> DS/<name>.snap/<highest>
//! VM/disk.0.snap/                              DS/<name>.snap/
//!    0           backing: DS/<name>               0            -> DS/<name>
//!    disk.0.snap -> .                             <name>.snap  -> .
//! ```
//!
//! The copy stands on what the image holds last: on `DS/<name>.snap/<highest>` where a guest that had the image itself left
//! layers, and the snapshots that they were made for are gone. oned gives nobody the image itself while a VM has a copy, so
//! that layer stays as it is.
//!
//! The links to the directory itself make backing names such as `disk.0.snap/0` mean the same inside the directory and
//! beside it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags, mkdirat, openat, readlinkat, symlinkat};
use rustix::io::Errno;

use super::file::grown;
use super::header::Header;
use super::stack;
use crate::host::{
    CHAIN_LIMIT, During, Home, ImageFile, Inside, Size, StorageError, Tool, Worker, expect_room, too_long,
};
use crate::place::FileName;

/// The first file of a disk's chain in its snapshot directory.
const FIRST: &str = "0";
const FIRST_NUMBER: u32 = 0;

/// Gives the VM a qcow2 file of its own: over the image, with more words for `qemu-img create`, or one that needs no
/// other.
pub(crate) fn copy(
    image: &ImageFile,
    home: &Home,
    name: &FileName,
    size: Size,
    overlay: Option<&[String]>,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let snap = name.snap();
    let made = home.temporary(name);
    mkdirat(home.handle(), made.name(), Mode::from_raw_mode(0o777)).during("make", made.path())?;
    worker.at("snapshot directory made");
    make_first(image, &made.path(), size, overlay, worker)?;
    let inner = directory(home, made.name())?;
    symlinkat(".", &inner, snap.as_str()).during("make", made.path().join(&snap))?;
    rustix::fs::fsync(&inner).during("write out", made.path())?;
    worker.at("snapshot directory complete");

    let old = stack::put(made, home, name, worker)?;
    stack::lead(home, name, FIRST_NUMBER, old, worker)
}

/// Makes the first file of a chain in a directory that has no other.
fn make_first(
    image: &ImageFile,
    directory: &Path,
    size: Size,
    overlay: Option<&[String]>,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let path = directory.join(FIRST);
    let source = image.path();
    // What has no qcow2 header is raw, as for the stock scripts; QEMU is never left to guess.
    let format = if image.header().is_some() { "qcow2" } else { "raw" };
    let wanted = grown(image, size.grown_mb)?;
    let grows = wanted > image.virtual_size();
    // Only an overlay can be made larger than what it is made from, and then not with room set aside.
    let at_once = grows && overlay.is_some() && size.sparse;
    match overlay {
        Some(_) if image.files() >= CHAIN_LIMIT => return Err(too_long(source.to_owned())),
        Some(options) => {
            let mut tool = Tool::qemu_img("create", &path);
            tool.args(["-f", "qcow2", "-F", format, "-b"]).arg(source).args(options).arg(&path);
            if at_once {
                tool.arg(wanted.to_string());
            }
            tool.run(worker)?;
        }
        None => {
            let mut tool = Tool::convert((source, format), &path, worker)?;
            tool.args(["-O", "qcow2"]);
            if !size.sparse {
                tool.args(["-S", "0"]);
            }
            tool.arg(source).arg(&path).run(worker)?;
        }
    }
    worker.at("first file made");
    if grows && !at_once {
        let mut tool = Tool::qemu_img("resize", &path);
        tool.args(["-f", "qcow2"]);
        if !size.sparse {
            let made = File::open(&path).during("open", &path)?;
            expect_room(&made, &path, wanted - image.virtual_size())?;
            tool.arg("--preallocation=falloc");
        }
        tool.arg(&path).arg(wanted.to_string()).run(worker)?;
        worker.at("grown");
    }
    let backing = overlay.map(|_| source.display().to_string());
    check(image, &path, Header { size: wanted, backing })?;
    worker.at("data on disk");
    Ok(())
}

/// Compares what was made with what was wanted, and brings it to the disk.
fn check(image: &ImageFile, path: &Path, wanted: Header) -> Result<(), StorageError> {
    let file = File::options().read(true).write(true).open(path).during("open", path)?;
    file.sync_all().during("write out", path)?;
    let found = Header::read(&file).map_err(|why| StorageError::Image { path: path.to_owned(), why })?;
    match found {
        Some(found) if found.backing == wanted.backing && rounds_to(wanted.size, found.size) => Ok(()),
        found => {
            let why = format!("{found:?}, where {wanted:?} was wanted");
            Err(StorageError::Incomplete { path: image.path().to_owned(), why })
        }
    }
}

/// `qemu-img` makes sizes whole sectors of 512 bytes.
fn rounds_to(wanted: u64, found: u64) -> bool {
    found.checked_sub(wanted).is_some_and(|more| more < 512)
}

/// The newest file of an image's chain, for a disk that will be opened at `disk`; the image's snapshot directory is made
/// where it is missing.
pub(crate) fn newest(image: &ImageFile, disk: &Path, worker: &Worker<'_>) -> Result<PathBuf, StorageError> {
    let place = image.place();
    let snap = place.name().snap();
    let path = place.datastore().path().join(&snap);
    match mkdirat(CWD, &path, Mode::from_raw_mode(0o777)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e).during("make", &path),
    }
    worker.at("image's snapshot directory made");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat(CWD, &path, flags, Mode::empty()).during("open", &path)?;
    match symlinkat(".", &handle, snap.as_str()) {
        Ok(()) => {}
        Err(Errno::EXIST) if leads_to_itself(&handle, &snap) => {}
        Err(Errno::EXIST) => return Err(StorageError::SelfLink { path: path.join(&snap) }),
        Err(e) => return Err(e).during("make", path.join(&snap)),
    }
    worker.at("image's link to itself made");
    let newest = match highest(&handle, &path)? {
        Some(newest) => newest,
        None => {
            symlinkat(place.path(), &handle, FIRST).during("make", path.join(FIRST))?;
            worker.at("image's first file linked");
            FIRST.to_owned()
        }
    };
    rustix::fs::fsync(&handle).during("write out", &path)?;
    let newest = path.join(newest);
    // The image's own chain was looked at; that of its newest snapshot is another one.
    let inside = Inside::new(place.datastore())?;
    let real = inside.resolve(&newest, &newest.display().to_string())?;
    inside.check_chain(disk, &real)?;
    Ok(newest)
}

fn leads_to_itself(directory: &OwnedFd, name: &str) -> bool {
    readlinkat(directory, name, Vec::new()).is_ok_and(|target| target.to_bytes() == b".")
}

/// The entry that is the highest number: snapshot numbers only grow (contract TM 2.1).
fn highest(directory: &OwnedFd, path: &Path) -> Result<Option<String>, StorageError> {
    let mut highest: Option<(u64, String)> = None;
    let mut entries = Dir::read_from(directory).during("read", path)?;
    while let Some(entry) = entries.read() {
        let entry = entry.during("read", path)?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
        if let Some(number) = name.parse().ok().filter(|_| digits)
            && highest.as_ref().is_none_or(|(so_far, _)| number > *so_far)
        {
            highest = Some((number, name.to_owned()));
        }
    }
    Ok(highest.map(|(_, name)| name))
}

fn directory(home: &Home, name: &str) -> Result<OwnedFd, StorageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(home.handle(), name, flags, Mode::empty()).during("open", home.path().join(name))
}
