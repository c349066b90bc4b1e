//! A qcow2 image that holds some clusters of a disk and says nothing of the others: what lies below it shows through
//! there. It is written once, from the front to the back.
//!
//! ```text
//! header │ L1 table │ data, with an L2 table behind those that it tells of ... │ reference counts │ their table
//! ```
//!
//! The header comes last: what was cut off is no image. Layout: QEMU's `docs/interop/qcow2.txt`, version 3.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// That nothing else refers to a cluster.
const COPIED: u64 = 1 << 63;
/// In an L2 table: the cluster reads as zeros, whatever lies below.
const ZEROS: u64 = 1;
const MAGIC: u32 = 0x5146_49fb;
/// Of a version 3 header without optional fields, bytes.
const HEADER_LENGTH: u32 = 104;

/// QEMU counts in these, bytes, and leaves out what is less than one at the end.
const SECTOR: u64 = 512;

/// Largest L1 table that QEMU reads (`QCOW_MAX_L1_SIZE`), in entries.
const L1_LIMIT: u64 = (32 << 20) / 8;

/// Whether QEMU would open an image of this size with clusters of this one.
///
/// # Errors
/// It would not, or there are no such clusters; in words that follow the disk's name.
pub(crate) fn fits(size: u64, cluster_bits: u32) -> Result<(), String> {
    if !(9..=16).contains(&cluster_bits) {
        return Err(format!("it is kept in pieces of 2^{cluster_bits} bytes; known are those from 2^9 on"));
    }
    // An entry tells of a table, which is a cluster, and that of a cluster for each eight bytes.
    let limit = L1_LIMIT << (2 * cluster_bits - 3);
    if size > limit {
        return Err(format!("it has {size} bytes; an increment of it can be made up to {limit}"));
    }
    Ok(())
}

/// The image, while it is written.
pub(crate) struct Increment<'f> {
    file: &'f File,
    /// The size that a guest sees, whole sectors; bytes.
    size: u64,
    cluster_bits: u32,
    /// How many clusters of the file are taken.
    used: u64,
    /// The lowest number that the next cluster may have.
    next: u64,
    l1: Vec<u64>,
    /// The L2 table that is being filled, and its place in the L1 table.
    table: Option<(usize, Vec<u64>)>,
}

impl<'f> Increment<'f> {
    /// Begins in an empty file; a disk that ends within a sector is filled up with zeros, as in an image that is whole.
    ///
    /// # Errors
    /// As [`fits`].
    pub(crate) fn begin(file: &'f File, size: u64, cluster_bits: u32) -> io::Result<Self> {
        fits(size, cluster_bits).map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        let size = size.next_multiple_of(SECTOR);
        let mut image = Increment { file, size, cluster_bits, used: 1, next: 0, l1: Vec::new(), table: None };
        let covered = image.entries() * image.cluster();
        image.l1 = vec![0; usize::try_from(size.div_ceil(covered).max(1)).map_err(io::Error::other)?];
        let room = image.clusters_of(image.l1.len());
        image.used += room;
        Ok(image)
    }

    /// The size of a cluster, bytes.
    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Writes a cluster, whole. Each comes after those of lower numbers.
    pub(crate) fn put(&mut self, number: u64, bytes: &[u8]) -> io::Result<()> {
        let place = self.place(number)?;
        let entry = if bytes.iter().all(|byte| *byte == 0) {
            ZEROS
        } else {
            let offset = self.append(bytes)?;
            offset | COPIED
        };
        let table = self.table.as_mut().and_then(|(_, entries)| entries.get_mut(place));
        *table.ok_or_else(|| io::Error::other("a cluster beyond the end of its table"))? = entry;
        Ok(())
    }

    /// Writes what the image is found by.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.flush()?;
        let per_block = self.cluster() / 2;
        let (mut blocks, mut table) = (1, 1);
        loop {
            let all = self.used + blocks + table;
            let wanted = all.div_ceil(per_block);
            let room = self.clusters_of(usize::try_from(wanted).map_err(io::Error::other)?);
            if (wanted, room) == (blocks, table) {
                break;
            }
            // Both only grow.
            (blocks, table) = (wanted.max(blocks), room.max(table));
        }
        let all = self.used + blocks + table;
        let mut places = Vec::new();
        for block in 0..blocks {
            let counted = all.saturating_sub(block * per_block).min(per_block);
            let ones = 1_u16.to_be_bytes().repeat(usize::try_from(counted).map_err(io::Error::other)?);
            places.push(self.append(&ones)?);
        }
        let table_at = self.used << self.cluster_bits;
        self.append(&words(&places))?;
        self.file.set_len(self.used << self.cluster_bits)?;
        self.file.write_all_at(&words(&self.l1), self.cluster())?;
        // Data before what says that they are there.
        self.file.sync_all()?;
        self.file.write_all_at(&self.header(table_at, table)?, 0)?;
        self.file.sync_all()
    }

    fn header(&self, counts: u64, clusters: u64) -> io::Result<Vec<u8>> {
        let narrow = |number: u64| u32::try_from(number).map_err(io::Error::other);
        let l1 = u32::try_from(self.l1.len()).map_err(io::Error::other)?;
        let mut header = Vec::new();
        let short = |header: &mut Vec<u8>, number: u32| header.extend(number.to_be_bytes());
        let long = |header: &mut Vec<u8>, number: u64| header.extend(number.to_be_bytes());
        short(&mut header, MAGIC);
        short(&mut header, 3);
        // No backing file.
        long(&mut header, 0);
        short(&mut header, 0);
        short(&mut header, self.cluster_bits);
        long(&mut header, self.size);
        // Not encrypted.
        short(&mut header, 0);
        short(&mut header, l1);
        long(&mut header, self.cluster());
        long(&mut header, counts);
        short(&mut header, narrow(clusters)?);
        // No snapshots; no features.
        short(&mut header, 0);
        for _ in 0..4 {
            long(&mut header, 0);
        }
        // Counts of 16 bits.
        short(&mut header, 4);
        short(&mut header, HEADER_LENGTH);
        // The end of the extensions.
        long(&mut header, 0);
        Ok(header)
    }

    /// The place of a cluster in its L2 table, which becomes the one that is being filled.
    fn place(&mut self, number: u64) -> io::Result<usize> {
        if number < self.next {
            return Err(io::Error::other("a cluster out of its turn"));
        }
        self.next = number.saturating_add(1);
        let index = usize::try_from(number / self.entries()).map_err(io::Error::other)?;
        if self.table.as_ref().is_none_or(|(current, _)| *current != index) {
            self.flush()?;
            if index >= self.l1.len() {
                return Err(io::Error::other("a cluster beyond the end of the disk"));
            }
            let entries = usize::try_from(self.entries()).map_err(io::Error::other)?;
            self.table = Some((index, vec![0; entries]));
        }
        usize::try_from(number % self.entries()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some((index, entries)) = self.table.take() else { return Ok(()) };
        let offset = self.append(&words(&entries))?;
        if let Some(entry) = self.l1.get_mut(index) {
            *entry = offset | COPIED;
        }
        Ok(())
    }

    /// Puts bytes behind all others, from the beginning of a cluster; where that is.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let offset = self.used << self.cluster_bits;
        self.file.write_all_at(bytes, offset)?;
        self.used += u64::try_from(bytes.len()).map_err(io::Error::other)?.div_ceil(self.cluster());
        Ok(offset)
    }

    /// Entries of an L2 table, which is one cluster.
    fn entries(&self) -> u64 {
        self.cluster() / 8
    }

    /// How many clusters a table of so many entries takes.
    fn clusters_of(&self, entries: usize) -> u64 {
        u64::try_from(entries).unwrap_or(u64::MAX).saturating_mul(8).div_ceil(self.cluster())
    }
}

fn words(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::process::Command;

    use proptest::prelude::*;

    fn qemu_img(words: &[&str], path: &Path) {
        let run = Command::new("qemu-img").args(words).arg(path).output().unwrap();
        assert!(run.status.success(), "{words:?}: {run:?}");
    }

    /// Writes these clusters, has QEMU look at the image, and read it over an image of nines.
    fn read_back(clusters: u64, cluster_bits: u32, lacks: u64, written: &BTreeMap<u64, u8>) {
        let dir = tempfile::tempdir().unwrap();
        let (below, path, raw) = (dir.path().join("below"), dir.path().join("image"), dir.path().join("raw"));
        let (cluster, size) = (1_usize << cluster_bits, (clusters << cluster_bits) - lacks);
        let file = File::create_new(&path).unwrap();
        let mut image = Increment::begin(&file, size, cluster_bits).unwrap();
        for (number, byte) in written {
            image.put(*number, &vec![*byte; cluster]).unwrap();
        }
        image.end().unwrap();
        qemu_img(&["check", "-q", "-f", "qcow2"], &path);
        std::fs::write(&below, vec![9; usize::try_from(size).unwrap()]).unwrap();
        let below = below.to_str().unwrap();
        qemu_img(&["rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", below], &path);
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", path.to_str().unwrap()], &raw);
        let bytes = std::fs::read(raw).unwrap();
        assert_eq!(bytes.len() as u64, size.next_multiple_of(SECTOR));
        for (number, found) in bytes[..usize::try_from(size).unwrap()].chunks(cluster).enumerate() {
            let wanted = written.get(&(number as u64)).copied().unwrap_or(9);
            assert!(found.iter().all(|byte| *byte == wanted), "cluster {number}: {} for {wanted}", found[0]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn qemu_reads_what_was_written_and_what_lies_below(
            cluster_bits in 9_u32..=16, clusters in 1_u64..200, lacks in 0_u64..512,
            written in proptest::collection::btree_map(0_u64..200, 0_u8..4, 0..60),
        ) {
            let written = written.into_iter().filter(|(number, _)| *number < clusters).collect();
            read_back(clusters, cluster_bits, lacks, &written);
        }
    }

    /// Small clusters, so that there are many tables of all kinds.
    #[test]
    fn an_image_of_many_tables() {
        let all = (0..9000).map(|number| (number, (number % 5) as u8)).collect();
        read_back(9000, 9, 511, &all);
        read_back(9000, 9, 511, &BTreeMap::new());
        read_back(9000, 9, 511, &[(8999, 3)].into());
    }

    #[test]
    fn sizes_that_qemu_would_not_open_are_refused_before_any_room_is_taken_for_them() {
        let file = tempfile::tempfile().unwrap();
        for (size, bits) in
            [(1 << 20, 0), (1 << 20, 8), (1 << 20, 17), (u64::MAX, 16), ((1 << 51) + 1, 16), (1 << 51, 12)]
        {
            assert!(Increment::begin(&file, size, bits).is_err(), "{size} {bits}");
        }
        for (size, bits) in [(0, 9), (1 << 51, 16), (1 << 43, 12), (1 << 37, 9)] {
            assert_eq!(fits(size, bits), Ok(()), "{size} {bits}");
        }
    }

    #[test]
    fn a_cluster_out_of_its_turn_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let mut image = Increment::begin(&file, 1 << 20, 9).unwrap();
        image.put(100, &[1; 512]).unwrap();
        assert!(image.put(3, &[1; 512]).is_err());
        assert!(image.put(1 << 40, &[1; 512]).is_err());
    }
}
