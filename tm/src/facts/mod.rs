//! What a plan must know that no argument says: attributes of the VM's disks, of its history and of datastores.
//!
//! The stock scripts call oned back for these and read a failed call as an empty value (contract TM 1.6, W4, W41).
//! Here a plan says what it [`Needs`], the caller gets it (over XML-RPC, or from the document on standard input), and
//! what can't be had is an error.

mod backup;
mod ceph;
mod datastore;
mod limits;
pub(crate) mod reading;
mod restore;
mod vm;

use std::collections::{BTreeMap, BTreeSet};

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::VmId;

use crate::chain::Chain;
use crate::datastore::Hosts;
use crate::error::TmError;

pub use backup::{BackupFacts, Extent, Freeze};
pub use ceph::CephFacts;
pub use datastore::DatastoreFacts;
pub use limits::{LimitFacts, Limits};
pub use restore::BackupSource;
pub use vm::{DiskFacts, Format, SnapshotFacts, VmFacts, lcm};

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
    /// Of all hosts: which of them are up.
    pub hosts: bool,
    /// The backup image that the VM is to be restored from.
    pub backup: Option<u32>,
    /// The backup image that the VM's next increment will belong to, if there is one.
    pub chain: bool,
    /// Of the datastore that the VM's next backup goes to.
    pub limits: bool,
    /// Which datastores are mounted by whoever uses them, if one of those above is.
    pub mounts: bool,
}

impl Needs {
    /// Whether the pool of datastores must be looked up, once those that are needed by their numbers are known.
    pub fn pool<'a>(&self, mut known: impl Iterator<Item = &'a DatastoreFacts>) -> bool {
        self.mounts && known.any(|datastore| datastore.automount.is_some())
    }

    /// The backup image that is needed, once the VM is known.
    ///
    /// # Errors
    /// The VM's document does not say which.
    pub fn image(&self, vm: Option<&VmFacts>) -> Result<Option<u32>, TmError> {
        match vm.filter(|_| self.chain) {
            Some(vm) => vm.backup.followed(&format!("VM {}", vm.id)),
            None => Ok(self.backup),
        }
    }

    /// All datastores that are needed, once the VM is known.
    ///
    /// # Errors
    /// The VM's document names one by what is no number.
    pub fn all_datastores(&self, vm: Option<&VmFacts>) -> Result<BTreeSet<u32>, TmError> {
        let mut all = self.datastores.clone();
        if let Some(vm) = vm.filter(|_| self.limits) {
            all.extend(vm.backup.goes_to(&format!("VM {}", vm.id))?);
        }
        Ok(all)
    }
}

/// What was looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Of the VM.
    pub vm: Option<VmFacts>,
    /// Of datastores, by number.
    pub datastores: BTreeMap<u32, DatastoreFacts>,
    /// The datastores that are mounted by whoever uses them, where one that is needed is among them.
    pub automounted: Option<BTreeSet<u32>>,
    /// Of all hosts.
    pub hosts: Option<Hosts>,
    /// What was read of the disk on its host, where [`reading`](crate::plan::reading) asks for it.
    pub chain: Option<Chain>,
    /// The backup that the VM is to be restored from, or that its next increment will belong to.
    pub backup: Option<BackupSource>,
    /// What that backup's driver says is in it: where each disk is to be fetched, by its number, and the TPM's state.
    pub listing: Option<BTreeMap<String, String>>,
}

impl Facts {
    /// Says what a step of [`reading`](crate::plan::reading) was for that failed.
    pub fn unread(&self, failure: Failure) -> Failure {
        match &self.backup {
            Some(backup) => failure.context(backup.asked()),
            None => failure,
        }
    }

    /// Takes in what the step of [`reading`](crate::plan::reading) printed.
    ///
    /// # Errors
    /// It is not what such a step prints.
    pub fn take_reading(&mut self, output: &str) -> Result<(), TmError> {
        let unreadable =
            |e: serde_json::Error| TmError::Unwritable { step: "read".to_owned(), why: e.to_string() };
        if let Some(backup) = &self.backup {
            let list = serde_json::from_str(output).map_err(|e| TmError::Refused {
                what: backup.asked(),
                why: format!("the answer is no list of disks: {e}"),
            });
            self.listing = Some(list?);
        } else {
            self.chain = Some(serde_json::from_str(output).map_err(unreadable)?);
        }
        Ok(())
    }

    /// The VM's.
    pub(crate) fn vm(&self, id: VmId) -> Result<&VmFacts, TmError> {
        let found = self.vm.as_ref().filter(|vm| vm.id == id);
        found.ok_or_else(|| TmError::Missing { what: "VM".to_owned(), object: format!("VM {id}") })
    }

    /// A datastore's.
    pub(crate) fn datastore(&self, id: u32) -> Result<&DatastoreFacts, TmError> {
        let found = self.datastores.get(&id);
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

    /// All hosts.
    ///
    /// # Errors
    /// oned's refusal, or that it could not be asked.
    fn hosts(&self) -> Result<Hosts, Failure>;

    /// The datastores that are mounted by whoever uses them.
    ///
    /// # Errors
    /// oned's refusal, or that it could not be asked.
    fn automounted(&self) -> Result<BTreeSet<u32>, Failure>;

    /// A backup image, with its datastore and the VM.
    ///
    /// # Errors
    /// oned's refusal, or that it could not be asked.
    fn backup(&self, image: u32) -> Result<BackupSource, Failure>;
}

/// Looks up all that is needed.
///
/// # Errors
/// [`TmError::LookUp`] for the first thing that could not be looked up.
pub fn gather(needs: &Needs, lookup: &dyn Lookup) -> Result<Facts, TmError> {
    let mut facts = Facts::default();
    if let Some(need) = needs.vm {
        let id = need.vm();
        facts.vm = Some(lookup.vm(id).map_err(looked_up(format!("VM {id}")))?);
    }
    if let Some(image) = needs.image(facts.vm.as_ref())? {
        facts.backup = Some(lookup.backup(image).map_err(looked_up(format!("backup image {image}")))?);
    }
    for id in needs.all_datastores(facts.vm.as_ref())? {
        let found = lookup.datastore(id).map_err(looked_up(format!("datastore {id}")))?;
        facts.datastores.insert(id, found);
    }
    if needs.pool(facts.datastores.values()) {
        let pool = looked_up("the pool of datastores".to_owned());
        facts.automounted = Some(lookup.automounted().map_err(pool)?);
    }
    if needs.hosts {
        facts.hosts = Some(lookup.hosts().map_err(looked_up("the pool of hosts".to_owned()))?);
    }
    Ok(facts)
}

/// A refusal to look something up, or what is wrong with what was found.
fn looked_up(what: String) -> impl FnOnce(Failure) -> TmError {
    move |failure| match failure.kind {
        Kind::Input => TmError::Found(failure),
        _ => TmError::LookUp { what, failure },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_core::answer::Kind;

    #[test]
    fn a_refused_look_up_is_the_answer() {
        struct Silent;
        impl Lookup for Silent {
            fn vm(&self, _: VmId) -> Result<VmFacts, Failure> {
                Err(Failure::new(Kind::Unreachable, "oned does not answer"))
            }
            fn datastore(&self, id: u32) -> Result<DatastoreFacts, Failure> {
                let nfs = "<NFS_AUTO_HOST>nas</NFS_AUTO_HOST><NFS_AUTO_PATH>/a</NFS_AUTO_PATH>";
                let nfs = format!("<NFS_AUTO_ENABLE>YES</NFS_AUTO_ENABLE>{nfs}");
                let text = format!("<DATASTORE><TEMPLATE>{nfs}</TEMPLATE></DATASTORE>");
                match id {
                    2 => Ok(DatastoreFacts::parse(id, text.as_bytes())?),
                    _ => Err(Failure::new(Kind::Refused, "not authorised")),
                }
            }
            fn hosts(&self) -> Result<Hosts, Failure> {
                Err(Failure::new(Kind::Timeout, "no answer"))
            }
            fn automounted(&self) -> Result<BTreeSet<u32>, Failure> {
                Err(Failure::new(Kind::Timeout, "no answer"))
            }
            fn backup(&self, _: u32) -> Result<BackupSource, Failure> {
                Err(Failure::new(Kind::Refused, "not authorised"))
            }
        }
        let needs = Needs { vm: Some(VmNeed::History(VmId(7))), ..Needs::default() };
        let failure = Failure::from(gather(&needs, &Silent).unwrap_err());
        assert_eq!(failure.kind, Kind::Unreachable);
        assert_eq!(failure.text, "cannot look up VM 7: oned does not answer");
        let needs = Needs { datastores: BTreeSet::from([1]), ..Needs::default() };
        assert_eq!(Failure::from(gather(&needs, &Silent).unwrap_err()).kind, Kind::Refused);
        // Whoever mounts must know what may be unmounted; whoever does not need not.
        let needs = Needs { datastores: BTreeSet::from([2]), mounts: true, ..Needs::default() };
        let failure = Failure::from(gather(&needs, &Silent).unwrap_err());
        assert_eq!(failure.text, "cannot look up the pool of datastores: no answer");
        assert!(gather(&Needs { mounts: false, ..needs }, &Silent).is_ok());
        let needs = Needs { hosts: true, ..Needs::default() };
        let failure = Failure::from(gather(&needs, &Silent).unwrap_err());
        assert_eq!(failure.text, "cannot look up the pool of hosts: no answer");
        assert_eq!(gather(&Needs::default(), &Silent), Ok(Facts::default()));
        assert!(Facts::default().vm(VmId(7)).is_err());
        assert!(Facts::default().datastore(1).is_err());
    }
}
