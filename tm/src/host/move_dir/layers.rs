//! Layers that name each other by whole paths, as the stock deletion of a snapshot writes them (W17): they would still
//! lead to the old directory when it has moved.

use super::super::{Home, StorageError, Tool, Worker};
use crate::store::header::Header;

/// Makes every layer name the next one relative to the VM's directory.
pub(crate) fn make_relative(home: &Home, worker: &Worker<'_>) -> Result<(), StorageError> {
    for snap in home.names()? {
        let is_snap = snap.strip_suffix(".snap").is_some_and(|disk| disk.starts_with("disk."));
        let Some(folder) = (if is_snap { home.folder(&snap)? } else { None }) else { continue };
        let whole = format!("{}/", folder.path().display());
        for name in folder.names()?.into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
            let path = folder.path().join(&name);
            let header = Header::read(&folder.open(&name)?);
            let header = header.map_err(|why| StorageError::Image { path: path.clone(), why })?;
            let backing = header.and_then(|header| header.backing).unwrap_or_default().replace("//", "/");
            let Some(below) = backing.strip_prefix(&whole) else { continue };
            // Only the name is written anew, in one piece; the layer beneath is the same one.
            let mut tool = Tool::qemu_img("rebase", &path);
            tool.args(["-u", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(format!("{snap}/{below}"));
            tool.arg(&path).run(worker)?;
            worker.at("layer named anew");
        }
    }
    Ok(())
}
