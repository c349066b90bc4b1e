//! An argument vector on its way to a request.

use causeway_core::document::DriverName;
use causeway_core::names::{HostName, NameError, VmId};
use causeway_core::plan::Slot;

use super::{Migration, Request, Source, Verb};
use crate::error::TmError;
use crate::place::{Remote, VmDir, VmFile};

/// An argument vector and its slot.
pub(super) struct Args<'a> {
    pub slot: &'a Slot,
    pub argv: &'a [String],
}

impl Args<'_> {
    /// `fe:SOURCE HOST:FILE VM DATASTORE`. The source's host is where the front-end sees the image, which is of no
    /// use on a host (contract TM 2.1).
    pub(super) fn give(&self) -> Result<Request, TmError> {
        let [source, file, vm, datastore] = self.exactly("HOST:SOURCE HOST:FILE VM DATASTORE")?;
        // As `Remote` splits it where it is a path; a volume's name has no colon.
        let text = match source.find(":/") {
            Some(colon) => source.get(colon + 1..),
            None => source.rsplit_once(':').map(|(_, text)| text),
        };
        let text = text.ok_or_else(|| self.wrong(1, NameError::new("place", source, "HOST:SOURCE")))?;
        let image = self.source(1, text);
        let (host, file) = self.file(2, file, self.read(3, vm)?)?;
        Ok(Request::Give { image, host, file, image_datastore: self.datastore(4, datastore)? })
    }

    /// `HOST:FILE SOURCE VM DATASTORE`; this source comes without a host.
    pub(super) fn mvds(&self) -> Result<Request, TmError> {
        let [file, source, vm, datastore] = self.exactly("HOST:FILE SOURCE VM DATASTORE")?;
        let (host, file) = self.disk(1, file, self.read(3, vm)?)?;
        self.datastore(4, datastore)?;
        Ok(Request::Mvds { host, file, image: self.source(2, source) })
    }

    /// `HOST:FILE SOURCE SNAPSHOT VM DATASTORE`.
    pub(super) fn cpds(&self) -> Result<Request, TmError> {
        let [file, source, snapshot, vm, datastore] =
            self.exactly("HOST:FILE SOURCE SNAPSHOT VM DATASTORE")?;
        let (host, file) = self.disk(1, file, self.read(4, vm)?)?;
        let snapshot = match snapshot.as_str() {
            "-1" => None,
            number => Some(self.number(3, "snapshot", number)?),
        };
        let image_datastore = self.datastore(5, datastore)?;
        Ok(Request::Cpds { host, file, image: self.source(2, source), snapshot, image_datastore })
    }

    /// `FROM:PATH TO:PATH VM DATASTORE`, with a disk's paths or a directory's.
    pub(super) fn mv(&self) -> Result<Request, TmError> {
        let [from, to, vm, datastore] = self.exactly("HOST:PATH HOST:PATH VM DATASTORE")?;
        let vm = self.read(3, vm)?;
        self.datastore(4, datastore)?;
        let old: Remote = self.read(1, from)?;
        let new: Remote = self.read(2, to)?;
        if let (Ok(old_dir), Ok(new_dir)) = (VmDir::try_from(&old.path), VmDir::try_from(&new.path)) {
            self.own(&old_dir, vm)?;
            self.own(&new_dir, vm)?;
            return Ok(Request::MvDir { from: (old.host, old_dir), to: (new.host, new_dir) });
        }
        self.disk(1, from, vm)?;
        let (to, file) = self.disk(2, to, vm)?;
        Ok(Request::MvFile { to, file })
    }

    /// `SIZE FORMAT HOST:FILE VM DATASTORE`, MiB.
    pub(super) fn mkimage(&self) -> Result<Request, TmError> {
        let [size, format, file, vm, datastore] = self.exactly("SIZE FORMAT HOST:FILE VM DATASTORE")?;
        let (host, file) = self.disk(3, file, self.read(4, vm)?)?;
        self.datastore(5, datastore)?;
        Ok(Request::Make { size_mb: self.size(1, size)?, format: format.clone(), host, file })
    }

    /// `SIZE HOST:FILE VM DATASTORE`, MiB.
    pub(super) fn mkswap(&self) -> Result<Request, TmError> {
        let [size, file, vm, datastore] = self.exactly("SIZE HOST:FILE VM DATASTORE")?;
        let (host, file) = self.disk(2, file, self.read(3, vm)?)?;
        self.datastore(4, datastore)?;
        Ok(Request::Make { size_mb: self.size(1, size)?, format: "swap".to_owned(), host, file })
    }

    /// `HOST:FILE SIZE VM DATASTORE`, MiB.
    pub(super) fn resize(&self) -> Result<Request, TmError> {
        let [file, size, vm, datastore] = self.exactly("HOST:FILE SIZE VM DATASTORE")?;
        let (host, file) = self.disk(1, file, self.read(3, vm)?)?;
        self.datastore(4, datastore)?;
        Ok(Request::Resize { host, file, size_mb: self.size(2, size)? })
    }

    /// `HOST:FILE SNAPSHOT VM DATASTORE`.
    pub(super) fn snapshot(&self) -> Result<Request, TmError> {
        let [file, snapshot, vm, datastore] = self.exactly("HOST:FILE SNAPSHOT VM DATASTORE")?;
        let (host, file) = self.disk(1, file, self.read(3, vm)?)?;
        self.datastore(4, datastore)?;
        Ok(Request::Snapshot { host, file, snapshot: self.number(2, "snapshot", snapshot)? })
    }

    /// `HOST:FILE VM DATASTORE` or `HOST:DIRECTORY VM DATASTORE`.
    pub(super) fn delete(&self) -> Result<Request, TmError> {
        let [place, vm, datastore] = self.exactly("HOST:PATH VM DATASTORE")?;
        let Remote { host, path } = self.read(1, place)?;
        let vm = self.read(2, vm)?;
        let datastore = self.datastore(3, datastore)?;
        if let Ok(dir) = VmDir::try_from(&path) {
            self.own(&dir, vm)?;
            self.inside(&dir, datastore)?;
            return Ok(Request::DeleteDir { host, dir });
        }
        let (host, file) = self.file(1, place, vm)?;
        if file.name().disk().is_none() {
            let form = "DATASTORES/DATASTORE ID/VM ID[/disk.NUMBER]";
            return Err(self.wrong(1, NameError::new("path to delete", path.as_str(), form)));
        }
        Ok(Request::DeleteFile { host, file, datastore })
    }

    /// `CONTEXT.SH [FILE...] HOST:FILE VM DATASTORE`.
    pub(super) fn context(&self) -> Result<Request, TmError> {
        let form = "CONTEXT.SH [FILE...] HOST:FILE VM DATASTORE";
        let (words, rest) = self
            .argv
            .split_at_checked(self.argv.len().wrapping_sub(3))
            .filter(|(words, _)| !words.is_empty())
            .ok_or_else(|| self.count(form))?;
        let [file, vm, datastore] = rest else { return Err(self.count(form)) };
        let (host, file) = self.file(words.len() + 1, file, self.read(words.len() + 2, vm)?)?;
        self.datastore(words.len() + 3, datastore)?;
        Ok(Request::Context { sources: self.sources(words)?, host, file })
    }

    /// `FROM TO DIRECTORY VM DATASTORE [CALLER]`.
    pub(super) fn migrate(&self, verb: Verb) -> Result<Request, TmError> {
        let form = "FROM TO DIRECTORY VM DATASTORE [TM]";
        let (first, caller) = self.argv.split_at_checked(5).ok_or_else(|| self.count(form))?;
        let [from, to, dir, vm, datastore] = first else { return Err(self.count(form)) };
        let chained = match caller {
            [] => false,
            [caller] => self.read::<DriverName>(6, caller).map(|_| true)?,
            _ => return Err(self.count(form)),
        };
        let dir: VmDir = self.read(3, dir)?;
        self.own(&dir, self.read(4, vm)?)?;
        self.inside(&dir, self.datastore(5, datastore)?)?;
        let (from, to) = (self.read(1, from)?, self.read(2, to)?);
        Ok(Request::Migrate(Migration { verb, from, to, dir, chained }))
    }

    pub(super) fn exactly<const N: usize>(&self, form: &'static str) -> Result<&[String; N], TmError> {
        self.argv.try_into().map_err(|_| self.count(form))
    }

    pub(super) fn count(&self, form: &'static str) -> TmError {
        TmError::Arguments { slot: self.slot.to_string(), form, count: self.argv.len() }
    }

    pub(super) fn wrong(&self, position: usize, source: NameError) -> TmError {
        TmError::Argument { slot: self.slot.to_string(), position, source }
    }

    pub(super) fn read<T: std::str::FromStr<Err = NameError>>(
        &self,
        position: usize,
        text: &str,
    ) -> Result<T, TmError> {
        text.parse().map_err(|e| self.wrong(position, e))
    }

    fn source(&self, position: usize, text: &str) -> Source {
        Source { slot: self.slot.to_string(), position, text: text.to_owned() }
    }

    pub(super) fn datastore(&self, position: usize, text: &str) -> Result<u32, TmError> {
        self.number(position, "datastore", text)
    }

    pub(super) fn number(&self, position: usize, what: &'static str, text: &str) -> Result<u32, TmError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.ok_or_else(|| self.wrong(position, NameError::new(what, text, "a decimal number")))
    }

    /// A size, MiB.
    fn size(&self, position: usize, text: &str) -> Result<u64, TmError> {
        let megabytes = self.number(position, "size", text).unwrap_or_default();
        if megabytes == 0 {
            let accepted = "a whole number of MiB above 0 and below 2^32";
            return Err(self.wrong(position, NameError::new("size", text, accepted)));
        }
        Ok(megabytes.into())
    }

    /// A disk of that VM: `disk.NUMBER`.
    fn disk(&self, position: usize, text: &str, vm: VmId) -> Result<(HostName, VmFile), TmError> {
        let (host, file) = self.file(position, text, vm)?;
        match file.name().disk() {
            Some(_) => Ok((host, file)),
            None => {
                let form = "DATASTORES/DATASTORE ID/VM ID/disk.NUMBER";
                Err(self.wrong(position, NameError::new("disk", text, form)))
            }
        }
    }

    /// A file of that VM, and no other's.
    fn file(&self, position: usize, text: &str, vm: VmId) -> Result<(HostName, VmFile), TmError> {
        let Remote { host, path } = self.read(position, text)?;
        let file = VmFile::try_from(&path).map_err(|e| self.wrong(position, e))?;
        self.own(file.dir(), vm)?;
        Ok((host, file))
    }

    /// A directory goes with its system datastore's number (contract TM 1.4); if they differ, one of them is wrong.
    pub(super) fn inside(&self, dir: &VmDir, datastore: u32) -> Result<(), TmError> {
        if dir.datastore().id() == datastore {
            Ok(())
        } else {
            Err(TmError::OtherDatastore { slot: self.slot.to_string(), path: dir.to_string(), datastore })
        }
    }

    pub(super) fn own(&self, dir: &VmDir, vm: VmId) -> Result<(), TmError> {
        if dir.vm() == vm {
            Ok(())
        } else {
            Err(TmError::OtherVm { slot: self.slot.to_string(), path: dir.to_string(), vm })
        }
    }
}
