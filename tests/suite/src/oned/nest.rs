//! The nest in which a driver process starts (contract VMM 1.1).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::ear::{Ear, Mouth};
use crate::error::SuiteError;
use crate::programs::own_program;

/// What oned's configuration and environment say of a driver process.
#[derive(Debug, Clone)]
pub struct Nest {
    executable: PathBuf,
    arguments: String,
    directory: PathBuf,
    environment: Vec<(OsString, OsString)>,
    packets: bool,
}

impl Nest {
    /// `EXECUTABLE` and `ARGUMENTS` of a driver's entry in `oned.conf`, and oned's working directory. The environment is
    /// empty but for what a service has.
    pub fn new(executable: &Path, arguments: &str, directory: &Path) -> Self {
        let directory = directory.to_owned();
        let nest = Nest {
            executable: executable.to_owned(),
            arguments: arguments.to_owned(),
            environment: Vec::new(),
            packets: false,
            directory,
        };
        let home = nest.directory.clone();
        nest.env("HOME", home)
            .env("LANG", "C.UTF-8")
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// With one more variable in the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// With a pipe from the driver that keeps its writes apart: what is heard at once was written at once. oned's own
    /// pipe does not, but this way a test sees what oned may come to read in one go.
    #[must_use]
    pub fn with_packets(mut self) -> Self {
        self.packets = true;
        self
    }

    pub(super) fn spawn(&self) -> Result<(Child, Mouth, Ear), SuiteError> {
        let flags = if self.packets { OFlag::O_CLOEXEC | OFlag::O_DIRECT } else { OFlag::O_CLOEXEC };
        let (from_driver, driver_out) =
            pipe2(flags).map_err(|e| SuiteError::io("pipe")(std::io::Error::from(e)))?;
        let mut command = Command::new(own_program("causeway-nest")?);
        command.arg("oned").arg(&self.executable);
        // The whole string is one argument.
        command.arg(&self.arguments);
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.directory);
        command.stdin(Stdio::piped()).stdout(Stdio::from(driver_out)).stderr(Stdio::inherit());
        let spawned = command.spawn();
        let mut child = spawned.map_err(SuiteError::io(format!("start {}", self.executable.display())))?;
        // Its end of the pipe must be the driver's alone, or the end of its output is never seen.
        drop(command);
        let input = child.stdin.take().ok_or_else(|| SuiteError::Driver("has no input".to_owned()))?;
        Ok((child, Mouth::new(input), Ear::new(from_driver)))
    }
}
