//! A host of a case's own: network, mounts, and where it is wanted an Open vSwitch.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::vm::{Kind, Vm};

/// Does something on a thread that has a network and mounts of its own.
///
/// # Errors
/// This process may not make them, or the work fails.
pub fn inside<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let entered = || {
        enter().context("make a network namespace: this needs root")?;
        work()
    };
    std::thread::scope(|scope| {
        scope.spawn(entered).join().unwrap_or_else(|_| bail!("the benchmark's thread panicked"))
    })
}

fn enter() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for directory in ["/run", "/var/lib"] {
        mount(Some("bench"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    }
    // The network's own devices are below /sys.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
    for directory in ["/run/etc", "/run/etc-work", "/run/openvswitch"] {
        fs::create_dir(directory)?;
    }
    let layers = "lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc-work";
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(layers))?;
    fs::create_dir_all("/etc/causeway")?;
    fs::write("/etc/causeway/uplinks", "up0\nbr0\n")?;
    ip("link set lo up\n\
        link add up0 mtu 1600 type veth peer name far0 mtu 1600\n\
        addr add 10.77.0.1/24 dev up0\n\
        link set up0 up\n\
        link set far0 up\n")?;
    // Only the bridges that ask for it hand their frames to IP.
    for family in ["iptables", "ip6tables", "arptables"] {
        fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}"), "0")?;
    }
    Ok(())
}

/// Has `ip` do some lines.
///
/// # Errors
/// It refuses one of them.
pub fn ip(lines: &str) -> anyhow::Result<()> {
    feed(Command::new("ip").args(["-batch", "-"]), lines.as_bytes())
}

/// Runs a command with that input, which must end well.
///
/// # Errors
/// It does not: its own words.
pub fn feed(command: &mut Command, input: &[u8]) -> anyhow::Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("standard input")?.write_all(input)?;
    let out = child.wait_with_output()?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// A host.
pub struct Site {
    kind: Kind,
    /// For files of the benchmark's own.
    pub scratch: tempfile::TempDir,
    switch: Vec<Child>,
}

impl Site {
    /// With the operator's bridge `br0` of that driver's kind.
    ///
    /// # Errors
    /// A program is missing.
    pub fn new(kind: Kind) -> anyhow::Result<Site> {
        let mut site = Site { kind, scratch: tempfile::tempdir()?, switch: Vec::new() };
        match kind {
            Kind::Fw | Kind::Vxlan => {
                ip(
                    "link add br0 address 02:11:11:11:11:11 type bridge nf_call_iptables 1 nf_call_ip6tables 1\nlink set br0 up\n",
                )?;
            }
            Kind::Ovswitch => {
                site.start_switch()?;
                vsctl(&["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"])?;
            }
        }
        Ok(site)
    }

    fn start_switch(&mut self) -> anyhow::Result<()> {
        let database = self.scratch.path().join("conf.db").display().to_string();
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        feed(Command::new("ovsdb-tool").args(["create", &database, schema]), b"")?;
        let socket = "/run/openvswitch/db.sock";
        let daemon = |program: &str, words: &[&str]| {
            let said = fs::File::create(self.scratch.path().join(program))?;
            Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn()
        };
        let server = daemon("ovsdb-server", &[&database, &format!("--remote=punix:{socket}"), "--pidfile"])?;
        self.switch.push(server);
        let end = Instant::now() + Duration::from_secs(30);
        while UnixStream::connect(socket).is_err() {
            ensure!(Instant::now() < end, "ovsdb-server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        vsctl(&["--no-wait", "init"])?;
        let daemon = |program: &str, words: &[&str]| {
            let said = fs::File::create(self.scratch.path().join(program))?;
            Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn()
        };
        let switch = daemon("ovs-vswitchd", &[&format!("unix:{socket}"), "--pidfile"])?;
        self.switch.push(switch);
        Ok(())
    }

    /// Does what libvirt does with the devices of a guest that comes.
    ///
    /// # Errors
    /// A bridge is not there.
    pub fn plug(&self, vm: &Vm) -> anyhow::Result<()> {
        let mut lines = String::new();
        for nic in vm.each() {
            let (tap, peer) = (vm.tap(nic), peer(vm, nic));
            lines += &format!("link add {tap} type veth peer name {peer}\nlink set {peer} up\n");
            lines += &match self.kind {
                Kind::Ovswitch => format!("link set {tap} up\n"),
                _ => format!("link set {tap} master {} up\n", vm.bridge(nic)),
            };
        }
        ip(&lines)?;
        if self.kind != Kind::Ovswitch {
            return Ok(());
        }
        let mut words = Vec::new();
        for nic in vm.each() {
            words.extend(["--", "--may-exist", "add-port", "br0"].map(str::to_owned));
            words.push(vm.tap(nic));
            words.extend(["--", "set", "Interface"].map(str::to_owned));
            words.extend([vm.tap(nic), "external-ids:iface-status=active".to_owned()]);
        }
        vsctl(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Takes the devices away, as libvirt does when the guest has ended.
    ///
    /// # Errors
    /// They are not there.
    pub fn unplug(&self, vm: &Vm) -> anyhow::Result<()> {
        if self.kind == Kind::Ovswitch {
            let words = vm.each().flat_map(|nic| {
                ["--", "--if-exists", "del-port"].map(str::to_owned).into_iter().chain([vm.tap(nic)])
            });
            let words: Vec<String> = words.collect();
            vsctl(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        ip(&vm.each().map(|nic| format!("link del {}\n", vm.tap(nic))).collect::<String>())?;
        // What the kernel clears away in its own time is not the next action's cost.
        std::thread::sleep(Duration::from_millis(60));
        Ok(())
    }

    /// Its directory for files.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

fn peer(vm: &Vm, nic: u32) -> String {
    format!("g-{}-{nic}", vm.id)
}

fn vsctl(words: &[&str]) -> anyhow::Result<()> {
    feed(Command::new("ovs-vsctl").arg("--timeout=60").args(words), b"")
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in self.switch.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
