//! The file worker: one request at a time, in a process that may be killed.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::plan::Input;
use causeway_core::protocol::Severity;
use causeway_core::reach::worker::{self, Workers};
use causeway_vmm::host::{FileAnswer, FileCall, Files};
use serde::{Deserialize, Serialize};

use super::saved;
use crate::storage::Transfer;

/// What a worker can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// `mkdir -p`.
    MakeDir {
        /// The directory.
        path: String,
    },
    /// Writes a file of the VM directory.
    WriteFile {
        /// The file.
        path: String,
        /// Its content.
        content: Input,
    },
    /// A piece of the transfer manager's work.
    Transfer(Transfer),
    /// A file operation of a VMM verb.
    Guest(FileCall),
    /// Says where a path leads, through all links.
    Resolve {
        /// The path.
        path: String,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; the text is what the step prints.
    Done(String),
    /// The answer to a VMM verb.
    Guest(FileAnswer),
}

/// The pool of this process, each worker being `causeway-disks` beside this program, its locks below `state`.
///
/// # Errors
/// The program's own path is not known.
pub fn pool(count: usize, state: &Path) -> io::Result<Workers> {
    let program = std::env::current_exe()?.with_file_name(super::DISKS);
    let words = vec![program.into(), OsString::from("worker"), OsString::from("--state"), state.into()];
    Ok(Workers::new(words, count))
}

/// The worker's life.
///
/// # Errors
/// A broken pipe or frame.
pub fn serve(state: &Path) -> io::Result<()> {
    worker::serve_and_tell(|request, log| perform(request, state, log))
}

/// Does one request, in this process.
///
/// # Errors
/// What the file system said, with the path.
fn perform(request: Request, state: &Path, log: &dyn Fn(Severity, &str)) -> Result<Reply, Failure> {
    match request {
        Request::MakeDir { path } => {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(&path);
            made.map_err(|e| refused("make directory", &path, e))?;
            Ok(Reply::Done(String::new()))
        }
        Request::WriteFile { path, content } => {
            write_beside(Path::new(&path), &content.0)?;
            Ok(Reply::Done(String::new()))
        }
        Request::Transfer(transfer) => transfer.perform(state, log).map(Reply::Done),
        Request::Guest(call) => guest(call).map(Reply::Guest),
        Request::Resolve { path } => {
            let found = fs::canonicalize(&path).map_err(|e| refused("resolve", &path, e))?;
            let found = found.into_os_string().into_string();
            let found =
                found.map_err(|_| Failure::new(Kind::HostState, format!("resolve {path}: no text")))?;
            Ok(Reply::Done(found))
        }
    }
}

pub(super) fn refused(what: &str, path: impl AsRef<Path>, error: io::Error) -> Failure {
    Failure::new(Kind::HostState, format!("{what} {}: {error}", path.as_ref().display()))
}

/// Writes `path` under a temporary name and renames it: whoever reads it sees the old content or the new. Never through
/// a link that lies there.
pub(super) fn write_beside(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".causeway-new");
    let fresh = path.with_file_name(name);
    let write = || -> io::Result<()> {
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(content)?;
        fs::rename(&fresh, path)
    };
    write().map_err(|e| refused("write", path, e))
}

fn guest(call: FileCall) -> Result<FileAnswer, Failure> {
    match call {
        FileCall::Store { path, text } => {
            let path = path.path();
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory).map_err(|e| refused("make directory", directory, e))?;
            }
            write_beside(&path, text.as_bytes())?;
            Ok(FileAnswer::Done)
        }
        FileCall::Links { paths } => Ok(FileAnswer::Links(paths.iter().map(|path| target(path)).collect())),
        FileCall::Snapshots { directory } => saved::snapshots(&directory.path()),
        FileCall::KeepSnapshots { directory, snapshots, current } => {
            saved::keep_snapshots(&directory.path(), &snapshots, current.as_deref())?;
            Ok(FileAnswer::Done)
        }
        FileCall::TpmState { directory } => saved::tpm_state(&directory).map(FileAnswer::There),
        FileCall::Firmware { path, template, format } => {
            firmware(&path.path(), &template, &format)?;
            Ok(FileAnswer::Done)
        }
    }
}

/// Where the link at `path` leads, if it is one and something is there (contract VMM 3.3, deploy step 2).
fn target(path: &str) -> Option<String> {
    let link = Path::new(path);
    if !fs::symlink_metadata(link).ok()?.is_symlink() {
        return None;
    }
    // Only the link itself is followed: what it names is what a backing file's path was made from.
    let to = fs::read_link(link).ok()?;
    let to = if to.is_absolute() { to } else { link.parent()?.join(to) };
    fs::metadata(&to).ok()?;
    to.to_str().map(str::to_owned)
}

fn firmware(path: &Path, template: &Path, format: &str) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|e| refused("make directory", directory, e))?;
    }
    if format == "raw" {
        let content = fs::read(template).map_err(|e| refused("read the firmware template", template, e))?;
        return write_beside(path, &content);
    }
    let fresh = path.with_extension("causeway-new");
    let converted = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", format])
        .args([template, &fresh])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| refused("start qemu-img for", path, e))?;
    if !converted.status.success() {
        let said = String::from_utf8_lossy(&converted.stderr);
        return Err(Failure::new(
            Kind::Refused,
            format!("qemu-img convert to {}: {}", path.display(), said.trim()),
        ));
    }
    fs::rename(&fresh, path).map_err(|e| refused("rename to", path, e))
}

/// A VMM verb's file operations, done by the pool. For threads outside the runtime.
pub struct Pooled<'a> {
    /// The pool.
    pub workers: &'a Workers,
    /// The runtime that drives it.
    pub runtime: &'a tokio::runtime::Handle,
    /// Longest time of one operation.
    pub deadline: Duration,
}

impl Files for Pooled<'_> {
    fn call(&self, call: FileCall) -> Result<FileAnswer, Failure> {
        let request = Request::Guest(call);
        match self.runtime.block_on(self.workers.call::<_, Reply>(&request, self.deadline))? {
            Reply::Guest(answer) => Ok(answer),
            Reply::Done(_) => {
                Err(Failure::new(Kind::Bug, "a file worker gave the answer to another question"))
            }
        }
    }
}

/// A VMM verb's file operations, done in this process: for a stand-alone slot, which its caller may kill.
pub struct Direct;

impl Files for Direct {
    fn call(&self, call: FileCall) -> Result<FileAnswer, Failure> {
        guest(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_side_file_is_never_written_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let file = dir.path().join("vm.xml");
        symlink(&victim, &file).unwrap();
        symlink(&victim, dir.path().join("vm.xml.causeway-new")).unwrap();
        write_beside(&file, b"<VM/>").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&file).unwrap(), "<VM/>");
        assert!(!fs::symlink_metadata(&file).unwrap().is_symlink());
    }

    #[test]
    fn links_are_followed_once_and_only_to_something() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("disk.0.snap")).unwrap();
        fs::write(at("disk.0.snap/0"), "").unwrap();
        symlink("disk.0.snap/0", at("disk.0")).unwrap();
        symlink("nowhere", at("disk.1")).unwrap();
        fs::write(at("disk.2"), "").unwrap();
        let of = |name: &str| target(at(name).to_str().unwrap());
        assert_eq!(of("disk.0"), Some(at("disk.0.snap/0").to_str().unwrap().to_owned()));
        assert_eq!(of("disk.1"), None);
        assert_eq!(of("disk.2"), None);
        assert_eq!(of("disk.3"), None);
    }
}
