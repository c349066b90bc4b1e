//! The kernel's tables, read by netlink (`linux/netfilter/nf_tables.h`): names, comments and where things lead to, without a child.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;

use super::TABLE;
use super::change::{Element, Family, Key, Map};
use crate::fabric::linux::NetlinkError;
use crate::fabric::linux::netlink::errno;

/// Larger than any datagram that the kernel builds for a dump (32 KiB).
const BUFFER: usize = 1 << 17;
/// How often a list is read until it holds still.
const DUMPS: u32 = 64;

const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_SET: u16 = SUBSYSTEM | 10;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
const GET_OBJECT: u16 = SUBSYSTEM | 19;
const GET_FLOWTABLE: u16 = SUBSYSTEM | 23;

const DONE: u16 = 3;
const ERROR: u16 = 2;

/// A message's header, and that of netfilter behind it.
const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;

/// A rule of anybody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its number.
    pub handle: u64,
    /// Its comment.
    pub comment: String,
    /// The chains that it leads to.
    pub leads_to: Vec<String>,
}

/// An element of a map that leads to no chain, as the kernel keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datum {
    /// What it is found by.
    pub key: Vec<u8>,
    /// What is found.
    pub value: Vec<u8>,
}

/// A netfilter socket of the network namespace it was opened in.
pub struct Kernel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Kernel {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |what| move |source| NetlinkError::Socket { what, source };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        socket.set_non_blocking(true).map_err(failed("configure"))?;
        socket.set_cap_ack(true).map_err(failed("configure"))?;
        Ok(Kernel { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Whether there is such a table.
    pub fn has_table(&mut self, family: Family, table: &str) -> Result<bool, NetlinkError> {
        let request = attribute(1, &text(table));
        let found = self.ask(GET_TABLE, family, &request, false, &format!("table {table}"))?;
        Ok(!found.is_empty())
    }

    /// Whether there is such a chain.
    pub fn has_chain(&mut self, family: Family, table: &str, chain: &str) -> Result<bool, NetlinkError> {
        let request = [attribute(1, &text(table)), attribute(3, &text(chain))].concat();
        Ok(!self.ask(GET_CHAIN, family, &request, false, &named(family, table, chain))?.is_empty())
    }

    /// The rules of a chain; none where there is no such chain.
    pub fn rules(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
    ) -> Result<Option<Vec<Rule>>, NetlinkError> {
        if !self.has_chain(family, table, chain)? {
            return Ok(None);
        }
        let what = named(family, table, chain);
        let request = [attribute(1, &text(table)), attribute(2, &text(chain))].concat();
        let found = self.ask(GET_RULE, family, &request, true, &what)?;
        found.iter().map(|body| rule(body)).collect::<Option<_>>().map(Some).ok_or_else(|| unreadable(&what))
    }

    /// The elements of a map of ours; none where there is no such map.
    pub fn elements(&mut self, map: Map) -> Result<Vec<Element>, NetlinkError> {
        let request = [attribute(1, &text(TABLE)), attribute(2, &text(map.as_str()))].concat();
        self.elements_of(map, &request, true)
    }

    /// The element of a map of ours that has that key; none where there is none.
    pub fn element(&mut self, map: Map, key: &Key) -> Result<Option<Element>, NetlinkError> {
        let value = match key {
            Key::Mark(mark) => mark.to_ne_bytes().to_vec(),
            Key::Device(name) => padded(name),
        };
        let asked = attribute(1, &attribute(1, &attribute(1, &value)));
        let named = [attribute(1, &text(TABLE)), attribute(2, &text(map.as_str()))];
        let request = [named.concat(), attribute(3, &asked)].concat();
        Ok(self.elements_of(map, &request, false)?.pop())
    }

    fn elements_of(&mut self, map: Map, request: &[u8], all: bool) -> Result<Vec<Element>, NetlinkError> {
        let what = format!("map {} of table {} {TABLE}", map.as_str(), map.family().as_str());
        let mut out = Vec::new();
        for body in self.ask(GET_ELEMENTS, map.family(), request, all, &what)? {
            out.extend(elements(map, &body).ok_or_else(|| unreadable(&what))?);
        }
        Ok(out)
    }

    /// The names of a table's chains.
    pub fn chains(&mut self, family: Family, table: &str) -> Result<Vec<String>, NetlinkError> {
        let what = format!("the chains of table {} {table}", family.as_str());
        let found = self.ask(GET_CHAIN, family, &[], true, &what)?;
        let here = found.iter().filter(|body| one(body, 1).is_some_and(|name_of| name(name_of) == table));
        Ok(here.filter_map(|body| one(body, 3).map(name)).collect())
    }

    /// Keys and data of a map that leads to no chains; nothing where there is no such map.
    pub fn data(&mut self, family: Family, table: &str, map: &str) -> Result<Vec<Datum>, NetlinkError> {
        let what = format!("map {map} of table {} {table}", family.as_str());
        let request = [attribute(1, &text(table)), attribute(2, &text(map))].concat();
        let mut out = Vec::new();
        for body in self.ask(GET_ELEMENTS, family, &request, true, &what)? {
            for element in find(&body, 3).flat_map(|list| find(list, 1)) {
                let value = |kind| one(one(element, kind)?, 1).map(<[u8]>::to_vec);
                let datum = value(1).zip(value(2)).map(|(key, value)| Datum { key, value });
                out.push(datum.ok_or_else(|| unreadable(&what))?);
            }
        }
        Ok(out)
    }

    /// The names of all that a table of ours holds: chains; and sets and maps that have a name, counters and their like, flow
    /// tables.
    pub fn names(&mut self, family: Family) -> Result<(Vec<String>, Vec<String>), NetlinkError> {
        let what = format!("all of table {} {TABLE}", family.as_str());
        let request = attribute(1, &text(TABLE));
        let mut named = |kind, at| -> Result<Vec<String>, NetlinkError> {
            let found = self.ask(kind, family, &request, true, &what)?;
            Ok(found.iter().filter_map(|body| named_in_ours(body, at)).collect())
        };
        let chains = named(GET_CHAIN, 3)?;
        let mut others = named(GET_SET, 2)?;
        others.extend(named(GET_OBJECT, 2)?);
        others.extend(named(GET_FLOWTABLE, 2)?);
        Ok((chains, others))
    }

    /// The attributes of each object in the answer; what is not there gives none.
    fn ask(
        &mut self,
        kind: u16,
        family: Family,
        attributes: &[u8],
        dump: bool,
        what: &str,
    ) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let flags = if dump { NLM_F_DUMP } else { NLM_F_ACK };
        self.say(&Message { kind, family: Some(family), flags, attributes }, what, &|_| true)
    }

    /// Sends a message; the attributes of those objects in the answer that `wanted` takes.
    pub(super) fn say(
        &mut self,
        message: &Message<'_>,
        what: &str,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Vec<Vec<u8>>, NetlinkError> {
        for _ in 0..DUMPS {
            if let Some(found) = self.once(message, what, wanted)? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Answer {
            what: what.to_owned(),
            why: "the list changed each time it was read".to_owned(),
        })
    }

    /// None where the list changed while it was read.
    fn once(
        &mut self,
        message: &Message<'_>,
        what: &str,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<Vec<u8>>>, NetlinkError> {
        let failed = |what| move |source| NetlinkError::Socket { what, source };
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&message.encode(self.sequence), 0).map_err(failed("send"))?;

        let mut answer = Answer { found: Vec::new(), whole: true, wanted };
        loop {
            self.buffer.clear();
            let length = self.socket.recv(&mut self.buffer, 0).map_err(failed("receive"))?;
            if length >= BUFFER {
                return Err(failed("receive")(io::Error::other("an answer larger than the buffer")));
            }
            if answer.take(&self.buffer, self.sequence, what)? {
                return Ok(answer.whole.then_some(answer.found));
            }
        }
    }
}

/// A message to the kernel.
pub(super) struct Message<'a> {
    pub kind: u16,
    /// None where it is about any.
    pub family: Option<Family>,
    pub flags: u16,
    pub attributes: &'a [u8],
}

impl Message<'_> {
    fn encode(&self, sequence: u32) -> Vec<u8> {
        let length = HEADER + NETFILTER_HEADER + self.attributes.len();
        let mut out = Vec::with_capacity(length);
        out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        out.extend(self.kind.to_ne_bytes());
        out.extend((NLM_F_REQUEST | self.flags).to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(0_u32.to_ne_bytes());
        out.extend([self.family.map_or(0, number), 0, 0, 0]);
        out.extend(self.attributes);
        out
    }
}

struct Answer<'a> {
    found: Vec<Vec<u8>>,
    whole: bool,
    wanted: &'a dyn Fn(&[u8]) -> bool,
}

impl Answer<'_> {
    /// Takes the messages of a datagram; true once the answer is complete.
    fn take(&mut self, datagram: &[u8], sequence: u32, what: &str) -> Result<bool, NetlinkError> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = heard(rest).ok_or_else(|| unreadable(what))?;
            rest = rest.get(message.length.next_multiple_of(4).min(rest.len())..).unwrap_or_default();
            if message.sequence != sequence {
                continue;
            }
            self.whole &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.kind {
                DONE | ERROR => {
                    let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    self.whole &= self.ends_well(code, what)?;
                    return Ok(true);
                }
                _ => {
                    let attributes = message.body.get(NETFILTER_HEADER..).unwrap_or_default();
                    if (self.wanted)(attributes) {
                        self.found.push(attributes.to_vec());
                    }
                }
            }
        }
        Ok(false)
    }
}

impl Answer<'_> {
    /// Whether the list is whole; what is not there is an empty one.
    fn ends_well(&self, code: i32, what: &str) -> Result<bool, NetlinkError> {
        if code == 0 {
            return Ok(true);
        }
        match errno(code).ok_or_else(|| unreadable(what))? {
            Errno::NOENT => Ok(true),
            // Somebody changed the tables just now.
            Errno::INTR | Errno::AGAIN => Ok(false),
            errno => Err(NetlinkError::Refused { what: format!("read {what}"), errno, note: None }),
        }
    }
}

struct Heard<'a> {
    length: usize,
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

fn heard(bytes: &[u8]) -> Option<Heard<'_>> {
    let (header, _) = bytes.split_first_chunk::<HEADER>()?;
    let [a, b, c, d, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
    let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
    Some(Heard {
        length,
        kind: u16::from_ne_bytes([k0, k1]),
        flags: u16::from_ne_bytes([f0, f1]),
        sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
        body: bytes.get(HEADER..length)?,
    })
}

/// A chain, for messages.
fn named(family: Family, table: &str, chain: &str) -> String {
    format!("chain {chain} of table {} {table}", family.as_str())
}

/// A device's name as a key: all 16 bytes count.
fn padded(name: &str) -> Vec<u8> {
    const LENGTH: usize = 16;
    let mut bytes: Vec<u8> = name.bytes().take(LENGTH - 1).collect();
    bytes.resize(LENGTH, 0);
    bytes
}

pub(super) fn unreadable(what: &str) -> NetlinkError {
    NetlinkError::Answer { what: what.to_owned(), why: "not of the form that is known".to_owned() }
}

fn number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ip => 2,
        Family::Bridge => 7,
        Family::Ip6 => 10,
    }
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut out = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// The values of the attributes of that kind, up to where they can't be read.
pub(super) fn find(attributes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    // Two bits beside the kind say how the value is written.
    const KIND: u16 = 0x3fff;
    let mut rest = attributes;
    let all = std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<4>()?;
        let [l0, l1, k0, k1] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & KIND, value))
    });
    all.filter(move |(found, _)| *found == kind).map(|(_, value)| value)
}

pub(super) fn one(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    find(attributes, kind).next()
}

fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// The comment in what `nft` has the kernel keep with an object: a list of kind, length and value, in which a comment is kind 0.
fn comment(kept: &[u8]) -> String {
    let mut rest = kept;
    while let Some(([kind, length], values)) = rest.split_first_chunk::<2>() {
        let Some((value, more)) = values.split_at_checked((*length).into()) else { break };
        if *kind == 0 {
            return name(value);
        }
        rest = more;
    }
    String::new()
}

/// The chain that a verdict leads to.
fn leads_to(data: &[u8]) -> Option<String> {
    one(one(data, 2)?, 2).map(name)
}

fn rule(body: &[u8]) -> Option<Rule> {
    let handle = u64::from_be_bytes(one(body, 3)?.try_into().ok()?);
    let expressions = find(body, 4).flat_map(|list| find(list, 1));
    let immediate = expressions.filter(|found| one(found, 1).is_some_and(|kind| name(kind) == "immediate"));
    let leads_to = immediate.filter_map(|found| leads_to(one(one(found, 2)?, 2)?)).collect();
    Some(Rule { handle, comment: one(body, 7).map(comment).unwrap_or_default(), leads_to })
}

/// The name of what an object of the answer is, if it is in a table of ours; a set without one is a part of a rule.
fn named_in_ours(body: &[u8], at: u16) -> Option<String> {
    /// Before the number in the name that the kernel gives to such a set.
    const NAMELESS: [&str; 2] = ["__set", "__map"];
    let found = one(body, at).map(name)?;
    let nameless = NAMELESS.iter().any(|prefix| found.starts_with(prefix));
    (!nameless && one(body, 1).map(name).as_deref() == Some(TABLE)).then_some(found)
}

/// The elements of a map that an object of the answer lists; none where one can't be read.
fn elements(map: Map, body: &[u8]) -> Option<Vec<Element>> {
    find(body, 3).flat_map(|list| find(list, 1)).map(|found| element(map, found)).collect()
}

fn element(map: Map, body: &[u8]) -> Option<Element> {
    let key = one(one(body, 1)?, 1)?;
    let key = match map.by_mark() {
        true => Key::Mark(u32::from_ne_bytes(key.try_into().ok()?)),
        false => Key::Device(name(key)),
    };
    let chain = one(body, 2).and_then(leads_to).unwrap_or_default();
    Some(Element { map, key, chain, comment: one(body, 6).map(comment).unwrap_or_default() })
}

#[cfg(test)]
#[path = "fuzz.rs"]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_answer_breaks_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut answer = Answer { found: Vec::new(), whole: true, wanted: &|_| true };
            let _ = answer.take(&bytes, 1, "a list");
            let code = bytes.first_chunk().map_or(1 << 20, |code| i32::from_ne_bytes(*code));
            let _ = answer.ends_well(code, "a list");
            let _ = rule(&bytes);
            let _ = element(Map::From, &bytes);
            let _ = element(Map::Outbound, &bytes);
            let _ = comment(&bytes);
        }

        #[test]
        fn an_element_is_read_as_the_kernel_writes_it(mark in any::<u32>(), chain in "[a-z0-9-]{1,30}", said in "[a-zA-Z0-9 ]{0,80}") {
            let verdict = [attribute(1, &[0; 4]), attribute(2, &text(&chain))].concat();
            let kept = [&[0, u8::try_from(said.len() + 1).unwrap()], text(&said).as_slice()].concat();
            let body = [
                attribute(1, &attribute(1, &mark.to_ne_bytes())),
                attribute(2, &attribute(2, &verdict)),
                attribute(6, &kept),
            ]
            .concat();
            let wanted = Element { map: Map::Outbound, key: Key::Mark(mark), chain, comment: said };
            prop_assert_eq!(element(Map::Outbound, &body), Some(wanted));
        }
    }
}
