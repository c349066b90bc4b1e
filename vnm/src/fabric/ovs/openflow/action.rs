//! What a flow does with what it matches (OpenFlow 1.4 section 7.2.5, and Nicira's actions in Open vSwitch).

use serde::{Deserialize, Serialize};

use super::oxm::Field;

/// Nicira's number.
pub(super) const NICIRA: u32 = 0x2320;
/// The port that stands for what a switch without flows does.
const NORMAL: u32 = 0xffff_fffa;
/// The port that stands for the first table.
const TABLE: u32 = 0xffff_fff9;
/// The port that a frame came in by.
const IN_PORT: u16 = 0xfff8;
/// Of no table.
const NONE: u8 = 0xff;

const OUTPUT: u16 = 0;
const PUSH_VLAN: u16 = 17;
const POP_VLAN: u16 = 18;
const SET_FIELD: u16 = 25;
const VENDOR: u16 = 0xffff;
const NX_REG_MOVE: u16 = 6;
const NX_REG_LOAD: u16 = 7;
const NX_NOTE: u16 = 8;
const NX_RESUBMIT: u16 = 14;
const NX_CT: u16 = 35;
const NX_CLONE: u16 = 42;

/// The port that stands for none: what came in by it is in every VLAN that its tag says.
pub const NOBODY: u16 = 0xffff;

/// Something done with a frame.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It leaves by a port.
    Output(u32),
    /// It goes where a switch that learns would send it.
    Normal,
    /// It gets an outer tag of this Ethertype, for VLAN 0.
    PushVlan(u16),
    /// Its outer tag goes.
    PopVlan,
    /// From now on it came in by this port, whatever it did; see [`NOBODY`].
    CameBy(u16),
    /// The lowest bits of one field are those of another.
    Copy {
        /// From here.
        from: Field,
        /// To here.
        to: Field,
        /// So many.
        bits: u16,
    },
    /// It is looked up in another table too.
    Resubmit(u8),
    /// Nothing is done: six bytes by which somebody finds the flow again.
    Note([u8; 6]),
    /// A register is set.
    SetRegister(u8, u32),
    /// Its connection is looked up, in a zone of its own.
    Track {
        /// The zone.
        zone: u16,
        /// From now on the connection is known.
        commit: bool,
        /// It goes on in this table, with what was found.
        table: Option<u8>,
    },
    /// It is done with a copy.
    Clone(Vec<Action>),
    /// Something that we never do, as it stands.
    Other(Vec<u8>),
}

impl Action {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Action::Output(port) => output(*port),
            Action::Normal => output(NORMAL),
            Action::PushVlan(ethertype) => action(PUSH_VLAN, &ethertype.to_be_bytes()),
            Action::PopVlan => action(POP_VLAN, &[0; 4]),
            Action::CameBy(port) => {
                let field = Field::CAME_BY.bytes();
                let bits = Field::CAME_BY.bits().saturating_sub(1);
                let value = u64::from(*port).to_be_bytes();
                nicira(NX_REG_LOAD, &[&bits.to_be_bytes()[..], &field, &value].concat())
            }
            Action::Copy { from, to, bits } => {
                let parts = [&bits.to_be_bytes()[..], &[0; 4], &from.bytes(), &to.bytes()];
                nicira(NX_REG_MOVE, &parts.concat())
            }
            Action::Resubmit(table) => {
                nicira(NX_RESUBMIT, &[&IN_PORT.to_be_bytes()[..], &[*table, 0, 0, 0]].concat())
            }
            Action::Note(note) => nicira(NX_NOTE, note),
            Action::SetRegister(number, value) => {
                let field = Field::register(*number).bytes();
                action(SET_FIELD, &[field, value.to_be_bytes(), [0; 4]].concat())
            }
            Action::Track { zone, commit, table } => {
                let mut body = u16::from(*commit).to_be_bytes().to_vec();
                // Without a field that it is read from, the zone is the number itself.
                body.extend(0_u32.to_be_bytes());
                body.extend(zone.to_be_bytes());
                body.extend([table.unwrap_or(NONE), 0, 0, 0]);
                body.extend(0_u16.to_be_bytes());
                nicira(NX_CT, &body)
            }
            Action::Clone(actions) => {
                // Six bytes that say nothing, so that the copy's actions begin at a multiple of eight.
                let inner: Vec<u8> = actions.iter().flat_map(Action::encode).collect();
                nicira(NX_CLONE, &[&[0; 6][..], &inner].concat())
            }
            Action::Other(bytes) => bytes.clone(),
        }
    }

    /// Reads actions to the end of `bytes`.
    pub(super) fn decode_all(mut bytes: &[u8]) -> Option<Vec<Action>> {
        let mut actions = Vec::new();
        while !bytes.is_empty() {
            let (head, _) = bytes.split_first_chunk::<4>()?;
            let [_, _, c, d] = *head;
            let length = usize::from(u16::from_be_bytes([c, d]));
            if length < 8 {
                return None;
            }
            let (action, rest) = bytes.split_at_checked(length)?;
            actions.push(Action::decode(action));
            bytes = rest;
        }
        Some(actions)
    }

    fn decode(bytes: &[u8]) -> Action {
        let known = Action::known(bytes);
        // What does not come out as it went in says more than we read.
        known.filter(|action| action.encode() == bytes).unwrap_or_else(|| Action::Other(bytes.to_vec()))
    }

    fn known(bytes: &[u8]) -> Option<Action> {
        let short = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        match short(0)? {
            OUTPUT if long(4)? == NORMAL => Some(Action::Normal),
            OUTPUT => Some(Action::Output(long(4)?)),
            PUSH_VLAN => Some(Action::PushVlan(short(4)?)),
            POP_VLAN => Some(Action::PopVlan),
            SET_FIELD => Some(Action::SetRegister(bytes.get(6)? >> 1, long(8)?)),
            VENDOR if long(4)? == NICIRA => match short(8)? {
                NX_REG_LOAD => Some(Action::CameBy(short(22)?)),
                NX_REG_MOVE => {
                    let (from, to) = (Field::read(long(16)?), Field::read(long(20)?));
                    Some(Action::Copy { from, to, bits: short(10)? })
                }
                NX_NOTE => Some(Action::Note(*bytes.get(10..)?.first_chunk()?)),
                NX_RESUBMIT => Some(Action::Resubmit(*bytes.get(12)?)),
                NX_CT => {
                    let table = *bytes.get(18)?;
                    let table = (table != NONE).then_some(table);
                    Some(Action::Track { zone: short(16)?, commit: short(10)? == 1, table })
                }
                // No copy of a copy: nothing deep is ever walked.
                NX_CLONE => {
                    let inner = Action::decode_all(bytes.get(16..)?)?;
                    let flat = !inner.iter().any(|action| matches!(action, Action::Clone(_)));
                    flat.then_some(Action::Clone(inner))
                }
                _ => None,
            },
            _ => None,
        }
    }
}

fn action(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = body.len().saturating_add(4).next_multiple_of(8);
    let mut out = kind.to_be_bytes().to_vec();
    out.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(body);
    out.resize(length, 0);
    out
}

fn output(port: u32) -> Vec<u8> {
    // The length is of what a controller would be sent.
    action(OUTPUT, &[&port.to_be_bytes()[..], &[0; 8]].concat())
}

/// The action of a frame that is sent by us: it goes through the flows.
pub(super) fn output_to_flows() -> Vec<u8> {
    output(TABLE)
}

fn nicira(kind: u16, body: &[u8]) -> Vec<u8> {
    action(VENDOR, &[&NICIRA.to_be_bytes()[..], &kind.to_be_bytes(), body].concat())
}

#[cfg(test)]
impl Action {
    pub(in crate::fabric::ovs) fn is_read_as_written(&self) -> bool {
        Action::decode_all(&self.encode()).is_some_and(|read| read == std::slice::from_ref(self))
    }
}
