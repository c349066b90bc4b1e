//! Settings of the front-end: `vmm_execrc`, and the file in which oned tells its own configuration.

use std::collections::BTreeSet;

use super::error::SettingsError;
use super::shell_rc::ShellRc;
use crate::names::DiskPath;

/// `LIVE_DISK_SNAPSHOTS` as it is shipped for the two hypervisors that are ours (contract VMM 1.1).
const LIVE_DISK_SNAPSHOTS: &str = "kvm-qcow2 kvm-shared kvm-ceph kvm-ssh kvm-local kvm-lvm_thin kvm-lvm kvm-netapp \
    kvm-purefa qemu-qcow2 qemu-shared qemu-ceph qemu-ssh qemu-local qemu-netapp";

/// `VNMAD_LOCAL_ACTIONS` as it is shipped.
const VNMAD_LOCAL_ACTIONS: &str = "elastic-post elastic-clean";

/// `vmm_execrc`: which combinations allow what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmmExecrc {
    live_disk_snapshots: BTreeSet<String>,
    vnmad_local_actions: BTreeSet<String>,
}

impl VmmExecrc {
    /// The settings of a file; what it lacks is as shipped.
    ///
    /// # Errors
    /// [`SettingsError`] if only a shell could read one of the two settings.
    pub fn read(rc: &ShellRc) -> Result<Self, SettingsError> {
        let words = |key, shipped| {
            let text = rc.get(key)?.unwrap_or(shipped);
            Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
        };
        Ok(VmmExecrc {
            live_disk_snapshots: words("LIVE_DISK_SNAPSHOTS", LIVE_DISK_SNAPSHOTS)?,
            vnmad_local_actions: words("VNMAD_LOCAL_ACTIONS", VNMAD_LOCAL_ACTIONS)?,
        })
    }

    /// Whether a running VM's disk may get a snapshot.
    pub fn allows_live_disk_snapshot(&self, vm_mad: &str, tm_mad: &str) -> bool {
        self.live_disk_snapshots.contains(&format!("{vm_mad}-{tm_mad}"))
    }

    /// Whether a network driver's action runs on the front-end.
    pub fn is_local(&self, vn_mad: &str, action: &str) -> bool {
        self.vnmad_local_actions.contains(&format!("{vn_mad}-{action}"))
    }
}

/// `/var/lib/one/config`, which oned writes at its start: plain `NAME=value` lines, values to the end of the line,
/// no quoting (a driver's `ARGUMENTS` stand there as they are).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneConfig {
    /// `SCRIPTS_REMOTE_DIR`: where the remotes lie on the hosts.
    pub scripts_remote_dir: DiskPath,
    /// `DATASTORE_LOCATION`: where the datastores lie on the hosts.
    pub datastore_location: DiskPath,
}

impl OneConfig {
    /// Reads the text of `file`, whose name is for messages; other lines are ignored.
    ///
    /// # Errors
    /// [`SettingsError::Value`] if one of the directories is not an absolute path.
    pub fn parse(file: &str, text: &str) -> Result<Self, SettingsError> {
        let path = |key: &str, default: &str| {
            let of_key = |line: &str| {
                let (name, value) = line.split_once('=')?;
                (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
            };
            let found = text.lines().filter_map(of_key).next_back();
            let value = found.filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned());
            value.parse::<DiskPath>().map_err(|e| SettingsError::value(file, key, &value, e.accepted))
        };
        Ok(OneConfig {
            scripts_remote_dir: path("SCRIPTS_REMOTE_DIR", "/var/tmp/one")?,
            datastore_location: path("DATASTORE_LOCATION", "/var/lib/one/datastores")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_looked_up_whole() {
        let shipped = VmmExecrc::read(&ShellRc::parse("vmm_execrc", "")).unwrap();
        assert!(shipped.allows_live_disk_snapshot("kvm", "qcow2"));
        assert!(!shipped.allows_live_disk_snapshot("qemu", "lvm_thin"));
        assert!(shipped.is_local("elastic", "post") && !shipped.is_local("vxlan", "post"));
        let text = "LIVE_DISK_SNAPSHOTS=\"kvm-qcow2 \\\n  kvm-mine\"\nVNMAD_LOCAL_ACTIONS=''\n";
        let own = VmmExecrc::read(&ShellRc::parse("vmm_execrc", text)).unwrap();
        assert!(own.allows_live_disk_snapshot("kvm", "mine"));
        assert!(!own.allows_live_disk_snapshot("kvm", "ceph") && !own.is_local("elastic", "post"));
        assert!(VmmExecrc::read(&ShellRc::parse("f", "LIVE_DISK_SNAPSHOTS=\"$X kvm-y\"")).is_err());
    }

    #[test]
    fn oned_tells_its_directories() {
        let text = "DATASTORE_LOCATION=/var/lib/one//datastores\nSCRIPTS_REMOTE_DIR=/srv/one\n\
                    VM_MAD=ARGUMENTS=-t 15 -r 0 kvm -p,EXECUTABLE=one_vmm_exec\n";
        let config = OneConfig::parse("config", text).unwrap();
        assert_eq!(config.scripts_remote_dir.as_str(), "/srv/one");
        assert_eq!(config.datastore_location.as_str(), "/var/lib/one//datastores");
        assert_eq!(OneConfig::parse("config", "").unwrap().scripts_remote_dir.as_str(), "/var/tmp/one");
        assert!(OneConfig::parse("config", "SCRIPTS_REMOTE_DIR=tmp\n").is_err());
    }
}
