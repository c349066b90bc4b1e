//! All files of a disk, copied to another directory: how an image with its layers comes to a host's own disk, and how it
//! comes back (contract TM 2.1, `.ssh`).
//!
//! ```text
//! DS/<name>                                    VM/disk.0      -> disk.0.snap/2
//! DS/<name>.snap/0 -> DS/<name>    copied      VM/disk.0.snap/0
//!                1 backing 0      <------->                   1   backing: disk.0.snap/0
//!                2 backing 1                                  2   backing: disk.0.snap/1
//! ```
//!
//! Only names are made anew; a layer that stands on a file beside the stack is given that file's data, for the other end
//! has none of it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, mkdirat, symlinkat};

use super::header::Header;
use super::layers::{Base, Layers};
use crate::host::{
    During, Home, ImageFile, StorageError, Temporary, Tool, Worker, copy_data, remove, same_data,
};
use crate::place::FileName;

/// Whether what was copied is compared with what it was copied from: where the one goes, the other must be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Lengths and headers.
    Shape,
    /// Every byte.
    Bytes,
}

/// How a file stands to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stands {
    /// By itself.
    Alone,
    /// On another one of the stack, which is a qcow2 file or not.
    On { number: u32, qcow2: bool },
    /// On a file that is none of the stack's.
    Outside,
}

/// One file.
struct Part {
    number: u32,
    path: PathBuf,
    file: File,
    stands: Stands,
}

/// Files of one disk that have numbers: its layers, or its snapshots that are whole copies.
pub(crate) struct Stack {
    parts: Vec<Part>,
    /// Snapshots that are in another layer than that of their number.
    moved: Vec<(u32, u32)>,
    /// Whether they are a chain.
    chain: bool,
}

impl Stack {
    /// The layers of an image, the image itself where it has none.
    ///
    /// # Errors
    /// They are no chain.
    pub(crate) fn of_image(image: &ImageFile) -> Result<Self, StorageError> {
        if let Some(layers) = Layers::of_image(image.place())? {
            return Stack::of_layers(&layers);
        }
        let path = image.place().path();
        let file = image.file().try_clone().during("open", &path)?;
        let backed = image.header().is_some_and(|header| header.backing.is_some());
        let stands = if backed { Stands::Outside } else { Stands::Alone };
        let parts = vec![Part { number: 0, path, file, stands }];
        Ok(Stack { parts, moved: Vec::new(), chain: true })
    }

    /// A disk's layers.
    ///
    /// # Errors
    /// The newest one is not the one that the guest writes: the other end would go on with the wrong one.
    pub(crate) fn of_layers(layers: &Layers) -> Result<Self, StorageError> {
        let mut parts = Vec::new();
        for (number, layer) in layers.all() {
            let path = layers.path(number);
            let file = layers.open(number)?;
            let stands = match &layer.base {
                Base::Nothing => Stands::Alone,
                Base::Layer(below) => {
                    let qcow2 = layers.get(*below).is_some_and(|layer| layer.qcow2);
                    Stands::On { number: *below, qcow2 }
                }
                Base::File { .. } => Stands::Outside,
            };
            parts.push(Part { number, path, file, stands });
        }
        let stack = Stack { parts, moved: layers.moved().collect(), chain: true };
        if stack.newest() == Some(layers.active()) {
            return Ok(stack);
        }
        let path = layers.path(layers.active());
        let why = "a newer layer lies beside it, which the disk does not lead to: look at both and remove the one that is \
                   not the VM's";
        Err(StorageError::Disk { path, why: why.to_owned() })
    }

    /// Snapshots that are whole copies, in a directory that may not be there.
    ///
    /// # Errors
    /// One of them is no file.
    pub(crate) fn of_copies(folder: Option<&Home>) -> Result<Self, StorageError> {
        let mut parts = Vec::new();
        if let Some(folder) = folder {
            for name in folder.names()? {
                let Some(number) = name.parse::<u32>().ok().filter(|number| number.to_string() == name)
                else {
                    continue;
                };
                let (path, file) = (folder.path().join(&name), folder.open(&name)?);
                parts.push(Part { number, path, file, stands: Stands::Alone });
            }
        }
        parts.sort_by_key(|part| part.number);
        Ok(Stack { parts, moved: Vec::new(), chain: false })
    }

    /// The highest number: of a chain, the layer that the guest goes on with.
    pub(crate) fn newest(&self) -> Option<u32> {
        self.parts.iter().map(|part| part.number).max()
    }

    /// Copies all of it into a new directory of `home` that is to become `<name>.snap`; layers name each other by
    /// `prefix` and number.
    ///
    /// # Errors
    /// What could not be copied; what was made goes with the value.
    pub(crate) fn copy<'h>(
        &self,
        home: &'h Home,
        name: &FileName,
        prefix: &str,
        proof: Proof,
        worker: &Worker<'_>,
    ) -> Result<Temporary<'h>, StorageError> {
        let made = home.temporary(name);
        mkdirat(home.handle(), made.name(), Mode::from_raw_mode(0o777)).during("make", made.path())?;
        worker.at("snapshot directory made");
        let missing = || StorageError::NotADirectory { path: made.path() };
        let folder = home.folder(made.name())?.ok_or_else(missing)?;
        for part in &self.parts {
            part.copy(&folder, prefix, proof, worker)?;
        }
        let snap = name.snap();
        for (id, place) in &self.moved {
            let word = format!("{}/{place}\n", home.path().join(&snap).display());
            let word_name = format!("{id}.current");
            let path = folder.path().join(&word_name);
            let mut file = folder.create(&word_name, 0o666)?;
            std::io::Write::write_all(&mut file, word.as_bytes()).during("write", &path)?;
            file.sync_all().during("write out", &path)?;
        }
        if self.chain {
            symlinkat(".", folder.handle(), snap.as_str()).during("make", folder.path().join(&snap))?;
        }
        folder.sync()?;
        worker.at("snapshot directory complete");
        Ok(made)
    }
}

impl Part {
    fn copy(
        &self,
        folder: &Home,
        prefix: &str,
        proof: Proof,
        worker: &Worker<'_>,
    ) -> Result<(), StorageError> {
        let name = self.number.to_string();
        let path = folder.path().join(&name);
        match &self.stands {
            Stands::Outside => self.flatten(&path, proof, worker)?,
            Stands::Alone => drop(copy_file(&self.file, &self.path, folder, &name, proof, worker)?),
            Stands::On { number, qcow2 } => {
                drop(copy_file(&self.file, &self.path, folder, &name, proof, worker)?);
                let below = format!("{prefix}{number}");
                let mut tool = Tool::qemu_img("rebase", &path);
                // Only the name is written anew: what has it is, or will be, the same bytes.
                tool.args(["-u", "-f", "qcow2", "-F", if *qcow2 { "qcow2" } else { "raw" }, "-b"]);
                tool.arg(&below).arg(&path).run(worker)?;
                worker.at("layer named anew");
                self.check(&path, Some(below))?;
            }
        }
        Ok(())
    }

    /// The layer and all that it stands on, as one file.
    fn flatten(&self, path: &Path, proof: Proof, worker: &Worker<'_>) -> Result<(), StorageError> {
        let mut tool = Tool::convert((&self.path, "qcow2"), path, worker)?;
        tool.args(["-U", "-O", "qcow2"]).arg(&self.path).arg(path).run(worker)?;
        worker.at("layer made whole");
        if proof == Proof::Bytes {
            let mut tool = Tool::qemu_img("compare", &self.path);
            tool.args(["-U", "-f", "qcow2", "-F", "qcow2"]).arg(&self.path).arg(path).run(worker)?;
        }
        self.check(path, None)
    }

    /// Compares sizes and the name below, and brings the file to the disk.
    fn check(&self, path: &Path, backing: Option<String>) -> Result<(), StorageError> {
        let read = |file: &File, path: &Path| {
            let header =
                Header::read(file).map_err(|why| StorageError::Image { path: path.to_owned(), why })?;
            let why = "it is no qcow2 image".to_owned();
            header.ok_or(StorageError::Image { path: path.to_owned(), why })
        };
        let made = File::options().read(true).write(true).open(path).during("open", path)?;
        made.sync_all().during("write out", path)?;
        let wanted = Header { backing, ..read(&self.file, &self.path)? };
        let found = read(&made, path)?;
        if found == wanted {
            return Ok(());
        }
        let why = format!("{found:?}, where {wanted:?} was wanted");
        Err(StorageError::Incomplete { path: self.path.clone(), why })
    }
}

/// Copies a file into a directory, to the disk; `from` is its path, for messages.
///
/// # Errors
/// It can't be copied, or the copy is another one.
pub(crate) fn copy_file(
    file: &File,
    from: &Path,
    folder: &Home,
    name: &str,
    proof: Proof,
    worker: &Worker<'_>,
) -> Result<File, StorageError> {
    let found = file.metadata().during("look at", from)?;
    let path = folder.path().join(name);
    let made = folder.create(name, found.mode() & 0o777)?;
    worker.at("file made");
    copy_data((from, file), &made, found.len(), worker).during("copy", from)?;
    made.sync_all().during("write out", &path)?;
    let same = match proof {
        Proof::Shape => made.metadata().during("look at", &path)?.len() == found.len(),
        Proof::Bytes => same_data(file, &made).during("compare", from)?,
    };
    if !same {
        return Err(StorageError::Incomplete { path: from.to_owned(), why: "it is not the same".to_owned() });
    }
    worker.at("data on disk");
    Ok(made)
}

/// Puts a copied directory in the place of `<name>.snap`; what had the name is beside until the value goes.
///
/// # Errors
/// It could not be renamed.
pub(crate) fn put<'h>(
    made: Temporary<'h>,
    home: &'h Home,
    name: &FileName,
    worker: &Worker<'_>,
) -> Result<Temporary<'h>, StorageError> {
    if home.exchange(made.name(), &name.snap())? {
        worker.at("snapshot directories exchanged");
        return Ok(made);
    }
    let old = aside(home, name, worker)?;
    match made.publish(&name.snap()) {
        Ok(()) => worker.at("snapshot directory in place"),
        Err(error) => {
            // As it was; if there was none, there is none.
            let _ = old.publish(&name.snap());
            return Err(error);
        }
    }
    Ok(old)
}

/// Sets `<name>.snap` aside, if it is there. A directory can't be renamed over one that is not empty.
///
/// # Errors
/// It could not be renamed.
pub(crate) fn aside<'h>(
    home: &'h Home,
    name: &FileName,
    worker: &Worker<'_>,
) -> Result<Temporary<'h>, StorageError> {
    let old = home.temporary(name);
    match home.rename(&name.snap(), old.name()) {
        Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        other => other?,
    }
    worker.at("old snapshot directory aside");
    Ok(old)
}

/// Makes `name` a link to a layer of its own, removes what was set aside, and brings all of it to the disk.
///
/// # Errors
/// The link could not be made; what it led to before is still beside.
pub(crate) fn lead(
    home: &Home,
    name: &FileName,
    number: u32,
    old: Temporary<'_>,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let link = home.temporary(name);
    let target = format!("{}/{number}", name.snap());
    symlinkat(target, home.handle(), link.name()).during("make", link.path())?;
    worker.at("link made");
    link.publish(name.as_str())?;
    worker.at("disk in place");
    // The names come to the disk before what had them goes.
    home.sync()?;
    remove(home.handle(), old.name(), &old.path())?;
    worker.at("old snapshots removed");
    home.sync()
}
