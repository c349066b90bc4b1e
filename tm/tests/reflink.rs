//! Copies on a file system that can share data between files: XFS on a loop device, in a mount namespace. Needs root.

#![cfg(test)]

mod common;

use std::path::Path;

use common::{Datastores, MIB, inside_xfs};
use serde_json::json;

#[test]
fn a_copy_shares_its_data_with_the_image() {
    let dir = tempfile::tempdir().unwrap();
    inside_xfs("inner_shared", dir.path());
}

#[test]
#[ignore = "run by a_copy_shares_its_data_with_the_image in a mount namespace"]
fn inner_shared() {
    let dir = std::env::var("CAUSEWAY_TEST_DIR").unwrap();
    let on = Datastores::below(Path::new(&dir));
    let bytes: Vec<u8> = (0..64 * MIB).map(|at| (at / 4096 * 31 % 251) as u8).collect();
    std::fs::write(on.path("1/abc"), &bytes).unwrap();
    let before = free(Path::new(&dir));
    on.done(&on.clone(json!("flat"), "disk.0", Some(80), true));
    on.done(&on.snapshot("create", 0, false, false));
    std::fs::write(on.path("100/7/disk.0"), b"written by the guest").unwrap();
    on.done(&on.snapshot("revert", 0, false, false));
    let taken = before.saturating_sub(free(Path::new(&dir)));
    assert!(taken < 8 * MIB, "four files of 64 MiB took {taken} bytes more than one");
    let disk = std::fs::read(on.path("100/7/disk.0")).unwrap();
    assert_eq!(disk.len() as u64, 80 * MIB);
    assert!(disk.starts_with(&bytes) && disk[bytes.len()..].iter().all(|&byte| byte == 0));
    // They share until one of them is written, and no longer.
    std::fs::write(on.path("1/abc"), b"another image").unwrap();
    assert_eq!(std::fs::read(on.path("100/7/disk.0")).unwrap(), disk);
}

/// Bytes that are free, once all is written out.
fn free(dir: &Path) -> u64 {
    rustix::fs::sync();
    let found = rustix::fs::statvfs(dir).unwrap();
    found.f_bfree * found.f_frsize
}
