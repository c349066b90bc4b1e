//! How fast a guest's NICs may be, when that is changed while it runs: `INBOUND_*` and `OUTBOUND_*` in `update_nic`
//! (contract VNM 4.7, *QoS*). At boot and attachment libvirt sets them by itself, from the `<bandwidth>` that oned writes.
//!
//! ```text
//! document ── wanted ──> limits ──┐
//! libvirt ── [`Guests`] ──> limits ┴─ difference ──> [`Change`]s ── [`set`] ──(a later step failed)──> [`take_back`]
//! ```
//!
//! libvirt is asked by the unprivileged side, as for everything else about guests, and for every network driver: it
//! knows how a device is limited that is plugged into a bridge of Linux (the kernel's traffic control) or of Open vSwitch
//! (rows of its database), and it has to know, because it takes the limits along when the guest moves.

mod act;
mod wanted;

use causeway_core::answer::Failure;
use causeway_core::document::Bandwidths;
use causeway_core::names::{DeployId, LinkName, Mac};

pub use act::{set, take_back};
pub use wanted::{Change, Wanted, WantedNic, difference, wanted};

/// The guests of this host, as far as this is about them. Each call has a deadline of its own.
pub trait Guests {
    /// The network interfaces of a guest; `None` where libvirt says that there is no such guest.
    ///
    /// # Errors
    /// libvirt could not be asked.
    fn interfaces(&self, guest: &DeployId) -> Result<Option<Vec<Interface>>, Failure>;

    /// Sets both directions' limits of the interface with that device, or that address.
    ///
    /// # Errors
    /// libvirt, the kernel or the switch refuse, or libvirt could not be asked. The interface may have any limits then.
    fn limit(&self, guest: &DeployId, device: &str, limits: &Bandwidths) -> Result<(), Failure>;
}

/// An interface of a guest, as libvirt has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its device on the host. One of DPDK may have none.
    pub target: Option<LinkName>,
    /// Its address.
    pub mac: Option<Mac>,
    /// Its limits.
    pub limits: Bandwidths,
}
