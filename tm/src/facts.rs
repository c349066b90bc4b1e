//! What a plan must know that no argument says: attributes of the VM's disks, of its history and of datastores.
//!
//! The stock scripts call oned back for these and read a failed call as an empty value (contract TM 1.6, W4, W41).
//! Here a plan says what it [`Needs`], the caller gets it (over XML-RPC, or from the document on standard input), and
//! what can't be had is an error.

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::answer::Failure;
use causeway_core::document::tree::Element;
use causeway_core::document::{self, Disk, VmDocument};
use causeway_core::names::VmId;

use crate::error::TmError;

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

impl Format {
    fn read(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "raw" => Format::Raw,
            "qcow2" => Format::Qcow2,
            other => Format::Other(other.to_owned()),
        }
    }
}

/// What is known of one disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskFacts {
    /// `DISK_ID`.
    pub id: u32,
    /// `TM_MAD`: whose disk it is; none for a volatile one.
    pub tm_mad: Option<String>,
    /// `FORMAT`, else `DRIVER`; none where the document has neither.
    pub format: Option<Format>,
    /// `SIZE`, MiB.
    pub size_mb: Option<u64>,
    /// `ORIGINAL_SIZE`, MiB: that of the image.
    pub original_size_mb: Option<u64>,
    /// `QCOW2_STANDALONE`: the VM's copy has no backing file.
    pub standalone: bool,
    /// `SPARSE`; unless it says no, what is added to a disk takes no room until it is written.
    pub sparse: bool,
}

impl DiskFacts {
    /// The size to grow a copy of the image to, MiB; none where it stays as large as it is.
    pub fn grown_mb(&self) -> Option<u64> {
        // A disk without ORIGINAL_SIZE was never given another size than its image's.
        let (size, original) = (self.size_mb?, self.original_size_mb?);
        (size > original).then_some(size)
    }

    fn of(disk: &Disk, object: &str) -> Result<Self, TmError> {
        let flag = |name: &str| flag(&disk.element, name, object, &format!("DISK {} {name}", disk.disk_id));
        Ok(DiskFacts {
            id: disk.disk_id,
            tm_mad: disk.tm_mad.as_ref().map(|name| name.as_str().to_owned()),
            format: disk.format.as_deref().or(disk.driver.as_deref()).map(Format::read),
            size_mb: disk.size_mb,
            original_size_mb: disk.original_size_mb,
            standalone: flag("QCOW2_STANDALONE")?.unwrap_or(false),
            sparse: flag("SPARSE")?.unwrap_or(true),
        })
    }
}

fn flag(element: &Element, name: &str, object: &str, attribute: &str) -> Result<Option<bool>, TmError> {
    match element.value(name) {
        None => Ok(None),
        Some(text) if text.eq_ignore_ascii_case("yes") => Ok(Some(true)),
        Some(text) if text.eq_ignore_ascii_case("no") => Ok(Some(false)),
        Some(value) => Err(TmError::Attribute {
            attribute: attribute.to_owned(),
            object: object.to_owned(),
            value,
            accepted: "YES or NO",
        }),
    }
}

/// What is known of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFacts {
    /// The VM.
    pub id: VmId,
    /// Its disks, in the document's order.
    pub disks: Vec<DiskFacts>,
    /// `DS_ID` of its history records, oldest first. A document that oned sends with a request has the last one only.
    pub datastores: Vec<u32>,
}

impl VmFacts {
    /// What a document says.
    ///
    /// # Errors
    /// A flag that is neither YES nor NO, a history record without a datastore.
    pub fn of(vm: &VmDocument) -> Result<Self, TmError> {
        let object = format!("VM {}", vm.id);
        let disks = vm.disks.iter().map(|disk| DiskFacts::of(disk, &object)).collect::<Result<_, _>>()?;
        let records = vm.element().all(&["HISTORY_RECORDS", "HISTORY"]);
        let record = |record: &&std::sync::Arc<Element>| {
            let value = record.value("DS_ID").ok_or_else(|| TmError::Missing {
                what: "HISTORY DS_ID".to_owned(),
                object: object.clone(),
            })?;
            value.parse().map_err(|_| TmError::Attribute {
                attribute: "HISTORY DS_ID".to_owned(),
                object: object.clone(),
                value,
                accepted: "a datastore's number",
            })
        };
        // A reduced document has a record per field instead of a record per history entry, and no SEQ in any.
        let whole = records.iter().filter(|record| record.first("SEQ").is_some());
        Ok(VmFacts { id: vm.id, disks, datastores: whole.map(record).collect::<Result<_, _>>()? })
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

    fn missing(&self, what: String) -> TmError {
        TmError::Missing { what, object: format!("VM {}", self.id) }
    }
}

/// What is known of a datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatastoreFacts {
    /// `NFS_AUTO_ENABLE`: the hosts are to mount it by themselves.
    pub nfs_auto: bool,
}

impl DatastoreFacts {
    /// What a `DATASTORE` document says, as `one.datastore.info` returns it.
    ///
    /// # Errors
    /// A document that is none, or a flag that is neither YES nor NO.
    pub fn parse(id: u32, bytes: &[u8]) -> Result<Self, TmError> {
        let object = format!("datastore {id}");
        let root = document::parse(bytes)
            .map_err(|source| TmError::Document { object: object.clone(), source: source.into() })?;
        let template = root.first("TEMPLATE").filter(|_| root.name() == "DATASTORE");
        let template = template.ok_or_else(|| TmError::Missing {
            what: "DATASTORE/TEMPLATE".to_owned(),
            object: object.clone(),
        })?;
        let enabled = flag(template, "NFS_AUTO_ENABLE", &object, "NFS_AUTO_ENABLE")?;
        Ok(DatastoreFacts { nfs_auto: enabled.unwrap_or(false) })
    }
}

/// Which document of a VM is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmNeed {
    /// Any current one; that on standard input will do where there is one.
    Document(VmId),
    /// One with the whole history (`one.vm.info`): a document sent with a request ends with the last record.
    History(VmId),
}

impl VmNeed {
    /// The VM.
    pub fn vm(&self) -> VmId {
        match self {
            VmNeed::Document(vm) | VmNeed::History(vm) => *vm,
        }
    }
}

/// What must be looked up before a plan can be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Of the VM.
    pub vm: Option<VmNeed>,
    /// Of datastores, by number.
    pub datastores: BTreeSet<u32>,
}

/// What was looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Of the VM.
    pub vm: Option<VmFacts>,
    /// Of datastores, by number.
    pub datastores: BTreeMap<u32, DatastoreFacts>,
}

impl Facts {
    /// The VM's.
    pub(crate) fn vm(&self, id: VmId) -> Result<&VmFacts, TmError> {
        let found = self.vm.as_ref().filter(|vm| vm.id == id);
        found.ok_or_else(|| TmError::Missing { what: "VM".to_owned(), object: format!("VM {id}") })
    }

    /// A datastore's.
    pub(crate) fn datastore(&self, id: u32) -> Result<DatastoreFacts, TmError> {
        let found = self.datastores.get(&id).copied();
        found.ok_or_else(|| TmError::Missing {
            what: "DATASTORE".to_owned(),
            object: format!("datastore {id}"),
        })
    }
}

/// Whoever can be asked: oned, or a fake.
pub trait Lookup {
    /// A VM with its whole history.
    ///
    /// # Errors
    /// oned's refusal, or that it could not be asked.
    fn vm(&self, id: VmId) -> Result<VmFacts, Failure>;

    /// A datastore.
    ///
    /// # Errors
    /// oned's refusal, or that it could not be asked.
    fn datastore(&self, id: u32) -> Result<DatastoreFacts, Failure>;
}

/// Looks up all that is needed.
///
/// # Errors
/// [`TmError::LookUp`] for the first thing that could not be looked up.
pub fn gather(needs: &Needs, lookup: &dyn Lookup) -> Result<Facts, TmError> {
    let mut facts = Facts::default();
    if let Some(need) = needs.vm {
        let id = need.vm();
        let found = lookup.vm(id).map_err(|failure| TmError::LookUp { what: format!("VM {id}"), failure })?;
        facts.vm = Some(found);
    }
    for &id in &needs.datastores {
        let found = lookup
            .datastore(id)
            .map_err(|failure| TmError::LookUp { what: format!("datastore {id}"), failure })?;
        facts.datastores.insert(id, found);
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_core::answer::Kind;

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
        assert_eq!(odd.to_string(), "DISK 0 SPARSE of VM 7 is \"maybe\", not YES or NO");
    }

    #[test]
    fn what_is_not_said_is_an_error_and_not_a_default() {
        let facts = VmFacts::of(&vm("", "")).unwrap();
        assert_eq!(facts.format(0).unwrap_err().to_string(), "DISK 0 FORMAT is not in the document of VM 7");
        assert!(facts.disk(1).is_err());
        assert!(Facts::default().vm(VmId(7)).is_err());
        assert!(Facts::default().datastore(1).is_err());
    }

    #[test]
    fn the_history_is_read_oldest_first() {
        let records = "<HISTORY><SEQ>0</SEQ><DS_ID>100</DS_ID></HISTORY><HISTORY><SEQ>1</SEQ><DS_ID>102</DS_ID></HISTORY>";
        assert_eq!(VmFacts::of(&vm("", records)).unwrap().datastores, [100, 102]);
        let without = "<HISTORY><SEQ>0</SEQ></HISTORY>";
        assert!(VmFacts::of(&vm("", without)).is_err());
    }

    #[test]
    fn a_datastore_says_whether_hosts_mount_it() {
        let parse = |template: &str| {
            let xml = format!("<DATASTORE><ID>1</ID><TEMPLATE>{template}</TEMPLATE></DATASTORE>");
            DatastoreFacts::parse(1, xml.as_bytes())
        };
        assert_eq!(parse(""), Ok(DatastoreFacts { nfs_auto: false }));
        assert_eq!(parse("<NFS_AUTO_ENABLE>YES</NFS_AUTO_ENABLE>"), Ok(DatastoreFacts { nfs_auto: true }));
        assert!(parse("<NFS_AUTO_ENABLE>1</NFS_AUTO_ENABLE>").is_err());
        assert!(DatastoreFacts::parse(1, b"<VM/>").is_err());
        assert!(DatastoreFacts::parse(1, b"").is_err());
    }

    #[test]
    fn a_refused_look_up_is_the_answer() {
        struct Silent;
        impl Lookup for Silent {
            fn vm(&self, _: VmId) -> Result<VmFacts, Failure> {
                Err(Failure::new(Kind::Unreachable, "oned does not answer"))
            }
            fn datastore(&self, _: u32) -> Result<DatastoreFacts, Failure> {
                Err(Failure::new(Kind::Refused, "not authorised"))
            }
        }
        let needs = Needs { vm: Some(VmNeed::History(VmId(7))), datastores: BTreeSet::new() };
        let failure = Failure::from(gather(&needs, &Silent).unwrap_err());
        assert_eq!(failure.kind, Kind::Unreachable);
        assert_eq!(failure.text, "cannot look up VM 7: oned does not answer");
        let needs = Needs { vm: None, datastores: BTreeSet::from([1]) };
        assert_eq!(Failure::from(gather(&needs, &Silent).unwrap_err()).kind, Kind::Refused);
        assert_eq!(gather(&Needs::default(), &Silent), Ok(Facts::default()));
    }
}
