//! What an admin can set.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use causeway_core::names::DiskPath;
use causeway_core::plan::AGENT_WAIT;
use causeway_core::settings::{SettingsError, ShellRc};

use crate::carry::Manner;
use crate::datastore::Front;
use crate::facts::reading::{TRUTHS, truth};
use crate::rbd::PoolName;

/// `SUPPORTED_FS` as it is shipped.
const SHIPPED: &str = "ext2,ext3,ext4,xfs";

/// What `etc/datastore/ceph/ceph.conf` of the remotes says, with its shipped values as defaults (contract TM 2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CephSettings {
    /// `POOL_NAME`: the pool of what names none.
    pub pool: PoolName,
    /// `RBD_FORMAT`.
    pub format: String,
    /// `CEPH_TRASH`: removed volumes go to the trash.
    pub trash: bool,
    /// `STAGING_DIR`: where hosts of `BRIDGE_LIST` keep what is to become an image.
    pub staging: PathBuf,
}

impl Default for CephSettings {
    fn default() -> Self {
        CephSettings {
            pool: PoolName::default(),
            format: "2".to_owned(),
            trash: false,
            staging: "/var/tmp".into(),
        }
    }
}

impl CephSettings {
    /// Reads that file.
    ///
    /// # Errors
    /// A value that is none, or that only a shell could read.
    pub fn read(file: &ShellRc) -> Result<Self, SettingsError> {
        let mut settings = CephSettings::default();
        if let Some(pool) = file.get("POOL_NAME")? {
            let wrong = |e| SettingsError::value(file.file(), "POOL_NAME", pool, e);
            settings.pool = pool.parse().map_err(wrong)?;
        }
        if let Some(trash) = file.get("CEPH_TRASH")? {
            let wrong = || SettingsError::value(file.file(), "CEPH_TRASH", trash, TRUTHS);
            settings.trash = truth(trash).ok_or_else(wrong)?;
        }
        if let Some(staging) = file.get("STAGING_DIR")? {
            let wrong = |e| SettingsError::value(file.file(), "STAGING_DIR", staging, e);
            settings.staging = staging.parse().map(|path: DiskPath| path.path()).map_err(wrong)?;
        }
        if let Some(format) = file.get("RBD_FORMAT")? {
            settings.format = format.to_owned();
        }
        Ok(settings)
    }
}

/// Settings of the plans; the caller reads them from `tmrc` and its own files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmSettings {
    /// `QCOW2_OPTIONS` of `tmrc`, split into words: handed to `qemu-img create` as they are.
    pub qcow2_options: Vec<String>,
    /// `SUPPORTED_FS` of `datastore.conf`: the file systems that a volatile disk may have, each with `FS_OPTS_<fs>`, more
    /// words for its `mkfs`.
    pub file_systems: BTreeMap<String, Vec<String>>,
    /// What is so of every Ceph cluster.
    pub ceph: CephSettings,
    /// `VIRSH_TIMEOUT` of `kvmrc`: how long a guest's agent is waited for.
    pub agent_wait: Duration,
    /// Longest time of a step that copies no data.
    pub short_deadline: Duration,
    /// Longest time of a step that copies an image. The stock driver waits for ever (contract TM 1.1, `-w`).
    pub copy_deadline: Duration,
    /// `BACKUP_BASE_PATH` of `datastore.conf`: where the hosts put what a backup driver is to fetch; else it lies in the
    /// VM's directory.
    pub backup_base: Option<DiskPath>,
    /// What a step that fetches something on the front-end works with.
    pub front: Option<Front>,
    /// How a VM's directory goes to a host that does not see it.
    pub carry: Manner,
}

impl Default for TmSettings {
    fn default() -> Self {
        TmSettings {
            qcow2_options: Vec::new(),
            file_systems: SHIPPED.split(',').map(|name| (name.to_owned(), Vec::new())).collect(),
            ceph: CephSettings::default(),
            agent_wait: AGENT_WAIT,
            short_deadline: Duration::from_secs(120),
            copy_deadline: Duration::from_secs(24 * 3600),
            backup_base: None,
            front: None,
            carry: Manner::default(),
        }
    }
}

impl TmSettings {
    /// How long a guest's agent is waited for, seconds.
    pub(crate) fn agent_seconds(&self) -> u32 {
        u32::try_from(self.agent_wait.as_secs()).unwrap_or(u32::MAX)
    }

    /// What the front-end's `tmrc` and, of its remotes, `etc/datastore/datastore.conf` and `etc/vmm/kvm/kvmrc` say
    /// (contract TM 1.1, 1.6); no deadlines of steps are among it.
    ///
    /// # Errors
    /// A value that only a shell could read, or a file system's name that can't be part of a program's.
    pub fn read(tmrc: &ShellRc, datastore: &ShellRc, kvmrc: &ShellRc) -> Result<Self, SettingsError> {
        let words = |text: Option<&str>| -> Vec<String> {
            text.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        };
        let mut file_systems = BTreeMap::new();
        let names = datastore.get("SUPPORTED_FS")?.unwrap_or(SHIPPED);
        for name in names.split([',', ' ']).filter(|name| !name.is_empty()) {
            // It becomes part of `mkfs.<name>`, and of a setting's name.
            if !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
                let accepted = "names of file systems with commas between them";
                return Err(SettingsError::value(datastore.file(), "SUPPORTED_FS", names, accepted));
            }
            let options = words(datastore.get(&format!("FS_OPTS_{name}"))?);
            file_systems.insert(name.to_owned(), options);
        }
        let agent_wait = match kvmrc.get("VIRSH_TIMEOUT")?.filter(|text| !text.is_empty()) {
            None => AGENT_WAIT,
            // Of a larger one no end could be told.
            Some(text) => Duration::from_secs(text.parse::<u32>().map(u64::from).map_err(|_| {
                SettingsError::value(kvmrc.file(), "VIRSH_TIMEOUT", text, "a number of seconds below 2^32")
            })?),
        };
        let backup_base = match datastore.get("BACKUP_BASE_PATH")?.filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                let accepted = "an absolute path without '..'";
                SettingsError::value(datastore.file(), "BACKUP_BASE_PATH", text, accepted)
            })?),
        };
        let qcow2_options = words(tmrc.get("QCOW2_OPTIONS")?);
        Ok(TmSettings { qcow2_options, file_systems, agent_wait, backup_base, ..TmSettings::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(datastore: &str) -> Result<TmSettings, SettingsError> {
        let tmrc = ShellRc::parse("tmrc", "QCOW2_OPTIONS='-o cluster_size=2M'");
        let kvmrc = ShellRc::parse("kvmrc", "export VIRSH_TIMEOUT=7");
        TmSettings::read(&tmrc, &ShellRc::parse("datastore.conf", datastore), &kvmrc)
    }

    #[test]
    fn the_settings_of_ceph() {
        let read = |text: &str| CephSettings::read(&ShellRc::parse("ceph.conf", text));
        assert_eq!(read("STAGING_DIR=/var/tmp/\n").unwrap(), CephSettings::default());
        let set = read("POOL_NAME=\"two\"\nRBD_FORMAT=1\nCEPH_TRASH=YES\n").unwrap();
        assert_eq!((set.pool.as_str(), set.format.as_str(), set.trash), ("two", "1", true));
        assert_eq!(read("STAGING_DIR=/srv").unwrap().staging, PathBuf::from("/srv"));
        for wrong in ["STAGING_DIR=tmp", "POOL_NAME=a/b", "POOL_NAME=-x", "CEPH_TRASH=maybe"] {
            assert!(read(wrong).unwrap_err().to_string().contains("ceph.conf"), "{wrong}");
        }
    }

    #[test]
    fn file_systems_and_their_options() {
        let settings = read("SUPPORTED_FS=\"ext4,btrfs\"\nFS_OPTS_ext4=\"-b 4096\"\n").unwrap();
        assert_eq!(settings.agent_wait, Duration::from_secs(7));
        assert_eq!(settings.qcow2_options, ["-o", "cluster_size=2M"]);
        let found: Vec<(&str, usize)> =
            settings.file_systems.iter().map(|(name, options)| (name.as_str(), options.len())).collect();
        assert_eq!(found, [("btrfs", 0), ("ext4", 2)]);
        assert_eq!(read("").unwrap().file_systems, TmSettings::default().file_systems);
        assert!(read("SUPPORTED_FS='ext4,../x'").unwrap_err().to_string().contains("SUPPORTED_FS"));
    }

    /// No end could be told of so long a wait.
    #[test]
    fn a_wait_without_measure_is_refused() {
        let none = ShellRc::parse("x", "");
        let read = |text: &str| TmSettings::read(&none, &none, &ShellRc::parse("kvmrc", text));
        for text in ["18446744073709551615", "4294967296", "-1", "x"] {
            let error = read(&format!("export VIRSH_TIMEOUT={text}")).unwrap_err().to_string();
            assert!(error.contains("VIRSH_TIMEOUT"), "{error}");
        }
        assert_eq!(read("export VIRSH_TIMEOUT=4294967295").unwrap().agent_seconds(), u32::MAX);
    }
}
