//! A real sshd on loopback, and the client's configuration that gives it the hosts' names.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{make_directory, write, write_script};
use crate::error::SuiteError;
use crate::programs::own_program;

/// The hosts and their addresses: all of 127/8 is this machine.
const HOSTS: [(&str, Ipv4Addr); 3] = [
    ("node1", Ipv4Addr::new(127, 0, 0, 1)),
    ("node2", Ipv4Addr::new(127, 0, 0, 2)),
    ("localhost", Ipv4Addr::new(127, 0, 0, 3)),
];

/// A host that accepts connections and never speaks.
const SILENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

/// How long sshd may take to listen, on a busy machine.
const UP: Duration = Duration::from_secs(20);

/// The name of the host with that address.
pub(super) fn host_at(address: &str) -> Option<&'static str> {
    HOSTS.iter().find(|(_, own)| own.to_string() == address).map(|(name, _)| *name)
}

/// The daemon. Ends, with its sessions, when dropped.
pub(super) struct Sshd {
    directory: PathBuf,
    port: u16,
    daemon: Option<Child>,
    masters: Vec<Child>,
    _silent: TcpListener,
}

impl Sshd {
    /// Makes keys and configuration in `directory`, and starts the daemon there.
    pub fn start(directory: &Path) -> Result<Sshd, SuiteError> {
        make_directory(directory)?;
        for key in ["host_key", "user_key"] {
            keygen(&directory.join(key))?;
        }
        let public = directory.join("user_key.pub");
        fs::copy(&public, directory.join("authorized_keys"))
            .map_err(SuiteError::io(public.display().to_string()))?;
        let silent = TcpListener::bind((SILENT, 0)).map_err(SuiteError::io("listen on loopback"))?;
        let silent_port = silent.local_addr().map_err(SuiteError::io("listen on loopback"))?.port();
        let mut sshd = Sshd {
            directory: directory.to_owned(),
            port: 0,
            daemon: None,
            masters: Vec::new(),
            _silent: silent,
        };
        let mut last = None;
        // Somebody else may take the port between our choice and the daemon's start.
        for _ in 0..5 {
            sshd.port = free_port()?;
            sshd.configure(silent_port)?;
            match sshd.restart() {
                Ok(()) => return Ok(sshd),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| SuiteError::NotUp { what: "sshd".to_owned(), said: String::new() }))
    }

    /// Starts the daemon on the port it has.
    pub fn restart(&mut self) -> Result<(), SuiteError> {
        // Debian's sshd wants this directory when root starts it, and without systemd nobody has made it.
        if nix::unistd::geteuid().is_root() {
            make_directory(Path::new("/run/sshd"))?;
        }
        let log = self.directory.join("sshd.log");
        let mut command = Command::new(own_program("causeway-nest")?);
        // Not `-e` as well: it would win over the file.
        command.arg("tied").arg(sshd_program()).args(["-D", "-f"]).arg(self.directory.join("sshd_config"));
        command.arg("-E").arg(&log).stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
        let mut child = command.spawn().map_err(SuiteError::io("start sshd"))?;
        let limit = Instant::now() + UP;
        while !self.listens() {
            let ended = child.try_wait().map_err(SuiteError::io("wait for sshd"))?;
            if ended.is_some() || Instant::now() > limit {
                let _ = child.kill();
                let _ = child.wait();
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(SuiteError::NotUp { what: "sshd".to_owned(), said });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.daemon = Some(child);
        Ok(())
    }

    /// Opens a connection that clients share, and waits until they can.
    pub fn open_master(&mut self, host: &str) -> Result<(), SuiteError> {
        let nest = own_program("causeway-nest")?;
        let client = self.directory.join("ssh");
        let ssh = |options: &[&str]| {
            let mut command = Command::new(&nest);
            command.arg("tied").arg(&client).args(options).arg(host);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let master = ssh(&["-N", "-o", "ControlMaster=yes"]).spawn();
        self.masters.push(master.map_err(SuiteError::io("start ssh"))?);
        let limit = Instant::now() + UP;
        while !ssh(&["-O", "check"]).status().is_ok_and(|status| status.success()) {
            if Instant::now() > limit {
                return Err(SuiteError::NotUp { what: format!("ssh to {host}"), said: String::new() });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Kills the daemon, and no session.
    pub fn close(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Kills the daemon and all its sessions.
    pub fn stop(&mut self) {
        for mut master in self.masters.drain(..) {
            let _ = master.kill();
            let _ = master.wait();
        }
        // A session's processes are children of the daemon, each in a session of its own.
        let sessions = self.daemon.as_ref().map(|daemon| children_of(daemon.id())).unwrap_or_default();
        self.close();
        for pid in sessions {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    fn listens(&self) -> bool {
        HOSTS.iter().all(|(_, address)| {
            let address = SocketAddr::from((*address, self.port));
            TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
        })
    }

    fn configure(&self, silent_port: u16) -> Result<(), SuiteError> {
        let here = |name: &str| self.directory.join(name).display().to_string();
        let port = self.port;
        // A shell that sshd starts reads its user's `.bashrc` unless it is below another shell: that would be the
        // developer's, with all that it starts.
        let mut server = format!(
            "Port {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             AllowAgentForwarding yes\nMaxStartups 200\nMaxSessions 200\nUseDNS no\nPrintMotd no\nLogLevel ERROR\n\
             SetEnv SHLVL=1\n",
            here("host_key"),
            here("authorized_keys")
        );
        let mut client = String::new();
        for (name, address) in HOSTS {
            server.push_str(&format!("ListenAddress {address}\n"));
            client.push_str(&format!("Host {name}\n  HostName {address}\n"));
        }
        client.push_str(&format!("Host silent\n  HostName {SILENT}\n  Port {silent_port}\n"));
        // Nobody listens on port 1.
        client.push_str("Host nodown\n  HostName 127.0.0.5\n  Port 1\n");
        client.push_str(&format!(
            "Host *\n  Port {port}\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  \
             GlobalKnownHostsFile /dev/null\n  HostKeyAlias suite\n  StrictHostKeyChecking yes\n  ControlPath {}\n",
            here("user_key"),
            here("known_hosts"),
            here("%h")
        ));
        let public = fs::read_to_string(self.directory.join("host_key.pub"));
        let public = public.map_err(SuiteError::io("the host's public key"))?;
        write(&self.directory.join("known_hosts"), &format!("suite {public}"))?;
        write(&self.directory.join("sshd_config"), &server)?;
        write(&self.directory.join("ssh_config"), &client)?;
        let wrapper = format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", here("ssh_config"));
        write_script(&self.directory.join("ssh"), &wrapper)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// sshd insists on being started by its absolute path.
fn sshd_program() -> PathBuf {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];
    places.iter().map(PathBuf::from).find(|path| path.exists()).unwrap_or_else(|| "/usr/sbin/sshd".into())
}

fn keygen(path: &Path) -> Result<(), SuiteError> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "suite", "-f"]).arg(path);
    let output = command.output().map_err(SuiteError::io("ssh-keygen"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(SuiteError::NotUp { what: "ssh-keygen".to_owned(), said })
}

fn free_port() -> Result<u16, SuiteError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(SuiteError::io("a free port"))?;
    Ok(listener.local_addr().map_err(SuiteError::io("a free port"))?.port())
}

/// The processes whose parent is `pid`.
fn children_of(pid: u32) -> Vec<i32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let parent_of = |id: i32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name, in parentheses, may hold anything.
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|id| parent_of(*id) == Some(pid)).collect()
}
