//! One contender through all actions, and what each took.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use causeway_suite::front_end::{Ear, FrontEnd};
use causeway_suite::oned::{Nest, Oned};
use causeway_suite::programs::program;

use super::Cluster;
use super::actions::{ACTIONS, Action};
use super::stock;
use super::usage::Group;
use super::vm::{self, Vm};

/// oned's `TM_MAD` entry, as far as the drivers of the benchmark go.
const ARGUMENTS: &str = "-t 15 -d shared,qcow2,ceph";

/// Whose drivers.
pub enum Contender {
    /// `causeway-tm`, and wrappers for it in the slots.
    Ours,
    /// `one_tm.rb` and its scripts, out of these sources.
    Stock(PathBuf),
}

/// What an action took, of all its repetitions.
#[derive(Default)]
pub struct Cost {
    times: Vec<Duration>,
    forks: u64,
    processor: Option<Duration>,
}

impl Cost {
    /// In milliseconds.
    pub fn median(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64() * 1e3
    }

    /// Processes and threads that each began.
    pub fn forks(&self) -> u64 {
        self.forks / u64::try_from(self.times.len().max(1)).unwrap_or(1)
    }

    /// Milliseconds on processors that each took.
    pub fn processor(&self) -> Option<f64> {
        let count = self.times.len().max(1);
        self.processor.map(|time| time.as_secs_f64() * 1e3 / f64::from(u32::try_from(count).unwrap_or(1)))
    }
}

/// What one contender took, by the action's name: through its driver process, and as an executable by itself.
#[derive(Default)]
pub struct Figures {
    pub driver: BTreeMap<&'static str, Cost>,
    pub slot: BTreeMap<&'static str, Cost>,
    /// Clones at once: how many, and the time until the last was answered.
    pub burst: Option<(u32, Duration)>,
    /// Peak memory of the driver process, and of the largest process that it left waiting for work; MiB.
    pub memory: (f64, f64),
}

/// A contender at work.
pub struct Site<'a> {
    contender: &'a Contender,
    front_end: FrontEnd,
    ear: Ear,
    cluster: Option<&'a Cluster>,
}

impl<'a> Site<'a> {
    /// Sets it up.
    ///
    /// # Errors
    /// A program is missing.
    pub fn new(contender: &'a Contender, cluster: Option<&'a Cluster>) -> anyhow::Result<Self> {
        let (mut front_end, ear) = (FrontEnd::new()?, Ear::open()?);
        // As on a front-end, where OpenNebula's wrapper for ssh keeps one open to each host.
        front_end.open_master(vm::HOST)?;
        let auth = front_end.var().join(".one/one_auth");
        fs::create_dir_all(auth.parent().unwrap_or(&auth))?;
        fs::write(auth, "oneadmin:secret\n")?;
        vm::announce_datastores(&ear, cluster);
        let site = Site { contender, front_end, ear, cluster };
        match contender {
            Contender::Ours => site.wrap()?,
            Contender::Stock(sources) => stock::lay(sources, &site.front_end)?,
        }
        site.images()?;
        Ok(site)
    }

    /// Puts our wrappers into the slots.
    fn wrap(&self) -> anyhow::Result<()> {
        let vm = self.vm(0);
        for action in &ACTIONS {
            let (slot, _) = action.slot(&vm);
            let path = self.front_end.var().join("remotes").join(&slot);
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::write(
                &path,
                format!("#!/bin/sh\nexec {} slot {slot} \"$@\"\n", program("causeway-tm")?.display()),
            )?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn images(&self) -> anyhow::Result<()> {
        let vm = self.vm(0);
        fs::create_dir_all(Path::new(&vm.image("layered")).parent().unwrap_or(Path::new("/")))?;
        for (name, format) in [("layered", "qcow2"), ("kept", "qcow2"), ("plain", "raw")] {
            make_image(Path::new(&vm.image(name)), format)?;
        }
        Ok(())
    }

    fn vm(&self, id: u32) -> Vm<'_> {
        Vm { id, site: &self.front_end, cluster: self.cluster }
    }

    fn nest(&self) -> anyhow::Result<Nest> {
        let nest = match self.contender {
            Contender::Ours => self.front_end.driver("causeway-tm", ARGUMENTS)?,
            Contender::Stock(sources) => stock::nest(sources, &self.front_end, ARGUMENTS)?,
        };
        Ok(nest.env("ONE_XMLRPC", self.ear.endpoint()))
    }

    /// Runs everything `repeat` times, and `burst` clones at once.
    ///
    /// # Errors
    /// An action fails.
    pub fn measure(&self, group: &Group, repeat: u32, burst: u32) -> anyhow::Result<Figures> {
        let mut figures = Figures::default();
        let mut oned = Oned::start(&self.nest()?)?.with_patience(Duration::from_secs(600));
        oned.init()?;
        // The first VM opens sessions and starts children.
        for number in 0..=repeat {
            let by_driver = self.furnish(7000 + number)?;
            for action in self.actions().filter(|action| action.scripted) {
                let took = cost(group, || self.script(&mut oned, &by_driver, action))?;
                if number > 0 {
                    figures.driver.entry(action.name).or_default().add(took);
                }
            }
            let by_slot = self.furnish(8000 + number)?;
            for action in self.actions() {
                let took = cost(group, || self.slot(&by_slot, action))?;
                if number > 0 {
                    figures.slot.entry(action.name).or_default().add(took);
                }
            }
        }
        figures.burst = Some((burst, self.burst(&mut oned, burst)?));
        figures.memory = self.memory(&oned)?;
        oned.finalize()?;
        Ok(figures)
    }

    fn actions(&self) -> impl Iterator<Item = &'static Action> {
        ACTIONS.iter().filter(|action| self.cluster.is_some() || !action.ceph)
    }

    /// A VM that oned knows, with its context.
    fn furnish(&self, id: u32) -> anyhow::Result<Vm<'_>> {
        let vm = self.vm(id);
        vm.announce(&self.ear);
        let directory = self.front_end.var().join(format!("vms/{id}"));
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("context.sh"), "ETH0_IP='10.0.0.7'\nTOKEN='YES'\n")?;
        Ok(vm)
    }

    fn send(&self, oned: &mut Oned, vm: &Vm<'_>, action: &Action) -> anyhow::Result<()> {
        let script = self.front_end.var().join(format!("vms/{}/transfer.0.bench", vm.id));
        fs::write(&script, (action.line)(vm) + "\n")?;
        oned.send_payload("TRANSFER", vm.id, script.to_str().context("a path")?)?;
        Ok(())
    }

    fn answered(oned: &mut Oned, id: u32, name: &str) -> anyhow::Result<()> {
        let reply = oned.reply("TRANSFER", id)?;
        if !reply.is_success() {
            let log: Vec<&str> = oned.log().iter().rev().take(8).map(|line| line.text.as_str()).collect();
            bail!("{name} of VM {id}: {}; {log:?}", reply.payload);
        }
        Ok(())
    }

    fn script(&self, oned: &mut Oned, vm: &Vm<'_>, action: &Action) -> anyhow::Result<()> {
        self.send(oned, vm, action)?;
        Site::answered(oned, vm.id, action.name)
    }

    fn slot(&self, vm: &Vm<'_>, action: &Action) -> anyhow::Result<()> {
        let (slot, words) = action.slot(vm);
        let mut command = Command::new(self.front_end.var().join("remotes").join(&slot));
        command.args(words).env("ONE_XMLRPC", self.ear.endpoint());
        match self.contender {
            Contender::Ours => command.env("ONE_LOCATION", self.front_end.location()),
            Contender::Stock(_) => command.envs(stock::environment(&self.front_end)),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| slot.clone())?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&action.stdin(vm))?;
        }
        let run = child.wait_with_output()?;
        if !run.status.success() {
            bail!("{slot} of VM {}: {}", vm.id, String::from_utf8_lossy(&run.stderr));
        }
        Ok(())
    }

    fn burst(&self, oned: &mut Oned, count: u32) -> anyhow::Result<Duration> {
        let clone = ACTIONS.first().context("no action")?;
        let vms: Vec<Vm<'_>> =
            (0..count).map(|number| self.furnish(10_000 + number)).collect::<Result<_, _>>()?;
        let begun = Instant::now();
        for vm in &vms {
            self.send(oned, vm, clone)?;
        }
        for vm in &vms {
            Site::answered(oned, vm.id, clone.name)?;
        }
        Ok(begun.elapsed())
    }

    /// Peak memory of the driver process, and of the largest other process of this site that still lives.
    fn memory(&self, oned: &Oned) -> anyhow::Result<(f64, f64)> {
        let root = self.front_end.root().display().to_string();
        let mut largest = 0.0_f64;
        for process in fs::read_dir("/proc")?.flatten() {
            let environment = fs::read(process.path().join("environ")).unwrap_or_default();
            let id = process.file_name().to_string_lossy().parse::<u32>();
            if id.is_ok_and(|id| id != oned.pid()) && String::from_utf8_lossy(&environment).contains(&root) {
                largest = largest.max(peak(&process.path()).unwrap_or(0.0));
            }
        }
        let driver = peak(&PathBuf::from(format!("/proc/{}", oned.pid())));
        Ok((driver.context("the driver process has ended")?, largest))
    }
}

impl Cost {
    fn add(&mut self, (time, forks, processor): (Duration, u64, Option<Duration>)) {
        self.times.push(time);
        self.forks += forks;
        self.processor = processor.map(|time| self.processor.unwrap_or_default() + time);
    }
}

/// What something takes.
fn cost(
    group: &Group,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<(Duration, u64, Option<Duration>)> {
    let (before, begun) = (group.used(), Instant::now());
    work()?;
    let (took, after) = (begun.elapsed(), group.used());
    let processor = after.processor.zip(before.processor).map(|(after, before)| after.saturating_sub(before));
    Ok((took, after.forks.saturating_sub(before.forks), processor))
}

/// What the same takes by hand, without any driver.
///
/// # Errors
/// A command fails.
pub fn by_hand(site: &Site<'_>, group: &Group, repeat: u32) -> anyhow::Result<BTreeMap<&'static str, Cost>> {
    let directory = site.front_end.root().join("by-hand");
    fs::create_dir_all(&directory)?;
    let mut costs = BTreeMap::<&'static str, Cost>::new();
    for number in 0..repeat {
        let vm = site.vm(9000 + number);
        for action in site.actions() {
            let commands = (action.by_hand)(&vm);
            if commands.is_empty() {
                continue;
            }
            // A new file each time, as for a driver.
            let _ = fs::remove_file(directory.join("by-hand"));
            let took = cost(group, || commands.iter().try_for_each(|command| run(command, &directory)))?;
            costs.entry(action.name).or_default().add(took);
        }
    }
    Ok(costs)
}

fn run(command: &[String], directory: &Path) -> anyhow::Result<()> {
    let (program, args) = command.split_first().context("no command")?;
    let run = Command::new(program).args(args).current_dir(directory).output()?;
    if !run.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&run.stderr));
    }
    Ok(())
}

/// What a session with nothing to do takes: over the open connection, and with one of its own.
///
/// # Errors
/// ssh fails.
pub fn sessions(site: &Site<'_>, repeat: u32) -> anyhow::Result<[Duration; 2]> {
    let client = site.front_end.root().join("ssh/ssh").display().to_string();
    let median = |options: &[&str]| {
        let words = [&[client.as_str()], options, &[vm::HOST, "true"]].concat();
        let command: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let once = |_| {
            let begun = Instant::now();
            run(&command, Path::new("/")).map(|()| begun.elapsed())
        };
        let mut times = (0..repeat.max(1)).map(once).collect::<Result<Vec<_>, _>>()?;
        times.sort();
        times.get(times.len() / 2).copied().context("no session")
    };
    Ok([median(&[])?, median(&["-o", "ControlPath=none"])?])
}

/// An image of 64 MiB with 16 of data.
///
/// # Errors
/// `qemu-img` or `qemu-io` fails.
pub fn make_image(path: &Path, format: &str) -> anyhow::Result<()> {
    let path = path.to_str().context("a path")?.to_owned();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    run(&words(&["qemu-img", "create", "-q", "-f", format, &path, "64M"]), Path::new("/"))?;
    run(&words(&["qemu-io", "-f", format, "-c", "write -q -P 0xa5 0 16M", &path]), Path::new("/"))
}

/// `VmHWM` in MiB.
fn peak(process: &Path) -> Option<f64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}
