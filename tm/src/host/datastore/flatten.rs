//! `snap_flatten`: an image becomes what one of its snapshots is, and has no snapshots any more.
//!
//! ```text
//! IMAGE.snap/flat.ID     the whole content, complete            nobody looks at it yet
//!     = IMAGE.snap/N+1   the same file, the newest layer        whoever opens the image gets it from here on
//!     = IMAGE            the same file, in place of the old one
//! the other layers go, N+1 goes, flat.ID goes, the directory goes
//! ```
//!
//! Where snapshots are whole copies, the one is renamed to the image. At any moment the newest layer, or the image where there is none, stands on nothing that is about to go. Three names
//! of one file cost no copy; whoever finds `flat.ID` goes on from there.

use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, linkat, renameat, unlinkat};
use rustix::io::Errno;

use super::super::make_alike;
use super::super::snapshot::not_in_use;
use super::{Datastore, During, Home, StorageError, Stored, Worker, convert, remove};
use crate::place::{FileName, Image};
use crate::store::header::Header;
use crate::store::layers::Layers;

/// Flattens an image.
///
/// # Errors
/// There is no such snapshot, or the image is open; it is then as it was.
pub(super) fn flatten(image: &Image, chain: bool, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let folder = Datastore::open(image.datastore())?.into_folder();
    let Some(snapshots) = folder.folder(&image.name().snap())? else {
        // Done by a call whose end nobody learnt of; or there never was one.
        return Ok(());
    };
    let last = if chain {
        let flat = format!("flat.{id}");
        if !content(&folder, image, &snapshots, id, &flat, worker)? {
            return gone(&folder, image, &snapshots, &[], worker);
        }
        let number = lead(&snapshots, &flat, worker)?;
        take_place(&folder, image, &snapshots, &flat, worker)?;
        vec![number, flat]
    } else {
        match copies(&folder, image, &snapshots, id, worker)? {
            Some(mark) => vec![mark],
            None => Vec::new(),
        }
    };
    gone(&folder, image, &snapshots, &last, worker)
}

/// Moves a snapshot that is a whole copy into the image's place. A mark, which is returned, tells a second try that the
/// copy is not lost but in its place; none where there was nothing to move.
fn copies(
    folder: &Home,
    image: &Image,
    snapshots: &Home,
    id: u32,
    worker: &Worker<'_>,
) -> Result<Option<String>, StorageError> {
    let (name, copy, mark) = (image.name(), id.to_string(), format!("flat.{id}"));
    let marked = has(snapshots, &mark)?;
    if !has(snapshots, &copy)? {
        return match marked || numbers(snapshots)?.is_empty() {
            true => Ok(marked.then_some(mark)),
            false => Err(no_snapshot(image, id)),
        };
    }
    if has(folder, name.as_str())? {
        not_in_use(&image.path())?;
    }
    worker.at("image looked at");
    as_the_image(image, snapshots, &copy)?;
    if !marked {
        snapshots.create(&mark, 0o666)?;
        snapshots.sync()?;
        worker.at("marked");
    }
    renameat(snapshots.handle(), copy.as_str(), folder.handle(), name.as_str())
        .during("replace", image.path())?;
    worker.at("image in place");
    folder.sync()?;
    Ok(Some(mark))
}

fn no_snapshot(image: &Image, id: u32) -> StorageError {
    StorageError::Disk { path: image.path(), why: format!("there is no snapshot {id} of it") }
}

/// Makes the whole content of a snapshot; `false` where there is no layer at all.
///
/// One that an earlier try made counts only if that try had put it in the image's place: until then a guest may have
/// written to it, and it can be made anew. From then on the layers stand on another image than they did.
fn content(
    folder: &Home,
    image: &Image,
    snapshots: &Home,
    id: u32,
    flat: &str,
    worker: &Worker<'_>,
) -> Result<bool, StorageError> {
    let there = has(snapshots, flat)?;
    if there && same(snapshots, flat, folder, image.name().as_str())? {
        return Ok(true);
    }
    let Some(layers) = Layers::of_image(image)? else { return Ok(there) };
    let layer = layers.of_snapshot(id).ok_or_else(|| no_snapshot(image, id))?;
    not_in_use(&layers.path(layers.active()))?;
    worker.at("image looked at");
    let path = layers.path(layer);
    let opened = std::fs::File::open(&path).during("open", &path)?;
    let header = Header::read(&opened).map_err(|why| StorageError::Image { path: path.clone(), why })?;
    let why = || StorageError::Image { path: path.clone(), why: "it is no qcow2 layer".to_owned() };
    let size = header.ok_or_else(why)?.size;
    let name: FileName = flat.parse().map_err(|_| why())?;
    snapshots.sweep(&name)?;
    worker.at("leftovers removed");
    let made = snapshots.temporary(&name);
    convert((&path, "qcow2"), size, (&made, Stored::Qcow2), true, worker)?;
    as_the_image(image, snapshots, made.name())?;
    made.publish(flat)?;
    worker.at("content complete");
    snapshots.sync()?;
    Ok(true)
}

/// Gives a file that is to become the image the permissions and the owner that the image has.
fn as_the_image(image: &Image, snapshots: &Home, name: &str) -> Result<(), StorageError> {
    match std::fs::metadata(image.path()) {
        Ok(model) => make_alike(&snapshots.open(name)?, &snapshots.path().join(name), &model),
        // It is lost, or between two names.
        Err(_) => Ok(()),
    }
}

/// Makes the content the newest layer; its number.
fn lead(snapshots: &Home, content: &str, worker: &Worker<'_>) -> Result<String, StorageError> {
    let numbers = numbers(snapshots)?;
    for number in &numbers {
        if same(snapshots, content, snapshots, &number.to_string())? {
            return Ok(number.to_string());
        }
    }
    let next = numbers.last().map_or(Some(0), |last| last.checked_add(1));
    let why =
        || StorageError::Image { path: snapshots.path().to_owned(), why: "no number is left".to_owned() };
    let next = next.ok_or_else(why)?.to_string();
    let path = snapshots.path().join(&next);
    linkat(snapshots.handle(), content, snapshots.handle(), next.as_str(), AtFlags::empty())
        .during("make", path)?;
    worker.at("content leads");
    snapshots.sync()?;
    Ok(next)
}

/// Puts the content in the image's place.
fn take_place(
    folder: &Home,
    image: &Image,
    snapshots: &Home,
    content: &str,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let name = image.name();
    // Of two names of one file a renaming would leave both.
    if !same(snapshots, content, folder, name.as_str())? {
        if has(folder, name.as_str())? {
            not_in_use(&image.path())?;
        }
        folder.sweep(name)?;
        let made = folder.temporary(name);
        let to = (folder.handle(), made.name());
        linkat(snapshots.handle(), content, to.0, to.1, AtFlags::empty()).during("make", made.path())?;
        worker.at("link made");
        made.publish(name.as_str())?;
    }
    worker.at("image in place");
    folder.sync()
}

/// Removes the snapshots, those named `last` at last, and their directory.
fn gone(
    folder: &Home,
    image: &Image,
    snapshots: &Home,
    last: &[String],
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let others = snapshots.names()?.into_iter().filter(|name| !last.contains(name));
    for name in others.chain(last.iter().cloned()) {
        remove(snapshots.handle(), &name, &snapshots.path().join(&name))?;
        worker.at("snapshot removed");
    }
    match unlinkat(folder.handle(), image.name().snap().as_str(), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e).during("remove", snapshots.path()),
    }
    worker.at("snapshot directory removed");
    folder.sync()
}

/// The numbers of the layers or copies, in order.
fn numbers(snapshots: &Home) -> Result<Vec<u32>, StorageError> {
    let number = |name: &String| name.parse().ok().filter(|number: &u32| number.to_string() == *name);
    let mut numbers: Vec<u32> = snapshots.names()?.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether there is a file of that name.
fn has(at: &Home, name: &str) -> Result<bool, StorageError> {
    match at.open(name) {
        Ok(_) => Ok(true),
        Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
        // A link: the first layer of a chain is one.
        Err(StorageError::Io { source, .. }) if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// Whether two names are of one file.
fn same(one: &Home, a: &str, other: &Home, b: &str) -> Result<bool, StorageError> {
    if !has(one, a)? || !has(other, b)? {
        return Ok(false);
    }
    let number = |at: &Home, name: &str| {
        let path = at.path().join(name);
        at.open(name)?.metadata().during("look at", path).map(|found| (found.dev(), found.ino()))
    };
    Ok(number(one, a)? == number(other, b)?)
}
