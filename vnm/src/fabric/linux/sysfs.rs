//! Where a virtual function is, from the tree that the kernel shows of its PCI devices (contract VNM 4.8).
//!
//! ```text
//! 0000:85:02.3/physfn -> ../0000:85:00.0
//! 0000:85:00.0/virtfn3 -> ../0000:85:02.3
//! 0000:85:00.0/net/ens1f0, and with a switch on the card a device for each function, told by its phys_port_name
//! ```
//!
//! The function itself says whose it is, so that no more than three directories are read however many devices the host has (W9).

use std::io;
use std::path::{Path, PathBuf};

use causeway_core::names::LinkName;

use crate::desired::function::{Located, PciAddress};

/// Why a PCI device could not be found, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// There is no such device.
    #[error("this host has no PCI device {address}")]
    Absent {
        /// The address.
        address: PciAddress,
    },
    /// There are several.
    #[error(
        "this host has {one} and {other}, and SHORT_ADDRESS names both: the VM needs the ADDRESS of its PCI device"
    )]
    Several {
        /// One.
        one: String,
        /// Another.
        other: String,
    },
    /// The physical function has no network device.
    #[error(
        "physical function {function} of PCI device {address} has no network device: load its driver on the host"
    )]
    NoDevice {
        /// The function's address.
        address: String,
        /// The physical function's address.
        function: String,
    },
    /// Nobody can tell which of its network devices is the physical function itself.
    #[error(
        "physical function {function} has the network devices {one} and {other}, and neither is told by its phys_port_name"
    )]
    Ambiguous {
        /// The physical function's address.
        function: String,
        /// One device.
        one: String,
        /// Another one.
        other: String,
    },
    /// The tree contradicts itself.
    #[error("{} does not lead back to PCI device {address}", path.display())]
    Torn {
        /// The physical function.
        path: PathBuf,
        /// The virtual function's address.
        address: String,
    },
    /// A directory or file that can't be read.
    #[error("read {}", path.display())]
    Read {
        /// It.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Finds a device in the directory of all PCI devices (`/sys/bus/pci/devices`).
///
/// # Errors
/// It is not there, or what belongs to it is not.
pub fn locate(devices: &Path, address: PciAddress) -> Result<Located, LocateError> {
    let name = full_name(devices, address)?;
    let own = devices.join(&name);
    let Some(function) = target(&own.join("physfn"))? else { return Ok(Located::Whole) };
    let physical = devices.join(&function);
    let index = index_of(&physical, &name)?;
    let found = network_devices(&physical)?;
    let (representors, others): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|device| device.port.as_deref().is_some_and(is_representor));
    let own = |port: Option<&str>| port.is_some_and(|port| represents(port) == Some(index));
    let representor = representors.iter().find(|device| own(device.port.as_deref()));
    // A card with a switch has a device for every function, and then this one may not be without.
    if representor.is_none() && !representors.is_empty() {
        return Err(LocateError::NoDevice { address: name, function });
    }
    let device = physical_device(others, &name, function)?;
    Ok(Located::Virtual { device, index, representor: representor.map(|device| device.name.clone()) })
}

/// The kernel's name of the device; without a domain, of the only one that fits.
fn full_name(devices: &Path, address: PciAddress) -> Result<String, LocateError> {
    if address.domain.is_some() {
        let name = address.to_string();
        return match std::fs::symlink_metadata(devices.join(&name)) {
            Ok(_) => Ok(name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LocateError::Absent { address }),
            Err(source) => Err(LocateError::Read { path: devices.join(name), source }),
        };
    }
    let end = format!(":{address}");
    let mut fitting = names_in(devices)?.into_iter().filter(|name| name.ends_with(&end));
    let one = fitting.next().ok_or(LocateError::Absent { address })?;
    match fitting.next() {
        Some(other) => Err(LocateError::Several { one, other }),
        None => Ok(one),
    }
}

/// The number of a virtual function at its physical one.
fn index_of(physical: &Path, name: &str) -> Result<u32, LocateError> {
    for link in names_in(physical)? {
        let index = link.strip_prefix("virtfn").and_then(|number| number.parse().ok());
        if let Some(index) = index
            && target(&physical.join(link))?.as_deref() == Some(name)
        {
            return Ok(index);
        }
    }
    Err(LocateError::Torn { path: physical.to_owned(), address: name.to_owned() })
}

/// A network device of a physical function.
struct Device {
    name: LinkName,
    /// What the driver calls its port, where it says so.
    port: Option<String>,
}

fn network_devices(physical: &Path) -> Result<Vec<Device>, LocateError> {
    let dir = physical.join("net");
    let names = match names_in(&dir) {
        Err(LocateError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let mut devices = Vec::new();
    for name in names {
        // Most drivers have no such name and refuse to be asked.
        let port = std::fs::read_to_string(dir.join(&name).join("phys_port_name")).ok();
        let port = port.map(|port| port.trim().to_owned()).filter(|port| !port.is_empty());
        let Ok(name) = name.parse() else { continue };
        devices.push(Device { name, port });
    }
    Ok(devices)
}

/// The one that is the physical function itself: the only one, or the only one that calls itself a port (`p0`).
fn physical_device(devices: Vec<Device>, name: &str, function: String) -> Result<LinkName, LocateError> {
    let is_port = |device: &&Device| {
        let number = device.port.as_deref().and_then(|port| port.strip_prefix('p'));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    let ports: Vec<&Device> = devices.iter().filter(is_port).collect();
    let fitting: Vec<&Device> = if ports.is_empty() { devices.iter().collect() } else { ports };
    match fitting.as_slice() {
        [] => Err(LocateError::NoDevice { address: name.to_owned(), function }),
        [device] => Ok(device.name.clone()),
        [one, other, ..] => {
            Err(LocateError::Ambiguous { function, one: one.name.to_string(), other: other.name.to_string() })
        }
    }
}

fn is_representor(port: &str) -> bool {
    represents(port).is_some()
}

/// The number of the virtual function that a port of that name stands for: `vf3`, `pf0vf3`, or with the card's controller in front,
/// `c1pf0vf3`.
fn represents(port: &str) -> Option<u32> {
    let (front, number) = port.rsplit_once("vf")?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let physical = |text: &str| text.strip_prefix("pf").is_some_and(digits);
    let controller = |text: &str| {
        let rest = text.strip_prefix('c').and_then(|rest| rest.split_once("pf"));
        rest.is_some_and(|(controller, function)| digits(controller) && digits(function))
    };
    let whole = front.is_empty() || physical(front) || controller(front);
    number.parse().ok().filter(|_| whole && digits(number))
}

/// The last part of where a link leads; none if there is no such link.
fn target(link: &Path) -> Result<Option<String>, LocateError> {
    match std::fs::read_link(link) {
        Ok(target) => Ok(target.file_name().and_then(|name| name.to_str()).map(str::to_owned)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LocateError::Read { path: link.to_owned(), source }),
    }
}

/// The names in a directory, in order.
fn names_in(dir: &Path) -> Result<Vec<String>, LocateError> {
    let failed = |source| LocateError::Read { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
