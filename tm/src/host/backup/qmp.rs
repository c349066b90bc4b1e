//! QEMU's storage daemon, asked in its own language (QMP): one JSON object a line.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use serde_json::{Value, json};

use super::super::{During, StorageError, Worker};

/// The program: it comes with `qemu-img`.
const PROGRAM: &str = "qemu-storage-daemon";
/// Longest line that it may say, bytes.
const LINE: u64 = 1 << 20;
/// Most of its last words that are kept, bytes.
const WORDS: u64 = 4 << 10;

/// A daemon, which ends with this value.
pub(super) struct Daemon {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Events that came while something else was waited for.
    events: Vec<Value>,
    path: PathBuf,
    deadline: Instant,
}

impl Daemon {
    /// Starts it with these block devices, and without any other.
    ///
    /// # Errors
    /// It can't be started, or a device can't be opened.
    pub(super) fn start(nodes: &[Value], path: &Path, worker: &Worker<'_>) -> Result<Self, StorageError> {
        let mut command = Command::new(PROGRAM);
        for node in nodes {
            command.arg("--blockdev").arg(node.to_string());
        }
        command.args(["--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp"]).env("LC_ALL", "C");
        // In the worker's process group, so that what ends the worker ends it too.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.during("start", PROGRAM)?;
        let (tell, lines) = channel();
        let output = child.stdout.take();
        std::thread::spawn(move || {
            let mut output = output.map(BufReader::new);
            while let Some(Ok(line)) = output.as_mut().and_then(|output| line(output).transpose()) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        let (events, deadline) = (Vec::new(), worker.deadline);
        let mut daemon = Daemon { child, input, lines, events, path: path.to_owned(), deadline };
        let greeting = daemon.line()?;
        if greeting.get("QMP").is_none() {
            return Err(daemon.failed("it does not greet"));
        }
        daemon.ask("qmp_capabilities", json!({}))?;
        Ok(daemon)
    }

    /// Asks for something; what it returns.
    pub(super) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, StorageError> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        let sent = self.input.as_mut().map(|input| input.write_all(line.as_bytes()));
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.gone());
        }
        loop {
            match Said::of(self.line()?) {
                Said::Return(value) => return Ok(value),
                Said::Error(why) => return Err(self.failed(&why)),
                Said::Event(event) => self.events.push(event),
            }
        }
    }

    /// Waits for the end of a job, however it ends.
    pub(super) fn until_concluded(&mut self, job: &str) -> Result<(), StorageError> {
        let mut early = std::mem::take(&mut self.events);
        loop {
            let event = match early.pop() {
                Some(event) => event,
                None => self.line()?,
            };
            if concludes(&event, job) {
                return Ok(());
            }
        }
    }

    /// Ends it; what it had to write is written then.
    pub(super) fn end(mut self) -> Result<(), StorageError> {
        self.ask("quit", json!({}))?;
        self.input = None;
        // Its last lines: whoever stops reading might stop it.
        while self.lines.recv_timeout(self.left()).is_ok() {}
        let status = self.child.wait().during("wait for", PROGRAM)?;
        if status.success() { Ok(()) } else { Err(self.failed(&status.to_string())) }
    }

    /// A failure with these words.
    pub(super) fn failed(&self, said: &str) -> StorageError {
        StorageError::Tool { tool: PROGRAM.to_owned(), path: self.path.clone(), said: said.to_owned() }
    }

    fn left(&self) -> std::time::Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn line(&mut self) -> Result<Value, StorageError> {
        match self.lines.recv_timeout(self.left()) {
            Ok(line) => serde_json::from_str(&line).map_err(|_| self.failed("it says what is no JSON")),
            Err(RecvTimeoutError::Timeout) => {
                let (tool, path) = (PROGRAM.to_owned(), self.path.clone());
                Err(StorageError::ToolDeadline { tool, path })
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.gone()),
        }
    }

    /// It has ended by itself: its last words are the reason.
    fn gone(&mut self) -> StorageError {
        let mut said = String::new();
        if let Some(errors) = self.child.stderr.take() {
            let _ = errors.take(WORDS).read_to_string(&mut said);
        }
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it has ended");
        self.failed(last.trim_start_matches("qemu-storage-daemon: "))
    }
}

/// The next line; none at the end.
///
/// # Errors
/// It can't be read, is no text, or is longer than [`LINE`].
fn line(from: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut text = String::new();
    if from.take(LINE).read_line(&mut text)? == 0 {
        return Ok(None);
    }
    match text.strip_suffix('\n') {
        Some(line) => Ok(Some(line.to_owned())),
        None => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// What a line says.
#[derive(Debug, PartialEq)]
enum Said {
    /// What was asked for.
    Return(Value),
    /// Why it can't be done.
    Error(String),
    /// Something besides.
    Event(Value),
}

impl Said {
    fn of(mut line: Value) -> Self {
        if let Some(error) = line.get("error") {
            return Said::Error(text(error, "desc").unwrap_or("no reason").to_owned());
        }
        match line.get_mut("return") {
            Some(value) => Said::Return(value.take()),
            None => Said::Event(line),
        }
    }
}

/// Whether an event is the end of a job.
fn concludes(event: &Value, job: &str) -> bool {
    let of_job = |data: &Value| text(data, "id") == Some(job) && text(data, "status") == Some("concluded");
    text(event, "event") == Some("JOB_STATUS_CHANGE") && event.get("data").is_some_and(of_job)
}

/// A text that an object has.
pub(super) fn text<'v>(object: &'v Value, name: &str) -> Option<&'v str> {
    object.get(name).and_then(Value::as_str)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended is not there to be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_is_none() {
        let long = vec![b'x'; usize::try_from(LINE).unwrap()];
        for bytes in [&b"{\"return\":"[..], &long, b"\xff\n"] {
            assert!(line(&mut &bytes[..]).is_err());
        }
        let mut both = &b"{}\r\n\n"[..];
        assert_eq!(line(&mut both).unwrap().as_deref(), Some("{}\r"));
        assert_eq!(line(&mut both).unwrap().as_deref(), Some(""));
        assert_eq!(line(&mut both).unwrap(), None);
    }

    #[test]
    fn fuzz_what_qemu_says() {
        crate::seeded::fuzz("qemu", |mut bytes| {
            while let Ok(Some(line)) = line(&mut bytes) {
                let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
                let end = concludes(&value, "backup");
                let said = Said::of(value.clone());
                // An end is an event, which no answer is; and nothing is both an answer and a refusal.
                assert!(!end || value.get("event").is_some(), "{value}");
                match said {
                    Said::Return(_) => assert!(value.get("error").is_none()),
                    Said::Error(_) => assert!(value.get("error").is_some()),
                    Said::Event(event) => assert_eq!(event, value),
                }
            }
        });
    }
}
