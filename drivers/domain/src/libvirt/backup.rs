//! Backups of a running domain, and their checkpoints.

use causeway_core::names::DeployId;
use virt::sys;

use super::{Libvirt, c_string};
use crate::disk::backup::Backup;
use crate::domain_xml;
use crate::error::{Cause, DomainError, Operation};
use crate::ffi;

/// Highest number of a checkpoint that is looked for.
const HIGHEST: u32 = 100_000;

impl Libvirt {
    /// See [`Hypervisor::begin_backup`](crate::Hypervisor::begin_backup).
    pub(super) fn start_backup(&self, id: &DeployId, backup: &Backup) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::BackUp, id, cause);
        let xml = c_string("the backup", &backup_xml(backup).map_err(fail)?).map_err(fail)?;
        let disks = backup.disks();
        let checkpoint = backup.begin.as_deref().map(|name| checkpoint_xml(name, &disks, None)).transpose();
        let checkpoint =
            checkpoint.and_then(|xml| xml.map(|xml| c_string("the checkpoint", &xml)).transpose());
        let (checkpoint, wanted) = (checkpoint.map_err(fail)?, id.clone());
        self.job(Operation::BackUp, id.as_str(), self.deadlines.create, move |connection| {
            let handle = super::describe::find(connection, &wanted)?;
            let flags = sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL;
            Ok(ffi::backup_begin(&handle, &xml, checkpoint.as_deref(), flags)?)
        })
    }

    /// See [`Hypervisor::backup_files`](crate::Hypervisor::backup_files).
    pub(super) fn read_backup(&self, id: &DeployId) -> Result<Option<Vec<String>>, DomainError> {
        self.read_domain(Operation::BackupFiles, id, |handle| match ffi::backup_xml(handle)? {
            None => Ok(None),
            Some(xml) => domain_xml::backup_files(&xml).map(Some).map_err(|e| Cause::Answer(e.to_string())),
        })
    }

    /// See [`Hypervisor::checkpoints`](crate::Hypervisor::checkpoints).
    pub(super) fn read_checkpoints(&self, id: &DeployId, prefix: &str) -> Result<Vec<String>, DomainError> {
        let prefix = prefix.to_owned();
        self.read_domain(Operation::Checkpoints, id, move |handle| {
            let mut left = ffi::count_checkpoints(handle)?;
            let mut found = Vec::new();
            // By their names, of which only the number is not known: there are few, and they begin near 0.
            for number in 0..HIGHEST {
                if left == 0 {
                    break;
                }
                let name = format!("{prefix}{number}");
                if ffi::find_checkpoint(handle, &c_string("a checkpoint", &name)?)?.is_some() {
                    found.push(name);
                    left -= 1;
                }
            }
            Ok(found)
        })
    }

    /// See [`Hypervisor::redefine_checkpoint`](crate::Hypervisor::redefine_checkpoint).
    pub(super) fn define_checkpoint(
        &self,
        id: &DeployId,
        name: &str,
        disks: &[&str],
    ) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::RedefineCheckpoint, id, cause);
        let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        let xml = checkpoint_xml(name, disks, Some(now)).map_err(fail)?;
        let xml = c_string("the checkpoint", &xml).map_err(fail)?;
        self.change_domain(Operation::RedefineCheckpoint, id, move |handle| {
            let flags = sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
                | sys::VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE_VALIDATE;
            Ok(ffi::create_checkpoint(handle, &xml, flags)?)
        })
    }

    /// See [`Hypervisor::delete_checkpoint`](crate::Hypervisor::delete_checkpoint).
    pub(super) fn remove_checkpoint(&self, id: &DeployId, name: &str) -> Result<(), DomainError> {
        let fail = |cause| DomainError::new(Operation::DeleteCheckpoint, id, cause);
        let name = c_string("the checkpoint", name).map_err(fail)?;
        // QEMU writes to all images.
        let (wanted, deadline) = (id.clone(), self.deadlines.create);
        self.job(Operation::DeleteCheckpoint, id.as_str(), deadline, move |connection| {
            let handle = super::describe::find(connection, &wanted)?;
            match ffi::find_checkpoint(&handle, &name)? {
                Some(checkpoint) => Ok(checkpoint.delete()?),
                None => Ok(()),
            }
        })
    }
}

fn backup_xml(backup: &Backup) -> Result<String, Cause> {
    let mut xml = "<domainbackup mode='push'>".to_owned();
    if let Some(since) = &backup.since {
        xml.push_str(&format!("<incremental>{}</incremental>", escaped("a checkpoint", since)?));
    }
    xml.push_str("<disks>");
    for (disk, file) in &backup.targets {
        xml.push_str(&format!(
            "<disk name='{}' backup='yes' type='file'><driver type='qcow2'/><target file='{}'/></disk>",
            escaped("a disk", disk)?,
            escaped("a file", file)?
        ));
    }
    xml.push_str("</disks></domainbackup>");
    Ok(xml)
}

fn checkpoint_xml(name: &str, disks: &[&str], time: Option<u64>) -> Result<String, Cause> {
    let mut xml = format!("<domaincheckpoint><name>{}</name>", escaped("a checkpoint", name)?);
    if let Some(time) = time {
        xml.push_str(&format!("<creationTime>{time}</creationTime>"));
    }
    xml.push_str("<disks>");
    for disk in disks {
        xml.push_str(&format!("<disk name='{}' checkpoint='bitmap'", escaped("a disk", disk)?));
        // What is given back names its bitmap.
        if time.is_some() {
            xml.push_str(&format!(" bitmap='{}'", escaped("a checkpoint", name)?));
        }
        xml.push_str("/>");
    }
    xml.push_str("</disks></domaincheckpoint>");
    Ok(xml)
}

/// A text between XML's quotes.
fn escaped(what: &str, text: &str) -> Result<String, Cause> {
    domain_xml::escaped(text).map_err(|e| Cause::Input(format!("{what}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leaves_its_quotes() {
        let backup = Backup {
            targets: vec![("vda".into(), "/ds/7/it's <odd>".into()), ("vdb".into(), "/b".into())],
            begin: Some("one-7-3".into()),
            since: Some("one-7-2".into()),
        };
        let disk = |name, file| {
            format!(
                "<disk name='{name}' backup='yes' type='file'><driver type='qcow2'/><target file='{file}'/></disk>"
            )
        };
        let expected = format!(
            "<domainbackup mode='push'><incremental>one-7-2</incremental><disks>{}{}</disks></domainbackup>",
            disk("vda", "/ds/7/it&apos;s &lt;odd&gt;"),
            disk("vdb", "/b")
        );
        assert_eq!(backup_xml(&backup).unwrap(), expected);
        let files = domain_xml::backup_files(&expected).unwrap();
        assert_eq!(files, ["/ds/7/it's <odd>", "/b"]);
        let broken = Backup { targets: vec![("vda".into(), "/a\nb".into())], ..backup };
        assert!(matches!(backup_xml(&broken), Err(Cause::Input(_))));
        assert_eq!(
            checkpoint_xml("one-7-3", &["vda"], None).unwrap(),
            "<domaincheckpoint><name>one-7-3</name><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>"
        );
    }
}
