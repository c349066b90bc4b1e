//! The road: from the observer's seat between the hosts.

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::{fs, io::BufRead, io::BufReader};

use anyhow::{Context, bail};
use causeway_observe::measure::Measurement;
use causeway_observe::mover::{Move, Outcome};
use causeway_observe::plan::Plan;
use causeway_observe::report::{MoveResult, Report, readable};
use causeway_predict::estimate::{Estimate, estimate};
use causeway_suite::oned::{Nest, Oned, Reply};
use causeway_suite::request::{Guest, Request};
use serde::Deserialize;

use crate::guest::{self, ADDRESS, OBSERVER, VNI};
use crate::lab::{HOSTS, Lab, say};
use crate::{Arguments, table};

/// Our programs on every machine of the lab.
const PROGRAMS: &str = "/usr/libexec/causeway";

/// What libvirt says of the last migration, at the destination.
#[derive(Debug, Deserialize)]
pub struct Job {
    /// In all, milliseconds.
    pub time_elapsed_ms: Option<u64>,
    /// The guest stood still, milliseconds.
    pub downtime_ms: Option<u64>,
    /// Sent, bytes.
    pub memory_processed: Option<u64>,
}

/// One move: what was foretold, and what came.
pub struct Leg {
    /// Foretold before the move.
    pub estimate: Estimate,
    /// What libvirt measured.
    pub job: Job,
}

/// Travels the road. The guest is taken down whatever happens.
///
/// # Errors
/// A step of the road failed; it is named.
pub fn travel(arguments: &Arguments, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    let lab = Lab::new(&arguments.lab)?;
    let vm = guest::virtual_machine(lab.directory());
    let mut oned = start_driver(&lab)?;
    let travelled = road(arguments, stop, &lab, &vm, &mut oned);
    let at = match &travelled {
        Ok(at) | Err((at, _)) => *at,
    };
    let ended = take_down(&lab, &vm, oned, at);
    match (travelled, ended) {
        (Ok(_), Ok(())) => Ok(ExitCode::SUCCESS),
        (Ok(_), Err(error)) => Err(error),
        (Err((_, error)), ended) => {
            if let Err(second) = ended {
                eprintln!("causeway-demo: and then: {second:#}");
            }
            Err(error)
        }
    }
}

/// The driver process, started as oned starts it, on the front-end.
fn start_driver(lab: &Lab) -> anyhow::Result<Oned> {
    say("starting the driver process in oned's place: the `qemu` entry, ARGUMENTS \"-t 15 -r 0 kvm\"");
    let words = lab.words(&["one", "fe", &format!("{PROGRAMS}/causeway-vmm"), "\"$@\""]);
    let quoted: Vec<String> =
        words.iter().map(|w| if w == "\"$@\"" { w.clone() } else { quote(w) }).collect();
    let script = lab.directory().join("driver.sh");
    fs::write(&script, format!("#!/bin/sh\nexec {}\n", quoted.join(" ")))?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, executable)?;
    let mut oned = Oned::start(&Nest::new(&script, "-t 15 -r 0 kvm", lab.directory()))?;
    let took = oned.init()?;
    // It has long been replaced by the driver.
    fs::remove_file(&script)?;
    println!("   INIT SUCCESS after {}", readable(took));
    Ok(oned)
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Where the guest is, with the error that ended the road there.
type Stranded = (usize, anyhow::Error);

fn road(
    arguments: &Arguments,
    stop: &AtomicBool,
    lab: &Lab,
    vm: &Guest,
    oned: &mut Oned,
) -> Result<usize, Stranded> {
    let at_start = |error| (0, error);
    deploy(lab, vm, oned).map_err(at_start)?;
    let mut legs = Vec::new();
    let mut at = 0;
    for number in 0..arguments.moves {
        if stop.load(Ordering::Relaxed) {
            return Err((at, anyhow::anyhow!("told to stop")));
        }
        let to = 1 - at;
        let leg = (|| {
            let estimate = foretell(lab, vm, at, to)?;
            let report = measure(arguments, stop, lab, vm, oned, at, to, number)?;
            let job = job(lab, vm, to)?;
            anyhow::Ok((Leg { estimate, job }, report))
        })();
        let (leg, report) = leg.map_err(|error| (at, error))?;
        at = to;
        legs.push(leg);
        account(&legs, &report).map_err(|error| (at, error))?;
        say("the guest's own verifier");
        let pages = guest::verify(lab).map_err(|error| (at, error))?;
        println!("   all {pages} pages that it wrote hold what it wrote");
    }
    table::judge(&legs).map_err(|error| (at, error))?;
    Ok(at)
}

fn ask(oned: &mut Oned, request: &Request) -> anyhow::Result<Reply> {
    let heard = oned.log().len();
    let reply = oned.ask(&request.action, request.vm, &request.render())?;
    for line in oned.log().iter().skip(heard).filter(|line| line.severity != 'D') {
        println!("   LOG {} {}", line.severity, line.text);
    }
    println!("   {} {} {} {}", reply.action, reply.status, reply.vm, reply.payload);
    if !reply.is_success() {
        bail!("{} failed", reply.action);
    }
    Ok(reply)
}

fn deploy(lab: &Lab, vm: &Guest, oned: &mut Oned) -> anyhow::Result<()> {
    say("DEPLOY on h1: context image, network, side files, guest");
    let request = vm.deploy(HOSTS[0])?;
    let directory = format!("/var/lib/one/vms/{}", vm.vm);
    lab.write("fe", &format!("{directory}/deployment.0"), &vm.deployment())?;
    lab.write("fe", &format!("{directory}/context.sh"), &format!("ETH0_IP='{ADDRESS}'\n"))?;
    lab.run(&["one", HOSTS[0], "mkdir", "-p", "/var/lib/one/datastores/0"])?;
    lab.run(&["observer", &VNI.to_string(), OBSERVER])?;
    ask(oned, &request)?;
    let booted = guest::wait(lab)?;
    println!("   the guest answers over the VXLAN {:.1} s later", booted.as_secs_f64());
    Ok(())
}

/// Measures the guest and the path, and foretells the move.
fn foretell(lab: &Lab, vm: &Guest, from: usize, to: usize) -> anyhow::Result<Estimate> {
    say(&format!(
        "survey on {}: the guest's memory and how fast it writes it; the path to {}",
        HOSTS[from], HOSTS[to]
    ));
    let causeway = format!("{PROGRAMS}/causeway");
    let guest = lab.run(&["one", HOSTS[from], &causeway, "survey", "guest", &vm.uuid])?;
    let path = probe_path(lab, from, to)?;
    let directory = "/var/lib/causeway/survey";
    lab.write(HOSTS[from], &format!("{directory}/guest.json"), &guest)?;
    lab.write(HOSTS[from], &format!("{directory}/path.json"), &path)?;
    let (guest, path) = (format!("{directory}/guest.json"), format!("{directory}/path.json"));
    let words = ["one", HOSTS[from], &causeway, "survey", "facts", "--guest", &guest, "--path", &path];
    let facts = lab.run(&words)?;
    let facts = serde_json::from_str(&facts).context("the survey's facts")?;
    let started = Instant::now();
    let estimate = estimate(&facts)?;
    say(&format!("prediction, made in {}", readable(started.elapsed())));
    table::prediction(&estimate);
    Ok(estimate)
}

/// A bounded stream from one host to the other.
fn probe_path(lab: &Lab, from: usize, to: usize) -> anyhow::Result<String> {
    let causeway = format!("{PROGRAMS}/causeway");
    let token = lab.run(&["one", HOSTS[to], &causeway, "survey", "token"])?;
    let address = format!("10.77.0.{}:0", to + 1);
    let mut sink = lab
        .command(&["one", HOSTS[to], &causeway, "survey", "sink", &address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = sink.stdin.take() {
        std::io::Write::write_all(&mut stdin, token.as_bytes())?;
    }
    let mut bound = String::new();
    if let Some(stdout) = sink.stdout.take() {
        BufReader::new(stdout).read_line(&mut bound)?;
    }
    let sent = lab.run_with(&["one", HOSTS[from], &causeway, "survey", "send", bound.trim()], &token);
    // The sink has limits of its own; one that was never reached is not waited for.
    if sent.is_err() {
        sink.kill()?;
    }
    sink.wait()?;
    sent
}

/// Moves the guest while probes watch it.
#[allow(clippy::too_many_arguments)]
fn measure(
    arguments: &Arguments,
    stop: &AtomicBool,
    lab: &Lab,
    vm: &Guest,
    oned: &mut Oned,
    from: usize,
    to: usize,
    number: u32,
) -> anyhow::Result<Report> {
    say(&format!("MIGRATE from {} to {}, watched from outside", HOSTS[from], HOSTS[to]));
    let request = vm.migrate(HOSTS[from], HOSTS[to])?;
    let output = arguments.output.join(format!("move-{}", number + 1));
    let plan = Plan::parse(&plan(lab, vm, from, to, &output))?;
    let mut failed = None;
    let mut mover = |_: &Move<'_>| match ask(oned, &request) {
        Ok(_) => Outcome::Done,
        Err(error) => {
            let text = format!("{error:#}");
            failed = Some(error);
            Outcome::Failed(text)
        }
    };
    let report = Measurement::new(plan).mover(&mut mover).stop(stop).run(&mut |_| {})?;
    if let Some(error) = failed {
        return Err(error);
    }
    if !report.is_complete() {
        let why =
            report.stopped.as_ref().map_or_else(|| "the move was not made".to_owned(), ToString::to_string);
        bail!("{why}");
    }
    println!("   the picture of the silence: {}", output.join("report.html").display());
    Ok(report)
}

/// The measurement's plan: three probes every 5 ms, and captures on both taps and at the observer.
fn plan(lab: &Lab, vm: &Guest, from: usize, to: usize, output: &Path) -> String {
    let argv = |words: Vec<String>| {
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        quoted.join(", ")
    };
    let tcpdump = ["-Q", "in", "-s", "64", "-U", "--immediate-mode", "-w", "-"];
    let tap = format!("one-{}-0", vm.vm);
    let on_tap =
        |host: &str| argv(lab.words(&[&["exec", host, "tcpdump", "-i", &tap][..], &tcpdump[..]].concat()));
    let observer = format!("obs{VNI}");
    let at_observer: Vec<String> =
        ["tcpdump", "-i", &observer].iter().chain(&tcpdump).map(|word| (*word).to_owned()).collect();
    let mac = vm.nic.as_ref().map_or("", |nic| nic.mac.as_str());
    format!(
        "output = {:?}\nsettle_before = \"1s\"\nsettle_after = \"2s\"\n\
         [guest]\naddress = \"{ADDRESS}\"\n\
         [[moves]]\nfrom = \"{}\"\nto = \"{}\"\n\
         [[probe]]\nkind = \"icmp\"\n[[probe]]\nkind = \"udp\"\nport = 7\n[[probe]]\nkind = \"tcp\"\nport = 7\n\
         [capture]\nmac = \"{mac}\"\nobserver = [{}]\n\
         [[capture.host]]\nname = \"{}\"\ncommand = [{}]\n\
         [[capture.host]]\nname = \"{}\"\ncommand = [{}]\n",
        output.display().to_string(),
        HOSTS[from],
        HOSTS[to],
        argv(at_observer),
        HOSTS[0],
        on_tap(HOSTS[0]),
        HOSTS[1],
        on_tap(HOSTS[1]),
    )
}

fn job(lab: &Lab, vm: &Guest, at: usize) -> anyhow::Result<Job> {
    let causeway = format!("{PROGRAMS}/causeway");
    let text = lab.run(&["one", HOSTS[at], &causeway, "survey", "job", &vm.uuid])?;
    serde_json::from_str(&text).context("libvirt's figures of the migration")
}

fn account(legs: &[Leg], report: &Report) -> anyhow::Result<()> {
    let leg = legs.last().context("no move was made")?;
    say("predicted | 90 % interval | measured");
    table::compare(leg);
    say("seen from outside");
    let result: &MoveResult = report.moves.first().context("no move was watched")?;
    for (probe, watch) in report.probes.iter().zip(&result.watches) {
        println!(
            "   {:<10} silent for {}, {} of {} lost",
            probe.plan.name,
            readable(watch.silence.length()),
            watch.lost,
            watch.asked
        );
    }
    match &result.network {
        Some(Ok(share)) => println!("   the network's share of the silence: {}", readable(share.share())),
        Some(Err(error)) => println!("   the network's share could not be told: {error}"),
        None => {}
    }
    Ok(())
}

/// Ends the guest, the driver, and looks whether anything of them is left on the hosts.
fn take_down(lab: &Lab, vm: &Guest, mut oned: Oned, at: usize) -> anyhow::Result<()> {
    say(&format!("SHUTDOWN on {}", HOSTS[at]));
    let shut = vm.shutdown(HOSTS[at]).map_err(Into::into).and_then(|request| ask(&mut oned, &request));
    if shut.is_err() {
        say("that failed: CLEANUP on both hosts");
        let request = vm.cleanup(HOSTS[at], Some(HOSTS[1 - at]))?;
        ask(&mut oned, &request)?;
    } else {
        let request = vm.cleanup(HOSTS[at], None)?;
        ask(&mut oned, &request)?;
    }
    oned.is_square()?;
    let ended = oned.finalize()?;
    println!("   FINALIZE: the driver ended after {}", readable(ended.took));
    lab.run(&["observer-off"])?;
    for host in HOSTS {
        nothing_left(lab, host, vm)?;
    }
    Ok(())
}

/// Looks for what a guest could leave behind on a host.
fn nothing_left(lab: &Lab, host: &str, vm: &Guest) -> anyhow::Result<()> {
    let domains = lab.run(&["exec", host, "virsh", "-q", "list", "--all", "--name"])?;
    let links = lab.run(&["exec", host, "ip", "-br", "link"])?;
    let rules = lab.run(&["exec", host, "nft", "list", "ruleset"])?;
    let directory = vm.directory().display().to_string();
    let files =
        lab.run(&["exec", host, "sh", "-c", &format!("ls -A {} 2>/dev/null || :", quote(&directory))])?;
    let qemu = lab.run(&["exec", host, "sh", "-c", "pgrep -a qemu || :"])?;
    let ours: Vec<&str> = links
        .lines()
        .filter(|l| l.starts_with("onebr") || l.starts_with("one-") || l.starts_with("eth0."))
        .collect();
    let left = [domains.trim(), &ours.join("; "), rules.trim(), files.trim(), qemu.trim()].join("");
    if !left.is_empty() {
        bail!("left on {host}: {left}");
    }
    println!("   {host}: no domain, link, rule, file or QEMU process is left");
    Ok(())
}
