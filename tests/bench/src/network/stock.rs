//! The stock scripts of the network drivers in a case's site, laid out as on a host.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use causeway_vnm::root::Verb;

use super::once::Call;
use super::ours::{arguments, slot_input};
use super::vm::{Kind, Vm};

/// The parts of a host's installation, and where the sources have them.
const PLACES: [(&str, &str); 4] = [
    ("src/mad/ruby", "lib/ruby"),
    ("src/oca/ruby", "lib/ruby"),
    ("src/vnm_mad/remotes", "remotes/vnm"),
    ("src/vnm_mad/remotes/lib", "remotes/vnm"),
];

/// The scripts, ready to run.
pub struct Stock {
    root: PathBuf,
}

impl Stock {
    /// Puts them below `scratch`.
    ///
    /// # Errors
    /// A part of them is not where the sources should have it.
    pub fn lay(sources: &Path, scratch: &Path, kind: Kind) -> anyhow::Result<Stock> {
        let root = scratch.join("stock");
        for (from, to) in PLACES {
            let from = sources.join(from).canonicalize().with_context(|| format!("{from} of the sources"))?;
            let to = root.join(to);
            fs::create_dir_all(&to)?;
            let copied = Command::new("cp").arg("--recursive").arg(from.join(".")).arg(to).status()?;
            ensure!(copied.success(), "cp of {}: {copied}", from.display());
        }
        let settings = root.join("remotes/etc/vnm");
        fs::create_dir_all(&settings)?;
        let shipped = fs::read_to_string(root.join("remotes/vnm/OpenNebulaNetwork.conf"))?;
        // The operator's bridge is nobody's to remove; ours leaves it by itself.
        let kept = shipped.replace(":keep_empty_bridge: false", ":keep_empty_bridge: true");
        let conf = if kind == Kind::Vxlan { shipped } else { kept };
        fs::write(settings.join("OpenNebulaNetwork.conf"), conf)?;
        // The package's loader confines Ruby to the libraries that the package brings; here the system's do.
        fs::write(root.join("lib/ruby/load_opennebula_paths.rb"), "")?;
        // There is no libvirt here; what the scripts ask it for is this. It costs less than the real one.
        fs::create_dir_all(root.join("bin"))?;
        let virsh = root.join("bin/virsh");
        fs::write(&virsh, format!("#!/bin/sh\nexec cat {}\n", root.join("domain.xml").display()))?;
        fs::set_permissions(&virsh, fs::Permissions::from_mode(0o755))?;
        Ok(Stock { root })
    }

    /// Runs one of them; `work` has the call.
    ///
    /// # Errors
    /// It fails.
    pub fn call<T>(
        &self,
        vm: &Vm,
        verb: Verb,
        work: impl FnOnce(&Call<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        fs::write(self.root.join("domain.xml"), vm.domain())?;
        let script = self.root.join(format!("remotes/vnm/{}/{}", vm.kind.driver(), verb.as_str()));
        let mut words = vec![OsString::from("ruby"), script.into_os_string()];
        words.extend(arguments(vm, verb).into_iter().map(OsString::from));
        let path =
            format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", self.root.join("bin").display());
        let environment = vec![
            ("PATH", path.into()),
            ("ONE_LOCATION", self.root.clone().into()),
            ("RUBYLIB", self.root.join("lib/ruby").into()),
        ];
        let input = slot_input(vm);
        work(&Call { words, input: &input, environment })
    }
}
