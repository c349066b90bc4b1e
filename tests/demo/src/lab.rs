//! The machines: started before the road, looked over and stopped after it, whatever happened on it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use causeway_suite::programs::program;

use crate::Arguments;

/// The hosts.
pub const HOSTS: [&str; 2] = [FIRST, SECOND];

/// Where the guest begins.
pub const FIRST: &str = "h1";

/// Where it goes.
pub const SECOND: &str = "h2";

/// The other one of the two.
pub fn other(host: &str) -> &'static str {
    if host == FIRST { SECOND } else { FIRST }
}

/// A host's address in the underlay.
pub fn address(host: &str) -> &'static str {
    if host == FIRST { "10.77.0.1" } else { "10.77.0.2" }
}

/// Prefix of the lab's namespaces: another lab may run beside it.
const PREFIX: &str = "cwd";

/// Our executables on a host or on the front-end.
const PROGRAMS: [&str; 4] = ["causeway-vmm", "causeway-host", "causeway-root", "causeway"];

/// The lab's script, and the directory it works in.
#[derive(Debug, Clone)]
pub struct Lab {
    script: PathBuf,
    directory: PathBuf,
}

impl Lab {
    /// The lab in `directory`.
    ///
    /// # Errors
    /// The script is not where the checkout has it.
    pub fn new(directory: &Path) -> anyhow::Result<Lab> {
        Ok(Lab { script: checkout()?.join("tests/lab/lab.sh"), directory: directory.to_owned() })
    }

    /// Where it keeps its state and its caches.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `lab.sh` with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        command.args(words).env("LAB", &self.directory).env("P", PREFIX);
        command
    }

    /// The words that start a program elsewhere, for those who take an argv.
    pub fn words(&self, words: &[&str]) -> Vec<String> {
        let lab = format!("LAB={}", self.directory.display());
        let head = ["env".to_owned(), lab, self.script.display().to_string()];
        head.into_iter().chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    /// Runs it and gives back what it prints.
    ///
    /// # Errors
    /// It fails; the words and what it said are in the text.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        self.run_with(words, "")
    }

    /// Like [`run`](Lab::run), with a text on its standard input.
    ///
    /// # Errors
    /// As [`run`](Lab::run).
    pub fn run_with(&self, words: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("lab.sh {}", words.join(" ")))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).context("lab.sh does not read its input")?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!("lab.sh {}: {} {}", words.join(" "), output.status, String::from_utf8_lossy(&said).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a file on one of the machines, for oneadmin.
    ///
    /// # Errors
    /// As [`run`](Lab::run).
    pub fn write(&self, place: &str, path: &str, text: &str) -> anyhow::Result<()> {
        let script = "mkdir -p \"$(dirname \"$1\")\" && cat >\"$1\"";
        self.run_with(&["one", place, "sh", "-c", script, "sh", path], text).map(drop)
    }
}

/// The checkout that this program was built from.
fn checkout() -> anyhow::Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().context("the checkout is gone")
}

/// Starts the lab, travels the road in its fabric, stops the lab, and looks whether anything is left.
///
/// # Errors
/// The lab can't be started, or something is left of it.
pub fn around(arguments: &Arguments, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    let lab = Lab::new(&arguments.lab)?;
    say("starting two hosts and a front-end");
    let start = Instant::now();
    lab.run(&["stop"])?;
    lab.run(&["start"])?;
    println!("   {:.1} s", start.elapsed().as_secs_f64());
    let travelled = furnish(&lab, arguments).and_then(|()| enter(&lab, arguments, stop));
    say("stopping the hosts");
    lab.run(&["stop"])?;
    let left = lab.run(&["leftovers"]).context("something is left behind")?;
    print!("{left}");
    println!("   no process, namespace, mount, cgroup, file or domain is left");
    travelled
}

/// Installs our programs as an admin would.
fn furnish(lab: &Lab, arguments: &Arguments) -> anyhow::Result<()> {
    let libexec = lab.directory().join("libexec");
    for name in PROGRAMS {
        let built = program(name)?;
        fs::copy(&built, libexec.join(name)).with_context(|| built.display().to_string())?;
    }
    for host in HOSTS {
        // As `install.sh host` leaves a host, but for the programs, which the lab's machines share.
        let script = "install -d -o root -g oneadmin -m 1770 /var/lib/causeway && \
                      install -d -o root -g root -m 700 /var/lib/causeway/network && \
                      install -d -m 755 /etc/causeway && echo eth0 >/etc/causeway/uplinks";
        lab.run(&["exec", host, "sh", "-c", script])?;
        if arguments.link > 0 {
            let (cable, rate) = (format!("to-{host}"), format!("{}mbit", arguments.link));
            let shape = ["exec", "fab", "tc", "qdisc", "add", "dev", &cable, "root", "tbf"];
            let shape = [&shape[..], &["rate", &rate, "burst", "256k", "latency", "50ms"]].concat();
            lab.run(&shape)?;
        }
    }
    Ok(())
}

/// Goes on as the same program between the hosts, where an observer sits.
fn enter(lab: &Lab, arguments: &Arguments, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe()?.display().to_string();
    let output = std::path::absolute(&arguments.output)?.display().to_string();
    let (moves, directory) = (arguments.moves.to_string(), lab.directory().display().to_string());
    let words =
        ["exec", "fab", &program, "--inside", "--moves", &moves, "--output", &output, "--lab", &directory];
    let mut child = lab.command(&words).spawn()?;
    // Ctrl-C reaches the child by itself: it ends the road properly, and this side goes on to stop the lab.
    let status = child.wait()?;
    if stop.load(Ordering::Relaxed) {
        println!("   stopped on request");
        return Ok(ExitCode::from(130));
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A heading of the demo's own account.
pub fn say(text: &str) {
    println!("== {text}");
}
