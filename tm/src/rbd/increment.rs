//! What has changed on a volume between two of its snapshots, as a qcow2 image that lies over the earlier state.
//!
//! A guest changes less than a cluster of such an image at a time, and the rest of the cluster must not be lost: which
//! clusters have changed is asked for first, to the byte; then all objects that hold any of them are read, whole, as
//! they are in the later snapshot, and of these the changed clusters are kept.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::diff::{Diff, Record, malformed};
use super::error::RbdError;
use super::name::{SnapshotName, Volume};
use super::tool::Rbd;
use crate::host::{During, StorageError, Temporary};
use crate::store::increment::{Increment, fits};

/// The size of an image's clusters as a power of two; smaller where a volume's objects are.
const CLUSTER_BITS: u32 = 16;
/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// Makes `made`, which is not there yet, of what has changed since `from` until `to`.
pub(super) fn copy(
    rbd: &Rbd<'_>,
    volume: &Volume,
    (from, to): (&SnapshotName, &SnapshotName),
    made: &Temporary<'_>,
) -> Result<(), StorageError> {
    let on = format!("{volume}@{to}");
    let info = rbd.info_at(&on)?;
    let bits = info.order.map_or(CLUSTER_BITS, |order| CLUSTER_BITS.min(order.into()));
    let (from, to) = (from.to_string(), to.to_string());
    fits(info.size, bits).map_err(|why| RbdError::Volumes { volume: volume.clone(), why })?;
    let mut changed = Changed::new(info.size, bits);
    let words = ["--from-snap", &from, "--format", "json", &on];
    let listed = rbd.stream("diff", &on, &words, |out| {
        let reader = BufReader::with_capacity(BLOCK, out);
        serde_json::Deserializer::from_reader(reader)
            .deserialize_seq(Marking(&mut changed))
            .map_err(Into::into)
    })?;
    listed.during("read the changes for", made.path())?;
    rbd.worker().at("changes listed");
    let file = made.create(0o666)?;
    let words = ["--no-progress", "--whole-object", "--from-snap", &from, &on, "-"];
    let copied = rbd.stream("export-diff", &on, &words, |out| {
        write(BufReader::with_capacity(BLOCK, out), (&from, &to), &changed, &file)
    })?;
    let left = copied.during("write", made.path())?;
    if left > 0 {
        let why = format!("{left} clusters that have changed were not among what has");
        return Err(RbdError::Incomplete { volume: volume.clone(), why }.into());
    }
    rbd.worker().at("changes copied");
    Ok(())
}

/// Which clusters of a disk have changed.
struct Changed {
    size: u64,
    bits: u32,
    marks: Vec<u64>,
}

impl Changed {
    /// None of them, of a disk that [`fits`].
    fn new(size: u64, bits: u32) -> Self {
        let words = (size >> bits) / 64 + 1;
        Changed { size, bits, marks: vec![0; usize::try_from(words).unwrap_or_default()] }
    }

    fn mark(&mut self, extent: Range<u64>) {
        let mut cluster = extent.start >> self.bits;
        // What lies beyond the end is none of the disk's.
        let end = extent.end.min(self.size);
        while cluster << self.bits < end {
            if let Some(word) = usize::try_from(cluster / 64).ok().and_then(|at| self.marks.get_mut(at)) {
                *word |= 1 << (cluster % 64);
            }
            cluster += 1;
        }
    }

    fn has(&self, cluster: u64) -> bool {
        let word = usize::try_from(cluster / 64).ok().and_then(|at| self.marks.get(at));
        word.is_some_and(|word| word & (1 << (cluster % 64)) != 0)
    }

    fn count(&self) -> u64 {
        self.marks.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

#[derive(Deserialize)]
struct Extent {
    offset: u64,
    length: u64,
}

/// Marks the extents of a list as they come: of a large disk they are more than one would like to keep.
struct Marking<'c>(&'c mut Changed);

impl<'de> Visitor<'de> for Marking<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of extents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(Extent { offset, length }) = list.next_element()? {
            self.0.mark(offset..offset.saturating_add(length));
        }
        Ok(())
    }
}

/// Writes the changed clusters of what comes; how many of them did not come.
fn write(input: impl Read, (from, to): (&str, &str), changed: &Changed, file: &File) -> io::Result<u64> {
    let mut diff = Diff::begin(input)?;
    let image = Increment::begin(file, changed.size, changed.bits)?;
    let mut writer = Writer { changed, image, buffer: Vec::new(), cluster: 0, left: changed.count() };
    while let Some(record) = diff.next()? {
        match record {
            Record::From(name) if name == from => {}
            Record::To(name) if name == to => {}
            Record::Size(size) if size == changed.size => {}
            Record::Data(extent) => writer.pass(extent, |bytes| diff.take(bytes))?,
            Record::Zeros(extent) => writer.pass(extent, |bytes| {
                bytes.fill(0);
                Ok(())
            })?,
            Record::From(_) | Record::To(_) | Record::Size(_) => return Err(malformed()),
        }
    }
    let Writer { image, left, .. } = writer;
    image.end()?;
    Ok(left)
}

struct Writer<'a> {
    changed: &'a Changed,
    image: Increment<'a>,
    /// The first bytes of `cluster`, which is not whole yet.
    buffer: Vec<u8>,
    cluster: u64,
    /// How many changed clusters have not come yet.
    left: u64,
}

impl Writer<'_> {
    /// Takes the bytes of an extent by `take`, and writes the clusters that are whole with them.
    fn pass(
        &mut self,
        extent: Range<u64>,
        mut take: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if extent.end > self.changed.size {
            return Err(malformed());
        }
        let size = self.image.cluster();
        let mut at = extent.start;
        while at < extent.end {
            let (cluster, begins) = (at / size, at / size * size);
            let end = (begins + size).min(extent.end);
            if !self.buffer.is_empty() && (cluster != self.cluster || begins + length(&self.buffer) != at) {
                // Of an object that is read whole nothing is left out.
                return Err(malformed());
            }
            if self.buffer.is_empty() {
                if at != begins && self.changed.has(cluster) {
                    return Err(malformed());
                }
                self.cluster = cluster;
            }
            let known = self.buffer.len();
            let piece = usize::try_from(end - at).map_err(io::Error::other)?;
            self.buffer.resize(known + piece, 0);
            take(self.buffer.get_mut(known..).unwrap_or_default())?;
            self.whole(end)?;
            at = end;
        }
        Ok(())
    }

    /// Writes the cluster if it ends at `end`, or if the disk does.
    fn whole(&mut self, end: u64) -> io::Result<()> {
        let size = self.image.cluster();
        if !end.is_multiple_of(size) && end < self.changed.size {
            if !self.changed.has(self.cluster) {
                self.buffer.clear();
            }
            return Ok(());
        }
        if self.changed.has(self.cluster) {
            self.buffer.resize(usize::try_from(size).map_err(io::Error::other)?, 0);
            self.image.put(self.cluster, &self.buffer)?;
            self.left = self.left.saturating_sub(1);
        }
        self.buffer.clear();
        Ok(())
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::diff::HEADER;
    use super::*;
    use crate::store::header::Header;

    /// A difference that tells of these extents.
    fn stream(size: u64, extents: &[Range<u64>]) -> Vec<u8> {
        let mut text = HEADER.to_vec();
        for (tag, name) in [(b'f', "a"), (b't', "b")] {
            text.push(tag);
            text.extend(1_u32.to_le_bytes());
            text.extend(name.as_bytes());
        }
        text.push(b's');
        text.extend(size.to_le_bytes());
        for extent in extents {
            text.push(b'w');
            text.extend(extent.start.to_le_bytes());
            text.extend((extent.end - extent.start).to_le_bytes());
            text.extend((extent.start..extent.end).map(|at| u8::try_from(at % 251).unwrap()));
        }
        text.push(b'e');
        text
    }

    fn written(text: &[u8], changed: &Changed) -> io::Result<u64> {
        write(text, ("a", "b"), changed, &tempfile::tempfile().unwrap())
    }

    #[test]
    fn what_was_said_to_have_changed_must_come_whole() {
        let mut changed = Changed::new(10_000, 9);
        changed.mark(600..601);
        changed.mark(9_990..20_000);
        assert_eq!(changed.count(), 2);
        assert_eq!(written(&stream(10_000, &[0..2048, 8192..10_000]), &changed).unwrap(), 0);
        // In pieces, with others' between them.
        assert_eq!(
            written(&stream(10_000, &[0..700, 700..2048, 8192..9_995, 9_995..10_000]), &changed).unwrap(),
            0
        );
        assert_eq!(written(&stream(10_000, &[0..1024, 1024..2048]), &changed).unwrap(), 1);
        for torn in [
            vec![0..700, 2048..4096],
            vec![600..1024, 1024..2048],
            vec![0..700, 8192..10_000],
            vec![0..2048, 8192..10_001],
        ] {
            assert!(written(&stream(10_000, &torn), &changed).is_err(), "{torn:?}");
        }
        // Of another size, or of other snapshots.
        let whole = stream(10_000, &[0..2048, 8192..10_000]);
        assert!(written(&whole, &Changed::new(9_999, 9)).is_err());
        let other = whole.iter().map(|byte| if *byte == b'a' { b'c' } else { *byte }).collect::<Vec<_>>();
        assert!(written(&other, &changed).is_err());
        assert!(written(&whole[..whole.len() - 1], &changed).is_err());
    }

    /// A list of extents in the first line, and then the difference.
    #[test]
    fn fuzz_differences() {
        const SIZE: u64 = 1 << 20;
        crate::seeded::fuzz("rbd_diff", |bytes| {
            let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
            let (list, stream) = bytes.split_at(end);
            let mut changed = Changed::new(SIZE, 12);
            let _ = serde_json::Deserializer::from_slice(list).deserialize_seq(Marking(&mut changed));
            let count = changed.count();
            assert!(count <= SIZE >> 12, "{count}");
            let file = tempfile::tempfile().unwrap();
            let left = write(stream.get(1..).unwrap_or_default(), ("a", "b"), &changed, &file);
            // Besides what has changed: the header, one table of each kind, and those of the counts.
            assert!(file.metadata().unwrap().len() <= (count + 6) << 12);
            // What was cut off is no image.
            let whole = left.ok().map(|left| {
                assert!(left <= count);
                Header { size: SIZE, backing: None }
            });
            assert_eq!(Header::read(&file), Ok(whole));
        });
    }
}
