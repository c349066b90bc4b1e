//! Images of which no copy can be made, or that can't remember what changes: refused by name, with what mends it.

#![cfg(test)]

mod common;

use common::images::Images;
use common::{Datastores, tool};
use serde_json::json;

fn encrypted() -> Datastores {
    let on = Datastores::new();
    let words = "create -q --object secret,id=s,data=x -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s";
    let path = on.text("1/abc");
    let words: Vec<&str> = words.split(' ').chain([path.as_str(), "1M"]).collect();
    tool("qemu-img", &words);
    on
}

#[test]
fn an_encrypted_image_is_copied_by_nobody_who_has_no_key() {
    let on = encrypted();
    let before = on.picture();
    for call in [on.clone(json!("standalone"), "disk.0", None, true), on.copy("qcow2", "raw")] {
        let failure = on.failure(&call);
        let text = failure.text.replace(on.root.to_str().unwrap(), "DS");
        assert!(
            text.starts_with("DS/1/abc: its content is encrypted, and it can't be read without its key"),
            "{text}"
        );
    }
    let mut now = on.picture();
    now.retain(|path, _| !path.ends_with(".causeway"));
    assert_eq!(now, before);
    // As it is it may be copied, and stood upon.
    on.perform(&on.copy("qcow2", "qcow2"), &[]).unwrap();
    on.done(&on.overlay());
    on.begin_backup();
    for call in [on.save(true, false, None, "1/saved"), on.back_up(true, false, json!("full"))] {
        let failure = on.perform(&call, &[]).unwrap_err();
        assert!(failure.text.contains("1/abc: its content is encrypted"), "{failure}");
    }
    assert!(!on.path("1/saved").exists());
}

#[test]
fn an_image_of_the_first_years_gets_no_increments() {
    let on = Datastores::new();
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", &on.text("1/abc"), "1M"]);
    on.done(&on.link("chain"));
    on.begin_backup();
    let before = on.picture();
    for extent in [json!("first"), json!({"since": 0})] {
        let failure = on.perform(&on.back_up(true, true, extent), &[]).unwrap_err();
        assert!(failure.text.contains("compat 0.10") && failure.text.contains("qemu-img amend"), "{failure}");
        assert_eq!(on.picture(), before);
    }
    on.perform(&on.back_up(true, true, json!("full")), &[]).unwrap();
    tool("qemu-img", &["amend", "-f", "qcow2", "-o", "compat=1.1", &on.text("1/abc")]);
    on.perform(&on.back_up(true, true, json!("first")), &[]).unwrap();
}
