//! The stream of `rbd export-diff` (Ceph's `doc/dev/rbd-diff.rst`, version 1), read record by record.

use std::io::{self, Read};
use std::ops::Range;

/// How it begins.
pub(super) const HEADER: &[u8] = b"rbd diff v1\n";
/// Longest name of a snapshot, bytes; Ceph's own limit is lower.
const NAME: u32 = 4096;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// The snapshot that the difference begins with.
    From(String),
    /// The snapshot that it ends with.
    To(String),
    /// The size of the volume in the end, bytes.
    Size(u64),
    /// These bytes, which follow: [`Diff::take`] must take all of them before the next record.
    Data(Range<u64>),
    /// Zeros.
    Zeros(Range<u64>),
}

/// A stream. Its extents come in the order of their places; anything else is an error.
pub(super) struct Diff<R> {
    input: R,
    at: u64,
}

impl<R: Read> Diff<R> {
    /// Reads the beginning.
    pub(super) fn begin(mut input: R) -> io::Result<Self> {
        let mut header = [0; HEADER.len()];
        input.read_exact(&mut header)?;
        if header == HEADER { Ok(Diff { input, at: 0 }) } else { Err(malformed()) }
    }

    /// The next record; none at the end, which a stream that was cut off does not have.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let mut tag = [0];
        self.input.read_exact(&mut tag)?;
        Ok(Some(match tag {
            [b'e'] => return Ok(None),
            [b'f'] => Record::From(self.name()?),
            [b't'] => Record::To(self.name()?),
            [b's'] => Record::Size(self.number()?),
            [b'w'] => Record::Data(self.extent()?),
            [b'z'] => Record::Zeros(self.extent()?),
            _ => return Err(malformed()),
        }))
    }

    /// Takes the next bytes of a record with data.
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.input.read_exact(buffer)
    }

    fn extent(&mut self) -> io::Result<Range<u64>> {
        let (start, size) = (self.number()?, self.number()?);
        let end = start.checked_add(size).filter(|_| start >= self.at).ok_or_else(malformed)?;
        self.at = end;
        Ok(start..end)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.input.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn name(&mut self) -> io::Result<String> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > NAME {
            return Err(malformed());
        }
        let mut name = vec![0; usize::try_from(length).map_err(|_| malformed())?];
        self.input.read_exact(&mut name)?;
        String::from_utf8(name).map_err(|_| malformed())
    }
}

pub(super) fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "rbd export-diff printed something else")
}
