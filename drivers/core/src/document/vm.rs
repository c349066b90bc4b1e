//! The `VM` document: inside a request, alone on the standard input of a step, or reduced for a network driver.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::disk::{Disk, device};
use super::guest::{Features, GuestExec, OldCapacity, ResizeMode, SystemSnapshot};
use super::nic::{Nic, Pci};
use super::parse::parse;
use super::reading::{DocumentError, Reading};
use super::rule::SecurityGroupRule;
use super::tree::Element;
use super::words::DriverName;
use crate::names::{DeployId, HostName, VmId};

/// Where the VM is or is about to be: the last history record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// `SEQ`; absent in a reduced document.
    pub seq: Option<u32>,
    /// `HOSTNAME`.
    pub hostname: Option<HostName>,
    /// `HID`.
    pub hid: Option<u32>,
    /// `DS_ID`: the system datastore.
    pub ds_id: Option<u32>,
    /// `VM_MAD`.
    pub vm_mad: Option<DriverName>,
    /// `TM_MAD` of the system datastore.
    pub tm_mad: Option<DriverName>,
}

/// The disk with the context, seen from the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// `DISK_ID`.
    pub disk_id: Option<u32>,
    /// `TARGET`: the device in the guest, `sda`.
    pub target: Option<String>,
}

/// A virtual machine as oned describes it.
#[derive(Clone, PartialEq, Eq)]
pub struct VmDocument {
    /// `ID`.
    pub id: VmId,
    /// `NAME`; empty in a reduced document.
    pub name: String,
    /// `DEPLOY_ID`; absent before the first deploy.
    pub deploy_id: Option<DeployId>,
    /// `STATE`; absent in a reduced document.
    pub state: Option<u32>,
    /// `LCM_STATE`; absent in a reduced document.
    pub lcm_state: Option<u32>,
    /// The last history record.
    pub history: History,
    /// Every `NIC`.
    pub nics: Vec<Nic>,
    /// Every `NIC_ALIAS`.
    pub aliases: Vec<Nic>,
    /// Every `PCI`.
    pub pcis: Vec<Pci>,
    /// Every `DISK`.
    pub disks: Vec<Disk>,
    /// `CONTEXT`.
    pub context: Option<Context>,
    /// Every `SECURITY_GROUP_RULE`.
    pub security_group_rules: Vec<SecurityGroupRule>,
    /// `FEATURES`.
    pub features: Features,
    /// `MEMORY`, MiB.
    pub memory_mb: Option<u64>,
    /// `VCPU`.
    pub vcpu: Option<u32>,
    /// `MEMORY_RESIZE_MODE`.
    pub memory_resize_mode: ResizeMode,
    /// `RESIZE`: the capacity before a RESIZE.
    pub resize: Option<OldCapacity>,
    /// Every system `SNAPSHOT`.
    pub snapshots: Vec<SystemSnapshot>,
    /// `QEMU_GA_EXEC`.
    pub qemu_ga_exec: Option<GuestExec>,
    /// `VNET_UPDATE`: changed attribute to *previous* value (`update_nic` only); empty means that it was unset.
    pub vnet_update: BTreeMap<String, String>,
    element: Arc<Element>,
}

impl VmDocument {
    /// Parses a document whose root is `VM`.
    ///
    /// # Errors
    /// [`DocumentError`] for a document that is not one, and for the first known attribute with a malformed value.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        strict(VmDocument::parse_tolerant(bytes)?)
    }

    /// Like [`parse`](VmDocument::parse), for an action that takes a VM away: a malformed attribute of the template is
    /// reported and read as absent, so that a VM with a bad NIC can still be removed. A malformed identity (`ID`,
    /// `DEPLOY_ID`, history) stays an error: "no deploy id" must never be a misread one.
    ///
    /// # Errors
    /// As for [`parse`](VmDocument::parse), but only for the document and the VM's identity.
    pub fn parse_tolerant(bytes: &[u8]) -> Result<(Self, Vec<DocumentError>), DocumentError> {
        let root = parse(bytes)?;
        if root.name() != "VM" {
            return Err(DocumentError::Root { found: root.name().to_owned(), expected: "VM" });
        }
        VmDocument::read(&root, "VM")
    }

    /// Reads a `VM` element that stands at `path`.
    pub(super) fn read(
        element: &Arc<Element>,
        path: &str,
    ) -> Result<(Self, Vec<DocumentError>), DocumentError> {
        let mut grave = Vec::new();
        let history = history(element, path, &mut grave);
        let mut from = Reading::new(element, path.to_owned(), &mut grave);
        if from.text("ID").is_none() {
            from.missing("ID");
        }
        let id = from.name::<VmId>("ID").unwrap_or(VmId(0));
        let identity = VmDocument {
            id,
            name: from.text("NAME").unwrap_or_default(),
            deploy_id: from.name("DEPLOY_ID"),
            state: from.get("STATE"),
            lcm_state: from.get("LCM_STATE"),
            history,
            nics: Vec::new(),
            aliases: Vec::new(),
            pcis: Vec::new(),
            disks: Vec::new(),
            context: None,
            security_group_rules: Vec::new(),
            features: Features::default(),
            memory_mb: None,
            vcpu: None,
            memory_resize_mode: ResizeMode::default(),
            resize: None,
            snapshots: Vec::new(),
            qemu_ga_exec: None,
            vnet_update: BTreeMap::new(),
            element: Arc::clone(element),
        };
        if let Some(error) = grave.into_iter().next() {
            return Err(error);
        }
        let mut faults = Vec::new();
        let vm = identity.read_template(&format!("{path}/TEMPLATE"), &mut faults);
        Ok((vm, faults))
    }

    /// Reads what lies in `TEMPLATE`, over all the `TEMPLATE` elements there are.
    fn read_template(mut self, path: &str, faults: &mut Vec<DocumentError>) -> Self {
        let element = Arc::clone(&self.element);
        for template in element.named("TEMPLATE") {
            for child in template.elements() {
                match child.name() {
                    "NIC" => self.nics.extend(Nic::read(child, path, faults)),
                    "NIC_ALIAS" => self.aliases.extend(Nic::read(child, path, faults)),
                    "PCI" => self.pcis.push(Pci::read(child, path, faults)),
                    "DISK" => self.disks.extend(Disk::read(child, path, faults)),
                    "SECURITY_GROUP_RULE" => {
                        self.security_group_rules.extend(SecurityGroupRule::read(child, path, faults))
                    }
                    "SNAPSHOT" => self.snapshots.extend(SystemSnapshot::read(child, path, faults)),
                    "FEATURES" => self.features = Features::read(child, path, faults),
                    "RESIZE" => self.resize = Some(OldCapacity::read(child, path, faults)),
                    "QEMU_GA_EXEC" => self.qemu_ga_exec = Some(GuestExec::read(child)),
                    "CONTEXT" => {
                        let path = format!("{path}/CONTEXT");
                        let mut from = Reading::new(child, path, faults);
                        self.context = Some(Context {
                            disk_id: from.get("DISK_ID"),
                            target: device(&mut from, "TARGET"),
                        });
                    }
                    "VNET_UPDATE" => {
                        let old = |e: &Arc<Element>| (e.name().to_owned(), e.text().trim().to_owned());
                        self.vnet_update.extend(child.elements().map(old));
                    }
                    _ => {}
                }
            }
            let mut from = Reading::new(template, path.to_owned(), faults);
            self.memory_mb = self.memory_mb.or_else(|| from.get("MEMORY"));
            self.vcpu = self.vcpu.or_else(|| from.get("VCPU"));
            if let Some(mode) = from.word("MEMORY_RESIZE_MODE", &ResizeMode::WORDS) {
                self.memory_resize_mode = mode;
            }
        }
        self
    }

    /// The distinct network drivers in the order in which they are run: that of `NIC`, then `NIC_ALIAS`, then `PCI`
    /// (contracts VMM 2.3.4, VNM 1.2).
    pub fn vn_mads(&self) -> Vec<DriverName> {
        let pcis = self.pcis.iter().filter_map(|pci| pci.nic.as_ref());
        let all = self.nics.iter().chain(&self.aliases).chain(pcis);
        let mut seen = BTreeSet::new();
        let mads = all.filter_map(|nic| nic.vn_mad.as_ref());
        mads.filter(|name| seen.insert(*name)).cloned().collect()
    }

    /// The disk being plugged or unplugged.
    pub fn attach_disk(&self) -> Option<&Disk> {
        self.disks.iter().find(|disk| disk.attach)
    }

    /// The snapshot that the action is about.
    pub fn active_snapshot(&self) -> Option<&SystemSnapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.active)
    }

    /// The element itself. May hold secrets: never print it.
    pub fn element(&self) -> &Arc<Element> {
        &self.element
    }

    /// An attribute of the user's template, if it is set. May be a secret: never print it.
    pub fn user_attribute(&self, name: &str) -> Option<String> {
        let all = self.element.all(&["USER_TEMPLATE", name]);
        let text = all.first()?.text();
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The document as the stock driver hands it on: `vm.xml`, and the standard input of TM and `update_nic` steps.
    pub fn to_xml(&self) -> String {
        self.element.render()
    }
}

/// Shows what a log may show: neither context nor user template, which hold passwords and keys.
impl std::fmt::Debug for VmDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmDocument")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("deploy_id", &self.deploy_id)
            .field("state", &self.state)
            .field("lcm_state", &self.lcm_state)
            .field("history", &self.history)
            .field("nics", &self.nics.len())
            .field("aliases", &self.aliases.len())
            .field("pcis", &self.pcis.len())
            .field("disks", &self.disks.len())
            .finish_non_exhaustive()
    }
}

/// The result of a tolerant reading, or its first fault.
pub(super) fn strict<T>(read: (T, Vec<DocumentError>)) -> Result<T, DocumentError> {
    let (value, faults) = read;
    match faults.into_iter().next() {
        None => Ok(value),
        Some(fault) => Err(fault),
    }
}

/// The last record; a reduced document has one record per *field* instead, and no `SEQ`.
fn history(vm: &Element, path: &str, faults: &mut Vec<DocumentError>) -> History {
    let records = vm.all(&["HISTORY_RECORDS", "HISTORY"]);
    let whole = records.last().is_some_and(|last| last.first("SEQ").is_some());
    let skip = if whole { records.len() - 1 } else { 0 };
    let mut history = History::default();
    for record in records.into_iter().skip(skip) {
        let mut from = Reading::new(record, format!("{path}/HISTORY_RECORDS/HISTORY"), faults);
        history = History {
            seq: from.get("SEQ").or(history.seq),
            hostname: from.name("HOSTNAME").or(history.hostname),
            hid: from.get("HID").or(history.hid),
            ds_id: from.get("DS_ID").or(history.ds_id),
            vm_mad: from.name("VM_MAD").or(history.vm_mad),
            tm_mad: from.name("TM_MAD").or(history.tm_mad),
        };
    }
    history
}
