//! What can be told from a disk that a guest writes in a known order (`tests/lab/disk-writer.c`).

/// What it writes at a time.
const BLOCK: usize = 64 << 10;
/// The disk's blocks.
const BLOCKS: usize = 256;

/// The newest number on the disk; and that it is the disk of one moment: numbers count up from the first block to it, and
/// from the one behind it to the last block there are those of the round before. One block may be `torn` where nothing
/// kept the guest from being cut off in the middle of it.
pub fn newest(disk: &[u8], torn: bool) -> u64 {
    assert_eq!(disk.len(), BLOCK * BLOCKS);
    let numbers = |block: &[u8]| {
        let words = block.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
        let all: Vec<u64> = words.collect();
        (all[0], all.iter().all(|number| *number == all[0]))
    };
    let blocks: Vec<(u64, bool)> = disk.chunks(BLOCK).map(numbers).collect();
    let mixed = blocks.iter().filter(|(_, whole)| !whole).count();
    assert!(mixed <= usize::from(torn), "{mixed} blocks are torn");
    let newest = blocks.iter().map(|(number, _)| *number).max().unwrap();
    let round = u64::try_from(BLOCKS).unwrap();
    for (at, (number, whole)) in (0_u64..).zip(&blocks) {
        let last = newest.checked_sub(1).and_then(|last| last.checked_sub((last + round - at) % round));
        let expected = last.map_or(0, |last| last + 1);
        assert!(
            *number == expected || !whole,
            "block {at} is {number} and not {expected}, the newest is {newest}"
        );
    }
    newest
}
