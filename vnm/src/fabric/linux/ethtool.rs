//! Whether a device hands frames to its card (`hw-tc-offload`), by the kernel's netlink for ethtool (linux/ethtool_netlink.h).

use std::collections::BTreeSet;

use causeway_core::names::LinkName;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::netlink::NetlinkError;

/// What Open vSwitch and `tc` need of a device before its card can move frames by itself.
pub const OFFLOAD: &str = "hw-tc-offload";

/// Longer than the list of every feature of a device with its names.
const BUFFER: usize = 1 << 16;

/// The family that tells the others' numbers.
const CONTROL: u16 = 0x10;
const REQUEST_ACK: u16 = 0x05;
const NESTED: u16 = 0x8000;
const KINDS: u16 = 0x3fff;

/// Whether a device hands frames to its card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// It does.
    On,
    /// It could.
    Off,
    /// It can't.
    Never,
}

/// The features of a device, by ethtool's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// Those that are on.
    pub active: BTreeSet<String>,
    /// Those that can be turned.
    pub changeable: BTreeSet<String>,
}

impl Features {
    /// What they say of [`OFFLOAD`].
    pub fn offload(&self) -> Offload {
        match (self.active.contains(OFFLOAD), self.changeable.contains(OFFLOAD)) {
            (true, _) => Offload::On,
            (false, true) => Offload::Off,
            (false, false) => Offload::Never,
        }
    }
}

/// A connection to the kernel's ethtool.
pub struct Ethtool {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Ethtool {
    /// Connects.
    ///
    /// # Errors
    /// The socket fails, or the kernel has no netlink for ethtool.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |what| move |source| NetlinkError::Socket { what, source };
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        socket.set_non_blocking(true).map_err(failed("configure"))?;
        let mut ethtool = Ethtool { socket, family: CONTROL, sequence: 0 };
        let answer = ethtool.exchange("look up ethtool", family_request)?;
        let number = attributes(&answer).find(|(kind, _)| *kind == 1).and_then(|(_, value)| two(value));
        ethtool.family = number.ok_or_else(|| NetlinkError::Answer {
            what: "look up ethtool".to_owned(),
            why: "it has no number".to_owned(),
        })?;
        Ok(ethtool)
    }

    /// The features of a device; none if it is not there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn features(&mut self, device: &LinkName) -> Result<Option<Features>, NetlinkError> {
        let what = format!("look up the features of {device}");
        match self.exchange(&what, |family, sequence| features_request(family, sequence, device)) {
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(None),
            other => Ok(Some(read(&other?))),
        }
    }

    /// Has a device hand frames to its card.
    ///
    /// # Errors
    /// The kernel refused, or the device goes on as before.
    pub fn offload(&mut self, what: &str, device: &LinkName) -> Result<(), NetlinkError> {
        self.exchange(what, |family, sequence| offload_request(family, sequence, device))?;
        match self.features(device)?.map(|features| features.offload()) {
            Some(Offload::On) => Ok(()),
            _ => Err(NetlinkError::Refused {
                what: what.to_owned(),
                errno: Errno::OPNOTSUPP,
                note: Some("the device does not do so".to_owned()),
            }),
        }
    }

    /// Sends a request; the attributes of the answer, if there is one besides the acknowledgement.
    fn exchange(
        &mut self,
        what: &str,
        request: impl FnOnce(u16, u32) -> Vec<u8>,
    ) -> Result<Vec<u8>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let failed = |step| move |source| NetlinkError::Socket { what: step, source };
        self.socket.send(&request(self.family, self.sequence), 0).map_err(failed("send"))?;
        let mut answer = Vec::new();
        loop {
            let mut buffer = Vec::with_capacity(BUFFER);
            self.socket.recv(&mut buffer, 0).map_err(failed("receive"))?;
            let unreadable =
                || NetlinkError::Answer { what: what.to_owned(), why: "a message is cut".to_owned() };
            for message in messages(&buffer) {
                let Message { kind, sequence, body } = message.ok_or_else(unreadable)?;
                match (kind, sequence == self.sequence) {
                    (_, false) => {}
                    // NLMSG_ERROR, which says 0 where there is none.
                    (2, true) => {
                        let code = body.first_chunk().map(|code| i32::from_ne_bytes(*code));
                        return match code.ok_or_else(unreadable)? {
                            0 => Ok(answer),
                            code => Err(NetlinkError::Refused {
                                what: what.to_owned(),
                                errno: Errno::from_raw_os_error(code.saturating_abs()),
                                note: None,
                            }),
                        };
                    }
                    // A header of four bytes says which command it answers.
                    (_, true) => answer = body.get(4..).unwrap_or_default().to_vec(),
                }
            }
        }
    }
}

/// Asks for the number of the family "ethtool".
pub fn family_request(_: u16, sequence: u32) -> Vec<u8> {
    message(CONTROL, sequence, 3, &attribute(2, b"ethtool\0"))
}

/// Asks for a device's features, with their names.
pub fn features_request(family: u16, sequence: u32, device: &LinkName) -> Vec<u8> {
    message(family, sequence, 11, &header(device, 0))
}

/// Asks a device to hand frames to its card.
pub fn offload_request(family: u16, sequence: u32, device: &LinkName) -> Vec<u8> {
    let name = attribute(2, format!("{OFFLOAD}\0").as_bytes());
    let bit = attribute(1 | NESTED, &[name, attribute(3, &[])].concat());
    let wanted = attribute(3 | NESTED, &attribute(3 | NESTED, &bit));
    // The answer is short, and not read.
    message(family, sequence, 12, &[header(device, 1), wanted].concat())
}

fn header(device: &LinkName, flags: u32) -> Vec<u8> {
    let name = attribute(2, format!("{device}\0").as_bytes());
    attribute(1 | NESTED, &[name, attribute(3, &flags.to_ne_bytes())].concat())
}

fn message(family: u16, sequence: u32, command: u8, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(attributes.len().saturating_add(20)).unwrap_or(u32::MAX);
    let mut out = length.to_ne_bytes().to_vec();
    out.extend(family.to_ne_bytes());
    out.extend(REQUEST_ACK.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend([command, 1, 0, 0]);
    out.extend(attributes);
    out
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
    let mut out = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// A message of an answer.
struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The messages of a datagram; none for one that is cut, which is the last.
fn messages(bytes: &[u8]) -> impl Iterator<Item = Option<Message<'_>>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let one = whole_message(rest);
        let length = one.as_ref().map_or(usize::MAX, |one| one.body.len().saturating_add(16));
        rest = rest.get(length.saturating_add(3) & !3..).unwrap_or_default();
        Some(one)
    })
}

fn whole_message(bytes: &[u8]) -> Option<Message<'_>> {
    let (head, _) = bytes.split_first_chunk::<12>()?;
    let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3] = *head;
    let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
    let body = bytes.get(16..length)?;
    Some(Message { kind: u16::from_ne_bytes([k0, k1]), sequence: u32::from_ne_bytes([s0, s1, s2, s3]), body })
}

/// Attributes by kind; the first that is cut ends them.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let ([l0, l1, k0, k1], _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([*k0, *k1]) & KINDS, value))
    })
}

fn two(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// Reads the attributes of an answer about features.
pub fn read(answer: &[u8]) -> Features {
    let set = |wanted: u16| {
        let sets = attributes(answer).filter(move |(kind, _)| *kind == wanted);
        sets.flat_map(|(_, set)| names(set)).collect::<BTreeSet<String>>()
    };
    let (hardware, active, fixed) = (set(2), set(4), set(5));
    Features { active, changeable: hardware.difference(&fixed).cloned().collect() }
}

/// The names of the bits that are set. A set that has a mask lists all bits of the mask, and marks those that are.
fn names(set: &[u8]) -> Vec<String> {
    let all = attributes(set).any(|(kind, _)| kind == 1);
    let bits = attributes(set).filter(|(kind, _)| *kind == 3).flat_map(|(_, bits)| attributes(bits));
    let is_set = |bit: &[u8]| all || attributes(bit).any(|(kind, _)| kind == 3);
    let name = |bit: &[u8]| {
        let (_, name) = attributes(bit).find(|(kind, _)| *kind == 2)?;
        let text = std::str::from_utf8(name).ok()?;
        Some(text.trim_end_matches('\0').to_owned())
    };
    let bits = bits.filter(|(kind, bit)| *kind == 1 && is_set(bit));
    bits.filter_map(|(_, bit)| name(bit)).collect()
}
