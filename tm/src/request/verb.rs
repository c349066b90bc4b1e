//! Which slots there are, and which of them are ours.

use causeway_core::plan::Slot;

/// Where a driver keeps the bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// `shared` and `qcow2`, which are one (contract TM 0).
    Files,
    /// `ceph`.
    Rbd,
}

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Clone,
    Ln,
    Mv,
    Mvds,
    Cpds,
    Delete,
    Mkimage,
    Mkswap,
    Resize,
    SnapCreate,
    SnapCreateLive,
    SnapDelete,
    SnapRevert,
    Context,
    Premigrate,
    Postmigrate,
    Failmigrate,
    Prebackup,
    PrebackupLive,
    Postbackup,
    PostbackupLive,
    Restore,
}

impl Verb {
    /// Whether it is about a backup of a VM, or of what was in one.
    pub(crate) fn is_backup(self) -> bool {
        use Verb::{Postbackup, PostbackupLive, Prebackup, PrebackupLive, Restore};
        matches!(self, Prebackup | PrebackupLive | Postbackup | PostbackupLive | Restore)
    }

    /// Whether it makes a backup, which keeps the VM's document.
    pub(crate) fn keeps_document(self) -> bool {
        matches!(self, Verb::Prebackup | Verb::PrebackupLive)
    }

    fn named(name: &str) -> Option<Verb> {
        Some(match name {
            "clone" => Verb::Clone,
            "ln" => Verb::Ln,
            "mv" => Verb::Mv,
            "mvds" => Verb::Mvds,
            "cpds" => Verb::Cpds,
            "delete" => Verb::Delete,
            "mkimage" => Verb::Mkimage,
            "mkswap" => Verb::Mkswap,
            "resize" => Verb::Resize,
            "snap_create" => Verb::SnapCreate,
            "snap_create_live" => Verb::SnapCreateLive,
            "snap_delete" => Verb::SnapDelete,
            "snap_revert" => Verb::SnapRevert,
            "context" => Verb::Context,
            "premigrate" => Verb::Premigrate,
            "postmigrate" => Verb::Postmigrate,
            "failmigrate" => Verb::Failmigrate,
            "prebackup" => Verb::Prebackup,
            "prebackup_live" => Verb::PrebackupLive,
            "postbackup" => Verb::Postbackup,
            "postbackup_live" => Verb::PostbackupLive,
            "restore" => Verb::Restore,
            _ => return None,
        })
    }
}

impl Verb {
    /// Whether oned asks the system datastore's transfer manager for it, whatever the VM's disks are (contract TM 1.4), and it
    /// is about files that lie there. Migrations of guests with disks of their host's own are not: their disks go along.
    fn is_of_the_system(self) -> bool {
        matches!(self, Verb::Mv | Verb::Delete | Verb::Mkimage | Verb::Mkswap | Verb::Context)
    }
}

/// Who serves a slot: a verb of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    pub store: Store,
    pub verb: Verb,
    /// The system datastore lies on the host's own disk (`.ssh`, or a slot of `ssh`), and the verb has a form for that.
    pub local: bool,
}

impl Service {
    /// Who serves a slot, if it is one of ours: its own name, or that without the suffix (contract TM 1.3).
    pub(crate) fn of(slot: &Slot) -> Option<Service> {
        let (name, suffix) = slot.verb().split_once('.').unwrap_or((slot.verb(), ""));
        let verb = Verb::named(name)?;
        let store = match slot.driver() {
            _ if slot.family() != "tm" => return None,
            "shared" | "qcow2" => Store::Files,
            "ceph" if !verb.is_backup() => Store::Rbd,
            // The system datastore's side of disks whose transfer manager is one of ours (`TM_MAD_SYSTEM`).
            "ssh" if verb.is_of_the_system() => {
                return Some(Service { store: Store::Files, verb, local: true });
            }
            _ => return None,
        };
        // Whoever has a form of its own must not fall back: a VM would be linked to files that it is not to depend on,
        // or its snapshots be looked for where they are not.
        let local = suffix == "ssh" && store.has_local_form(verb);
        Some(Service { store, verb, local })
    }
}

impl Store {
    /// Whether a verb works otherwise where the system datastore is not shared (contract TM 2, `.ssh`).
    fn has_local_form(self, verb: Verb) -> bool {
        use Verb::{
            Clone, Cpds, Delete, Ln, Mv, Mvds, Resize, SnapCreate, SnapCreateLive, SnapDelete, SnapRevert,
        };
        match self {
            Store::Files => {
                matches!(
                    verb,
                    Clone | Ln | Mv | Mvds | Cpds | SnapCreate | SnapCreateLive | SnapDelete | SnapRevert
                )
            }
            // The others fall back to verbs that do nothing to a disk, or refuse one that is no volume.
            Store::Rbd => matches!(verb, Clone | Ln | Mvds | Cpds | Delete | Resize),
        }
    }
}
