//! Services that guests reach at one address in their own network (contract VNM 4.11, `:tproxy:`): pure.
//!
//! A network namespace for each bridge has the address, behind a pair of devices of which one is a port of the bridge. A
//! program of the stock release listens in there and passes on to where a map of the firewall says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use causeway_core::document::Nic;
use causeway_core::names::LinkName;
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::settings::Settings;
use super::state::Desired;

/// Where guests find them.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 16, 9);

/// A service of `OpenNebulaNetwork.conf`, its name resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The port at [`ADDRESS`].
    pub service_port: u16,
    /// Where it is.
    pub remote_addr: Ipv4Addr,
    /// Its port there.
    pub remote_port: u16,
    /// Names or numbers of the networks that have it; all have it where none is named.
    pub networks: Vec<String>,
}

/// Where a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// The services of one Linux bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// The bridge.
    pub bridge: LinkName,
    /// By their port in the guests' network.
    pub endpoints: BTreeMap<u16, Endpoint>,
    /// By what the bridge leads out of the host: another host's services are not to answer.
    pub ways_out: BTreeSet<LinkName>,
}

/// What the parts of a bridge's services are called; the stock release calls them so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The bridge.
    pub bridge: LinkName,
    /// The port of the bridge.
    pub outer: LinkName,
    /// The other end, in the namespace.
    pub inner: LinkName,
    /// The namespace.
    pub namespace: String,
    /// The chain that keeps the question for the address from leaving.
    pub chain: String,
    /// The map from ports to where the services are.
    pub map: String,
}

impl Parts {
    /// Those of a bridge; none where a bridge of that name can't have any.
    pub fn of(bridge: &LinkName) -> Option<Parts> {
        if !is_plain(bridge) {
            return None;
        }
        Some(Parts {
            bridge: bridge.clone(),
            outer: format!("{bridge}b").parse().ok()?,
            inner: format!("{bridge}a").parse().ok()?,
            namespace: format!("one_tproxy_{bridge}"),
            chain: format!("ch_{bridge}"),
            map: format!("ep_{bridge}"),
        })
    }
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ADDRESS} in {}:", self.bridge)?;
        let each = |(port, to): (&u16, &Endpoint)| write!(f, " {port} is {}:{}", to.address, to.port);
        self.endpoints.iter().try_for_each(each)
    }
}

/// The services of `nic`'s bridge, as the rest of its state stands already. Of two at one port the first in the file counts.
///
/// # Errors
/// A [`Refusal`]: a port is none, or the bridge's name leaves no room for those of the devices.
pub(super) fn services(
    nic: &Nic,
    bridge: &LinkName,
    settings: &Settings,
    state: &Desired,
) -> Result<Option<Services>, Refusal> {
    let mut endpoints = BTreeMap::new();
    for service in settings.tproxy.iter().filter(|service| is_for(service, nic)) {
        let (address, port) = (service.remote_addr, service.remote_port);
        for (key, port) in [("service_port", service.service_port), ("remote_port", port)] {
            if port == 0 {
                return Err(Refusal::setting(&format!("tproxy {key}"), "0", "a port"));
            }
        }
        endpoints.entry(service.service_port).or_insert(Endpoint { address, port });
    }
    if endpoints.is_empty() {
        return Ok(None);
    }
    if Parts::of(bridge).is_none() {
        let accepted =
            "a name of at most 14 letters, digits and the signs . _ -, which services of :tproxy: need";
        return Err(Refusal::malformed(nic.nic_id, "BRIDGE", bridge.as_str(), accepted));
    }
    let tunnels = state.tunnels.iter().filter(|it| it.bridge.as_ref() == Some(bridge)).map(|it| &it.name);
    let vlans = state.vlans.iter().filter(|it| it.bridge == *bridge).map(|it| &it.name);
    let uplinks = state.bridges.iter().filter(|it| it.name == *bridge).filter_map(|it| it.uplink.as_ref());
    let ways_out: BTreeSet<LinkName> = tunnels.chain(vlans).chain(uplinks).cloned().collect();
    if let Some(name) = ways_out.iter().find(|name| !is_plain(name)) {
        let accepted = "a name of letters, digits and the signs . _ -, which services of :tproxy: need";
        return Err(Refusal::malformed(nic.nic_id, "PHYDEV", name.as_str(), accepted));
    }
    Ok(Some(Services { bridge: bridge.clone(), endpoints, ways_out }))
}

/// Whether `nft` reads that name as one.
fn is_plain(name: &LinkName) -> bool {
    name.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Networks are meant by name or by number.
fn is_for(service: &Service, nic: &Nic) -> bool {
    let number = nic.network_id.map(|id| id.to_string());
    let meant = |network: &String| Some(network) == nic.network.as_ref() || Some(network) == number.as_ref();
    service.networks.is_empty() || service.networks.iter().any(meant)
}
