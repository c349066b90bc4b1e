//! Virtual functions: devices that a guest has for itself, and that a physical function of the host sorts frames for (contract VNM
//! 4.8).
//!
//! Their frames never come by the host's kernel, so that nothing but the physical function can keep anything away from them.

use std::fmt;
use std::str::FromStr;

use causeway_core::document::{Nic, Pci, VmDocument};
use causeway_core::names::{LinkName, Mac};
use serde::{Deserialize, Serialize};

use super::driver::Driver;
use super::facts::Facts;
use super::guard::Guard;
use super::port::is_of_one_device;
use super::refusal::Refusal;

/// Where a PCI device is: `SHORT_ADDRESS` (`02:00.0`), or `ADDRESS`, which has the domain in front (`0000:02:00:0`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// None where the document does not tell.
    pub domain: Option<u32>,
    /// The bus.
    pub bus: u8,
    /// The slot.
    pub slot: u8,
    /// The function.
    pub function: u8,
}

/// A text that is no address of a PCI device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address of a PCI device such as 02:00.0")]
pub struct PciAddressError(String);

impl FromStr for PciAddress {
    type Err = PciAddressError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |text: &str, most: usize| {
            let plain = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
            u32::from_str_radix(text, 16).ok().filter(|_| plain)
        };
        let byte = |text: &str, most: usize, last: u8| {
            digits(text, most).and_then(|n| u8::try_from(n).ok()).filter(|n| *n <= last)
        };
        let read = || {
            // oned writes a colon in front of the function, the kernel a dot.
            let (front, function) = text.rsplit_once(['.', ':'])?;
            let (front, slot) = front.rsplit_once(':')?;
            let (domain, bus) = match front.split_once(':') {
                Some((domain, bus)) => (Some(digits(domain, 8)?), bus),
                None => (None, front),
            };
            Some(PciAddress {
                domain,
                bus: byte(bus, 2, u8::MAX)?,
                slot: byte(slot, 2, 0x1f)?,
                function: byte(function, 1, 7)?,
            })
        };
        read().ok_or_else(|| PciAddressError(text.chars().take(32).collect()))
    }
}

/// As the kernel spells it.
impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.domain.map_or(Ok(()), |domain| write!(f, "{domain:04x}:"))?;
        write!(f, "{:02x}:{:02x}.{:x}", self.bus, self.slot, self.function)
    }
}

/// A virtual function as a network needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// `NIC_ID` of the PCI device.
    pub nic: u32,
    /// The network device of its physical function.
    pub device: LinkName,
    /// Its number there, from 0.
    pub index: u32,
    /// The guest's address.
    pub mac: Mac,
    /// The VLAN that its frames are put into and taken out of; 0 is none.
    pub vlan: u16,
    /// Frames from other addresses are dropped (`SPOOFCHK`); none leaves it.
    pub spoofchk: Option<bool>,
    /// The guest may change what the host has set (`TRUST`); none leaves it.
    pub trust: Option<bool>,
    /// The device that stands for it on the host, where the card is a switch: then the host's switch does all but the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub representor: Option<LinkName>,
}

impl Function {
    /// Whether it is the same one, whoever has it.
    pub fn is_same(&self, other: &Function) -> bool {
        (&self.device, self.index) == (&other.device, other.index)
    }

    /// The devices of a card that is a switch: that of the physical function, and the one that stands for this one.
    pub fn switching(&self) -> impl Iterator<Item = &LinkName> {
        self.representor.iter().flat_map(|representor| [&self.device, representor])
    }

    /// What is to be set in place of `before`: trust that is no longer given is taken back, and so is leave to send from other
    /// addresses.
    pub fn after(&self, before: &Function) -> Function {
        let mut out = self.clone();
        if before.is_same(self) {
            out.trust = self.trust.or(before.trust.map(|_| false));
            out.spoofchk = self.spoofchk.or(before.spoofchk.map(|_| true));
        }
        out
    }
}

/// A PCI device of this host, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Located {
    /// A virtual function.
    Virtual {
        /// The network device of its physical function.
        device: LinkName,
        /// Its number there.
        index: u32,
        /// The network device that stands for it on the host, where the card is a switch (`switchdev`).
        representor: Option<LinkName>,
    },
    /// Any other: what a network asks of it, nobody here can set.
    Whole,
}

/// What a PCI device of a network needs; none where it is no virtual function.
///
/// # Errors
/// A [`Refusal`] for what no physical function can keep.
pub(super) fn function(
    driver: Driver,
    pci: &Pci,
    nic: &Nic,
    vm: &VmDocument,
    facts: &Facts,
    notes: &mut Vec<String>,
) -> Result<Option<Function>, Refusal> {
    let id = nic.nic_id;
    let name: LinkName = format!("one-{}-{id}", vm.id).parse().map_err(|_| {
        Refusal::malformed(id, "NIC_ID", &id.to_string(), "a number of at most 15 characters with the VM's")
    })?;
    let why = "the physical function knows the guest by it";
    let mac = nic.mac.ok_or(Refusal::Missing { nic: id, attribute: "MAC", why })?;
    if !is_of_one_device(mac) {
        return Err(Refusal::malformed(id, "MAC", &mac.to_string(), "the address of one device"));
    }
    let why = "the device is found by it";
    let located = facts.functions.get(&id);
    let located = located.ok_or(Refusal::Missing { nic: id, attribute: "SHORT_ADDRESS", why })?;
    let guard = match driver.guards() {
        true => Some(Guard::of(nic, vm, &name, mac)?),
        false => None,
    };
    let Located::Virtual { device, index, representor } = located else {
        refuse_guard(nic, guard.as_ref())?;
        return whole(pci, nic, guard.as_ref(), notes).map(|()| None);
    };
    if !facts.listed.contains(device) {
        return Err(Refusal::not_listed(id, device));
    }
    if let Some(representor) = representor {
        let card = Function {
            nic: id,
            device: device.clone(),
            index: *index,
            mac,
            vlan: 0,
            spoofchk: None,
            trust: None,
            representor: Some(representor.clone()),
        };
        return represented(driver, nic, card).map(Some);
    }
    refuse_guard(nic, guard.as_ref())?;
    for (attribute, list) in [("VLAN_TAGGED_ID", &nic.vlan_tagged_id), ("CVLANS", &nic.cvlans)] {
        if !list.is_empty() {
            let accepted = "absent for a PCI device: a virtual function is in one VLAN, or tags as it likes";
            return Err(Refusal::malformed(id, attribute, &list.to_string(), accepted));
        }
    }
    let vlan = nic.vlan_tag().unwrap_or(0);
    if driver == Driver::Dot1q && vlan == 0 {
        let why = "it is the tag of the network";
        return Err(Refusal::Missing { nic: id, attribute: "VLAN_ID", why });
    }
    if vlan == 0 {
        notes.push(format!(
            "NIC {id}: its network has no VLAN_ID, so that its guest can tag frames as it likes"
        ));
    }
    let checked = guard.is_some_and(|guard| guard.macs.is_some());
    Ok(Some(Function {
        nic: id,
        device: device.clone(),
        index: *index,
        mac,
        vlan,
        spoofchk: nic.spoofchk.or(checked.then_some(true)),
        trust: nic.trust,
        representor: None,
    }))
}

/// One of a card that is a switch: its frames come out of the representor, and a bridge of Open vSwitch is where those go.
fn represented(driver: Driver, nic: &Nic, card: Function) -> Result<Function, Refusal> {
    let id = nic.nic_id;
    if driver != Driver::OvSwitch {
        let representor = card.representor.unwrap_or_else(|| card.device.clone());
        return Err(Refusal::Switchdev { nic: id, device: card.device, representor });
    }
    for (attribute, set) in [("SPOOFCHK", nic.spoofchk), ("TRUST", nic.trust)] {
        if let Some(on) = set {
            let accepted = "absent: a card in switchdev mode leaves that to its switch; FILTER_MAC_SPOOFING does it there";
            return Err(Refusal::malformed(id, attribute, if on { "on" } else { "off" }, accepted));
        }
    }
    if let Some(uplink) = nic.phydev.as_ref().filter(|uplink| **uplink != card.device) {
        let accepted = format!("{}, the device of the physical function, or absent", card.device);
        return Err(Refusal::malformed(id, "PHYDEV", uplink.as_str(), accepted));
    }
    Ok(card)
}

/// `FILTER_MAC_SPOOFING` is what `SPOOFCHK` does; everything else that keeps something away is done by the host's kernel.
fn refuse_guard(nic: &Nic, guard: Option<&Guard>) -> Result<(), Refusal> {
    let Some(guard) = guard else { return Ok(()) };
    let refused = |attribute, value: &str, accepted: &str| {
        Err(Refusal::malformed(nic.nic_id, attribute, value, accepted.to_owned()))
    };
    let past = "for a PCI device, whose frames do not come by the host";
    if guard.is_stateful() {
        let groups: Vec<String> = nic.security_groups.iter().map(ToString::to_string).collect();
        return refused("SECURITY_GROUPS", &groups.join(","), &format!("groups that let all pass, {past}"));
    }
    if guard.senders.is_some() {
        return refused("FILTER_IP_SPOOFING", "YES", &format!("absent {past}"));
    }
    if guard.macs.is_some() && (nic.spoofchk == Some(false) || nic.trust == Some(true)) {
        let accepted = "absent with SPOOFCHK off or TRUST on, which let the guest send from any address";
        return refused("FILTER_MAC_SPOOFING", "YES", accepted);
    }
    Ok(())
}

/// A device that is passed through as a whole: the stock driver does nothing for it either, but what was asked of it is said.
fn whole(pci: &Pci, nic: &Nic, guard: Option<&Guard>, notes: &mut Vec<String>) -> Result<(), Refusal> {
    let address = pci.address.as_deref().or(pci.short_address.as_deref()).unwrap_or_default();
    let accepted = format!("absent: PCI device {address} is no virtual function, so that nobody can set it");
    for (attribute, asked) in [
        ("SPOOFCHK", nic.spoofchk.is_some()),
        ("TRUST", nic.trust.is_some()),
        ("FILTER_MAC_SPOOFING", guard.is_some_and(|guard| guard.macs.is_some())),
    ] {
        if asked {
            return Err(Refusal::malformed(nic.nic_id, attribute, "set", accepted));
        }
    }
    let id = nic.nic_id;
    notes
        .push(format!("NIC {id}: PCI device {address} is no virtual function: its network is not set on it"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_oned_and_the_kernel_write_it() {
        for (text, shown) in [
            ("02:00.0", "02:00.0"),
            ("85:1f.7", "85:1f.7"),
            ("0000:02:00:0", "0000:02:00.0"),
            ("0000:02:00.0", "0000:02:00.0"),
            ("10000:e1:00.0", "10000:e1:00.0"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "02",
            "02:00",
            "02:20.0",
            "02:00.8",
            "0:0:0:0:0",
            "..:00.0",
            "+2:00.0",
            "100:00.0",
            "02:00.0 ",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_longer_given_is_taken_back() {
        let before = Function {
            nic: 1,
            device: "pf0".parse().unwrap(),
            index: 3,
            mac: Mac([2, 0, 0, 0, 0, 7]),
            vlan: 5,
            spoofchk: Some(false),
            trust: Some(true),
            representor: None,
        };
        let new = Function { spoofchk: None, trust: None, vlan: 6, ..before.clone() };
        let set = new.after(&before);
        assert_eq!((set.vlan, set.spoofchk, set.trust), (6, Some(true), Some(false)));
        let elsewhere = Function { index: 4, ..new };
        assert_eq!(elsewhere.after(&before), elsewhere);
    }
}
