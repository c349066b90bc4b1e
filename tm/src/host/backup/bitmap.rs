//! The bitmaps in a qcow2 image that remember what a guest has changed: `one-VM-INCREMENT` (contract TM 2.3).

use std::path::Path;

use serde::Deserialize;

use super::super::{StorageError, Tool, Worker};

/// Most that is read of what `qemu-img` says of an image, bytes.
const ANSWER: u64 = 4 << 20;

#[derive(Debug, Clone, Deserialize)]
struct Bitmap {
    name: String,
    flags: Vec<String>,
}

/// Sees to it that a bitmap is there and has missed nothing.
///
/// # Errors
/// It is not, or it was open when a machine or a QEMU died: it then says nothing any more.
pub(super) fn usable(path: &Path, name: &str, worker: &Worker<'_>) -> Result<(), StorageError> {
    let found = bitmaps(path, worker)?.into_iter().find(|bitmap| bitmap.name == name);
    let why = match found {
        Some(found) if !found.flags.iter().any(|flag| flag == "in-use") => return Ok(()),
        Some(_) => {
            format!("its bitmap {name} was in use when its guest died, so nobody knows what has changed")
        }
        None => {
            format!("it has no bitmap {name}, which would tell what has changed since the last increment")
        }
    };
    let why = format!("{why}: begin a new chain, by `onevm backup --reset`");
    Err(StorageError::Disk { path: path.to_owned(), why })
}

/// From now on `name` remembers what changes. Of the other increments' bitmaps only `kept` stays: the next backup begins
/// with it if this one does not arrive.
pub(super) fn begin(
    path: &Path,
    kept: Option<&str>,
    name: &str,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    forget(path, kept, worker)?;
    worker.at("older bitmaps removed");
    edit("--add", path, name, worker)?;
    worker.at("bitmap added");
    Ok(())
}

/// Removes the bitmaps of all increments, but for `kept`.
fn forget(path: &Path, kept: Option<&str>, worker: &Worker<'_>) -> Result<(), StorageError> {
    for bitmap in bitmaps(path, worker)? {
        if is_ours(&bitmap.name) && Some(bitmap.name.as_str()) != kept {
            edit("--remove", path, &bitmap.name, worker)?;
            worker.at("a bitmap removed");
        }
    }
    Ok(())
}

/// Removes the bitmaps of all increments: the chain that they belong to has ended.
pub(in crate::host) fn forget_all(path: &Path, worker: &Worker<'_>) -> Result<(), StorageError> {
    forget(path, None, worker)
}

fn edit(what: &str, path: &Path, name: &str, worker: &Worker<'_>) -> Result<(), StorageError> {
    let mut tool = Tool::named("qemu-img bitmap", worker.qemu_img, path);
    tool.args(["bitmap", what, "-f", "qcow2"]).arg(path).arg(name).run(worker)
}

fn bitmaps(path: &Path, worker: &Worker<'_>) -> Result<Vec<Bitmap>, StorageError> {
    let mut tool = Tool::named("qemu-img info", worker.qemu_img, path);
    tool.args(["info", "-U", "-f", "qcow2", "--output=json"]).arg(path);
    let ended = tool.output(worker, ANSWER)?;
    let unread = |why: String| StorageError::Image { path: path.to_owned(), why };
    if !ended.status.success() {
        return Err(unread(format!("qemu-img info: {}", ended.err.trim())));
    }
    told(&ended.out).map_err(unread)
}

/// The bitmaps of an image, as `qemu-img info` tells of it.
fn told(out: &[u8]) -> Result<Vec<Bitmap>, String> {
    let said: serde_json::Value = serde_json::from_slice(out).map_err(|e| e.to_string())?;
    match said.pointer("/format-specific/data/bitmaps") {
        None => Ok(Vec::new()),
        Some(list) => Vec::deserialize(list).map_err(|e| format!("its bitmaps: {e}")),
    }
}

/// A bitmap of OpenNebula's, of this VM or of one that had the image before.
fn is_ours(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts = name.strip_prefix("one-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(vm, increment)| number(vm) && number(increment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_tools_bitmaps_are_left_alone() {
        for name in ["one-7-0", "one-12-345"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["one-7", "one--1", "one-7-0-1", "bitmap0", "ones-7-0", "one-7-x"] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn fuzz_what_is_told_of_an_image() {
        crate::seeded::fuzz("qemu", |bytes| {
            for bitmap in told(bytes).unwrap_or_default().iter().filter(|bitmap| is_ours(&bitmap.name)) {
                // It becomes a word of a command.
                assert!(bitmap.name.bytes().all(|b| b.is_ascii_digit() || b"one-".contains(&b)));
            }
        });
    }
}
