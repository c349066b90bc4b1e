//! An image, opened: proved to be a file of its datastore before anything reads it.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

use super::home::Datastore;
use super::{During, StorageError};
use crate::place::{DatastoreDir, Image};
use crate::store::header::{Header, expect_whole};
use crate::store::layers::Layers;

/// Most files of a chain that a guest is started on. QEMU itself opens a few hundred.
pub(crate) const CHAIN_LIMIT: usize = 256;

/// How an image is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Byte by byte, whatever they are: a guest may have written a header of any kind into a raw disk.
    Bytes,
    /// By QEMU, which follows what a qcow2 header names.
    Chain,
    /// As `Chain`, of what a guest wrote to it last: that is in the newest layer, also where its snapshots are gone.
    Newest,
}

/// An open image.
pub(crate) struct ImageFile {
    place: Image,
    path: PathBuf,
    file: File,
    length: u64,
    header: Option<Header>,
    files: usize,
}

impl ImageFile {
    /// Opens an image, and sees to it that neither a link nor a backing file leads out of its datastore: an image is
    /// somebody's upload, and QEMU opens whatever its header names.
    pub(crate) fn open(place: &Image, reading: Reading) -> Result<Self, StorageError> {
        // Says whether it is the datastore or the image that is missing.
        Datastore::open(place.datastore())?;
        let inside = Inside::new(place.datastore())?;
        let mut path = place.path();
        let mut real = inside.resolve(&path, &place.to_string())?;
        if reading == Reading::Newest
            && let Some(layers) = Layers::of_image(place)?
        {
            let layer = layers.path(layers.active());
            let newest = inside.resolve(&layer, &layer.display().to_string())?;
            // The image is a link to it where it came back from a host's own disk.
            if newest != real {
                (path, real) = (layer, newest);
            }
        }
        let file = regular(&real)?;
        let length = file.metadata().during("look at", &real)?.len();
        let (header, files) = match reading {
            Reading::Bytes => (None, 1),
            Reading::Chain | Reading::Newest => inside.follow(&path, &real)?,
        };
        Ok(ImageFile { place: place.clone(), path, file, length, header, files })
    }

    /// Where it is.
    pub(crate) fn place(&self) -> &Image {
        &self.place
    }

    /// By which name it is to be opened: that of the image, or of its newest layer.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many files its chain has.
    pub(crate) fn files(&self) -> usize {
        self.files
    }

    /// Its bytes.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// How many bytes the file has.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Its header, if it is a qcow2 image.
    pub(crate) fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Whether it needs no other file.
    pub(crate) fn is_whole(&self) -> bool {
        self.header.as_ref().is_none_or(|header| header.backing.is_none())
    }

    /// The size that a guest sees, bytes.
    pub(crate) fn virtual_size(&self) -> u64 {
        self.header.as_ref().map_or(self.length, |header| header.size)
    }
}

/// A datastore's directory with its links resolved, as the one place where an image's parts may lie.
pub(crate) struct Inside {
    datastore: DatastoreDir,
    real: PathBuf,
}

impl Inside {
    pub(crate) fn new(datastore: &DatastoreDir) -> Result<Self, StorageError> {
        let real = datastore.path().canonicalize().during("look at", datastore.path())?;
        Ok(Inside { datastore: datastore.clone(), real })
    }

    /// The path with its links resolved, if it stays inside; `named` is how the file is spoken of.
    pub(crate) fn resolve(&self, path: &Path, named: &str) -> Result<PathBuf, StorageError> {
        let real = path.canonicalize().during("open", path)?;
        if real.starts_with(&self.real) {
            Ok(real)
        } else {
            let target = real.display().to_string();
            Err(StorageError::Outside { path: named.into(), target, datastore: self.datastore.clone() })
        }
    }

    /// Follows a file's chain of backing files to its end, and returns the file's own header if it has one.
    ///
    /// `opened` is the name by which QEMU will open the first file: it takes relative names from there, not from where
    /// the links of that name lead.
    pub(crate) fn check_chain(&self, opened: &Path, real: &Path) -> Result<Option<Header>, StorageError> {
        Ok(self.follow(opened, real)?.0)
    }

    /// As [`check_chain`](Inside::check_chain); and how many files there are.
    pub(crate) fn follow(&self, opened: &Path, real: &Path) -> Result<(Option<Header>, usize), StorageError> {
        let mut seen: Vec<PathBuf> = Vec::new();
        let mut first = None;
        let mut next = Some((opened.to_owned(), real.to_owned()));
        while let Some((opened, real)) = next.take() {
            if seen.len() == CHAIN_LIMIT && !seen.contains(&real) {
                return Err(too_long(seen.swap_remove(0)));
            }
            if seen.contains(&real) {
                let why = format!("its chain of backing files does not end: it comes to {}", real.display());
                return Err(StorageError::Image { path: opened, why });
            }
            let file = regular(&real)?;
            let header = Header::read(&file).and_then(|header| expect_whole(&file).map(|()| header));
            let header = header.map_err(|why| StorageError::Image { path: real.clone(), why })?;
            let backing = header.as_ref().and_then(|header| header.backing.as_deref());
            next = backing.map(|name| self.backing(&opened, name)).transpose()?;
            if seen.is_empty() {
                first = header;
            }
            seen.push(real);
        }
        Ok((first, seen.len()))
    }

    /// The file that an image opened by that name names as its backing file: as QEMU will open it, and with its links
    /// resolved.
    pub(crate) fn backing(&self, image: &Path, name: &str) -> Result<(PathBuf, PathBuf), StorageError> {
        let outside = || StorageError::Outside {
            path: image.to_owned(),
            target: name.to_owned(),
            datastore: self.datastore.clone(),
        };
        // `nbd://`, `json:{...}`: QEMU takes a colon before the first slash for a protocol.
        if name.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err(outside());
        }
        let opened = image.parent().ok_or_else(outside)?.join(name);
        match self.resolve(&opened, &image.display().to_string()) {
            Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(StorageError::Image { path: image.to_owned(), why: not_there(name, &opened) })
            }
            real => Ok((opened, real?)),
        }
    }
}

/// That a chain has more files than a guest is started on.
pub(crate) fn too_long(path: PathBuf) -> StorageError {
    let why = format!(
        "its chain would have more than {CHAIN_LIMIT} files: it has too many snapshots, delete some of them first"
    );
    StorageError::Image { path, why }
}

/// That the backing file of that name is not where it is looked for.
fn not_there(name: &str, opened: &Path) -> String {
    let why = format!("it stands on {name}, and there is no {}", opened.display());
    if name.starts_with('/') {
        return why;
    }
    // QEMU takes it from the directory of the link, too.
    format!(
        "{why}: a name without a directory is looked for beside whatever leads to the image; write the whole path of \
         its backing file into it, by `qemu-img rebase -u`, or make it whole, by `qemu-img convert`"
    )
}

/// Opens a regular file by its resolved path.
fn regular(path: &Path) -> Result<File, StorageError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty()).during("open", path)?);
    if file.metadata().during("look at", path)?.is_file() {
        Ok(file)
    } else {
        Err(StorageError::NotAFile { path: path.to_owned() })
    }
}
