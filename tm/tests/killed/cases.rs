//! What is killed and disturbed: every call that changes files, on what it may find there.

use serde_json::json;

use super::Case;
use crate::common::Datastores;
use crate::common::forms::format_of;

pub fn cases() -> Vec<Case> {
    let nothing = |_: &Datastores| {};
    let before = |on: &Datastores| {
        on.qcow2("1/abc", "4M", None);
        std::fs::write(on.path("1/persistent"), b"somebody's data").unwrap();
        std::fs::write(on.path("100/.monitor"), b"ssh").unwrap();
        let dir = on.vm_dir();
        std::os::unix::fs::symlink(on.path("1/persistent"), dir.join("disk.0")).unwrap();
        std::fs::create_dir(dir.join("disk.0.snap")).unwrap();
        std::fs::write(dir.join("disk.0.snap/0"), b"an older disk").unwrap();
        std::fs::write(dir.join(".causeway-tmp.disk.0.1-1-1"), b"left by another").unwrap();
    };
    let fresh = |on: &Datastores| on.qcow2("1/abc", "4M", None);
    let case = |name, prepare, call| Case { name, prepare, call, input: None, guest: None };
    let mut all = snapshots();
    all.extend(lent());
    all.extend(backups());
    all.extend(vec![
        case("flat copy", fresh, Datastores::flat),
        case("flat copy over an older disk, grown", before, |on| {
            on.clone(json!("flat"), "disk.0", Some(8), true)
        }),
        case("overlay", fresh, Datastores::overlay),
        case("overlay over an older disk, grown", before, |on| {
            on.clone(json!({"overlay": {}}), "disk.0", Some(8), false)
        }),
        case("standalone copy over an older disk", before, |on| {
            on.clone(json!("standalone"), "disk.0", Some(8), true)
        }),
        case("link to an image over an older disk", before, |on| on.link("image")),
        case("link to a chain over an older disk", before, |on| on.link("chain")),
        case("removal of a disk", before, |on| on.delete("disk.0")),
        case("removal of a VM", before, Datastores::delete_dir),
        Case {
            name: "context",
            prepare: nothing,
            call: |on| on.context(&["context.sh"]),
            input: Some("X='1'"),
            guest: None,
        },
        Case {
            name: "context over an older disk",
            prepare: before,
            call: |on| json!({"build_context": {"file": on.text("100/7/disk.0"), "names": ["context.sh"]}}),
            input: Some("X='1'"),
            guest: None,
        },
        case(
            "image given back",
            |on| on.done_after(&[on.raw("1/abc"), on.link("image")]),
            Datastores::give_back,
        ),
        case(
            "chain given back",
            |on| on.done_after(&[on.chain_image(), on.link("chain")]),
            Datastores::give_back,
        ),
        case("empty raw disk over an older one", before, |on| on.make(false, json!("empty"))),
        case("empty qcow2 disk", nothing, |on| on.make(true, json!("empty"))),
        case("swap", nothing, |on| on.make(false, json!("swap"))),
        case("directory in one file system", before, |on| on.move_dir("101/7")),
        Case {
            name: "directory across file systems",
            prepare: |on| {
                on.chain_image();
                on.done(&on.overlay());
                on.done(&on.snapshot("create", 0, true, false));
                std::fs::write(on.path("100/7/deployment.0"), b"<domain/>").unwrap();
                std::fs::create_dir(on.path("100/7/tpm")).unwrap();
                std::fs::write(on.path("100/7/tpm/state"), b"secret").unwrap();
                on.mount_101();
            },
            call: |on| on.move_dir("101/7"),
            input: None,
            guest: None,
        },
    ]);
    all
}

/// Snapshots of a chain and of plain bytes, of a VM's own copy and of an image.
fn snapshots() -> Vec<Case> {
    fn life(on: &Datastores, chain: bool, persistent: bool) {
        on.done_after(&[if chain { on.chain_image() } else { on.raw("1/abc") }]);
        on.give(chain, persistent);
        let format = format_of(chain);
        for (id, byte) in (0..2).zip(1..) {
            on.guest_writes(format, "100/7/disk.0", u64::from(id), byte);
            on.done(&on.snapshot("create", id, chain, persistent));
        }
        on.guest_writes(format, "100/7/disk.0", 3, 9);
    }
    /// As a commit of layer 1 into layer 0 by a guest's hypervisor leaves it.
    fn merged(on: &Datastores) {
        life(on, true, false);
        crate::common::tool(
            "qemu-img",
            &["commit", "-q", "-f", "qcow2", "-d", &on.text("100/7/disk.0.snap/1")],
        );
        // Half a pointer, of a call that was killed.
        std::fs::write(on.path("100/7/disk.0.snap/.causeway-tmp.1.current.9-9-9"), "/").unwrap();
        let (zero, top) = ("disk.0.snap/disk.0.snap/0", on.text("100/7/disk.0.snap/2"));
        crate::common::tool("qemu-img", &["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", zero, &top]);
    }
    /// As a guest's switch to the layer upon snapshot 2 leaves it.
    fn switched(on: &Datastores) {
        life(on, true, false);
        on.done(&on.live(json!({"make_layer": {"id": 2}})));
    }
    let case = |name, prepare, call| Case { name, prepare, call, input: None, guest: Some("qcow2") };
    let plain = |name, prepare, call| Case { name, prepare, call, input: None, guest: Some("raw") };
    vec![
        case("snapshot of a copy", |on| life(on, true, false), |on| on.snapshot("create", 2, true, false)),
        case("snapshot of an image", |on| life(on, true, true), |on| on.snapshot("create", 2, true, true)),
        case("copy goes back", |on| life(on, true, false), |on| on.snapshot("revert", 0, true, false)),
        case("image goes back", |on| life(on, true, true), |on| on.snapshot("revert", 0, true, true)),
        case("first snapshot goes", |on| life(on, true, false), |on| on.snapshot("delete", 0, true, false)),
        case("last snapshot goes", |on| life(on, true, false), |on| on.snapshot("delete", 1, true, false)),
        case(
            "an image's snapshot goes",
            |on| life(on, true, true),
            |on| on.snapshot("delete", 1, true, true),
        ),
        case("disk saved", |on| life(on, true, false), |on| on.save(true, false, None, "1/saved")),
        case("snapshot saved", |on| life(on, true, true), |on| on.save(true, true, Some(1), "1/saved")),
        plain("plain disk saved", |on| life(on, false, false), |on| on.save(false, false, None, "1/saved")),
        case("layer made", |on| life(on, true, false), |on| on.live(json!({"make_layer": {"id": 2}}))),
        case("disk led to its layer", switched, |on| on.live(json!({"point_to_layer": {"id": 2}}))),
        case(
            "layer removed",
            |on| {
                life(on, true, false);
                on.done(&on.snapshot("revert", 0, true, false));
            },
            |on| on.live(json!({"remove_layer": {"id": 1}})),
        ),
        case("layer merged", merged, |on| on.live(json!({"merged_layer": {"id": 0, "above": 1}}))),
        case(
            "copy published",
            |on| {
                life(on, true, false);
                on.done_live(json!({"make_copy": {"to": {"image": on.text("1/saved")}, "qcow2": true}}));
            },
            |on| on.live(json!({"publish_copy": {"to": {"image": on.text("1/saved")}, "qcow2": true}})),
        ),
        case("chain grows", |on| life(on, true, false), |on| on.resize(true, false, 64, true)),
        plain("plain snapshot", |on| life(on, false, false), |on| on.snapshot("create", 2, false, false)),
        plain(
            "plain snapshot of an image",
            |on| life(on, false, true),
            |on| on.snapshot("create", 2, false, true),
        ),
        plain(
            "plain copy goes back",
            |on| life(on, false, false),
            |on| on.snapshot("revert", 0, false, false),
        ),
        plain(
            "plain image goes back",
            |on| life(on, false, true),
            |on| on.snapshot("revert", 0, false, true),
        ),
        plain("plain snapshot goes", |on| life(on, false, true), |on| on.snapshot("delete", 0, false, true)),
        plain("plain disk grows", |on| life(on, false, false), |on| on.resize(false, false, 64, false)),
    ]
}

/// Images on their way to a host's own disk and back.
fn lent() -> Vec<Case> {
    /// An image with two snapshots, as VMs of a shared datastore leave it.
    fn image(on: &Datastores, chain: bool) {
        let layout = if chain { "chain" } else { "image" };
        let format = format_of(chain);
        on.done_after(&[if chain { on.chain_image() } else { on.raw("1/abc") }, on.link(layout)]);
        for (id, byte) in (0..2).zip(1..) {
            on.guest_writes(format, "100/7/disk.0", u64::from(id), byte);
            on.done(&on.snapshot("create", id, chain, true));
        }
        on.guest_writes(format, "100/7/disk.0", 2, 9);
        on.done(&on.give_back());
    }
    /// That image at a host, where it got another snapshot.
    fn written(on: &Datastores, chain: bool) {
        image(on, chain);
        on.done(&on.lend(if chain { "chain" } else { "image" }));
        let format = format_of(chain);
        on.done(&on.snapshot("create", 2, chain, false));
        on.guest_writes(format, "100/7/disk.0", 3, 7);
    }
    let case = |name, prepare, call| Case { name, prepare, call, input: None, guest: None };
    vec![
        case("a fresh image lent", |on| drop(on.chain_image()), |on| on.lend("chain")),
        case("layers lent", |on| image(on, true), |on| on.lend("chain")),
        case(
            "layers lent over an older disk",
            |on| {
                image(on, true);
                on.done(&on.make(true, json!("empty")))
            },
            |on| on.lend("chain"),
        ),
        case("plain copies lent", |on| image(on, false), |on| on.lend("image")),
        case("layers back", |on| written(on, true), |on| on.take_back("chain")),
        case(
            "layers back for the second time",
            |on| {
                written(on, true);
                on.done(&on.take_back("chain"));
                on.done(&on.lend("chain"));
                on.guest_writes("qcow2", "100/7/disk.0", 1, 8);
            },
            |on| on.take_back("chain"),
        ),
        case("plain copies back", |on| written(on, false), |on| on.take_back("image")),
    ]
}

/// A backup of a disk that nobody has open, whole and of what has changed.
fn backups() -> Vec<Case> {
    fn disk(on: &Datastores) {
        on.done_after(&[on.chain_image()]);
        on.done(&on.overlay());
        on.guest_writes("qcow2", "100/7/disk.0", 1, 7);
        on.begin_backup();
    }
    fn earlier(on: &Datastores) {
        disk(on);
        on.done(&on.back_up(true, false, json!("first")));
        on.guest_writes("qcow2", "100/7/disk.0", 2, 8);
        on.begin_backup();
    }
    fn target(on: &Datastores) {
        disk(on);
        let disk = json!({"disk": on.backup_disk(true, false, json!("full"))});
        on.perform(&on.backup("target", None, disk), &[]).unwrap();
    }
    let case = |name, prepare, call| Case { name, prepare, call, input: None, guest: Some("qcow2") };
    let begin = |on: &Datastores| on.backup("begin", None, json!({"tpm": false}));
    vec![
        Case { input: Some("PFZNLz4="), ..case("backup begun after another", earlier, begin) },
        case("disk backed up", disk, |on| on.back_up(true, false, json!("full"))),
        case("first increment", disk, |on| on.back_up(true, false, json!("first"))),
        case("next increment", earlier, |on| on.back_up(true, false, json!({"since": 0}))),
        case("backup published", target, |on| {
            on.backup("publish", None, json!({"disk": on.backup_disk(true, false, json!("full"))}))
        }),
        case("backup cleared", earlier, |on| on.backup("clear", None, json!({}))),
    ]
}
