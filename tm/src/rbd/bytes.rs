//! A volume's bytes as a plain file, a plain file's as a volume, and whether the two are the same.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::diff::{Diff, Record, malformed};
use super::error::RbdError;
use super::name::{PoolName, Volume};
use super::tool::Rbd;
use crate::host::{During, StorageError, next_data};
use crate::place::named_at_last;

/// Bytes that are compared at once.
const BLOCK: usize = 1 << 20;

impl Rbd<'_> {
    /// Makes a volume of a file's bytes, its holes left out.
    pub(crate) fn import(
        &self,
        file: &Path,
        volume: &Volume,
        data: Option<&PoolName>,
    ) -> Result<(), StorageError> {
        let words = ["--no-progress", &file.to_string_lossy(), &volume.to_string()];
        self.make("import", volume, data, &words)
    }

    /// Makes a file, which must not be there, of the bytes of a volume or of a snapshot; zeros become holes.
    pub(super) fn export(&self, from: &str, file: &Path) -> Result<(), StorageError> {
        // The tool names neither, and what is full or read-only may be the cluster or this file's directory.
        let on = format!("{from} to {}", named_at_last(file).display());
        self.call(&["export"], &on, &["--no-progress", from, &file.to_string_lossy()]).map(drop)
    }

    /// Compares every byte of a volume with a file's; of both only what holds data is read.
    ///
    /// # Errors
    /// [`RbdError::Incomplete`], or what could not be read.
    pub(super) fn compare(&self, volume: &Volume, file: &File, path: &Path) -> Result<(), StorageError> {
        let on = volume.to_string();
        let read = |out| differs(BufReader::with_capacity(BLOCK, out), file);
        let found = self.stream("export-diff", &on, &["--no-progress", "--whole-object", &on, "-"], read)?;
        match found.during("compare", path)? {
            None => Ok(()),
            Some(at) => {
                let why = format!("it differs from {} at byte {at}", path.display());
                Err(RbdError::Incomplete { volume: volume.clone(), why }.into())
            }
        }
    }
}

/// Where a volume, told as a difference from nothing, differs from a file: at which byte.
fn differs(input: impl Read, file: &File) -> io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    let mut diff = Diff::begin(input)?;
    let (mut at, mut buffer) = (0, vec![0; BLOCK]);
    while let Some(record) = diff.next()? {
        let (extent, is_data) = match record {
            Record::From(_) => return Err(malformed()),
            Record::To(_) => continue,
            Record::Size(size) if size == length => continue,
            Record::Size(size) => return Ok(Some(size.min(length))),
            Record::Data(extent) => (extent, true),
            Record::Zeros(extent) => (extent, false),
        };
        let found = zeros(file, at, extent.start)?;
        let found = match found {
            None if is_data => same(&mut diff, file, extent.start, extent.end, &mut buffer)?,
            None => zeros(file, extent.start, extent.end.min(length))?,
            found => found,
        };
        if found.is_some() {
            return Ok(found);
        }
        at = extent.end;
    }
    zeros(file, at, length)
}

/// Where what comes next differs from that part of a file.
fn same(
    diff: &mut Diff<impl Read>,
    file: &File,
    start: u64,
    end: u64,
    buffer: &mut [u8],
) -> io::Result<Option<u64>> {
    let mut theirs = vec![0; buffer.len()];
    let mut at = start;
    while at < end {
        let size = usize::try_from(end - at).unwrap_or(BLOCK).min(buffer.len());
        let (Some(ours), Some(theirs)) = (buffer.get_mut(..size), theirs.get_mut(..size)) else {
            return Ok(Some(at));
        };
        diff.take(theirs)?;
        match file.read_exact_at(ours, at) {
            Ok(()) if ours == theirs => {}
            Ok(()) => return Ok(Some(at)),
            // The volume holds more than the file has.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(at)),
            Err(e) => return Err(e),
        }
        at += u64::try_from(size).unwrap_or(0);
    }
    Ok(None)
}

/// Where a part of a file is something else than zeros: at the beginning of that block.
fn zeros(file: &File, start: u64, end: u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; BLOCK.min(usize::try_from(end.saturating_sub(start)).unwrap_or(BLOCK))];
    let mut at = start;
    while let Some((from, to)) = next_data(file, at, end)? {
        at = from;
        while at < to {
            let size = usize::try_from(to - at).unwrap_or(BLOCK).min(buffer.len());
            let Some(block) = buffer.get_mut(..size) else { return Ok(Some(at)) };
            file.read_exact_at(block, at)?;
            if block.iter().any(|byte| *byte != 0) {
                return Ok(Some(at));
            }
            at += u64::try_from(size).unwrap_or(0);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::cluster::Cluster;
    use super::super::diff::HEADER;
    use super::*;
    use crate::host::Worker;
    use proptest::prelude::*;
    use std::io::Write;

    /// What a volume of these extents would print: start, bytes, and whether they are said to be zeros.
    fn diff(size: u64, extents: &[(u64, Vec<u8>, bool)]) -> Vec<u8> {
        let mut text = HEADER.to_vec();
        text.push(b's');
        text.extend(size.to_le_bytes());
        for (start, bytes, hole) in extents {
            text.push(if *hole { b'z' } else { b'w' });
            text.extend(start.to_le_bytes());
            text.extend((bytes.len() as u64).to_le_bytes());
            if !hole {
                text.extend(bytes);
            }
        }
        text.push(b'e');
        text
    }

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    /// Whose disk is full, the tool does not say.
    #[test]
    fn an_export_that_fails_names_the_file() {
        use std::os::unix::fs::PermissionsExt;
        use std::time::{Duration, Instant};
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("rbd");
        let full = "#!/bin/sh\necho 'rbd: export error: (28) No space left on device' >&2\nexit 28\n";
        std::fs::write(&program, full).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (cluster, worker) =
            (Cluster::default(), Worker::new(dir.path(), Instant::now() + Duration::from_secs(20)));
        let mut rbd = Rbd::new(&cluster, &worker);
        rbd.program = &program;
        let to = Path::new("/ds/100/7/.causeway-tmp.disk.0.1-1-1");
        let said = rbd.export("one/one-5@snap", to).unwrap_err().to_string();
        let wanted =
            "rbd export of one/one-5@snap to /ds/100/7/disk.0: export error: (28) No space left on device";
        assert_eq!(said, wanted);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_byte_that_is_another_is_found(
            parts in proptest::collection::vec((0_usize..9000, proptest::collection::vec(1_u8.., 1..5000), any::<bool>()), 0..5),
            tail in 0_usize..5000, change in any::<proptest::sample::Index>(),
        ) {
            let (mut content, mut extents) = (Vec::new(), Vec::new());
            for (gap, bytes, hole) in parts {
                content.resize(content.len() + gap, 0);
                let bytes = if hole { vec![0; bytes.len()] } else { bytes };
                extents.push((content.len() as u64, bytes.clone(), hole));
                content.extend(bytes);
            }
            content.resize(content.len() + tail, 0);
            let told = diff(content.len() as u64, &extents);
            prop_assert_eq!(differs(&told[..], &file(&content)).unwrap(), None);
            if !content.is_empty() {
                let at = change.index(content.len());
                content[at] = !content[at];
                let found = differs(&told[..], &file(&content)).unwrap();
                prop_assert!(found.is_some_and(|found| found <= at as u64), "{:?}", found);
            }
            content.push(0);
            prop_assert!(differs(&told[..], &file(&content)).unwrap().is_some());
            // Cut off, it is no comparison.
            prop_assert!(differs(&told[..told.len() - 1], &file(&content[..content.len() - 1])).is_err()
                || !content.is_empty());
        }

        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = differs(&bytes[..], &file(b"abc"));
            let _ = differs(&[HEADER, &bytes].concat()[..], &file(b"abc"));
        }
    }
}
