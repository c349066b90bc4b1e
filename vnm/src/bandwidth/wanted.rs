//! Pure: which limits a document wants, and what has to be changed for them.

use std::fmt;

use causeway_core::document::{Bandwidth, Bandwidths, Nic, VmDocument};
use causeway_core::names::{DeployId, LinkName, Mac};

use super::Interface;
use crate::desired::port::port;
use crate::desired::{Driver, Port, Refusal};

/// The most that libvirt's call takes.
const MOST: u64 = 0xffff_ffff;

/// The attributes of one direction.
struct Names {
    average: &'static str,
    peak: &'static str,
    burst: &'static str,
}

const INBOUND: Names = Names { average: "INBOUND_AVG_BW", peak: "INBOUND_PEAK_BW", burst: "INBOUND_PEAK_KB" };
const OUTBOUND: Names =
    Names { average: "OUTBOUND_AVG_BW", peak: "OUTBOUND_PEAK_BW", burst: "OUTBOUND_PEAK_KB" };

/// What an `update_nic` wants of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The guest.
    pub guest: DeployId,
    /// Its NICs in the network.
    pub nics: Vec<WantedNic>,
}

/// What it wants of one NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedNic {
    /// `NIC_ID`.
    pub nic: u32,
    /// Its device.
    pub tap: LinkName,
    /// `MAC`.
    pub mac: Mac,
    /// As they are in force.
    pub limits: Bandwidths,
}

/// Works out the limits of the driver's NICs in `network`. `deploy` is the slot's first argument, where `-` is none.
///
/// Nothing is wanted where the update is about other attributes (`VNET_UPDATE` names those that have changed), and of a
/// container, which libvirt does not know.
///
/// # Errors
/// A [`Refusal`] for limits that contradict each other or that libvirt can't take, and for what no action takes.
pub fn wanted(
    driver: Driver,
    vm: &VmDocument,
    deploy: &str,
    network: u32,
) -> Result<Option<Wanted>, Refusal> {
    let ours = |name: &&str| vm.vnet_update.contains_key(*name);
    let names = [&INBOUND, &OUTBOUND].into_iter().flat_map(|of| [of.average, of.peak, of.burst]);
    let elsewhere = !vm.vnet_update.is_empty() && !names.clone().any(|name| ours(&name));
    if elsewhere || vm.history.vm_mad.as_ref().is_some_and(|name| name == "lxc") {
        return Ok(None);
    }
    let here = driver.selected(vm).into_iter().filter(|nic| nic.network_id == Some(network));
    let nics: Vec<WantedNic> = here.map(|nic| of_nic(driver, vm, nic)).collect::<Result<_, Refusal>>()?;
    let guest = match deploy {
        "" | "-" => vm.deploy_id.clone(),
        id => Some(id.parse().map_err(|_| Refusal::Argument {
            value: id.to_owned(),
            accepted: "a deploy id, as oned gives it, or - for none",
        })?),
    };
    Ok(guest.filter(|_| !nics.is_empty()).map(|guest| Wanted { guest, nics }))
}

fn of_nic(driver: Driver, vm: &VmDocument, nic: &Nic) -> Result<WantedNic, Refusal> {
    let Port { tap, mac, .. } = port(driver, nic, vm.id)?;
    check(nic.nic_id, &INBOUND, &nic.inbound)?;
    check(nic.nic_id, &OUTBOUND, &nic.outbound)?;
    let limits = Bandwidths { inbound: nic.inbound, outbound: nic.outbound }.in_force();
    Ok(WantedNic { nic: nic.nic_id, tap, mac, limits })
}

/// libvirt starts no guest with a peak and no average, and takes a peak below the average without a word: the kernel would
/// then hold the guest below what it was promised.
fn check(nic: u32, names: &Names, limits: &Bandwidth) -> Result<(), Refusal> {
    let each = [(names.average, limits.average), (names.peak, limits.peak), (names.burst, limits.burst)];
    for (name, value) in each {
        if let Some(value) = value.filter(|value| *value > MOST) {
            let accepted = format!("a number up to {MOST}");
            return Err(Refusal::malformed(nic, name, &value.to_string(), accepted));
        }
    }
    let some = |limit: Option<u64>| limit.filter(|limit| *limit > 0);
    let Some(average) = limits.average else {
        let set = [(names.peak, limits.peak), (names.burst, limits.burst)];
        return match set.into_iter().find_map(|(name, value)| Some((name, some(value)?))) {
            Some((name, value)) => {
                let accepted = format!("possible without {}", names.average);
                Err(Refusal::malformed(nic, name, &value.to_string(), accepted))
            }
            None => Ok(()),
        };
    };
    match some(limits.peak).filter(|peak| *peak < average) {
        Some(peak) => {
            let accepted = format!("{average} ({}) or more", names.average);
            Err(Refusal::malformed(nic, names.peak, &peak.to_string(), accepted))
        }
        None => Ok(()),
    }
}

/// One interface that gets other limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `NIC_ID`.
    pub nic: u32,
    /// By what libvirt knows it: its device, or its address where it has none.
    pub device: String,
    /// Its limits now.
    pub before: Bandwidths,
    /// Those that it gets.
    pub after: Bandwidths,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {}: {}", self.device, self.after)
    }
}

/// What has to be changed, and a note for each NIC that the guest does not have: that one is limited when it is plugged in.
pub fn difference(wanted: &Wanted, interfaces: &[Interface]) -> (Vec<Change>, Vec<String>) {
    let (mut changes, mut notes) = (Vec::new(), Vec::new());
    for nic in &wanted.nics {
        let Some((device, interface)) = interfaces.iter().find_map(|it| Some((is(nic, it)?, it))) else {
            let guest = &wanted.guest;
            notes.push(format!("NIC {}: not plugged into {guest}, so its limits were not changed", nic.nic));
            continue;
        };
        let before = interface.limits.in_force();
        if before != nic.limits {
            changes.push(Change { nic: nic.nic, device, before, after: nic.limits });
        }
    }
    (changes, notes)
}

/// By what libvirt knows the NIC, if that interface is the NIC's.
fn is(nic: &WantedNic, interface: &Interface) -> Option<String> {
    match (&interface.target, interface.mac) {
        (Some(target), _) => (nic.tap == *target).then(|| target.to_string()),
        (None, Some(mac)) => (nic.mac == mac).then(|| mac.to_string()),
        (None, None) => None,
    }
}
