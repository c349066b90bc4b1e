//! What a user's file is, by its first bytes. QEMU is never left to guess: it opens what a header names.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::{During, StorageError};
use crate::store::header::Header;

/// What an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upload {
    /// A copy-on-write image that needs no other file.
    Qcow2(Header),
    /// Another format, by QEMU's name for it, of a kind that names no other file.
    Other(&'static str),
    /// Anything else is plain bytes, an encrypted disk among them (contract TM 3.2).
    Plain,
}

/// Formats by their first bytes.
const KNOWN: [(&[u8], &str); 4] = [
    (b"vhdxfile", "vhdx"),
    (b"conectix", "vpc"),
    (b"WithoutFreeSpace", "parallels"),
    (b"WithouFreSpacExt", "parallels"),
];
/// What may name other files, in places that we don't read.
const NAMES_OTHERS: &str = "which may name other files";
/// What QEMU has never written, and few have ever read by it.
const RARE: &str = "which is not read here";
/// Formats that become no image, and why.
const REFUSED: [(&[u8], &str, &str); 5] = [
    (b"KDMV", "VMDK", NAMES_OTHERS),
    (b"COWD", "VMDK", NAMES_OTHERS),
    (b"QED\0", "QED", NAMES_OTHERS),
    (b"Bochs Virtual HD Image", "Bochs", RARE),
    (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0", "cloop", RARE),
];
/// Where a VDI image has its signature, and the signature.
const VDI: (usize, [u8; 4]) = (64, [0x7f, 0x10, 0xda, 0xbe]);
/// How the last sector of a DMG image begins: signature, version, its own length.
const DMG: &[u8] = b"koly\0\0\0\x04\0\0\x02\0";
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// How much of a file may have to be read until its format shows, bytes; as much as QEMU looks at.
const FIRST: usize = 2048;
/// Archives that `downloader.sh` unpacks: gzip, bzip2, xz.
const ARCHIVES: [&[u8]; 3] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"];

/// Looks what an upload is.
///
/// # Errors
/// It must not become an image: it names a backing file or another file, or may do so.
pub(crate) fn kind(file: &File, path: &Path) -> Result<Upload, StorageError> {
    let image = |why: String| StorageError::Upload { path: path.to_owned(), why };
    if let Some(header) = Header::read(file).map_err(image)? {
        if let Some(backing) = &header.backing {
            return Err(image(format!(
                "it stands on another file, {backing}: make it whole with `qemu-img convert`, and upload that"
            )));
        }
        return Ok(Upload::Qcow2(header));
    }
    let first = first(file, path)?;
    if let Some((name, why)) = refused(&first, file, path)? {
        return Err(image(format!(
            "it is a {name} image, {why}: convert it to qcow2 or raw, and upload that"
        )));
    }
    Ok(known(&first).map_or(Upload::Plain, Upload::Other))
}

/// A format that QEMU reads and that names no other file, by its name for it.
fn known(first: &[u8]) -> Option<&'static str> {
    if first.get(VDI.0..VDI.0 + VDI.1.len()) == Some(VDI.1.as_slice()) {
        return Some("vdi");
    }
    KNOWN.iter().find(|(magic, _)| first.starts_with(magic)).map(|(_, name)| *name)
}

/// The header of a file that is qcow2 by what oned says (`FORMAT`; of older images `DRIVER`). QEMU's own words for one that
/// is not leave out what it is.
///
/// # Errors
/// [`StorageError::Image`]: it is none, or must not be used.
pub(crate) fn expect_qcow2(file: &File, path: &Path) -> Result<Header, StorageError> {
    let image = |why: String| StorageError::Image { path: path.to_owned(), why };
    if let Some(header) = Header::read(file).map_err(image)? {
        return Ok(header);
    }
    let first = first(file, path)?;
    let format = refused(&first, file, path)?.map(|(name, _)| name).or_else(|| known(&first));
    let found = match format {
        Some(name) => format!("a {name} image"),
        None if is_luks(file, path)? => "an encrypted disk (LUKS)".to_owned(),
        None if is_packed(file, path)? => "an archive".to_owned(),
        None => "plain bytes (raw)".to_owned(),
    };
    Err(image(format!(
        "oned says that it is qcow2 (FORMAT, of older images DRIVER), and it is {found}. Only a qcow2 image is accepted here: \
         register the image with the FORMAT that it has, or put the qcow2 image in its place"
    )))
}

/// The format that must not become an image, and why.
fn refused(
    first: &[u8],
    file: &File,
    path: &Path,
) -> Result<Option<(&'static str, &'static str)>, StorageError> {
    if let Some((_, name, why)) = REFUSED.iter().find(|(magic, ..)| first.starts_with(magic)) {
        return Ok(Some((name, why)));
    }
    if describes_vmdk(first) {
        return Ok(Some(("VMDK", NAMES_OTHERS)));
    }
    let mut last = [0; DMG.len()];
    let length = file.metadata().during("look at", path)?.len();
    let count = match length.checked_sub(SECTOR) {
        Some(at) => file.read_at(&mut last, at).during("read", path)?,
        None => 0,
    };
    Ok((last.get(..count) == Some(DMG)).then_some(("DMG", RARE)))
}

/// Whether it is the text file that a VMDK image may consist of: comments, and then its version.
fn describes_vmdk(first: &[u8]) -> bool {
    let mut lines = first.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let spaces = |line: &[u8]| line.iter().all(|&byte| byte == b' ');
    first.starts_with(b"# Disk DescriptorFile")
        || lines
            .find(|line| !line.starts_with(b"#") && !spaces(line))
            .is_some_and(|line| matches!(line, b"version=1" | b"version=2" | b"version=3"))
}

/// Whether the content of a qcow2 image is encrypted: QEMU then needs a key to look at it.
pub(crate) fn is_encrypted(file: &File, path: &Path) -> Result<bool, StorageError> {
    Ok(first(file, path)?.get(32..36).is_some_and(|method| method != [0; 4]))
}

/// Whether it is encrypted as a whole.
pub(super) fn is_luks(file: &File, path: &Path) -> Result<bool, StorageError> {
    Ok(first(file, path)?.starts_with(b"LUKS\xba\xbe"))
}

/// Whether it is an archive.
pub(super) fn is_packed(file: &File, path: &Path) -> Result<bool, StorageError> {
    let first = first(file, path)?;
    Ok(ARCHIVES.iter().any(|magic| first.starts_with(magic)))
}

/// How many bytes a gzip archive says that it holds, modulo 4 GiB; none for anything else.
pub(super) fn unpacked_size(file: &File, length: u64) -> Option<u64> {
    let mut last = [0; 4];
    first(file, Path::new("")).ok()?.starts_with(ARCHIVES.first()?).then_some(())?;
    file.read_exact_at(&mut last, length.checked_sub(4)?).ok()?;
    Some(u32::from_le_bytes(last).into())
}

/// The first bytes; fewer of a short file. What can't be read is never taken for something harmless.
fn first(file: &File, path: &Path) -> Result<Vec<u8>, StorageError> {
    let mut bytes = vec![0; FIRST];
    let count = file.read_at(&mut bytes, 0).during("read", path)?;
    bytes.truncate(count);
    Ok(bytes)
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

    #[test]
    fn what_is_called_qcow2_and_is_none_is_named() {
        let of = |bytes: &[u8]| expect_qcow2(&file(bytes), Path::new("/d/disk.0.snap/0"));
        let vdi = [&[0; 64][..], &VDI.1].concat();
        let cases: [(&[u8], &str); 7] = [
            (&[0; 4096], "plain bytes (raw)"),
            (b"", "plain bytes (raw)"),
            (b"KDMV\x01\0\0\0", "a VMDK image"),
            (b"vhdxfile", "a vhdx image"),
            (&vdi, "a vdi image"),
            (b"LUKS\xba\xbe\0\x02", "an encrypted disk (LUKS)"),
            (b"\x1f\x8b\x08", "an archive"),
        ];
        for (bytes, found) in cases {
            let said = of(bytes).unwrap_err().to_string();
            let begins = format!(
                "/d/disk.0.snap/0: oned says that it is qcow2 (FORMAT, of older images DRIVER), and it is {found}. "
            );
            assert!(said.starts_with(&begins), "{said}");
        }
        assert!(of(b"QFI\xfb\0\0\0\x01").unwrap_err().to_string().contains("version 1"));
    }

    #[test]
    fn what_may_name_other_files_is_refused() {
        let of = |bytes: &[u8]| kind(&file(bytes), Path::new("/x"));
        for bytes in
            [&b"KDMV\x01\0\0\0"[..], b"# Disk DescriptorFile\nversion=1\n", b"QED\0", b"QFI\xfb\0\0\0\x01"]
        {
            assert!(of(bytes).is_err());
        }
        // The text need not say at its beginning what it is.
        for text in ["version=1\n", "# a\n\n  \r\n#\nversion=3\r\nCID=1\n"] {
            assert!(of(text.as_bytes()).is_err());
        }
        assert_eq!(of(b"#!/bin/sh\n# a script\nversion=4\n").unwrap(), Upload::Plain);
        let mut vdi = vec![0; 512];
        vdi[64..68].copy_from_slice(&VDI.1);
        assert_eq!(of(&vdi).unwrap(), Upload::Other("vdi"));
        assert_eq!(of(b"vhdxfile").unwrap(), Upload::Other("vhdx"));
        for bytes in [&b""[..], b"LUKS\xba\xbe\0\x02", b"QFI", &[0; 4096]] {
            assert_eq!(of(bytes).unwrap(), Upload::Plain);
        }
    }

    /// Each of them was once taken for plain bytes: a disk of its container.
    #[test]
    fn every_format_that_qemu_knows_is_known() {
        let of = |bytes: &[u8]| kind(&file(bytes), Path::new("/x"));
        for magic in [b"WithoutFreeSpace", b"WithouFreSpacExt"] {
            assert_eq!(of(magic).unwrap(), Upload::Other("parallels"));
        }
        let mut dmg = vec![7; 4096];
        dmg.extend(DMG);
        dmg.resize(4096 + 512, 0);
        let cloop =
            b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop0 $1\n";
        for (bytes, name) in [
            (dmg.as_slice(), "DMG"),
            (b"Bochs Virtual HD Image\0\0\0\0\0\0\0\0\0\0Redolog\0", "Bochs"),
            (cloop, "cloop"),
        ] {
            let said = of(bytes).unwrap_err().to_string();
            assert!(
                said.contains(&format!("it is a {name} image, which is not read here: convert it")),
                "{said}"
            );
        }
        // A disk that only has the word in its last sector.
        let end = dmg.len() - 508;
        dmg[end..].fill(0);
        assert_eq!(of(&dmg).unwrap(), Upload::Plain);
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_plain_bytes() {
        // The first bytes of a directory can't be read.
        let (unreadable, path) = (File::open("/").unwrap(), Path::new("/x"));
        for error in [
            is_packed(&unreadable, path).unwrap_err(),
            is_luks(&unreadable, path).unwrap_err(),
            is_encrypted(&unreadable, path).unwrap_err(),
            kind(&unreadable, path).unwrap_err(),
        ] {
            assert!(error.to_string().contains("/x"), "{error}");
        }
    }

    #[test]
    fn archives_are_known_by_their_first_bytes() {
        for (bytes, packed) in
            [(&b"\x1f\x8b\x08"[..], true), (b"BZh9", true), (b"\xfd7zXZ\0\0", true), (b"PK", false)]
        {
            assert_eq!(is_packed(&file(bytes), Path::new("x")).unwrap(), packed);
        }
        let bytes = [b"\x1f\x8b".as_slice(), &[0; 20], &7_u32.to_le_bytes()].concat();
        assert_eq!(unpacked_size(&file(&bytes), 26), Some(7));
        assert_eq!(unpacked_size(&file(b"\x1f\x8b"), 2), None);
        assert_eq!(unpacked_size(&file(&[0; 26]), 26), None);
    }

    #[test]
    fn fuzz_uploads() {
        crate::seeded::fuzz("qcow2", |bytes| {
            let (file, length) = (file(bytes), u64::try_from(bytes.len()).unwrap());
            let size = unpacked_size(&file, length);
            assert!(size.is_none() || is_packed(&file, Path::new("/x")).unwrap());
            match kind(&file, Path::new("/x")) {
                // It becomes an image: QEMU will open it, and nothing besides.
                Ok(Upload::Qcow2(header)) => assert_eq!(header.backing, None),
                Ok(Upload::Other(_)) => {}
                Ok(Upload::Plain) => {
                    assert!(!bytes.starts_with(b"QFI\xfb") && !bytes.starts_with(b"KDMV"));
                    assert!(!describes_vmdk(&bytes[..bytes.len().min(FIRST)]));
                }
                Err(error) => assert!(error.to_string().contains("/x"), "{error}"),
            }
            let _ = (is_encrypted(&file, Path::new("/x")), is_luks(&file, Path::new("/x")));
        });
    }
}
