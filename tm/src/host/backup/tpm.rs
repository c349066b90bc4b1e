//! The state of a VM's TPM, which belongs to its backup as `disk.tpm.0` (contract TM 2.3).

use causeway_core::names::DeployId;

use super::super::{Datastore, During, Home, StorageError, Tool, Worker};
use super::BackupPlace;
use crate::place::VmDir;

/// The directory of the state in a VM's.
pub(super) const STATE: &str = "tpm";
/// The stock helper, as its rule for sudo names it.
const HELPER: &str = "/var/tmp/one/vtpm_setup";

/// Packs the state; a guest that runs is asked for it first, by the helper that may read libvirt's directory.
pub(super) fn save(
    place: &BackupPlace,
    guest: Option<&DeployId>,
    folder: &Home,
    worker: &Worker<'_>,
) -> Result<(), StorageError> {
    if let Some(guest) = guest {
        let dir = place.dir.path();
        let helper = |words: &[&str]| {
            let mut tool = Tool::new("sudo", &dir);
            tool.arg("-n").args(words);
            tool
        };
        // Where sudo does not allow it, the state in the VM's directory is all there is (as in stock).
        if helper(&["-l", HELPER]).output(worker, 0)?.status.success() {
            helper(&[HELPER, "backup", guest.as_str()]).arg(&dir).run(worker)?;
            worker.at("TPM read");
        }
    }
    let (home, _) = state(&place.dir)?;
    let made = folder.temporary("disk.tpm.0");
    let file = made.create(0o600)?;
    let mut tool = Tool::new("tar", &made.path());
    tool.arg("-C").arg(home.path()).arg("-czf").arg(made.path()).args(["--", STATE]).run(worker)?;
    worker.at("TPM packed");
    file.sync_all().during("write out", made.path())?;
    made.publish("disk.tpm.0")
}

fn state(dir: &VmDir) -> Result<(Home, Home), StorageError> {
    let no_state = || StorageError::NoDisk { path: dir.path().join(STATE) };
    let home = Datastore::open(dir.datastore())?.home(dir)?.ok_or_else(no_state)?;
    let state = home.folder(STATE)?.ok_or_else(no_state)?;
    Ok((home, state))
}
