//! A front-end and its hosts in a temporary directory: OpenNebula's directories as `ONE_LOCATION` has them, recording
//! stand-ins in all slots, and a real sshd on loopback behind the hosts' names.
//!
//! Nothing lies outside the directory, no root is needed, and all of it ends with the value.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::SuiteError;
use crate::oned::Nest;
use crate::programs::program;

mod ear;
mod slots;
mod sshd;

pub use ear::Ear;
pub use slots::{Answer, Call, Event, Site};
use sshd::Sshd;

/// `kvmrc` of hosts whose libvirt is not there: what a script of somebody else's says is then all there is to know of a
/// guest, as it was for the stock driver when it was recorded.
pub const NO_LIBVIRT: &str = "qemu:///system?socket=/nonexistent/libvirt-sock";

/// `causeway.toml` of the hosts.
const HOST_SETTINGS: &str = "hosts/causeway.toml";

/// A front-end and its hosts.
pub struct FrontEnd {
    directory: TempDir,
    sshd: Sshd,
}

impl FrontEnd {
    /// A front-end with recording stand-ins in every slot, and hosts `node1`, `node2` and `localhost` without a libvirt.
    /// `silent` is a host that connects and never speaks, `nodown` one that refuses.
    ///
    /// # Errors
    /// The machine refuses something, there is no sshd, or `causeway-host` is not built.
    pub fn new() -> Result<FrontEnd, SuiteError> {
        FrontEnd::with_libvirt(NO_LIBVIRT)
    }

    /// As [`new`](FrontEnd::new), on hosts with this `LIBVIRT_URI`.
    ///
    /// # Errors
    /// As [`new`](FrontEnd::new).
    pub fn with_libvirt(uri: &str) -> Result<FrontEnd, SuiteError> {
        let directory =
            TempDir::with_prefix("causeway-suite-").map_err(SuiteError::io("temporary directory"))?;
        let root = directory.path();
        let var = root.join("one/var");
        for made in
            ["one/etc/vmm_exec", "one/var/vms", "one/var/datastores", "one/var/lock", "libexec", "state"]
        {
            make_directory(&root.join(made))?;
        }
        slots::fill(root, &[&var.join("remotes"), &root.join("hosts/remotes")])?;
        let kvmrc = format!("export LIBVIRT_URI={uri}\nexport QEMU_PROTOCOL=qemu+ssh\n");
        for remotes in [var.join("remotes"), root.join("hosts/remotes")] {
            write(&remotes.join("etc/vmm/kvm/kvmrc"), &kvmrc)?;
        }
        let here = |path: &str| root.join(path).display().to_string();
        let config = format!(
            "DATASTORE_LOCATION={}\nSCRIPTS_REMOTE_DIR={}\n",
            here("one/var/datastores"),
            here("hosts/remotes")
        );
        write(&var.join("config"), &config)?;
        write(&root.join("one/etc/vmm_exec/vmm_execrc"), "")?;
        write(&root.join("one/etc/defaultrc"), "PRIORITY=19\n")?;
        write(&root.join("one/etc/tmrc"), "")?;
        let ours = format!(
            "ssh = \"{}\"\nlibexec_dir = \"{}\"\nstate_dir = \"{}\"\njournal_dir = \"{}\"\n",
            here("ssh/ssh"),
            here("libexec"),
            here("state"),
            here("one/var/causeway")
        );
        write(&root.join("one/etc/causeway.toml"), &ours)?;
        for name in ["causeway-host", "causeway-disks"] {
            let text = format!(
                "#!/bin/sh\nCAUSEWAY_STATE={} CAUSEWAY_SETTINGS={} exec {} \"$@\"\n",
                here("state"),
                here(HOST_SETTINGS),
                program(name)?.display()
            );
            write_script(&root.join("libexec").join(name), &text)?;
        }
        let sshd = Sshd::start(&root.join("ssh"))?;
        Ok(FrontEnd { directory, sshd })
    }

    /// The directory that holds everything.
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// What `ONE_LOCATION` names.
    pub fn location(&self) -> PathBuf {
        self.root().join("one")
    }

    /// What is `/var/lib/one` elsewhere.
    pub fn var(&self) -> PathBuf {
        self.location().join("var")
    }

    /// What is `/etc/one` elsewhere.
    pub fn etc(&self) -> PathBuf {
        self.location().join("etc")
    }

    /// `SCRIPTS_REMOTE_DIR` of the hosts: one directory for all of them, for they are one machine.
    pub fn host_remotes(&self) -> PathBuf {
        self.root().join("hosts/remotes")
    }

    /// Adds a line to our own settings.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn configure(&self, text: &str) -> Result<(), SuiteError> {
        let path = self.etc().join("causeway.toml");
        let old = fs::read_to_string(&path).map_err(SuiteError::io(path.display().to_string()))?;
        write(&path, &format!("{old}{text}\n"))
    }

    /// Writes our own settings of the hosts.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn configure_hosts(&self, text: &str) -> Result<(), SuiteError> {
        write(&self.root().join(HOST_SETTINGS), text)
    }

    /// A text that was recorded where the front-end has its usual directories, as it reads here.
    pub fn localized(&self, recorded: &str) -> String {
        recorded.replace("/var/lib/one", &self.var().display().to_string())
    }

    /// The inverse of [`localized`](FrontEnd::localized), and the hosts' remotes where they usually are.
    pub fn recorded_form(&self, local: &str) -> String {
        local
            .replace(&self.var().display().to_string(), "/var/lib/one")
            .replace(&self.host_remotes().display().to_string(), "/var/tmp/one")
    }

    /// How oned starts a driver process of ours here, with these words of `ARGUMENTS`.
    ///
    /// # Errors
    /// The executable is not built.
    pub fn driver(&self, name: &str, arguments: &str) -> Result<Nest, SuiteError> {
        let nest = Nest::new(&program(name)?, arguments, &self.var());
        // The service's unit puts a wrapper for ssh first in the path; ours must not be led by it.
        let trap = self.root().join("one/lib/sh/override");
        write_script(&trap.join("ssh"), "#!/bin/sh\necho 'the wrong ssh' >&2\nexit 255\n")?;
        let path = format!("{}:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin", trap.display());
        Ok(nest.env("ONE_LOCATION", self.location()).env("PATH", path))
    }

    /// The recording stand-ins' calls so far, in the order in which they began.
    ///
    /// # Errors
    /// A call's record can't be read.
    pub fn calls(&self) -> Result<Vec<Call>, SuiteError> {
        slots::calls(self.root(), &self.var())
    }

    /// Beginnings and ends of calls, in order.
    ///
    /// # Errors
    /// The journal can't be read.
    pub fn events(&self) -> Result<Vec<Event>, SuiteError> {
        slots::events(self.root())
    }

    /// Forgets all calls so far.
    ///
    /// # Errors
    /// They can't be deleted.
    pub fn forget(&self) -> Result<(), SuiteError> {
        slots::forget(self.root())
    }

    /// Has the stand-in in `slot` (`vmm/kvm/deploy`) answer so from now on.
    ///
    /// # Errors
    /// The answer can't be written.
    pub fn answer(&self, slot: &str, answer: &Answer) -> Result<(), SuiteError> {
        slots::answer(self.root(), slot, answer)
    }

    /// Has the stand-in in `slot` answer so the next time; may be said several times.
    ///
    /// # Errors
    /// The answer can't be written.
    pub fn answer_once(&self, slot: &str, answer: &Answer) -> Result<(), SuiteError> {
        slots::answer_once(self.root(), slot, answer)
    }

    /// Takes a slot's executable away, on the front-end and on the hosts.
    ///
    /// # Errors
    /// It can't be deleted.
    pub fn empty_slot(&self, slot: &str) -> Result<(), SuiteError> {
        for remotes in [self.var().join("remotes"), self.host_remotes()] {
            let path = remotes.join(slot);
            fs::remove_file(&path).map_err(SuiteError::io(path.display().to_string()))?;
        }
        Ok(())
    }

    /// Puts our wrapper into a slot, on the front-end and on the hosts.
    ///
    /// # Errors
    /// It can't be written.
    pub fn our_slot(&self, slot: &str) -> Result<(), SuiteError> {
        let host = self.root().join("libexec/causeway-host");
        let text = format!("#!/bin/sh\nexec {} slot {slot} \"$@\"\n", host.display());
        for remotes in [self.var().join("remotes"), self.host_remotes()] {
            write_script(&remotes.join(slot), &text)?;
        }
        Ok(())
    }

    /// Opens a master connection to a host, as OpenNebula's wrapper for ssh does; the client's configuration names it.
    ///
    /// # Errors
    /// There is no such connection after a while.
    pub fn open_master(&mut self, host: &str) -> Result<(), SuiteError> {
        self.sshd.open_master(host)
    }

    /// Has nobody open a new connection to a host; those that are open stay so.
    pub fn close_ssh(&mut self) {
        self.sshd.close();
    }

    /// Kills the sshd and every session on it, as when the hosts' link is cut for good.
    pub fn cut_ssh(&mut self) {
        self.sshd.stop();
    }

    /// Starts sshd again on the same port.
    ///
    /// # Errors
    /// As [`new`](FrontEnd::new).
    pub fn mend_ssh(&mut self) -> Result<(), SuiteError> {
        self.sshd.restart()
    }
}

fn make_directory(path: &Path) -> Result<(), SuiteError> {
    fs::create_dir_all(path).map_err(SuiteError::io(format!("make {}", path.display())))
}

/// Writes a file, and the directories above it.
fn write(path: &Path, text: &str) -> Result<(), SuiteError> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    fs::write(path, text).map_err(SuiteError::io(format!("write {}", path.display())))
}

fn write_script(path: &Path, text: &str) -> Result<(), SuiteError> {
    write(path, text)?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).map_err(SuiteError::io(format!("chmod {}", path.display())))
}
