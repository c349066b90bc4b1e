//! A program that only root may run: by `sudo -n`, with the very words that the stock package's rules allow, and with an end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::geteuid;

use super::super::{During, StorageError, Worker};
use crate::automount::MOUNT_LIMIT;

/// As the rules for sudo spell them.
pub(super) const MOUNT: &str = "/usr/bin/mount";
pub(super) const UMOUNT: &str = "/usr/bin/umount";
pub(super) const SED: [&str; 5] = ["/usr/bin/sed", "-i", "-f", "/proc/self/fd/0", "/etc/fstab"];

/// Most of its words that are kept, bytes.
const OUTPUT_LIMIT: u64 = 4 << 10;

/// How it ended: its last words, if not well.
pub(super) type Said = Result<(), String>;

/// Runs a program as root; `path` is what it works on, for messages.
///
/// # Errors
/// [`StorageError::MountDeadline`]: it was killed with all that it had started. It could not be started.
pub(super) fn as_root(
    words: &[&str],
    input: Option<&str>,
    path: &Path,
    worker: &Worker<'_>,
) -> Result<Said, StorageError> {
    let sudo = ["sudo", "-n"];
    let prefix = if geteuid().is_root() { &[][..] } else { &sudo[..] };
    limited(&[prefix, words].concat(), input, path, MOUNT_LIMIT, worker)
}

/// Runs a program that may hang where a server is away.
///
/// # Errors
/// As [`as_root`].
pub(super) fn limited(
    words: &[&str],
    input: Option<&str>,
    path: &Path,
    limit: Duration,
    worker: &Worker<'_>,
) -> Result<Said, StorageError> {
    let left = worker.deadline.saturating_duration_since(Instant::now()).min(limit);
    // Root's processes can't be killed by us: `timeout` ends by itself whatever becomes of them, and nobody waits for a
    // pipe that they hold.
    let seconds = left.as_secs().max(1).to_string();
    let name = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let tool = words.iter().find(|word| word.starts_with('/')).map(|word| name(word)).unwrap_or_default();
    let said = scratch(None, path)?;
    let heard = said.try_clone().during("share", path)?;
    let input = match input {
        Some(text) => Stdio::from(scratch(Some(text), path)?),
        None => Stdio::null(),
    };
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", &seconds]).args(words).env("LC_ALL", "C");
    command.stdin(input).stdout(Stdio::null()).stderr(Stdio::from(heard));
    let status = command.status().during("start", "timeout")?;
    if status.signal() == Some(9) || status.code() == Some(137) {
        return Err(StorageError::MountDeadline { tool, path: path.to_owned() });
    }
    if status.success() {
        return Ok(Ok(()));
    }
    let words = last_words(said, path)?;
    Ok(Err(if words.is_empty() { format!("{tool}: {status}") } else { words }))
}

/// A file in memory.
fn scratch(text: Option<&str>, path: &Path) -> Result<File, StorageError> {
    let mut file = File::from(memfd_create("words", MemfdFlags::CLOEXEC).during("make a file for", path)?);
    if let Some(text) = text {
        file.write_all(text.as_bytes()).during("write", path)?;
        file.seek(SeekFrom::Start(0)).during("write", path)?;
    }
    Ok(file)
}

fn last_words(mut said: File, path: &Path) -> Result<String, StorageError> {
    let mut bytes = Vec::new();
    said.seek(SeekFrom::Start(0)).during("read", path)?;
    said.take(OUTPUT_LIMIT).read_to_end(&mut bytes).during("read", path)?;
    let text = String::from_utf8_lossy(&bytes);
    // What dmesg has is no news to whoever reads this.
    let hint = |line: &&str| !line.is_empty() && !line.contains("dmesg(1)");
    Ok(text.lines().map(str::trim).filter(hint).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_with_all_that_it_started_and_says_why_it_failed() {
        let dir = tempfile::tempdir().unwrap();
        let worker = Worker::new(dir.path(), Instant::now() + Duration::from_secs(60));
        let run = |script: &str, seconds| {
            let words = ["/bin/sh", "-c", script];
            limited(&words, Some("its input"), Path::new("/ds/1"), Duration::from_secs(seconds), &worker)
        };
        assert_eq!(run("exit 0", 20).unwrap(), Ok(()));
        assert_eq!(run("cat /proc/self/fd/0 >&2; exit 3", 20).unwrap(), Err("its input".to_owned()));
        assert_eq!(run("exit 3", 20).unwrap(), Err("sh: exit status: 3".to_owned()));
        let begun = Instant::now();
        let mark = dir.path().join("child");
        let script = format!("sleep 600 & echo $! >{}; wait", mark.display());
        let late = run(&script, 1).unwrap_err();
        let said = "sh of /ds/1 did not end in time and was killed: does its server answer?";
        assert_eq!(late.to_string(), said);
        assert!(begun.elapsed() < Duration::from_secs(30));
        let child = std::fs::read_to_string(mark).unwrap();
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        // Killed, and at most not yet collected.
        let gone = |stat: String| stat.is_empty() || stat.contains(") Z ");
        let until = Instant::now() + Duration::from_secs(10);
        while !gone(stat()) {
            assert!(Instant::now() < until, "{}", stat());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
