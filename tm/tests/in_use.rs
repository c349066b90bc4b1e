//! What a guest has open is not replaced and not copied away from it.

#![cfg(test)]

mod common;

use common::Datastores;
use common::images::raw_of;
use serde_json::{Value, json};

const OPEN: &str = "is open: a guest or a tool uses it";

/// A VM with an overlay as disk 0 and a copy as disk 1; the image itself.
fn vm() -> Datastores {
    let on = Datastores::new();
    on.qcow2_image();
    on.done(&on.overlay());
    on.done(&on.clone(json!("flat"), "disk.1", None, true));
    on
}

fn blank(on: &Datastores, disk: &str) -> Value {
    let file = on.text(&format!("100/7/{disk}"));
    json!({"make_image": {"file": file, "size_mb": 16, "qcow2": false, "blank": "swap"}})
}

#[test]
fn an_open_disk_is_not_replaced() {
    let on = vm();
    let before = on.picture();
    for (disk, format) in [("disk.0", "qcow2"), ("disk.1", "raw")] {
        let guest = on.opened(format, &format!("100/7/{disk}"));
        let link = json!({"link_image": {"image": on.text("1/abc"), "file": on.text(&format!("100/7/{disk}")), "layout": "image"}});
        let calls = [
            on.clone(json!({"overlay": {}}), disk, None, true),
            on.clone(json!("standalone"), disk, None, true),
            on.clone(json!("flat"), disk, None, true),
            link,
            blank(&on, disk),
        ];
        for call in &calls {
            let failure = on.failure(call);
            assert!(failure.text.contains(OPEN), "{disk}: {failure}");
            assert_eq!(on.picture(), before);
        }
        let context = json!({"build_context": {"file": on.text(&format!("100/7/{disk}")), "names": []}});
        assert!(on.failure(&context).text.contains(OPEN));
        assert_eq!(on.picture(), before);
        drop(guest);
        on.done(&calls[0]);
        on.done(&calls[2]);
        common::tool("rm", &["-rf", &on.text("100/7")]);
        on.done(&on.overlay());
        on.done(&on.clone(json!("flat"), "disk.1", None, true));
    }
}

/// A running guest only reads its context, which OpenNebula makes anew when it gets a network card.
#[test]
fn the_context_of_a_running_guest_is_made_anew() {
    let on = Datastores::new();
    let context = |text: &str| {
        let call = on.context(&["context.sh"]);
        on.perform(&call, &[text.as_bytes().to_vec()]).unwrap();
    };
    context("NICS=1\n");
    let guest = on.read_only("100/7/disk.1");
    context("NICS=2\n");
    drop(guest);
    assert!(raw_of(&on.path("100/7/disk.1"), "raw").windows(7).any(|bytes| bytes == b"NICS=2\n"));
}

/// To the same file system it is renamed, which a guest does not notice; to another one it would be copied.
#[test]
fn a_directory_with_an_open_disk_is_not_copied_away() {
    for disk in ["disk.0", "disk.1"] {
        let on = vm();
        on.mount_101();
        let before = on.picture();
        let guest = on.opened(if disk == "disk.0" { "qcow2" } else { "raw" }, &format!("100/7/{disk}"));
        let failure = on.failure(&on.move_dir("101/7"));
        assert!(failure.text.contains(OPEN), "{failure}");
        let mut now = on.picture();
        now.retain(|path, _| !path.ends_with(".causeway") || before.contains_key(path));
        assert_eq!(now, before);
        drop(guest);
        on.done(&on.move_dir("101/7"));
        assert!(!on.path("100/7").exists());
    }
}
