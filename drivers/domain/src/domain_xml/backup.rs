//! What libvirt says of a backup that runs.

use super::XmlError;
use super::tree::parse;

/// The files that a backup is written to.
///
/// # Errors
/// Not well-formed, over a cap, or no backup.
pub fn backup_files(xml: &str) -> Result<Vec<String>, XmlError> {
    let root = parse(xml)?;
    if root.name != "domainbackup" {
        return Err(XmlError::NotABackup(root.name.into_owned()));
    }
    let targets = root.grandchildren("disks", "disk").filter_map(|disk| disk.child("target"));
    Ok(targets.filter_map(|target| target.value("file").map(str::to_owned)).collect())
}
