//! The argument vectors of the slots (contract TM 1.4) as checked values.

mod args;
mod backup;
mod context;
mod verb;

use causeway_core::names::{DiskPath, HostName, NameError};
use causeway_core::plan::Slot;

use crate::error::TmError;
use crate::place::{Image, VmDir, VmFile};
use crate::rbd::Volume;
use args::Args;
pub(crate) use backup::{Backup, Restore};
pub(crate) use context::ContextSource;
pub(crate) use verb::{Service, Store, Verb};

/// What a slot is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// `clone`, `ln`: gives a VM an image, or a copy of it.
    Give { image: Source, host: HostName, file: VmFile, image_datastore: u32 },
    /// `mvds`: the VM gives its image back.
    Mvds { host: HostName, file: VmFile, image: Source },
    /// `cpds`: a disk, or a snapshot of it, becomes an image.
    Cpds { host: HostName, file: VmFile, image: Source, snapshot: Option<u32>, image_datastore: u32 },
    /// `mv` of one disk: what moves is moved with the directory.
    MvFile { to: HostName, file: VmFile },
    /// `mv` of a VM's directory.
    MvDir { from: (HostName, VmDir), to: (HostName, VmDir) },
    /// `delete` of one disk.
    DeleteFile { host: HostName, file: VmFile, datastore: u32 },
    /// `delete` of a VM's directory.
    DeleteDir { host: HostName, dir: VmDir },
    /// `mkimage`, `mkswap`.
    Make { size_mb: u64, format: String, host: HostName, file: VmFile },
    /// `resize`.
    Resize { host: HostName, file: VmFile, size_mb: u64 },
    /// `snap_create`, `snap_create_live`, `snap_delete`, `snap_revert`.
    Snapshot { host: HostName, file: VmFile, snapshot: u32 },
    /// `context`.
    Context { sources: Vec<ContextSource>, host: HostName, file: VmFile },
    /// `premigrate`, `postmigrate`, `failmigrate`.
    Migrate(Migration),
    /// `prebackup`, `postbackup`, and what they are for a guest that runs.
    Backup(Backup),
    /// `restore`.
    Restore(Restore),
}

/// The arguments of `premigrate`, `postmigrate` and `failmigrate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Migration {
    pub verb: Verb,
    pub from: HostName,
    pub to: HostName,
    /// The VM's directory after the move.
    pub dir: VmDir,
    /// Called by another transfer manager, so the call must not be passed on.
    pub chained: bool,
}

/// `SOURCE` of an image, as an argument: a path below a datastore, or a volume of a pool. Which of them is known by
/// who stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    slot: String,
    /// Of the argument, from 1.
    position: usize,
    text: String,
}

impl Source {
    /// The image as a file, where `file`'s host has it.
    ///
    /// # Errors
    /// It is no path of an image.
    pub(crate) fn image(&self, file: &VmFile) -> Result<Image, TmError> {
        let path: Result<DiskPath, _> = self.text.parse();
        path.and_then(|path| Image::beside(&path, file)).map_err(|source| self.wrong(source))
    }

    /// The image as a volume.
    ///
    /// # Errors
    /// It is no name of one.
    pub(crate) fn volume(&self) -> Result<Volume, TmError> {
        self.text.parse().map_err(|source| self.wrong(source))
    }

    fn wrong(&self, source: NameError) -> TmError {
        TmError::Argument { slot: self.slot.clone(), position: self.position, source }
    }
}

impl Request {
    /// Reads the arguments of a slot.
    ///
    /// # Errors
    /// [`TmError::NotBuilt`], or the argument that is wrong.
    pub(crate) fn read(slot: &Slot, argv: &[String]) -> Result<(Service, Self), TmError> {
        let service = Service::of(slot).ok_or_else(|| TmError::NotBuilt { slot: slot.to_string() })?;
        let args = Args { slot, argv };
        let request = match service.verb {
            Verb::Clone | Verb::Ln => args.give(),
            Verb::Mvds => args.mvds(),
            Verb::Cpds => args.cpds(),
            Verb::Mv => args.mv(),
            Verb::Delete => args.delete(),
            Verb::Mkimage => args.mkimage(),
            Verb::Mkswap => args.mkswap(),
            Verb::Resize => args.resize(),
            Verb::SnapCreate | Verb::SnapCreateLive | Verb::SnapDelete | Verb::SnapRevert => args.snapshot(),
            Verb::Context => args.context(),
            Verb::Premigrate | Verb::Postmigrate | Verb::Failmigrate => args.migrate(service.verb),
            Verb::Prebackup | Verb::PrebackupLive | Verb::Postbackup | Verb::PostbackupLive => args.backup(),
            Verb::Restore => args.restore(),
        };
        Ok((service, request?))
    }
}
