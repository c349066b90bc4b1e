//! Runs an executable of somebody else's: argv and standard input exactly as the contract says, both pipes drained at
//! once, the whole process group killed when its time is up.

use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use crate::answer::{Failure, Kind};
use crate::plan::RETRY_PAUSE;
use crate::reach::group::{Group, once_ended};
use crate::reach::wire::Severity;

/// How much of each output stream is kept; the rest is read and dropped.
const OUTPUT_LIMIT: usize = 1 << 20;

/// What a script left behind when it ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Its standard output.
    pub stdout: String,
    /// Its log lines, in order (contract VMM 2.3 step 7).
    pub log: Vec<(Severity, String)>,
    /// What it says to a person: error lines and unmarked lines, apart from each other.
    pub complaint: String,
    /// Whether it ended with exit code 0.
    pub success: bool,
    /// How it ended: `exit code 1`.
    pub status: String,
}

/// How long what a script printed is waited for once it has ended: a process that it left behind may hold its pipes.
const LINGER: Duration = Duration::from_secs(1);

/// Runs `program` and waits for its end. What it leaves running behind it when it ends by itself is left alone, for
/// that is how scripts start daemons; past the deadline all of it is killed.
///
/// # Errors
/// [`Kind::HostState`] when it can't be started, [`Kind::Timeout`] when it does not end within `deadline`; a script
/// that ends with a failure is no error here.
pub async fn run(
    program: &Path,
    argv: &[String],
    stdin: &[u8],
    deadline: Duration,
) -> Result<Script, Failure> {
    let mut command = Command::new(program);
    command.args(argv).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    let started = command.spawn();
    let mut child = started
        .map_err(|e| Failure::new(Kind::HostState, format!("cannot start {}: {e}", program.display())))?;
    let mut group = Group::led_by(&child);
    match tokio::time::timeout(deadline, talk(&mut child, &mut group, stdin)).await {
        Ok(Ok(script)) => Ok(script),
        Ok(Err(e)) => Err(Failure::new(Kind::HostState, format!("{}: {e}", program.display()))),
        Err(_) => {
            drop(group);
            let seconds = deadline.as_secs_f64();
            let text = format!("{} did not end within {seconds} s and was killed", program.display());
            Err(once_ended(Failure::new(Kind::Timeout, text)).await)
        }
    }
}

/// Like [`run`], and again while it fails or is late, at most `retries` times (contract VMM 1.2, `-r`): `deadline` is for
/// all together, each having as much of it as any other. What the earlier ones logged comes first.
///
/// # Errors
/// As [`run`], of the last try.
pub async fn run_again(
    program: &Path,
    argv: &[String],
    stdin: &[u8],
    deadline: Duration,
    retries: u16,
) -> Result<Script, Failure> {
    let mut left = u32::from(retries);
    let each = deadline.saturating_sub(RETRY_PAUSE * left) / (left + 1);
    let mut earlier = Vec::new();
    loop {
        let mut result = run(program, argv, stdin, each).await;
        let trouble = match &mut result {
            Ok(script) if !script.success => {
                earlier.append(&mut script.log);
                script.status.clone()
            }
            Err(late) if late.kind == Kind::Timeout => late.text.clone(),
            _ => String::new(),
        };
        if trouble.is_empty() || left == 0 {
            return result
                .map(|script| Script { log: earlier.into_iter().chain(script.log).collect(), ..script });
        }
        left -= 1;
        earlier.push((Severity::Warning, format!("{trouble}; trying again")));
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn talk(child: &mut Child, group: &mut Group, stdin: &[u8]) -> std::io::Result<Script> {
    let input = child.stdin.take();
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut input) = input {
            // A script that does not read its input closes it: that is its right.
            let _ = input.write_all(stdin).await;
        }
        Ok(())
    };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = {
        let mut pipes =
            pin!(async { tokio::try_join!(feed, drain(output, &mut stdout), drain(errors, &mut stderr)) });
        let early = tokio::select! {
            drained = &mut pipes => drained.map(|_| None),
            status = child.wait() => status.map(Some),
        };
        let status = match early? {
            None => child.wait().await?,
            Some(status) => {
                group.release();
                // What came until then is what it said.
                if let Ok(drained) = tokio::time::timeout(LINGER, pipes).await {
                    drained?;
                }
                status
            }
        };
        group.release();
        status
    };
    let (log, complaint) = sort_stderr(&String::from_utf8_lossy(&stderr));
    Ok(Script {
        stdout: String::from_utf8_lossy(&stdout).trim_end_matches('\n').to_owned(),
        log,
        complaint,
        success: status.success(),
        status: match status.code() {
            Some(code) => format!("exit code {code}"),
            None => status.to_string(),
        },
    })
}

/// Reads `stream` to its end into `kept`.
async fn drain(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> std::io::Result<()> {
    let Some(mut stream) = stream else { return Ok(()) };
    let mut chunk = [0; 8192];
    loop {
        let length = stream.read(&mut chunk).await?;
        let Some(read) = chunk.get(..length).filter(|read| !read.is_empty()) else { return Ok(()) };
        let room = OUTPUT_LIMIT.saturating_sub(kept.len());
        kept.extend(read.iter().take(room));
    }
}

/// Sorts a script's standard error into log lines and the complaint for the user.
///
/// `ERROR: [id] text` and its three sisters are log lines. An error line and every unmarked line also belong to the
/// complaint; unlike the stock engine we keep a separator between them (contract VMM 7, A10).
pub fn sort_stderr(stderr: &str) -> (Vec<(Severity, String)>, String) {
    let mut log = Vec::new();
    let mut complaint: Vec<&str> = Vec::new();
    for line in stderr.lines().map(str::trim_end).filter(|l| !l.is_empty()) {
        let marks = [
            ("ERROR:", Severity::Error),
            ("INFO:", Severity::Info),
            ("WARN:", Severity::Warning),
            ("WARNING:", Severity::Warning),
            ("DEBUG:", Severity::Debug),
        ];
        let marked = marks.iter().find_map(|(mark, severity)| Some((line.strip_prefix(mark)?, *severity)));
        let (text, severity) = match marked {
            Some((text, severity)) => (without_id(text.trim_start()), severity),
            None => (line, Severity::Info),
        };
        if marked.is_none() || severity == Severity::Error {
            complaint.push(text);
        }
        log.push((severity, text.to_owned()));
    }
    (log, complaint.join("; "))
}

/// Drops the optional VM id in front of a log line's text.
fn without_id(text: &str) -> &str {
    match text.split_once(' ') {
        Some((id, rest)) if !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()) => rest.trim_start(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, Signal, kill_process};

    fn sh(script: &str, stdin: &[u8], deadline: Duration) -> Result<Script, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(Path::new("/bin/sh"), &["-c".to_owned(), script.to_owned()], stdin, deadline))
    }

    #[test]
    fn large_input_and_output_do_not_block_each_other() {
        let input = vec![b'x'; 3 << 20];
        let script = sh("cat; echo done >&2", &input, Duration::from_secs(60)).unwrap();
        assert!(script.success);
        assert_eq!(script.stdout.len(), OUTPUT_LIMIT);
        assert_eq!(script.complaint, "done");
    }

    #[test]
    fn a_script_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let failure = sh(&script, b"", Duration::from_millis(300)).unwrap_err();
        assert_eq!(failure.kind, Kind::Timeout);
        let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        for _ in 0..100 {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("process {pid} of the killed group still runs");
    }

    /// Contract VMM 1.2, `-r`.
    #[test]
    fn a_script_that_fails_is_tried_again_so_often_and_no_oftener() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let again = |good: u32, retries: u16| {
            let dir = tempfile::tempdir().unwrap();
            let runs = dir.path().join("runs");
            let text = format!(
                "cat >/dev/null; echo x >>{0}; n=$(wc -l <{0}); echo \"INFO: run $n\" >&2; [ $n = {good} ]",
                runs.display()
            );
            let argv = ["-c".to_owned(), text];
            let run = run_again(Path::new("/bin/sh"), &argv, b"in", Duration::from_secs(60), retries);
            let script = runtime.block_on(run).unwrap();
            (script.success, std::fs::read_to_string(runs).unwrap().lines().count(), script.log)
        };
        assert_eq!((again(1, 2).0, again(1, 2).1), (true, 1));
        let (success, runs, log) = again(2, 2);
        assert_eq!((success, runs), (true, 2));
        let log: Vec<&str> = log.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(log, ["run 1", "exit code 1; trying again", "run 2"]);
        assert_eq!((again(9, 1).0, again(9, 1).1), (false, 2));
        assert_eq!((again(9, 0).0, again(9, 0).1), (false, 1));
        // The time of all together is that of each, so often.
        let argv = ["-c".to_owned(), "sleep 1000".to_owned()];
        let late = run_again(Path::new("/bin/sh"), &argv, b"", Duration::from_millis(1400), 1);
        assert!(runtime.block_on(late).unwrap_err().text.contains("within 0.2 s"));
    }

    #[test]
    fn a_daemon_that_a_script_leaves_behind_lives_and_holds_nobody_up() {
        let script = sh("echo one-7; sleep 1000 & echo $! >&2", b"", Duration::from_secs(60)).unwrap();
        assert_eq!(script.stdout, "one-7");
        let pid = script.complaint.parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).expect("the daemon still runs");
    }

    #[test]
    fn log_lines_and_complaints_are_told_apart() {
        let (log, complaint) = sort_stderr("ERROR: 7 no disk\nplain\n\nWARNING: odd\nINFO: fine\n");
        assert_eq!(complaint, "no disk; plain");
        let severities: Vec<Severity> = log.iter().map(|(s, _)| *s).collect();
        assert_eq!(severities, [Severity::Error, Severity::Info, Severity::Warning, Severity::Info]);
    }
}
