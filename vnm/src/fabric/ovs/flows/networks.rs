//! In which networks a guest's frames are, and how they look on its port: what the port's row would say if it were not closed.

use std::collections::BTreeSet;

use super::blocks::blocks;
use super::shared::{Hatch, to_the_switch};
use super::{
    ADMIT, GUEST, LEAVE, MACS, Made, NETWORK, OUT, Seat, TAGGED, nested, network_of_tag, output, tag,
};
use crate::desired::switch::Vlans;
use crate::fabric::ovs::openflow::{Action, Field, Match, ethertype};

/// The last number of a VLAN; the one above is reserved (IEEE 802.1Q table 9-2).
const LAST: u16 = 4094;

/// What the row of Open vSwitch calls the outer tag of 802.1ad.
const PROVIDER: &str = "802.1ad";

/// Ranges of VLANs that a guest is in; 0 is the network without a tag.
pub(super) fn networks(vlans: &Vlans) -> Vec<(u16, u16)> {
    match vlans {
        Vlans::Access(vlan) => vec![(*vlan, *vlan)],
        Vlans::Tunnel { outer, .. } => vec![(*outer, *outer)],
        Vlans::Trunk { .. } => {
            let mut all = tagged(vlans);
            if bare(vlans) == Some(0) {
                all.push((0, 0));
            }
            all
        }
    }
}

/// The network of frames without a tag.
fn bare(vlans: &Vlans) -> Option<u16> {
    match vlans {
        Vlans::Access(vlan) => Some(*vlan),
        Vlans::Trunk { untagged: Some(vlan), .. } => Some(*vlan),
        Vlans::Trunk { untagged: None, tagged } => {
            tagged.as_ref().is_none_or(|list| list.contains(&0)).then_some(0)
        }
        Vlans::Tunnel { outer, inner, .. } => (inner.is_empty() || inner.contains(&0)).then_some(*outer),
    }
}

/// The tags that frames may have on the guest's port.
fn tagged(vlans: &Vlans) -> Vec<(u16, u16)> {
    let real =
        |list: &BTreeSet<u16>| ranges(&list.iter().copied().filter(|n| (1..=LAST).contains(n)).collect());
    match vlans {
        Vlans::Access(_) => Vec::new(),
        Vlans::Trunk { tagged: None, .. } => vec![(1, LAST)],
        Vlans::Trunk { tagged: Some(list), untagged } => {
            real(&list.iter().chain(untagged).copied().collect())
        }
        Vlans::Tunnel { inner, .. } if inner.is_empty() => vec![(1, LAST)],
        Vlans::Tunnel { inner, .. } => real(inner),
    }
}

/// The same numbers as ranges.
fn ranges(numbers: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let mut out: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match out.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(*number) => last.1 = *number,
            _ => out.push((*number, *number)),
        }
    }
    out
}

/// Frames whose register says one of these networks.
pub(super) fn in_network(of: &Match, low: u16, high: u16) -> Vec<Match> {
    let here = |(vid, mask): (u16, u16)| {
        let (vid, mask) = (TAGGED | vid, u32::from(mask) | !u32::from(u16::MAX));
        of.clone().long_masked(Field::register(NETWORK), vid.into(), mask)
    };
    blocks(low, high).into_iter().map(here).collect()
}

/// Frames with one of these tags.
fn with_tag(of: &Match, low: u16, high: u16) -> Vec<Match> {
    let here = |(vid, mask): (u16, u16)| {
        let (of, vid, mask) = (of.clone(), TAGGED | vid, mask & 0x1fff);
        // As the switch tells it: all bits that there are need no mask.
        if mask == 0x1fff {
            of.short(Field::VLAN_VID, vid)
        } else {
            of.short_masked(Field::VLAN_VID, vid, mask)
        }
    };
    blocks(low, high).into_iter().map(here).collect()
}

fn untagged(of: &Match) -> Match {
    of.clone().short(Field::VLAN_VID, 0)
}

fn set(network: u16) -> Action {
    Action::SetRegister(NETWORK, (TAGGED | network).into())
}

/// Lets in from the guest what is in one of its networks, and says in which.
pub(super) fn admit(out: &mut Made, from: &Match, vlans: &Vlans, hatch: Hatch) {
    let on = Action::Resubmit(MACS);
    if let Some(network) = bare(vlans) {
        out.put(ADMIT, 20, untagged(from), vec![set(network), on.clone()]);
    }
    // A tag that says a priority and no VLAN: what is below it counts.
    let priority = from.clone().short(Field::VLAN_VID, TAGGED);
    out.put(ADMIT, 20, priority, vec![Action::PopVlan, Action::Resubmit(ADMIT)]);
    let keeps = matches!(vlans, Vlans::Tunnel { .. });
    for (low, high) in tagged(vlans) {
        for inside in with_tag(from, low, high) {
            let mut actions = match vlans {
                Vlans::Tunnel { outer, .. } => vec![set(*outer)],
                _ => network_of_tag().to_vec(),
            };
            actions.extend((!keeps).then_some(Action::PopVlan));
            actions.push(on.clone());
            out.put(ADMIT, 10, inside, actions);
        }
    }
    if matches!(vlans, Vlans::Access(_)) {
        for hidden in nested(from) {
            out.put(ADMIT, 30, hidden, vec![]);
        }
    }
    if let Vlans::Tunnel { ethertype: name, .. } = vlans
        && name == PROVIDER
    {
        let actions = [&tag(ethertype::OUTER_VLAN)[..], &to_the_switch(hatch)].concat();
        out.put(LEAVE, 30, from.clone(), actions);
    }
}

/// Sends to the guest what goes to it, as its port has it.
pub(super) fn deliver(out: &mut Made, seat: &Seat) {
    let to = Match::any().long(Field::register(GUEST), seat.port);
    // Of what it sends to many, it hears nothing.
    out.put(OUT, 40, to.clone().in_port(seat.port), vec![]);
    let as_it_is = output(seat.port).to_vec();
    match &seat.vlans {
        Vlans::Access(_) => {
            for hidden in nested(&to) {
                out.put(OUT, 30, hidden, vec![]);
            }
            out.put(OUT, 20, untagged(&to), as_it_is);
        }
        Vlans::Trunk { .. } => {
            if let Some(network) = bare(&seat.vlans) {
                let own = to.clone().long(Field::register(NETWORK), (TAGGED | network).into());
                for hidden in nested(&own) {
                    out.put(OUT, 30, hidden, vec![]);
                }
                out.put(OUT, 20, untagged(&own), as_it_is.clone());
                // A tag below that of the network must not become another network's.
                out.put(OUT, 15, own, vec![]);
            }
            out.put(OUT, 10, to, [&tag(ethertype::VLAN)[..], &as_it_is].concat());
        }
        Vlans::Tunnel { .. } => {
            if bare(&seat.vlans).is_some() {
                out.put(OUT, 20, untagged(&to), as_it_is.clone());
            }
            for (low, high) in tagged(&seat.vlans) {
                for inside in with_tag(&to, low, high) {
                    out.put(OUT, 10, inside, as_it_is.clone());
                }
            }
        }
    }
}
