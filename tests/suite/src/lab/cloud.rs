//! A real OpenNebula on the lab's front-end: installed out of a built source tree, started and stopped as its service
//! is, and asked and told by its own command line.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{FRONT_END, HOSTS, Lab, LabError};
use crate::xml::Element;

/// As the unit file of oned's service has it: a wrapper of `ssh` comes first.
const PATH: &str =
    "PATH=/usr/lib/one/sh/override:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long oned and its drivers may take to start, and to stop.
const START: Duration = Duration::from_secs(90);

/// Where our `install.sh` and OpenNebula keep what must be as it was once we are gone; not where drivers collect state.
const WATCHED: [&str; 8] = [
    "/etc/one",
    "/etc/causeway",
    "/etc/sudoers.d",
    "/usr/bin/causeway",
    "/usr/libexec/causeway",
    "/usr/lib/one/mads",
    "/var/lib/causeway-install",
    "/var/lib/one/remotes",
];

/// What a VM is at: oned's `STATE` and `LCM_STATE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage(pub u32, pub u32);

impl Stage {
    /// Its guest runs.
    pub const RUNNING: Stage = Stage(3, 3);
    /// It moves.
    pub const MIGRATE: Stage = Stage(3, 4);
    /// Its first deploy failed.
    pub const BOOT_FAILURE: Stage = Stage(3, 36);
    /// It was saved.
    pub const SUSPENDED: Stage = Stage(5, 0);
    /// It is no more.
    pub const DONE: Stage = Stage(6, 0);
    /// It was shut down and keeps its place.
    pub const POWEROFF: Stage = Stage(8, 0);
}

/// Stages that only a person ends.
const FAILURES: RangeInclusive<u32> = 36..=42;

/// oned on the front-end. Ends with its value.
pub struct Cloud<'a> {
    lab: &'a Lab,
    oned: Option<Child>,
}

impl Lab {
    /// Makes the machines what OpenNebula's packages leave: `built` (see `tests/oned/build.sh`) on the front-end, nothing of
    /// ours anywhere.
    ///
    /// # Errors
    /// OpenNebula's own script does not put everything there.
    pub fn install_stock(&self, built: &Path) -> Result<(), LabError> {
        for place in [&[FRONT_END], HOSTS.as_slice()].concat() {
            // The lab's machines share a directory for our programs, and hosts come prepared: here an admin does that.
            let script = "umount /usr/libexec/causeway && rmdir /usr/libexec/causeway
                rm -rf /var/lib/causeway /etc/causeway /etc/sudoers.d/causeway";
            self.script(place, script, &[])?;
        }
        for host in HOSTS {
            self.run(&["exec", host, &beside("front-end.sh")?, "node"])?;
        }
        let built = built.display().to_string();
        self.run(&["exec", FRONT_END, &beside("front-end.sh")?, "install", &built]).map(drop)
    }

    /// Runs our `install.sh` on a machine, as root.
    ///
    /// # Errors
    /// It fails.
    pub fn install_sh(&self, place: &str, words: &[&str]) -> Result<String, LabError> {
        self.run(&[&["exec", place, &beside("../../install.sh")?], words].concat())
    }

    /// What stands on a machine where our script has to do: kind, owner, mode, time and content of each file.
    ///
    /// # Errors
    /// The machine does not run.
    pub fn installed(&self, place: &str) -> Result<String, LabError> {
        self.run(&[&["exec", place, &beside("front-end.sh")?, "state"], WATCHED.as_slice()].concat())
    }
}

/// A file of `tests/oned`.
fn beside(name: &str) -> Result<String, LabError> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../oned").join(name);
    let path = path.canonicalize().map_err(LabError::io(path.display().to_string()))?;
    Ok(path.display().to_string())
}

impl<'a> Cloud<'a> {
    /// Starts oned, and waits until it answers.
    ///
    /// # Errors
    /// It does not; what it wrote last is in the text.
    pub fn start(lab: &'a Lab) -> Result<Cloud<'a>, LabError> {
        let mut cloud = Cloud { lab, oned: None };
        cloud.begin()?;
        Ok(cloud)
    }

    fn begin(&mut self) -> Result<(), LabError> {
        let words = ["one", FRONT_END, "env", PATH, "ONE_MAD_DEBUG=1", "oned", "-f"];
        let mut command = self.lab.command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.oned = Some(command.spawn().map_err(LabError::io("start oned"))?);
        let start = Instant::now();
        while let Err(error) = self.ask(&["oneuser", "show"]) {
            if start.elapsed() > START {
                return LabError::promise(format!("oned does not answer: {error}\n{}", self.log("oned.log")));
            }
            sleep(Duration::from_millis(300));
        }
        Ok(())
    }

    /// Stops it as its service is stopped, and waits for it and its drivers.
    ///
    /// # Errors
    /// One of them stays.
    pub fn stop(&mut self) -> Result<(), LabError> {
        self.lab.script(FRONT_END, "pkill -TERM -x oned", &[])?;
        if let Some(mut oned) = self.oned.take() {
            oned.wait().map_err(LabError::io("wait for oned"))?;
        }
        let script = "pgrep -a 'causeway|onemonitord|^ruby' || :";
        let start = Instant::now();
        loop {
            let left = self.lab.script(FRONT_END, script, &[])?;
            if left.trim().is_empty() {
                return Ok(());
            }
            if start.elapsed() > START {
                return LabError::promise(format!("left of oned: {left}"));
            }
            sleep(Duration::from_millis(200));
        }
    }

    /// Stops it and starts it again.
    ///
    /// # Errors
    /// As [`stop`](Cloud::stop) and [`start`](Cloud::start).
    pub fn restart(&mut self) -> Result<(), LabError> {
        self.stop()?;
        self.begin()
    }

    /// Runs a command of OpenNebula's as oneadmin and gives back what it prints.
    ///
    /// # Errors
    /// It fails.
    pub fn ask(&self, words: &[&str]) -> Result<String, LabError> {
        self.lab.run(&[&["one", FRONT_END], words].concat())
    }

    /// Makes a thing out of a template, with a command that prints its number.
    ///
    /// # Errors
    /// oned refuses it.
    pub fn create(&self, command: &str, template: &str, words: &[&str]) -> Result<u32, LabError> {
        let file = format!("/var/tmp/{command}.template");
        self.lab.write(FRONT_END, &file, template)?;
        let said = self.ask(&[&[command, "create", &file], words].concat())?;
        let number = said.trim().strip_prefix("ID: ").and_then(|number| number.parse().ok());
        number.ok_or_else(|| LabError::Promise(format!("{command} create says {said:?}")))
    }

    /// What oned knows of a thing (`onevm`, `onehost`).
    ///
    /// # Errors
    /// There is none, or its document is none.
    pub fn show(&self, command: &str, thing: &str) -> Result<Element, LabError> {
        let xml = self.ask(&[command, "show", thing, "--xml"])?;
        Element::parse(xml.trim())
            .map_err(|e| LabError::Promise(format!("{command} show {thing}: {e}: {xml}")))
    }

    /// Waits until what oned knows of a thing other than a VM is as it should be.
    ///
    /// # Errors
    /// It is not within `patience`.
    pub fn wait_for(
        &self,
        (command, thing, patience): (&str, &str, Duration),
        is_so: impl Fn(&Element) -> bool,
    ) -> Result<(), LabError> {
        let start = Instant::now();
        loop {
            let now = self.show(command, thing)?;
            if is_so(&now) {
                return Ok(());
            }
            if start.elapsed() > patience {
                let (document, told) = (now.render(), self.log("oned.log"));
                return LabError::promise(format!("{command} {thing} stays as it is: {document}\n{told}"));
            }
            sleep(Duration::from_millis(500));
        }
    }

    /// A VM's stage, and the host of its last history record.
    ///
    /// # Errors
    /// oned does not know it.
    pub fn vm(&self, vm: u32) -> Result<(Stage, String), LabError> {
        let document = self.show("onevm", &vm.to_string())?;
        let number = |name: &str| text(&document, name).parse().unwrap_or(u32::MAX);
        let history = document.find("HISTORY_RECORDS").and_then(|records| records.children().last());
        let host = history.map(|record| text(record, "HOSTNAME")).unwrap_or_default();
        let (state, stage) = (number("STATE"), number("LCM_STATE"));
        // Outside of ACTIVE the second number means nothing.
        Ok((Stage(state, if state == Stage::RUNNING.0 { stage } else { 0 }), host))
    }

    /// Waits until a VM is at this stage, on this host if one is named; gives back the host that oned has for it.
    ///
    /// # Errors
    /// It is not within `patience`, or has failed; its log is in the text.
    pub fn wait_vm(
        &self,
        vm: u32,
        stage: Stage,
        on: Option<&str>,
        patience: Duration,
    ) -> Result<String, LabError> {
        let start = Instant::now();
        loop {
            let (now, host) = self.vm(vm)?;
            // oned takes an order to move before it acts on it.
            if now == stage && on.is_none_or(|on| on == host) {
                return Ok(host);
            }
            let failed = now.0 == Stage::RUNNING.0 && FAILURES.contains(&now.1);
            if failed || start.elapsed() > patience {
                let told = self.log(&format!("{vm}.log"));
                return LabError::promise(format!(
                    "VM {vm} is at {now:?} on {host}, not at {stage:?} on {on:?}\n{told}"
                ));
            }
            sleep(Duration::from_millis(200));
        }
    }

    /// The end of a log of oned's (`oned.log`), or all of a VM's (`0.log`).
    pub fn log(&self, name: &str) -> String {
        let script = "tail -n 400 \"/var/log/one/$1\"";
        self.lab.script(FRONT_END, script, &[name]).unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Cloud<'_> {
    fn drop(&mut self) {
        if let Some(mut oned) = self.oned.take() {
            // What it started ends with the lab.
            let _ = oned.kill();
            let _ = oned.wait();
        }
    }
}

/// The text at a path, or none.
pub fn text(element: &Element, path: &str) -> String {
    element.find(path).map(Element::text).unwrap_or_default()
}
