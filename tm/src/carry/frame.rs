//! What the two ends say to each other, as bytes and back. Pure.
//!
//! ```text
//! kind (1 byte)  length of the rest (4 bytes, big-endian)  the rest
//! ```
//!
//! Numbers are big-endian. A name is one directory entry: no slash, no NUL, never `.` or `..`, so that no sequence of
//! frames can name a path outside of the directory that is carried. Names and links are bytes, not text.

use causeway_core::answer::Failure;
use serde::{Deserialize, Serialize};

use super::order::{Manner, Part, Spot};

/// Version of what is said here; both ends must have the same.
pub const VERSION: u32 = 2;
/// Most bytes of a file that one frame carries.
pub const RUN: usize = 1 << 20;
/// Longest rest of a frame.
pub const LIMIT: usize = RUN + 64;
/// Bytes before a frame's rest.
pub const HEAD: usize = 5;
/// Longest name of a directory entry (`NAME_MAX`).
const NAME: usize = 255;
/// Longest target of a link (`PATH_MAX`).
const TARGET: usize = 4095;

/// A hash of BLAKE3.
pub type Hash = [u8; 32];

/// One thing said.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame<'a> {
    /// A step of the dialogue.
    Say(Box<Say>),
    /// Still there.
    Beat,
    /// What of the tree has no bytes.
    Entry(Entry<'a>),
    /// A file begins.
    File {
        /// What it is.
        about: About,
        /// Its name.
        name: &'a [u8],
    },
    /// What the receiver has of a segment of that file.
    Proof(Hash),
    /// Bytes of the file.
    Run {
        /// Where.
        at: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The same, packed (an LZ4 block).
    Packed {
        /// Where.
        at: u64,
        /// How many bytes come out of it.
        length: u32,
        /// The block.
        block: &'a [u8],
    },
    /// A segment has ended.
    Segment {
        /// Which one.
        index: u64,
        /// The hash of its data.
        hash: Hash,
    },
    /// The file has ended.
    EndFile(Hash),
}

/// What a tree has besides files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A directory begins; what follows is in it.
    Enter {
        /// Permissions.
        mode: u16,
        /// Its name.
        name: &'a [u8],
    },
    /// It ends.
    Leave,
    /// A link.
    Link {
        /// Its name.
        name: &'a [u8],
        /// Where it leads, as it is.
        target: &'a [u8],
    },
}

/// A regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Permissions.
    pub mode: u16,
    /// Bytes, holes among them.
    pub size: u64,
    /// When it was last written: seconds, and nanoseconds of the second.
    pub written: (i64, u32),
}

/// A step of the dialogue; see [`super`] for their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Say {
    /// Whoever started the other end: what is to be done.
    Open {
        /// [`VERSION`].
        version: u32,
        /// Where the directory is.
        from: Spot,
        /// Where it is to be.
        to: Spot,
        /// How.
        manner: Manner,
        /// As in the call.
        part: Part,
        /// As in the call.
        local: bool,
        /// Milliseconds that are left.
        deadline_ms: u64,
    },
    /// The end that was started.
    Ready {
        /// [`VERSION`].
        version: u32,
    },
    /// Sender: what is at the source. With it the name of a file that was just made there.
    Source {
        /// None if there is no directory.
        probe: Option<String>,
    },
    /// Receiver: what is at the destination.
    Destination(There),
    /// Sender: what will follow.
    Tree {
        /// Names the tree as it is now.
        fingerprint: String,
        /// Permissions of the directory itself.
        mode: u16,
        /// About how many bytes of data.
        bytes: u64,
    },
    /// Receiver: go on.
    Begin {
        /// Some of it is here: each file is followed by a proof.
        resumed: bool,
    },
    /// Receiver: no more proofs for this file.
    Proven,
    /// Sender: the first segment that will follow; everything before it was proved equal.
    GoOn {
        /// Its number.
        segment: u64,
    },
    /// Sender: nothing else is in the directory.
    EndTree,
    /// Receiver: the whole copy has its name and is on the disk.
    Placed,
    /// Sender: the old directory is gone.
    Removed,
    /// Sender: the old directory stays, and so does the word of the origin.
    Kept,
    /// Sender: the copy is to go.
    Drop,
    /// Either: nothing is left to do.
    Done,
    /// Either: it can't go on.
    Failed(Failure),
}

/// What stands at the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum There {
    /// The very directory that is to be moved, seen from here.
    Same,
    /// Nothing.
    Nothing,
    /// A copy of the source's tree with this fingerprint.
    Copy(String),
    /// Something that was not made from the source.
    Other,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that is none: most often a shell's greeting on the session.
    #[error("the other side does not speak our protocol: a frame of kind {0}")]
    Kind(u8),
    /// Longer than any frame is.
    #[error("the other side does not speak our protocol: a frame of {0} bytes")]
    Long(u64),
    /// A frame that ends too early, or too late, or holds what it may not.
    #[error("the other side said something malformed: {0}")]
    Malformed(&'static str),
}

const SAY: u8 = 1;
const BEAT: u8 = 2;
const ENTER: u8 = 3;
const LEAVE: u8 = 4;
const LINK: u8 = 5;
const FILE: u8 = 6;
const PROOF: u8 = 7;
const BYTES: u8 = 8;
const PACKED: u8 = 9;
const SEGMENT: u8 = 10;
const END_FILE: u8 = 11;

impl Frame<'_> {
    /// Adds the frame's bytes to `out`.
    ///
    /// # Errors
    /// A name or a length that no frame can hold; `out` may then end in a part of one.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let start = out.len();
        out.extend([self.kind(), 0, 0, 0, 0]);
        match self {
            Frame::Say(say) => {
                serde_json::to_writer(&mut *out, say)
                    .map_err(|_| FrameError::Malformed("words without a form"))?;
            }
            Frame::Beat | Frame::Entry(Entry::Leave) => {}
            Frame::Entry(Entry::Enter { mode, name }) => {
                out.extend(mode.to_be_bytes());
                out.extend(checked_name(name)?);
            }
            Frame::Entry(Entry::Link { name, target }) => {
                let length = u8::try_from(checked_name(name)?.len());
                out.push(length.map_err(|_| FrameError::Malformed("a name"))?);
                out.extend(*name);
                out.extend(checked_target(target)?);
            }
            Frame::File { about, name } => {
                out.extend(about.mode.to_be_bytes());
                out.extend(about.size.to_be_bytes());
                out.extend(about.written.0.to_be_bytes());
                out.extend(about.written.1.to_be_bytes());
                out.extend(checked_name(name)?);
            }
            Frame::Proof(hash) | Frame::EndFile(hash) => out.extend(hash),
            Frame::Run { at, bytes } => {
                out.extend(at.to_be_bytes());
                out.extend(*bytes);
            }
            Frame::Packed { at, length, block } => {
                out.extend(at.to_be_bytes());
                out.extend(length.to_be_bytes());
                out.extend(*block);
            }
            Frame::Segment { index, hash } => {
                out.extend(index.to_be_bytes());
                out.extend(hash);
            }
        }
        let length = out.len() - start - HEAD;
        let head = u32::try_from(length).ok().filter(|_| length <= LIMIT);
        let head = head.ok_or(FrameError::Malformed("too long"))?;
        for (slot, byte) in out.iter_mut().skip(start + 1).zip(head.to_be_bytes()) {
            *slot = byte;
        }
        Ok(())
    }

    fn kind(&self) -> u8 {
        match self {
            Frame::Say(_) => SAY,
            Frame::Beat => BEAT,
            Frame::Entry(Entry::Enter { .. }) => ENTER,
            Frame::Entry(Entry::Leave) => LEAVE,
            Frame::Entry(Entry::Link { .. }) => LINK,
            Frame::File { .. } => FILE,
            Frame::Proof(_) => PROOF,
            Frame::Run { .. } => BYTES,
            Frame::Packed { .. } => PACKED,
            Frame::Segment { .. } => SEGMENT,
            Frame::EndFile(_) => END_FILE,
        }
    }
}

/// Kind and length of the rest.
///
/// # Errors
/// No frame begins so.
pub fn head(bytes: [u8; HEAD]) -> Result<(u8, usize), FrameError> {
    let [kind, length @ ..] = bytes;
    let length = u32::from_be_bytes(length);
    if !(SAY..=END_FILE).contains(&kind) {
        return Err(FrameError::Kind(kind));
    }
    let usable = usize::try_from(length).ok().filter(|length| *length <= LIMIT);
    usable.map(|length| (kind, length)).ok_or(FrameError::Long(length.into()))
}

/// A frame of that kind out of its rest.
///
/// # Errors
/// [`FrameError`]; whatever comes out of here can be encoded again.
pub fn decode(kind: u8, rest: &[u8]) -> Result<Frame<'_>, FrameError> {
    let mut rest = Rest(rest);
    Ok(match kind {
        SAY => {
            let say = serde_json::from_slice(rest.0);
            Frame::Say(Box::new(say.map_err(|_| FrameError::Malformed("unknown words"))?))
        }
        BEAT => rest.ended(Frame::Beat)?,
        ENTER => Frame::Entry(Entry::Enter { mode: rest.mode()?, name: checked_name(rest.0)? }),
        LEAVE => rest.ended(Frame::Entry(Entry::Leave))?,
        LINK => {
            let [length] = rest.take::<1>()?;
            let (name, target) =
                rest.0.split_at_checked(length.into()).ok_or(FrameError::Malformed("a link"))?;
            Frame::Entry(Entry::Link { name: checked_name(name)?, target: checked_target(target)? })
        }
        FILE => {
            let mode = rest.mode()?;
            let size = u64::from_be_bytes(rest.take()?);
            let written = (i64::from_be_bytes(rest.take()?), u32::from_be_bytes(rest.take()?));
            if i64::try_from(size).is_err() || written.1 >= 1_000_000_000 {
                return Err(FrameError::Malformed("a file's size or time"));
            }
            Frame::File { about: About { mode, size, written }, name: checked_name(rest.0)? }
        }
        PROOF => {
            let hash = rest.take()?;
            rest.ended(Frame::Proof(hash))?
        }
        BYTES => Frame::Run { at: u64::from_be_bytes(rest.take()?), bytes: some(rest.0)? },
        PACKED => {
            let (at, length) = (u64::from_be_bytes(rest.take()?), u32::from_be_bytes(rest.take()?));
            if !usize::try_from(length).is_ok_and(|length| (1..=RUN).contains(&length)) {
                return Err(FrameError::Malformed("a packed run's length"));
            }
            Frame::Packed { at, length, block: some(rest.0)? }
        }
        SEGMENT => {
            let (index, hash) = (u64::from_be_bytes(rest.take()?), rest.take()?);
            rest.ended(Frame::Segment { index, hash })?
        }
        END_FILE => {
            let hash = rest.take()?;
            rest.ended(Frame::EndFile(hash))?
        }
        other => return Err(FrameError::Kind(other)),
    })
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (taken, left) = self.0.split_first_chunk::<N>().ok_or(FrameError::Malformed("cut short"))?;
        self.0 = left;
        Ok(*taken)
    }

    fn mode(&mut self) -> Result<u16, FrameError> {
        let mode = u16::from_be_bytes(self.take()?);
        // Permissions alone: who carries a tree gives nobody another one's rights.
        if mode <= 0o777 { Ok(mode) } else { Err(FrameError::Malformed("permissions")) }
    }

    fn ended(&self, frame: Frame<'a>) -> Result<Frame<'a>, FrameError> {
        if self.0.is_empty() { Ok(frame) } else { Err(FrameError::Malformed("more than it holds")) }
    }
}

fn some(bytes: &[u8]) -> Result<&[u8], FrameError> {
    let fits = (1..=RUN).contains(&bytes.len());
    if fits { Ok(bytes) } else { Err(FrameError::Malformed("a run's length")) }
}

fn checked_name(name: &[u8]) -> Result<&[u8], FrameError> {
    let fits = (1..=NAME).contains(&name.len()) && name != b"." && name != b"..";
    if fits && !name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        Ok(name)
    } else {
        Err(FrameError::Malformed("a name"))
    }
}

fn checked_target(target: &[u8]) -> Result<&[u8], FrameError> {
    let fits = (1..=TARGET).contains(&target.len()) && !target.contains(&0);
    if fits { Ok(target) } else { Err(FrameError::Malformed("a link's target")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn again(frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        let (kind, length) = head(*bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(bytes.len(), HEAD + length);
        assert_eq!(&decode(kind, &bytes[HEAD..]).unwrap(), frame);
    }

    proptest! {
        #[test]
        fn what_is_said_is_what_is_heard(
            name in proptest::collection::vec(any::<u8>(), 1..40),
            bytes in proptest::collection::vec(any::<u8>(), 1..3000),
            (mode, size, at) in (0_u16..0o1000, 0_u64..1 << 60, any::<u64>()),
            hash: [u8; 32],
        ) {
            prop_assume!(checked_name(&name).is_ok() && checked_target(&name).is_ok());
            let about = About { mode, size, written: (-5, 999_999_999) };
            for frame in [
                Frame::Beat,
                Frame::Entry(Entry::Enter { mode, name: &name }),
                Frame::Entry(Entry::Leave),
                Frame::Entry(Entry::Link { name: &name, target: &name }),
                Frame::File { about, name: &name },
                Frame::Proof(hash),
                Frame::Run { at, bytes: &bytes },
                Frame::Packed { at, length: 7, block: &bytes },
                Frame::Segment { index: at, hash },
                Frame::EndFile(hash),
                Frame::Say(Box::new(Say::Destination(There::Copy("a".to_owned())))),
                Frame::Say(Box::new(Say::Failed(Failure::new(causeway_core::answer::Kind::Refused, "no")))),
            ] {
                again(&frame);
            }
        }
    }

    #[test]
    fn no_name_leads_out_of_its_directory() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", &[b'x'; 256]] {
            assert!(
                Frame::Entry(Entry::Enter { mode: 0, name }).encode(&mut Vec::new()).is_err(),
                "{name:?}"
            );
            let enter = [&[0, 0], name].concat();
            assert_eq!(decode(ENTER, &enter), Err(FrameError::Malformed("a name")));
        }
        for name in [&b"a\nb"[..], b"'\"", b"\xff\xfe", b"...", b" ", b"-rf"] {
            again(&Frame::Entry(Entry::Enter { mode: 0o700, name }));
        }
        // Neither a set-user-id bit nor a file that is larger than any.
        assert!(decode(ENTER, &[0o17, 0, b'x']).is_err());
        assert!(decode(FILE, &[&[0, 0][..], &[0xff; 8], &[0; 12], b"x"].concat()).is_err());
    }

    #[test]
    fn a_greeting_is_no_frame() {
        assert_eq!(head(*b"Welco"), Err(FrameError::Kind(b'W')));
        assert_eq!(head([BYTES, 0xff, 0, 0, 0]), Err(FrameError::Long(0xff00_0000)));
    }
}
