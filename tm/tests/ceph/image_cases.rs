//! Every action on an image of a Ceph datastore.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::Stage;
use super::case::{Case, Keeps};

/// Those that change something.
pub fn all() -> Vec<Case> {
    let case = |name, prepare, call| Case { name, prepare, call, keeps: Keeps::Image };
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
    Case { name: "export", prepare: Stage::image_family, call: Stage::image_sum, keeps: Keeps::Image }
}

fn of_qcow2(on: &Stage) -> Vec<u8> {
    on.made_by(&Stage::upload(), "qemu-img convert -f raw -O qcow2 {} {}.out")
}

/// An archive says nothing of the image that it was made of: one serves all.
fn of_backup(on: &Stage) -> &'static [u8] {
    static ARCHIVE: OnceLock<Vec<u8>> = OnceLock::new();
    ARCHIVE.get_or_init(|| on.backup())
}
