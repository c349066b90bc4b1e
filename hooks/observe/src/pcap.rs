//! A reader of the capture stream that `tcpdump -w -` writes.
//!
//! Pure: bytes in, frames out, however the bytes were cut by the pipe. The classic format only (file header of 24 bytes,
//! then a 16-byte header before each frame), in both byte orders and with microsecond or nanosecond stamps, link type
//! Ethernet. `-i any` gives another link type and is refused, because it says of no frame which device it passed.
//!
//! Every length in the stream is checked before it is believed: a frame above [`MAX_FRAME`] ends the reading with an
//! error, so that memory stays bounded whatever comes.

use causeway_core::names::Mac;

use crate::share::Stamp;

/// The largest frame that is read, in bytes: what libpcap itself allows (`MAXIMUM_SNAPLEN`).
pub const MAX_FRAME: u32 = 262_144;

const FILE_HEADER: usize = 24;
const FRAME_HEADER: usize = 16;
const ETHERNET: u32 = 1;

/// Why a stream is not a capture we can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PcapError {
    /// The first four bytes are not those of a capture.
    #[error("the stream starts with {0:08x}, which is not the classic capture format")]
    Magic(u32),
    /// The capture is not of an Ethernet device.
    #[error("link type {0} is not Ethernet (1): capture on one device, not on \"any\"")]
    LinkType(u32),
    /// A frame claims more bytes than any capture holds.
    #[error("frame {index} claims {length} bytes, more than {MAX_FRAME}")]
    FrameLength {
        /// The frame's number in the stream, from 0.
        index: u64,
        /// The length it claims.
        length: u32,
    },
    /// A frame's stamp has more than a second in its fraction.
    #[error("frame {index} is stamped with a fraction of {fraction}, a second or more")]
    Fraction {
        /// The frame's number in the stream, from 0.
        index: u64,
        /// The fraction as read.
        fraction: u32,
    },
}

/// One captured frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// When it was captured, in nanoseconds since 1970.
    pub stamp: Stamp,
    /// Its length on the wire; `bytes` may be cut shorter.
    pub length: u32,
    /// Its first bytes, as many as were captured.
    pub bytes: &'a [u8],
}

impl Frame<'_> {
    /// Whether the frame's Ethernet source is `mac`; `false` for a frame cut before its source.
    pub fn is_from(&self, mac: Mac) -> bool {
        self.bytes.get(6..12) == Some(mac.0.as_slice())
    }
}

/// How the numbers of one stream are written.
#[derive(Debug, Clone, Copy)]
struct Format {
    big_endian: bool,
    nanoseconds: bool,
}

impl Format {
    fn of(magic: [u8; 4]) -> Option<Format> {
        let (big_endian, nanoseconds) = match magic {
            [0xa1, 0xb2, 0xc3, 0xd4] => (true, false),
            [0xd4, 0xc3, 0xb2, 0xa1] => (false, false),
            [0xa1, 0xb2, 0x3c, 0x4d] => (true, true),
            [0x4d, 0x3c, 0xb2, 0xa1] => (false, true),
            _ => return None,
        };
        Some(Format { big_endian, nanoseconds })
    }

    fn u32_at(self, bytes: &[u8], offset: usize) -> Option<u32> {
        let word = *bytes.get(offset..)?.first_chunk::<4>()?;
        Some(if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
    }
}

/// Reads a capture stream piece by piece.
///
/// After an error the reader stays in error: the place of the next frame is unknown.
#[derive(Debug, Default)]
pub struct PcapReader {
    buffer: Vec<u8>,
    format: Option<Format>,
    frames: u64,
    failed: Option<PcapError>,
}

impl PcapReader {
    /// A reader at the start of a stream.
    pub fn new() -> PcapReader {
        PcapReader::default()
    }

    /// Whether the file header has been read: the capture is running.
    pub fn started(&self) -> bool {
        self.format.is_some()
    }

    /// Frames read so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Bytes that wait for the rest of their frame; not zero at the end of a stream that was cut in the middle.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Takes the next bytes and hands every frame they complete to `each`.
    ///
    /// # Errors
    /// The first thing in the stream that is not as the format says; frames before it were handed over.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Frame<'_>)) -> Result<(), PcapError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.buffer.extend_from_slice(bytes);
        let result = self.read(&mut each);
        self.failed = result.err();
        result
    }

    fn read(&mut self, each: &mut impl FnMut(Frame<'_>)) -> Result<(), PcapError> {
        let mut at = 0;
        let format = match self.format {
            Some(format) => format,
            None => match file_header(&self.buffer)? {
                Some(format) => {
                    at = FILE_HEADER;
                    *self.format.insert(format)
                }
                None => return Ok(()),
            },
        };
        while let Some((frame, next)) = next_frame(format, &self.buffer, at, self.frames)? {
            self.frames += 1;
            at = next;
            each(frame);
        }
        self.buffer.drain(..at);
        Ok(())
    }
}

/// The format that the file header announces, or `None` if it is not complete. A wrong magic is told at four bytes.
fn file_header(bytes: &[u8]) -> Result<Option<Format>, PcapError> {
    let Some(magic) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let format = Format::of(*magic).ok_or(PcapError::Magic(u32::from_be_bytes(*magic)))?;
    let Some(network) = format.u32_at(bytes, 20) else {
        return Ok(None);
    };
    // The upper bits of the field may say how long the frames' check sequence is; the type is in the lower 16.
    match network & 0xffff {
        ETHERNET => Ok(Some(format)),
        other => Err(PcapError::LinkType(other)),
    }
}

/// The frame at `at` and where the next one starts, or `None` if it is not complete.
fn next_frame(
    format: Format,
    bytes: &[u8],
    at: usize,
    index: u64,
) -> Result<Option<(Frame<'_>, usize)>, PcapError> {
    let field = |n: usize| format.u32_at(bytes, at + n * 4);
    let (Some(seconds), Some(fraction), Some(captured), Some(length)) =
        (field(0), field(1), field(2), field(3))
    else {
        return Ok(None);
    };
    if captured > MAX_FRAME {
        return Err(PcapError::FrameLength { index, length: captured });
    }
    let unit = if format.nanoseconds { 1 } else { 1_000 };
    let nanos = u64::from(fraction) * unit;
    if nanos >= 1_000_000_000 {
        return Err(PcapError::Fraction { index, fraction });
    }
    let start = at + FRAME_HEADER;
    let Ok(size) = usize::try_from(captured) else {
        return Ok(None);
    };
    let Some(body) = bytes.get(start..start + size) else {
        return Ok(None);
    };
    let frame = Frame { stamp: u64::from(seconds) * 1_000_000_000 + nanos, length, bytes: body };
    Ok(Some((frame, start + size)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Parts = Vec<(u32, u32, Vec<u8>)>;
    type Frames = Vec<(u64, u32, Vec<u8>)>;

    fn stream(big: bool, nano: bool, frames: &Parts) -> Vec<u8> {
        let word = |n: u32| if big { n.to_be_bytes() } else { n.to_le_bytes() };
        let magic = if nano { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
        let mut out = Vec::new();
        // Version 2.4 as two 16-bit numbers, zone, accuracy, longest frame, link type.
        out.extend(word(magic));
        out.extend(if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] });
        for n in [0, 0, MAX_FRAME, ETHERNET] {
            out.extend(word(n));
        }
        for (seconds, fraction, body) in frames {
            let length = u32::try_from(body.len()).unwrap();
            for n in [*seconds, *fraction, length, length + 7] {
                out.extend(word(n));
            }
            out.extend(body);
        }
        out
    }

    fn read_all(bytes: &[u8], piece: usize) -> (Frames, Result<(), PcapError>, PcapReader) {
        let (mut reader, mut frames) = (PcapReader::new(), Vec::new());
        let mut result = Ok(());
        for part in bytes.chunks(piece.max(1)) {
            result = reader.push(part, |f| frames.push((f.stamp, f.length, f.bytes.to_vec())));
        }
        (frames, result, reader)
    }

    #[test]
    fn one_frame_has_known_stamps_in_every_format() {
        for big in [false, true] {
            for (nano, stamp) in [(false, 1_795_258_387_000_250_000), (true, 1_795_258_387_000_000_250)] {
                let bytes = stream(big, nano, &vec![(1_795_258_387, 250, vec![1; 60])]);
                let (frames, result, _) = read_all(&bytes, 9);
                assert_eq!(result, Ok(()));
                assert_eq!(frames, [(stamp, 67, vec![1; 60])]);
            }
        }
    }

    #[test]
    fn a_frame_is_known_by_its_source() {
        let mac: Mac = "02:00:0a:09:00:0b".parse().unwrap();
        let mut bytes = vec![0xff; 6];
        bytes.extend(mac.0);
        let from = |bytes: &[u8]| Frame { stamp: 0, length: 60, bytes }.is_from(mac);
        assert!(from(&bytes));
        assert!(!from(&bytes[..11]));
        assert!(!from(&[0xff; 60]));
    }

    #[test]
    fn what_is_not_a_capture_is_refused_by_name() {
        let text = b"tcpdump: no such device";
        assert_eq!(read_all(text, 3).1, Err(PcapError::Magic(u32::from_be_bytes(*b"tcpd"))));

        let mut cooked = stream(false, false, &vec![]);
        cooked[20] = 113;
        assert_eq!(read_all(&cooked, 24).1, Err(PcapError::LinkType(113)));

        let mut long = stream(true, true, &vec![(1, 1, vec![])]);
        long[FILE_HEADER + 8..FILE_HEADER + 12].copy_from_slice(&(MAX_FRAME + 1).to_be_bytes());
        let refused = PcapError::FrameLength { index: 0, length: MAX_FRAME + 1 };
        assert_eq!(read_all(&long, 64).1, Err(refused));

        let late = stream(true, false, &vec![(1, 999_999, vec![]), (1, 1_000_000, vec![])]);
        let (frames, result, _) = read_all(&late, 64);
        assert_eq!(frames.len(), 1);
        assert_eq!(result, Err(PcapError::Fraction { index: 1, fraction: 1_000_000 }));
    }

    #[test]
    fn an_error_is_final() {
        let mut reader = PcapReader::new();
        assert!(reader.push(b"oops", |_| ()).is_err());
        let good = stream(false, false, &vec![]);
        assert!(reader.push(&good, |_| ()).is_err(), "the stream has lost its place");
    }

    proptest! {
        #[test]
        fn frames_come_out_however_the_pipe_cuts(
            big: bool, nano: bool, piece in 1usize..90, cut in 0usize..40,
            frames in prop::collection::vec(
                (any::<u32>(), 0u32..1_000_000, prop::collection::vec(any::<u8>(), 0..80)), 0..12),
        ) {
            let mut bytes = stream(big, nano, &frames);
            let (read, result, reader) = read_all(&bytes, piece);
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(reader.pending(), 0);
            let unit = if nano { 1 } else { 1_000 };
            let expected: Vec<_> = frames.iter().map(|(s, f, body)| (
                u64::from(*s) * 1_000_000_000 + u64::from(*f) * unit,
                u32::try_from(body.len()).unwrap() + 7,
                body.clone(),
            )).collect();
            prop_assert_eq!(&read, &expected);
            // Cut anywhere: a prefix of the frames, no error.
            bytes.truncate(bytes.len().saturating_sub(cut));
            let (read, result, _) = read_all(&bytes, piece);
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(&read[..], &expected[..read.len()]);
        }

        /// Hostile bytes, half of them behind a valid header: no panic, and never more kept than one frame.
        #[test]
        fn no_bytes_break_the_reader(
            valid: bool, big: bool, nano: bool, piece in 1usize..70,
            noise in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut bytes = if valid { stream(big, nano, &vec![]) } else { Vec::new() };
            bytes.extend(&noise);
            let (frames, _, reader) = read_all(&bytes, piece);
            let told: usize = frames.iter().map(|(_, _, body)| body.len() + FRAME_HEADER).sum();
            prop_assert!(told <= noise.len());
            prop_assert!(reader.pending() <= bytes.len());
        }

        /// One flipped byte in a good stream: frames before it are unharmed.
        #[test]
        fn one_wrong_byte_does_not_reach_backwards(
            at in 0usize..300, flip in 1u8..=255, piece in 1usize..70,
        ) {
            let frames: Parts = (0..5u8).map(|k| (k.into(), k.into(), vec![k; 30])).collect();
            let mut bytes = stream(false, false, &frames);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let (read, _, _) = read_all(&bytes, piece);
            let whole = at.saturating_sub(FILE_HEADER) / (FRAME_HEADER + 30);
            for (k, frame) in read.iter().take(whole).enumerate() {
                prop_assert_eq!(&frame.2, &frames[k].2);
            }
        }
    }
}
