//! A bridge's flows, by OpenFlow 1.4 over its management socket.
//!
//! Changes are made in a bundle: the switch takes all of them at one moment, or none. Between two bundles every frame meets either
//! the old flows or the new ones, never a mixture.

mod action;
mod flow;
mod oxm;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use action::{Action, NOBODY};
pub use flow::{Cookie, Cookies, Flow, FlowChange, FlowKey, Told, Which};
pub use oxm::{Field, Match, ct, ethertype};

/// OpenFlow 1.4, the first with bundles.
const VERSION: u8 = 5;
/// Bytes before the body of a message.
const HEAD: usize = 8;
/// The longest body of a change: a message's length has 16 bits, and it is a message within one.
const LONGEST: usize = 65_000;
/// The first part of what is told of an error is its message's own number and kind.
const BUNDLE: u32 = 1;

const HELLO: u8 = 0;
const ERROR: u8 = 1;
const VENDOR: u8 = 4;
const ECHO_REQUEST: u8 = 2;
const ECHO_REPLY: u8 = 3;
const PACKET_OUT: u8 = 13;
const FLOW_MOD: u8 = 14;
const MULTIPART_REQUEST: u8 = 18;
const MULTIPART_REPLY: u8 = 19;
const BARRIER_REQUEST: u8 = 20;
const BARRIER_REPLY: u8 = 21;
const BUNDLE_CONTROL: u8 = 33;
const BUNDLE_ADD: u8 = 34;

/// Why flows could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenflowError {
    /// Nobody serves the socket: there is no such bridge, or no switch.
    #[error("bridge {bridge} can't be reached at {}", path.display())]
    Connect {
        /// The bridge.
        bridge: String,
        /// Its socket.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to bridge {bridge}")]
    Socket {
        /// The bridge.
        bridge: String,
        /// The reason.
        source: io::Error,
    },
    /// No answer in time.
    #[error("bridge {bridge} has not answered in time")]
    Deadline {
        /// The bridge.
        bridge: String,
    },
    /// An answer that is none.
    #[error("an answer of bridge {bridge} can't be read: {why}")]
    Answer {
        /// The bridge.
        bridge: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More guests of one network than a message holds.
    #[error(
        "bridge {bridge}: a flow of table {table} would be longer than the {limit} bytes that a message holds: spread the guests of its \
             network over several hosts or networks"
    )]
    Long {
        /// The bridge.
        bridge: String,
        /// The flow's table.
        table: u8,
        /// The most that fits.
        limit: usize,
    },
    /// The switch refused; no flow was changed.
    #[error("bridge {bridge} refused {what}: error {kind} of OpenFlow, code {code}")]
    Refused {
        /// The bridge.
        bridge: String,
        /// What was asked.
        what: String,
        /// The error's type (OpenFlow 1.4 section 7.5.4).
        kind: u16,
        /// Its code.
        code: u16,
        /// The change that it would not make.
        change: Option<Box<FlowChange>>,
    },
}

impl OpenflowError {
    /// Whether the switch has refused to track connections: its datapath can't.
    pub fn is_of_tracking(&self) -> bool {
        const BAD_ACTION: u16 = 2;
        let tracks = |action: &Action| matches!(action, Action::Track { .. });
        matches!(self, OpenflowError::Refused { kind: BAD_ACTION, change: Some(change), .. }
            if matches!(&**change, FlowChange::Put(flow) if flow.actions.iter().any(tracks)))
    }
}

/// A connection to a bridge.
pub struct Openflow {
    bridge: String,
    stream: UnixStream,
    deadline: Instant,
    next: u32,
    /// Whether its greeting has come, which nobody waits for.
    greeted: bool,
}

struct Message {
    kind: u8,
    number: u32,
    body: Vec<u8>,
}

impl Openflow {
    /// Connects to the bridge whose socket lies in `directory`; until `deadline` every call may take. That it speaks another version,
    /// the first call finds.
    ///
    /// # Errors
    /// [`OpenflowError::Connect`].
    pub fn connect(directory: &Path, bridge: &str, deadline: Instant) -> Result<Self, OpenflowError> {
        let path = directory.join(format!("{bridge}.mgmt"));
        match UnixStream::connect(&path) {
            Ok(stream) => Openflow::over(bridge, stream, deadline),
            Err(source) => Err(OpenflowError::Connect { bridge: bridge.to_owned(), path, source }),
        }
    }

    /// Greets over a connection that is there.
    pub(super) fn over(bridge: &str, stream: UnixStream, deadline: Instant) -> Result<Self, OpenflowError> {
        let mut connected = Openflow { bridge: bridge.to_owned(), stream, deadline, next: 0, greeted: false };
        // This version, and no older one.
        let versions =
            [&1_u16.to_be_bytes()[..], &8_u16.to_be_bytes(), &(1_u32 << VERSION).to_be_bytes()].concat();
        let hello = connected.message(HELLO, &versions);
        connected.send(&hello)?;
        Ok(connected)
    }

    /// Such flows.
    ///
    /// # Errors
    /// [`OpenflowError`].
    pub fn flows(&mut self, which: impl Into<Which>) -> Result<Vec<Flow>, OpenflowError> {
        Ok(self.flows_of_each(&[which.into()])?.concat())
    }

    /// The flows of each of these questions, in turn. They are asked all at once: the switch looks for questions between all its
    /// other work, and so each that waits for the answer of the one before takes as long as many.
    ///
    /// # Errors
    /// [`OpenflowError`].
    pub fn flows_of_each(&mut self, questions: &[Which]) -> Result<Vec<Vec<Flow>>, OpenflowError> {
        let flows = |told: Vec<Told>| told.into_iter().map(|told| told.flow).collect();
        Ok(self.told_of_each(questions)?.into_iter().map(flows).collect())
    }

    /// Such flows, and how long they are there.
    ///
    /// # Errors
    /// [`OpenflowError`].
    pub fn told(&mut self, which: impl Into<Which>) -> Result<Vec<Told>, OpenflowError> {
        Ok(self.told_of_each(&[which.into()])?.concat())
    }

    fn told_of_each(&mut self, questions: &[Which]) -> Result<Vec<Vec<Told>>, OpenflowError> {
        const FLOWS: u16 = 1;
        let mut sent = Vec::new();
        let mut numbers = Vec::new();
        for which in questions {
            let mut body = FLOWS.to_be_bytes().to_vec();
            body.extend([0; 6]);
            body.extend(flow::question(which));
            sent.extend(self.message(MULTIPART_REQUEST, &body));
            numbers.push(self.next);
        }
        self.send(&sent)?;
        numbers.into_iter().map(|number| self.flows_in_answer(number)).collect()
    }

    fn flows_in_answer(&mut self, number: u32) -> Result<Vec<Told>, OpenflowError> {
        const MORE: u16 = 1;
        let mut found = Vec::new();
        loop {
            let reply = self.answer(number)?;
            let (Some(flags), Some(flows)) = (short(&reply.body, 2), reply.body.get(8..)) else {
                return Err(self.unreadable("a part of it is cut off"));
            };
            if reply.kind != MULTIPART_REPLY {
                return Err(self.unreadable("it is about something else"));
            }
            found.extend(flow::read(flows).ok_or_else(|| self.unreadable("it holds no flows"))?);
            if flags & MORE == 0 {
                return Ok(found);
            }
        }
    }

    /// Makes all changes at one moment, or none of them.
    ///
    /// # Errors
    /// [`OpenflowError::Refused`] names the change that the switch would not make.
    pub fn change(&mut self, changes: &[FlowChange]) -> Result<(), OpenflowError> {
        const OPEN: u16 = 0;
        const COMMIT: u16 = 4;
        const COMMITTED: u16 = 5;
        const DISCARD: u16 = 6;
        /// At one moment, in the order in which they are given.
        const FLAGS: u16 = 3;
        if changes.is_empty() {
            return Ok(());
        }
        let control =
            |kind: u16| [&BUNDLE.to_be_bytes()[..], &kind.to_be_bytes(), &FLAGS.to_be_bytes()].concat();
        let mut sent = self.message(BUNDLE_CONTROL, &control(OPEN));
        let first = self.next;
        for change in changes {
            let body = change.encode();
            if let FlowChange::Put(flow) | FlowChange::Lend(flow, _) = change
                && body.len() > LONGEST
            {
                let (bridge, table) = (self.bridge.clone(), flow.key.table);
                return Err(OpenflowError::Long { bridge, table, limit: LONGEST });
            }
            let inner = encode(FLOW_MOD, self.next.wrapping_add(1), &body);
            let body = [&BUNDLE.to_be_bytes()[..], &[0, 0], &FLAGS.to_be_bytes(), &inner].concat();
            sent.extend(self.message(BUNDLE_ADD, &body));
        }
        // The switch would commit what is left of a bundle that it has refused a part of: so that is not asked for before it has
        // read all parts.
        sent.extend(self.message(BARRIER_REQUEST, &[]));
        self.send(&sent)?;
        let which = |number: u32| {
            let index = usize::try_from(number.wrapping_sub(first)).ok().and_then(|n| n.checked_sub(1));
            index.and_then(|index| changes.get(index))
        };
        loop {
            let message = self.receive()?;
            match message.kind {
                ERROR => {
                    let error = self.refused(&message, which(message.number));
                    let discard = self.message(BUNDLE_CONTROL, &control(DISCARD));
                    self.send(&discard)?;
                    return Err(error);
                }
                BARRIER_REPLY => {
                    let commit = self.message(BUNDLE_CONTROL, &control(COMMIT));
                    self.send(&commit)?;
                }
                BUNDLE_CONTROL if short(&message.body, 4) == Some(COMMITTED) => return Ok(()),
                BUNDLE_CONTROL => {}
                _ => return Err(self.unreadable("it is about something else")),
            }
        }
    }

    /// Forgets all connections of zones, which are asked for at once as [flows](Openflow::flows_of_each) are; a datapath that can't
    /// has none.
    ///
    /// # Errors
    /// [`OpenflowError`].
    pub fn forget(&mut self, zones: &[u16]) -> Result<(), OpenflowError> {
        /// Of Nicira's messages.
        const FLUSH_ZONE: u32 = 29;
        if zones.is_empty() {
            return Ok(());
        }
        let mut sent = Vec::new();
        for zone in zones {
            let body =
                [&action::NICIRA.to_be_bytes()[..], &FLUSH_ZONE.to_be_bytes(), &[0; 6], &zone.to_be_bytes()];
            sent.extend(self.message(VENDOR, &body.concat()));
        }
        sent.extend(self.message(BARRIER_REQUEST, &[]));
        self.send(&sent)?;
        loop {
            match self.receive()?.kind {
                BARRIER_REPLY => return Ok(()),
                ERROR => {}
                _ => return Err(self.unreadable("it is about something else")),
            }
        }
    }

    /// Sends frames as if they came in by a port: flows and the switch itself treat them so.
    ///
    /// # Errors
    /// [`OpenflowError`]; a port that is not there is none.
    pub fn send_from(&mut self, port: u32, frames: &[Vec<u8>]) -> Result<(), OpenflowError> {
        /// Not kept by the switch, but in the message.
        const NO_BUFFER: u32 = 0xffff_ffff;
        let actions = action::output_to_flows();
        let length = u16::try_from(actions.len()).unwrap_or(u16::MAX);
        let head =
            [&NO_BUFFER.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0; 6]].concat();
        let mut sent = Vec::new();
        for frame in frames {
            sent.extend(self.message(PACKET_OUT, &[&head[..], &actions, frame].concat()));
        }
        sent.extend(self.message(BARRIER_REQUEST, &[]));
        self.send(&sent)?;
        let message = self.receive()?;
        match message.kind {
            BARRIER_REPLY => Ok(()),
            ERROR => Err(self.refused(&message, None)),
            _ => Err(self.unreadable("it is about something else")),
        }
    }

    /// The next message with that number.
    fn answer(&mut self, number: u32) -> Result<Message, OpenflowError> {
        loop {
            let message = self.receive()?;
            match message.kind {
                ERROR => return Err(self.refused(&message, None)),
                _ if message.number == number => return Ok(message),
                _ => {}
            }
        }
    }

    fn message(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        self.next = self.next.wrapping_add(1);
        encode(kind, self.next, body)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), OpenflowError> {
        let left = self.left()?;
        self.stream.set_write_timeout(Some(left)).map_err(|e| self.broken(e))?;
        self.stream.write_all(bytes).map_err(|e| self.broken(e))
    }

    /// The next message that is not about the connection alone.
    fn receive(&mut self) -> Result<Message, OpenflowError> {
        if !self.greeted {
            self.greeted = true;
            if self.read()?.kind != HELLO {
                return Err(self.unreadable("it does not begin with a greeting"));
            }
        }
        loop {
            let message = self.read()?;
            if message.kind != ECHO_REQUEST {
                return Ok(message);
            }
            self.send(&encode(ECHO_REPLY, message.number, &message.body))?;
        }
    }

    fn read(&mut self) -> Result<Message, OpenflowError> {
        let left = self.left()?;
        self.stream.set_read_timeout(Some(left)).map_err(|e| self.broken(e))?;
        let mut head = [0; HEAD];
        self.stream.read_exact(&mut head).map_err(|e| self.broken(e))?;
        let [version, kind, a, b, number @ ..] = head;
        let length = usize::from(u16::from_be_bytes([a, b]));
        // Its greeting may be in a later version.
        if length < HEAD || (version != VERSION && kind != HELLO) {
            return Err(self.unreadable("it is in another version of OpenFlow"));
        }
        let mut body = vec![0; length.saturating_sub(HEAD)];
        self.stream.read_exact(&mut body).map_err(|e| self.broken(e))?;
        Ok(Message { kind, number: u32::from_be_bytes(number), body })
    }

    fn left(&self) -> Result<std::time::Duration, OpenflowError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(OpenflowError::Deadline { bridge: self.bridge.clone() }) } else { Ok(left) }
    }

    fn broken(&self, source: io::Error) -> OpenflowError {
        let bridge = self.bridge.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => OpenflowError::Deadline { bridge },
            _ => OpenflowError::Socket { bridge, source },
        }
    }

    fn unreadable(&self, why: &'static str) -> OpenflowError {
        OpenflowError::Answer { bridge: self.bridge.clone(), why }
    }

    fn refused(&self, message: &Message, change: Option<&FlowChange>) -> OpenflowError {
        let (kind, code) = (short(&message.body, 0), short(&message.body, 2));
        let (kind, code) = (kind.unwrap_or_default(), code.unwrap_or_default());
        let what =
            change.map_or_else(|| "what was asked of its flows".to_owned(), |change| format!("{change:?}"));
        let change = change.cloned().map(Box::new);
        OpenflowError::Refused { bridge: self.bridge.clone(), what, kind, code, change }
    }
}

fn encode(kind: u8, number: u32, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len().saturating_add(HEAD)).unwrap_or(u16::MAX);
    let mut out = vec![VERSION, kind];
    out.extend(length.to_be_bytes());
    out.extend(number.to_be_bytes());
    out.extend(body);
    out
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
