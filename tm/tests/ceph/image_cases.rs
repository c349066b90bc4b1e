//! Every action on an image of a Ceph datastore, with what is there before it, and what must be true whenever it is cut off.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::step::Step;
use super::{Picture, Seen, Stage};

/// One action, and the volumes before it.
pub struct Case {
    name: &'static str,
    prepare: fn(&Stage),
    call: fn(&Stage) -> Value,
}

/// Those that change something.
pub fn all() -> Vec<Case> {
    let case = |name, prepare, call| Case { name, prepare, call };
    let cp: fn(&Stage) -> Value = |on| on.image_import(json!(null), true, None);
    let nothing: fn(&Stage) = |_| {};
    vec![
        case("cp, converted", |on| on.to_send(&of_qcow2(on)), cp),
        case("cp, unpacked", |on| on.to_send(&on.made_by(&Stage::upload(), "xz -c {}")), cp),
        case("cp of an archive of a backup", |on| on.to_send(of_backup(on)), cp),
        case("clone", Stage::image_family, Stage::image_copy),
        case("mkfs", nothing, |on| on.image_make(3, json!("empty"))),
        case("mkfs of a file system", nothing, |on| {
            on.image_make(16, json!({"file_system": {"kind": "ext4"}}))
        }),
        case("rm", Stage::image_family, |on| on.image_remove(&on.source(), false, None)),
        case("rm into the trash", Stage::image_family, |on| on.image_remove(&on.source(), true, None)),
        case("snap_revert", Stage::image_family, |on| on.image_snapshot("revert", 1)),
        case("snap_delete", Stage::image_family, |on| on.image_snapshot("delete", 1)),
        case("snap_flatten of an older volume", Stage::image_family, |on| on.image_snapshot("flatten", 1)),
        case("snap_flatten", Stage::image_family, |on| on.image_snapshot("flatten", 2)),
    ]
}

/// Reads an image, and has no point but its beginning.
pub fn export() -> Case {
    Case { name: "export", prepare: Stage::image_family, call: Stage::image_sum }
}

fn of_qcow2(on: &Stage) -> Vec<u8> {
    on.made_by(&Stage::upload(), "qemu-img convert -f raw -O qcow2 {} {}.out")
}

/// An archive says nothing of the image that it was made of: one serves all.
fn of_backup(on: &Stage) -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| on.backup())
}

impl Step for Case {
    fn name(&self) -> &'static str {
        self.name
    }

    fn prepare(&self, on: &Stage) {
        (self.prepare)(on);
    }

    fn call(&self, on: &Stage) -> Value {
        (self.call)(on)
    }

    /// Under an image's name there is what was there or what is to be there; what the image held, and each of its snapshots
    /// that is to stay, is held by somebody.
    fn judge(&self, at: &str, left: &Picture, before: &Picture, after: &Picture) {
        let context = || format!("{} at {at}: {left:#?}", self.name);
        for name in ["one-5", "one-5-new"] {
            let Some(found) = left.get(name) else { continue };
            let same = |other: Option<&Seen>| other.is_some_and(|other| other.content == found.content);
            assert!(same(before.get(name)) || same(after.get(name)), "{name}: {}", context());
        }
        let (Some(was), Some(will)) = (before.get("one-5"), after.get("one-5")) else { return };
        let held = left.values().any(|seen| seen.content == was.content);
        let replaced = left.get("one-5").is_some_and(|seen| seen.content == will.content);
        assert!(held || replaced, "{}", context());
        for (id, _, content) in after.values().flat_map(|seen| &seen.snapshots) {
            let found = left.values().flat_map(|s| &s.snapshots).any(|s| (&s.0, &s.2) == (id, content));
            assert!(found, "snapshot {id}: {}", context());
        }
    }
}
