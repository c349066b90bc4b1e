//! The machines: started before the road, looked over and stopped after it, whatever happened on it.

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context;
use causeway_suite::lab::Lab;

use crate::Arguments;
use crate::fabric::Fabric;
use crate::silence::{self, Silences};

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

/// The lab in the directory that was asked for.
///
/// # Errors
/// Its script is not where the checkout has it.
pub fn lab(arguments: &Arguments) -> anyhow::Result<Lab> {
    Ok(Lab::new(&arguments.lab, PREFIX)?)
}

/// Travels the road on each fabric that was asked for, and puts their silences side by side.
///
/// # Errors
/// As [`around`]; or a road left no silences behind.
pub fn roads(arguments: &Arguments, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    let fabrics: &[Fabric] =
        if arguments.beside_bridge { &[Fabric::Vxlan, Fabric::Bridge] } else { &[arguments.fabric] };
    let mut silences = Vec::new();
    for &fabric in fabrics {
        say(&format!("the guest's network: {}", fabric.name()));
        let mut output = std::path::absolute(&arguments.output)?;
        if arguments.beside_bridge {
            output.push(fabric.name());
        }
        let code = around(arguments, fabric, &output, stop)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
        silences.push((fabric.name(), Silences::read(&output)?));
    }
    say("the silence, seen from outside");
    silence::print(&silences);
    Ok(ExitCode::SUCCESS)
}

/// Starts the lab, travels the road in its fabric, stops the lab, and looks whether anything is left.
///
/// # Errors
/// The lab can't be started, or something is left of it.
fn around(
    arguments: &Arguments,
    fabric: Fabric,
    output: &Path,
    stop: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let lab = lab(arguments)?;
    say("starting two hosts and a front-end");
    let start = Instant::now();
    lab.start()?;
    println!("   {:.1} s", start.elapsed().as_secs_f64());
    let ready = shape(&lab, arguments).and_then(|()| fabric.prepare(&lab));
    let travelled = ready.and_then(|()| enter(&lab, arguments, fabric, output, stop));
    say("stopping the hosts");
    lab.stop().context("something is left behind")?;
    println!("   no process, namespace, mount, cgroup, file or domain is left");
    travelled
}

/// Makes the cables as slow as they are to be.
fn shape(lab: &Lab, arguments: &Arguments) -> anyhow::Result<()> {
    for host in HOSTS.iter().filter(|_| arguments.link > 0) {
        let (cable, rate) = (format!("to-{host}"), format!("{}mbit", arguments.link));
        let shape = ["exec", "fab", "tc", "qdisc", "add", "dev", &cable, "root", "tbf"];
        lab.run(&[&shape[..], &["rate", &rate, "burst", "256k", "latency", "50ms"]].concat())?;
    }
    Ok(())
}

/// Goes on as the same program between the hosts, where an observer sits.
fn enter(
    lab: &Lab,
    arguments: &Arguments,
    fabric: Fabric,
    output: &Path,
    stop: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe()?.display().to_string();
    let (moves, output) = (arguments.moves.to_string(), output.display().to_string());
    let directory = lab.directory().display().to_string();
    let words = ["exec", "fab", &program, "--inside", "--moves", &moves, "--fabric", fabric.name()];
    let places = ["--output", &output, "--lab", &directory];
    let mut child = lab.command(&[&words[..], &places[..]].concat()).spawn()?;
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
