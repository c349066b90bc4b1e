//! The arguments of the backup verbs (contract TM 1.4), which are the same for every store.

use causeway_core::names::{DeployId, HostName, NameError};

use super::Request;
use super::args::Args;
use crate::error::TmError;
use crate::place::{Remote, VmDir};

/// The arguments of `prebackup` and `postbackup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backup {
    pub host: HostName,
    pub dir: VmDir,
    /// The disks that oned wants to have: which these are by `BACKUP_VOLATILE` and by their kind is its own decision.
    pub disks: Vec<u32>,
    /// The guest; a VM that was never deployed has none.
    pub guest: Option<DeployId>,
}

/// The arguments of `restore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restore {
    pub host: HostName,
    pub dir: VmDir,
    /// The backup image.
    pub image: u32,
    /// Up to which increment; none means the last one.
    pub increment: Option<u32>,
    /// The disk that is wanted; none means all that the backup has.
    pub disk: Option<u32>,
}

impl Args<'_> {
    /// `HOST:DIRECTORY DISK[:DISK...] DEPLOY_ID JOB VM DATASTORE`.
    pub(super) fn backup(&self) -> Result<Request, TmError> {
        let [dir, disks, guest, job, vm, datastore] =
            self.exactly("HOST:DIRECTORY DISK[:DISK...] DEPLOY_ID JOB|- VM DATASTORE")?;
        let (host, dir) = self.vm_dir(dir, 5, vm)?;
        self.inside(&dir, self.datastore(6, datastore)?)?;
        let mut numbers = Vec::new();
        for word in disks.split(':') {
            let disk = self.number(2, "disk", word)?;
            if numbers.contains(&disk) {
                return Err(self.wrong(2, NameError::new("disks", disks, "numbers of different disks")));
            }
            numbers.push(disk);
        }
        if job != "-" {
            self.number(4, "backup job", job)?;
        }
        let guest = match guest.as_str() {
            "" | "-" => None,
            id => Some(self.read(3, id)?),
        };
        Ok(Request::Backup(Backup { host, dir, disks: numbers, guest }))
    }

    /// `HOST:DIRECTORY VM IMAGE INCREMENT DISK`, of which the last two may be -1.
    pub(super) fn restore(&self) -> Result<Request, TmError> {
        let [dir, vm, image, increment, disk] =
            self.exactly("HOST:DIRECTORY VM IMAGE INCREMENT|-1 DISK|-1")?;
        let (host, dir) = self.vm_dir(dir, 2, vm)?;
        let chosen = |position, what, text: &str| match text {
            "-1" => Ok(None),
            number => self.number(position, what, number).map(Some),
        };
        Ok(Request::Restore(Restore {
            host,
            dir,
            image: self.number(3, "image", image)?,
            increment: chosen(4, "increment", increment)?,
            disk: chosen(5, "disk", disk)?,
        }))
    }

    fn vm_dir(&self, place: &str, position: usize, vm: &str) -> Result<(HostName, VmDir), TmError> {
        let Remote { host, path } = self.read(1, place)?;
        let dir = VmDir::try_from(&path).map_err(|e| self.wrong(1, e))?;
        self.own(&dir, self.read(position, vm)?)?;
        Ok((host, dir))
    }
}
