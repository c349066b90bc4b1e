//! Our driver in its three forms.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use causeway_suite::programs::program;
use causeway_vnm::desired::Settings;
use causeway_vnm::root::{Hello, Outcome, Request, Response, RootClient, Verb, frame};

use super::once::{Call, begun, strace};
use super::vm::Vm;

const PATIENCE: Duration = Duration::from_secs(120);

/// Ticks of a second in `/proc` (proc(5), `USER_HZ`).
const TICKS: u64 = 100;

/// A request as the resident sends it.
///
/// # Errors
/// None for the names of the benchmark.
pub fn request(vm: &Vm, verb: Verb) -> anyhow::Result<Request> {
    let request = Request {
        id: "bench-1".parse().map_err(|e| anyhow::anyhow!("{e}"))?,
        verb,
        driver: vm.kind.driver().parse().map_err(|e| anyhow::anyhow!("{e}"))?,
        args: arguments(vm, verb),
        document: String::new(),
        settings: Settings::default(),
        dry_run: false,
        asked: None,
        deadline_ms: 60_000,
    };
    Ok(request.with_document(vm.document().as_bytes()))
}

/// The slot's arguments (contract VNM 1.3).
pub fn arguments(vm: &Vm, verb: Verb) -> Vec<String> {
    match verb {
        Verb::Pre => vec!["-".to_owned()],
        Verb::Post => vec![format!("one-{}", vm.id)],
        _ => Vec::new(),
    }
}

/// A privileged side that is kept, as by the resident.
pub struct Kept {
    client: RootClient,
    pid: u32,
    trace: Option<PathBuf>,
}

/// What a call on it took.
pub struct Took {
    /// Until the answer was there.
    pub wall: Duration,
    /// By its own clock.
    pub within: Duration,
    /// On processors, in ticks of the kernel.
    pub processor: Duration,
}

impl Kept {
    /// Starts it.
    ///
    /// # Errors
    /// It is not built.
    pub fn start() -> anyhow::Result<Kept> {
        Kept::of(&[program("causeway-root")?.into_os_string()], None)
    }

    /// Starts it under `strace`.
    ///
    /// # Errors
    /// It is not built, or there is no `strace`.
    pub fn traced(scratch: &Path) -> anyhow::Result<Kept> {
        let trace = scratch.join("kept-trace");
        let mut words = vec![OsString::from("strace")];
        words.extend(strace(&trace));
        words.push(program("causeway-root")?.into_os_string());
        Kept::of(&words, Some(trace))
    }

    fn of(words: &[OsString], trace: Option<PathBuf>) -> anyhow::Result<Kept> {
        let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
        let before = children()?;
        let client = RootClient::start(&words, PATIENCE)?;
        let new = children()?.into_iter().find(|pid| !before.contains(pid));
        Ok(Kept { client, pid: new.context("causeway-root's process")?, trace })
    }

    /// Does one action, which must end well.
    ///
    /// # Errors
    /// It fails: its own words.
    pub fn call(&mut self, vm: &Vm, verb: Verb) -> anyhow::Result<Took> {
        let request = request(vm, verb)?;
        let before = self.processor()?;
        let begun = Instant::now();
        let response = self.client.call(&request, PATIENCE)?;
        let wall = begun.elapsed();
        let processor = self.processor()?.saturating_sub(before);
        done(&response)?;
        Ok(Took { wall, within: Duration::from_micros(response.micros), processor })
    }

    /// The same; how many processes it began, of a side that is traced.
    ///
    /// # Errors
    /// As [`call`](Kept::call).
    pub fn forks(&mut self, vm: &Vm, verb: Verb) -> anyhow::Result<u64> {
        let trace = self.trace.clone().context("no trace")?;
        let before = begun(&fs::read_to_string(&trace)?);
        self.call(vm, verb)?;
        Ok(begun(&fs::read_to_string(&trace)?).saturating_sub(before))
    }

    fn processor(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let (_, fields) = stat.rsplit_once(") ").context("a line of /proc")?;
        // utime, stime, cutime and cstime: fields 14 to 17, of which two are in front of the parenthesis.
        let ticks = fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok());
        Ok(Duration::from_millis(ticks.sum::<u64>() * 1000 / TICKS))
    }

    /// The most memory it ever had, KiB.
    ///
    /// # Errors
    /// It is gone.
    pub fn peak(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|text| text.split_whitespace().next()?.parse().ok());
        kib.context("no VmHWM")
    }
}

/// The processes that this one started and did not wait for yet.
fn children() -> anyhow::Result<Vec<u32>> {
    let me = std::process::id().to_string();
    let mut out = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(me.as_str()) {
            out.push(pid);
        }
    }
    Ok(out)
}

fn done(response: &Response) -> anyhow::Result<()> {
    match &response.outcome {
        Outcome::Done => Ok(()),
        Outcome::Failed(failure) => bail!("{}", failure.text),
    }
}

/// `causeway-root` for one request: what it reads.
///
/// # Errors
/// None for the requests of the benchmark.
pub fn one_request(vm: &Vm, verb: Verb) -> anyhow::Result<Vec<u8>> {
    Ok(frame::encode(&request(vm, verb)?)?)
}

/// `causeway-root` for one request: the call.
///
/// # Errors
/// It is not built.
pub fn root(input: &[u8]) -> anyhow::Result<Call<'_>> {
    let words = vec![program("causeway-root")?.into_os_string()];
    Ok(Call { words, input, environment: Vec::new() })
}

/// Whether what it wrote says that it was done.
///
/// # Errors
/// It was not.
pub fn answered(mut output: &[u8]) -> anyhow::Result<()> {
    let hello = frame::read(&mut output)?.context("no hello")?;
    frame::decode::<Hello>(&hello)?;
    let response = frame::read(&mut output)?.context("no answer")?;
    done(&frame::decode(&response)?)
}

/// What a slot reads.
pub fn slot_input(vm: &Vm) -> Vec<u8> {
    BASE64_STANDARD.encode(vm.document()).into_bytes()
}

/// The slot as the stock driver process starts it, with `sudo` in front of the privileged side.
///
/// # Errors
/// It is not built.
pub fn slot<'a>(vm: &Vm, verb: Verb, input: &'a [u8], scratch: &Path) -> anyhow::Result<Call<'a>> {
    let mut words = vec![program("causeway-host")?.into_os_string(), "slot".into()];
    let root = format!("sudo -n {}", program("causeway-root")?.display());
    let state = scratch.join("state");
    fs::create_dir_all(&state)?;
    let remotes = scratch.join("remotes");
    words.extend(["--remotes".into(), remotes.into(), "--state".into(), state.into()]);
    words.extend(["--root".into(), root.into()]);
    words.push(format!("vnm/{}/{}", vm.kind.driver(), verb.as_str()).into());
    words.extend(arguments(vm, verb).into_iter().map(OsString::from));
    Ok(Call { words, input, environment: Vec::new() })
}
