//! What is packed, and unpacking it: by the packer's own program, which ends with its error and at the deadline.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::tarball::{self, Part};
use crate::host::{During, Scratch, StorageError, Tool, Worker, pour};

/// How something is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Bzip2,
    Xz,
}

impl Packing {
    /// By the first bytes; none of what is not packed.
    pub(super) fn of(file: &File) -> Option<Self> {
        let mut first = [0; 6];
        let count = file.read_at(&mut first, 0).unwrap_or(0);
        let first = first.get(..count).unwrap_or_default();
        let known: [(&[u8], Packing); 3] =
            [(b"\x1f\x8b", Packing::Gzip), (b"BZh", Packing::Bzip2), (b"\xfd7zXZ\0", Packing::Xz)];
        known.into_iter().find(|(magic, _)| first.starts_with(magic)).map(|(_, packing)| packing)
    }

    fn program(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Bzip2 => "bzip2",
            Packing::Xz => "xz",
        }
    }

    /// The first block of what is in it. Archives of volumes are packed by gzip: of anything else it is empty.
    pub(super) fn first_block(self, file: &File) -> Vec<u8> {
        let mut block = Vec::new();
        if self == Packing::Gzip {
            let packed = At { file, at: 0 };
            let mut inside = flate2::read::MultiGzDecoder::new(packed).take(tarball::BLOCK);
            let _ = inside.read_to_end(&mut block);
        }
        block
    }

    fn tool(self, staged: &Scratch) -> Tool {
        let mut tool = Tool::new(self.program(), Path::new("what was sent"));
        tool.arg("-dc").arg(staged.path());
        tool
    }
}

/// A file from its beginning, wherever others have left it.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += u64::try_from(count).unwrap_or(0);
        Ok(count)
    }
}

/// Unpacks it into another file.
pub(super) fn unpack(
    staged: &Scratch,
    dir: &Path,
    packing: Packing,
    worker: &Worker<'_>,
) -> Result<Scratch, StorageError> {
    let plain = Scratch::new(dir)?;
    let length = packing.tool(staged).stream(worker, |mut pipe| pour(&mut pipe, plain.file(), true))?;
    let length = length.during("unpack into", dir)?;
    plain.file().set_len(length).during("grow a file in", dir)?;
    worker.at("unpacked");
    Ok(plain)
}

/// Unpacks an archive of volumes, each part into a file of its own.
pub(super) fn extract(
    staged: &Scratch,
    dir: &Path,
    packing: Packing,
    worker: &Worker<'_>,
) -> Result<Vec<(Part, Scratch)>, StorageError> {
    let mut parts = Vec::new();
    let mut failed = None;
    let read = packing.tool(staged).stream(worker, |pipe| {
        tarball::read(pipe, |part, bytes| {
            let file = match Scratch::new(dir) {
                Ok(file) => file,
                Err(error) => {
                    failed = Some(error);
                    return Err(io::ErrorKind::Other.into());
                }
            };
            let length = pour(bytes, file.file(), true)?;
            file.file().set_len(length)?;
            parts.push((part, file));
            Ok(())
        })
    });
    if let Some(error) = failed {
        return Err(error);
    }
    read?.map_err(|e| StorageError::Upload {
        path: "what was sent".into(),
        why: format!("it is an archive of volumes that can't be read: {e}"),
    })?;
    worker.at("parts unpacked");
    Ok(parts)
}
