//! How a driver process was started and configured: its arguments, oned's files, and our own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::engine::Patience;
use causeway_core::journal::{Journal, Unfinished};
use causeway_core::plan::{Slot, Step};
use causeway_core::protocol::{ArgvError, DriverOptions, TmOptions};
use causeway_core::reach::resident::{Hosts, Ssh};
use causeway_core::reach::slots::{Standing, standing};
use causeway_core::settings::{
    Carry, Causeway, OneConfig, SettingsError, ShellRc, Transport, VmmExecrc, read_file,
};
use causeway_tm::carry::Manner;
use causeway_tm::{CephSettings, TmSettings};
use causeway_vmm::plan::{Deadlines, Drive, Settings};

use super::front::Front;
use super::guard::Surroundings;
use super::oned::Oned;
use super::places::{Apart, Places};
use crate::host::{DISKS, HOST};
use crate::start;

/// `PRIORITY` as it is shipped in `defaultrc`.
const NICENESS: i32 = 19;

/// Makes the way to a host: of a client, for a line that runs there, within that time.
type NewSession = fn(&str, &str, Duration) -> Ssh;

/// Where the front-end keeps what (contract VMM 1.1): the system's directories, or one of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// `/etc/one`.
    pub etc: PathBuf,
    /// `/var/lib/one`.
    pub var: PathBuf,
    /// `/var/log/one`.
    pub log: PathBuf,
}

impl Directories {
    /// Those of a front-end whose `ONE_LOCATION` is this.
    pub fn of(location: Option<&Path>) -> Self {
        match location {
            Some(location) => {
                let var = location.join("var");
                Directories { etc: location.join("etc"), log: var.clone(), var }
            }
            None => {
                Directories { etc: "/etc/one".into(), var: "/var/lib/one".into(), log: "/var/log/one".into() }
            }
        }
    }

    /// Those that `ONE_LOCATION` of the environment says.
    pub fn from_environment() -> Self {
        Directories::of(std::env::var_os("ONE_LOCATION").map(PathBuf::from).as_deref())
    }

    fn log_of<O: Options>(&self) -> PathBuf {
        self.log.join(format!("{}.log", O::PROGRAM))
    }

    fn rc(&self, path: &Path) -> Result<ShellRc, SettingsError> {
        Ok(ShellRc::parse(&path.display().to_string(), &text(path)?))
    }
}

/// The words of `ARGUMENTS` of one kind of driver process, and what goes with them.
pub trait Options: Sized {
    /// The program's name.
    const PROGRAM: &'static str;

    /// What a file of the front-end says to this kind only.
    type Rc;

    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// [`ArgvError`], which names the option.
    fn parse(arguments: &[String]) -> Result<Self, ArgvError>;

    /// That file's name below `/etc/one`. The stock driver's wrapper exports its variables.
    const RC: &'static str;

    /// Reads what the driver itself takes from it.
    ///
    /// # Errors
    /// A setting that we don't take, named.
    fn rc(file: &ShellRc) -> Result<Self::Rc, SettingsError>;

    /// `-t`, and whether so many run at once on one host, or one.
    fn room(&self) -> (u16, bool);

    /// `-d`, where it names actions: those whose session forwards the agent.
    fn delegate(&self) -> &[String] {
        &[]
    }

    /// `-s`: the shell that the host's command is for.
    fn shell(&self) -> &str {
        "bash"
    }

    /// `-w`, where it is for the transfer manager's steps.
    fn transfer_timeout(&self) -> Option<Duration> {
        None
    }
}

impl Options for DriverOptions {
    const PROGRAM: &'static str = "causeway-vmm";
    const RC: &'static str = "vmm_exec/vmm_execrc";
    type Rc = VmmExecrc;

    fn parse(arguments: &[String]) -> Result<Self, ArgvError> {
        DriverOptions::parse(arguments)
    }

    fn rc(file: &ShellRc) -> Result<VmmExecrc, SettingsError> {
        VmmExecrc::read(file)
    }

    fn room(&self) -> (u16, bool) {
        (self.threads, self.parallel)
    }

    fn delegate(&self) -> &[String] {
        &self.delegate
    }

    fn shell(&self) -> &str {
        &self.shell
    }
}

impl Options for TmOptions {
    const PROGRAM: &'static str = "causeway-tm";
    const RC: &'static str = "tmrc";
    type Rc = ();

    fn parse(arguments: &[String]) -> Result<Self, ArgvError> {
        TmOptions::parse(arguments)
    }

    fn rc(_: &ShellRc) -> Result<(), SettingsError> {
        Ok(())
    }

    fn room(&self) -> (u16, bool) {
        (self.threads, true)
    }

    fn transfer_timeout(&self) -> Option<Duration> {
        self.timeout
    }
}

/// One driver process's configuration.
pub struct Config<O: Options = DriverOptions> {
    /// The words of `ARGUMENTS`.
    pub options: O,
    /// The front-end's remotes.
    pub remotes: PathBuf,
    /// Who drives live migrations.
    pub transport: Transport,
    /// Where the log goes: a file where `ONE_MAD_DEBUG` asks for one, for nobody reads our standard error.
    pub log_file: Option<PathBuf>,
    var: PathBuf,
    etc: PathBuf,
    causeway: Causeway,
    one: OneConfig,
    rc: O::Rc,
    surroundings: Rc<Surroundings>,
    transfer: TmSettings,
}

impl<O: Options> Config<O> {
    /// Reads everything, from the arguments and the environment that oned gives.
    ///
    /// # Errors
    /// An argument or a setting that we don't take, named.
    pub fn read(arguments: &[String]) -> anyhow::Result<Self> {
        Config::of(O::parse(arguments)?, &Directories::from_environment())
    }

    /// [`read`](Config::read), and begins the log of a process that oned started. oned closes standard error and says
    /// nothing of a driver that ends: what keeps ours from starting is in its log, always.
    ///
    /// # Errors
    /// As [`read`](Config::read).
    pub fn read_and_log(arguments: &[String]) -> anyhow::Result<Self> {
        let config = Config::read(arguments);
        match &config {
            Ok(config) => start::log_to(config.log_file.as_deref()),
            Err(error) => {
                start::log_to(Some(&Directories::from_environment().log_of::<O>()));
                tracing::error!("not started: {error:#}");
            }
        }
        config
    }

    /// The configuration of a front-end with these directories.
    ///
    /// # Errors
    /// A setting that we don't take, named.
    pub fn of(options: O, directories: &Directories) -> anyhow::Result<Self> {
        let tmrc = directories.rc(&directories.etc.join("tmrc"))?;
        let ours = directories.etc.join("causeway.toml");
        let causeway = Causeway::parse(&ours.display().to_string(), &text(&ours)?)?;
        let config = directories.var.join("config");
        let kvmrc = directories.rc(&directories.var.join("remotes/etc/vmm/kvm/kvmrc"))?;
        let datastore_conf = directories.rc(&directories.var.join("remotes/etc/datastore/datastore.conf"))?;
        let ceph_conf = directories.rc(&directories.var.join("remotes/etc/datastore/ceph/ceph.conf"))?;
        let debug = std::env::var_os("ONE_MAD_DEBUG").is_some_and(|value| !value.is_empty());
        Ok(Config {
            transport: causeway.migration.transport,
            log_file: debug.then(|| directories.log_of::<O>()),
            remotes: directories.var.join("remotes"),
            one: OneConfig::parse(&config.display().to_string(), &text(&config)?)?,
            rc: O::rc(&directories.rc(&directories.etc.join(O::RC))?)?,
            surroundings: Rc::new(surroundings::<O>(directories)?),
            transfer: TmSettings {
                ceph: CephSettings::read(&ceph_conf)?,
                ..TmSettings::read(&tmrc, &datastore_conf, &kvmrc)?
            },
            var: directories.var.clone(),
            etc: directories.etc.clone(),
            options,
            causeway,
        })
    }

    /// The journal of this kind of driver, and what it says was in flight.
    ///
    /// # Errors
    /// The directory or the file can't be made or read.
    pub fn open_journal(&self, driver: &str) -> anyhow::Result<(Journal, Vec<Unfinished>)> {
        let directory = &self.causeway.journal_dir;
        let path = directory.join(format!("{driver}.journal"));
        let opened = fs::create_dir_all(directory).and_then(|()| Journal::open(&path));
        opened.map_err(|e| anyhow::Error::new(e).context(format!("journal {}", path.display())))
    }

    /// The children that read the front-end's files.
    ///
    /// # Errors
    /// The program's own path is not known.
    pub fn front(&self) -> std::io::Result<Rc<Front>> {
        Ok(Rc::new(Front::new(&self.causeway)?))
    }

    /// The way back to oned.
    pub fn oned(&self) -> Oned {
        Oned::from_environment(&self.var)
    }

    /// The places that a driver process reaches, over sessions that it keeps.
    pub fn places(&self, front: Rc<Front>) -> Places {
        self.places_by(Ssh::kept, HOST, front)
    }

    /// The places that one call of a slot reaches with these steps.
    pub fn places_in_passing(&self, front: Rc<Front>, steps: &[Step]) -> Places {
        let guests = steps.iter().any(|step| step.work.concerns_guests());
        self.places_by(Ssh::passing, if guests { HOST } else { DISKS }, front)
    }

    fn places_by(&self, session: NewSession, program: &str, front: Rc<Front>) -> Places {
        let client = self.causeway.ssh.display().to_string();
        let deadline = self.causeway.deadlines.connect.duration();
        Places {
            hosts: Hosts::new(session(&client, &self.resident(program, false), deadline)),
            delegated: Ssh::delegated(&client, &self.resident(HOST, true), deadline),
            bare: Ssh::kept(&client, &self.resident(HOST, true), deadline),
            delegate: self.options.delegate().to_vec(),
            remotes: self.remotes.clone(),
            front,
            surroundings: Rc::clone(&self.surroundings),
            apart: Apart::default(),
        }
    }

    /// What the remote shell runs. The two directories come from the admin's files; they are quoted all the same.
    fn resident(&self, program: &str, delegated: bool) -> String {
        let remotes = quoted(self.one.scripts_remote_dir.as_str());
        let delegated = if delegated { " --delegated" } else { "" };
        self.remote(program, &format!("resident --remotes {remotes}{delegated}"))
    }

    /// How hosts are asked again that gave no proof of where a guest is.
    pub fn patience(&self) -> Patience {
        Patience { tell: self.causeway.migration.tell.duration(), ..Patience::default() }
    }

    /// What the transfer manager's plans depend on.
    pub fn transfer_settings(&self) -> TmSettings {
        let ours = &self.causeway.deadlines;
        let timeout = self.options.transfer_timeout();
        TmSettings {
            short_deadline: timeout.unwrap_or(ours.tm.duration()),
            copy_deadline: timeout.unwrap_or(ours.copy.duration()),
            carry: manner(&self.causeway),
            front: Some(self.fetching()),
            ..self.transfer.clone()
        }
    }

    /// What fetches something here and sends it to a host.
    pub fn fetching(&self) -> causeway_tm::datastore::Front {
        causeway_tm::datastore::Front {
            downloader: self.remotes.join("datastore/downloader.sh"),
            restricted: self.restricted_directories(),
            ssh: self.ssh_client(),
            receiver: self.remote(DISKS, "receive"),
            sender: self.remote(DISKS, "send"),
            now: std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
        }
    }

    /// The ssh client with its options, for a session of its own.
    pub fn ssh_client(&self) -> Vec<String> {
        let client = self.causeway.ssh.display().to_string();
        Ssh::kept(&client, "", self.causeway.deadlines.connect.duration()).client
    }

    /// The line that has a remote shell run a program of ours with these words.
    fn remote(&self, program: &str, words: &str) -> String {
        let program = quoted(&self.causeway.libexec_dir.join(program).display().to_string());
        let command = format!("exec {program} {words}");
        match self.options.shell() {
            // The login shell runs it anyway.
            "bash" => command,
            shell => format!("{} -c {}", quoted(shell), quoted(&command)),
        }
    }

    /// oned's own directories and our home, of which no user may name a file (contract TM 3.2).
    pub fn restricted_directories(&self) -> Vec<PathBuf> {
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        [self.var.clone(), self.etc.clone()].into_iter().chain(home).collect()
    }

    /// `monitord.conf`.
    ///
    /// # Errors
    /// It can't be read.
    pub fn monitord_conf(&self) -> Result<String, Failure> {
        text(&self.etc.join("monitord.conf")).map_err(|e| Failure::from_chain(Kind::HostState, &e))
    }

    /// How long a transfer manager's script of somebody else's may take: it may copy an image.
    pub fn foreign_transfer(&self) -> Duration {
        let ours = &self.causeway.deadlines;
        let longest = ours.foreign.duration().max(ours.copy.duration());
        self.options.transfer_timeout().unwrap_or(longest)
    }
}

impl Config {
    /// Whether an executable of somebody else's stands in a VMM slot. The hosts' remotes are copies of ours.
    pub fn foreign_on_hosts(&self, verb: &str) -> bool {
        let slot = Slot::new("vmm", self.options.hypervisor.as_str(), verb);
        slot.is_ok_and(|slot| matches!(standing(&self.remotes, &slot), Standing::Foreign(_)))
    }

    /// How long steps may take.
    pub fn deadlines(&self) -> Deadlines {
        let ours = &self.causeway.deadlines;
        Deadlines {
            short: ours.vmm.duration().max(ours.vnm.duration()),
            long: ours.foreign.duration(),
            migrate: ours.migrate.duration(),
            step: self.options.timeout,
        }
    }

    /// What plans depend on.
    pub fn plan_settings(&self) -> Settings {
        let script = |(step, script): (&String, &Option<_>)| {
            let name = script.as_ref().map_or_else(|| step.clone(), ToString::to_string);
            (step.clone(), name)
        };
        Settings {
            hypervisor: self.options.hypervisor.to_string(),
            local: self.options.local.iter().map(script).collect(),
            delegate: self.options.delegate.clone(),
            retries: self.options.retries,
            execrc: self.rc.clone(),
            deadlines: self.deadlines(),
            drive: Drive::Agent,
        }
    }
}

/// How a VM's directory goes to a host that does not see it.
fn manner(causeway: &Causeway) -> Manner {
    let Carry { bandwidth, idle, packed } = causeway.carry;
    let bytes_per_second = (bandwidth > 0).then_some(u64::from(bandwidth) << 20);
    Manner { bytes_per_second, idle, packed }
}

/// What the stock driver's wrapper gives its scripts (contracts VMM 1.1, TM 1.1).
fn surroundings<O: Options>(directories: &Directories) -> Result<Surroundings, SettingsError> {
    let mut variables = BTreeMap::new();
    for file in ["defaultrc", O::RC] {
        let rc = directories.rc(&directories.etc.join(file))?;
        for refused in rc.refused() {
            tracing::warn!(%refused, "scripts are started without it");
        }
        variables.extend(rc.values().map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
    let niceness = variables.get("PRIORITY").and_then(|text| text.parse().ok()).unwrap_or(NICENESS);
    // Not there in a test of settings alone, and then no script is started.
    let directory = Some(directories.var.clone()).filter(|directory| directory.is_dir());
    Ok(Surroundings { directory, variables, niceness })
}

fn text(path: &Path) -> Result<String, SettingsError> {
    Ok(read_file(path)?.unwrap_or_default())
}

/// A word for a POSIX shell: the one place where a string of ours meets one.
pub fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
