//! The header of a qcow2 image, as far as it decides what may be done with it (QEMU's `docs/interop/qcow2.txt`).
//!
//! Read here rather than by `qemu-img info`, which opens all that the header names before we can object.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::host::{CHAIN_LIMIT, During, StorageError};

/// The first four bytes of a qcow2 image.
const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes of the fixed part: of version 3, and of version 2, which has none of the last ones.
const FIXED: usize = 104;
const FIXED_OF_2: usize = 72;
/// Largest table of tables that is looked through, bytes: that of a disk of 64 TiB.
const TABLE: u64 = 1 << 20;
/// Where an entry of it has the place of a table.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;
/// Longest backing file name that the format allows, bytes.
const NAME_LIMIT: u32 = 1023;
/// Incompatible feature bit: the guest's data lie in another file.
const DATA_FILE: u64 = 1 << 2;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// The size that a guest sees, bytes.
    pub size: u64,
    /// The backing file's name, as it is written.
    pub backing: Option<String>,
}

impl Header {
    /// Reads an image's header; none if the file is no qcow2 image.
    ///
    /// # Errors
    /// What is wrong with it, in words that follow the image's name.
    pub(crate) fn read(file: &File) -> Result<Option<Self>, String> {
        let (fixed, filled) = beginning(file)?;
        let Some((size, name)) = parse(&fixed)? else { return Ok(None) };
        if filled < if field(&fixed, 4) == 2_u32.to_be_bytes() { FIXED_OF_2 } else { FIXED } {
            return Err(cut_off(filled.try_into().unwrap_or_default(), "its header is longer"));
        }
        let Some((offset, length)) = name else { return Ok(Some(Header { size, backing: None })) };
        let mut name = vec![0; length];
        file.read_exact_at(&mut name, offset)
            .map_err(|e| format!("the name of its backing file cannot be read: {e}"))?;
        let backing = String::from_utf8(name).ok().filter(|name| !name.chars().any(char::is_control));
        let backing = backing.ok_or("the name of its backing file is no text")?;
        Ok(Some(Header { size, backing: Some(backing) }))
    }
}

/// Sees to it that an image that nobody writes was not cut off: QEMU reads zeros where a table is missing, or data. That the
/// data are there only `qemu-img check` can tell, which looks through all tables.
///
/// # Errors
/// It was, in words that follow its name.
pub(crate) fn expect_whole(file: &File) -> Result<(), String> {
    let (fixed, _) = beginning(file)?;
    if !fixed.starts_with(&MAGIC) {
        return Ok(());
    }
    let unread = |e: std::io::Error| format!("its tables cannot be read: {e}");
    let length = file.metadata().map_err(unread)?.len();
    let u64_at = |at: usize| u64::from_be_bytes(field(&fixed, at));
    let (table, room) = (u64_at(40), u64::from(u32::from_be_bytes(field(&fixed, 36))) * 8);
    if table.checked_add(room).is_none_or(|end| end > length) || u64_at(48) > length {
        return Err(cut_off(length, "its tables lie behind that"));
    }
    if room > TABLE {
        return Ok(());
    }
    let mut entries = vec![0; usize::try_from(room).unwrap_or_default()];
    file.read_exact_at(&mut entries, table).map_err(unread)?;
    let (entries, _) = entries.as_chunks::<8>();
    if entries.iter().any(|entry| u64::from_be_bytes(*entry) & PLACE >= length) {
        return Err(cut_off(length, "some of its tables lie behind that"));
    }
    Ok(())
}

/// Sees to it that a chain can be read without a key.
///
/// # Errors
/// A file of it is encrypted, or cannot be read.
pub(crate) fn expect_plain(path: &Path) -> Result<(), StorageError> {
    let mut next = Some(path.to_owned());
    for _ in 0..=CHAIN_LIMIT {
        let Some(path) = next.take() else { return Ok(()) };
        let image = |why: String| StorageError::Image { path: path.clone(), why };
        let file = File::open(&path).during("open", &path)?;
        let (fixed, _) = beginning(&file).map_err(image)?;
        if fixed.starts_with(&MAGIC) && u32::from_be_bytes(field(&fixed, 32)) != 0 {
            let why = "its content is encrypted, and it can't be read without its key: only copies that stand on it can be \
                       made; a raw LUKS image (`qemu-img convert -O luks`) can be copied as it is";
            return Err(image(why.to_owned()));
        }
        let backing = Header::read(&file).map_err(image)?.and_then(|header| header.backing);
        next = backing.and_then(|name| Some(path.parent()?.join(name)));
    }
    Ok(())
}

/// Sees to it that an image can remember what a guest changes, which those of the format's first years can't.
///
/// # Errors
/// It is one of these.
pub(crate) fn expect_memory(path: &Path) -> Result<(), StorageError> {
    let image = |why: String| StorageError::Image { path: path.to_owned(), why };
    let file = File::open(path).during("open", path)?;
    let (fixed, _) = beginning(&file).map_err(image)?;
    if fixed.starts_with(&MAGIC) && field(&fixed, 4) == 2_u32.to_be_bytes() {
        return Err(image(format!(
            "it is a qcow2 file of compat 0.10, which can't remember what its guest changes, as increments need it: while \
             the VM is off, `qemu-img amend -f qcow2 -o compat=1.1 {}`, or let its backups be whole (BACKUP_CONFIG MODE=FULL)",
            path.display()
        )));
    }
    Ok(())
}

fn cut_off(length: u64, how: &str) -> String {
    format!("it was cut off: it has {length} bytes, and {how}; fetch it again, or restore it")
}

/// The fixed part of a header, and how many bytes of it there are.
fn beginning(file: &File) -> Result<([u8; FIXED], usize), String> {
    let mut fixed = [0; FIXED];
    let mut filled = 0;
    while let Some(rest) = fixed.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let offset = u64::try_from(filled).unwrap_or(u64::MAX);
        match file.read_at(rest, offset).map_err(|e| format!("its header cannot be read: {e}"))? {
            0 => break,
            count => filled += count,
        }
    }
    Ok((fixed, filled))
}

/// Size, and place and length of the backing file's name; none if this is no qcow2 header.
type Parsed = Option<(u64, Option<(u64, usize)>)>;

fn parse(fixed: &[u8; FIXED]) -> Result<Parsed, String> {
    if !fixed.starts_with(&MAGIC) {
        return Ok(None);
    }
    let u32_at = |at: usize| u32::from_be_bytes(field(fixed, at));
    let u64_at = |at: usize| u64::from_be_bytes(field(fixed, at));
    let version = u32_at(4);
    if !matches!(version, 2 | 3) {
        return Err(format!("it is a qcow2 image of version {version}, which is not known here"));
    }
    // Version 2 has no feature bits; whatever stands there is something else.
    if version == 3 && u64_at(72) & DATA_FILE != 0 {
        return Err("it keeps its data in another file".to_owned());
    }
    let (offset, length) = (u64_at(8), u32_at(16));
    let name = match (offset, length) {
        (0, _) => None,
        (_, 1..=NAME_LIMIT) => usize::try_from(length).ok().map(|length| (offset, length)),
        _ => return Err(format!("the name of its backing file has {length} bytes")),
    };
    Ok(Some((u64_at(24), name)))
}

/// `N` bytes at a place inside the fixed part.
fn field<const N: usize>(fixed: &[u8; FIXED], at: usize) -> [u8; N] {
    // Every place asked for is a constant inside the array; zeros could only come from a wrong constant.
    fixed.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// A header as the format's description lays it out.
    fn header(version: u32, features: u64, size: u64, backing: &str) -> Vec<u8> {
        let mut bytes = vec![0; 112];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&version.to_be_bytes());
        bytes[24..32].copy_from_slice(&size.to_be_bytes());
        bytes[72..80].copy_from_slice(&features.to_be_bytes());
        if !backing.is_empty() {
            bytes[8..16].copy_from_slice(&112_u64.to_be_bytes());
            bytes[16..20].copy_from_slice(&u32::try_from(backing.len()).unwrap().to_be_bytes());
            bytes.extend(backing.as_bytes());
        }
        bytes
    }

    #[test]
    fn known_headers() {
        let read = |bytes: &[u8]| Header::read(&file(bytes));
        let made =
            |size, backing: Option<&str>| Ok(Some(Header { size, backing: backing.map(str::to_owned) }));
        assert_eq!(read(&header(3, 0, 1 << 30, "")), made(1 << 30, None));
        assert_eq!(read(&header(2, u64::MAX, 512, "disk.0.snap/0")), made(512, Some("disk.0.snap/0")));
        assert_eq!(read(b""), Ok(None));
        assert_eq!(read(b"QFI"), Ok(None));
        assert_eq!(read(&[0; 4096]), Ok(None));
    }

    #[test]
    fn headers_that_must_not_be_used() {
        let why = |bytes: &[u8]| Header::read(&file(bytes)).unwrap_err();
        assert!(why(&header(1, 0, 0, "")).contains("version 1"));
        assert_eq!(why(&header(3, DATA_FILE, 0, "")), "it keeps its data in another file");
        assert!(why(&header(3, 0, 0, "a\nb")).contains("no text"));
        assert!(why(&header(3, 0, 0, &"x".repeat(1024))).contains("1024 bytes"));
        let mut cut = header(3, 0, 0, "/backing");
        cut.truncate(115);
        assert!(why(&cut).contains("cannot be read"));
        assert!(
            why(b"QFI\xfb\0\0\0\x03").starts_with("it was cut off: it has 8 bytes, and its header is longer")
        );
        assert!(why(&header(2, 0, 512, "")[..71]).starts_with("it was cut off"));
        assert!(Header::read(&file(&header(2, 0, 512, "")[..72])).is_ok());
    }

    /// Cut at any place, an image of QEMU's making is no whole one as long as a table is missing.
    #[test]
    fn an_image_that_lacks_a_table_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        for (program, words) in [
            ("qemu-img", &["create", "-q", "-f", "qcow2", "PATH", "3G"][..]),
            ("qemu-io", &["-f", "qcow2", "-c", "write -q 0 64k", "-c", "write -q 2G 64k", "PATH"]),
        ] {
            let words = words.iter().map(|word| if *word == "PATH" { path.to_str().unwrap() } else { word });
            assert!(std::process::Command::new(program).args(words).status().unwrap().success());
            // Either is whole.
            assert_eq!(expect_whole(&File::open(&path).unwrap()), Ok(()));
        }
        let bytes = std::fs::read(&path).unwrap();
        let second = 0x6_0000;
        for cut in [104, 4096, 0x1_0000, 0x3_0000, 0x3_0008, 0x4_0000, second] {
            let error = expect_whole(&file(&bytes[..cut])).unwrap_err();
            assert!(error.starts_with(&format!("it was cut off: it has {cut} bytes")), "{error}");
        }
        assert_eq!(expect_whole(&file(&bytes)), Ok(()));
        assert_eq!(expect_whole(&file(b"plain bytes")), Ok(()));
    }

    #[test]
    fn fuzz_headers() {
        crate::seeded::fuzz("qcow2", |bytes| {
            let read = Header::read(&file(bytes));
            if let Err(why) = expect_whole(&file(bytes)) {
                assert!(why.starts_with("it was cut off") || why.contains("cannot be read"), "{why}");
            }
            // What begins like one is one, or is refused: it is never taken for plain bytes.
            assert_eq!(matches!(read, Ok(None)), !bytes.starts_with(&MAGIC), "{read:?}");
            match read {
                Ok(header) => {
                    let name = header.and_then(|header| header.backing).unwrap_or_else(|| "x".to_owned());
                    assert!((1..=1023).contains(&name.len()) && !name.contains(char::is_control), "{name:?}");
                }
                Err(why) => assert!(!why.is_empty() && !why.contains('\n')),
            }
        });
    }
}
