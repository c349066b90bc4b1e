//! The limits of a domain's interfaces, out of live XML.

use causeway_core::document::{Bandwidth, Bandwidths};
use causeway_core::names::{LinkName, Mac};

use super::XmlError;
use super::facts::number;
use super::tree::{Element, parse};

/// A network interface, and how fast it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceBandwidths {
    /// Its device on the host. One of DPDK may have none.
    pub target: Option<LinkName>,
    /// Its address.
    pub mac: Option<Mac>,
    /// Its limits, as libvirt has them now.
    pub limits: Bandwidths,
}

/// The limits of all interfaces of a live domain, in document order.
///
/// # Errors
/// As [`facts`](super::facts()); or a limit is no number.
pub fn bandwidths(xml: &str) -> Result<Vec<InterfaceBandwidths>, XmlError> {
    let root = parse(xml)?;
    if root.name != "domain" {
        return Err(XmlError::NotADomain(root.name.to_string()));
    }
    root.grandchildren("devices", "interface").map(interface).collect()
}

fn interface(element: &Element<'_>) -> Result<InterfaceBandwidths, XmlError> {
    let of = |child: &str, attribute: &str| element.child(child).and_then(|c| c.value(attribute));
    let limits = |direction: &str| {
        let found = element.child("bandwidth").and_then(|b| b.child(direction));
        found.map_or(Ok(Bandwidth::default()), bandwidth)
    };
    Ok(InterfaceBandwidths {
        // Whatever has no name that a device of a guest can have is not asked for.
        target: of("target", "dev").and_then(|text| text.parse().ok()),
        mac: of("mac", "address").and_then(|text| text.parse().ok()),
        limits: Bandwidths { inbound: limits("inbound")?, outbound: limits("outbound")? },
    })
}

fn bandwidth(element: &Element<'_>) -> Result<Bandwidth, XmlError> {
    let of = |name: &'static str| element.value(name).map(|text| number(name, text)).transpose();
    Ok(Bandwidth { average: of("average")?, peak: of("peak")?, burst: of("burst")? })
}
