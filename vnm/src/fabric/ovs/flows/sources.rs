//! From whom a guest may send: its own addresses, in Ethernet, ARP, ND and IP (contract VNM 4.3).

use std::net::IpAddr;

use causeway_core::names::Mac;

use super::{FROM, GOES, MACS, Made, SENDERS, TOLD, icmpv6, kind, nested, protocol};
use crate::desired::guard::Guard;
use crate::fabric::ovs::openflow::{Action, Field, Match, ethertype};

/// Neighbour messages, and the field in which each gives an Ethernet address (RFC 4861 sections 4.3 and 4.4).
const NEIGHBOURS: [(u8, Field); 2] = [(135, Field::IPV6_ND_SLL), (136, Field::IPV6_ND_TLL)];

/// The Ethernet addresses that the guest may send from. Connections are known by addresses of IP, and what goes to a guarded guest is
/// known by its Ethernet address: so it may have no other one.
pub(super) fn macs(out: &mut Made, from: &Match, guard: &Guard, arp: bool) {
    let own = || [guard.mac].into();
    let macs = guard.macs.clone().or_else(|| guard.is_stateful().then(own));
    let Some(macs) = macs else {
        return out.put(MACS, 100, from.clone(), vec![Action::Resubmit(SENDERS)]);
    };
    for mac in macs {
        let sent = from.clone().mac(Field::ETH_SRC, mac);
        out.put(MACS, 45_000, sent.clone(), vec![Action::Resubmit(SENDERS)]);
        if arp {
            let told = kind(&sent, ethertype::ARP).mac(Field::ARP_SHA, mac);
            out.put(MACS, 50_000, told, vec![Action::Resubmit(SENDERS)]);
        }
        // Its own address, or none.
        for (message, gives) in NEIGHBOURS {
            for given in [mac, Mac([0; 6])] {
                let told = icmpv6(&sent, message).mac(gives, given);
                out.put(MACS, 50_000, told, vec![Action::Resubmit(SENDERS)]);
            }
        }
    }
    if arp {
        out.put(MACS, 49_000, kind(from, ethertype::ARP), vec![]);
    }
    for (message, _) in NEIGHBOURS {
        // What can't be read is about no address, and gives none.
        out.put(MACS, 51_000, icmpv6(from, message).ipv6(Field::IPV6_ND_TARGET, 0_u128.into(), 128), vec![]);
        out.put(MACS, 49_000, icmpv6(from, message), vec![]);
    }
    out.put(MACS, 40_000, from.clone(), vec![]);
}

/// The addresses that the guest may send from.
pub(super) fn senders(out: &mut Made, from: &Match, guard: &Guard, arp: bool) {
    let on = || vec![Action::Resubmit(FROM)];
    out.put(SENDERS, 100, from.clone(), on());
    let Some(senders) = &guard.senders else { return };
    let (four, six) = (kind(from, ethertype::IPV4), kind(from, ethertype::IPV6));
    for sender in senders {
        match *sender {
            IpAddr::V4(address) => {
                out.put(SENDERS, 45_000, four.clone().ipv4(Field::IPV4_SRC, address, 32), on());
                if arp {
                    let told = kind(from, ethertype::ARP).ipv4(Field::ARP_SPA, address, 32);
                    out.put(SENDERS, 50_000, told, on());
                }
            }
            IpAddr::V6(address) => {
                out.put(SENDERS, 45_000, six.clone().ipv6(Field::IPV6_SRC, address, 128), on());
                // It tells of its own addresses only; the one that it sends from may be another of them.
                let tells = icmpv6(from, 136);
                let sent = tells.clone().ipv6(Field::IPV6_SRC, address, 128);
                out.put(SENDERS, 47_000, sent, vec![Action::Resubmit(TOLD)]);
                out.put(TOLD, 47_000, tells.ipv6(Field::IPV6_ND_TARGET, address, 128), on());
            }
        }
    }
    if arp {
        out.put(SENDERS, 49_000, kind(from, ethertype::ARP), vec![]);
    }
    out.put(SENDERS, 46_000, icmpv6(from, 136), vec![]);
    // Who has no address yet asks for one, or whether somebody has it.
    let asks = four.clone().byte(Field::IP_PROTO, protocol::UDP).short(Field::UDP_SRC, 68);
    let asks = asks.short(Field::UDP_DST, 67).ipv4(Field::IPV4_SRC, [0; 4].into(), 32);
    let asks = asks.ipv4(Field::IPV4_DST, [255; 4].into(), 32);
    out.put(SENDERS, 44_000, asks, vec![Action::Resubmit(GOES)]);
    let from_nowhere = |message| icmpv6(from, message).ipv6(Field::IPV6_SRC, 0_u128.into(), 128);
    out.put(SENDERS, 44_000, from_nowhere(133), on());
    for sender in senders {
        if let IpAddr::V6(address) = *sender {
            let asks = from_nowhere(135).ipv6(Field::IPV6_ND_TARGET, address, 128);
            out.put(SENDERS, 44_000, asks, on());
        }
    }
    for hidden in nested(from) {
        out.put(SENDERS, 48_000, hidden, vec![]);
    }
    out.put(SENDERS, 40_000, four, vec![]);
    out.put(SENDERS, 40_000, six, vec![]);
}
