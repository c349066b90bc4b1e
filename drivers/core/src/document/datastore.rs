//! The datastore of a request, and of `DS_DRIVER_ACTION_DATA`. Its template arrives with secrets decrypted.

use std::fmt;
use std::sync::Arc;

use super::reading::{DocumentError, Reading};
use super::tree::Element;
use super::words::DriverName;
use crate::names::DiskPath;

/// A datastore: the system datastore of a VM, or the backup datastore (contract VMM 2.1).
#[derive(Clone, PartialEq, Eq)]
pub struct Datastore {
    /// `ID`.
    pub id: u32,
    /// `NAME`.
    pub name: String,
    /// `DS_MAD`; a system datastore has none (oned writes `-`).
    pub ds_mad: Option<DriverName>,
    /// `TM_MAD`; a backup datastore has none.
    pub tm_mad: Option<DriverName>,
    /// `BASE_PATH`: the datastore's directory on the hosts.
    pub base_path: Option<DiskPath>,
    /// `TYPE`: 0 image, 1 system, 2 file, 3 backup.
    pub datastore_type: Option<u32>,
    /// `TEMPLATE/SHARED`: every host sees the same files.
    pub shared: bool,
    element: Arc<Element>,
}

impl Datastore {
    /// Reads a `DATASTORE` element.
    ///
    /// # Errors
    /// [`DocumentError`] for a missing or malformed identity.
    pub(super) fn read(element: &Arc<Element>, path: &str) -> Result<Self, DocumentError> {
        let mut faults = Vec::new();
        let datastore = Self::read_with(element, path, &mut faults);
        match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None => datastore.ok_or_else(|| DocumentError::Missing { path: format!("{path}/ID") }),
        }
    }

    fn read_with(element: &Arc<Element>, path: &str, faults: &mut Vec<DocumentError>) -> Option<Self> {
        let mut from = Reading::new(element, path.to_owned(), faults);
        let mut driver = |name| match from.text(name).as_deref() {
            Some("-") => None,
            _ => from.name::<DriverName>(name),
        };
        let ds_mad = driver("DS_MAD");
        let tm_mad = driver("TM_MAD");
        let id = from.get("ID");
        let name = from.text("NAME").unwrap_or_default();
        let base_path = from.name("BASE_PATH");
        let datastore_type = from.get("TYPE");
        let shared = element.first("TEMPLATE").is_some_and(|template| {
            Reading::new(template, format!("{path}/TEMPLATE"), faults).flag("SHARED")
        });
        Some(Datastore {
            id: id?,
            name,
            ds_mad,
            tm_mad,
            base_path,
            datastore_type,
            shared,
            element: Arc::clone(element),
        })
    }

    /// An attribute of the template, if it is set. May be a secret: never print it.
    pub fn attribute(&self, name: &str) -> Option<String> {
        self.element.first("TEMPLATE")?.value(name)
    }

    /// The element itself. May hold secrets: never print it.
    pub fn element(&self) -> &Arc<Element> {
        &self.element
    }
}

/// Leaves the template out: it holds keys of Ceph, of a vault, of a remote store.
impl fmt::Debug for Datastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datastore")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("ds_mad", &self.ds_mad)
            .field("tm_mad", &self.tm_mad)
            .field("base_path", &self.base_path)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}
