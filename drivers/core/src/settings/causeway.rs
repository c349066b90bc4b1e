//! `causeway.toml`: what the stock files have no place for, and what is to win over them.
//!
//! Every setting may be left out. An unknown key is an error that names it: a misspelt deadline must not be no deadline.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::SettingsError;
use crate::document::AutoConverge;

/// Our own settings, on the front-end and on each host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Causeway {
    /// Where the programs of a host lie.
    pub libexec_dir: PathBuf,
    /// What a host keeps: desired networks, reservations, outcomes of long jobs.
    pub state_dir: PathBuf,
    /// Where the front-end journals what is in flight.
    pub journal_dir: PathBuf,
    /// The ssh client. Not looked up in `PATH`: the front-end's service puts a wrapper there that opens shared master
    /// connections, which our sessions must not hang on.
    pub ssh: PathBuf,
    /// How long a step may take.
    pub deadlines: Deadlines,
    /// How a running VM moves.
    pub migration: Migration,
    /// How a VM's files go to a host that does not see them.
    pub carry: Carry,
    /// How images are copied within this host.
    pub copy: Copies,
    /// Settings of `kvmrc` that this file overrides.
    pub kvm: KvmOverrides,
}

impl Default for Causeway {
    fn default() -> Self {
        Causeway {
            libexec_dir: PathBuf::from("/usr/libexec/causeway"),
            state_dir: PathBuf::from("/var/lib/causeway"),
            journal_dir: PathBuf::from("/var/lib/one/causeway"),
            ssh: PathBuf::from("/usr/bin/ssh"),
            deadlines: Deadlines::default(),
            migration: Migration::default(),
            carry: Carry::default(),
            copy: Copies::default(),
            kvm: KvmOverrides::default(),
        }
    }
}

/// A deadline in whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(Duration);

impl Seconds {
    const fn new(seconds: u64) -> Self {
        Seconds(Duration::from_secs(seconds))
    }

    /// The time.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.as_secs())
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = u64::deserialize(deserializer)?;
        // A month: longer is a slip of the pen, and keeps sums of deadlines far from overflow.
        if (1..=2_678_400).contains(&seconds) {
            Ok(Seconds::new(seconds))
        } else {
            Err(serde::de::Error::custom("a deadline is a number of seconds from 1 to 2678400"))
        }
    }
}

/// How long a step of each kind may take, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deadlines {
    /// Reaching a host: session and hello.
    pub connect: Seconds,
    /// A short step in libvirt: define, attach, query.
    pub vmm: Seconds,
    /// Writing or reading a checkpoint.
    pub checkpoint: Seconds,
    /// A live migration, without the wait for a verdict.
    pub migrate: Seconds,
    /// A network step.
    pub vnm: Seconds,
    /// A storage step that changes names or metadata.
    pub tm: Seconds,
    /// A storage step that copies an image.
    pub copy: Seconds,
    /// A backup.
    pub backup: Seconds,
    /// A foreign script.
    pub foreign: Seconds,
    /// A question to the gate.
    pub gate: Seconds,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            connect: Seconds::new(15),
            vmm: Seconds::new(60),
            checkpoint: Seconds::new(3600),
            migrate: Seconds::new(3600),
            vnm: Seconds::new(30),
            tm: Seconds::new(120),
            copy: Seconds::new(14_400),
            backup: Seconds::new(86_400),
            foreign: Seconds::new(3600),
            gate: Seconds::new(5),
        }
    }
}

/// Who opens the connection that a live migration runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Peer-to-peer where both hosts have certificates, else by ssh.
    #[default]
    Auto,
    /// The source's libvirt connects to the destination's, over TLS.
    P2p,
    /// Our client connects to both, over ssh.
    Ssh,
}

/// How a running VM moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Migration {
    /// Who connects to whom.
    pub transport: Transport,
    /// Carry the guest's memory inside of libvirt's own connections too, where it would else go in the clear.
    pub tunnels: bool,
    /// How often the VM's log is told that it is not known where a guest is.
    pub tell: Seconds,
}

impl Default for Migration {
    fn default() -> Self {
        Migration { transport: Transport::default(), tunnels: false, tell: Seconds::new(60) }
    }
}

/// How a VM's files go to a host that does not see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Carry {
    /// Most MiB a second that one move sends; 0 means no limit.
    pub bandwidth: u32,
    /// Whether disks are read and written only when nobody else wants them.
    pub idle: bool,
    /// Whether data that becomes smaller by it is sent packed.
    pub packed: bool,
}

impl Default for Carry {
    fn default() -> Self {
        Carry { bandwidth: 0, idle: false, packed: true }
    }
}

/// How images are copied within a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Copies {
    /// Most MiB a second that one copy moves; 0 means no limit.
    pub bandwidth: u32,
    /// Whether disks are read and written only when nobody else wants them.
    pub idle: bool,
}

/// Settings of `kvmrc` that `causeway.toml` overrides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct KvmOverrides {
    /// `SHUTDOWN_TIMEOUT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shutdown_timeout: Option<Seconds>,
    /// `FORCE_DESTROY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_destroy: Option<bool>,
    /// `SYNC_TIME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_time: Option<bool>,
    /// `--auto-converge` in `MIGRATE_OPTIONS`, as `initial` or `initial,increment` in per cent.
    #[serde(skip_serializing_if = "Option::is_none", with = "auto_converge")]
    pub auto_converge: Option<AutoConverge>,
    /// `--compressed` in `MIGRATE_OPTIONS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<bool>,
}

/// [`AutoConverge`] in the form of the VM's attribute.
mod auto_converge {
    use super::{AutoConverge, Deserialize, Deserializer, Serializer};
    use crate::document::Form;

    pub fn serialize<S: Serializer>(value: &Option<AutoConverge>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(AutoConverge { initial, increment: Some(step) }) => {
                serializer.serialize_str(&format!("{initial},{step}"))
            }
            Some(AutoConverge { initial, increment: None }) => serializer.serialize_str(&initial.to_string()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AutoConverge>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format_args!("{text:?} is not {}", AutoConverge::ACCEPTED));
        AutoConverge::read(text.trim()).map(Some).ok_or_else(wrong)
    }
}

impl Causeway {
    /// Reads the text of `file`, whose name is for messages.
    ///
    /// # Errors
    /// [`SettingsError::File`] with line and key for anything that is not TOML, an unknown key, a malformed value, or a
    /// directory that is not absolute.
    pub fn parse(file: &str, text: &str) -> Result<Self, SettingsError> {
        let settings: Causeway =
            toml::from_str(text).map_err(|error| SettingsError::file(file, describe(text, &error)))?;
        let dirs = [
            ("libexec_dir", &settings.libexec_dir),
            ("state_dir", &settings.state_dir),
            ("journal_dir", &settings.journal_dir),
            ("ssh", &settings.ssh),
        ];
        for (key, dir) in dirs {
            if !dir.is_absolute() {
                return Err(SettingsError::value(file, key, &dir.display().to_string(), "an absolute path"));
            }
        }
        Ok(settings)
    }
}

/// One line for the parser's error, which would draw a picture of several.
fn describe(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().lines().next().unwrap_or("not TOML").to_owned();
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Causeway, SettingsError> {
        Causeway::parse("causeway.toml", text)
    }

    #[test]
    fn everything_may_be_left_out() {
        assert_eq!(read("").unwrap(), Causeway::default());
        let some =
            read("[deadlines]\nmigrate = 90\n[migration]\ntransport = \"p2p\"\ntunnels = true\ntell = 5\n")
                .unwrap();
        assert_eq!(some.deadlines.migrate.duration(), Duration::from_secs(90));
        assert_eq!(some.deadlines.vnm, Deadlines::default().vnm);
        let tell = Seconds::new(5);
        assert_eq!(some.migration, Migration { transport: Transport::P2p, tunnels: true, tell });
    }

    #[test]
    fn the_defaults_can_be_written_and_read() {
        let mut settings = Causeway::default();
        settings.kvm.auto_converge = Some(AutoConverge { initial: 20, increment: Some(10) });
        let text = toml::to_string(&settings).unwrap();
        assert!(text.contains("auto_converge = \"20,10\""), "{text}");
        assert_eq!(read(&text).unwrap(), settings);
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, part) in [
            ("libexecdir = \"/x\"\n", "causeway.toml: line 1: unknown field `libexecdir`"),
            ("[deadlines]\nmigrat = 9\n", "causeway.toml: line 2: unknown field `migrat`"),
            ("[deadlines]\n\nvnm = 0\n", "causeway.toml: line 3: a deadline is a number of seconds"),
            ("[migration]\ntransport = \"tcp\"\n", "causeway.toml: line 2: unknown variant `tcp`"),
            ("[kvm]\nauto_converge = \"0\"\n", "causeway.toml: line 2: \"0\" is not initial[,increment]"),
            ("[migration\n", "causeway.toml: line 1: "),
            ("state_dir = \"var\"\n", "causeway.toml: state_dir is \"var\", not an absolute path"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with(part), "{error}");
        }
    }
}
