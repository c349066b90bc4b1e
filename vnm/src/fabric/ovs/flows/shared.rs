//! What the guarded guests of a bridge share: the way from the switch to them, and back.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::networks::{in_network, networks};
use super::{BARE, GOES, GUEST, IN, LEAVE, Made, NETWORK, SHARED, TAGGED, TO, network_of_tag, tag};
use crate::desired::switch::Vlans;
use crate::fabric::ovs::openflow::{Action, Cookie, Field, Flow, Match, ethertype};

/// The number of a VLAN that no frame may have (IEEE 802.1Q table 9-2): rows of closed ports name it.
pub const RESERVED: u16 = 4095;

/// The patch between what the switch does by itself and the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hatch {
    /// The port that all guarded guests are behind.
    pub guarded: u16,
    /// Its other end.
    pub guards: u16,
}

/// A guarded guest, as the others of its bridge see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The number of its port.
    pub port: u32,
    /// The VLANs that it is in.
    pub vlans: Vlans,
    /// Whether it may have any addresses of Ethernet ([`super::has_any_address`]).
    pub any: bool,
}

/// The actions that give a frame to the switch.
pub(super) fn to_the_switch(hatch: Hatch) -> [Action; 2] {
    [Action::CameBy(hatch.guarded), Action::Normal]
}

/// The flows that all guarded guests of a bridge share; none without any.
pub fn shared(members: &[Member], hatch: Hatch) -> Vec<Flow> {
    let mut out = Made { cookie: Cookie(SHARED), flows: Vec::new() };
    if members.is_empty() {
        return out.flows;
    }
    let back = Match::any().in_port(hatch.guards.into());
    out.put(IN, 200, Match::any().short(Field::VLAN_VID, TAGGED | RESERVED), vec![]);
    out.put(IN, 100, back.clone(), [&network_of_tag()[..], &[Action::Resubmit(BARE)]].concat());
    let tagged = Match::any().short_masked(Field::VLAN_VID, TAGGED, TAGGED);
    out.put(BARE, 10, tagged, vec![Action::PopVlan, Action::Resubmit(GOES)]);
    out.put(BARE, 1, Match::any(), vec![Action::Resubmit(GOES)]);

    out.put(GOES, 40, Match::any().of_the_link(), vec![]);
    for (low, high) in segments(members) {
        let here: Vec<&Member> = members.iter().filter(|member| is_in(member, low)).collect();
        let any: Vec<&Member> = here.iter().copied().filter(|member| member.any).collect();
        for network in in_network(&Match::any(), low, high) {
            out.put(GOES, 20, network.clone().multicast(), copies(&here));
            if !any.is_empty() {
                out.put(GOES, 10, network, copies(&any));
            }
        }
    }
    out.put(GOES, 0, Match::any(), vec![Action::Resubmit(LEAVE)]);

    out.put(LEAVE, 40, back, vec![]);
    let without = Match::any().long(Field::register(NETWORK), TAGGED.into());
    out.put(LEAVE, 10, without, to_the_switch(hatch).to_vec());
    out.put(LEAVE, 0, Match::any(), [&tag(ethertype::VLAN)[..], &to_the_switch(hatch)].concat());
    out.flows
}

/// A copy for each of these, and the frame goes on.
fn copies(members: &[&Member]) -> Vec<Action> {
    let copy =
        |member: &&Member| Action::Clone(vec![Action::SetRegister(GUEST, member.port), Action::Resubmit(TO)]);
    members.iter().map(copy).chain([Action::Resubmit(LEAVE)]).collect()
}

fn is_in(member: &Member, network: u16) -> bool {
    networks(&member.vlans).iter().any(|(low, high)| (*low..=*high).contains(&network))
}

/// Ranges of networks in each of which the same guests are.
fn segments(members: &[Member]) -> Vec<(u16, u16)> {
    let all: Vec<(u16, u16)> = members.iter().flat_map(|member| networks(&member.vlans)).collect();
    let begins: BTreeSet<u16> = all.iter().flat_map(|(low, high)| [*low, high.saturating_add(1)]).collect();
    let ends = begins.iter().skip(1).map(|next| next.saturating_sub(1));
    let each = begins.iter().copied().zip(ends);
    each.filter(|(low, _)| members.iter().any(|member| is_in(member, *low))).collect()
}
