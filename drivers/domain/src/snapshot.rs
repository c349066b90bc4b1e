//! A domain's system snapshots, as libvirt keeps their metadata.

use std::fmt;

/// A snapshot of memory and disks. The disks hold its content; libvirt holds the rest, and forgets it with a transient
/// domain.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its name, `snap-<id>` for OpenNebula's.
    pub name: String,
    /// libvirt's metadata of it, with the domain's secrets.
    pub xml: String,
    /// Whether the next snapshot descends from it.
    pub current: bool,
}

/// Leaves the metadata out: they hold the password of the guest's screen.
impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("name", &self.name)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}
