//! The tree at the destination, made entry by entry from what arrives; through no link, and nowhere but below the
//! directory that it is made in.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, chmodat, fchmod, futimens, mkdirat,
    openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

use super::error::CarryError;
use super::frame::{About, Hash, RUN};
use super::grains::{SEGMENT, Segment, Whole, segments};
use crate::host::{During, Home, ORIGIN, StorageError, remove};
use crate::place::TEMPORARY;

/// Deepest tree that is carried: as for removal.
pub const DEPTH: usize = 32;
/// Most entries of a tree: their names are held in memory, a directory's at a time.
pub const ENTRIES: usize = 100_000;
/// Bytes after which what was written is brought to the disk: the last sync must not be one of all there is.
const SYNC: u64 = 256 << 20;

/// Whether a name at the top of a VM's directory is one of ours, which are no part of what is carried.
pub fn is_ours(name: &[u8]) -> bool {
    name == ORIGIN.as_bytes() || name.starts_with(TEMPORARY.as_bytes())
}

struct Directory {
    handle: OwnedFd,
    path: PathBuf,
    mode: u16,
}

/// A tree that is being made.
pub struct Tree<'a> {
    top: &'a Home,
    /// Some of it was made before.
    resumed: bool,
    below: Vec<Directory>,
    entries: usize,
    file: Option<Arriving>,
}

/// A file that is being written.
struct Arriving {
    file: File,
    path: PathBuf,
    about: About,
    /// What is there of an earlier try was dealt with.
    ready: bool,
    /// Nothing before this comes any more.
    at: u64,
    segment: Segment,
    /// The segment that bytes were written in and whose end was not said yet.
    open: Option<u64>,
    whole: Whole,
    unsynced: u64,
}

const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

impl<'a> Tree<'a> {
    /// In that directory, where an earlier try may have made some of it.
    pub fn new(top: &'a Home, resumed: bool) -> Self {
        Tree { top, resumed, below: Vec::new(), entries: 0, file: None }
    }

    fn handle(&self) -> std::os::fd::BorrowedFd<'_> {
        self.below.last().map_or(self.top.handle(), |directory| directory.handle.as_fd())
    }

    fn path(&self, name: &[u8]) -> PathBuf {
        let parent = self.below.last().map_or(self.top.path(), |directory| directory.path.as_path());
        parent.join(String::from_utf8_lossy(name).as_ref())
    }

    /// An entry may begin: no file is open, its name is none of ours, there is room.
    fn entry(&mut self, name: &[u8]) -> Result<PathBuf, CarryError> {
        self.entries += 1;
        if self.file.is_some() || (self.below.is_empty() && is_ours(name)) || self.entries > ENTRIES {
            return Err(CarryError::Order("an entry out of place"));
        }
        Ok(self.path(name))
    }

    /// A directory begins.
    pub fn enter(&mut self, mode: u16, name: &[u8]) -> Result<(), CarryError> {
        let path = self.entry(name)?;
        if self.below.len() + 1 >= DEPTH {
            return Err(StorageError::Deep { path }.into());
        }
        // Ours alone until it is whole; its own permissions might keep us out.
        match mkdirat(self.handle(), name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) if self.resumed => self.unlock(name, &path)?,
            made => made.during("make", &path)?,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(self.handle(), name, flags, Mode::empty()).during("open", &path)?;
        self.below.push(Directory { handle, path, mode });
        Ok(())
    }

    /// Takes an entry that an earlier try completed back to permissions that let us in. Nothing here is anybody else's.
    fn unlock(&self, name: &[u8], path: &Path) -> Result<(), CarryError> {
        let stat = statat(self.handle(), name, AtFlags::SYMLINK_NOFOLLOW).during("look at", path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            let all = Mode::from_raw_mode(0o700);
            chmodat(self.handle(), name, all, AtFlags::empty()).during("change", path)?;
        }
        Ok(())
    }

    /// It ends.
    pub fn leave(&mut self) -> Result<(), CarryError> {
        let directory = self.below.pop().filter(|_| self.file.is_none());
        let Directory { handle, path, mode } = directory.ok_or(CarryError::Order("an end out of place"))?;
        fchmod(&handle, Mode::from_raw_mode(mode.into())).during("change", &path)?;
        Ok(rustix::fs::fsync(&handle).or_else(unless_unsupported).during("write out", &path)?)
    }

    /// A link, as it is: it is never followed here.
    pub fn link(&mut self, name: &[u8], target: &[u8]) -> Result<(), CarryError> {
        let path = self.entry(name)?;
        match symlinkat(target, self.handle(), name) {
            Err(Errno::EXIST) if self.resumed => {
                let there = readlinkat(self.handle(), name, Vec::new()).during("look at", &path)?;
                if there.as_bytes() == target { Ok(()) } else { Err(CarryError::Order("another link")) }
            }
            made => Ok(made.during("make", &path)?),
        }
    }

    /// A file begins. In a tree of an earlier try: the hashes of the segments that are there, by one call of `prove`
    /// each; it is then to be told by [`go_on`](Tree::go_on) what of it counts.
    pub fn file(
        &mut self,
        about: About,
        name: &[u8],
        prove: &mut dyn FnMut(Hash) -> Result<(), CarryError>,
    ) -> Result<Vec<(Hash, bool)>, CarryError> {
        let path = self.entry(name)?;
        let (flags, mode) = (FILE | OFlags::RDWR, Mode::from_raw_mode(0o600));
        let new = openat(self.handle(), name, flags | OFlags::CREATE | OFlags::EXCL, mode);
        let (file, there) = match new {
            Err(Errno::EXIST) if self.resumed => {
                self.unlock(name, &path)?;
                let file =
                    File::from(openat(self.handle(), name, flags, Mode::empty()).during("open", &path)?);
                let found = file.metadata().during("look at", &path)?;
                if !found.is_file() {
                    return Err(StorageError::NotAFile { path }.into());
                }
                (file, found.len())
            }
            made => (File::from(made.during("make", &path)?), 0),
        };
        let whole = match there {
            // Longer than it is to be: it is not known what that is.
            length if length > about.size => 0,
            length if length == about.size => segments(length),
            length => length / SEGMENT,
        };
        let mut proofs = Vec::new();
        let mut buffer = Vec::new();
        for index in 0..whole {
            let proof = Segment::of(&file, index, about.size, &mut buffer).during("read", &path)?;
            prove(proof.0)?;
            proofs.push(proof);
        }
        let (segment, whole) = (Segment::default(), Whole::new(about.size));
        let ready = !self.resumed;
        self.file =
            Some(Arriving { file, path, about, ready, at: 0, segment, open: None, whole, unsynced: 0 });
        Ok(proofs)
    }

    /// What comes next of a file that was proved in part: the segment of that number. Anything from there on is
    /// forgotten. About how many bytes of data stay.
    pub fn go_on(&mut self, from: u64, proofs: &[(Hash, bool)]) -> Result<u64, CarryError> {
        let it = self.file.as_mut().filter(|it| !it.ready).ok_or(CarryError::Order("bytes of no file"))?;
        it.ready = true;
        let count = usize::try_from(from).ok().filter(|count| *count <= proofs.len());
        let count = count.ok_or(CarryError::Order("a segment that was not proved"))?;
        for (index, proof) in (0..).zip(proofs.iter().take(count)) {
            it.whole.segment(index, *proof);
        }
        it.at = it.about.size.min(from.saturating_mul(SEGMENT));
        it.file.set_len(it.at).during("shorten", &it.path)?;
        let kept = proofs.iter().take(count).filter(|(_, any)| *any).count();
        Ok(it.at.min(u64::try_from(kept).unwrap_or(0).saturating_mul(SEGMENT)))
    }

    /// Bytes of the file.
    pub fn run(&mut self, at: u64, bytes: &[u8]) -> Result<(), CarryError> {
        let it = self.file.as_mut().filter(|it| it.ready).ok_or(CarryError::Order("bytes of no file"))?;
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let end = at.checked_add(length).filter(|end| *end <= it.about.size && bytes.len() <= RUN);
        let end = end.ok_or(CarryError::Order("bytes outside of their file"))?;
        let index = at / SEGMENT;
        let same = it.open.is_none_or(|open| open == index) && (end - 1) / SEGMENT == index;
        if at < it.at || !same {
            return Err(CarryError::Order("bytes out of order"));
        }
        it.file.write_all_at(bytes, at).during("write", &it.path)?;
        it.segment.run(at, bytes);
        it.open = Some(index);
        it.at = end;
        it.unsynced += length;
        if it.unsynced >= SYNC {
            it.unsynced = 0;
            it.file.sync_data().during("write out", &it.path)?;
        }
        Ok(())
    }

    /// A segment's end: what was written of it must be what was sent.
    pub fn segment(&mut self, index: u64, sent: Hash) -> Result<(), CarryError> {
        let it = self.file.as_mut().ok_or(CarryError::Order("a segment of no file"))?;
        if it.open.take() != Some(index) {
            return Err(CarryError::Order("a segment out of order"));
        }
        let ended = it.segment.end();
        if ended.0 != sent {
            let what = format!("its {} MiB from byte {}", SEGMENT >> 20, index * SEGMENT);
            return Err(CarryError::Differs { file: it.path.display().to_string(), what });
        }
        it.whole.segment(index, ended);
        it.at = it.at.max((index + 1).saturating_mul(SEGMENT).min(it.about.size));
        Ok(())
    }

    /// The file's end: it is brought to the disk.
    pub fn end_file(&mut self, sent: Hash) -> Result<(), CarryError> {
        let it = self.file.take().filter(|it| it.ready).ok_or(CarryError::Order("the end of no file"))?;
        if it.open.is_some() {
            return Err(CarryError::Order("a file that ends inside of a segment"));
        }
        if it.whole.end() != sent {
            let what = "the hash of the whole file".to_owned();
            return Err(CarryError::Differs { file: it.path.display().to_string(), what });
        }
        it.file.set_len(it.about.size).during("lengthen", &it.path)?;
        fchmod(&it.file, Mode::from_raw_mode(it.about.mode.into())).during("change", &it.path)?;
        let (seconds, nanos) = it.about.written;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
        };
        futimens(&it.file, &times).during("change", &it.path)?;
        Ok(it.file.sync_all().during("write out", &it.path)?)
    }

    /// The tree's end: it is brought to the disk.
    pub fn end(self) -> Result<(), CarryError> {
        if self.file.is_some() || !self.below.is_empty() {
            return Err(CarryError::Order("an end inside of a directory"));
        }
        Ok(self.top.sync()?)
    }
}

fn unless_unsupported(error: Errno) -> Result<(), Errno> {
    // Some network file systems can't do that to a directory; they write entries through.
    if matches!(error, Errno::INVAL | Errno::NOTSUP) { Ok(()) } else { Err(error) }
}

/// Writes the word of a copy's origin, in place of one that was cut short.
pub fn mark(top: &Home, text: &str) -> Result<(), CarryError> {
    use std::io::Write;
    let path = top.path().join(ORIGIN);
    remove(top.handle(), ORIGIN, &path)?;
    let mut file = top.create(ORIGIN, 0o600)?;
    file.write_all(text.as_bytes()).during("write", &path)?;
    Ok(file.sync_all().during("write out", &path)?)
}
