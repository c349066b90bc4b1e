//! The argument vectors of the slots (contract TM 1.4) as checked values.

use causeway_core::document::DriverName;
use causeway_core::names::{DiskPath, HostName, NameError, VmId};
use causeway_core::plan::Slot;

use crate::error::TmError;
use crate::place::{FileName, Image, Remote, VmDir, VmFile};

/// The verbs that are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Clone,
    Ln,
    Delete,
    Context,
    Premigrate,
    Postmigrate,
    Failmigrate,
}

impl Verb {
    /// The verb that serves a slot: its own, or that of its name without the suffix (contract TM 1.3).
    pub(crate) fn of(slot: &Slot) -> Option<Verb> {
        if slot.family() != "tm" || !matches!(slot.driver(), "shared" | "qcow2") {
            return None;
        }
        let (name, suffix) = slot.verb().split_once('.').unwrap_or((slot.verb(), ""));
        let verb = match name {
            "clone" => Verb::Clone,
            "ln" => Verb::Ln,
            "delete" => Verb::Delete,
            "context" => Verb::Context,
            "premigrate" => Verb::Premigrate,
            "postmigrate" => Verb::Postmigrate,
            "failmigrate" => Verb::Failmigrate,
            _ => return None,
        };
        // These two have a form of their own for a system datastore on the host's disk: to fall back would link a VM
        // to files it is not to depend on.
        let own = suffix == "ssh" && matches!(verb, Verb::Clone | Verb::Ln);
        (!own).then_some(verb)
    }
}

/// One source of a context image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContextSource {
    pub path: DiskPath,
    pub name: FileName,
}

/// What a slot is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Clone { image: Image, host: HostName, file: VmFile, image_datastore: u32 },
    Ln { image: Image, host: HostName, file: VmFile, image_datastore: u32 },
    DeleteFile { host: HostName, file: VmFile },
    DeleteDir { host: HostName, dir: VmDir },
    Context { sources: Vec<ContextSource>, host: HostName, file: VmFile },
    Migrate(Migration),
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

impl Request {
    /// Reads the arguments of a slot.
    ///
    /// # Errors
    /// [`TmError::NotBuilt`], or the argument that is wrong.
    pub(crate) fn read(slot: &Slot, argv: &[String]) -> Result<Self, TmError> {
        let verb = Verb::of(slot).ok_or_else(|| TmError::NotBuilt { slot: slot.to_string() })?;
        let args = Args { slot, argv };
        match verb {
            Verb::Clone | Verb::Ln => args.image(verb),
            Verb::Delete => args.delete(),
            Verb::Context => args.context(),
            Verb::Premigrate | Verb::Postmigrate | Verb::Failmigrate => args.migrate(verb),
        }
    }
}

/// An argument vector on its way to a request.
struct Args<'a> {
    slot: &'a Slot,
    argv: &'a [String],
}

impl Args<'_> {
    /// `fe:SOURCE HOST:FILE VM DATASTORE`. The source's host is where the front-end sees the image, which is of no
    /// use on a host (contract TM 2.1).
    fn image(&self, verb: Verb) -> Result<Request, TmError> {
        let [source, file, vm, datastore] = self.exactly("HOST:SOURCE HOST:FILE VM DATASTORE")?;
        let source = self.read::<Remote>(1, source)?;
        let (host, file) = self.file(2, file, self.read(3, vm)?)?;
        let image = Image::beside(&source.path, &file).map_err(|e| self.wrong(1, e))?;
        let image_datastore = self.datastore(4, datastore)?;
        Ok(match verb {
            Verb::Ln => Request::Ln { image, host, file, image_datastore },
            _ => Request::Clone { image, host, file, image_datastore },
        })
    }

    /// `HOST:FILE VM DATASTORE` or `HOST:DIRECTORY VM DATASTORE`.
    fn delete(&self) -> Result<Request, TmError> {
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
        Ok(Request::DeleteFile { host, file })
    }

    /// `CONTEXT.SH [FILE...] HOST:FILE VM DATASTORE`.
    fn context(&self) -> Result<Request, TmError> {
        let form = "CONTEXT.SH [FILE...] HOST:FILE VM DATASTORE";
        let (words, rest) = self
            .argv
            .split_at_checked(self.argv.len().wrapping_sub(3))
            .filter(|(words, _)| !words.is_empty())
            .ok_or_else(|| self.count(form))?;
        let [file, vm, datastore] = rest else { return Err(self.count(form)) };
        let (host, file) = self.file(words.len() + 1, file, self.read(words.len() + 2, vm)?)?;
        self.datastore(words.len() + 3, datastore)?;
        let sources = self.sources(words)?;
        Ok(Request::Context { sources, host, file })
    }

    /// `FROM TO DIRECTORY VM DATASTORE [CALLER]`.
    fn migrate(&self, verb: Verb) -> Result<Request, TmError> {
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

    /// The files of a context: `/path` or `/path:'name inside'`. The line was split on blanks without regard to the
    /// quotes (contract TM 1.3, 5), so a quoted name is put together again.
    fn sources(&self, words: &[String]) -> Result<Vec<ContextSource>, TmError> {
        let mut sources = Vec::new();
        let mut words = words.iter().enumerate().map(|(index, word)| (index + 1, word));
        while let Some((position, word)) = words.next() {
            if word.is_empty() {
                continue;
            }
            let mut text = word.clone();
            if text.contains(":'") {
                while text.matches('\'').count() < 2 {
                    let Some((_, more)) = words.next() else {
                        let error = NameError::new("context file", &text, "PATH:'NAME' with a closing quote");
                        return Err(self.wrong(position, error));
                    };
                    text.push(' ');
                    text.push_str(more);
                }
            }
            sources.push(self.source(position, &text)?);
        }
        Ok(sources)
    }

    fn source(&self, position: usize, text: &str) -> Result<ContextSource, TmError> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if scheme.is_some_and(|scheme| scheme.bytes().all(|b| b.is_ascii_alphanumeric())) {
            let what = format!("{}: downloading {text} into a context image is not built", self.slot);
            return Err(TmError::NotYet(what));
        }
        let (path, name) = match text.split_once(':') {
            Some((path, name)) => (path, Some(name)),
            None => (text, None),
        };
        let path: DiskPath = self.read(position, path)?;
        let name = match name {
            Some(name) => name.strip_prefix('\'').and_then(|n| n.strip_suffix('\'')).unwrap_or(name),
            None => path.as_str().trim_end_matches('/').rsplit('/').next().unwrap_or_default(),
        };
        Ok(ContextSource { name: self.read(position, name)?, path })
    }

    fn exactly<const N: usize>(&self, form: &'static str) -> Result<&[String; N], TmError> {
        self.argv.try_into().map_err(|_| self.count(form))
    }

    fn count(&self, form: &'static str) -> TmError {
        TmError::Arguments { slot: self.slot.to_string(), form, count: self.argv.len() }
    }

    fn wrong(&self, position: usize, source: NameError) -> TmError {
        TmError::Argument { slot: self.slot.to_string(), position, source }
    }

    fn read<T: std::str::FromStr<Err = NameError>>(&self, position: usize, text: &str) -> Result<T, TmError> {
        text.parse().map_err(|e| self.wrong(position, e))
    }

    fn datastore(&self, position: usize, text: &str) -> Result<u32, TmError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.ok_or_else(|| self.wrong(position, NameError::new("datastore", text, "a decimal number")))
    }

    /// A file of that VM, and no other's.
    fn file(&self, position: usize, text: &str, vm: VmId) -> Result<(HostName, VmFile), TmError> {
        let Remote { host, path } = self.read(position, text)?;
        let file = VmFile::try_from(&path).map_err(|e| self.wrong(position, e))?;
        self.own(file.dir(), vm)?;
        Ok((host, file))
    }

    /// A directory goes with its system datastore's number (contract TM 1.4); if they differ, one of them is wrong.
    fn inside(&self, dir: &VmDir, datastore: u32) -> Result<(), TmError> {
        if dir.datastore().id() == datastore {
            Ok(())
        } else {
            Err(TmError::OtherDatastore { slot: self.slot.to_string(), path: dir.to_string(), datastore })
        }
    }

    fn own(&self, dir: &VmDir, vm: VmId) -> Result<(), TmError> {
        if dir.vm() == vm {
            Ok(())
        } else {
            Err(TmError::OtherVm { slot: self.slot.to_string(), path: dir.to_string(), vm })
        }
    }
}
