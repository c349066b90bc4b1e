//! Snapshots that are layers of a chain.

use super::super::{
    CHAIN_LIMIT, During, StorageError, Temporary, Tool, Worker, make_alike, remove, too_long,
};
use super::not_in_use;
use crate::place::FileName;
use crate::store::header::Header;
use crate::store::layers::{Base, Layers};

/// Freezes the active layer as snapshot `id` and puts an empty one upon it.
pub(super) fn create(
    layers: &Layers,
    disk: &FileName,
    id: u32,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    make_layer(layers, id, worker)?;
    let next = id.saturating_add(1);
    if layers.active() == next {
        return Ok(());
    }
    layers.home.sweep(disk)?;
    layers.home.point(disk, layers.name(next))?;
    worker.at("disk in place");
    layers.home.sync()
}

/// Makes the empty layer that the disk goes on with when the active one becomes snapshot `id`; nothing if that was done.
pub(in crate::host) fn make_layer(layers: &Layers, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let next = id.checked_add(1).ok_or_else(|| refused(layers, format!("snapshot {id} has no successor")))?;
    let active = layers.active();
    if active == next && layers.of_snapshot(id).is_some_and(|frozen| stands_on(layers, active, frozen)) {
        // Done by a call whose end nobody learnt of.
        return Ok(());
    }
    if layers.files()? >= CHAIN_LIMIT {
        return Err(too_long(layers.disk.clone()));
    }
    if layers.of_snapshot(id) != Some(active) {
        pass_over(layers, id, worker)?;
    }
    if layers.get(next).is_some() && !layers.above(next).is_empty() {
        return Err(refused(layers, format!("layer {next} is there already, and another stands on it")));
    }
    let name = FileName::from(next);
    layers.folder.sweep(&name)?;
    worker.at("leftovers removed");
    let made = layers.folder.temporary(&name);
    overlay(layers, &made, active, worker)?;
    // One of that number that nothing leads to was made by a call that went no further.
    made.publish(name.as_str())?;
    worker.at("layer in place");
    layers.folder.sync()
}

/// Lets snapshot `id` be in the active layer, which has a lower number: oned gives a number to a snapshot that then fails,
/// and never gives it out again.
fn pass_over(layers: &Layers, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let active = layers.active();
    if id < active || layers.has_moved(id) {
        let why = format!("snapshot {id} can't be made of it: what it holds is layer {active}");
        return Err(refused(layers, why));
    }
    // What a snapshot that failed may have left. The guest may write it all the same, if it failed late.
    for left in layers.beyond(active) {
        let path = layers.path(left);
        not_in_use(&path)?;
        if !layers.above(left).is_empty() || !stands_on(layers, left, active) || !is_empty(&path, worker)? {
            let why = format!(
                "the disk leads to layer {active}, and layer {left} has something of its own: let the snapshot that failed \
                 be made again (`onevm recover --retry`), or remove {} if it is not wanted",
                path.display()
            );
            return Err(refused(layers, why));
        }
        remove(layers.folder.handle(), &left.to_string(), &path)?;
        worker.at("layer of a failed snapshot removed");
    }
    layers.leave_word(id, active)?;
    worker.at("pointer written");
    layers.folder.sync()
}

/// Whether nothing was written to a layer since it was made.
fn is_empty(path: &std::path::Path, worker: &Worker<'_>) -> Result<bool, StorageError> {
    // The one verb that does not know how to be quiet.
    let mut tool = Tool::named("qemu-img map", worker.qemu_img, path);
    tool.args(["map", "-f", "qcow2", "--output=json"]).arg(path);
    let ended = tool.output(worker, MAP_LIMIT)?;
    Ok(ended.status.success() && holds_nothing(&ended.out))
}

/// Whether a map tells of nothing in the layer itself. One that can't be read, or has too many extents, has something.
fn holds_nothing(map: &[u8]) -> bool {
    let extents: Option<Vec<Extent>> = serde_json::from_slice(map).ok();
    extents.is_some_and(|extents| extents.iter().all(|extent| extent.depth > 0 || !extent.present))
}

/// Bytes of the map of a layer that is taken for one without data.
const MAP_LIMIT: u64 = 1 << 20;

/// A stretch of a disk, as `qemu-img map` describes it: how many layers down it is, and whether it is there at all.
#[derive(serde::Deserialize)]
struct Extent {
    depth: u32,
    present: bool,
}

/// Makes the disk hold again what it held when snapshot `id` was made: the active layer is made anew upon that one.
pub(super) fn revert(layers: &Layers, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let (active, frozen) = (layers.active(), frozen(layers, id)?);
    if let Some(above) = layers.above(active).first() {
        return Err(refused(layers, format!("layer {above} stands on the one that would be lost, {active}")));
    }
    let name = FileName::from(active);
    layers.folder.sweep(&name)?;
    worker.at("leftovers removed");
    let made = layers.folder.temporary(&name);
    overlay(layers, &made, frozen, worker)?;
    made.publish(name.as_str())?;
    worker.at("layer in place");
    layers.folder.sync()
}

/// Forgets snapshot `id`: what stands on its layer is made to stand on what that one stands on.
pub(super) fn delete(layers: &Layers, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    if layers.of_snapshot(id).is_none() {
        // Gone already; a pointer that leads nowhere goes after it.
        return forget(layers, id, worker);
    }
    let frozen = frozen(layers, id)?;
    for above in layers.above(frozen) {
        stand(layers, above, frozen, worker)?;
        worker.at("layer stands on another");
    }
    // Its pointer last: without it nobody would find the layer again.
    remove(layers.folder.handle(), &frozen.to_string(), &layers.path(frozen))?;
    worker.at("layer removed");
    forget(layers, id, worker)
}

/// The layer of a snapshot that is not what the guest writes now.
fn frozen(layers: &Layers, id: u32) -> Result<u32, StorageError> {
    match layers.of_snapshot(id) {
        None => Err(refused(layers, format!("there is no snapshot {id} of it"))),
        Some(layer) if layer == layers.active() => {
            Err(refused(layers, format!("layer {layer} is what it holds now, not snapshot {id}")))
        }
        Some(layer) => Ok(layer),
    }
}

/// Removes the word of where snapshot `id` is, if there is one.
pub(in crate::host) fn forget(layers: &Layers, id: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    if layers.has_moved(id) {
        let name = format!("{id}.current");
        remove(layers.folder.handle(), &name, &layers.folder.path().join(&name))?;
        worker.at("pointer removed");
    }
    layers.folder.sync()
}

/// Makes an empty layer that stands on `base`.
fn overlay(
    layers: &Layers,
    made: &Temporary<'_>,
    base: u32,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    let name = layers.name(base);
    let mut tool = Tool::qemu_img("create", &made.path());
    tool.args(["-f", "qcow2", "-F", format(layers, base), "-b"]).arg(&name).arg(made.path());
    tool.run(worker)?;
    worker.at("layer made");
    let active = layers.open(layers.active())?;
    let model = active.metadata().during("look at", layers.path(layers.active()))?;
    let file = std::fs::File::open(made.path()).during("open", made.path())?;
    make_alike(&file, &made.path(), &model)?;
    checked(&made.path(), Some(&name))?;
    worker.at("layer on disk");
    Ok(())
}

/// Makes `above` stand on what `gone` stands on, with all that it had from there.
///
/// `qemu-img rebase` first copies what differs, and writes the new name last: cut off anywhere, the layer still stands on
/// the old one, and holds some of it twice. That is so only without its cache: with one, the name may be there before the
/// data are, and data that find no room are lost without a word.
fn stand(layers: &Layers, above: u32, gone: u32, worker: &Worker<'_>) -> Result<(), StorageError> {
    let path = layers.path(above);
    let base = layers.get(gone).map_or(&Base::Nothing, |layer| &layer.base);
    let (name, format) = match base {
        Base::Nothing => (String::new(), None),
        Base::Layer(number) => (layers.name(*number), Some(format(layers, *number))),
        Base::File { name, qcow2 } => (name.clone(), Some(if *qcow2 { "qcow2" } else { "raw" })),
    };
    let mut tool = Tool::qemu_img("rebase", &path);
    tool.args(["-t", "writethrough", "-f", "qcow2", "-b", &name]);
    if let Some(format) = format {
        tool.args(["-F", format]);
    }
    tool.arg(&path).run(worker)?;
    checked(&path, Some(name.as_str()).filter(|name| !name.is_empty()))
}

fn format(layers: &Layers, number: u32) -> &'static str {
    if layers.get(number).is_some_and(|layer| layer.qcow2) { "qcow2" } else { "raw" }
}

fn stands_on(layers: &Layers, above: u32, below: u32) -> bool {
    layers.get(above).is_some_and(|layer| layer.base == Base::Layer(below))
}

/// Compares a layer's backing file with what it is to be, and brings the layer to the disk.
fn checked(path: &std::path::Path, backing: Option<&str>) -> Result<(), StorageError> {
    let file = std::fs::File::options().read(true).write(true).open(path).during("open", path)?;
    file.sync_all().during("write out", path)?;
    let found = Header::read(&file).map_err(|why| StorageError::Image { path: path.to_owned(), why })?;
    match found {
        Some(header) if header.backing.as_deref() == backing => Ok(()),
        found => {
            let why = format!("{found:?}, where it was to stand on {backing:?}");
            Err(StorageError::Incomplete { path: path.to_owned(), why })
        }
    }
}

fn refused(layers: &Layers, why: String) -> StorageError {
    StorageError::Disk { path: layers.disk.clone(), why }
}

#[cfg(test)]
mod tests {
    use super::holds_nothing;

    #[test]
    fn fuzz_maps() {
        crate::seeded::fuzz("qemu", |bytes| {
            // A map that was cut off, or goes on, tells of nothing that could be thrown away.
            if holds_nothing(bytes) {
                assert!(!holds_nothing(&[bytes, b"x"].concat()));
                assert!(!holds_nothing(bytes.trim_ascii_end().split_last().map_or(b"", |(_, all)| all)));
            }
        });
        let map = r#"[{"start":0,"length":512,"depth":1,"present":true},{"depth":0,"present":false}]"#;
        assert!(holds_nothing(map.as_bytes()) && !holds_nothing(map.replace('1', "0").as_bytes()));
    }
}
