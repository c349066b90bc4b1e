//! What is known of a VM and of its disks.

use causeway_core::document::tree::Element;
use causeway_core::document::{Disk, VmDocument};
use causeway_core::names::{DeployId, HostName, VmId};

use super::reading::{flag, number};
use super::{BackupFacts, CephFacts};
use crate::error::TmError;

/// `LCM_STATE` values that decide how a verb works (contract TM 4).
pub mod lcm {
    /// Nobody knows whether the VM runs: its host does not answer.
    pub const UNKNOWN: u32 = 16;
    /// A disk of a running VM is being saved as an image.
    pub const HOTPLUG_SAVEAS: u32 = 26;
    /// A snapshot of a running VM's disk is being deleted.
    pub const DISK_SNAPSHOT_DELETE: u32 = 59;
    /// A VM is being moved away from a host that does not answer.
    pub const PROLOG_MIGRATE_UNKNOWN: u32 = 60;
    /// That failed.
    pub const PROLOG_MIGRATE_UNKNOWN_FAILURE: u32 = 61;
    /// A disk of a running VM is being grown.
    pub const DISK_RESIZE: u32 = 62;
    /// A VM is being backed up while it runs.
    pub const BACKUP: u32 = 69;
    /// A disk of an undeployed VM is being saved as an image.
    pub const HOTPLUG_SAVEAS_UNDEPLOYED: u32 = 67;
    /// A disk of a stopped VM is being saved as an image.
    pub const HOTPLUG_SAVEAS_STOPPED: u32 = 68;
}

/// How a disk's bytes are laid out (`DISK/FORMAT`; older images say it in `DRIVER`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// A plain image.
    Raw,
    /// A QEMU copy-on-write image.
    Qcow2,
    /// Anything else, `vmdk` say: copied as it is, linked like qcow2 (contract TM 2.1).
    Other(String),
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Other(name) => name,
        })
    }
}

impl Format {
    pub(crate) fn read(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "raw" => Format::Raw,
            "qcow2" => Format::Qcow2,
            other => Format::Other(other.to_owned()),
        }
    }
}

/// One snapshot of a disk, as oned counts them (`SNAPSHOTS/SNAPSHOT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// `ID`: grows, and is never given out again.
    pub id: u32,
    /// `ACTIVE`: what the guest writes now began as this one.
    pub active: bool,
}

/// What is known of one disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFacts {
    /// `DISK_ID`.
    pub id: u32,
    /// `TYPE`: `FILE`, `RBD`, `CDROM`, `fs`, `swap`.
    pub disk_type: Option<String>,
    /// `TM_MAD`: whose disk it is; none for a volatile one.
    pub tm_mad: Option<String>,
    /// `SOURCE`: the image; none for a volatile disk.
    pub source: Option<String>,
    /// `CLONE`: the VM has its own copy of the image.
    pub clone: bool,
    /// `PERSISTENT`: the image itself is the VM's disk.
    pub persistent: bool,
    /// `TARGET`: the device in the guest, `vda`.
    pub target: Option<String>,
    /// `FORMAT`, else `DRIVER`; none where the document has neither.
    pub format: Option<Format>,
    /// `FS`: the file system that a volatile disk is to have.
    pub fs: Option<String>,
    /// `SIZE`, MiB.
    pub size_mb: Option<u64>,
    /// `ORIGINAL_SIZE`, MiB: that of the image.
    pub original_size_mb: Option<u64>,
    /// `QCOW2_STANDALONE`: the VM's copy has no backing file.
    pub standalone: bool,
    /// `SPARSE`; unless it says no, what is added to a disk takes no room until it is written.
    pub sparse: bool,
    /// Its cluster, where it is a volume of one.
    pub ceph: CephFacts,
    /// Its snapshots, in the document's order.
    pub snapshots: Vec<SnapshotFacts>,
}

impl DiskFacts {
    /// A disk of which only the number is known.
    pub fn new(id: u32) -> Self {
        DiskFacts {
            id,
            disk_type: None,
            tm_mad: None,
            source: None,
            clone: false,
            persistent: false,
            target: None,
            format: None,
            fs: None,
            size_mb: None,
            original_size_mb: None,
            standalone: false,
            sparse: true,
            ceph: CephFacts::default(),
            snapshots: Vec::new(),
        }
    }

    /// The size to grow a copy of the image to, MiB; none where it stays as large as it is.
    pub fn grown_mb(&self) -> Option<u64> {
        // A disk without ORIGINAL_SIZE was never given another size than its image's.
        let (size, original) = (self.size_mb?, self.original_size_mb?);
        (size > original).then_some(size)
    }

    fn of(disk: &Disk, vm: &Element, object: &str) -> Result<Self, TmError> {
        let flag = |name: &str| flag(&disk.element, name, object, &format!("DISK {} {name}", disk.disk_id));
        Ok(DiskFacts {
            disk_type: disk.disk_type.clone(),
            tm_mad: disk.tm_mad.as_ref().map(|name| name.as_str().to_owned()),
            source: disk.source.clone().filter(|source| !source.is_empty()),
            clone: disk.clone,
            persistent: disk.persistent,
            target: disk.target.clone(),
            format: disk.format.as_deref().or(disk.driver.as_deref()).map(Format::read),
            fs: disk.element.value("FS").filter(|fs| !fs.is_empty()),
            size_mb: disk.size_mb,
            original_size_mb: disk.original_size_mb,
            standalone: flag("QCOW2_STANDALONE")?.unwrap_or(false),
            sparse: flag("SPARSE")?.unwrap_or(true),
            ceph: CephFacts::of(&disk.element),
            snapshots: snapshots(vm, disk.disk_id, object)?,
            ..DiskFacts::new(disk.disk_id)
        })
    }
}

/// The snapshots of one disk: those of another are none of its business (W6).
fn snapshots(vm: &Element, disk: u32, object: &str) -> Result<Vec<SnapshotFacts>, TmError> {
    let mut found = Vec::new();
    for list in vm.named("SNAPSHOTS") {
        if number(list, "DISK_ID", object, "SNAPSHOTS DISK_ID")? != Some(disk) {
            continue;
        }
        for snapshot in list.named("SNAPSHOT") {
            let attribute = format!("snapshot of DISK {disk}");
            let id = number(snapshot, "ID", object, &format!("ID of a {attribute}"))?;
            let id = id.ok_or_else(|| TmError::Missing {
                what: format!("ID of a {attribute}"),
                object: object.to_owned(),
            })?;
            let active = flag(snapshot, "ACTIVE", object, &format!("ACTIVE of a {attribute}"))?;
            found.push(SnapshotFacts { id, active: active.unwrap_or(false) });
        }
    }
    Ok(found)
}

/// What is known of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFacts {
    /// The VM.
    pub id: VmId,
    /// `LCM_STATE`; none in a reduced document.
    pub lcm_state: Option<u32>,
    /// `DEPLOY_ID`.
    pub deploy_id: Option<DeployId>,
    /// `HOSTNAME` of its last history record.
    pub host: Option<HostName>,
    /// `VM_MAD` of its last history record.
    pub vm_mad: Option<String>,
    /// Its disks, in the document's order.
    pub disks: Vec<DiskFacts>,
    /// `DS_ID` of its history records, oldest first. A document that oned sends with a request has the last one only.
    pub datastores: Vec<u32>,
    /// How it is to be backed up.
    pub backup: BackupFacts,
}

impl VmFacts {
    /// A VM of which only the number is known.
    pub fn new(id: VmId) -> Self {
        VmFacts {
            id,
            lcm_state: None,
            deploy_id: None,
            host: None,
            vm_mad: None,
            disks: Vec::new(),
            datastores: Vec::new(),
            backup: BackupFacts::default(),
        }
    }

    /// What a document says.
    ///
    /// # Errors
    /// A flag that is neither YES nor NO, a history record without a datastore.
    pub fn of(vm: &VmDocument) -> Result<Self, TmError> {
        let object = format!("VM {}", vm.id);
        let disks = vm.disks.iter().map(|disk| DiskFacts::of(disk, vm.element(), &object));
        let disks = disks.collect::<Result<_, _>>()?;
        let records = vm.element().all(&["HISTORY_RECORDS", "HISTORY"]);
        // A reduced document has a record per field instead of a record per history entry, and no SEQ in any.
        let whole = records.iter().filter(|record| record.first("SEQ").is_some());
        let datastore = |record: &&std::sync::Arc<Element>| {
            let what = "HISTORY DS_ID";
            let id = number(record, "DS_ID", &object, what)?;
            id.ok_or_else(|| TmError::Missing { what: what.to_owned(), object: object.clone() })
        };
        Ok(VmFacts {
            id: vm.id,
            lcm_state: vm.lcm_state,
            deploy_id: vm.deploy_id.clone(),
            host: vm.history.hostname.clone(),
            vm_mad: vm.history.vm_mad.as_ref().map(|name| name.as_str().to_owned()),
            disks,
            datastores: whole.map(datastore).collect::<Result<_, _>>()?,
            backup: BackupFacts::of(vm.element()),
        })
    }

    /// The disk of that number.
    ///
    /// # Errors
    /// The document has none.
    pub fn disk(&self, id: u32) -> Result<&DiskFacts, TmError> {
        self.disks.iter().find(|disk| disk.id == id).ok_or_else(|| self.missing(format!("DISK {id}")))
    }

    /// The format of the disk of that number.
    ///
    /// # Errors
    /// There is no such disk, or nothing says its format: it is never guessed from the image's bytes, which a guest
    /// may have written.
    pub fn format(&self, id: u32) -> Result<&Format, TmError> {
        let format = self.disk(id)?.format.as_ref();
        format.ok_or_else(|| self.missing(format!("DISK {id} FORMAT")))
    }

    /// `LCM_STATE`.
    ///
    /// # Errors
    /// The document does not say: "not running" must never be a state that nobody stated.
    pub fn lcm_state(&self) -> Result<u32, TmError> {
        self.lcm_state.ok_or_else(|| self.missing("LCM_STATE".to_owned()))
    }

    pub(crate) fn missing(&self, what: String) -> TmError {
        TmError::Missing { what, object: format!("VM {}", self.id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(disk: &str, history: &str) -> VmDocument {
        let xml = format!(
            "<VM><ID>7</ID><TEMPLATE><DISK><DISK_ID>0</DISK_ID>{disk}</DISK></TEMPLATE>\
             <HISTORY_RECORDS>{history}</HISTORY_RECORDS></VM>"
        );
        VmDocument::parse(xml.as_bytes()).unwrap()
    }

    #[test]
    fn a_disk_grows_only_beyond_its_image() {
        let sizes = |text| VmFacts::of(&vm(text, "")).unwrap().disk(0).unwrap().grown_mb();
        assert_eq!(sizes("<SIZE>2048</SIZE><ORIGINAL_SIZE>1024</ORIGINAL_SIZE>"), Some(2048));
        assert_eq!(sizes("<SIZE>1024</SIZE><ORIGINAL_SIZE>1024</ORIGINAL_SIZE>"), None);
        assert_eq!(sizes("<SIZE>1024</SIZE>"), None);
    }

    #[test]
    fn flags_have_the_stock_defaults_and_no_third_value() {
        let plain = VmFacts::of(&vm("<FORMAT>qcow2</FORMAT>", "")).unwrap();
        let disk = plain.disk(0).unwrap();
        assert_eq!((disk.standalone, disk.sparse), (false, true));
        assert_eq!(plain.format(0), Ok(&Format::Qcow2));
        let set = vm("<DRIVER>raw</DRIVER><QCOW2_STANDALONE>YES</QCOW2_STANDALONE><SPARSE>no</SPARSE>", "");
        let set = VmFacts::of(&set).unwrap();
        assert_eq!((set.disk(0).unwrap().standalone, set.disk(0).unwrap().sparse), (true, false));
        assert_eq!(set.format(0), Ok(&Format::Raw));
        let odd = VmFacts::of(&vm("<SPARSE>maybe</SPARSE>", "")).unwrap_err();
        assert_eq!(odd.to_string(), "DISK 0 SPARSE of VM 7 is \"maybe\", not YES or NO, TRUE or FALSE");
    }

    #[test]
    fn what_is_not_said_is_an_error_and_not_a_default() {
        let facts = VmFacts::of(&vm("", "")).unwrap();
        assert_eq!(facts.format(0).unwrap_err().to_string(), "DISK 0 FORMAT is not in the document of VM 7");
        assert_eq!(facts.lcm_state().unwrap_err().to_string(), "LCM_STATE is not in the document of VM 7");
        assert!(facts.disk(1).is_err());
    }

    #[test]
    fn the_history_is_read_oldest_first() {
        let records = "<HISTORY><SEQ>0</SEQ><DS_ID>100</DS_ID></HISTORY><HISTORY><SEQ>1</SEQ><DS_ID>102</DS_ID></HISTORY>";
        assert_eq!(VmFacts::of(&vm("", records)).unwrap().datastores, [100, 102]);
        let without = "<HISTORY><SEQ>0</SEQ></HISTORY>";
        assert!(VmFacts::of(&vm("", without)).is_err());
    }

    #[test]
    fn a_snapshot_belongs_to_its_own_disk() {
        let xml = "<VM><ID>7</ID><LCM_STATE>59</LCM_STATE><TEMPLATE><DISK><DISK_ID>0</DISK_ID></DISK>\
                   <DISK><DISK_ID>1</DISK_ID></DISK></TEMPLATE>\
                   <SNAPSHOTS><DISK_ID>0</DISK_ID><SNAPSHOT><ID>0</ID></SNAPSHOT></SNAPSHOTS>\
                   <SNAPSHOTS><DISK_ID>1</DISK_ID><SNAPSHOT><ID>0</ID><ACTIVE>YES</ACTIVE></SNAPSHOT>\
                   <SNAPSHOT><ID>2</ID></SNAPSHOT></SNAPSHOTS></VM>";
        let facts = VmFacts::of(&VmDocument::parse(xml.as_bytes()).unwrap()).unwrap();
        let of =
            |id: u32| facts.disk(id).unwrap().snapshots.iter().map(|s| (s.id, s.active)).collect::<Vec<_>>();
        assert_eq!(of(0), [(0, false)]);
        assert_eq!(of(1), [(0, true), (2, false)]);
        assert_eq!(facts.lcm_state(), Ok(lcm::DISK_SNAPSHOT_DELETE));
        let odd = xml.replace("<ID>2</ID>", "<ID>two</ID>");
        assert!(VmFacts::of(&VmDocument::parse(odd.as_bytes()).unwrap()).is_err());
    }
}
