//! What a disk that is a chain of qcow2 files is made of, read from the files themselves (contract TM 2.1, *Layouts*).
//!
//! ```text
//! VM/disk.0 -> disk.0.snap/2        the active layer: what the guest writes
//! VM/disk.0.snap/2  backing 1
//!                  1  backing 0     snapshot 1
//!                  0  backing IMG   snapshot 0
//!                  7.current        what was layer 7 is in another one now
//! ```
//!
//! A value of this type has been checked: the active layer is one of the disk's own, every layer's backing file is
//! another layer or an image of a datastore, no layer backs itself, and nothing leads anywhere else. Whatever is not so
//! is refused with its name, before anything is changed.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::header::Header;
use crate::chain::{Beneath, Chain};
use crate::host::Kept;
use crate::host::{CHAIN_LIMIT, Datastore, During, Home, Inside, StorageError};
use crate::place::{DatastoreDir, Image, TEMPORARY, VmFile, plain};

/// What a layer stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Base {
    /// Nothing.
    Nothing,
    /// Another layer.
    Layer(u32),
    /// A file of an image's datastore.
    File {
        /// Its name as it is written in the layer.
        name: String,
        /// Whether it is a qcow2 file.
        qcow2: bool,
    },
}

/// One file of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    /// What it stands on.
    pub base: Base,
    /// Whether it is a qcow2 file; the first layer of a persistent disk is its image, whatever that is.
    pub qcow2: bool,
}

/// The layers of one disk.
pub(crate) struct Layers {
    /// The VM's directory, with the link that is the disk.
    pub home: Home,
    /// The directory of the layers.
    pub folder: Home,
    /// The disk, or the image: for messages.
    pub disk: PathBuf,
    /// What stands before a layer's number where it is named: in a link, as a backing file.
    prefix: String,
    layers: BTreeMap<u32, Layer>,
    moved: BTreeMap<u32, u32>,
    active: u32,
}

impl Layers {
    /// Reads a disk.
    ///
    /// # Errors
    /// The disk is not there, or is not such a chain.
    pub(crate) fn read(file: &VmFile, kept: &Kept) -> Result<Self, StorageError> {
        let no_disk = || StorageError::NoDisk { path: file.path() };
        let datastore = Datastore::open(file.dir().datastore())?;
        let home = datastore.home(file.dir())?.ok_or_else(no_disk)?;
        let link = match home.link(file.name().as_str()) {
            Err(StorageError::NotALink { path }) => {
                let why = "it is a file by itself, not a link to the newest of its layers".to_owned();
                return Err(StorageError::Disk { path, why });
            }
            other => other?.ok_or_else(no_disk)?,
        };
        let (folder, prefix) = match kept {
            Kept::Beside => (home.folder(&file.name().snap())?, format!("{}/", file.name().snap())),
            Kept::WithImage(image) => {
                let snap = image.name().snap();
                let path = image.datastore().path().join(&snap);
                (Datastore::open(image.datastore())?.folder(&snap)?, format!("{}/", path.display()))
            }
        };
        let astray = |why: String| StorageError::Disk { path: file.path(), why };
        let folder = folder.ok_or_else(|| astray(format!("it has no layers: there is no {prefix}")))?;
        let active = number_after(&prefix, &link).or_else(|| number_by_link(&folder, &link));
        let active = active.ok_or_else(|| astray(format!("it leads to {link}, which is no layer of it")))?;
        let mut read = Layers {
            disk: file.path(),
            home,
            folder,
            prefix,
            layers: BTreeMap::new(),
            moved: BTreeMap::new(),
            active,
        };
        read.fill(file.dir().datastore(), kept)?;
        if !read.layers.contains_key(&active) {
            return Err(astray(format!("it leads to {link}, which is not there")));
        }
        Ok(read)
    }

    /// Reads the layers of a persistent image that no VM has; none if it has no layers. Its active layer is the newest
    /// one, which the next VM will be given.
    ///
    /// # Errors
    /// Something in its snapshot directory is no such chain.
    pub(crate) fn of_image(image: &Image) -> Result<Option<Self>, StorageError> {
        let datastore = Datastore::open(image.datastore())?;
        let Some(folder) = datastore.folder(&image.name().snap())? else { return Ok(None) };
        let newest = folder.names()?.iter().filter_map(|name| number(name)).max();
        let Some(active) = newest else { return Ok(None) };
        let prefix = format!("{}/", folder.path().display());
        let (layers, moved) = (BTreeMap::new(), BTreeMap::new());
        let mut read = Layers {
            disk: image.path(),
            home: datastore.into_folder(),
            folder,
            prefix,
            layers,
            moved,
            active,
        };
        read.fill(image.datastore(), &Kept::WithImage(image.clone()))?;
        Ok(Some(read))
    }

    /// `beside` is a datastore beside which others lie.
    fn fill(&mut self, beside: &DatastoreDir, kept: &Kept) -> Result<(), StorageError> {
        for name in self.folder.names()? {
            if name.starts_with(TEMPORARY) {
                continue;
            }
            if let Some(number) = number(&name) {
                let layer = self.layer(&name, beside, kept)?;
                self.layers.insert(number, layer);
            } else if let Some(number) = name.strip_suffix(".current").and_then(number) {
                let place = self.pointer(&name)?;
                self.moved.insert(number, place);
            }
        }
        for start in self.layers.keys() {
            self.check_end(*start)?;
        }
        Ok(())
    }

    fn layer(&self, name: &str, beside: &DatastoreDir, kept: &Kept) -> Result<Layer, StorageError> {
        let path = self.folder.path().join(name);
        let opened = match self.folder.link(name) {
            Err(StorageError::NotALink { .. }) => self.folder.open(name)?,
            other => {
                // The first layer of a persistent disk is the image itself.
                let target = other?.unwrap_or_default();
                let Kept::WithImage(image) = kept else {
                    return Err(StorageError::Disk {
                        path,
                        why: format!("it is a link to {target}, not a layer"),
                    });
                };
                let named = target.parse().is_ok_and(|target| plain(&target) == image.to_string());
                if !named && !is_one_file(target.as_ref(), &image.path()) {
                    return Err(StorageError::Disk {
                        path,
                        why: format!("it is a link to {target}, not to {image}"),
                    });
                }
                image_file(image)?
            }
        };
        let header = Header::read(&opened).map_err(|why| StorageError::Image { path: path.clone(), why })?;
        let Some(header) = header else { return Ok(Layer { base: Base::Nothing, qcow2: false }) };
        let Some(backing) = header.backing else { return Ok(Layer { base: Base::Nothing, qcow2: true }) };
        // Stock's deletion of a snapshot writes the whole path (W17).
        let whole = format!("{}/", self.folder.path().display());
        // And `mvds.ssh` of stock the directory's own name, which leads by the directory's link to itself.
        let own = self.folder.path().file_name().map(|name| format!("{}/", name.to_string_lossy()));
        let names = [Some(&self.prefix), Some(&whole), own.as_ref()];
        let found = names.into_iter().flatten().find_map(|prefix| number_after(prefix, &backing));
        let base = match found.or_else(|| number_by_link(&self.folder, &backing)) {
            Some(number) => Base::Layer(number),
            None => Base::File { qcow2: external(&path, &backing, beside)?, name: backing },
        };
        Ok(Layer { base, qcow2: true })
    }

    /// Which layer holds now what was in the one that `name` is about.
    fn pointer(&self, name: &str) -> Result<u32, StorageError> {
        let path = self.folder.path().join(name);
        let mut text = String::new();
        self.folder.open(name)?.take(4096).read_to_string(&mut text).during("read", &path)?;
        let last = text.trim().rsplit('/').next().and_then(number);
        last.ok_or_else(|| StorageError::Disk { path, why: format!("it names no layer: {text:?}") })
    }

    fn check_end(&self, start: u32) -> Result<(), StorageError> {
        let mut at = start;
        for _ in 0..=self.layers.len() {
            let path = || self.folder.path().join(start.to_string());
            match self.layers.get(&at).map(|layer| &layer.base) {
                Some(Base::Layer(next)) => at = *next,
                Some(Base::Nothing | Base::File { .. }) => return Ok(()),
                None => {
                    let why = format!("it stands on layer {at}, which is not there");
                    return Err(StorageError::Disk { path: path(), why });
                }
            }
        }
        let path = self.folder.path().join(start.to_string());
        Err(StorageError::Disk { path, why: "it stands on itself".to_owned() })
    }

    /// How many files the guest's disk is made of.
    ///
    /// # Errors
    /// What they stand on is not what it was when they were read.
    pub(crate) fn files(&self) -> Result<usize, StorageError> {
        let (mut at, mut count) = (self.active, 0);
        // Each layer was found to end.
        while let Some(layer) = self.layers.get(&at) {
            count += 1;
            match &layer.base {
                Base::Layer(next) => at = *next,
                Base::Nothing => break,
                Base::File { name, .. } => return Ok(count + beneath(name)?),
            }
        }
        Ok(count)
    }

    /// The layer that the guest writes.
    pub(crate) fn active(&self) -> u32 {
        self.active
    }

    /// The layer that holds snapshot `id`; none if there is none.
    pub(crate) fn of_snapshot(&self, id: u32) -> Option<u32> {
        crate::chain::place(&self.moved, id).filter(|place| self.layers.contains_key(place))
    }

    /// Whether a layer is a link to the image itself.
    pub(crate) fn is_the_image(&self, number: u32) -> bool {
        matches!(self.folder.link(&number.to_string()), Ok(Some(_)))
    }

    /// Whether snapshot `id` is in another layer than that of its number.
    pub(crate) fn has_moved(&self, id: u32) -> bool {
        self.moved.contains_key(&id)
    }

    /// A layer.
    pub(crate) fn get(&self, number: u32) -> Option<&Layer> {
        self.layers.get(&number)
    }

    /// The snapshots that are in a layer: that of its number, and those that were merged into it.
    pub(crate) fn snapshots_in(&self, layer: u32) -> Vec<u32> {
        let own = crate::chain::place(&self.moved, layer).filter(|place| *place == layer);
        let moved = self.moved.iter().filter(|(_, place)| **place == layer).map(|(id, _)| *id);
        own.into_iter().chain(moved).collect()
    }

    /// All layers, the oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &Layer)> {
        self.layers.iter().map(|(number, layer)| (*number, layer))
    }

    /// Snapshots that are in another layer than that of their number, and in which.
    pub(crate) fn moved(&self) -> impl Iterator<Item = (u32, u32)> {
        self.moved.iter().map(|(id, place)| (*id, *place))
    }

    /// Opens a layer.
    pub(crate) fn open(&self, number: u32) -> Result<std::fs::File, StorageError> {
        if !self.is_the_image(number) {
            return self.folder.open(&number.to_string());
        }
        // Its link was looked at when the layers were read.
        let path = self.path(number);
        std::fs::File::open(&path).during("open", path)
    }

    /// Leaves word that snapshot `id` is in layer `place` now.
    ///
    /// # Errors
    /// The word can't be written.
    pub(crate) fn leave_word(&self, id: u32, place: u32) -> Result<(), StorageError> {
        let name = format!("{id}.current");
        self.folder.sweep(&name)?;
        let made = self.folder.temporary(&name);
        let mut file = made.create(0o666)?;
        let text = format!("{}\n", self.path(place).display());
        file.write_all(text.as_bytes()).during("write", made.path())?;
        file.sync_all().during("write out", made.path())?;
        made.publish(&name)
    }

    /// What was read, for a plan.
    pub(crate) fn describe(&self) -> Chain {
        let beneath = |layer: &Layer| match &layer.base {
            Base::Nothing => Beneath::Nothing,
            Base::Layer(number) => Beneath::Layer(*number),
            Base::File { name, .. } => Beneath::File(name.clone()),
        };
        Chain {
            directory: self.folder.path().display().to_string(),
            active: self.active,
            layers: self.layers.iter().map(|(number, layer)| (*number, beneath(layer))).collect(),
            moved: self.moved.clone(),
        }
    }

    /// Layers with a higher number.
    pub(crate) fn beyond(&self, number: u32) -> Vec<u32> {
        self.layers.keys().copied().filter(|layer| *layer > number).collect()
    }

    /// The layers that stand on this one.
    pub(crate) fn above(&self, number: u32) -> Vec<u32> {
        let stands = |(above, layer): (&u32, &Layer)| (layer.base == Base::Layer(number)).then_some(*above);
        self.layers.iter().filter_map(stands).collect()
    }

    /// How a layer is named in a link and as a backing file. Relative for a disk of the VM's own, so that its directory
    /// can move; as a whole path for a persistent one, which QEMU opens by a name in another directory.
    pub(crate) fn name(&self, number: u32) -> String {
        format!("{}{number}", self.prefix)
    }

    /// A layer's path.
    pub(crate) fn path(&self, number: u32) -> PathBuf {
        self.folder.path().join(number.to_string())
    }
}

/// A whole number as we and oned print it.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The layer that a name is of. oned's paths have doubled slashes; and a relative name grows by the directory's link to
/// itself whenever libvirt takes out the layer between.
fn number_after(prefix: &str, text: &str) -> Option<u32> {
    let text = text.replace("//", "/");
    let mut rest = text.strip_prefix(prefix)?;
    while let Some(shorter) = rest.strip_prefix(prefix) {
        rest = shorter;
    }
    number(rest)
}

/// The layer that a whole name is of which leads to the same directory by a link: an admin moved the datastores, and left a
/// link where they were.
fn number_by_link(folder: &Home, text: &str) -> Option<u32> {
    let path = Path::new(text);
    let number = number(path.file_name()?.to_str()?)?;
    let parent = path.parent().filter(|parent| parent.is_absolute())?;
    is_one_file(parent, folder.path()).then_some(number)
}

/// Whether two whole paths, with their links followed, are of one file.
fn is_one_file(one: &Path, other: &Path) -> bool {
    one.is_absolute()
        && one.canonicalize().is_ok_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// What stands behind the root of the datastores in a name that leads there by a link of the root's.
fn by_link(path: &Path, root: &Path) -> Option<String> {
    let root = root.canonicalize().ok()?;
    let above = path.ancestors().find(|above| above.canonicalize().is_ok_and(|above| above == root))?;
    path.strip_prefix(above).ok()?.to_str().map(str::to_owned)
}

/// Opens an image that a layer is a link to.
fn image_file(image: &Image) -> Result<std::fs::File, StorageError> {
    let path = image.path();
    let real = Inside::new(image.datastore())?.resolve(&path, &image.to_string())?;
    std::fs::File::open(&real).during("open", path)
}

/// How many files a backing file that is no layer is made of; its place has been looked at.
fn beneath(name: &str) -> Result<usize, StorageError> {
    let (mut next, mut count) = (Some(PathBuf::from(name)), 0);
    while let Some(path) = next.take().filter(|_| count < CHAIN_LIMIT) {
        let file = std::fs::File::open(&path).during("open", &path)?;
        let header = Header::read(&file).map_err(|why| StorageError::Image { path: path.clone(), why })?;
        next = header.and_then(|header| header.backing).and_then(|name| Some(path.parent()?.join(name)));
        count += 1;
    }
    Ok(count)
}

/// Checks a backing file that is no layer: it must be a file of an image's datastore beside this one. Says whether it
/// is a qcow2 file.
fn external(layer: &std::path::Path, backing: &str, datastore: &DatastoreDir) -> Result<bool, StorageError> {
    let outside = || StorageError::Outside {
        path: layer.to_owned(),
        target: backing.to_owned(),
        datastore: datastore.clone(),
    };
    let path: causeway_core::names::DiskPath = backing.parse().map_err(|_| outside())?;
    let text = plain(&path);
    let root = format!("{}/", datastore.root().display());
    let below = match text.strip_prefix(&root) {
        Some(below) => below.to_owned(),
        None => by_link(path.path().as_ref(), datastore.root()).ok_or_else(outside)?,
    };
    // An image, or a layer of one; a disk of another VM lies deeper in its datastore.
    let parts: Vec<&str> = below.split('/').collect();
    let id = match parts[..] {
        [id, _] => number(id),
        [id, snap, layer] if snap.ends_with(".snap") && number(layer).is_some() => number(id),
        _ => None,
    };
    let id = id.ok_or_else(outside)?;
    let inside = Inside::new(&datastore.sibling(id))?;
    let (opened, real) = inside.backing(layer, path.as_str())?;
    Ok(inside.check_chain(&opened, &real)?.is_some())
}
