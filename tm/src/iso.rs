//! The context image: an ISO 9660 file system with Rock Ridge names for Linux and Joliet names for Windows, volume
//! `CONTEXT` (contract TM 2.1, `context`).
//!
//! The layout is the `hadris-iso` crate's; nothing of it is seen outside this module. It puts the present time into
//! every date it writes by itself, so the dates are put right here, which also makes equal contents equal images.

use std::io::Cursor;

use hadris_iso::joliet::JolietLevel;
use hadris_iso::read::PathSeparator;
use hadris_iso::rrip::RripOptions;
use hadris_iso::write::options::{BaseIsoLevel, CreationFeatures, IsoFormatOptions};
use hadris_iso::write::{InputEntry, InputMetadata, InputTree, IsoImageWriter};

use crate::place::FileName;

mod date;
pub(crate) use date::Moment;

/// Bytes of a logical sector.
const SECTOR: usize = 2048;
/// A regular file that everybody may read and execute and nobody write: what Linux shows of an image without Rock
/// Ridge, and enough for a guest that runs a script where it lies.
const FILE_MODE: u32 = 0o100_555;

/// A file of the image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContextFile<'a> {
    /// Its name in the root directory.
    pub name: &'a FileName,
    /// Its bytes.
    pub content: &'a [u8],
}

/// What an image is made from.
#[derive(Debug)]
pub(crate) struct ContextImage<'a> {
    /// The volume's name.
    pub volume: &'static str,
    /// Its files, no two of one name.
    pub files: Vec<ContextFile<'a>>,
    /// The time of everything in it, in seconds since the epoch. Programs that need an id of the volume take it from
    /// here.
    pub seconds: u64,
}

impl ContextImage<'_> {
    /// Lays the image out.
    ///
    /// # Errors
    /// What the layout does not allow, in words.
    pub(crate) fn build(&self) -> Result<Vec<u8>, String> {
        let time = i64::try_from(self.seconds).ok();
        let metadata = InputMetadata {
            mode: Some(FILE_MODE),
            uid: Some(0),
            gid: Some(0),
            created: time,
            modified: time,
            accessed: time,
        };
        let entry = |file: &ContextFile<'_>| {
            InputEntry::file(file.name.as_str(), file.content).with_metadata(metadata)
        };
        let tree = InputTree::new(PathSeparator::ForwardSlash, self.files.iter().map(entry).collect());
        let options = IsoFormatOptions {
            volume_name: self.volume.to_owned(),
            system_id: Some("LINUX".to_owned()),
            volume_set_id: None,
            publisher_id: None,
            preparer_id: None,
            application_id: Some("CAUSEWAY".to_owned()),
            sector_size: SECTOR,
            features: CreationFeatures {
                filenames: BaseIsoLevel::Level2 { supports_lowercase: false, supports_rrip: true },
                joliet: Some(JolietLevel::Level3),
                rock_ridge: Some(RripOptions::default()),
                ..CreationFeatures::default()
            },
            path_separator: PathSeparator::ForwardSlash,
            strict_charset: false,
        };
        let room = self.files.iter().map(|file| file.content.len().next_multiple_of(SECTOR)).sum::<usize>();
        let target = Cursor::new(Vec::with_capacity(room + 32 * SECTOR));
        let image = IsoImageWriter::create(target, tree, options).map_err(|e| e.to_string())?;
        let mut image = image.into_inner();
        date::put(&mut image, self.seconds).ok_or("the layout is not the expected one")?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests;
