//! What is done to the files of a disk while a guest has it open. What the guest itself is to go on with, its
//! hypervisor is told between these parts.

use std::path::PathBuf;

use causeway_core::locks::Mode;

use super::snapshot::{Use, not_in_use, usage};
use super::{
    CopyOf, Datastore, During, Home, Inside, Kept, LivePart, StorageError, Tool, Worker, expect_qcow2, lock,
    remove,
};
use crate::place::{FileName, TEMPORARY, VmFile};
use crate::store::header::Header;
use crate::store::layers::{Base, Layers};

/// Reads a disk's layers, as JSON.
pub(crate) fn read(file: &VmFile, kept: &Kept) -> Result<String, StorageError> {
    let chain = Layers::read(file, kept)?.describe();
    serde_json::to_string(&chain).map_err(|e| StorageError::Disk { path: file.path(), why: e.to_string() })
}

/// Does one part.
///
/// # Errors
/// The disk is not what the part needs; nothing that the guest uses was changed.
pub(crate) fn perform(
    file: &VmFile,
    kept: &Kept,
    part: &LivePart,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let image = match (part, kept) {
        (LivePart::MakeCopy { to: CopyOf::Image(image), .. }, _)
        | (LivePart::PublishCopy { to: CopyOf::Image(image), .. }, _)
        | (LivePart::DropCopy { to: CopyOf::Image(image) }, _)
        | (_, Kept::WithImage(image)) => Some((image, Mode::Exclusive)),
        (_, Kept::Beside) => None,
    };
    let _locks = lock::hold(worker, file.dir().vm(), image)?;
    worker.at("disk locked");
    match part {
        LivePart::MakeLayer { id } => make_layer(&Layers::read(file, kept)?, *id, worker),
        LivePart::PointToLayer { id } => point_to_layer(&Layers::read(file, kept)?, file, *id, worker),
        LivePart::MakeCopy { to, qcow2 } => make_copy(file, kept, to, *qcow2, worker),
        LivePart::PublishCopy { to, qcow2 } => publish_copy(file, kept, to, *qcow2, worker),
        LivePart::DropCopy { to } => {
            let (folder, name) = target(file, kept, to)?;
            let copy = copy_name(&name);
            remove(folder.handle(), &copy, &folder.path().join(&copy))
        }
        LivePart::RemoveLayer { id } => remove_layer(&Layers::read(file, kept)?, *id, worker),
        LivePart::MergedLayer { id, above } => merged_layer(&Layers::read(file, kept)?, *id, *above, worker),
    }
}

/// One that is there is the guest's, or was made by a call that went no further.
fn make_layer(layers: &Layers, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let next = id.saturating_add(1);
    if layers.active() != next && layers.get(next).is_some() {
        match usage(&layers.path(next))? {
            Use::Open => return Ok(()),
            Use::Closed => {}
            Use::Unknown => {
                let why =
                    "it is there already, and its file system does not tell whether the guest writes it";
                return Err(StorageError::Disk { path: layers.path(next), why: why.to_owned() });
            }
        }
    }
    super::snapshot::make_layer(layers, id, worker)
}

fn point_to_layer(layers: &Layers, file: &VmFile, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let next = id.saturating_add(1);
    if layers.active() == next {
        return Ok(());
    }
    let below = layers.get(next).map(|layer| &layer.base);
    if below != Some(&Base::Layer(layers.active())) {
        let why = format!("it does not stand on layer {}, which the disk leads to", layers.active());
        return Err(StorageError::Disk { path: layers.path(next), why });
    }
    layers.home.sweep(file.name())?;
    worker.at("leftovers removed");
    layers.home.point(file.name(), layers.name(next))?;
    worker.at("disk in place");
    layers.home.sync()
}

/// Where a copy lies while it is filled. Its name is the same in every step of the plan, and one copy of that name is
/// made at a time: oned waits for one before it asks for the next.
pub(crate) fn copy_path(file: &VmFile, kept: &Kept, to: &CopyOf) -> PathBuf {
    let (directory, name) = match (to, kept) {
        (CopyOf::Image(image), _) => (image.datastore().path(), image.name().clone()),
        (CopyOf::Volume, _) => (file.dir().path(), file.name().clone()),
        (CopyOf::Snapshot(id), Kept::Beside) => {
            (file.dir().path().join(file.name().snap()), FileName::from(*id))
        }
        (CopyOf::Snapshot(id), Kept::WithImage(image)) => {
            (image.datastore().path().join(image.name().snap()), FileName::from(*id))
        }
    };
    directory.join(copy_name(&name))
}

/// The name that a copy has until then.
pub(crate) fn copy_name(name: &FileName) -> String {
    format!("{TEMPORARY}{name}.live")
}

/// The directory that a copy is made in, and the name that it gets.
fn target(file: &VmFile, kept: &Kept, to: &CopyOf) -> Result<(Home, FileName), StorageError> {
    match to {
        CopyOf::Image(image) => Ok((Datastore::open(image.datastore())?.into_folder(), image.name().clone())),
        CopyOf::Volume => {
            let home = Datastore::open(file.dir().datastore())?.home(file.dir())?;
            let home = home.ok_or_else(|| StorageError::NoDisk { path: file.path() })?;
            Ok((home, file.name().clone()))
        }
        CopyOf::Snapshot(id) => Ok((super::snapshot::flat_snapshots(file, kept)?, FileName::from(*id))),
    }
}

fn make_copy(
    file: &VmFile,
    kept: &Kept,
    to: &CopyOf,
    qcow2: bool,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let (folder, name) = target(file, kept, to)?;
    let size = disk_size(file, kept, qcow2)?;
    folder.sweep(&name)?;
    worker.at("leftovers removed");
    let copy = copy_name(&name);
    let path = folder.path().join(&copy);
    if qcow2 {
        let mut tool = Tool::qemu_img("create", &path);
        tool.args(["-f", "qcow2"]).arg(&path).arg(size.to_string()).run(worker)?;
    } else {
        folder.create(&copy, 0o666)?.set_len(size).during("grow", &path)?;
    }
    worker.at("file made");
    Ok(())
}

/// The size that the guest sees, bytes.
fn disk_size(file: &VmFile, kept: &Kept, qcow2: bool) -> Result<u64, StorageError> {
    let path = if qcow2 {
        let layers = Layers::read(file, kept)?;
        layers.path(layers.active())
    } else {
        match kept {
            Kept::Beside => file.path(),
            Kept::WithImage(image) => {
                Inside::new(image.datastore())?.resolve(&image.path(), &image.to_string())?
            }
        }
    };
    let disk = std::fs::File::open(&path).during("open", &path)?;
    if !qcow2 {
        return Ok(disk.metadata().during("look at", &path)?.len());
    }
    Ok(expect_qcow2(&disk, &path)?.size)
}

fn publish_copy(
    file: &VmFile,
    kept: &Kept,
    to: &CopyOf,
    qcow2: bool,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let (folder, name) = target(file, kept, to)?;
    let copy = copy_name(&name);
    let path = folder.path().join(&copy);
    if *to == CopyOf::Volume {
        // Its name here is the disk's.
        let why = "a copy that becomes a volume gets no name here".to_owned();
        return Err(StorageError::Disk { path, why });
    }
    let made = match folder.open(&copy) {
        // Given its name by a call whose end nobody learnt of.
        Err(StorageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return folder.open(name.as_str()).map(drop);
        }
        other => other?,
    };
    if qcow2 {
        let header = Header::read(&made).map_err(|why| StorageError::Image { path: path.clone(), why })?;
        if header.is_none_or(|header| header.backing.is_some()) {
            let why = "it does not stand alone".to_owned();
            return Err(StorageError::Incomplete { path, why });
        }
    }
    made.sync_all().during("write out", &path)?;
    worker.at("data on disk");
    folder.rename(&copy, name.as_str())?;
    worker.at("copy in place");
    folder.sync()
}

fn remove_layer(layers: &Layers, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let Some(layer) = layers.of_snapshot(id) else {
        return super::snapshot::forget(layers, id, worker);
    };
    if let Some(above) = layers.above(layer).first() {
        let why = format!("layer {above} still stands on it");
        return Err(StorageError::Disk { path: layers.path(layer), why });
    }
    if layer == layers.active() {
        let why = format!("it is what the disk holds now, not snapshot {id}");
        return Err(StorageError::Disk { path: layers.path(layer), why });
    }
    // The link may lag behind what the guest uses (W15).
    not_in_use(&layers.path(layer))?;
    remove(layers.folder.handle(), &layer.to_string(), &layers.path(layer))?;
    worker.at("layer removed");
    super::snapshot::forget(layers, id, worker)
}

fn merged_layer(layers: &Layers, id: u32, above: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    if layers.get(above).is_some()
        && let Some(on) = layers.above(above).first()
    {
        let why = format!("layer {on} still stands on it");
        return Err(StorageError::Disk { path: layers.path(above), why });
    }
    let gone = || StorageError::Disk {
        path: layers.folder.path().to_owned(),
        why: format!("it has no layer of snapshot {id}"),
    };
    let place = layers.of_snapshot(id).or_else(|| layers.of_snapshot(above)).ok_or_else(gone)?;
    // Word of the new place first: a snapshot that nobody finds is lost.
    let mut moving = Vec::new();
    if layers.get(above).is_some() {
        not_in_use(&layers.path(above))?;
        moving = layers.snapshots_in(above);
    }
    for snapshot in moving {
        layers.leave_word(snapshot, place)?;
        worker.at("pointer written");
    }
    remove(layers.folder.handle(), &above.to_string(), &layers.path(above))?;
    worker.at("layer removed");
    super::snapshot::forget(layers, id, worker)
}
