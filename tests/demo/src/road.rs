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
use causeway_predict::estimate::{Estimate, Facts, estimate};
use causeway_suite::lab::guest::{self, ADDRESS};
use causeway_suite::lab::{LIBEXEC, Lab, truth};
use causeway_suite::oned::{Nest, Oned, Reply};
use causeway_suite::request::{Guest, Request};
use serde::Deserialize;

use crate::lab::{FIRST, HOSTS, address, other, say};
use crate::silence::Silences;
use crate::{Arguments, lab, table};

/// MiB that the guest keeps writing to, and how many pages a second.
const WRITES: (u32, u32) = (24, 1500);

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

/// What the road is travelled with, and how far it has been.
struct Road<'a> {
    arguments: &'a Arguments,
    stop: &'a AtomicBool,
    lab: &'a Lab,
    vm: &'a Guest,
    oned: Oned,
    /// The guest's host.
    at: &'static str,
    /// What earlier moves between these hosts taught.
    known: table::Known,
    /// The observer's device.
    observer: String,
    silences: Silences,
}

/// Travels the road. The guest is taken down whatever happens.
///
/// # Errors
/// A step of the road failed; it is named.
pub fn travel(arguments: &Arguments, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    let lab = lab::lab(arguments)?;
    let (mib, pages) = WRITES;
    let mut vm = guest::virtual_machine(lab.directory(), mib, pages);
    arguments.fabric.carry(&mut vm);
    let observer = arguments.fabric.observer(&lab)?;
    let oned = start_driver(&lab)?;
    let (known, silences) = (table::Known::default(), Silences::default());
    let mut road = Road { arguments, stop, lab: &lab, vm: &vm, oned, at: FIRST, known, observer, silences };
    let travelled = road.travel();
    let ended = road.take_down();
    match (travelled, ended) {
        (Ok(()), Ok(())) => Ok(ExitCode::SUCCESS),
        (Ok(()), Err(error)) => Err(error),
        (Err(error), ended) => {
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
    let words = lab.words(&["one", "fe", &format!("{LIBEXEC}/causeway-vmm"), "\"$@\""]);
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

impl Road<'_> {
    fn travel(&mut self) -> anyhow::Result<()> {
        self.deploy()?;
        self.calibrate()?;
        let mut legs = Vec::new();
        for number in 1..=self.arguments.moves {
            self.go_on()?;
            let to = other(self.at);
            let facts = self.known.applied_to(self.survey(to)?);
            let started = Instant::now();
            let estimate = estimate(&facts)?;
            say(&format!("prediction, made in {}", readable(started.elapsed())));
            table::prediction(&estimate);
            let report = self.measure(to, number)?;
            let leg = Leg { estimate, job: self.job()? };
            account(&leg, &report)?;
            self.silences.note(&report);
            self.silences.write(&self.arguments.output)?;
            self.known.learn(&leg);
            legs.push(leg);
            say("the guest's own verifier");
            let pages = guest::verify(self.lab)?;
            println!("   all {pages} pages that it wrote hold what it wrote");
        }
        table::judge(&legs)
    }

    fn go_on(&self) -> anyhow::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("told to stop");
        }
        Ok(())
    }

    /// Two moves of the guest while it rests, there and back, show what this pair of hosts adds to the model: the start
    /// of the receiving QEMU, stop and resume, and how fast a busy machine copies and encrypts.
    fn calibrate(&mut self) -> anyhow::Result<()> {
        say("calibration: the resting guest goes there and back");
        let (mib, pages) = WRITES;
        self.lab.run(&["ask", ADDRESS, &format!("set {mib} 0")])?;
        for _ in HOSTS {
            self.go_on()?;
            let to = other(self.at);
            let facts = self.known.applied_to(self.survey(to)?);
            let estimate = estimate(&facts)?;
            let request = self.vm.migrate(self.at, to)?;
            ask(&mut self.oned, &request)?;
            self.at = to;
            let leg = Leg { estimate, job: self.job()? };
            table::compare(&leg);
            self.known.learn(&leg);
        }
        self.lab.run(&["ask", ADDRESS, &format!("set {mib} {pages}")])?;
        Ok(())
    }
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

impl Road<'_> {
    fn deploy(&mut self) -> anyhow::Result<()> {
        let (lab, vm) = (self.lab, self.vm);
        say("DEPLOY on h1: context image, network, side files, guest");
        let request = vm.deploy(FIRST)?;
        guest::prepare(lab, vm)?;
        ask(&mut self.oned, &request)?;
        let booted = guest::wait(lab)?;
        println!("   the guest answers over the VXLAN {:.1} s later", booted.as_secs_f64());
        Ok(())
    }

    /// Measures the guest and the path.
    fn survey(&self, to: &'static str) -> anyhow::Result<Facts> {
        let (lab, from) = (self.lab, self.at);
        say(&format!("survey on {}: the guest's memory and how fast it writes it; the path to {}", from, to));
        let causeway = format!("{LIBEXEC}/causeway");
        let guest = lab.run(&["one", from, &causeway, "survey", "guest", &self.vm.uuid])?;
        let path = probe_path(lab, from, to)?;
        let directory = "/var/lib/causeway/survey";
        lab.write(from, &format!("{directory}/guest.json"), &guest)?;
        lab.write(from, &format!("{directory}/path.json"), &path)?;
        let (guest, path) = (format!("{directory}/guest.json"), format!("{directory}/path.json"));
        let words = ["one", from, &causeway, "survey", "facts", "--guest", &guest, "--path", &path];
        serde_json::from_str(&lab.run(&words)?).context("the survey's facts")
    }

    /// Moves the guest while probes watch it.
    fn measure(&mut self, to: &'static str, number: u32) -> anyhow::Result<Report> {
        let (arguments, stop, lab, vm, from) = (self.arguments, self.stop, self.lab, self.vm, self.at);
        let oned = &mut self.oned;
        say(&format!("MIGRATE from {} to {}, watched from outside", from, to));
        let request = vm.migrate(from, to)?;
        let output = arguments.output.join(format!("move-{number}"));
        let plan = Plan::parse(&plan(lab, vm, &self.observer, (from, to), &output))?;
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
        self.at = to;
        if !report.is_complete() {
            let why = report
                .stopped
                .as_ref()
                .map_or_else(|| "the move was not made".to_owned(), ToString::to_string);
            bail!("{why}");
        }
        println!("   the picture of the silence: {}", output.join("report.html").display());
        Ok(report)
    }

    fn job(&self) -> anyhow::Result<Job> {
        let causeway = format!("{LIBEXEC}/causeway");
        let text = self.lab.run(&["one", self.at, &causeway, "survey", "job", &self.vm.uuid])?;
        serde_json::from_str(&text).context("libvirt's figures of the migration")
    }

    /// Ends the guest, the driver, and looks whether anything of them is left on the hosts.
    fn take_down(mut self) -> anyhow::Result<()> {
        let (lab, vm, at) = (self.lab, self.vm, self.at);
        say(&format!("SHUTDOWN on {}", at));
        let shut = vm.shutdown(at).map_err(Into::into);
        let shut = shut.and_then(|request| ask(&mut self.oned, &request));
        // Where the guest is, is not known for sure if that failed: both hosts are cleaned then.
        let other = shut.is_err().then(|| other(at));
        let request = vm.cleanup(at, other)?;
        ask(&mut self.oned, &request)?;
        self.oned.is_square()?;
        let ended = self.oned.finalize()?;
        println!("   FINALIZE: the driver ended after {}", readable(ended.took));
        lab.run(&["observer-off"])?;
        for host in HOSTS {
            truth::nothing_left(lab, host)?;
            println!("   {host}: no domain, link, rule or QEMU process is left");
        }
        truth::no_file_left(lab, vm)?;
        println!("   no file of the guest is left");
        Ok(())
    }
}

/// A bounded stream from one host to the other.
fn probe_path(lab: &Lab, from: &str, to: &'static str) -> anyhow::Result<String> {
    let causeway = format!("{LIBEXEC}/causeway");
    let token = lab.run(&["one", to, &causeway, "survey", "token"])?;
    let address = format!("{}:0", address(to));
    let mut sink = lab
        .command(&["one", to, &causeway, "survey", "sink", &address])
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
    let sent = lab.run_with(&["one", from, &causeway, "survey", "send", bound.trim()], &token);
    // The sink has limits of its own; one that was never reached is not waited for.
    if sent.is_err() {
        sink.kill()?;
    }
    sink.wait()?;
    Ok(sent?)
}

/// The measurement's plan: three probes every 5 ms, and captures on both taps and at the observer.
fn plan(lab: &Lab, vm: &Guest, observer: &str, (from, to): (&str, &str), output: &Path) -> String {
    let argv = |words: Vec<String>| {
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        quoted.join(", ")
    };
    let tcpdump = ["-Q", "in", "-s", "64", "-U", "--immediate-mode", "-w", "-"];
    let tap = format!("one-{}-0", vm.vm);
    let on_tap =
        |host: &str| argv(lab.words(&[&["exec", host, "tcpdump", "-i", &tap][..], &tcpdump[..]].concat()));
    let at_observer: Vec<String> =
        ["tcpdump", "-i", observer].iter().chain(&tcpdump).map(|word| (*word).to_owned()).collect();
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
        from,
        to,
        argv(at_observer),
        FIRST,
        on_tap(FIRST),
        other(FIRST),
        on_tap(other(FIRST)),
    )
}

fn account(leg: &Leg, report: &Report) -> anyhow::Result<()> {
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
