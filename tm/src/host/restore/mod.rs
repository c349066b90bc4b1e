//! `restore`: what was fetched of a backup becomes a VM's disk (contract TM 2.3).
//!
//! ```text
//! look     is it open? then nothing is fetched
//! stage    the bytes beside the disk, to the disk, looked at: a whole qcow2 image, by its check    .causeway-tmp.disk.0.restored
//! put      grown to the disk's size, plain bytes again if the disk is of such; then it is the disk; then all else goes
//! drop     what was staged goes, which `put` has only given further names
//! ```
//!
//! Nothing of the VM is touched before all that belongs to it has been fetched and looked at (W7). The new disk takes
//! the old one's place by one rename, and what it stood on goes after that: whoever is killed in between has either disk,
//! whole (W27).

mod chain;
mod tpm;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::backup::forget_bitmaps;
use super::datastore::{Stored, convert, pour};
use super::snapshot::not_in_use;
use super::{
    Datastore, During, Home, Inside, Kept, StorageError, Temporary, Tool, Worker, expect_qcow2, lock, remove,
};
use crate::place::{FileName, TEMPORARY, VmDir, VmFile};
use crate::store::file::MIB;
use crate::store::header::Header;

/// The directory of a TPM's state in a VM's.
const TPM: &str = "tpm";

/// A disk that is to be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreDisk {
    /// The VM's disk.
    pub file: VmFile,
    /// Where its files lie.
    pub kept: Kept,
    /// Whether it is qcow2; else it is plain bytes.
    pub qcow2: bool,
    /// What oned says of its size, MiB: it may have grown since the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_mb: Option<u64>,
}

/// What is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Staged {
    /// A disk.
    Disk(RestoreDisk),
    /// The state of the TPM of the VM that has this directory.
    Tpm(VmDir),
}

/// A part of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RestoreCall {
    /// Sees to it that nobody has open what is to be replaced, before anything is fetched.
    Look(Staged),
    /// Makes what was fetched what the VM has.
    Put(Staged),
    /// Removes what was fetched.
    Drop(Staged),
}

impl Staged {
    fn dir(&self) -> &VmDir {
        match self {
            Staged::Disk(disk) => disk.file.dir(),
            Staged::Tpm(dir) => dir,
        }
    }

    /// The directory that it lies in: that of what it replaces.
    fn folder(&self) -> Result<Home, StorageError> {
        if let Staged::Disk(RestoreDisk { kept: Kept::WithImage(image), .. }) = self {
            return Ok(Datastore::open(image.datastore())?.into_folder());
        }
        let dir = self.dir();
        let home = Datastore::open(dir.datastore())?.home(dir)?;
        home.ok_or_else(|| StorageError::NoDisk { path: dir.path() })
    }

    /// The name of what it replaces.
    fn base(&self) -> String {
        match self {
            Staged::Disk(RestoreDisk { kept: Kept::WithImage(image), .. }) => image.name().to_string(),
            Staged::Disk(disk) => disk.file.name().to_string(),
            Staged::Tpm(_) => TPM.to_owned(),
        }
    }

    /// Its own name: the same in every step of a plan.
    fn name(&self) -> String {
        named(&self.base())
    }

    fn locked(&self, worker: &Worker<'_>) -> Result<lock::Locks, StorageError> {
        match self {
            Staged::Disk(disk) => lock::of_disk(worker, &disk.file, &disk.kept),
            Staged::Tpm(dir) => lock::hold(worker, dir.vm(), None),
        }
    }
}

fn named(base: &str) -> String {
    format!("{TEMPORARY}{base}.restored")
}

/// The name in a VM's directory of what was fetched for one of its disks.
pub(crate) fn staged(disk: &FileName) -> String {
    named(disk.as_str())
}

/// Makes plain bytes of a qcow2 image that was staged in `home`; how many.
pub(crate) fn qcow2_to_raw(
    home: &Home,
    staged: &str,
    made: &Temporary<'_>,
    worker: &Worker<'_>,
) -> Result<u64, StorageError> {
    let path = home.path().join(staged);
    if !home.has(staged)? {
        return Err(not_fetched(path));
    }
    let size = size(&path)?;
    convert((&path, "qcow2"), size, (made, Stored::Raw), true, worker)?;
    Ok(size)
}

fn not_fetched(path: PathBuf) -> StorageError {
    StorageError::Disk { path, why: "what was fetched for it is not there: restore it again".to_owned() }
}

/// Brings bytes in, and looks at them. They get their name when they have been found whole.
pub(super) fn stage(staged: &Staged, stream: &mut dyn Read, worker: &Worker<'_>) -> Result<(), StorageError> {
    let _locks = staged.locked(worker)?;
    let folder = staged.folder()?;
    worker.at("locked");
    let name: FileName =
        staged.base().parse().map_err(|_| StorageError::NoDisk { path: folder.path().into() })?;
    folder.sweep(&name)?;
    worker.at("leftovers removed");
    let made = folder.temporary(format!("{name}.fetched"));
    // As every image: the umask says who else may read it.
    let copy = made.create(0o666)?;
    let length = pour(stream, &copy, true).during("receive", made.path())?;
    copy.set_len(length).during("grow", made.path())?;
    copy.sync_all().during("write out", made.path())?;
    worker.at("data written");
    if let Staged::Disk(_) = staged {
        look(&copy, &made.path(), worker)?;
        worker.at("image checked");
    }
    made.publish(&staged.name())?;
    worker.at("staged");
    folder.sync()
}

/// A disk in a backup is a qcow2 image that stands alone and lacks nothing.
fn look(copy: &File, path: &Path, worker: &Worker<'_>) -> Result<(), StorageError> {
    let image = |why: String| StorageError::Image { path: path.to_owned(), why };
    let header = Header::read(copy).map_err(image)?;
    let header = header.ok_or_else(|| image("what was fetched is no qcow2 image".to_owned()))?;
    if let Some(backing) = header.backing {
        return Err(image(format!("what was fetched is not whole: it stands on {backing}")));
    }
    let mut tool = Tool::qemu_img("check", path);
    tool.allow(super::datastore::LEAKS).args(["-f", "qcow2"]).arg(path).run(worker)
}

/// Performs one call.
///
/// # Errors
/// [`StorageError`]; the call can be repeated.
pub(super) fn perform(call: &RestoreCall, worker: &Worker<'_>) -> Result<(), StorageError> {
    let staged = match call {
        RestoreCall::Look(staged) | RestoreCall::Put(staged) | RestoreCall::Drop(staged) => staged,
    };
    let _locks = staged.locked(worker)?;
    worker.at("locked");
    let folder = staged.folder()?;
    match (call, staged) {
        (RestoreCall::Look(_), Staged::Disk(disk)) => not_open(disk, &folder),
        (RestoreCall::Look(_), Staged::Tpm(_)) => Ok(()),
        (RestoreCall::Drop(_), _) => {
            worker.at("directory found");
            remove(folder.handle(), &staged.name(), &folder.path().join(staged.name()))?;
            worker.at("staged file removed");
            // What a session that broke off did not live to remove.
            folder.sweep(format!("{}.fetched", staged.base()))?;
            worker.at("leftovers removed");
            folder.sync()
        }
        (RestoreCall::Put(_), Staged::Disk(disk)) => put_disk(disk, staged, &folder, worker),
        (RestoreCall::Put(_), Staged::Tpm(_)) => tpm::put(staged, &folder, worker),
    }
}

fn put_disk(
    disk: &RestoreDisk,
    staged: &Staged,
    folder: &Home,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let (name, path) = (staged.name(), folder.path().join(staged.name()));
    let home = Datastore::open(disk.file.dir().datastore())?.home(disk.file.dir())?;
    let home = home.ok_or_else(|| StorageError::NoDisk { path: disk.file.path() })?;
    let is_link = home.link(disk.file.name().as_str());
    let is_chain = disk.qcow2 && !matches!(is_link, Err(StorageError::NotALink { .. }));
    not_open(disk, folder)?;
    if !folder.has(&name)? {
        return Err(not_fetched(path));
    }
    let base: FileName = staged.base().parse().map_err(|_| StorageError::NoDisk { path: path.clone() })?;
    folder.sweep_but(&base, &name)?;
    worker.at("leftovers removed");
    if disk.qcow2 {
        forget_bitmaps(&path, worker)?;
    }
    grow(disk, &path, worker)?;
    worker.at("ready");
    if is_chain {
        return chain::put(disk, &name, folder, &home, worker);
    }
    flat(disk, staged, folder, worker)
}

/// The disk is one file, under its own name or that of its image.
fn flat(disk: &RestoreDisk, staged: &Staged, folder: &Home, worker: &Worker<'_>) -> Result<(), StorageError> {
    let (name, base) = (staged.name(), staged.base());
    if disk.qcow2 {
        chain::second_name(folder, folder, &name, &base)?;
    } else {
        let path = folder.path().join(&name);
        let size = size(&path)?;
        let made = folder.temporary(format!("{base}.raw"));
        convert((&path, "qcow2"), size, (&made, Stored::Raw), true, worker)?;
        made.publish(&base)?;
    }
    worker.at("disk in place");
    folder.sync()?;
    // Of copies nobody knows any more: oned has forgotten the snapshots.
    let snap = format!("{base}.snap");
    remove(folder.handle(), &snap, &folder.path().join(&snap))?;
    worker.at("snapshots removed");
    folder.sync()
}

/// Nobody may have the disk open that is replaced, whatever it is: a missing or broken one is a reason to restore it.
fn not_open(disk: &RestoreDisk, folder: &Home) -> Result<(), StorageError> {
    let in_use = |path: &Path| match not_in_use(path) {
        Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if let Kept::WithImage(image) = &disk.kept {
        if folder.has(image.name().as_str())? {
            Inside::new(image.datastore())?.resolve(&image.path(), &image.to_string())?;
        }
        in_use(&image.path())?;
    }
    in_use(&disk.file.path())
}

fn size(path: &Path) -> Result<u64, StorageError> {
    let file = File::open(path).during("open", path)?;
    Ok(expect_qcow2(&file, path)?.size)
}

/// A disk that was grown after the backup is grown again: oned goes on to say its new size.
fn grow(disk: &RestoreDisk, path: &Path, worker: &Worker<'_>) -> Result<(), StorageError> {
    let Some(wanted) = disk.size_mb.map(|mb| mb.saturating_mul(MIB)) else { return Ok(()) };
    if size(path)? < wanted {
        let mut tool = Tool::qemu_img("resize", path);
        tool.args(["-f", "qcow2"]).arg(path).arg(wanted.to_string()).run(worker)?;
        worker.at("grown");
    }
    let file = File::open(path).during("open", path)?;
    file.sync_all().during("write out", path)
}

/// Removes a file that may be gone.
fn gone(folder: &Home, name: &str) -> Result<(), StorageError> {
    match unlinkat(folder.handle(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e).during("remove", folder.path().join(name)),
    }
}
