//! Where the privileged side keeps and finds things.

use std::path::PathBuf;
use std::sync::Arc;

use super::watch::Watches;
use crate::desired::facts::UPLINKS_FILE;
use crate::fabric::{firewall, ovs};

/// Files and directories, all of them root's own.
#[derive(Debug, Clone)]
pub struct Places {
    /// The list of devices that virtual networks may use.
    pub uplinks: PathBuf,
    /// What each VM needs.
    pub reservations: PathBuf,
    /// Locks; emptied at every boot.
    pub locks: PathBuf,
    /// The kernel's switches for its memory.
    pub memory: PathBuf,
    /// The kernel's directory of PCI devices.
    pub pci: PathBuf,
    /// The kernel's switches for bridges, where it has them; of the network namespace.
    pub bridges: PathBuf,
    /// Where Open vSwitch is reached.
    pub switch: ovs::Places,
    /// Where network namespaces have names.
    pub namespaces: PathBuf,
    /// The program that changes the firewall.
    pub nft: PathBuf,
    /// Guests' devices that are watched until their guest has come: as long as this process lives.
    pub watches: Arc<Watches>,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            uplinks: UPLINKS_FILE.into(),
            reservations: "/var/lib/causeway/network".into(),
            locks: "/run/causeway".into(),
            memory: "/proc/sys/vm".into(),
            pci: "/sys/bus/pci/devices".into(),
            bridges: "/proc/sys/net/bridge".into(),
            switch: ovs::Places::default(),
            namespaces: "/run/netns".into(),
            nft: firewall::nft::PROGRAM.into(),
            watches: Arc::default(),
        }
    }
}
