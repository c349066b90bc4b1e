//! The archives that backups of volumes are restored from (contract TM 2.3): tar files with `disk.N.rbd2`, a volume, and
//! `disk.N.1.rbdiff` and so on, the differences that follow. Of tar as much as such archives use.

use std::io::{self, Read};

use super::super::name::number;

/// Bytes of a block; everything in a tar file begins at a multiple of it.
pub(super) const BLOCK: u64 = 512;
/// Most parts of one archive.
const PARTS: usize = 4096;

/// One part of a backup. Sorted by disk, the volume before its differences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    /// `DISK_ID`.
    pub disk: u32,
    /// 0 is the volume.
    pub increment: u32,
}

impl Part {
    fn named(name: &str) -> Option<Self> {
        let base = name.rsplit('/').next()?.strip_prefix("disk.")?;
        if let Some(disk) = base.strip_suffix(".rbd2") {
            return Some(Part { disk: number(disk)?, increment: 0 });
        }
        let (disk, increment) = base.strip_suffix(".rbdiff")?.split_once('.')?;
        let increment = number(increment).filter(|increment| *increment > 0)?;
        Some(Part { disk: number(disk)?, increment })
    }
}

/// A file in an archive.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    /// Bytes.
    size: u64,
    /// Whether it is a file, and no directory, link or what else there is.
    file: bool,
}

impl Entry {
    /// Of a header; none of the blocks of zeros that end an archive.
    fn read(block: &[u8; 512]) -> Result<Option<Self>, String> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let field = |at: usize, length: usize| block.get(at..at + length).unwrap_or_default();
        let wanted = octal(field(148, 8)).ok_or("a header without a sum")?;
        // The sum counts its own place as blanks.
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let own: u64 = field(148, 8).iter().map(|byte| u64::from(*byte)).sum();
        if sum - own + 8 * u64::from(b' ') != wanted {
            return Err("a header that does not add up".to_owned());
        }
        let text = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
        };
        let size = size(field(124, 12)).ok_or("a header without a size")?;
        let file = matches!(field(156, 1), [0 | b'0']);
        Ok(Some(Entry { name: text(field(0, 100)), size, file }))
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    u64::from_str_radix(text, 8).ok()
}

/// In octal digits, or above 8 GiB in binary with the first bit set.
fn size(field: &[u8]) -> Option<u64> {
    match field.split_first() {
        Some((0x80, rest)) => {
            let (high, low) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
            let small = high.iter().all(|byte| *byte == 0);
            small.then(|| low.iter().fold(0, |size, byte| size << 8 | u64::from(*byte)))
        }
        _ => octal(field),
    }
}

/// Whether these are the first bytes of such an archive.
pub(super) fn begins(first: &[u8]) -> bool {
    let block = <&[u8; 512]>::try_from(first).ok();
    let entry = block.and_then(|block| Entry::read(block).ok().flatten());
    entry.is_some_and(|entry| entry.file && Part::named(&entry.name).is_some())
}

/// Reads an archive to its end, and hands out the bytes of each part.
///
/// # Errors
/// It is cut off or torn, holds something else, or `take` failed.
pub(super) fn read(
    mut from: impl Read,
    mut take: impl FnMut(Part, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut count = 0;
    loop {
        let mut block = [0; 512];
        from.read_exact(&mut block)?;
        let Some(entry) = Entry::read(&block).map_err(wrong)? else { break };
        let part = Part::named(&entry.name).filter(|_| entry.file && count < PARTS);
        let part = part.ok_or_else(|| wrong(format!("{:?} is no part of a volume", entry.name)))?;
        count += 1;
        let mut bytes = from.by_ref().take(entry.size);
        take(part, &mut bytes)?;
        if bytes.limit() > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let rest = entry.size.next_multiple_of(BLOCK) - entry.size;
        let skipped = io::copy(&mut from.by_ref().take(rest), &mut io::sink())?;
        if skipped != rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // To its end, so that whoever unpacks it can say that its sum was wrong.
    io::copy(&mut from, &mut io::sink()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program `tar` makes of files with these names and contents.
    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let mut tar = std::process::Command::new("tar");
        tar.args(["-c", "-C"]).arg(dir.path()).args(files.iter().map(|(name, _)| name));
        tar.output().unwrap().stdout
    }

    fn parts(bytes: &[u8]) -> io::Result<Vec<(Part, Vec<u8>)>> {
        let mut found = Vec::new();
        read(bytes, |part, bytes| {
            let mut content = Vec::new();
            bytes.read_to_end(&mut content)?;
            found.push((part, content));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn what_tar_makes_is_read_and_what_is_cut_off_is_not() {
        let (whole, diff) = (vec![7; 1000], vec![8; 512]);
        let bytes = archive(&[("disk.3.rbd2", &whole), ("disk.3.10.rbdiff", &diff)]);
        assert!(begins(&bytes[..512]));
        let of = |increment| Part { disk: 3, increment };
        assert_eq!(parts(&bytes).unwrap(), [(of(0), whole), (of(10), diff)]);
        for cut in [0, 511, 512, 600, 1535, 2048, 2500] {
            assert!(parts(&bytes[..cut]).is_err(), "{cut}");
        }
        let mut torn = bytes.clone();
        torn[0] ^= 1;
        assert!(!begins(&torn[..512]) && parts(&torn).is_err());
    }

    #[test]
    fn other_archives_are_no_volumes() {
        for name in ["disk.rbd2", "disk.01.rbd2", "disk.0.0.rbdiff", "disk.0.img", "xdisk.0.rbd2", "os.raw"] {
            let bytes = archive(&[(name, b"x")]);
            assert!(!begins(&bytes[..512]), "{name}");
            assert!(parts(&bytes).is_err(), "{name}");
        }
        assert!(!begins(&[0; 512]) && !begins(&[1; 512]) && !begins(b""));
        assert!(parts(&archive(&[("disk.0.rbd2", b"x"), ("other", b"x")])).is_err());
    }

    #[test]
    fn sizes_in_both_forms() {
        assert_eq!(size(b"00000001750\0"), Some(1000));
        assert_eq!(size(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Some(2 << 32));
        assert_eq!(size(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(size(b"            "), None);
    }

    #[test]
    fn fuzz_archives() {
        crate::seeded::fuzz("tarball", |bytes| {
            let begins = begins(bytes.get(..512).unwrap_or(bytes));
            let Ok(parts) = parts(bytes) else { return };
            // Nothing is made of nothing; and whoever looks at the first block alone is not mistaken.
            assert!(parts.len() <= PARTS);
            assert!(parts.iter().map(|(_, content)| content.len() + 512).sum::<usize>() <= bytes.len());
            assert_eq!(begins, !parts.is_empty());
        });
    }
}
