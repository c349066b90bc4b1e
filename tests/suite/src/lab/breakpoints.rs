//! The points at which a step is held: files in a directory of the machine where it runs.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{FRONT_END, HOSTS, Lab, LabError, ONE_ID};

/// The directory, on each machine.
pub const DIRECTORY: &str = "/run/one/breakpoints";

/// Longest wait for a step to come to its point.
const DEADLINE: Duration = Duration::from_secs(120);

/// Has the hosts' program look for points, and makes the directories.
///
/// # Errors
/// Something can't be written.
pub fn install(lab: &Lab) -> Result<(), LabError> {
    for place in [FRONT_END].iter().chain(&HOSTS) {
        let directory = lab.inside(place, DIRECTORY)?;
        let failed = || LabError::io(directory.display().to_string());
        DirBuilder::new().recursive(true).mode(0o755).create(&directory).map_err(failed())?;
        chown(&directory, Some(ONE_ID), Some(ONE_ID)).map_err(failed())?;
    }
    let libexec = lab.directory().join("libexec");
    let (program, real) = (libexec.join("causeway-host"), libexec.join("held"));
    let failed = || LabError::io(program.display().to_string());
    fs::create_dir(&real).map_err(failed())?;
    fs::rename(&program, real.join("causeway-host")).map_err(failed())?;
    // It starts its neighbour.
    symlink("../causeway-disks", real.join("causeway-disks")).map_err(failed())?;
    let wrapper = format!(
        "#!/bin/sh\nCAUSEWAY_BREAKPOINTS={DIRECTORY} exec {}/held/causeway-host \"$@\"\n",
        super::LIBEXEC
    );
    fs::write(&program, wrapper).map_err(failed())?;
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).map_err(failed())
}

/// A point that was set. Taken away when dropped: whoever is held there goes on.
pub struct Breakpoint {
    armed: PathBuf,
    reached: PathBuf,
}

impl Breakpoint {
    /// Sets the point `before`, `during` or `after` of a step on that machine.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn set(lab: &Lab, place: &str, step: &str, point: &str) -> Result<Breakpoint, LabError> {
        let directory = lab.inside(place, DIRECTORY)?;
        let armed = directory.join(format!("{step}.{point}"));
        let reached = directory.join(format!("{step}.{point}.reached"));
        fs::write(&armed, "").map_err(LabError::io(armed.display().to_string()))?;
        Ok(Breakpoint { armed, reached })
    }

    /// Waits until a step is there.
    ///
    /// # Errors
    /// None comes for two minutes.
    pub fn wait(&self) -> Result<(), LabError> {
        let start = Instant::now();
        while !self.reached.exists() {
            if start.elapsed() > DEADLINE {
                return LabError::promise(format!("{} was never reached", self.armed.display()));
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Breakpoint {
    fn drop(&mut self) {
        for path in [&self.armed, &self.reached] {
            // Only one of the two is there.
            let _ = fs::remove_file(path);
        }
    }
}
