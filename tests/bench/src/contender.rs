//! Whose driver process is measured.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::Context;
use causeway_suite::front_end::FrontEnd;
use causeway_suite::oned::{Nest, Oned};

/// The `ARGUMENTS` of the shipped `kvm` entry.
const ARGUMENTS: &str = "-t 15 -r 0 kvm -p";

/// Where the stock driver's libraries lie in its sources.
const LIBRARIES: [&str; 6] =
    ["src/mad/ruby", "src/oca/ruby", "src/vmm_mad/exec", "src/tm_mad", "src/datastore_mad", "src/vnm_mad"];

/// One of the two.
pub enum Contender {
    /// `causeway-vmm`.
    Ours,
    /// `one_vmm_exec.rb` out of these sources.
    Stock(PathBuf),
}

impl Contender {
    /// Its name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Contender::Ours => "ours",
            Contender::Stock(_) => "stock",
        }
    }

    /// Starts it in `site`.
    ///
    /// # Errors
    /// It is not built, or not where the sources should have it.
    pub fn start(&self, site: &FrontEnd) -> anyhow::Result<Oned> {
        let nest = match self {
            Contender::Ours => site.driver("causeway-vmm", ARGUMENTS)?,
            Contender::Stock(sources) => {
                let driver = sources.join("src/vmm_mad/exec/one_vmm_exec.rb");
                let driver = driver.canonicalize().with_context(|| driver.display().to_string())?;
                let mut library: Vec<String> =
                    LIBRARIES.iter().map(|l| sources.join(l).display().to_string()).collect();
                // The package's loader confines Ruby to the libraries that the package brings; here the system's do.
                // The parser of time tables is loaded by a library of flows, and never used by a driver.
                let loader = site.root().join("loader");
                fs::create_dir_all(&loader)?;
                for name in ["load_opennebula_paths.rb", "parse-cron.rb"] {
                    fs::write(loader.join(name), "")?;
                }
                library.insert(0, loader.display().to_string());
                let script = site.root().join("stock-vmm");
                // What the shell wrapper of the package does, but for the priority: splits ARGUMENTS and runs Ruby.
                let text = format!(
                    "#!/bin/sh\nset -f\nexport RUBYLIB={} ONE_LOCATION={}\nexec ruby {} $1\n",
                    library.join(":"),
                    site.location().display(),
                    driver.display()
                );
                fs::write(&script, text)?;
                fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
                Nest::new(&script, ARGUMENTS, site.root()).env("PATH", path_with_ssh(site))
            }
        };
        Ok(Oned::start(&nest)?)
    }
}

/// The stock driver takes ssh from `PATH`: the site's client first, which knows its hosts.
fn path_with_ssh(site: &FrontEnd) -> String {
    format!("{}:/usr/local/bin:/usr/bin:/bin", site.root().join("ssh").display())
}
