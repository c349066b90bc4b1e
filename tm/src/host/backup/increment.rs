//! What has changed on a disk that nobody has open, as QEMU itself would copy it: its storage daemon has a bitmap's
//! clusters copied, and clusters that were emptied arrive as empty, so that nothing older shows through them.

use std::path::Path;

use serde_json::{Value, json};

use super::super::{StorageError, Worker};
use super::qmp::{Daemon, text};

/// Copies what the bitmap marks into an image that is empty and as large. The disk is only read.
///
/// # Errors
/// QEMU's own words.
pub(super) fn copy(from: &Path, bitmap: &str, to: &Path, worker: &Worker<'_>) -> Result<(), StorageError> {
    let mut daemon = Daemon::start(&[node("disk", from, true)?, node("backup", to, false)?], to, worker)?;
    let job = json!({
        "job-id": "backup", "device": "disk", "target": "backup", "sync": "bitmap", "bitmap": bitmap,
        // It stays as it is: the increment may not arrive.
        "bitmap-mode": "never", "auto-dismiss": false,
    });
    daemon.ask("blockdev-backup", job)?;
    daemon.until_concluded("backup")?;
    let jobs = daemon.ask("query-jobs", json!({}))?;
    let job =
        jobs.as_array().and_then(|jobs| jobs.iter().find(|job| text(job, "id") == Some("backup"))).cloned();
    let job = job.unwrap_or_default();
    if let Some(error) = text(&job, "error") {
        return Err(daemon.failed(error));
    }
    let (done, all) = (job.get("current-progress"), job.get("total-progress"));
    if text(&job, "status") != Some("concluded") || done.is_none() || done != all {
        return Err(daemon.failed(&format!("it ended before its work was done: {job}")));
    }
    daemon.ask("job-dismiss", json!({"id": "backup"}))?;
    daemon.end()?;
    worker.at("changes copied");
    Ok(())
}

fn node(name: &str, path: &Path, read_only: bool) -> Result<Value, StorageError> {
    let why = || StorageError::Image { path: path.to_owned(), why: "its path is no text".to_owned() };
    let filename = path.to_str().ok_or_else(why)?;
    Ok(json!({
        "driver": "qcow2", "node-name": name, "read-only": read_only,
        "file": {"driver": "file", "filename": filename, "read-only": read_only},
    }))
}
