//! A child process that cannot outlive its deadline, or us.
//!
//! The child leads a process group of its own, so that ending it ends what it started as well. It gets no input, and its
//! output goes to a file or to a pipe that somebody drains, so it can never wait for us. Dropping it kills and reaps it.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// Between asking a child to end and making it.
const GRACE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// A running child.
#[derive(Debug)]
pub struct Child {
    inner: std::process::Child,
    group: Option<Pid>,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts `argv`. Its standard error goes to `log`, and its standard output as well unless it is `piped`.
    pub fn start(argv: &[String], log: File, piped: bool) -> io::Result<Child> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let output = if piped { Stdio::piped() } else { log.try_clone()?.into() };
        let inner = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let group = i32::try_from(inner.id()).ok().and_then(Pid::from_raw);
        Ok(Child { inner, group, status: None })
    }

    /// The child's standard output, once.
    pub fn take_output(&mut self) -> Option<ChildStdout> {
        self.inner.stdout.take()
    }

    /// How it ended, if it has.
    pub fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.inner.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits until it ends or `done` says to stop waiting.
    pub fn wait_unless(&mut self, done: impl Fn() -> bool) -> io::Result<Option<ExitStatus>> {
        loop {
            match self.poll()? {
                Some(status) => return Ok(Some(status)),
                None if done() => return Ok(None),
                None => std::thread::sleep(LOOK),
            }
        }
    }

    /// Asks it, and everything in its group, to end.
    pub fn ask_to_end(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it and everything in its group: asks, waits two seconds, then makes them. Does nothing to a child that has
    /// been seen to end by itself: its group's number may belong to somebody else by now.
    pub fn end(&mut self) {
        if self.status.is_some() {
            return;
        }
        self.ask_to_end();
        let start = Instant::now();
        while !self.has_ended() && start.elapsed() < GRACE {
            std::thread::sleep(LOOK);
        }
        // Not reaped yet, so the number is still the group's, even if only deaf members are left in it.
        self.signal(Signal::KILL);
        match self.inner.wait() {
            Ok(status) => self.status = Some(status),
            Err(error) => tracing::warn!(pid = self.inner.id(), %error, "child not reaped"),
        }
    }

    /// Whether it has ended, without reaping it.
    fn has_ended(&self) -> bool {
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        self.group.is_none_or(|pid| matches!(waitid(WaitId::Pid(pid), peek), Ok(Some(_)) | Err(_)))
    }

    fn signal(&self, signal: Signal) {
        // The group may be gone, which is what is wanted.
        if let Some(group) = self.group {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn start(argv: &[&str], piped: bool) -> Child {
        let argv: Vec<_> = argv.iter().map(|s| (*s).to_owned()).collect();
        Child::start(&argv, tempfile::tempfile().unwrap(), piped).unwrap()
    }

    #[test]
    fn what_a_child_started_ends_with_it() {
        // The shell starts a sleep that holds the pipe open; reading to its end proves that both are gone.
        let mut child = start(&["sh", "-c", "sleep 1000 & echo $!; wait"], true);
        let mut output = child.take_output().unwrap();
        let mut first = [0; 1];
        output.read_exact(&mut first).unwrap();
        child.end();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        let pid = format!("{}{}", char::from(first[0]), rest.trim());
        assert!(!std::path::Path::new("/proc").join(pid).join("exe").exists());
    }

    #[test]
    fn a_deaf_child_ends_too() {
        let mut child = start(&["sh", "-c", "trap '' TERM; echo x; while :; do sleep 1; done"], true);
        let mut output = child.take_output().unwrap();
        output.read_exact(&mut [0; 1]).unwrap();
        drop(child);
        output.read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn a_child_tells_how_it_ended() {
        let mut child = start(&["sh", "-c", "exit 3"], false);
        let status = child.wait_unless(|| false).unwrap();
        assert_eq!(status.and_then(|s: ExitStatus| s.code()), Some(3));
        assert!(Child::start(&[], tempfile::tempfile().unwrap(), false).is_err());
    }
}
