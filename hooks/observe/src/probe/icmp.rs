//! Echo requests (RFC 792, RFC 4443), by a ping socket where the system allows it and a raw socket otherwise.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send, socket_with,
};

use super::record::{LENGTH, Record};
use super::{Heard, Wire};

const HEADER: usize = 8;

/// Which of the two protocols, and how the socket hands its messages over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// ICMPv6: always without the IP header; the kernel writes the checksum.
    V6,
    /// ICMP on a ping socket: without the IP header.
    V4,
    /// ICMP on a raw socket: behind its IP header.
    V4Raw,
}

pub struct IcmpWire {
    socket: OwnedFd,
    framing: Framing,
    nonce: u64,
}

impl IcmpWire {
    pub fn open(target: SocketAddr, nonce: u64) -> io::Result<IcmpWire> {
        let (family, protocol) = match target {
            SocketAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            SocketAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let make = |kind| socket_with(family, kind, flags, Some(protocol));
        // Ping sockets need no privilege, but `net.ipv4.ping_group_range` of most systems lets nobody use them.
        let (socket, raw) = match make(SocketType::DGRAM) {
            Ok(socket) => (socket, false),
            Err(_) => (make(SocketType::RAW)?, true),
        };
        connect(&socket, &target)?;
        let framing = match (target, raw) {
            (SocketAddr::V6(_), _) => Framing::V6,
            (SocketAddr::V4(_), false) => Framing::V4,
            (SocketAddr::V4(_), true) => Framing::V4Raw,
        };
        Ok(IcmpWire { socket, framing, nonce })
    }
}

impl Wire for IcmpWire {
    fn ask(&mut self, sequence: u64) -> io::Result<()> {
        let record = Record { nonce: self.nonce, sequence };
        let message = request(self.framing, record);
        send(&self.socket, &message, SendFlags::empty())?;
        Ok(())
    }

    fn sockets<'a>(&'a self, out: &mut Vec<PollFd<'a>>) {
        out.push(PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN));
    }

    fn hear(&mut self, _ready: &[usize], each: &mut dyn FnMut(Heard)) {
        let mut buffer = [0; 256];
        // An error is either "nothing more" or one the kernel reports once (unreachable): the next question shows it.
        while let Ok((length, _)) = recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            let message = buffer.get(..length).unwrap_or_default();
            // A raw socket hears everybody's echo replies; those of others are none of our business.
            if let Some(record) = reply(self.framing, message)
                && record.nonce == self.nonce
            {
                each(Heard::Answer(record.sequence));
            }
        }
    }
}

/// An echo request that carries `record`. The 16-bit identifier and number of the protocol are filled from the record,
/// but only the record is looked at when the reply comes: 16 bits wrap after 5 minutes at 5 ms.
fn request(framing: Framing, record: Record) -> [u8; HEADER + LENGTH] {
    let kind = if framing == Framing::V6 { 128 } else { 8 };
    let [.., n0, n1] = record.nonce.to_be_bytes();
    let [.., s0, s1] = record.sequence.to_be_bytes();
    let mut message = [0; HEADER + LENGTH];
    let fill = |message: &mut [u8], sum: [u8; 2]| {
        let [c0, c1] = sum;
        let header = [kind, 0, c0, c1, n0, n1, s0, s1];
        for (to, from) in message.iter_mut().zip(header.into_iter().chain(record.encode())) {
            *to = from;
        }
    };
    fill(&mut message, [0, 0]);
    let sum = checksum(&message);
    fill(&mut message, sum.to_be_bytes());
    message
}

/// The record in an echo reply; `None` for every other message.
fn reply(framing: Framing, bytes: &[u8]) -> Option<Record> {
    let message = match framing {
        Framing::V6 | Framing::V4 => bytes,
        Framing::V4Raw => {
            let words = usize::from(bytes.first()? & 0x0f);
            bytes.get(words * 4..)?
        }
    };
    let expected = if framing == Framing::V6 { 129 } else { 0 };
    let (header, payload) = message.split_first_chunk::<HEADER>()?;
    match header {
        [kind, 0, ..] if *kind == expected => Record::decode(payload),
        _ => None,
    }
}

/// The checksum of the internet protocols (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    };
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The loop leaves at most 16 bits.
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn checksums_have_known_answers() {
        // The worked example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[8, 0, 0, 0, 0, 1, 0, 1]), 0xf7fd);
        assert_eq!(checksum(&[0xff]), 0x00ff);
        assert_eq!(checksum(&[]), 0xffff);
    }

    #[test]
    fn a_reply_is_told_from_everything_else() {
        let record = Record { nonce: 7, sequence: 70_000 };
        let mut message = request(Framing::V4, record).to_vec();
        assert_eq!(reply(Framing::V4, &message), None, "our own request, seen on loopback");
        message[0] = 0;
        assert_eq!(reply(Framing::V4, &message), Some(record));
        assert_eq!(reply(Framing::V6, &message), None);

        // Behind an IP header with options (24 bytes: 6 words).
        let mut packet = vec![0x46; 1];
        packet.extend([0; 23]);
        packet.extend(&message);
        assert_eq!(reply(Framing::V4Raw, &packet), Some(record));

        let mut message = request(Framing::V6, record).to_vec();
        assert_eq!(message[0], 128);
        message[0] = 129;
        assert_eq!(reply(Framing::V6, &message), Some(record));
    }

    proptest! {
        #[test]
        fn a_request_sums_to_zero(nonce: u64, sequence: u64) {
            let message = request(Framing::V4, Record { nonce, sequence });
            prop_assert_eq!(checksum(&message), 0);
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            for framing in [Framing::V4, Framing::V4Raw, Framing::V6] {
                let _ = reply(framing, &bytes);
            }
        }
    }
}
