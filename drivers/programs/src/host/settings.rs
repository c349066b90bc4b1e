//! What a host's `kvmrc` says. It belongs to the admin and is read anew by each resident, without a shell.

use std::path::Path;

use causeway_core::settings::{Causeway, Kvmrc, ShellRc, read_file};
use causeway_domain::Drive;
use causeway_vmm::host::Settings;

use super::Options;

/// libvirt's URI and the settings of the VMM verbs.
///
/// # Errors
/// `kvmrc` can't be read, or a setting in it has no value that we take; the setting is named.
pub fn read(options: &Options) -> anyhow::Result<(String, Settings)> {
    let path = options.remotes.join("etc/vmm/kvm/kvmrc");
    let text = read_file(&path)?.unwrap_or_default();
    let rc = ShellRc::parse(&path.display().to_string(), &text);
    for refused in rc.refused() {
        tracing::warn!(%refused, "kvmrc");
    }
    let kvmrc = Kvmrc::read(&rc)?;
    let uri = options.uri.clone().unwrap_or_else(|| kvmrc.libvirt_uri.clone());
    let drive = if options.delegated { Drive::Client } else { Drive::PeerToPeer };
    Ok((uri, Settings { kvmrc, causeway: causeway(&options.settings)?, drive }))
}

/// Our own settings of this host.
///
/// # Errors
/// The file can't be read, or has what it must not.
pub fn causeway(path: &Path) -> anyhow::Result<Causeway> {
    Ok(Causeway::parse(&path.display().to_string(), &read_file(path)?.unwrap_or_default())?)
}
