//! Security group rules of a VM document (contract VNM 3.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reading::{DocumentError, Form, Reading};
use super::tree::Element;
use crate::names::Mac;

/// What a rule lets pass (`PROTOCOL`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Everything.
    All,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP for IPv4.
    Icmp,
    /// ICMP for IPv6.
    Icmpv6,
    /// ESP and AH.
    Ipsec,
}

const PROTOCOLS: [(&str, Protocol); 6] = [
    ("ALL", Protocol::All),
    ("TCP", Protocol::Tcp),
    ("UDP", Protocol::Udp),
    ("ICMP", Protocol::Icmp),
    ("ICMPV6", Protocol::Icmpv6),
    ("IPSEC", Protocol::Ipsec),
];

/// Which way a rule looks (`RULE_TYPE`), seen from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards the guest.
    Inbound,
    /// From the guest.
    Outbound,
}

const DIRECTIONS: [(&str, Direction); 2] =
    [("INBOUND", Direction::Inbound), ("OUTBOUND", Direction::Outbound)];

/// Ports, single or as ranges with both ends: `22,53,80:90`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRanges(pub Vec<(u16, u16)>);

impl Form for PortRanges {
    const ACCEPTED: &'static str = "ports or ranges of them (n:m) with commas between";
    fn read(text: &str) -> Option<Self> {
        let port = |text: &str| u16::read(text.trim());
        let items = text.split(',').map(|item| match item.split_once(':') {
            None => port(item).map(|n| (n, n)),
            Some((low, high)) => Some((port(low)?, port(high)?)).filter(|(low, high)| low <= high),
        });
        // Bounded: each port once is the most that makes sense.
        let ranges: Vec<(u16, u16)> = items.take(65536).collect::<Option<_>>()?;
        Some(PortRanges(ranges))
    }
}

/// One `SECURITY_GROUP_RULE`. Rules from a network come as one copy per address range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityGroupRule {
    /// `SECURITY_GROUP_ID`.
    pub security_group_id: u32,
    /// `SECURITY_GROUP_NAME`, for messages.
    pub security_group_name: Option<String>,
    /// `PROTOCOL`.
    pub protocol: Protocol,
    /// `RULE_TYPE`.
    pub direction: Direction,
    /// `RANGE`: destination ports; none means all.
    pub range: Option<PortRanges>,
    /// `ICMP_TYPE`.
    pub icmp_type: Option<u8>,
    /// `ICMPV6_TYPE`.
    pub icmpv6_type: Option<u8>,
    /// `IP`: the first address of the peers.
    pub ip: Option<IpAddr>,
    /// `IP6_GLOBAL`, `IP6_ULA` and `IP6` of an address range of a network.
    pub ip6: Vec<Ipv6Addr>,
    /// `SIZE`: how many addresses from the first on.
    pub size: Option<u128>,
    /// `MAC`: the first MAC of an address range.
    pub mac: Option<Mac>,
    /// `NETWORK_ID`: the network that the rule names.
    pub network_id: Option<u32>,
    /// `AR_ID`: the address range of that network.
    pub ar_id: Option<u32>,
    /// `TYPE` of the address range: `IP4`, `IP6`, `IP4_6`, `ETHER`...
    pub ar_type: Option<String>,
}

impl SecurityGroupRule {
    /// Reads a rule. A rule with any malformed value is left out with a fault: half a rule could let more pass.
    pub(super) fn read(element: &Element, parent: &str, faults: &mut Vec<DocumentError>) -> Option<Self> {
        let before = faults.len();
        let mut from = Reading::of_many(element, parent, "SECURITY_GROUP_ID", faults);
        for required in ["SECURITY_GROUP_ID", "PROTOCOL", "RULE_TYPE"] {
            if from.text(required).is_none() {
                from.missing(required);
            }
        }
        let mut ip6: Vec<Ipv6Addr> = Vec::new();
        for name in ["IP6_GLOBAL", "IP6_ULA", "IP6"] {
            ip6.extend(from.get::<Ipv6Addr>(name));
        }
        let id = from.get("SECURITY_GROUP_ID");
        let protocol = from.word("PROTOCOL", &PROTOCOLS);
        let direction = from.word("RULE_TYPE", &DIRECTIONS);
        let range = from.get("RANGE");
        let icmp_type = from.get("ICMP_TYPE");
        let icmpv6_type = from.get("ICMPV6_TYPE");
        let ip = from.get("IP");
        let size = from.get("SIZE");
        let rule = SecurityGroupRule {
            security_group_id: id?,
            security_group_name: from.text("SECURITY_GROUP_NAME"),
            protocol: protocol?,
            direction: direction?,
            range,
            icmp_type,
            icmpv6_type,
            ip,
            ip6,
            size,
            mac: from.name("MAC"),
            network_id: from.get("NETWORK_ID"),
            ar_id: from.get("AR_ID"),
            ar_type: from.text("TYPE"),
        };
        (faults.len() == before).then_some(rule)
    }

    /// The first IPv4 address of the peers and how many there are.
    pub fn ipv4(&self) -> Option<(Ipv4Addr, u128)> {
        match self.ip {
            Some(IpAddr::V4(ip)) => Some((ip, self.size.unwrap_or(1))),
            _ => None,
        }
    }
}
