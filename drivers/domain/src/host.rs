//! Figures of a host and of a domain's memory.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version as libvirt packs it: `major * 1_000_000 + minor * 1_000 + release`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// 8 in 8.2.1.
    pub major: u32,
    /// 2 in 8.2.1.
    pub minor: u32,
    /// 1 in 8.2.1.
    pub release: u32,
}

impl Version {
    /// Unpacks libvirt's number.
    pub fn from_libvirt(packed: u32) -> Self {
        Version { major: packed / 1_000_000, minor: packed / 1_000 % 1_000, release: packed % 1_000 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

/// What libvirt tells about its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The name by which the host's libvirt knows itself: what a peer resolves in a migration.
    pub hostname: String,
    /// `QEMU`, or `TEST` for libvirt's test driver.
    pub hypervisor: String,
    /// Version of the hypervisor (the QEMU that libvirt found first; a domain may name another emulator).
    pub hypervisor_version: Version,
    /// Version of the libvirt daemon.
    pub libvirt_version: Version,
    /// Host CPU model as libvirt calls it.
    pub cpu_model: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Most virtual CPUs that one guest may have.
    pub max_vcpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// Bytes of RAM that are free now.
    pub memory_free: u64,
}

/// A domain's memory, in bytes; `None` where libvirt has no figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStats {
    /// What the QEMU process occupies in RAM: an upper bound for the guest's non-zero pages.
    pub rss: Option<u64>,
    /// What the balloon leaves to the guest.
    pub balloon: Option<u64>,
    /// What the guest itself sees as total; needs a balloon driver in the guest.
    pub available: Option<u64>,
    /// What the guest does not use at all; needs a balloon driver in the guest.
    pub unused: Option<u64>,
    /// What the guest could give up without swapping; needs a balloon driver in the guest.
    pub usable: Option<u64>,
    /// Caches that the guest could drop; needs a balloon driver in the guest.
    pub disk_caches: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_unpack_and_compare() {
        let old = Version::from_libvirt(7_002_022);
        assert_eq!(old.to_string(), "7.2.22");
        assert!(old < Version::from_libvirt(8_002_000));
        assert!(Version::from_libvirt(10_000_002) > Version::from_libvirt(8_002_000));
    }
}
