//! The stock transfer manager in a site: its scripts, its libraries and its command line client, out of the sources.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use causeway_suite::front_end::FrontEnd;
use causeway_suite::oned::Nest;

/// Directories of the sources, and where a self-contained installation has what is in them (contract TM 1.6, R9).
const PLACES: [(&str, &str); 6] = [
    ("src/oca/ruby", "lib/ruby"),
    ("src/mad/ruby", "lib/ruby"),
    ("src/mad/sh", "lib/sh"),
    ("src/tm_mad", "var/remotes/tm"),
    ("src/datastore_mad/remotes", "var/remotes/datastore"),
    ("src/cli/etc", "etc/cli"),
];

/// The client's commands that the scripts call.
const COMMANDS: [&str; 2] = ["onevm", "onedatastore"];

/// Puts the stock transfer manager out of `sources` into the site, in the place of its stand-ins.
///
/// # Errors
/// A part of it is not where the sources should have it.
pub fn lay(sources: &Path, site: &FrontEnd) -> anyhow::Result<()> {
    let at = |below: &str| site.location().join(below);
    let stand_ins = at("var/remotes/tm");
    fs::remove_dir_all(&stand_ins).with_context(|| stand_ins.display().to_string())?;
    for (from, to) in PLACES {
        copy_all(&sources.join(from), &at(to))?;
    }
    symlink(sources.join("src/cli"), at("lib/ruby/cli"))?;
    // The package's loader confines Ruby to the libraries that the package brings; here the system's do. The parser of
    // time tables is loaded by a library of flows, and never used by a driver.
    for name in ["load_opennebula_paths.rb", "parse-cron.rb"] {
        fs::write(at("lib/ruby").join(name), "")?;
    }
    fs::create_dir_all(at("bin"))?;
    for name in COMMANDS {
        symlink(sources.join("src/cli").join(name), at("bin").join(name))?;
    }
    let settings = at("var/remotes/etc/datastore");
    for (from, to) in [("ceph/ceph.conf", "ceph/ceph.conf"), ("datastore.conf", "datastore.conf")] {
        let to = settings.join(to);
        fs::create_dir_all(to.parent().unwrap_or(&settings))?;
        let from = sources.join("src/datastore_mad/remotes").join(from);
        fs::copy(&from, to).with_context(|| from.display().to_string())?;
    }
    Ok(())
}

/// Copies what is in a directory to another one. Not by links: a script finds its neighbours from where it lies.
fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    let from = from.canonicalize().with_context(|| from.display().to_string())?;
    fs::create_dir_all(to)?;
    let copied = Command::new("cp").arg("--recursive").arg(from.join(".")).arg(to).status()?;
    ensure!(copied.success(), "cp of {}: {copied}", from.display());
    Ok(())
}

/// How oned starts the stock driver process here.
///
/// # Errors
/// Its files can't be written.
pub fn nest(sources: &Path, site: &FrontEnd, arguments: &str) -> anyhow::Result<Nest> {
    let script = site.root().join("stock-tm");
    // What the package's wrapper does, but for the priority: splits ARGUMENTS and runs Ruby.
    let text = format!(
        "#!/bin/sh\nset -f\nexec ruby {} $1\n",
        sources.join("src/tm_mad/one_tm.rb").canonicalize()?.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let mut nest = Nest::new(&script, arguments, &site.var());
    for (name, value) in environment(site) {
        nest = nest.env(name, value);
    }
    Ok(nest)
}

/// What the stock scripts find in their environment.
pub fn environment(site: &FrontEnd) -> Vec<(&'static str, PathBuf)> {
    let at = |below: &str| site.location().join(below);
    vec![
        ("ONE_LOCATION", site.location()),
        ("RUBYLIB", at("lib/ruby")),
        ("ONE_AUTH", site.var().join(".one/one_auth")),
        // The scripts put the system's directories in front of any path; this variable they leave.
        ("SSH", site.root().join("ssh/ssh")),
        ("PATH", format!("{}:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin", at("bin").display()).into()),
    ]
}
