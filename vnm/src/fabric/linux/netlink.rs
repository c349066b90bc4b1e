//! A typed, blocking route socket: one request, its answer or its errno.
//!
//! The kernel answers while it takes a request, so an answer is there when `send` returns. The socket never waits: an
//! answer that is not there is an error, not a pause.

use std::fmt;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

/// Larger than any message the kernel builds for a dump (32 KiB).
const BUFFER: usize = 1 << 17;

/// How often a list is read until it holds still.
const DUMPS: u32 = 16;

/// Why the kernel's network could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused; compare `errno`, never a text.
    #[error("{what}: {}{}", std::io::Error::from(*errno), Note(note.as_deref()))]
    Refused {
        /// What was asked.
        what: String,
        /// The kernel's reason.
        errno: Errno,
        /// What the kernel said besides.
        note: Option<String>,
    },
    /// The socket failed.
    #[error("netlink socket: {what}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The reason.
        source: std::io::Error,
    },
    /// An answer that is none of the forms we know.
    #[error("netlink answer to {what} cannot be read: {why}")]
    Answer {
        /// What was asked.
        what: String,
        /// The decoder's complaint.
        why: String,
    },
}

/// The kernel's own words behind an errno.
struct Note<'a>(Option<&'a str>);

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |text| write!(f, " ({text})"))
    }
}

impl NetlinkError {
    /// The kernel's reason, where it refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            NetlinkError::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// What a changing request does with an object that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// The request is about an object that exists.
    Needed,
    /// `EEXIST`.
    Refused,
    /// It is overwritten.
    Replaced,
}

/// A route socket of the network namespace it was opened in.
pub struct Rtnetlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Rtnetlink {
    /// Opens the socket.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = |what| move |source| NetlinkError::Socket { what, source };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        socket.set_non_blocking(true).map_err(failed("configure"))?;
        // Errors without an echo of the request but with the kernel's words; dumps that honour their filters.
        socket.set_cap_ack(true).map_err(failed("configure"))?;
        socket.set_ext_ack(true).map_err(failed("configure"))?;
        socket.set_netlink_get_strict_chk(true).map_err(failed("configure"))?;
        Ok(Rtnetlink { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Sends a request that changes something and waits for its acknowledgement.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] with the kernel's errno; `what` names the object in it.
    pub fn change(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        existing: Existing,
    ) -> Result<(), NetlinkError> {
        let flags = match existing {
            Existing::Needed => 0,
            Existing::Refused => NLM_F_CREATE | NLM_F_EXCL,
            Existing::Replaced => NLM_F_CREATE | NLM_F_REPLACE,
        };
        self.exchange(what, message, NLM_F_ACK | flags).map(|_| ())
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// [`NetlinkError::Refused`] where there is none.
    pub fn get(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        Ok(self.exchange(what, message, NLM_F_ACK)?.found)
    }

    /// Asks for every object that the request's filters admit.
    ///
    /// # Errors
    /// As [`Rtnetlink::get`].
    pub fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        // A list that changed while it was read may lack what was there all the time: read it again.
        for _ in 0..DUMPS {
            let answer = self.exchange(what, message.clone(), NLM_F_DUMP)?;
            if answer.whole {
                return Ok(answer.found);
            }
        }
        Err(refused(
            what,
            Errno::AGAIN.raw_os_error(),
            Some("the list changed each time it was read".to_owned()),
        ))
    }

    fn exchange(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Answer, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = bytes(message, flags, self.sequence);
        self.socket.send(&request, 0).map_err(|source| NetlinkError::Socket { what: "send", source })?;

        let mut answer = Answer { found: Vec::new(), whole: true };
        loop {
            self.receive()?;
            if answer.take(&self.buffer, self.sequence, what)? {
                return Ok(answer);
            }
        }
    }

    /// Reads one datagram into the buffer.
    fn receive(&mut self) -> Result<(), NetlinkError> {
        self.buffer.clear();
        let failed = |source| NetlinkError::Socket { what: "receive", source };
        let length = self.socket.recv(&mut self.buffer, 0).map_err(failed)?;
        if length >= BUFFER {
            return Err(failed(std::io::Error::other("an answer larger than the buffer")));
        }
        Ok(())
    }
}

/// What was answered so far, and whether nothing of it changed meanwhile.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) found: Vec<RouteNetlinkMessage>,
    pub(super) whole: bool,
}

impl Answer {
    /// Takes the messages of a datagram; true once the answer is complete.
    pub(super) fn take(&mut self, datagram: &[u8], sequence: u32, what: &str) -> Result<bool, NetlinkError> {
        let unreadable = |why: String| NetlinkError::Answer { what: what.to_owned(), why };
        let mut rest = datagram;
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|e| unreadable(e.to_string()))?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            // Messages are padded to four bytes; the last one need not be.
            let padded = length.next_multiple_of(4).min(rest.len());
            rest = rest.get(padded..).unwrap_or_default();
            if length == 0 {
                return Err(unreadable("a message without length".to_owned()));
            }
            if message.header.sequence_number != sequence {
                continue;
            }
            self.whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => self.found.push(inner),
                NetlinkPayload::Done(done) if done.code == 0 => return Ok(true),
                NetlinkPayload::Done(done) => return Err(refused(what, done.code, None)),
                NetlinkPayload::Error(error) => {
                    return match error.code {
                        None => Ok(true),
                        Some(code) => Err(refused(what, code.get(), note(&error.header))),
                    };
                }
                NetlinkPayload::Overrun(_) => return Err(unreadable("the kernel lost messages".to_owned())),
                _ => {}
            }
        }
        Ok(false)
    }
}

/// A request as the kernel gets it.
pub fn bytes(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);
    request
}

fn refused(what: &str, code: i32, note: Option<String>) -> NetlinkError {
    let what = what.to_owned();
    match errno(code) {
        Some(errno) => NetlinkError::Refused { what, errno, note },
        None => NetlinkError::Answer { what, why: format!("{code} is no reason of the kernel's") },
    }
}

/// The reason that a code of an answer stands for; none for a number that is no reason.
pub(in crate::fabric) fn errno(code: i32) -> Option<Errno> {
    let reason = Some(code.saturating_abs()).filter(|reason| (1..=4095).contains(reason))?;
    Some(Errno::from_raw_os_error(reason))
}

/// The kernel's words in the attributes that follow the 16 bytes of the request's header (`NLMSGERR_ATTR_MSG`).
fn note(header: &[u8]) -> Option<String> {
    const MESSAGE: u16 = 1;
    let mut rest = header.get(16..)?;
    loop {
        let (head, _) = rest.split_first_chunk::<4>()?;
        let [l0, l1, k0, k1] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) == MESSAGE {
            let text = String::from_utf8_lossy(value);
            return Some(text.trim_end_matches('\0').to_owned());
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_found_behind_other_attributes() {
        let mut header = vec![0u8; 16];
        header.extend([8, 0, 2, 0, 9, 9, 9, 9]);
        header.extend([7, 0, 1, 0, b'n', b'o', 0, 0]);
        if cfg!(target_endian = "little") {
            assert_eq!(note(&header).as_deref(), Some("no"));
        }
        assert_eq!(note(&header[..16]), None);
        assert_eq!(note(&[]), None);
        header.truncate(26);
        assert_eq!(note(&header), None, "a cut attribute ends the search");
    }

    #[test]
    fn a_refusal_names_object_reason_and_the_kernels_words() {
        assert!(matches!(refused("create eth0.4", 1 << 20, None), NetlinkError::Answer { .. }));
        let error = refused("create eth0.4", -17, Some("already".to_owned()));
        assert_eq!(error.errno(), Some(Errno::EXIST));
        let text = error.to_string();
        assert!(text.starts_with("create eth0.4: File exists"), "{text}");
        assert!(text.ends_with("(already)"), "{text}");
    }
}
