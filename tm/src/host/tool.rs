//! One call of a tool (`qemu-img`, `mkfs`): an argument vector, formats always named, both pipes drained, an end at the deadline.

use std::ffi::OsStr;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::meter::{Meter, allocated};
use super::{During, StorageError, Worker};
use crate::place::{TEMPORARY, named_at_last, told_at_last};
use crate::store::header::expect_plain;

/// Most of a tool's words that are kept, bytes.
const OUTPUT_LIMIT: u64 = 64 << 10;
/// Bytes of room with which a file system is called full.
const FULL: u64 = 64 << 10;
/// How often one hears of a tool that is at work.
const TICK: Duration = Duration::from_secs(1);

/// A call that is being put together.
pub(crate) struct Tool {
    /// What it is called in messages: `qemu-img create`.
    name: String,
    /// The program; none stands for the worker's `qemu-img`.
    program: Option<PathBuf>,
    path: PathBuf,
    args: Vec<std::ffi::OsString>,
    env: Vec<(&'static str, PathBuf)>,
    /// What it reads: words that no command line may show.
    input: String,
    /// A status besides 0 that is no failure.
    allowed: Option<i32>,
    /// What is copied, by a tool that says how far it is.
    copied: Option<PathBuf>,
    /// Whether its first words are the reason of a failure, not its last.
    first: bool,
}

impl Tool {
    /// A call of a program that the system's directories have; `path` is what it works on, for messages.
    pub(crate) fn new(program: &str, path: &Path) -> Self {
        Tool {
            name: program.to_owned(),
            program: Some(program.into()),
            path: path.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            input: String::new(),
            allowed: None,
            copied: None,
            first: false,
        }
    }

    /// A call of a program by its path; `name` is what it is called in messages.
    pub(crate) fn named(name: &str, program: &Path, path: &Path) -> Self {
        Tool { program: Some(program.to_owned()), ..Tool::new(name, path) }
    }

    /// A call of that verb of `qemu-img`.
    pub(crate) fn qemu_img(verb: &str, path: &Path) -> Self {
        let args = vec![verb.into(), "-q".into()];
        Tool { program: None, args, ..Tool::new(&format!("qemu-img {verb}"), path) }
    }

    /// A call of `qemu-img convert` that reads `source`, of that format, within the admin's limit and with its progress in the VM's log.
    ///
    /// # Errors
    /// What it would read is encrypted.
    pub(crate) fn convert(
        source: (&Path, &str),
        path: &Path,
        worker: &Worker<'_>,
    ) -> Result<Self, StorageError> {
        let (source, format) = source;
        if format == "qcow2" {
            expect_plain(source)?;
        }
        let mut args: Vec<std::ffi::OsString> = vec!["convert".into(), "-p".into()];
        if let Some(rate) = worker.copying.bytes_per_second {
            args.extend(["-r".into(), rate.to_string().into()]);
        }
        args.extend(["-f".into(), format.into()]);
        let copied = Some(source.to_owned());
        Ok(Tool { program: None, args, copied, ..Tool::new("qemu-img convert", path) })
    }

    /// With a status besides 0 that is no failure.
    pub(crate) fn allow(&mut self, status: i32) -> &mut Self {
        self.allowed = Some(status);
        self
    }

    /// With its reason in what it says first.
    pub(crate) fn first_words(&mut self) -> &mut Self {
        self.first = true;
        self
    }

    /// With one more argument.
    pub(crate) fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// A call of `curl` for an address, which may hold a password: every user of the machine can read a command line.
    pub(crate) fn curl(address: &str, path: &Path) -> Self {
        let quoted = address.replace('\\', "\\\\").replace('"', "\\\"");
        let mut tool = Tool { input: format!("url = \"{quoted}\"\n"), ..Tool::new("curl", path) };
        tool.args(["--config", "-", "--globoff", "--silent", "--show-error", "--fail", "--location"]);
        // Wherever one is redirected: no file of this machine.
        tool.args(["--proto", "=http,https"]);
        tool
    }

    /// With a variable in its environment.
    pub(crate) fn env(&mut self, name: &'static str, value: PathBuf) -> &mut Self {
        self.env.push((name, value));
        self
    }

    /// With more arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Runs it until the worker's deadline.
    ///
    /// # Errors
    /// [`StorageError::Tool`] with its last words, [`StorageError::ToolDeadline`], or that it could not be started.
    pub(crate) fn run(&self, worker: &Worker<'_>) -> Result<(), StorageError> {
        if let Some(source) = &self.copied {
            return self.run_metered(source, worker);
        }
        let (status, out, err) = self.start(worker, |pipe| drain(Some(pipe), OUTPUT_LIMIT), &mut || ())?;
        self.judge(status, &[text(&out.unwrap_or_default()), err].concat(), 1)
    }

    fn run_metered(&self, source: &Path, worker: &Worker<'_>) -> Result<(), StorageError> {
        let bytes = allocated(source);
        let mut meter = Meter::new(worker, source, bytes);
        let far = AtomicU64::new(0);
        let listen = |pipe| follow(pipe, |hundredths| far.store(hundredths, Ordering::Relaxed));
        let mut tell = || meter.reached(bytes.saturating_mul(far.load(Ordering::Relaxed)) / 10_000);
        let (status, _, err) = self.start(worker, listen, &mut tell)?;
        self.judge(status, &err, 1)
    }

    /// Runs it until the worker's deadline, however it ends; of its standard output the first `limit` bytes are kept.
    ///
    /// # Errors
    /// [`StorageError::ToolDeadline`], or that it could not be started.
    pub(crate) fn output(&self, worker: &Worker<'_>, limit: u64) -> Result<Ended, StorageError> {
        let (status, out, err) = self.start(worker, |pipe| drain(Some(pipe), limit), &mut || ())?;
        let late = || StorageError::ToolDeadline { tool: self.name.clone(), path: self.path.clone() };
        Ok(Ended { status: status.ok_or_else(late)?, out: out.unwrap_or_default(), err })
    }

    /// Runs it until the worker's deadline, with what it prints handed to `read`. Of what went wrong the reading comes
    /// second: a tool that failed printed what it printed in vain.
    ///
    /// # Errors
    /// As [`run`](Tool::run); what `read` says is returned as it is.
    pub(crate) fn stream<T: Send>(
        &self,
        worker: &Worker<'_>,
        read: impl FnOnce(ChildStdout) -> std::io::Result<T> + Send,
    ) -> Result<std::io::Result<T>, StorageError> {
        let (status, read, err) = self.start(worker, read, &mut || ())?;
        match read {
            // A full disk ends the reading, and that the tool.
            Some(Err(e)) => Ok(Err(e)),
            Some(Ok(value)) => self.judge(status, &err, 2).map(|()| Ok(value)),
            None => self.judge(status, &err, 2).map(|()| Err(std::io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Its status, none at the deadline; what was made of its output; its last words. `tick` is called every now and
    /// then until it ends.
    fn start<T: Send>(
        &self,
        worker: &Worker<'_>,
        read: impl FnOnce(ChildStdout) -> T + Send,
        tick: &mut dyn FnMut(),
    ) -> Result<(Option<ExitStatus>, Option<T>, String), StorageError> {
        let program = self.program.as_deref().unwrap_or(worker.qemu_img);
        let mut command = Command::new(program);
        // In the worker's process group, so that what ends the worker ends it too.
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value))).env("LC_ALL", "C");
        // Programs that make file systems are not in everybody's path.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"));
        let input = if self.input.is_empty() { Stdio::null() } else { Stdio::piped() };
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().during("start", program)?;
        if let Some(mut pipe) = child.stdin.take() {
            // It is less than a pipe holds. Who does not read it says by itself what it lacks.
            let _ = pipe.write_all(self.input.as_bytes());
        }
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (status, read, said) = std::thread::scope(|scope| {
            let out = scope.spawn(|| stdout.map(read));
            let err = scope.spawn(|| drain(stderr, OUTPUT_LIMIT));
            let status = wait(&mut child, worker.deadline, tick);
            (status, out.join().ok().flatten(), text(&err.join().unwrap_or_default()))
        });
        Ok((status.during("wait for", program)?, read, said))
    }

    /// What it worked on, and its words, with the names that half-made files are to have; the path is said once.
    fn as_it_will_be(&self, mut said: String) -> (PathBuf, String) {
        let path = named_at_last(&self.path);
        // A file without a name, which it was given by a number of ours.
        for numbered in self.args.iter().filter(|arg| Path::new(arg).starts_with("/proc")) {
            said = said.replace(&*numbered.to_string_lossy(), &path.display().to_string());
        }
        let said = told_at_last(&said);
        let again = format!("{}: ", path.display());
        let mut said = said.strip_prefix(&again).map(str::to_owned).unwrap_or(said);
        // Not all of them look why they could not write.
        let full = "No space left on device";
        if !said.contains(full) && self.places().any(is_full) {
            said = format!("{said}: {full}");
        }
        (path, said)
    }

    /// Where it writes.
    fn places(&self) -> impl Iterator<Item = &Path> {
        let half_made =
            |path: &&Path| path.starts_with("/proc") || path.to_string_lossy().contains(TEMPORARY);
        self.args.iter().map(Path::new).filter(half_made).chain([self.path.as_path()])
    }

    /// Whether it ended well; otherwise its last words, so many lines of them, are the reason.
    fn judge(&self, status: Option<ExitStatus>, said: &str, lines: usize) -> Result<(), StorageError> {
        let tool = || self.name.clone();
        match status {
            None => Err(StorageError::ToolDeadline { tool: tool(), path: named_at_last(&self.path) }),
            Some(status) if status.success() => Ok(()),
            Some(status) if status.code().is_some() && status.code() == self.allowed => Ok(()),
            Some(status) => {
                let whole = unfolded(&without_log(said));
                let words = if self.first {
                    said.lines().map(str::trim).filter(|line| !line.is_empty()).take(1).collect()
                } else {
                    last_words(&whole, lines)
                };
                let said = if words.is_empty() { status.to_string() } else { words.join("; ") };
                let (path, said) = self.as_it_will_be(said);
                Err(StorageError::Tool { tool: tool(), path, said })
            }
        }
    }
}

/// Whether the file system of that file has no room at all.
fn is_full(path: &Path) -> bool {
    let found = rustix::fs::statvfs(path).or_else(|_| rustix::fs::statvfs(path.parent().unwrap_or(path)));
    found.is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) < FULL)
}

/// How a tool ended.
pub(crate) struct Ended {
    pub status: ExitStatus,
    /// The first part of its standard output.
    pub out: Vec<u8>,
    /// The first part of what it complained.
    pub err: String,
}

/// Without the lines that a library has logged, which begin with the time: they come whenever they come, after the tool's own
/// last words too. Where there is nothing else they stay.
pub(crate) fn without_log(said: &str) -> String {
    let own: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty() && !is_logged(line)).collect();
    if own.is_empty() { said.to_owned() } else { own.join("\n") }
}

/// Whether a line begins as `2026-11-22T07:06:56.671+0000`.
fn is_logged(line: &str) -> bool {
    let like = |(byte, form): (u8, u8)| if form == b'0' { byte.is_ascii_digit() } else { byte == form };
    const TIME: &str = "0000-00-00T00:00:00.";
    line.len() > TIME.len() && line.bytes().zip(TIME.bytes()).all(like)
}

/// With lines that begin with a tab put to the line before them, where `mkfs.ext4` has the cause.
fn unfolded(said: &str) -> String {
    said.split("\n\t").map(str::trim_end).collect::<Vec<_>>().join(" ")
}

/// The last so many lines, and all that `qemu-img` says in its own name: its very last line may leave out the cause.
fn last_words(said: &str, lines: usize) -> Vec<&str> {
    const OWN: &str = "qemu-img: ";
    let words: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = words.len().saturating_sub(lines);
    let own = words.iter().position(|line| line.starts_with(OWN));
    words.into_iter().skip(own.unwrap_or(last).min(last)).map(|line| line.trim_start_matches(OWN)).collect()
}

/// Waits for a child's end; at the deadline it is killed and there is no status.
fn wait(child: &mut Child, deadline: Instant, tick: &mut dyn FnMut()) -> std::io::Result<Option<ExitStatus>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let handle = match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
        Some(Ok(handle)) => handle,
        // Without a handle there is nothing to wait on with a deadline; whoever started the worker still has one.
        _ => return child.wait().map(Some),
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let pause = Timespec::try_from(left.min(TICK)).ok();
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], pause.as_ref()) {
            Ok(0) if !left.is_zero() => tick(),
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            Ok(_) => return child.wait().map(Some),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Reads what `qemu-img -p` prints, `(12.34/100%)` again and again, to its end; `heard` is told of every hundredth of a
/// per cent.
fn follow(pipe: impl Read, heard: impl Fn(u64)) {
    let mut words = std::io::BufReader::new(pipe).split(b'/');
    while let Some(Ok(words)) = words.next() {
        let number = words.rsplit(|&byte| byte == b'(').next().and_then(|text| str::from_utf8(text).ok());
        let Some((whole, part)) = number.and_then(|text| text.split_once('.')) else { continue };
        if let (Ok(whole), Ok(part)) = (whole.parse::<u64>(), part.parse::<u64>()) {
            heard(whole.saturating_mul(100).saturating_add(part).min(10_000));
        }
    }
}

/// Reads a pipe to its end and keeps the first part: a full pipe would stop whoever writes to it.
fn drain(pipe: Option<impl Read>, limit: u64) -> Vec<u8> {
    let Some(mut pipe) = pipe else { return Vec::new() };
    let mut kept = Vec::new();
    if pipe.by_ref().take(limit).read_to_end(&mut kept).is_ok() {
        let _ = std::io::copy(&mut pipe, &mut std::io::sink());
    }
    kept
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(program: &Path, wait: Duration) -> Worker<'_> {
        Worker { qemu_img: program, ..Worker::new(Path::new("/"), Instant::now() + wait) }
    }

    fn script(dir: &Path, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("tool");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn its_last_words_are_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "echo noise; echo \"qemu-img: /x: no space; $1 $2 $3\" >&2; exit 1");
        let error = Tool::qemu_img("create", Path::new("/x"))
            .arg("a b")
            .run(&worker(&program, Duration::from_secs(20)));
        assert_eq!(error.unwrap_err().to_string(), "qemu-img create of /x: no space; create -q a b");
        let half_made = Path::new("/d/.causeway-tmp.disk.3.12-ab-0");
        let program = script(dir.path(), "echo \"qemu-img: $3: no space\" >&2; exit 1");
        let error = Tool::qemu_img("create", half_made)
            .arg(half_made)
            .run(&worker(&program, Duration::from_secs(20)));
        assert_eq!(error.unwrap_err().to_string(), "qemu-img create of /d/disk.3: no space");
        let words = "qemu-img: /y: Could not open '/y': Input/output error\nCould not open backing image.\n";
        assert_eq!(
            last_words(&format!("Formatting\n{words}"), 1).join("; "),
            "/y: Could not open '/y': Input/output error; Could not open backing image."
        );
        let folded = script(
            dir.path(),
            "printf '\\nmkfs: No space\\n\\twhile trying to create journal\\n' >&2; exit 1",
        );
        let error = Tool::named("mkfs.ext4", &folded, Path::new("/x"))
            .run(&worker(&program, Duration::from_secs(20)));
        let said = "mkfs.ext4 of /x: mkfs: No space while trying to create journal";
        assert_eq!(error.unwrap_err().to_string(), said);
        let program = script(dir.path(), "exit 3");
        let error = Tool::qemu_img("resize", Path::new("/x")).run(&worker(&program, Duration::from_secs(20)));
        assert_eq!(error.unwrap_err().to_string(), "qemu-img resize of /x: exit status: 3");
    }

    #[test]
    fn its_first_words_are_the_reason_where_its_last_tell_how_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "printf 'too small\\nUsage: mkfs\\n' >&2; exit 1");
        let worker = worker(Path::new("/none"), Duration::from_secs(20));
        let error = Tool::named("mkfs.xfs", &program, Path::new("/x")).first_words().run(&worker);
        assert_eq!(error.unwrap_err().to_string(), "mkfs.xfs of /x: too small");
    }

    /// As `rbd` may say it: its library writes by a thread of its own.
    #[test]
    fn what_a_library_logs_is_not_its_last_word() {
        let log = "2026-11-22T07:06:56.671+0000 7fd08889b380 -1 librbd: header creation failed\n";
        let own = "rbd: copy failed: (1) Operation not permitted";
        for said in [format!("{log}\n{own}\n"), format!("{own}\n{log}\n"), format!("{log}{own}\n{log}")] {
            assert_eq!(without_log(&said), own);
        }
        assert_eq!(without_log(log), log);
        let dated = "2026-11-22 is no time";
        assert_eq!(without_log(dated), dated);
    }

    #[test]
    fn how_far_a_conversion_is() {
        let heard = std::cell::RefCell::new(Vec::new());
        let said = b"    (0.00/100%)\r    (7.25/100%)\r(x/100%)(1.2.3/100%)    (100.00/100%)\r\n";
        follow(&said[..], |far| heard.borrow_mut().push(far));
        assert_eq!(*heard.borrow(), [0, 725, 10_000]);
    }

    #[test]
    fn fuzz_progress_and_last_words() {
        crate::seeded::fuzz("progress", |bytes| {
            follow(bytes, |far| assert!(far <= 10_000));
            let said = text(bytes);
            assert!(said.trim().is_empty() || !without_log(&said).trim().is_empty());
            assert!(
                last_words(&said, 1)
                    .iter()
                    .all(|line| !line.contains('\n') && !line.trim().is_empty() || line.is_empty())
            );
        });
    }

    #[test]
    fn full_pipes_stop_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2");
        Tool::qemu_img("create", Path::new("/x")).run(&worker(&program, Duration::from_secs(60))).unwrap();
    }

    #[test]
    fn it_ends_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "exec sleep 600");
        let error =
            Tool::qemu_img("convert", Path::new("/x")).run(&worker(&program, Duration::from_millis(50)));
        assert!(matches!(error, Err(StorageError::ToolDeadline { .. })), "{error:?}");
        let gone =
            Tool::qemu_img("convert", Path::new("/x")).run(&worker(Path::new("/none"), Duration::ZERO));
        assert!(gone.unwrap_err().to_string().starts_with("cannot start /none"));
    }
}
