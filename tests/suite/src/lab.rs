//! Two libvirt hosts and a front-end in namespaces (`tests/lab`), with our programs installed on them as an admin would.
//!
//! A [`Lab`] is only a way to run its script; a [`Standing`] one was started by us and ends with its value, whatever the
//! test did. Root is needed.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::SuiteError;
use crate::programs::program;

pub mod breakpoints;
pub mod campaign;
pub mod cloud;
pub mod cluster;
pub mod driver;
mod far;
pub mod guest;
pub mod observer;
pub mod points;
pub mod resident;
pub mod slots;
pub mod strike;
pub mod trial;
pub mod truth;

/// The hosts.
pub const HOSTS: [&str; 2] = ["h1", "h2"];

/// The front-end.
pub const FRONT_END: &str = "fe";

/// Our programs on every machine of the lab.
pub const LIBEXEC: &str = "/usr/libexec/causeway";

/// Our executables on a host or on the front-end.
const PROGRAMS: [&str; 7] = [
    "causeway-vmm",
    "causeway-tm",
    "causeway-host",
    "causeway-disks",
    "causeway-net",
    "causeway-root",
    "causeway",
];

/// oneadmin's number in the lab, as OpenNebula's packages have it.
const ONE_ID: u32 = 9869;

/// A failure of the lab, or of a promise that was looked for in it.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The machine refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, on what.
        what: String,
        /// What the machine said.
        source: std::io::Error,
    },
    /// The lab's script, or what it was to run, failed.
    #[error("lab.sh {words}: {said}")]
    Command {
        /// Its arguments.
        words: String,
        /// What it said.
        said: String,
    },
    /// The player, or an executable that is not built.
    #[error(transparent)]
    Means(#[from] SuiteError),
    /// What is seen is not what was promised.
    #[error("{0}")]
    Promise(String),
}

impl LabError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LabError {
        let what = what.into();
        move |source| LabError::Io { what, source }
    }

    pub(crate) fn promise<T>(what: impl Into<String>) -> Result<T, LabError> {
        Err(LabError::Promise(what.into()))
    }
}

/// The lab's script, and the directory it works in.
#[derive(Debug, Clone)]
pub struct Lab {
    script: PathBuf,
    directory: PathBuf,
    prefix: String,
    switches: bool,
}

impl Lab {
    /// The lab in `directory`, whose namespaces' names begin with `prefix`: labs of another directory and another prefix
    /// may run beside it.
    ///
    /// # Errors
    /// The script is not where the checkout has it.
    pub fn new(directory: &Path, prefix: &str) -> Result<Lab, LabError> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/lab.sh");
        let script = script.canonicalize().map_err(LabError::io("tests/lab/lab.sh"))?;
        Ok(Lab { script, directory: directory.to_owned(), prefix: prefix.to_owned(), switches: false })
    }

    /// Where it keeps its state and its caches.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of a machine's network namespace.
    pub fn network_namespace(&self, place: &str) -> PathBuf {
        Path::new("/run/netns").join(format!("{}{place}", self.prefix))
    }

    /// A file of one of the machines, as the real machine sees it.
    ///
    /// # Errors
    /// The machine does not run.
    pub fn inside(&self, place: &str, path: &str) -> Result<PathBuf, LabError> {
        let file = self.directory.join(place).join("pid");
        let pid = fs::read_to_string(&file).map_err(LabError::io(file.display().to_string()))?;
        Ok(Path::new("/proc").join(pid.trim()).join("root").join(path.trim_start_matches('/')))
    }

    /// `lab.sh` with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        command.args(words).env("LAB", &self.directory).env("P", &self.prefix);
        if self.switches {
            command.env("OVS", "1");
        }
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
    pub fn run(&self, words: &[&str]) -> Result<String, LabError> {
        self.run_with(words, "")
    }

    /// Like [`run`](Lab::run), with a text on its standard input.
    ///
    /// # Errors
    /// As [`run`](Lab::run).
    pub fn run_with(&self, words: &[&str], input: &str) -> Result<String, LabError> {
        let failed = || LabError::io(format!("lab.sh {}", words.join(" ")));
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed())?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).map_err(failed())?;
        }
        let output = child.wait_with_output().map_err(failed())?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let said = format!("{} {}", output.status, String::from_utf8_lossy(&said).trim());
            return Err(LabError::Command { words: words.join(" "), said });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a shell script as root on one of the machines; `$1` and so on are `arguments`.
    ///
    /// # Errors
    /// As [`run`](Lab::run).
    pub fn script(&self, place: &str, script: &str, arguments: &[&str]) -> Result<String, LabError> {
        self.run(&[&["exec", place, "sh", "-c", script, "sh"], arguments].concat())
    }

    /// Writes a file on one of the machines, for oneadmin.
    ///
    /// # Errors
    /// As [`run`](Lab::run).
    pub fn write(&self, place: &str, path: &str, text: &str) -> Result<(), LabError> {
        let script = "mkdir -p \"$(dirname \"$1\")\" && cat >\"$1\"";
        self.run_with(&["one", place, "sh", "-c", script, "sh", path], text).map(drop)
    }

    /// Writes one of root's files on one of the machines, which oneadmin may read.
    ///
    /// # Errors
    /// The machine does not run, or the file can't be written.
    pub fn write_as_root(&self, place: &str, path: &str, text: &str) -> Result<(), LabError> {
        let file = self.inside(place, path)?;
        let failed = || LabError::io(file.display().to_string());
        fs::write(&file, text).map_err(failed())?;
        fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).map_err(failed())
    }

    /// Pulls a machine's cable out of the switch, or puts it back.
    ///
    /// # Errors
    /// As [`run`](Lab::run).
    pub fn plug(&self, place: &str, plugged: bool) -> Result<(), LabError> {
        let state = if plugged { "up" } else { "down" };
        self.run(&["exec", "fab", "ip", "link", "set", &format!("to-{place}"), state]).map(drop)
    }

    /// Starts it, whatever was left of an earlier one, and installs our programs.
    ///
    /// # Errors
    /// The machines don't start, or a program is not built.
    pub fn start(&self) -> Result<(), LabError> {
        self.run(&["stop"])?;
        self.run(&["start"])?;
        self.install()
    }

    /// Stops it, and looks whether anything is left of it.
    ///
    /// # Errors
    /// Something is.
    pub fn stop(&self) -> Result<(), LabError> {
        self.run(&["stop"])?;
        self.run(&["leftovers"]).map(drop)
    }

    /// Installs our programs as an admin would, and names the hosts' uplink.
    fn install(&self) -> Result<(), LabError> {
        for name in PROGRAMS {
            let built = program(name)?;
            let to = self.directory.join("libexec").join(name);
            fs::copy(&built, &to).map_err(LabError::io(format!("copy {}", built.display())))?;
        }
        // As `install.sh host` leaves a host, but for the programs, which the lab's machines share.
        let script = "install -d -o root -g oneadmin -m 1770 /var/lib/causeway &&
            install -d -o root -g root -m 700 /var/lib/causeway/network && install -d -m 755 /etc/causeway";
        for host in HOSTS {
            self.script(host, script, &[])?;
            self.list_uplinks(host, "eth0\n")?;
        }
        Ok(())
    }

    /// Says which devices of a host may carry guests' networks.
    ///
    /// # Errors
    /// As [`write_as_root`](Lab::write_as_root).
    pub fn list_uplinks(&self, host: &str, lines: &str) -> Result<(), LabError> {
        self.write_as_root(host, "/etc/causeway/uplinks", lines)
    }
}

/// A lab that was started here. Ends when dropped.
pub struct Standing {
    lab: Lab,
    /// One at a time in a directory: tests of several executables may share it.
    _turn: File,
}

impl Standing {
    /// Starts the lab that `LAB` and `P` of the environment name, or one of the tests' own. Waits while another test has
    /// it.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn start() -> Result<Standing, LabError> {
        Standing::begin(false)?.installed()
    }

    /// As [`start`](Standing::start), with an Open vSwitch on every machine and a second cable, `eth1`, that guests' networks may
    /// use as well.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn with_switches() -> Result<Standing, LabError> {
        let standing = Standing::begin(true)?.installed()?;
        for host in HOSTS {
            standing.list_uplinks(host, "eth0\neth1\n")?;
        }
        Ok(standing)
    }

    /// As [`start`](Standing::start), without our programs: machines as OpenNebula's packages leave them.
    ///
    /// # Errors
    /// The machines don't start.
    pub fn bare() -> Result<Standing, LabError> {
        Standing::begin(false)
    }

    /// As [`bare`](Standing::bare), with switches as [`with_switches`](Standing::with_switches) has them.
    ///
    /// # Errors
    /// The machines don't start.
    pub fn bare_with_switches() -> Result<Standing, LabError> {
        Standing::begin(true)
    }

    fn installed(self) -> Result<Standing, LabError> {
        self.lab.install()?;
        Ok(self)
    }

    fn begin(switches: bool) -> Result<Standing, LabError> {
        let setting = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
        let mut lab = Lab::new(Path::new(&setting("LAB", "/var/tmp/causeway-tests")), &setting("P", "cwt"))?;
        lab.switches = switches;
        let cache = lab.directory.join("cache");
        let failed = || LabError::io(cache.display().to_string());
        fs::create_dir_all(&cache).map_err(failed())?;
        let turn = File::create(cache.join("turn")).map_err(failed())?;
        turn.lock().map_err(failed())?;
        let standing = Standing { lab, _turn: turn };
        standing.lab.run(&["stop"])?;
        standing.lab.run(&["start"])?;
        Ok(standing)
    }

    /// Stops it, and looks whether anything is left of it.
    ///
    /// # Errors
    /// Something is.
    pub fn stop(self) -> Result<(), LabError> {
        self.lab.stop()
    }
}

impl std::ops::Deref for Standing {
    type Target = Lab;
    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        // The test has failed already, or stopped it itself.
        let _ = self.lab.run(&["stop"]);
    }
}

/// A word for a POSIX shell.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
