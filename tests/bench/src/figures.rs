//! Measures and prints.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use causeway_suite::front_end::{Answer, FrontEnd};
use causeway_suite::oned::Oned;
use causeway_suite::request::Request;

use crate::contender::Contender;
use crate::requests;

/// The slots that our own steps fill in table 2. `migrate` is left to a no-op: libvirt's test driver has no migration.
const OURS: [&str; 11] = [
    "vmm/kvm/deploy",
    "vmm/kvm/cancel",
    "vnm/vxlan/pre",
    "vnm/vxlan/post",
    "vnm/vxlan/clean",
    "tm/qcow2/context",
    "tm/qcow2/delete",
    "tm/qcow2/premigrate",
    "tm/qcow2/postmigrate",
    "tm/qcow2/failmigrate",
    "vmm/kvm/shutdown",
];

/// What one contender took.
pub struct Figures {
    /// Whose.
    pub name: String,
    /// By name, in order.
    pub rows: Vec<(String, f64, &'static str)>,
}

impl Figures {
    fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.rows.push((name.into(), value, unit));
    }
}

/// Table 1: no-op scripts in all slots.
///
/// # Errors
/// The driver does not answer as it should.
pub fn foreign(contender: &Contender, site: &FrontEnd, repeat: u32, burst: u32) -> anyhow::Result<Figures> {
    let mut figures = Figures { name: contender.name().to_owned(), rows: Vec::new() };
    site.answer("vmm/kvm/deploy", &Answer::says("6e1f0f2a-0000-4000-8000-000000000001"))?;
    start_times(contender, site, &mut figures)?;
    let mut oned = contender.start(site)?.with_patience(Duration::from_secs(300));
    oned.init()?;
    singles(site, &mut oned, repeat, &mut figures)?;
    let took = at_once(site, &mut oned, burst)?;
    figures.add(format!("{burst} DEPLOY at once"), took.as_secs_f64(), "s");
    figures.add("resident memory after them", mib(&oned, "VmRSS")?, "MiB");
    figures.add("peak resident memory", mib(&oned, "VmHWM")?, "MiB");
    oned.finalize()?;
    Ok(figures)
}

/// Table 2: our own steps.
///
/// # Errors
/// As [`foreign`].
pub fn built_in(site: &FrontEnd, repeat: u32, burst: u32) -> anyhow::Result<Figures> {
    for slot in OURS {
        site.our_slot(slot)?;
    }
    // Both "hosts" are this machine, which has no certificates: the kept session is what carries our own migration.
    site.configure("[migration]\ntransport = \"p2p\"")?;
    let contender = Contender::Ours;
    let mut figures = Figures { name: "ours".to_owned(), rows: Vec::new() };
    start_times(&contender, site, &mut figures)?;
    let mut oned = contender.start(site)?.with_patience(Duration::from_secs(300));
    oned.init()?;
    singles(site, &mut oned, repeat, &mut figures)?;
    let took = at_once(site, &mut oned, burst)?;
    let rate = f64::from(burst) / took.as_secs_f64();
    figures.add(format!("{burst} DEPLOY at once"), took.as_secs_f64(), "s");
    figures.add("DEPLOY per second", rate, "/s");
    figures.add("resident memory after them", mib(&oned, "VmRSS")?, "MiB");
    figures.add("peak resident memory", mib(&oned, "VmHWM")?, "MiB");
    oned.finalize()?;
    Ok(figures)
}

fn start_times(contender: &Contender, site: &FrontEnd, figures: &mut Figures) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let mut oned = contender.start(site)?;
        oned.init()?;
        times.push(start.elapsed());
        oned.finalize()?;
    }
    figures.add("start to INIT SUCCESS, median", milliseconds(median(&mut times)), "ms");
    Ok(())
}

/// One action after another.
fn singles(site: &FrontEnd, oned: &mut Oned, repeat: u32, figures: &mut Figures) -> anyhow::Result<()> {
    // The first action opens the session.
    let (mut deploys, mut moves) = (Vec::new(), Vec::new());
    let mut steps = Vec::new();
    for vm in 0..=repeat {
        let guest = requests::guest(site, 5000 + vm, false);
        let heard = oned.log().len();
        let deploy = timed(oned, &requests::deploy(site, &guest)?)?;
        let alone: f64 = oned.log().iter().skip(heard).filter_map(|line| step_time(&line.text)).sum();
        let migrate = timed(oned, &guest.migrate("node1", "node2")?)?;
        if vm > 0 {
            deploys.push(deploy);
            steps.push(Duration::from_secs_f64(alone / 1e3));
            moves.push(migrate);
        }
    }
    figures.add("DEPLOY, median", milliseconds(median(&mut deploys)), "ms");
    if steps.iter().any(|time| !time.is_zero()) {
        figures.add("DEPLOY, its steps alone", milliseconds(median(&mut steps)), "ms");
    }
    figures.add("MIGRATE, median", milliseconds(median(&mut moves)), "ms");
    Ok(())
}

/// What one of our log lines says that its step took, in milliseconds.
fn step_time(text: &str) -> Option<f64> {
    let (_, time) = text.rsplit_once(" in ")?;
    time.split_once(" ms")?.0.parse().ok()
}

fn timed(oned: &mut Oned, request: &Request) -> anyhow::Result<Duration> {
    let text = request.render();
    let start = Instant::now();
    oned.send(&request.action, request.vm, &text)?;
    let reply = oned.reply(&request.action, request.vm)?;
    if !reply.is_success() {
        bail!("{} of VM {}: {}", request.action, request.vm, reply.payload);
    }
    Ok(reply.at - start)
}

fn at_once(site: &FrontEnd, oned: &mut Oned, count: u32) -> anyhow::Result<Duration> {
    let mut texts = Vec::new();
    for vm in 0..count {
        let guest = requests::guest(site, 10_000 + vm, false);
        texts.push((guest.vm, requests::deploy(site, &guest)?.render()));
    }
    let start = Instant::now();
    for (vm, text) in &texts {
        oned.send("DEPLOY", *vm, text)?;
    }
    let mut last = start;
    for (vm, _) in &texts {
        let reply = oned.reply("DEPLOY", *vm)?;
        if !reply.is_success() {
            bail!("DEPLOY of VM {vm}: {}", reply.payload);
        }
        last = last.max(reply.at);
    }
    Ok(last - start)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A field of `/proc/<pid>/status` in MiB, of the driver process alone: not its ssh clients, file workers or residents.
fn mib(oned: &Oned, field: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", oned.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("no {field}"))? / 1024.0)
}

/// Prints one contender, or two with their ratio.
pub fn print(ours: &Figures, other: Option<&Figures>) {
    let head = other.map_or_else(String::new, |o| format!("{:>12} {:>10}", o.name, "ratio"));
    println!("{:<32} {:>12} {head}", "", ours.name);
    for (name, value, unit) in &ours.rows {
        let beside = other.and_then(|o| o.rows.iter().find(|(n, _, _)| n == name));
        let beside = beside.map_or_else(String::new, |(_, v, _)| format!("{v:>12.2} {:>9.1}x", v / value));
        println!("{name:<32} {value:>12.2} {beside} {unit}");
    }
}
