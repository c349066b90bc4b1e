//! The tree at the source: what it is, and each of its entries in an order that depends on their names alone.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};

use super::error::CarryError;
use super::frame::{About, Entry};
use super::order::Spot;
use super::tree::{DEPTH, ENTRIES, is_ours};
use crate::host::{During, Home, StorageError};

/// What there is, in the order in which it is sent.
pub enum Found<'a> {
    /// A directory's beginning or end, or a link.
    Entry(Entry<'a>),
    /// A regular file.
    File {
        /// What it is.
        about: About,
        /// Its number on its file system: a file put in another's place is another one.
        inode: u64,
        /// Bytes that may be data.
        data: u64,
        /// Its name.
        name: &'a [u8],
        /// Where to open it.
        parent: BorrowedFd<'a>,
        /// For messages.
        path: &'a Path,
    },
}

/// What a tree is, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Changes when anything in the tree does.
    pub fingerprint: String,
    /// About how many bytes of data.
    pub bytes: u64,
}

/// Looks at every entry, and opens none.
///
/// # Errors
/// As [`walk`].
pub fn summary(home: &Home, from: &Spot) -> Result<Summary, CarryError> {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0_u64;
    walk(home, from, &mut |found| {
        let mut note = |kind: u8, parts: &[&[u8]]| {
            hasher.update(&[kind]);
            for part in parts {
                hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
                hasher.update(part);
            }
        };
        match found {
            Found::Entry(Entry::Enter { mode, name }) => note(1, &[name, &mode.to_be_bytes()]),
            Found::Entry(Entry::Leave) => note(2, &[]),
            Found::Entry(Entry::Link { name, target }) => note(3, &[name, target]),
            Found::File { about, inode, data, name, .. } => {
                bytes += data;
                let (mode, size) = (about.mode.to_be_bytes(), about.size.to_be_bytes());
                let (seconds, nanos) = (about.written.0.to_be_bytes(), about.written.1.to_be_bytes());
                note(4, &[name, &mode, &size, &seconds, &nanos, &inode.to_be_bytes()]);
            }
        }
        Ok(())
    })?;
    let fingerprint = hasher.finalize().to_hex().chars().take(32).collect();
    Ok(Summary { fingerprint, bytes })
}

/// Calls `each` with every entry below `home`; through no link. Sockets and pipes are left out: nobody listens on them
/// any more.
///
/// # Errors
/// What the kernel says, a tree that is too deep or too large, a device, or what `each` says.
pub fn walk(
    home: &Home,
    from: &Spot,
    each: &mut dyn FnMut(Found<'_>) -> Result<(), CarryError>,
) -> Result<(), CarryError> {
    let mut walk = Walk { from, left: ENTRIES, each };
    walk.directory(home.handle(), home.path(), 0)
}

struct Walk<'a> {
    from: &'a Spot,
    left: usize,
    each: &'a mut dyn FnMut(Found<'_>) -> Result<(), CarryError>,
}

impl Walk<'_> {
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &Path, depth: usize) -> Result<(), CarryError> {
        if depth >= DEPTH {
            return Err(StorageError::Deep { path: path.to_owned() }.into());
        }
        let mut names = Vec::new();
        let mut reader = Dir::read_from(directory).during("read", path)?;
        while let Some(found) = reader.read() {
            let found = found.during("read", path)?;
            let name = found.file_name().to_bytes();
            if name == b"." || name == b".." || (depth == 0 && is_ours(name)) {
                continue;
            }
            self.left =
                self.left.checked_sub(1).ok_or_else(|| CarryError::Many(Box::new(self.from.clone())))?;
            names.push(name.to_owned());
        }
        names.sort_unstable();
        names.iter().try_for_each(|name| self.entry(directory, name, path, depth))
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &Path,
        depth: usize,
    ) -> Result<(), CarryError> {
        let path = path.join(String::from_utf8_lossy(name).as_ref());
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).during("look at", &path)?;
        let mode = u16::try_from(stat.st_mode & 0o777).unwrap_or(0);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
                let data = size.min(blocks.saturating_mul(512));
                let about = About { mode, size, written: written(&stat) };
                let inode = stat.st_ino;
                (self.each)(Found::File { about, inode, data, name, parent, path: &path })
            }
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new()).during("look at", &path)?;
                (self.each)(Found::Entry(Entry::Link { name, target: target.as_bytes() }))
            }
            FileType::Directory => {
                (self.each)(Found::Entry(Entry::Enter { mode, name }))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = openat(parent, name, flags, Mode::empty()).during("open", &path)?;
                self.directory(inner.as_fd(), &path, depth + 1)?;
                (self.each)(Found::Entry(Entry::Leave))
            }
            FileType::Socket | FileType::Fifo => Ok(()),
            _ => Err(StorageError::NotAFile { path }.into()),
        }
    }
}

fn written(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

/// Opens a file that was looked at, through no link, and makes sure that it is still that one.
///
/// # Errors
/// It can't be opened, or is another one by now.
pub fn open(
    (parent, name, path): (BorrowedFd<'_>, &[u8], &Path),
    (about, inode): (About, u64),
    from: &Spot,
) -> Result<File, CarryError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(parent, name, flags, Mode::empty()).during("open", path)?;
    let stat = rustix::fs::fstat(&file).during("look at", path)?;
    let same = stat.st_ino == inode
        && u64::try_from(stat.st_size) == Ok(about.size)
        && written(&stat) == about.written;
    if !same {
        return Err(CarryError::Changed(Box::new(from.clone())));
    }
    // More is read ahead; a file system that can't is none to give up for.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
    Ok(File::from(file))
}
