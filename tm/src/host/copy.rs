//! Copying the bytes of a file: shared if the file system can, else extent by extent with the holes kept, else block by
//! block.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

use super::{Meter, Worker};

/// Bytes that one call moves: memory stays small and the next call sees a deadline soon.
const BLOCK: usize = 1 << 20;
/// Bytes that are looked at for zeros where a file system does not tell where holes are.
const GRAIN: usize = 64 << 10;

/// Makes `to`, a new file, hold the first `length` bytes of `from`, all that it has.
///
/// # Errors
/// What the kernel says; [`io::ErrorKind::InvalidData`] if the file has another length by now.
pub(crate) fn copy_data(from: (&Path, &File), to: &File, length: u64, worker: &Worker<'_>) -> io::Result<()> {
    let (path, from) = from;
    match ioctl_ficlone(to, from) {
        Ok(()) => {}
        Err(e) if unsupported(e) => {
            let allocated = from.metadata()?.blocks().saturating_mul(512);
            let mut meter = Meter::new(worker, path, allocated.min(length));
            copy_extents(from, to, length, &mut meter)?;
        }
        Err(e) => return Err(e.into()),
    }
    if from.metadata()?.len() == length {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "its length changed while it was copied"))
    }
}

fn copy_extents(from: &File, to: &File, length: u64, meter: &mut Meter<'_>) -> io::Result<()> {
    to.set_len(length)?;
    // A file whose blocks are fewer than its bytes has holes. Where the file system does not tell them, only reading
    // finds them, and a copy inside the kernel would fill them.
    let allocated = from.metadata()?.blocks().saturating_mul(512);
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at, length)? {
        let told = start > 0 || end < length;
        let by_hand = !told && allocated < length;
        if by_hand || !copy_in_kernel(from, to, (start, end), meter)? {
            copy_blocks(from, to, (start, end), meter)?;
        }
        at = end;
    }
    Ok(())
}

/// Whether an error means that this way of copying is not to be had here.
fn unsupported(error: Errno) -> bool {
    // EPERM and ETXTBSY come from file systems that refuse some files (immutable, swap) though a plain copy works.
    [Errno::OPNOTSUPP, Errno::NOTTY, Errno::XDEV, Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::TXTBSY]
        .contains(&error)
}

/// The next extent with data at or after `at`: start and end, bytes.
pub(crate) fn next_data(from: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match seek(from, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // It does not know of holes: all is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, length))),
        Err(e) => return Err(e.into()),
    };
    if start >= length {
        return Ok(None);
    }
    let end = seek(from, SeekFrom::Hole(start))?;
    Ok(Some((start, end.clamp(start + 1, length))))
}

/// Has the kernel copy an extent; `false` if it can't, and what it did copy will be copied again.
fn copy_in_kernel(
    from: &File,
    to: &File,
    (start, end): (u64, u64),
    meter: &mut Meter<'_>,
) -> io::Result<bool> {
    let (mut source, mut target) = (start, start);
    while source < end {
        let left = usize::try_from(end - source).unwrap_or(usize::MAX).min(meter.most());
        match copy_file_range(from, Some(&mut source), to, Some(&mut target), left) {
            // Some kernels say so before the end of a file; the plain way finds out what is true.
            Ok(0) => return Ok(false),
            Ok(moved) => meter.moved(moved)?,
            Err(Errno::INTR) => {}
            Err(e) if unsupported(e) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}

/// Whether two files hold the same bytes. What is a hole in both is not read.
///
/// # Errors
/// What the kernel says.
pub(crate) fn same_data(a: &File, b: &File) -> io::Result<bool> {
    let length = a.metadata()?.len();
    if b.metadata()?.len() != length {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = 0;
    loop {
        let extents = [next_data(a, at, length)?, next_data(b, at, length)?];
        let Some((start, end)) = extents.into_iter().flatten().min() else { return Ok(true) };
        at = start;
        while at < end {
            let size = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK);
            let (Some(left), Some(right)) = (left.get_mut(..size), right.get_mut(..size)) else {
                return Ok(false);
            };
            a.read_exact_at(left, at)?;
            b.read_exact_at(right, at)?;
            if left != right {
                return Ok(false);
            }
            at += u64::try_from(size).unwrap_or(0);
        }
    }
}

/// Copies an extent block by block, and leaves out what is zero: the target is a new file, so it is zero there.
fn copy_blocks(from: &File, to: &File, (start, end): (u64, u64), meter: &mut Meter<'_>) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut at = start;
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(BLOCK).min(BLOCK).min(meter.most());
        let Some(block) = buffer.get_mut(..left) else { return Ok(()) };
        from.read_exact_at(block, at)?;
        for grain in block.chunks(GRAIN) {
            if grain.iter().any(|&byte| byte != 0) {
                to.write_all_at(grain, at)?;
            }
            at += u64::try_from(grain.len()).unwrap_or(0);
        }
        meter.moved(left)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Seek};
    use std::time::{Duration, Instant};

    /// A file with data at some places only.
    fn sparse(dir: &std::path::Path, length: u64, places: &[(u64, Vec<u8>)]) -> File {
        let file = File::options().read(true).write(true).create_new(true).open(dir.join("from")).unwrap();
        file.set_len(length).unwrap();
        for (at, bytes) in places {
            let room = usize::try_from(length.saturating_sub(*at)).unwrap().min(bytes.len());
            file.write_all_at(&bytes[..room], *at).unwrap();
        }
        file
    }

    fn content(mut file: &File) -> Vec<u8> {
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Both ways of copying give the same bytes.
        #[test]
        fn a_copy_is_the_same(
            length in 0_u64..3_000_000,
            places in proptest::collection::vec((0_u64..3_000_000, proptest::collection::vec(any::<u8>(), 1..5000)), 0..6),
        ) {
            let dir = tempfile::tempdir().unwrap();
        let worker = Worker::new(Path::new("/"), Instant::now() + Duration::from_secs(60));
            let from = sparse(dir.path(), length, &places);
            let to = File::options().read(true).write(true).create_new(true).open(dir.path().join("to")).unwrap();
            copy_data((dir.path(), &from), &to, length, &worker).unwrap();
            prop_assert!(content(&from) == content(&to));
            let by_hand = File::options().read(true).write(true).create_new(true).open(dir.path().join("hand")).unwrap();
            by_hand.set_len(length).unwrap();
            copy_blocks(&from, &by_hand, (0, length), &mut Meter::new(&worker, dir.path(), 0)).unwrap();
            prop_assert!(content(&from) == content(&by_hand));
            prop_assert!(same_data(&from, &to).unwrap());
            if let Some((at, _)) = places.iter().find(|(at, _)| *at < length) {
                let mut byte = [0];
                to.read_exact_at(&mut byte, *at).unwrap();
                to.write_all_at(&[!byte[0]], *at).unwrap();
                prop_assert!(!same_data(&from, &to).unwrap());
            }
        }
    }

    #[test]
    fn holes_stay_holes_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let worker = Worker::new(Path::new("/"), Instant::now() + Duration::from_secs(60));
        let places = [(0, vec![1; 70_000]), (500 << 20, vec![2; 100_000])];
        let from = sparse(dir.path(), 600 << 20, &places);
        let to = File::create_new(dir.path().join("to")).unwrap();
        copy_data((dir.path(), &from), &to, 600 << 20, &worker).unwrap();
        let by_hand = File::create_new(dir.path().join("hand")).unwrap();
        by_hand.set_len(600 << 20).unwrap();
        copy_blocks(&from, &by_hand, (0, 600 << 20), &mut Meter::new(&worker, dir.path(), 0)).unwrap();
        for copy in [to, by_hand] {
            let copy = copy.metadata().unwrap();
            assert_eq!(copy.len(), 600 << 20);
            assert!(copy.blocks() * 512 < 1 << 20, "{} blocks", copy.blocks());
        }
    }

    #[test]
    fn a_file_that_changes_its_length_is_no_success() {
        let dir = tempfile::tempdir().unwrap();
        let worker = Worker::new(Path::new("/"), Instant::now() + Duration::from_secs(60));
        let from = sparse(dir.path(), 10_000, &[(0, vec![1; 10_000])]);
        let to = File::create_new(dir.path().join("to")).unwrap();
        for length in [20_000, 5_000] {
            assert_eq!(
                copy_data((dir.path(), &from), &to, length, &worker).unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
        }
    }
}
