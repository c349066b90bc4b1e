//! What lies in a VM directory beside the disks: snapshots' metadata and a TPM's state. A directory that other programs
//! write to as well: no link in it is followed.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use causeway_core::answer::{Failure, Kind};
use causeway_core::document;
use causeway_core::names::DiskPath;
use causeway_domain::domain_xml::SIZE_LIMIT;
use causeway_vmm::host::FileAnswer;

use super::files::{refused, write_beside};

/// The file that names the current snapshot, which its metadata do not tell.
const CURRENT: &str = "snap.current";

/// Most metadata that are read; they travel in one frame.
const TOTAL: u64 = 32 << 20;

/// The file that holds all of an emulated TPM's state.
const TPM_FILE: &str = "tpm2-00.permall";

/// Largest state of a TPM; real ones have some kilobytes.
const TPM_LIMIT: u64 = 4 << 20;

/// Largest `vm.xml`; the driver process takes no larger request.
const DOCUMENT_LIMIT: u64 = 8 << 20;

/// `3` of `snap-3.xml`.
fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("snap-")?.strip_suffix(".xml")?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The text of a regular file of at most `limit` bytes.
fn text(path: &Path, limit: u64) -> Result<String, Failure> {
    let read = || -> io::Result<String> {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let mut text = String::new();
        file.take(limit + 1).read_to_string(&mut text)?;
        match u64::try_from(text.len()) {
            Ok(length) if length <= limit => Ok(text),
            _ => Err(io::Error::other(format!("more than {limit} bytes"))),
        }
    };
    read().map_err(|e| refused("read", path, e))
}

/// The snapshots' metadata in `directory`, in the order of their numbers: a parent is older than its children.
pub(super) fn snapshots(directory: &Path) -> Result<FileAnswer, Failure> {
    let mut found = Vec::new();
    match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(refused("list", directory, e)),
        Ok(listing) => {
            for entry in listing {
                let entry = entry.map_err(|e| refused("list", directory, e))?;
                found.extend(entry.file_name().to_str().and_then(number_of).map(|n| (n, entry.path())));
            }
        }
    }
    found.sort();
    let (mut saved, mut left) = (Vec::new(), TOTAL);
    let limit = u64::try_from(SIZE_LIMIT).unwrap_or(TOTAL);
    for (_, path) in found {
        let xml = text(&path, limit.min(left))?;
        left = left.saturating_sub(u64::try_from(xml.len()).unwrap_or(left));
        saved.push(xml);
    }
    let current = if saved.is_empty() { None } else { text(&directory.join(CURRENT), 64).ok() };
    Ok(FileAnswer::Snapshots { saved, current: current.map(|name| name.trim().to_owned()) })
}

/// Writes snapshots' metadata, and which one is the current one.
pub(super) fn keep_snapshots(
    directory: &Path,
    snapshots: &[(String, String)],
    current: Option<&str>,
) -> Result<(), Failure> {
    for (name, xml) in snapshots {
        let file = format!("{name}.xml");
        if number_of(&file).is_none() {
            let text = format!("{name:?} is not the name of a snapshot of OpenNebula's: snap-<number>");
            return Err(Failure::new(Kind::Input, text));
        }
        write_beside(&directory.join(file), xml.as_bytes())?;
    }
    match current {
        Some(name) => write_beside(&directory.join(CURRENT), name.as_bytes()),
        None => Ok(()),
    }
}

/// Whether a TPM's state lies in `directory`, if need be taken out of `vm.xml` now.
///
/// Only the one file is taken out of the archive that the VM's owner wrote, under a name of our own: no link and no path
/// of the archive's comes to lie here (contract VMM 7, G8).
pub(super) fn tpm_state(directory: &DiskPath) -> Result<bool, Failure> {
    let directory = directory.path();
    let own = directory.join("tpm");
    match fs::symlink_metadata(&own) {
        Ok(found) if found.is_dir() => return Ok(true),
        Ok(_) => return Err(refused("use", &own, io::Error::other("not a directory"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(refused("look at", &own, e)),
    }
    let path = directory.join("vm.xml");
    let xml = text(&path, DOCUMENT_LIMIT)?;
    let wrong = |e: &dyn std::fmt::Display| Failure::new(Kind::Input, format!("{}: {e}", path.display()));
    let vm = document::parse(xml.as_bytes()).map_err(|e| wrong(&e))?;
    let state = vm.first("USER_TEMPLATE").and_then(|template| template.value("TPM_STATE"));
    let Some(state) = state.filter(|state| !state.trim().is_empty()) else { return Ok(false) };
    let archive =
        document::decode(state.as_bytes()).map_err(|e| wrong(&e).context("USER_TEMPLATE/TPM_STATE"))?;
    let state = unpacked(&archive).map_err(|f| f.context("USER_TEMPLATE/TPM_STATE"))?;
    let made = DirBuilder::new().mode(0o700).create(&own);
    made.map_err(|e| refused("make directory", &own, e))?;
    write_beside(&own.join(TPM_FILE), &state)?;
    Ok(true)
}

/// The state in a compressed archive, read through `tar`, which writes nothing to the disk here.
fn unpacked(archive: &[u8]) -> Result<Vec<u8>, Failure> {
    let failed =
        |what: &str| Failure::new(Kind::Input, format!("{what}; accepted is a .tar.gz with {TPM_FILE}"));
    let mut tar = Command::new("tar")
        .args(["-xzO", "--occurrence=1", "--wildcards", &format!("*{TPM_FILE}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| Failure::new(Kind::HostState, format!("cannot start tar: {e}")))?;
    let (input, output) = (tar.stdin.take(), tar.stdout.take());
    let state = std::thread::scope(|scope| {
        scope.spawn(move || {
            // It stops reading when it has found what it looks for, or what is no archive.
            input.map(|mut input| input.write_all(archive))
        });
        let mut state = Vec::new();
        let read = output.map(|output| output.take(TPM_LIMIT + 1).read_to_end(&mut state));
        // What is too long is cut off with its writer.
        let _ = tar.kill();
        read.and_then(Result::ok).map(|_| state)
    });
    // Reaped; what it wrote counts, for it may have been stopped.
    let _ = tar.wait();
    let state = state.unwrap_or_default();
    match u64::try_from(state.len()) {
        Ok(1..=TPM_LIMIT) => Ok(state),
        Ok(0) => Err(failed("no state in it")),
        _ => Err(failed(&format!("a state of more than {TPM_LIMIT} bytes"))),
    }
}

#[cfg(test)]
mod tests;
