//! What volumes and files hold, as it is compared.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The first byte of each MiB, dots for zeros. Of what a tool has made, and makes no two times the same: that it is whole.
pub fn letters(what: &str, bytes: &[u8]) -> String {
    if bytes.get(0x438..0x43a) == Some(&[0x53, 0xef]) {
        return file_system(what, bytes);
    }
    if bytes.get(4086..4096) == Some(b"SWAPSPACE2") {
        return "swap".to_owned();
    }
    let of = |mib: &[u8]| {
        assert!(mib.iter().take(4096).all(|byte| *byte == mib[0]), "{what} is torn");
        assert!(mib.iter().skip(4096).all(|byte| *byte == 0), "{what} has something else in it");
        if mib[0] == 0 { '.' } else { char::from(mib[0]) }
    };
    bytes.chunks(1024 * 1024).map(of).collect()
}

/// An ext4, in which nothing is amiss.
fn file_system(what: &str, bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let checked = Command::new("e2fsck").arg("-fn").arg(file.path()).output().unwrap();
    assert!(checked.status.success(), "{what} is torn: {checked:?}");
    "ext4".to_owned()
}

/// The name of something that a call has not finished, in the cluster or in a directory.
pub fn half_made(name: &str) -> bool {
    name.contains(".causeway-tmp.")
}

pub fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

pub fn qemu_img(words: &[&str], path: &Path) {
    let run = Command::new("qemu-img").args(words).arg(path).output().unwrap();
    assert!(run.status.success(), "{words:?} {path:?}: {run:?}");
}

/// What a guest would read of an image.
pub fn read_qcow2(path: &Path) -> Vec<u8> {
    let raw = tempfile::NamedTempFile::new().unwrap();
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", path.to_str().unwrap()], raw.path());
    std::fs::read(raw.path()).unwrap()
}
