//! A file's data in the one form that both ends agree on, whatever their file systems say about holes.
//!
//! A file is looked at in windows of 1 MiB. A *run* is a longest stretch of grains (4 KiB, the last one of the file may
//! be shorter) inside of one window none of which is all zero. Runs depend on the file's bytes alone, so that a hash
//! over them is the same at both ends, and what is no run is never read twice, never sent, and never written: the copy
//! is as sparse as can be.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::frame::{Hash, RUN};
use crate::host::next_data;

/// Bytes that are kept or left out together: the block of nearly every file system.
pub const GRAIN: u64 = 4 << 10;
/// The same, in the buffer.
const STEP: usize = 4 << 10;
/// Bytes of a window: no run is longer.
pub const WINDOW: u64 = 1 << 20;
/// Bytes of a segment, the unit that is proved, compared and taken up again.
pub const SEGMENT: u64 = 16 << 20;

/// How many segments a file of that size has.
pub fn segments(size: u64) -> u64 {
    size.div_ceil(SEGMENT)
}

/// Why runs were not all told.
pub enum Broken<E> {
    /// The kernel refused to read, or the file has become shorter.
    Read(io::Error),
    /// What whoever was told said.
    Told(E),
}

/// Calls `each` with every run of `file` between `from` and `to`, in order. `from` is the beginning of a window.
///
/// # Errors
/// [`Broken`].
pub fn runs<E>(
    file: &File,
    (from, to): (u64, u64),
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), Broken<E>> {
    let mut at = from;
    let mut window = Window { base: from, upto: 0, begun: None };
    buffer.resize(RUN, 0);
    while let Some((start, end)) = next_data(file, at, to).map_err(Broken::Read)? {
        // Whole grains, whatever the blocks of the file system are; what was looked at is not looked at again.
        let mut place = (start - start % GRAIN).max(at);
        let end = end.next_multiple_of(GRAIN).min(to);
        while place < end {
            let base = place - place % WINDOW;
            if base != window.base {
                window.flush(buffer, &mut each)?;
                window = Window { base, upto: 0, begun: None };
            }
            let stop = end.min(base + WINDOW);
            window.look(file, (place, stop), buffer, &mut each)?;
            place = stop;
        }
        at = end;
    }
    window.flush(buffer, &mut each)
}

/// A window on its way through: its bytes lie in the buffer at their places.
struct Window {
    /// Where it begins in the file.
    base: u64,
    /// Up to where it was looked at.
    upto: usize,
    /// Where the run begins that goes on to there.
    begun: Option<usize>,
}

impl Window {
    /// Looks at what lies between two places of the file; what was passed over is a hole.
    fn look<E>(
        &mut self,
        file: &File,
        (start, stop): (u64, u64),
        buffer: &mut [u8],
        each: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), Broken<E>> {
        let within = |place: u64| usize::try_from(place - self.base).unwrap_or(RUN).min(RUN);
        let (first, last) = (within(start), within(stop));
        if first > self.upto {
            self.flush(buffer, each)?;
            self.upto = first;
        }
        let read = buffer.get_mut(first..last).unwrap_or_default();
        file.read_exact_at(read, start).map_err(Broken::Read)?;
        while self.upto < last {
            let next = last.min(self.upto + STEP);
            if is_zero(buffer.get(self.upto..next).unwrap_or_default()) {
                self.flush(buffer, each)?;
            } else if self.begun.is_none() {
                self.begun = Some(self.upto);
            }
            self.upto = next;
        }
        Ok(())
    }

    /// Tells of the run that ends here, if there is one.
    fn flush<E>(
        &mut self,
        buffer: &[u8],
        each: &mut impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), Broken<E>> {
        let Some(first) = self.begun.take() else { return Ok(()) };
        let at = self.base + u64::try_from(first).unwrap_or(0);
        buffer.get(first..self.upto).map_or(Ok(()), |bytes| each(at, bytes).map_err(Broken::Told))
    }
}

/// In pieces that the compiler makes one comparison of.
fn is_zero(grain: &[u8]) -> bool {
    grain.chunks(128).all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The hash of one segment: its runs with their places.
#[derive(Default)]
pub struct Segment {
    hasher: blake3::Hasher,
    any: bool,
}

impl Segment {
    /// Takes a run in.
    pub fn run(&mut self, at: u64, bytes: &[u8]) {
        self.any = true;
        self.hasher.update(&at.to_be_bytes());
        self.hasher.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.hasher.update(bytes);
    }

    /// The hash, and whether there was any run; it then stands for the next segment.
    pub fn end(&mut self) -> (Hash, bool) {
        let ended = std::mem::take(self);
        (*ended.hasher.finalize().as_bytes(), ended.any)
    }

    /// That of a segment of a file that is `size` bytes long.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn of(file: &File, index: u64, size: u64, buffer: &mut Vec<u8>) -> io::Result<(Hash, bool)> {
        let mut segment = Segment::default();
        let range = (index * SEGMENT, size.min((index + 1) * SEGMENT));
        let read = runs(file, range, buffer, |at, bytes| {
            segment.run(at, bytes);
            Ok::<(), std::convert::Infallible>(())
        });
        match read {
            Ok(()) => Ok(segment.end()),
            Err(Broken::Read(error)) => Err(error),
        }
    }
}

/// The hash of a file: its size, and the hashes of the segments that hold something.
pub struct Whole(blake3::Hasher);

impl Whole {
    /// Of a file of that size, in bytes.
    pub fn new(size: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&size.to_be_bytes());
        Whole(hasher)
    }

    /// Takes the next segment in.
    pub fn segment(&mut self, index: u64, (hash, any): (Hash, bool)) {
        if any {
            self.0.update(&index.to_be_bytes());
            self.0.update(&hash);
        }
    }

    /// The hash.
    pub fn end(&self) -> Hash {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(dir: &std::path::Path, name: &str, size: u64, places: &[(u64, Vec<u8>)]) -> File {
        let file = File::options().read(true).write(true).create_new(true).open(dir.join(name)).unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in places {
            let room = usize::try_from(size.saturating_sub(*at)).unwrap().min(bytes.len());
            file.write_all_at(&bytes[..room], *at).unwrap();
        }
        file
    }

    fn hash(file: &File, size: u64) -> Hash {
        let mut whole = Whole::new(size);
        for index in 0..segments(size) {
            whole.segment(index, Segment::of(file, index, size, &mut Vec::new()).unwrap());
        }
        whole.end()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Where the holes are told from the data makes no difference; one other byte does.
        #[test]
        fn a_hash_is_of_the_bytes_alone(
            size in 1_u64..40_000_000,
            places in proptest::collection::vec((0_u64..40_000_000, proptest::collection::vec(any::<u8>(), 1..9000)), 0..6),
            zeros in 0_u64..40_000_000,
            other in 0_u64..40_000_000,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let sparse = file(dir.path(), "sparse", size, &places);
            let mut filled = places.clone();
            filled.insert(0, (zeros, vec![0; 3_000_000]));
            let filled = file(dir.path(), "filled", size, &filled);
            prop_assert_eq!(hash(&sparse, size), hash(&filled, size));
            let copy = file(dir.path(), "copy", size, &[]);
            let written = runs(&sparse, (0, size), &mut Vec::new(), |at, bytes| copy.write_all_at(bytes, at));
            prop_assert!(written.is_ok());
            prop_assert_eq!(hash(&sparse, size), hash(&copy, size));
            let (other, mut byte) = (other % size, [0]);
            copy.read_exact_at(&mut byte, other).unwrap();
            copy.write_all_at(&[byte[0] ^ 1], other).unwrap();
            prop_assert_ne!(hash(&sparse, size), hash(&copy, size));
        }
    }
}
