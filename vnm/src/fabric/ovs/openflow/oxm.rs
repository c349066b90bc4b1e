//! What a flow matches, as OpenFlow's extensible match writes it (OpenFlow 1.4 section 7.2.3, and Nicira's fields in Open vSwitch).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use causeway_core::names::Mac;
use serde::{Deserialize, Serialize};

/// The class of OpenFlow's own fields.
const BASIC: u16 = 0x8000;
/// The classes of Open vSwitch's.
const NICIRA: u16 = 1;
const NICIRA_OLD: u16 = 0;

/// A field of a frame, or of what the switch knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Field {
    class: u16,
    number: u8,
    /// Bytes.
    length: u8,
}

impl Field {
    const fn basic(number: u8, length: u8) -> Self {
        Field { class: BASIC, number, length }
    }

    const fn nicira(number: u8, length: u8) -> Self {
        Field { class: NICIRA, number, length }
    }

    /// The port that it came in by.
    pub const IN_PORT: Field = Field::basic(0, 4);
    /// The same in the old form, which can be written as well.
    pub(super) const CAME_BY: Field = Field { class: NICIRA_OLD, number: 0, length: 2 };
    /// Where it goes to.
    pub const ETH_DST: Field = Field::basic(3, 6);
    /// Where it comes from.
    pub const ETH_SRC: Field = Field::basic(4, 6);
    /// What it carries.
    pub const ETH_TYPE: Field = Field::basic(5, 2);
    /// Its VLAN, with a bit that says that it has one.
    pub const VLAN_VID: Field = Field::basic(6, 2);
    /// The protocol in IP.
    pub const IP_PROTO: Field = Field::basic(10, 1);
    /// The sender in IPv4.
    pub const IPV4_SRC: Field = Field::basic(11, 4);
    /// The receiver in IPv4.
    pub const IPV4_DST: Field = Field::basic(12, 4);
    /// The sender's TCP port.
    pub const TCP_SRC: Field = Field::basic(13, 2);
    /// The receiver's TCP port.
    pub const TCP_DST: Field = Field::basic(14, 2);
    /// The sender's UDP port.
    pub const UDP_SRC: Field = Field::basic(15, 2);
    /// The receiver's UDP port.
    pub const UDP_DST: Field = Field::basic(16, 2);
    /// The type of an ICMP message.
    pub const ICMPV4_TYPE: Field = Field::basic(19, 1);
    /// The sender's address in ARP.
    pub const ARP_SPA: Field = Field::basic(22, 4);
    /// The sender's hardware address in ARP.
    pub const ARP_SHA: Field = Field::basic(24, 6);
    /// The sender in IPv6.
    pub const IPV6_SRC: Field = Field::basic(26, 16);
    /// The receiver in IPv6.
    pub const IPV6_DST: Field = Field::basic(27, 16);
    /// The type of an ICMPv6 message.
    pub const ICMPV6_TYPE: Field = Field::basic(29, 1);
    /// The address that a neighbour's message is about.
    pub const IPV6_ND_TARGET: Field = Field::basic(31, 16);
    /// The hardware address that a neighbour's solicitation gives as its sender's.
    pub const IPV6_ND_SLL: Field = Field::basic(32, 6);
    /// The hardware address that a neighbour's advertisement gives as its target's.
    pub const IPV6_ND_TLL: Field = Field::basic(33, 6);
    /// The flags of TCP.
    pub const TCP_FLAGS: Field = Field::nicira(34, 2);
    /// What connection tracking says of it: see [`ct`].
    pub const CT_STATE: Field = Field::nicira(105, 4);

    /// A register of the switch; there are 16 of 32 bits.
    pub const fn register(number: u8) -> Field {
        Field::nicira(number, 4)
    }

    fn header(self, masked: bool) -> u32 {
        let length = if masked { self.length.saturating_mul(2) } else { self.length };
        u32::from(self.class) << 16 | u32::from(self.number) << 9 | u32::from(masked) << 8 | u32::from(length)
    }

    /// As it stands before its value in a match or an action.
    pub(super) fn bytes(self) -> [u8; 4] {
        self.header(false).to_be_bytes()
    }

    /// How many bits it has.
    pub(super) fn bits(self) -> u16 {
        u16::from(self.length).saturating_mul(8)
    }

    /// The field that stands so in an action.
    pub(super) fn read(header: u32) -> Field {
        Field::of_header(header).0
    }

    fn of_header(header: u32) -> (Field, bool) {
        let [high, low, number, length] = header.to_be_bytes();
        let masked = number & 1 == 1;
        let length = if masked { length / 2 } else { length };
        (Field { class: u16::from_be_bytes([high, low]), number: number >> 1, length }, masked)
    }
}

/// Bits of [`Field::CT_STATE`].
pub mod ct {
    /// A connection that is not known.
    pub const NEW: u32 = 0x01;
    /// A connection that is known.
    pub const ESTABLISHED: u32 = 0x02;
    /// One that belongs to a known connection, such as an error about it.
    pub const RELATED: u32 = 0x04;
    /// Something that no connection can have.
    pub const INVALID: u32 = 0x10;
    /// It has been looked up.
    pub const TRACKED: u32 = 0x20;
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Bits {
    value: Vec<u8>,
    mask: Option<Vec<u8>>,
}

/// What a flow matches: all of its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<(Field, Bits)>", into = "Vec<(Field, Bits)>")]
pub struct Match(BTreeMap<Field, Bits>);

impl From<Vec<(Field, Bits)>> for Match {
    fn from(fields: Vec<(Field, Bits)>) -> Self {
        Match(fields.into_iter().collect())
    }
}

impl From<Match> for Vec<(Field, Bits)> {
    fn from(matches: Match) -> Self {
        matches.0.into_iter().collect()
    }
}

/// Numbers of Ethernet for what a frame carries.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// Reverse ARP, in which QEMU announces a guest.
    pub const RARP: u16 = 0x8035;
    /// A tag.
    pub const VLAN: u16 = 0x8100;
    /// A tag outside of others (802.1ad).
    pub const OUTER_VLAN: u16 = 0x88a8;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

impl Match {
    /// Matches everything.
    pub fn any() -> Self {
        Match::default()
    }

    fn exactly(mut self, field: Field, value: &[u8]) -> Self {
        self.0.insert(field, Bits { value: value.to_vec(), mask: None });
        self
    }

    fn masked(mut self, field: Field, value: &[u8], mask: &[u8]) -> Self {
        // As the switch tells it: no bit outside the mask, and no mask that says nothing.
        if mask.iter().all(|byte| *byte == 0) {
            self.0.remove(&field);
            return self;
        }
        if mask.iter().all(|byte| *byte == 0xff) {
            return self.exactly(field, value);
        }
        let value = value.iter().zip(mask).map(|(value, mask)| value & mask).collect();
        self.0.insert(field, Bits { value, mask: Some(mask.to_vec()) });
        self
    }

    /// What came in by that port.
    #[must_use]
    pub fn in_port(self, port: u32) -> Self {
        self.exactly(Field::IN_PORT, &port.to_be_bytes())
    }

    /// An address of Ethernet.
    #[must_use]
    pub fn mac(self, field: Field, mac: Mac) -> Self {
        self.exactly(field, &mac.0)
    }

    /// Whatever goes to more than one.
    #[must_use]
    pub fn multicast(self) -> Self {
        self.masked(Field::ETH_DST, &[1, 0, 0, 0, 0, 0], &[1, 0, 0, 0, 0, 0])
    }

    /// What no bridge hands on (IEEE 802.1Q table 8-1).
    #[must_use]
    pub fn of_the_link(self) -> Self {
        self.masked(Field::ETH_DST, &[1, 0x80, 0xc2, 0, 0, 0], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xf0])
    }

    /// A number of 8 bits.
    #[must_use]
    pub fn byte(self, field: Field, value: u8) -> Self {
        self.exactly(field, &[value])
    }

    /// A number of 16 bits.
    #[must_use]
    pub fn short(self, field: Field, value: u16) -> Self {
        self.exactly(field, &value.to_be_bytes())
    }

    /// Some bits of a number of 16 bits.
    #[must_use]
    pub fn short_masked(self, field: Field, value: u16, mask: u16) -> Self {
        self.masked(field, &value.to_be_bytes(), &mask.to_be_bytes())
    }

    /// A number of 32 bits.
    #[must_use]
    pub fn long(self, field: Field, value: u32) -> Self {
        self.exactly(field, &value.to_be_bytes())
    }

    /// Some bits of a number of 32 bits.
    #[must_use]
    pub fn long_masked(self, field: Field, value: u32, mask: u32) -> Self {
        self.masked(field, &value.to_be_bytes(), &mask.to_be_bytes())
    }

    /// A network of IPv4; 32 bits are one address.
    #[must_use]
    pub fn ipv4(self, field: Field, address: Ipv4Addr, bits: u32) -> Self {
        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
        self.masked(field, &address.octets(), &mask.to_be_bytes())
    }

    /// A network of IPv6; 128 bits are one address.
    #[must_use]
    pub fn ipv6(self, field: Field, address: Ipv6Addr, bits: u32) -> Self {
        let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
        self.masked(field, &address.octets(), &mask.to_be_bytes())
    }

    /// Whether it matches exactly this in a field.
    pub fn is(&self, field: Field, value: &[u8]) -> bool {
        self.0.get(&field).is_some_and(|bits| bits.value == value && bits.mask.is_none())
    }

    /// The one number of 32 bits that a field must be, if it must be one.
    pub fn number(&self, field: Field) -> Option<u32> {
        self.value(field).map(u32::from_be_bytes)
    }

    /// The one value that a field must be, if it must be one and has as many bytes.
    pub fn value<const N: usize>(&self, field: Field) -> Option<[u8; N]> {
        let bits = self.0.get(&field).filter(|bits| bits.mask.is_none())?;
        bits.value.as_slice().try_into().ok()
    }

    /// As it stands in a message, filled up to a multiple of 8 bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        for (field, bits) in self.in_order() {
            fields.extend(field.header(bits.mask.is_some()).to_be_bytes());
            fields.extend(&bits.value);
            fields.extend(bits.mask.iter().flatten());
        }
        let length = u16::try_from(fields.len().saturating_add(4)).unwrap_or(u16::MAX);
        let mut out = [1_u16.to_be_bytes(), length.to_be_bytes()].concat();
        out.extend(fields);
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    /// What a field depends on comes before it: OpenFlow's fields count up from the outer to the inner, and the switch's own
    /// depend on those.
    fn in_order(&self) -> impl Iterator<Item = (&Field, &Bits)> {
        let basic = self.0.iter().filter(|(field, _)| field.class == BASIC);
        basic.chain(self.0.iter().filter(|(field, _)| field.class != BASIC))
    }

    /// Reads a match, and what follows it.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Match, &[u8])> {
        let (head, _) = bytes.split_first_chunk::<4>()?;
        let [a, b, c, d] = *head;
        let length = usize::from(u16::from_be_bytes([c, d]));
        if u16::from_be_bytes([a, b]) != 1 || length < 4 {
            return None;
        }
        let rest = bytes.get(length.next_multiple_of(8)..)?;
        let mut fields = bytes.get(4..length)?;
        let mut found = Match::any();
        while !fields.is_empty() {
            let (header, after) = fields.split_first_chunk::<4>()?;
            let (field, masked) = Field::of_header(u32::from_be_bytes(*header));
            let length = usize::from(field.length);
            let (value, after) = after.split_at_checked(length)?;
            let (mask, after) = if masked { after.split_at_checked(length)? } else { (&[][..], after) };
            let mask = masked.then(|| mask.to_vec());
            found.0.insert(field, Bits { value: value.to_vec(), mask });
            fields = after;
        }
        Some((found, rest))
    }
}

#[cfg(test)]
impl Match {
    pub(in crate::fabric::ovs) fn is_read_as_written(&self) -> bool {
        Match::decode(&self.encode()).is_some_and(|(read, rest)| read == *self && rest.is_empty())
    }
}
