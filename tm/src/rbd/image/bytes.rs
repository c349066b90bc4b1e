//! What goes into a volume and comes out of it as bytes.

use std::io::Read;
use std::path::Path;

use md5::{Digest, Md5};

use super::super::name::{PoolName, Volume};
use super::super::tool::Rbd;
use crate::host::{During, StorageError};

impl Rbd<'_> {
    /// Makes a volume of an export with all its snapshots (`rbd export --export-format 2`).
    pub(super) fn import_whole(
        &self,
        file: &Path,
        volume: &Volume,
        data: Option<&PoolName>,
    ) -> Result<(), StorageError> {
        let (on, file) = (volume.to_string(), file.to_string_lossy());
        self.make("import", volume, data, &["--no-progress", "--export-format", "2", &file, &on])
    }

    /// Brings a volume to the state that a difference leads to (`rbd export-diff`).
    pub(super) fn import_diff(&self, file: &Path, volume: &Volume) -> Result<(), StorageError> {
        let (on, file) = (volume.to_string(), file.to_string_lossy());
        self.call(&["import-diff"], &on, &["--no-progress", &file, &on]).map(drop)
    }

    /// The MD5 of a volume's bytes, holes included, in hexadecimal digits.
    pub(super) fn md5(&self, volume: &Volume) -> Result<String, StorageError> {
        // A volume that is not there is named as everywhere else.
        self.info(volume).map_err(|error| super::super::base::absent(self, volume, error))?;
        let on = volume.to_string();
        let sum = self.stream("export", &on, &["--no-progress", &on, "-"], |mut pipe| {
            let mut sum = Md5::new();
            let mut buffer = vec![0; 1 << 20];
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => return Ok(sum.finalize()),
                    Ok(count) => sum.update(buffer.get(..count).unwrap_or_default()),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        })?;
        let sum = sum.during("read", &on)?;
        Ok(sum.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
