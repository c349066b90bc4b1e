//! A guest's device under the name that OpenNebula gives it.

use causeway_core::document::{BridgeType, Nic};
use causeway_core::names::{LinkName, Mac, VmId};

use super::driver::Driver;
use super::refusal::Refusal;
use super::state::Port;

/// The NIC's device.
///
/// A `TARGET` of the user's own choice is refused: the privileged side acts on devices by name, and a user who chooses
/// names could have it act on another guest's.
///
/// # Errors
/// A [`Refusal`] for what is missing or can't be meant.
pub fn port(driver: Driver, nic: &Nic, vm: VmId) -> Result<Port, Refusal> {
    let id = nic.nic_id;
    let missing = |attribute, why| Refusal::Missing { nic: id, attribute, why };
    let name = format!("one-{vm}-{id}");
    let bad = |text: &str| Refusal::malformed(id, "TARGET", text, "a device name of at most 15 characters");
    let tap: LinkName = name.parse().map_err(|_| bad(&name))?;
    if let Some(target) = nic.target.as_ref().filter(|target| **target != tap) {
        return Err(Refusal::malformed(id, "TARGET", target.as_str(), format!("{tap}, or absent")));
    }
    bridge_type(driver, nic)?;
    let bridge =
        nic.bridge.clone().ok_or_else(|| missing("BRIDGE", "the guest's device is plugged into it"))?;
    if is_tap_name(&bridge) {
        let accepted = "a name unlike those of guests' devices";
        return Err(Refusal::malformed(id, "BRIDGE", bridge.as_str(), accepted));
    }
    if nic.phydev.as_ref() == Some(&bridge) {
        let accepted = "a name other than that of the uplink";
        return Err(Refusal::malformed(id, "BRIDGE", bridge.as_str(), accepted));
    }
    let mac = nic.mac.ok_or_else(|| missing("MAC", "the fabric finds the guest by it"))?;
    if !is_of_one_device(mac) {
        return Err(Refusal::malformed(id, "MAC", &mac.to_string(), "the address of one device"));
    }
    Ok(Port { nic: id, tap, bridge, mac, addresses: nic.addresses.all().collect() })
}

/// `BRIDGE_TYPE` is what oned tells libvirt to plug the device into: another one than the driver's would leave it outside.
fn bridge_type(driver: Driver, nic: &Nic) -> Result<(), Refusal> {
    let fits = match nic.bridge_type {
        None => true,
        Some(BridgeType::Linux | BridgeType::None) => !driver.is_switch(),
        Some(BridgeType::OpenVSwitch) => driver.is_switch(),
        Some(BridgeType::OpenVSwitchDpdk) => driver == Driver::OvSwitch,
    };
    if fits {
        return Ok(());
    }
    let found = nic.bridge_type.map_or("", BridgeType::word);
    let accepted = match driver {
        Driver::OvSwitch => "openvswitch or openvswitch_dpdk, which this driver has",
        Driver::OvSwitchVxlan => "openvswitch, the only one this driver has",
        _ => "linux, the only one this driver has",
    };
    Err(Refusal::malformed(nic.nic_id, "BRIDGE_TYPE", found, accepted))
}

/// The name of the device of a network: `PHYDEV` and the network's number, which `attribute` gives.
///
/// # Errors
/// It is longer than that of a device.
pub fn device_name(
    nic: u32,
    uplink: &LinkName,
    attribute: &str,
    number: &dyn std::fmt::Display,
) -> Result<LinkName, Refusal> {
    let full = format!("{uplink}.{number}");
    full.parse().map_err(|_| {
        let accepted =
            format!("short enough for PHYDEV.{attribute} to be a device name of at most 15 characters");
        Refusal::malformed(nic, "PHYDEV", &full, accepted)
    })
}

/// Whether an address is neither that of a group nor all zero.
pub fn is_of_one_device(mac: Mac) -> bool {
    mac.0.first().is_some_and(|first| first & 1 == 0) && mac != Mac([0; 6])
}

/// Whether a name could be that of a guest's device.
pub fn is_tap_name(name: &LinkName) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts = name.as_str().strip_prefix("one-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(vm, nic)| digits(vm) && digits(nic))
}
