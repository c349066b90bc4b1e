//! Runs a command once and says what it cost. A process of its own does that (this program, started with [`WORD`]): what it waited
//! for is that one command and what it started, and nothing else.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// The first argument that makes this program such a process.
pub const WORD: &str = "--once";

/// What a command cost.
#[derive(Clone, Copy, Default)]
pub struct Once {
    /// From its start to its end.
    pub wall: Duration,
    /// On processors, with all that it started and waited for.
    pub processor: Duration,
    /// Of the largest of its processes, KiB.
    pub peak: u64,
}

/// The process itself: runs `command` and writes its cost into the file `report`.
///
/// # Errors
/// The command can't be started, or the report not be written.
pub fn main(report: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let (program, words) = command.split_first().context("no command")?;
    let begun = Instant::now();
    let status = Command::new(program).args(words).status().with_context(|| program.clone())?;
    let wall = begun.elapsed();
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let processor = duration(used.user_time()) + duration(used.system_time());
    let told = format!("{} {} {}", wall.as_nanos(), processor.as_nanos(), used.max_rss());
    fs::write(report, told)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn duration(time: TimeVal) -> Duration {
    let micros = time.tv_sec().saturating_mul(1_000_000).saturating_add(time.tv_usec());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// A command to run so.
pub struct Call<'a> {
    pub words: Vec<OsString>,
    pub input: &'a [u8],
    pub environment: Vec<(&'static str, OsString)>,
}

impl Call<'_> {
    /// Runs it; what it cost, and what it printed. Its files are in `scratch`.
    ///
    /// # Errors
    /// It ends with a failure: its own words.
    pub fn run(&self, scratch: &Path) -> anyhow::Result<(Once, Vec<u8>)> {
        let report = scratch.join("report");
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(WORD).arg(&report).args(&self.words);
        let output = self.finish(command, scratch)?;
        let text = fs::read_to_string(&report)?;
        let numbers: Vec<u64> = text.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [wall, processor, peak] = numbers.try_into().ok().context("the report")?;
        let once =
            Once { wall: Duration::from_nanos(wall), processor: Duration::from_nanos(processor), peak };
        Ok((once, output))
    }

    /// Runs it under `strace`; how many processes it and those began, threads not counted.
    ///
    /// # Errors
    /// As [`run`](Call::run).
    pub fn forks(&self, scratch: &Path) -> anyhow::Result<u64> {
        let trace = scratch.join("trace");
        let mut command = Command::new("strace");
        command.args(strace(&trace)).args(&self.words);
        self.finish(command, scratch)?;
        Ok(begun(&fs::read_to_string(&trace)?))
    }

    fn finish(&self, mut command: Command, scratch: &Path) -> anyhow::Result<Vec<u8>> {
        fs::write(scratch.join("stdin"), self.input)?;
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(File::open(scratch.join("stdin"))?).stdout(Stdio::piped()).stderr(Stdio::piped());
        let out = command.output()?;
        let said = String::from_utf8_lossy(&out.stderr);
        let said: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let first = said.iter().take(3).copied().collect::<Vec<_>>().join("; ");
        ensure!(out.status.success(), "{first}");
        Ok(out.stdout)
    }
}

/// Whether there is a `strace`; without it no forks are counted.
pub fn can_trace() -> bool {
    let tried = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Arguments of `strace` for counting forks into a file; the command follows.
pub fn strace(trace: &Path) -> Vec<OsString> {
    let words = ["-f", "-qq", "-e", "trace=clone,clone3,fork,vfork", "-e", "signal=none", "-o"];
    words.iter().map(OsString::from).chain([trace.into()]).collect()
}

/// The processes that a trace tells of.
pub fn begun(trace: &str) -> u64 {
    let is_fork = |line: &&str| {
        let made = line.rsplit_once(" = ").is_some_and(|(_, number)| {
            number.split(' ').next().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n > 0)
        });
        made && !line.contains("CLONE_THREAD")
    };
    u64::try_from(trace.lines().filter(is_fork).count()).unwrap_or(0)
}
