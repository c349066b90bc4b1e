//! A real Open vSwitch of a test's own, in the network namespace of the thread that starts it: database and switch, with the
//! datapath in user space.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Database and switch; both end with it.
pub struct Switch {
    dir: tempfile::TempDir,
    children: Vec<Child>,
}

impl Switch {
    /// Starts both.
    pub fn start() -> Self {
        let mut switch = Switch { dir: tempfile::tempdir().unwrap(), children: Vec::new() };
        let database = switch.path("conf.db");
        switch.tool(
            "ovsdb-tool",
            &["create", database.to_str().unwrap(), "/usr/share/openvswitch/vswitch.ovsschema"],
        );
        switch.start_database();
        switch.tool("ovs-vsctl", &["--no-wait", "init"]);
        switch.start_switch();
        switch
    }

    fn start_database(&mut self) {
        let (database, socket) = (self.path("conf.db"), self.database());
        let remote = format!("--remote=punix:{}", socket.display());
        self.daemon("ovsdb-server", &[database.to_str().unwrap(), &remote, "--pidfile"]);
        // Its file is there a moment before it listens.
        until("the database serves", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    }

    /// Kills the switch, and not its database.
    pub fn kill_switch(&mut self) {
        let mut switch = self.children.pop().unwrap();
        switch.kill().unwrap();
        switch.wait().unwrap();
    }

    /// Stops the switch where it is (`STOP`), or lets it go on (`CONT`).
    pub fn signal_switch(&self, signal: &str) {
        let pid = self.children.last().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// Starts the switch, after its database.
    pub fn start_switch(&mut self) {
        let socket = format!("unix:{}", self.database().display());
        self.daemon("ovs-vswitchd", &[&socket, "--pidfile"]);
    }

    fn daemon(&mut self, program: &str, args: &[&str]) {
        let log = std::fs::File::create(self.path(&format!("{program}.out"))).unwrap();
        let mut command = self.command(program);
        let child = command.args(args).stdout(Stdio::null()).stderr(log).spawn();
        self.children
            .push(child.unwrap_or_else(|e| panic!("{program}: {e}; tests/lab/packages.sh installs it")));
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(variable, self.dir.path());
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs one of its tools, which must succeed; what it says.
    pub fn tool(&self, program: &str, args: &[&str]) -> String {
        let out = self.command(program).args(args).output().unwrap();
        assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    /// Where its sockets lie.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The database's socket.
    pub fn database(&self) -> PathBuf {
        self.path("db.sock")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for something that comes by itself.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    // On a machine that does much else, a program may take long to start.
    let end = Instant::now() + Duration::from_secs(90);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within 90 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}
