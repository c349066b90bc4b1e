//! `kvmrc`: the hypervisor's settings on a host (contract VMM 3.1).

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::{SettingsError, form};
use super::shell_rc::ShellRc;
use crate::document::{Form, YesNo};
use crate::names::DiskPath;

/// What disks and NICs get that are plugged into a running VM, unless they say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DefaultAttach {
    /// `DEFAULT_ATTACH_CACHE`.
    pub cache: Option<String>,
    /// `DEFAULT_ATTACH_DISCARD`.
    pub discard: Option<String>,
    /// `DEFAULT_ATTACH_IO`.
    pub io: Option<String>,
    /// `DEFAULT_ATTACH_VIRTIO_BLK_QUEUES`: a number, or `auto` for one per processor.
    pub virtio_blk_queues: Option<String>,
    /// `DEFAULT_ATTACH_VIRTIO_BLK_IOTHREAD`.
    pub virtio_blk_iothread: Option<String>,
    /// `DEFAULT_ATTACH_*_SEC*`: limits, by the name of the disk's attribute (`TOTAL_BYTES_SEC`).
    pub throttle: BTreeMap<String, u64>,
    /// `DEFAULT_ATTACH_NIC_MODEL`.
    pub nic_model: Option<String>,
    /// `DEFAULT_ATTACH_NIC_FILTER`.
    pub nic_filter: Option<String>,
}

/// The settings of one host's `kvmrc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kvmrc {
    /// `LIBVIRT_URI`.
    pub libvirt_uri: String,
    /// `QEMU_PROTOCOL`: what stands before `://<host>/system` for another host.
    pub qemu_protocol: String,
    /// `LIBVIRT_MD_URI`: the name space of our metadata in a domain.
    pub libvirt_md_uri: String,
    /// `LIBVIRT_MD_KEY`: its prefix.
    pub libvirt_md_key: String,
    /// `SHUTDOWN_TIMEOUT`: how long a guest may take to stop.
    pub shutdown_timeout: Duration,
    /// `FORCE_DESTROY`: then stop it at once.
    pub force_destroy: bool,
    /// `CANCEL_NO_ACPI`: stop a guest without ACPI at once.
    pub cancel_no_acpi: bool,
    /// `SYNC_TIME`: set the guest's clock after a restore or a migration.
    pub sync_time: bool,
    /// `VIRSH_RETRIES`: tries of a restore and of unplugging a NIC.
    pub virsh_retries: u32,
    /// `VIRSH_TRIES`: tries of a migration while a block job runs.
    pub virsh_tries: u32,
    /// `VIRSH_TIMEOUT`: for the transfer manager's snapshots.
    pub virsh_timeout: Duration,
    /// `CLEANUP_MEMORY_ON_START`.
    pub cleanup_memory_on_start: bool,
    /// `CLEANUP_MEMORY_ON_STOP`.
    pub cleanup_memory_on_stop: bool,
    /// `MIGRATE_OPTIONS`: words for the migrate command.
    pub migrate_options: Vec<String>,
    /// `DEFAULT_ATTACH_*`.
    pub default_attach: DefaultAttach,
    /// `OVMF_NVRAM`: what a guest's firmware variables are made from.
    pub ovmf_nvram: DiskPath,
}

/// The disk's attributes that `DEFAULT_ATTACH_` may stand before.
const THROTTLE: [&str; 19] = [
    "TOTAL_BYTES_SEC",
    "TOTAL_BYTES_SEC_MAX",
    "TOTAL_BYTES_SEC_MAX_LENGTH",
    "TOTAL_IOPS_SEC",
    "TOTAL_IOPS_SEC_MAX",
    "TOTAL_IOPS_SEC_MAX_LENGTH",
    "READ_BYTES_SEC",
    "READ_BYTES_SEC_MAX",
    "READ_BYTES_SEC_MAX_LENGTH",
    "READ_IOPS_SEC",
    "READ_IOPS_SEC_MAX",
    "READ_IOPS_SEC_MAX_LENGTH",
    "WRITE_BYTES_SEC",
    "WRITE_BYTES_SEC_MAX",
    "WRITE_BYTES_SEC_MAX_LENGTH",
    "WRITE_IOPS_SEC",
    "WRITE_IOPS_SEC_MAX",
    "WRITE_IOPS_SEC_MAX_LENGTH",
    "SIZE_IOPS_SEC",
];

/// The file as it is shipped, for a host that has none.
const SHIPPED: &str = "
SHUTDOWN_TIMEOUT=180
FORCE_DESTROY=yes
SYNC_TIME=yes
DEFAULT_ATTACH_CACHE=none
DEFAULT_ATTACH_DISCARD=unmap
DEFAULT_ATTACH_NIC_MODEL=virtio
";

impl Kvmrc {
    /// The settings of a file.
    ///
    /// A setting that the file lacks has the meaning that its absence has for the stock scripts, which is not always
    /// the shipped value: without `SHUTDOWN_TIMEOUT` it is 120 s, shipped are 180 s.
    ///
    /// # Errors
    /// [`SettingsError`] for a malformed value of a known setting, and for one that only a shell could read.
    pub fn read(rc: &ShellRc) -> Result<Self, SettingsError> {
        let rc = Typed(rc);
        Ok(Kvmrc {
            libvirt_uri: rc.uri("LIBVIRT_URI", "qemu:///system")?,
            qemu_protocol: rc.uri("QEMU_PROTOCOL", "qemu+ssh")?,
            libvirt_md_uri: rc.uri("LIBVIRT_MD_URI", "http://opennebula.org/xmlns/libvirt/1.0")?,
            libvirt_md_key: rc.uri("LIBVIRT_MD_KEY", "one")?,
            shutdown_timeout: rc.seconds("SHUTDOWN_TIMEOUT", 120)?,
            force_destroy: rc.flag("FORCE_DESTROY")?,
            cancel_no_acpi: rc.flag("CANCEL_NO_ACPI")?,
            sync_time: rc.flag("SYNC_TIME")?,
            virsh_retries: rc.tries("VIRSH_RETRIES")?,
            virsh_tries: rc.tries("VIRSH_TRIES")?,
            virsh_timeout: rc.seconds("VIRSH_TIMEOUT", 60)?,
            cleanup_memory_on_start: rc.flag("CLEANUP_MEMORY_ON_START")?,
            cleanup_memory_on_stop: rc.flag("CLEANUP_MEMORY_ON_STOP")?,
            migrate_options: rc.words("MIGRATE_OPTIONS")?,
            default_attach: rc.default_attach()?,
            ovmf_nvram: rc.path("OVMF_NVRAM", "/usr/share/OVMF/OVMF_VARS.fd")?,
        })
    }

    /// The settings of a host without the file: those that are shipped.
    ///
    /// # Errors
    /// None in practice; the signature is that of the parser it goes through.
    pub fn shipped() -> Result<Self, SettingsError> {
        Kvmrc::read(&ShellRc::parse("shipped kvmrc", SHIPPED))
    }
}

/// Takes typed values out of a file.
struct Typed<'a>(&'a ShellRc);

impl Typed<'_> {
    /// The value; an empty one is absent.
    fn text(&self, key: &str) -> Result<Option<&str>, SettingsError> {
        Ok(self.0.get(key)?.map(str::trim).filter(|text| !text.is_empty()))
    }

    fn form<T: Form>(&self, key: &str) -> Result<Option<T>, SettingsError> {
        self.text(key)?.map(|text| form(self.0.file(), key, text)).transpose()
    }

    fn flag(&self, key: &str) -> Result<bool, SettingsError> {
        Ok(self.form::<YesNo>(key)?.is_some_and(|flag| flag.0))
    }

    fn seconds(&self, key: &str, default: u32) -> Result<Duration, SettingsError> {
        let seconds: Option<u32> = self.form(key)?;
        Ok(Duration::from_secs(seconds.unwrap_or(default).into()))
    }

    /// A number of tries: three unless said otherwise, and never none.
    fn tries(&self, key: &str) -> Result<u32, SettingsError> {
        Ok(self.form(key)?.unwrap_or(3).max(1))
    }

    /// A word without blanks that libvirt is given.
    fn uri(&self, key: &str, default: &str) -> Result<String, SettingsError> {
        let text = self.text(key)?.unwrap_or(default);
        if text.bytes().all(|b| b.is_ascii_graphic()) && !text.starts_with('-') {
            return Ok(text.to_owned());
        }
        Err(SettingsError::value(self.0.file(), key, text, "one word"))
    }

    fn words(&self, key: &str) -> Result<Vec<String>, SettingsError> {
        let text = self.text(key)?.unwrap_or_default();
        Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
    }

    fn path(&self, key: &str, default: &str) -> Result<DiskPath, SettingsError> {
        let text = self.text(key)?.unwrap_or(default);
        text.parse().map_err(|error: crate::names::NameError| {
            SettingsError::value(self.0.file(), key, text, error.accepted)
        })
    }

    /// A word that goes into a domain's XML.
    fn word(&self, key: &str) -> Result<Option<String>, SettingsError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if text.bytes().all(word) {
            return Ok(Some(text.to_owned()));
        }
        Err(SettingsError::value(self.0.file(), key, text, "a word of letters, digits, '_', '-' and '.'"))
    }

    fn default_attach(&self) -> Result<DefaultAttach, SettingsError> {
        let mut throttle = BTreeMap::new();
        for name in THROTTLE {
            if let Some(limit) = self.form(&format!("DEFAULT_ATTACH_{name}"))? {
                throttle.insert(name.to_owned(), limit);
            }
        }
        Ok(DefaultAttach {
            cache: self.word("DEFAULT_ATTACH_CACHE")?,
            discard: self.word("DEFAULT_ATTACH_DISCARD")?,
            io: self.word("DEFAULT_ATTACH_IO")?,
            virtio_blk_queues: self.word("DEFAULT_ATTACH_VIRTIO_BLK_QUEUES")?,
            virtio_blk_iothread: self.word("DEFAULT_ATTACH_VIRTIO_BLK_IOTHREAD")?,
            throttle,
            nic_model: self.word("DEFAULT_ATTACH_NIC_MODEL")?,
            nic_filter: self.word("DEFAULT_ATTACH_NIC_FILTER")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Kvmrc, SettingsError> {
        Kvmrc::read(&ShellRc::parse("kvmrc", text))
    }

    #[test]
    fn absent_is_not_always_what_is_shipped() {
        let shipped = Kvmrc::shipped().unwrap();
        assert_eq!(shipped.shutdown_timeout, Duration::from_secs(180));
        assert!(shipped.force_destroy && shipped.sync_time && !shipped.cancel_no_acpi);
        assert_eq!(shipped.default_attach.discard.as_deref(), Some("unmap"));
        let empty = read("").unwrap();
        assert_eq!(empty.shutdown_timeout, Duration::from_secs(120));
        assert!(!empty.force_destroy && !empty.sync_time);
        assert_eq!((empty.virsh_retries, empty.virsh_tries), (3, 3));
        assert_eq!(
            (empty.libvirt_uri.as_str(), empty.qemu_protocol.as_str()),
            ("qemu:///system", "qemu+ssh")
        );
        assert_eq!(empty.migrate_options, Vec::<String>::new());
    }

    #[test]
    fn a_file_as_administrators_write_it() {
        let rc = read(
            "export LIBVIRT_URI=qemu:///session # ours\nexport FORCE_DESTROY=Yes\nexport SHUTDOWN_TIMEOUT='30'\n\
             export MIGRATE_OPTIONS=\"--unsafe  --postcopy\"\nexport DEFAULT_ATTACH_TOTAL_IOPS_SEC_MAX=500\n\
             export VIRTIOFSD_BINARY_PATH=$(which virtiofsd)\n",
        )
        .unwrap();
        assert_eq!((rc.libvirt_uri.as_str(), rc.force_destroy), ("qemu:///session", true));
        assert_eq!(rc.shutdown_timeout, Duration::from_secs(30));
        assert_eq!(rc.migrate_options, ["--unsafe", "--postcopy"]);
        assert_eq!(rc.default_attach.throttle["TOTAL_IOPS_SEC_MAX"], 500);
    }

    #[test]
    fn errors_name_file_setting_and_form() {
        for (text, message) in [
            ("FORCE_DESTROY=maybe", "kvmrc: FORCE_DESTROY is \"maybe\", not YES or NO"),
            ("SHUTDOWN_TIMEOUT=3m", "kvmrc: SHUTDOWN_TIMEOUT is \"3m\", not a number up to 4294967295"),
            ("LIBVIRT_URI='a b'", "kvmrc: LIBVIRT_URI is \"a b\", not one word"),
            (
                "\nLIBVIRT_URI=qemu://$(hostname)/system",
                "kvmrc, line 2: '$' would be expanded; nothing is, write the value",
            ),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), message);
        }
        assert!(read("OVMF_NVRAM=../x").is_err());
        assert!(read("DEFAULT_ATTACH_CACHE='none\"/>'").is_err());
    }
}
