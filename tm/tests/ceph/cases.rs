//! Every call on a VM's volumes.

use serde_json::json;

use super::Stage;
use super::case::{Case, Keeps};

pub fn all() -> Vec<Case> {
    let kept = |name, prepare, call| Case { name, prepare, call, keeps: Keeps::Disk };
    let anew = |name, prepare, call| Case { name, prepare, call, keeps: Keeps::Untouched };
    let back = |name, prepare, call| Case { name, prepare, call, keeps: Keeps::Written };
    let snapshots_of_the_image: fn(&Stage) = |on| {
        on.lent();
        on.done(on.of_image("create", 0));
        on.done(on.of_image("create", 1));
    };
    let persistent: fn(&Stage) = |on| {
        on.image();
        on.rbd(&format!("snap create --no-progress {}@snap", on.source()));
        on.rbd(&format!("snap protect {}@snap", on.source()));
    };
    vec![
        anew("clone, grown", Stage::image, |on| on.clone(Some(8))),
        anew("clone over an older disk", Stage::family, |on| on.clone(None)),
        kept("link", persistent, Stage::link),
        kept("file of an image, grown", Stage::image, |on| on.fetch(false, Some(8))),
        kept(
            "file of an image over an older disk",
            |on| {
                on.lent();
                on.done(on.take_back());
                on.done(on.fetch(true, None))
            },
            |on| on.fetch(false, None),
        ),
        kept("image lent", persistent, |on| on.fetch(true, None)),
        back("file back in its image's place", Stage::lent, Stage::take_back),
        back("file back, the image's snapshots kept", snapshots_of_the_image, Stage::take_back),
        kept("file saved", Stage::lent, |on| on.save_file(false)),
        kept("snapshot while it is open", Stage::snapshots, |on| on.live_snapshot(7)),
        kept("save", Stage::snapshots, |on| on.save(None)),
        kept("save of a snapshot", Stage::family, |on| on.save(Some(0))),
        anew("removal", Stage::family, |on| on.remove(&on.disk(), false)),
        anew("removal into the trash", Stage::snapshots, |on| on.remove(&on.disk(), true)),
        anew("empty disk over an older one", Stage::snapshots, |on| on.make(3, json!("empty"))),
        anew("swap over an older disk", Stage::cloned, |on| on.make(3, json!("swap"))),
        anew("file system", Stage::image, |on| on.make(16, json!({"file_system": {"kind": "ext4"}}))),
        kept("growth", Stage::snapshots, |on| on.resize(8)),
        kept("snapshot", Stage::snapshots, |on| on.snapshot("create", 7)),
        kept("removal of a snapshot of an older volume", Stage::family, |on| on.snapshot("delete", 1)),
        kept("removal of the last snapshot of an older volume", Stage::family, |on| on.snapshot("delete", 2)),
        kept("revert", Stage::snapshots, |on| on.snapshot("revert", 0)),
        kept("revert of a disk without snapshots of its own", Stage::family, |on| on.snapshot("revert", 2)),
        kept("backup made ready", earlier_backups, |on| on.back_up(&json!({"since": 1}), json!("ready"))),
        kept("snapshot of a backup", earlier_backups, |on| {
            on.back_up(&json!({"since": 2}), json!({"snapshot": {}}))
        }),
        kept("whole backup", to_copy, |on| on.back_up(&json!("full"), on.copy_part())),
        kept("increment", to_copy, |on| on.back_up(&json!({"since": 0}), on.copy_part())),
        kept("snapshot of a backup given up", earlier_backups, |on| {
            on.back_up(&json!("full"), json!("drop"))
        }),
        kept("restored beside the disk", to_restore, |on| on.make_restored(8, None)),
        kept("restored", restored_beside, |on| on.restore(json!("put"))),
        kept("restored, given up", restored_beside, |on| on.restore(json!("drop"))),
    ]
}

/// Snapshots of backups as the stock driver or a killed one of ours left them.
fn earlier_backups(on: &Stage) {
    on.snapshots();
    for name in ["one_backup", "one_backup_0", "one_backup_1", "one_backup_2"] {
        on.rbd(&format!("snap create --no-progress {}@{name}", on.disk()));
        if name != "one_backup" {
            on.rbd(&format!("snap protect {}@{name}", on.disk()));
        }
    }
}

fn to_copy(on: &Stage) {
    earlier_backups(on);
    std::fs::create_dir_all(on.vm_dir()).unwrap();
    on.done(on.backup_dir("begin", false));
}

fn to_restore(on: &Stage) {
    on.family();
    on.fetched("xyz");
}

fn restored_beside(on: &Stage) {
    to_restore(on);
    on.done(on.make_restored(8, None));
}
