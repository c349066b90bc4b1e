//! The state of a TPM, out of the archive that a backup keeps it in.

use std::path::Path;

use super::{Staged, TPM, not_fetched};
use crate::host::{During, Home, StorageError, Tool, Worker, remove};
use crate::place::TEMPORARY;

/// How deep directories may lie in each other.
const DEPTH: usize = 4;

/// Puts the state that was staged in `home` in the place of the one that is there.
pub(super) fn put(staged: &Staged, home: &Home, worker: &Worker<'_>) -> Result<(), StorageError> {
    let packed = home.path().join(staged.name());
    if !home.has(&staged.name())? {
        return Err(not_fetched(packed));
    }
    // The archive has one directory, `tpm`: it is unpacked aside, through no link of the VM's.
    let aside = format!("{TEMPORARY}tpm.unpacked");
    remove(home.handle(), &aside, &home.path().join(&aside))?;
    rustix::fs::mkdirat(home.handle(), aside.as_str(), rustix::fs::Mode::from_raw_mode(0o700))
        .during("make", home.path().join(&aside))?;
    worker.at("directory made");
    let done = exchange(&packed, home, &aside, worker);
    let cleared = remove(home.handle(), &aside, &home.path().join(&aside));
    done.and(cleared)?;
    home.sync()
}

/// Unpacks the archive into a directory, and puts what is in it in the place of what is there.
fn exchange(packed: &Path, home: &Home, aside: &str, worker: &Worker<'_>) -> Result<(), StorageError> {
    let into = home.path().join(aside);
    let mut tool = Tool::new("tar", packed);
    tool.arg("-C").arg(&into).args(["--no-same-owner", "-xzf"]).arg(packed).args(["--", TPM]).run(worker)?;
    worker.at("unpacked");
    let unpacked = home.folder(aside)?.ok_or_else(|| StorageError::NotADirectory { path: into.clone() })?;
    let state = unpacked.folder(TPM)?;
    only_files(&state.ok_or_else(|| StorageError::NotADirectory { path: into.join(TPM) })?, DEPTH)?;
    remove(home.handle(), TPM, &home.path().join(TPM))?;
    worker.at("old state removed");
    rustix::fs::renameat(unpacked.handle(), TPM, home.handle(), TPM).during("rename", into.join(TPM))?;
    worker.at("state in place");
    Ok(())
}

/// Sees to it that a directory holds files and directories, and nothing else: others read it as root.
fn only_files(folder: &Home, depth: usize) -> Result<(), StorageError> {
    for name in folder.names()? {
        if folder.open(&name).is_ok() {
            continue;
        }
        match folder.folder(&name) {
            Ok(Some(inner)) if depth > 0 => only_files(&inner, depth - 1)?,
            _ => {
                let path = folder.path().join(&name);
                let why = "the archive of a TPM's state holds something else than files and directories";
                return Err(StorageError::Image { path, why: why.to_owned() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::super::{RestoreCall, perform, staged};
    use super::*;

    /// Restores an archive into the directory of VM 7 below `root`.
    fn restore(root: &Path, archive: &[u8]) -> Result<(), StorageError> {
        let home = root.join("0/7");
        fs::create_dir_all(home.join("tpm")).unwrap();
        fs::write(home.join("tpm/old"), "old").unwrap();
        fs::write(home.join(staged(&"tpm".parse().unwrap())), archive).unwrap();
        let dir = home.to_str().unwrap().parse().unwrap();
        let locks = root.join("locks");
        let worker = Worker::new(&locks, Instant::now() + Duration::from_secs(60));
        perform(&RestoreCall::Put(Staged::Tpm(dir)), &worker)
    }

    fn archive(make: impl FnOnce(&Path)) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tpm")).unwrap();
        make(&dir.path().join("tpm"));
        let tar = Command::new("tar").arg("-C").arg(dir.path()).args(["-czf", "-", "tpm"]).output().unwrap();
        tar.stdout
    }

    #[test]
    fn an_archive_with_a_link_leaves_the_state_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        for target in ["/etc/passwd", "../../../secret"] {
            let bytes = archive(|tpm| symlink(target, tpm.join("tpm2-00.permall")).unwrap());
            let error = restore(dir.path(), &bytes).unwrap_err().to_string();
            assert!(error.ends_with("something else than files and directories"), "{error}");
            assert_eq!(fs::read(dir.path().join("0/7/tpm/old")).unwrap(), b"old");
        }
        let whole = archive(|tpm| fs::write(tpm.join("tpm2-00.permall"), "new").unwrap());
        restore(dir.path(), &whole).unwrap();
        assert_eq!(fs::read(dir.path().join("0/7/tpm/tpm2-00.permall")).unwrap(), b"new");
        assert!(!dir.path().join("0/7/tpm/old").exists());
    }

    #[test]
    fn fuzz_archives() {
        crate::seeded::fuzz("tpm", |bytes| {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path();
            let restored = restore(root, bytes);
            let home = root.join("0/7");
            // What was there goes for something whole, or stays.
            assert_eq!(home.join("tpm/old").exists(), restored.is_err(), "{restored:?}");
            let mut names: Vec<_> = fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["0", "locks"]);
            let in_datastore = fs::read_dir(root.join("0")).unwrap().count();
            assert_eq!(in_datastore, 1);
            for entry in fs::read_dir(home.join("tpm")).unwrap() {
                assert!(!entry.unwrap().file_type().unwrap().is_symlink());
            }
        });
    }
}
