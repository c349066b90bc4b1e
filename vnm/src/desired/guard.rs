//! What may pass between a guest and everybody else: one value per NIC, from which a bridge's firewall and a switch's flows
//! are both made (contract VNM 4.3, 4.5).
//!
//! Everything that is asked for is in it, or there is none: half a guard would let more pass than was asked for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_core::document::{Direction, Nic, Protocol, SecurityGroupRule, VmDocument};
use causeway_core::names::{LinkName, Mac};
use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// What may pass by one NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// `NIC_ID`.
    pub nic: u32,
    /// The guest's device.
    pub tap: LinkName,
    /// The guest's own address.
    pub mac: Mac,
    /// The Ethernet addresses that it may send from (`FILTER_MAC_SPOOFING`); none means any.
    pub macs: Option<BTreeSet<Mac>>,
    /// The addresses that it may send from (`FILTER_IP_SPOOFING`); none means any.
    pub senders: Option<BTreeSet<IpAddr>>,
    /// What may come to it.
    pub inbound: Passage,
    /// What may come from it.
    pub outbound: Passage,
}

/// What may pass in one direction, besides what belongs to a connection that may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passage {
    /// Everything.
    Open,
    /// What one of these describes.
    Only(BTreeSet<Pass>),
}

/// Traffic that may pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pass {
    /// What it is.
    pub traffic: Traffic,
    /// At the other end; none means anybody.
    pub peers: Option<BTreeSet<IpNet>>,
}

/// A kind of traffic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// All of IP.
    All,
    /// TCP to these ports.
    Tcp(Ports),
    /// UDP to these ports.
    Udp(Ports),
    /// ICMP of IPv4; none means every type.
    Icmp(Option<u8>),
    /// ICMP of IPv6; none means every type.
    Icmpv6(Option<u8>),
    /// ESP.
    Esp,
}

/// Destination ports, as ranges with both ends, in order and apart from each other; none means all.
pub type Ports = Option<BTreeSet<(u16, u16)>>;

impl Guard {
    /// What may pass by `nic` of `vm`, whose device is `tap`.
    ///
    /// # Errors
    /// A [`Refusal`] for a rule that can't be kept as it is written.
    pub fn of(nic: &Nic, vm: &VmDocument, tap: &LinkName, mac: Mac) -> Result<Guard, Refusal> {
        let aliases = || aliases(vm, nic);
        // An alias that asks for a filter asks for it on the device that it shares (W29).
        let asks = |of: fn(&Nic) -> bool| of(nic) || aliases().any(of);
        let macs = || [mac].into_iter().chain(aliases().filter_map(|alias| alias.mac)).collect();
        let addresses = || {
            let all = [nic].into_iter().chain(aliases());
            all.flat_map(|nic| nic.addresses.all().collect::<Vec<_>>()).collect()
        };
        Ok(Guard {
            nic: nic.nic_id,
            tap: tap.clone(),
            mac,
            macs: asks(|nic| nic.filter_mac_spoofing).then(macs),
            senders: asks(|nic| nic.filter_ip_spoofing).then(addresses),
            inbound: passage(nic, vm, Direction::Inbound)?,
            outbound: passage(nic, vm, Direction::Outbound)?,
        })
    }

    /// Whether it keeps anything away.
    pub fn is_open(&self) -> bool {
        let open = |passage: &Passage| *passage == Passage::Open;
        self.macs.is_none() && self.senders.is_none() && open(&self.inbound) && open(&self.outbound)
    }

    /// Whether it needs to know connections.
    pub fn is_stateful(&self) -> bool {
        self.inbound != Passage::Open || self.outbound != Passage::Open
    }
}

/// The aliases of a NIC.
pub(super) fn aliases<'v>(vm: &'v VmDocument, nic: &Nic) -> impl Iterator<Item = &'v Nic> {
    let parent = Some(nic.nic_id);
    vm.aliases.iter().filter(move |alias| alias.parent_id == parent)
}

/// The rules of a NIC's groups. No group at all is group 0, which lets everything pass.
fn passage(nic: &Nic, vm: &VmDocument, direction: Direction) -> Result<Passage, Refusal> {
    if nic.security_groups.is_empty() {
        return Ok(Passage::Open);
    }
    let rules = vm.security_group_rules.iter();
    let rules =
        rules.filter(|r| nic.security_groups.contains(&r.security_group_id) && r.direction == direction);
    let mut passes = BTreeSet::new();
    for rule in rules {
        passes.extend(pass(nic.nic_id, rule)?);
    }
    let everything = Pass { traffic: Traffic::All, peers: None };
    Ok(if passes.contains(&everything) { Passage::Open } else { Passage::Only(passes) })
}

/// What one rule lets pass; nothing where it names addresses and there are none.
fn pass(nic: u32, rule: &SecurityGroupRule) -> Result<Option<Pass>, Refusal> {
    let group = rule.security_group_id;
    let wrong = |attribute: &str, value: String, accepted: &str| {
        Refusal::malformed(
            nic,
            &format!("{attribute} of a rule of SECURITY_GROUPS {group}"),
            &value,
            accepted,
        )
    };
    let ports = rule.range.as_ref().map(|range| merged(&range.0));
    let traffic = match rule.protocol {
        Protocol::Tcp => Traffic::Tcp(ports.clone()),
        Protocol::Udp => Traffic::Udp(ports.clone()),
        Protocol::All => Traffic::All,
        Protocol::Icmp => Traffic::Icmp(rule.icmp_type),
        Protocol::Icmpv6 => Traffic::Icmpv6(rule.icmpv6_type),
        Protocol::Ipsec => Traffic::Esp,
    };
    // A rule that says more than its protocol has would let more pass if that were left out.
    if ports.is_some() && !matches!(traffic, Traffic::Tcp(_) | Traffic::Udp(_)) {
        let range = rule.range.as_ref().map(|range| format!("{:?}", range.0)).unwrap_or_default();
        return Err(wrong("RANGE", range, "absent, but with PROTOCOL TCP or UDP"));
    }
    for (attribute, value, fits) in [
        ("ICMP_TYPE", rule.icmp_type, rule.protocol == Protocol::Icmp),
        ("ICMPV6_TYPE", rule.icmpv6_type, rule.protocol == Protocol::Icmpv6),
    ] {
        if let Some(value) = value.filter(|_| !fits) {
            return Err(wrong(attribute, value.to_string(), "absent, but with the PROTOCOL of that name"));
        }
    }
    let named = rule.ip.is_some() || !rule.ip6.is_empty();
    if rule.size.is_some()
        && !named
        && rule.network_id.is_none()
        && rule.ar_id.is_none()
        && rule.mac.is_none()
    {
        let size = rule.size.unwrap_or_default().to_string();
        return Err(wrong("SIZE", size, "absent, but with IP or IP6, from which on it counts"));
    }
    let names_a_network = rule.network_id.is_some() || rule.ar_id.is_some() || rule.mac.is_some();
    if !named && !names_a_network {
        return Ok(Some(Pass { traffic, peers: None }));
    }
    let count = rule.size.unwrap_or(1);
    let mut peers = BTreeSet::new();
    for first in rule.ip.into_iter().chain(rule.ip6.iter().copied().map(IpAddr::V6)) {
        let nets = networks(first, count);
        peers.extend(
            nets.ok_or_else(|| {
                wrong("SIZE", count.to_string(), "as many addresses as there are from IP on")
            })?,
        );
    }
    Ok((!peers.is_empty()).then_some(Pass { traffic, peers: Some(peers) }))
}

/// The fewest networks that hold `count` addresses from `first` on; none where there are not so many.
fn networks(first: IpAddr, count: u128) -> Option<Vec<IpNet>> {
    let more = count.checked_sub(1)?;
    match first {
        IpAddr::V4(first) => {
            let last = u32::from(first).checked_add(u32::try_from(more).ok()?)?;
            let nets: Vec<Ipv4Net> = Ipv4Subnets::new(first, last.into(), 0).collect();
            Some(nets.into_iter().map(IpNet::V4).collect())
        }
        IpAddr::V6(first) => {
            let last = u128::from(first).checked_add(more)?;
            let nets: Vec<Ipv6Net> = Ipv6Subnets::new(first, last.into(), 0).collect();
            Some(nets.into_iter().map(IpNet::V6).collect())
        }
    }
}

/// The same ports in ranges that neither touch nor overlap.
fn merged(ranges: &[(u16, u16)]) -> BTreeSet<(u16, u16)> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut out: Vec<(u16, u16)> = Vec::new();
    for (low, high) in sorted {
        match out.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => out.push((low, high)),
        }
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guard(nic: &str, more: &str) -> Result<Guard, String> {
        let document = format!(
            "<VM><ID>7</ID><TEMPLATE><NIC><NIC_ID>0</NIC_ID><VN_MAD>vxlan</VN_MAD><MAC>02:00:0a:00:00:01</MAC>{nic}</NIC>\
             </TEMPLATE>{more}</VM>"
        );
        let vm = VmDocument::parse(document.as_bytes()).map_err(|e| e.to_string())?;
        let mac = "02:00:0a:00:00:01".parse().unwrap();
        Guard::of(&vm.nics[0], &vm, &"one-7-0".parse().unwrap(), mac).map_err(|e| e.to_string())
    }

    fn rule(group: u32, direction: &str, protocol: &str, more: &str) -> String {
        format!(
            "<TEMPLATE><SECURITY_GROUP_RULE><SECURITY_GROUP_ID>{group}</SECURITY_GROUP_ID><RULE_TYPE>{direction}</RULE_TYPE>\
             <PROTOCOL>{protocol}</PROTOCOL>{more}</SECURITY_GROUP_RULE></TEMPLATE>"
        )
    }

    fn in_group(more: &str) -> Passage {
        guard("<SECURITY_GROUPS>5</SECURITY_GROUPS>", more).unwrap().inbound
    }

    fn only(passes: impl IntoIterator<Item = Pass>) -> Passage {
        Passage::Only(passes.into_iter().collect())
    }

    #[test]
    fn groups_are_open_only_where_one_says_so() {
        assert!(guard("", "").unwrap().is_open());
        // A group without rules lets nothing pass.
        assert_eq!(in_group(""), only([]));
        assert_eq!(in_group(&rule(6, "INBOUND", "ALL", "")), only([]));
        assert_eq!(in_group(&rule(5, "OUTBOUND", "ALL", "")), only([]));
        assert_eq!(in_group(&rule(5, "inbound", "ALL", "")), Passage::Open);
        let all = Traffic::All;
        let some = Some(["10.0.0.1/32".parse().unwrap()].into());
        assert_eq!(
            in_group(&rule(5, "INBOUND", "ALL", "<IP>10.0.0.1</IP>")),
            only([Pass { traffic: all, peers: some }])
        );
    }

    #[test]
    fn rules_as_they_are_written() {
        let ports = Some([(22, 22), (80, 90)].into());
        assert_eq!(
            in_group(&rule(5, "INBOUND", "TCP", "<RANGE>80:85,22,86:90,84</RANGE>")),
            only([Pass { traffic: Traffic::Tcp(ports), peers: None }])
        );
        let net = "<IP>10.0.0.254</IP><SIZE>3</SIZE><NETWORK_ID>1</NETWORK_ID><IP6_ULA>fd00::1</IP6_ULA>";
        let peers = ["10.0.0.254/31", "10.0.1.0/32", "fd00::1/128", "fd00::2/127"];
        let peers = Some(peers.iter().map(|net| net.parse().unwrap()).collect());
        assert_eq!(
            in_group(&rule(5, "INBOUND", "IPSEC", net)),
            only([Pass { traffic: Traffic::Esp, peers }])
        );
        // A range of a network that has no addresses: nobody, not everybody.
        let ether = "<NETWORK_ID>1</NETWORK_ID><AR_ID>0</AR_ID><TYPE>ETHER</TYPE><MAC>02:00:00:00:00:01</MAC><SIZE>9</SIZE>";
        assert_eq!(in_group(&rule(5, "INBOUND", "UDP", ether)), only([]));
    }

    #[test]
    fn what_says_more_than_its_protocol_has_is_refused() {
        for (protocol, more, attribute) in [
            ("ALL", "<RANGE>1:9</RANGE>", "RANGE"),
            ("ICMP", "<RANGE>1</RANGE>", "RANGE"),
            ("TCP", "<ICMP_TYPE>8</ICMP_TYPE>", "ICMP_TYPE"),
            ("ICMP", "<ICMPV6_TYPE>128</ICMPV6_TYPE>", "ICMPV6_TYPE"),
            ("TCP", "<IP>255.255.255.255</IP><SIZE>2</SIZE>", "SIZE"),
            ("TCP", "<IP>10.0.0.1</IP><SIZE>0</SIZE>", "SIZE"),
            ("TCP", "<SIZE>10</SIZE>", "SIZE"),
        ] {
            let error = guard("<SECURITY_GROUPS>5</SECURITY_GROUPS>", &rule(5, "INBOUND", protocol, more))
                .unwrap_err();
            assert!(error.contains(&format!("{attribute} of a rule of SECURITY_GROUPS 5")), "{error}");
        }
    }

    #[test]
    fn an_alias_asks_for_the_device_that_it_shares() {
        let alias = "<TEMPLATE><NIC_ALIAS><NIC_ID>1</NIC_ID><PARENT_ID>0</PARENT_ID><VN_MAD>vxlan</VN_MAD><IP>10.0.0.9</IP>\
                     <MAC>02:00:0a:00:00:09</MAC><FILTER_IP_SPOOFING>YES</FILTER_IP_SPOOFING></NIC_ALIAS></TEMPLATE>";
        let guard = guard("<IP>10.0.0.1</IP>", alias).unwrap();
        let senders = ["10.0.0.1", "10.0.0.9"].map(|a| a.parse().unwrap());
        assert_eq!((guard.macs, guard.senders), (None, Some(senders.into())));
    }

    proptest! {
        #[test]
        fn networks_hold_the_addresses_and_no_others(first in any::<u32>(), count in 1_u32..2000) {
            let nets = networks(IpAddr::V4(first.into()), count.into());
            prop_assert_eq!(nets.is_none(), first.checked_add(count - 1).is_none());
            let held: u64 = nets.iter().flatten().map(|net| 1_u64 << (32 - net.prefix_len())).sum();
            prop_assert!(nets.is_none() || held == u64::from(count));
            let inside = |net: &IpNet| match net {
                IpNet::V4(net) => u32::from(net.network()) >= first && u32::from(net.broadcast()) <= first + (count - 1),
                IpNet::V6(_) => false,
            };
            prop_assert!(nets.iter().flatten().all(inside));
        }

        #[test]
        fn merged_ports_are_the_same_ports(ranges in proptest::collection::vec((0_u16..300, 0_u16..40), 0..8), port in 0_u16..400) {
            let ranges: Vec<(u16, u16)> = ranges.into_iter().map(|(low, more)| (low, low + more)).collect();
            let within = |ranges: &[(u16, u16)]| ranges.iter().any(|(low, high)| (*low..=*high).contains(&port));
            let merged = merged(&ranges);
            let listed: Vec<(u16, u16)> = merged.iter().copied().collect();
            prop_assert_eq!(within(&listed), within(&ranges));
            let apart = merged.iter().zip(merged.iter().skip(1)).all(|(a, b)| a.1 + 1 < b.0);
            prop_assert!(apart, "{:?}", merged);
        }
    }
}
