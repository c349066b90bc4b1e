//! Flows, and the messages that are about them (OpenFlow 1.4 sections 7.3.4.1 and 7.3.5.2).

use serde::{Deserialize, Serialize};

use super::action::Action;
use super::oxm::Match;

/// Applies the actions at once.
const APPLY_ACTIONS: u16 = 4;
/// Of any port, of any group, not buffered.
const ANY: u32 = 0xffff_ffff;
/// Every table.
pub(super) const ALL_TABLES: u8 = 0xff;
/// Bytes of a flow in a reply before its match.
const STATS_HEAD: usize = 48;

/// Whose a flow is: 64 bits that the switch keeps and does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cookie(pub u64);

/// Those flows whose cookie has these bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cookies {
    /// The bits.
    pub value: u64,
    /// Which of them count.
    pub mask: u64,
}

/// Some flows of a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// With such a cookie.
    pub cookies: Cookies,
    /// That match nothing but what this does.
    pub matches: Match,
    /// Of this table; none means all.
    pub table: Option<u8>,
}

impl From<Cookies> for Which {
    fn from(cookies: Cookies) -> Self {
        Which { cookies, matches: Match::any(), table: None }
    }
}

impl Which {
    /// Those that match nothing but what this does.
    #[must_use]
    pub fn about(self, matches: Match) -> Self {
        Which { matches, ..self }
    }

    /// Those of this table.
    #[must_use]
    pub fn of_table(self, table: u8) -> Self {
        Which { table: Some(table), ..self }
    }
}

/// What makes a flow another flow: two of a kind can't be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// The table.
    pub table: u8,
    /// Of those that match, the highest counts.
    pub priority: u16,
    /// What it matches.
    pub matches: Match,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Flow {
    /// Which flow it is.
    pub key: FlowKey,
    /// Whose it is.
    pub cookie: Cookie,
    /// What it does; nothing drops the frame.
    pub actions: Vec<Action>,
}

/// A flow as the switch tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The flow.
    pub flow: Flow,
    /// For how many seconds more it is there, where it is lent.
    pub left: Option<u16>,
}

/// A change of a bridge's flows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowChange {
    /// The flow is there, in the place of one with the same key.
    Put(Flow),
    /// The same for so many seconds: the switch removes it by itself.
    Lend(Flow, u16),
    /// There is no flow with that key.
    Remove(FlowKey),
    /// There are no such flows.
    RemoveAll(Which),
}

impl FlowChange {
    /// The body of the message that makes the change.
    pub(super) fn encode(&self) -> Vec<u8> {
        const ADD: u8 = 0;
        const DELETE: u8 = 3;
        const DELETE_STRICT: u8 = 4;
        let lasts = if let FlowChange::Lend(_, seconds) = self { *seconds } else { 0 };
        let (cookies, table, command, priority, matches, actions) = match self {
            FlowChange::Put(flow) | FlowChange::Lend(flow, _) => (
                Cookies { value: flow.cookie.0, mask: 0 },
                flow.key.table,
                ADD,
                flow.key.priority,
                &flow.key.matches,
                flow.actions.as_slice(),
            ),
            FlowChange::Remove(key) => {
                (Cookies { value: 0, mask: 0 }, key.table, DELETE_STRICT, key.priority, &key.matches, &[][..])
            }
            FlowChange::RemoveAll(which) => {
                (which.cookies, which.table.unwrap_or(ALL_TABLES), DELETE, 0, &which.matches, &[][..])
            }
        };
        let mut body = Vec::new();
        body.extend(cookies.value.to_be_bytes());
        body.extend(cookies.mask.to_be_bytes());
        body.extend([table, command]);
        // It never ends by being idle; of age, where it is lent.
        body.extend([0; 2]);
        body.extend(lasts.to_be_bytes());
        body.extend(priority.to_be_bytes());
        for of_no_account in [ANY; 3] {
            body.extend(of_no_account.to_be_bytes());
        }
        // No flags; of no importance.
        body.extend([0; 4]);
        body.extend(matches.encode());
        if !actions.is_empty() {
            let actions: Vec<u8> = actions.iter().flat_map(Action::encode).collect();
            body.extend(APPLY_ACTIONS.to_be_bytes());
            body.extend(u16::try_from(actions.len().saturating_add(8)).unwrap_or(u16::MAX).to_be_bytes());
            body.extend([0; 4]);
            body.extend(actions);
        }
        body
    }
}

/// The body of the question for such flows.
pub(super) fn question(which: &Which) -> Vec<u8> {
    let mut body = vec![which.table.unwrap_or(ALL_TABLES), 0, 0, 0];
    body.extend(ANY.to_be_bytes());
    body.extend(ANY.to_be_bytes());
    body.extend([0; 4]);
    body.extend(which.cookies.value.to_be_bytes());
    body.extend(which.cookies.mask.to_be_bytes());
    body.extend(which.matches.encode());
    body
}

/// The flows of a reply's body.
pub(super) fn read(mut bytes: &[u8]) -> Option<Vec<Told>> {
    let mut flows = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16::from_be_bytes(*bytes.first_chunk()?));
        if length < STATS_HEAD {
            return None;
        }
        let (entry, rest) = bytes.split_at_checked(length)?;
        flows.push(read_one(entry)?);
        bytes = rest;
    }
    Some(flows)
}

fn read_one(entry: &[u8]) -> Option<Told> {
    let table = *entry.get(2)?;
    let age = u32::from_be_bytes(*entry.get(4..)?.first_chunk()?);
    let priority = u16::from_be_bytes(*entry.get(12..)?.first_chunk()?);
    let lasts = u16::from_be_bytes(*entry.get(16..)?.first_chunk()?);
    let left = (lasts > 0).then(|| lasts.saturating_sub(u16::try_from(age).unwrap_or(u16::MAX)));
    let cookie = Cookie(u64::from_be_bytes(*entry.get(24..)?.first_chunk()?));
    let (matches, mut instructions) = Match::decode(entry.get(STATS_HEAD..)?)?;
    let mut actions = Vec::new();
    while !instructions.is_empty() {
        let (head, _) = instructions.split_first_chunk::<4>()?;
        let [a, b, c, d] = *head;
        let length = usize::from(u16::from_be_bytes([c, d]));
        if length < 8 {
            return None;
        }
        let (instruction, rest) = instructions.split_at_checked(length)?;
        match u16::from_be_bytes([a, b]) {
            APPLY_ACTIONS => actions.extend(Action::decode_all(instruction.get(8..)?)?),
            // Of none that we make.
            _ => actions.push(Action::Other(instruction.to_vec())),
        }
        instructions = rest;
    }
    Some(Told { flow: Flow { key: FlowKey { table, priority, matches }, cookie, actions }, left })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::ovs::openflow::{Field, NOBODY};
    use proptest::prelude::*;

    fn action() -> impl Strategy<Value = Action> {
        let copy = Action::Copy { from: Field::VLAN_VID, to: Field::register(0), bits: 12 };
        let flat = prop_oneof![
            any::<u32>().prop_map(|port| Action::Output(port & 0xffff)),
            any::<u16>().prop_map(Action::PushVlan),
            any::<u16>().prop_map(Action::CameBy),
            any::<u8>().prop_map(Action::Resubmit),
            any::<[u8; 6]>().prop_map(Action::Note),
            (0_u8..16, any::<u32>()).prop_map(|(number, value)| Action::SetRegister(number, value)),
            (any::<u16>(), any::<bool>(), proptest::option::of(0_u8..255))
                .prop_map(|(zone, commit, table)| Action::Track { zone, commit, table }),
            Just(Action::Normal),
            Just(Action::PopVlan),
            Just(Action::CameBy(NOBODY)),
            Just(copy),
        ];
        let copies = proptest::collection::vec(flat.clone(), 0..4).prop_map(Action::Clone);
        prop_oneof![4 => flat, 1 => copies]
    }

    proptest! {
        #[test]
        fn actions_are_read_as_they_were_made(actions in proptest::collection::vec(action(), 0..8)) {
            let bytes: Vec<u8> = actions.iter().flat_map(Action::encode).collect();
            prop_assert_eq!(bytes.len() % 8, 0);
            prop_assert_eq!(Action::decode_all(&bytes), Some(actions));
        }

        #[test]
        fn whatever_a_switch_says_is_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..300) {
            let _ = read(&bytes);
            let _ = Action::decode_all(&bytes);
            // A flow that is nearly right.
            let flow = Flow {
                key: FlowKey { table: 3, priority: 4, matches: Match::any().in_port(7).multicast() },
                cookie: Cookie(5),
                actions: vec![Action::Clone(vec![Action::Resubmit(70)]), Action::Normal],
            };
            let body = FlowChange::Put(flow.clone()).encode();
            let mut entry = vec![0; STATS_HEAD];
            entry.extend(body.get(40..).unwrap_or_default());
            let length = u16::try_from(entry.len()).unwrap().to_be_bytes();
            entry[..2].copy_from_slice(&length);
            entry[2] = 3;
            entry[12..14].copy_from_slice(&4_u16.to_be_bytes());
            entry[24..32].copy_from_slice(&5_u64.to_be_bytes());
            prop_assert_eq!(read(&entry), Some(vec![Told { flow: flow.clone(), left: None }]));
            for (age, lasts, left) in [(0, 300, 300), (299, 300, 1), (301, 300, 0), (70_000, u16::MAX, 0)] {
                entry[4..8].copy_from_slice(&u32::to_be_bytes(age));
                entry[16..18].copy_from_slice(&u16::to_be_bytes(lasts));
                prop_assert_eq!(read(&entry), Some(vec![Told { flow: flow.clone(), left: Some(left) }]));
            }
            if let (Some(byte), Some(other)) = (entry.get_mut(at), bytes.first()) {
                *byte = *other;
            }
            let _ = read(&entry);
        }
    }
}
