//! The request of the virtual machine manager: `VMM_DRIVER_ACTION_DATA` (contract VMM 2.1).

use std::sync::Arc;

use super::command::TmCommand;
use super::datastore::Datastore;
use super::parse::parse;
use super::reading::{DocumentError, Reading};
use super::tree::Element;
use super::vm::{VmDocument, strict};
use crate::names::{DeployId, DiskPath, HostName};

const ROOT: &str = "VMM_DRIVER_ACTION_DATA";

/// One request.
///
/// `Debug` shows neither templates nor anything else that may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// `HOST`: the host that the step engine treats as the source.
    pub host: HostName,
    /// `MIGR_HOST`: the destination of a MIGRATE; in CLEANUP the previous host.
    pub migr_host: Option<HostName>,
    /// `DEPLOY_ID`; absent before the first deploy.
    pub deploy_id: Option<DeployId>,
    /// `LOCAL_DEPLOYMENT_FILE`: the domain's XML on the front-end (DEPLOY only).
    pub local_deployment_file: Option<DiskPath>,
    /// `REMOTE_DEPLOYMENT_FILE`: where it goes on the host.
    pub remote_deployment_file: Option<DiskPath>,
    /// `CHECKPOINT_FILE`.
    pub checkpoint_file: Option<DiskPath>,
    /// `TM_COMMAND`.
    pub tm_command: Vec<TmCommand>,
    /// `TM_COMMAND_ROLLBACK`.
    pub tm_rollback: Vec<TmCommand>,
    /// `DISK_TARGET_PATH`: a disk on the host, or for MIGRATE the VM's directory at the destination.
    pub disk_target_path: Option<DiskPath>,
    /// `SECURITY_GROUP_ID` (UPDATESG only).
    pub security_group_id: Option<u32>,
    /// `VIRTUAL_NETWORK_ID` (UPDATENIC only).
    pub virtual_network_id: Option<u32>,
    /// `VM`.
    pub vm: VmDocument,
    /// `DATASTORE`: the system datastore, or the backup datastore of BACKUP and BACKUPCANCEL.
    pub datastore: Option<Datastore>,
    element: Arc<Element>,
}

impl Envelope {
    /// Parses a request.
    ///
    /// # Errors
    /// [`DocumentError`] for a document that is not one, and for the first known attribute with a malformed value.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        strict(Envelope::parse_tolerant(bytes)?)
    }

    /// Like [`parse`](Envelope::parse), for an action that takes a VM away; see [`VmDocument::parse_tolerant`]. Only
    /// faults inside the VM's template are tolerated.
    ///
    /// # Errors
    /// As for [`parse`](Envelope::parse), but not for the VM's template.
    pub fn parse_tolerant(bytes: &[u8]) -> Result<(Self, Vec<DocumentError>), DocumentError> {
        let root = parse(bytes)?;
        if root.name() != ROOT {
            return Err(DocumentError::Root { found: root.name().to_owned(), expected: ROOT });
        }
        let missing = |path: &str| DocumentError::Missing { path: path.to_owned() };
        let vm = root.first("VM").ok_or_else(|| missing("VM"))?;
        let (vm, faults) = VmDocument::read(vm, "VM")?;
        let datastore = root.first("DATASTORE").filter(|e| !e.nodes().is_empty());
        let datastore = datastore.map(|element| Datastore::read(element, "DATASTORE")).transpose()?;
        let mut grave = Vec::new();
        let mut from = Reading::new(&root, ROOT.to_owned(), &mut grave);
        let host = from.name("HOST");
        let envelope = Envelope {
            migr_host: from.name("MIGR_HOST"),
            deploy_id: from.name("DEPLOY_ID"),
            local_deployment_file: from.name("LOCAL_DEPLOYMENT_FILE"),
            remote_deployment_file: from.name("REMOTE_DEPLOYMENT_FILE"),
            checkpoint_file: from.name("CHECKPOINT_FILE"),
            disk_target_path: from.name("DISK_TARGET_PATH"),
            security_group_id: from.get("SECURITY_GROUP_ID"),
            virtual_network_id: from.get("VIRTUAL_NETWORK_ID"),
            tm_command: commands(&root, "TM_COMMAND")?,
            tm_rollback: commands(&root, "TM_COMMAND_ROLLBACK")?,
            vm,
            datastore,
            host: match (host, grave.is_empty()) {
                (Some(host), true) => host,
                (_, false) => return Err(grave.swap_remove(0)),
                (None, true) => return Err(missing("HOST")),
            },
            element: root,
        };
        Ok((envelope, faults))
    }

    /// The content of `vm.xml`, and what TM and `update_nic` steps read: the `VM` element in the form in which the
    /// stock driver writes it.
    pub fn vm_xml(&self) -> String {
        self.vm.to_xml()
    }

    /// The content of `ds.xml`: the `DATASTORE` element. Holds secrets.
    pub fn datastore_xml(&self) -> Option<String> {
        self.datastore.as_ref().map(|ds| ds.element().render())
    }

    /// The whole request in the form in which the stock driver hands it to a script of the hypervisor. Holds secrets.
    pub fn to_xml(&self) -> String {
        self.element.render()
    }

    /// The whole request as a tree. Holds secrets.
    pub fn element(&self) -> &Arc<Element> {
        &self.element
    }
}

fn commands(root: &Element, name: &str) -> Result<Vec<TmCommand>, DocumentError> {
    match root.first(name) {
        Some(element) => TmCommand::parse_all(&element.text(), name),
        None => Ok(Vec::new()),
    }
}
