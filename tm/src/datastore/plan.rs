//! From a request to its steps: one, and before it, where the image is sent to a host, the mount of its datastore. Pure; no step has an undo: oned takes an image back by `rm`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use causeway_core::names::HostName;
use causeway_core::plan::{Place, Step, Work};

use super::document::ImageFacts;
use super::source::{self, Named};
use super::{Request, Store, Verb};
use crate::automount::{AutoMount, Mount, Mounted};
use crate::error::TmError;
use crate::facts::Format;
use crate::host::{Blank, Call, DatastoreCall, ImageOrder, Origin, Stored};
use crate::plan::Transfer;
use crate::rbd::ImageWork;
use crate::settings::TmSettings;

/// What the plans need to know of the front-end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    /// The stock `downloader.sh`.
    pub downloader: PathBuf,
    /// Directories of which no user may name a file, whatever the datastore says: oned's own.
    pub restricted: Vec<PathBuf>,
    /// The ssh client and its options.
    pub ssh: Vec<String>,
    /// What makes an image, on a host, of what comes on its standard input.
    pub receiver: String,
    /// What sends an image, on a host.
    pub sender: String,
    /// The present second, since 1970: what is signed is good for a while.
    pub now: u64,
}

impl Request {
    /// The steps, in their places: a host of [`bridges`](Request::bridges), or the front-end; `from` is one of
    /// [`sources`](Request::sources).
    ///
    /// # Errors
    /// [`TmError`]; nothing has been changed.
    pub fn steps(
        &self,
        host: Option<&HostName>,
        from: Option<&HostName>,
        front: &Front,
        settings: &TmSettings,
    ) -> Result<Transfer, TmError> {
        let call = match (self.call(from.filter(|from| host != Some(from)), front, settings)?, host) {
            (Call::Datastore(import), Some(host)) if import.origin().is_some() => {
                let mut ssh = front.ssh.clone();
                ssh.extend([host.to_string(), front.receiver.clone()]);
                Call::Datastore(DatastoreCall::Deliver { import: Box::new(import), ssh })
            }
            (call, _) => call,
        };
        // What an import is made of is on the front-end.
        let here = !call.touches_storage()
            || matches!(call, Call::Datastore(DatastoreCall::Deliver { .. } | DatastoreCall::Import { .. }));
        let at = |host: Option<&HostName>| host.cloned().map_or(Place::FrontEnd, Place::Host);
        let place = at(host.filter(|_| !here));
        let time = Time::of(&call);
        let deadline = if time == Time::Short { settings.short_deadline } else { settings.copy_deadline };
        let mut steps = Vec::new();
        let (call, deadline) = match self.mount()?.filter(|_| call.touches_storage()) {
            None => (call, deadline),
            Some(mount) => {
                let sent = matches!(call, Call::Datastore(DatastoreCall::Deliver { .. }));
                let mounted = |call| {
                    let order = Mounted {
                        mounts: vec![mount],
                        automounted: self.automounted.clone(),
                        call: Box::new(call),
                    };
                    (order.time(), Call::Mounted(order))
                };
                if sent {
                    // Not where the bytes come from, but where they go.
                    let reason = "the image comes to it in a stream of its own".to_owned();
                    let (more, order) = mounted(Call::Nothing { reason });
                    let name = format!("mount:{}", self.document.datastore.id);
                    steps.push(one(name, at(host), &order, settings.short_deadline.saturating_add(more))?);
                    (call, deadline)
                } else {
                    let (more, order) = mounted(call);
                    (order, deadline.saturating_add(more))
                }
            }
        };
        let step = one(format!("{}:{}", self.slot.verb(), self.id), place, &call, deadline)?;
        steps.push(if time == Time::Copy { step.long() } else { step });
        Ok(Transfer { steps, inputs: BTreeMap::new() })
    }

    /// What must be mounted where the work is done. No line of an fstab keeps it (contract TM 2.1): the next action that
    /// finds it gone mounts it again.
    fn mount(&self) -> Result<Option<Mount>, TmError> {
        let known = &self.document.datastore;
        let Some(AutoMount { share, options }) = known.automount.clone().filter(|_| self.mounts()) else {
            return Ok(None);
        };
        let datastore = match self.verb {
            Verb::System => known.located(self.location()?)?,
            _ => known.dir()?,
        };
        Ok(Some(Mount { datastore, share, options, kept: false }))
    }

    fn call(&self, from: Option<&HostName>, front: &Front, settings: &TmSettings) -> Result<Call, TmError> {
        match self.store {
            Store::Files => self.file_call(from, front, settings),
            Store::Ceph => self.volume_call(front, settings),
        }
    }

    fn file_call(
        &self,
        from: Option<&HostName>,
        front: &Front,
        settings: &TmSettings,
    ) -> Result<Call, TmError> {
        let nothing = |reason: &str| Ok(Call::Nothing { reason: reason.to_owned() });
        Ok(Call::Datastore(match self.verb {
            Verb::Cp => self.import(front, settings)?,
            Verb::Clone => self.copy(from, front)?,
            Verb::Mkfs if self.document.image()?.is_save_as() => {
                return nothing("only a name is chosen: a disk will be saved under it");
            }
            Verb::Mkfs => self.blank(settings)?,
            Verb::Rm if !self.document.image()?.has_source() => {
                // What a `cp` made that failed, or whose end nobody learnt of.
                let image = self.document.datastore.dir()?.image(self.new_name()?);
                DatastoreCall::Remove { image }
            }
            Verb::Rm => DatastoreCall::Remove { image: self.image()? },
            Verb::Stat => match self.measure(front)? {
                Some(call) => call,
                None => return nothing("its address tells its size"),
            },
            Verb::Monitor => DatastoreCall::Usage { datastore: self.document.datastore.dir()?, disks: false },
            Verb::System => DatastoreCall::Usage {
                datastore: self.document.datastore.located(self.location()?)?,
                disks: self.document.vm_disks,
            },
            Verb::SnapDelete => self.snapshot(ImageOrder::Delete)?,
            Verb::SnapRevert => self.snapshot(ImageOrder::Revert)?,
            Verb::SnapFlatten => self.snapshot(ImageOrder::Flatten)?,
            Verb::Export => DatastoreCall::Export { image: self.image()?, stored: self.stored("export")? },
        }))
    }

    fn location(&self) -> Result<&str, TmError> {
        let missing = || TmError::Missing {
            what: "DATASTORE_LOCATION".to_owned(),
            object: format!("datastore {}", self.document.datastore.id),
        };
        self.document.location.as_deref().ok_or_else(missing)
    }

    fn import(&self, front: &Front, settings: &TmSettings) -> Result<DatastoreCall, TmError> {
        let (image, datastore) = (self.document.image()?, &self.document.datastore);
        // A CD and a file are what they are (contract TM 3.2).
        let convert = datastore.convert && !image.cdrom && !datastore.files;
        Ok(DatastoreCall::Import {
            image: self.image()?,
            origin: self.origin(front, settings)?,
            format: datastore.driver.as_ref().filter(|_| convert).and_then(Stored::of),
            opened: !datastore.files,
            sparse: datastore.sparse,
        })
    }

    /// What a new image is made of.
    pub(super) fn origin(&self, front: &Front, settings: &TmSettings) -> Result<Origin, TmError> {
        let image = self.document.image()?;
        let signed = match image.path()?.split_once("://") {
            Some((scheme, object)) if scheme.eq_ignore_ascii_case("s3") => {
                let keyless = || TmError::Attribute {
                    attribute: "PATH".to_owned(),
                    object: format!("image {}", self.id),
                    value: format!("s3://{object}"),
                    accepted:
                        "an app of an S3 marketplace, with which its keys come: import the app, or fetch the \
                               object first and give its path"
                            .into(),
                };
                let store = self.document.store.as_ref().ok_or_else(keyless)?;
                Some(store.signed(object, front.now, settings.copy_deadline)?)
            }
            _ => None,
        };
        source::origin(image, signed.as_deref(), &self.document.datastore, front)
    }

    fn copy(&self, from: Option<&HostName>, front: &Front) -> Result<DatastoreCall, TmError> {
        let (image, datastore) = (self.document.image()?, &self.document.datastore);
        let stored = self.stored("clone")?;
        if let Some(from) = from {
            let mut ssh = front.ssh.clone();
            ssh.extend([from.to_string(), front.sender.clone()]);
            let format = datastore.driver.as_ref().and_then(Stored::of).unwrap_or(stored);
            return Ok(DatastoreCall::Import {
                image: self.image()?,
                origin: Origin::Host { ssh, image: image.original(datastore)?, stored },
                format: Some(format),
                // What it is oned says, never its bytes: a guest may have written them.
                opened: stored == Stored::Qcow2,
                sparse: datastore.sparse,
            });
        }
        Ok(DatastoreCall::Copy {
            original: image.original(datastore)?,
            stored,
            image: self.image()?,
            format: datastore.driver.as_ref().and_then(Stored::of).unwrap_or(stored),
            sparse: datastore.sparse,
        })
    }

    fn blank(&self, settings: &TmSettings) -> Result<DatastoreCall, TmError> {
        let image = self.document.image()?;
        let blank = self.blank_of(image, settings)?;
        Ok(DatastoreCall::Blank {
            image: self.image()?,
            size_mb: image.size_mb()?,
            format: self.stored("mkfs")?,
            blank,
        })
    }

    /// What a new image is to have in it.
    pub(super) fn blank_of(&self, image: &ImageFacts, settings: &TmSettings) -> Result<Blank, TmError> {
        Ok(match &image.fs {
            None => Blank::Empty,
            Some(kind) => {
                let options = settings.file_systems.get(kind).cloned().ok_or_else(|| {
                    let names: Vec<&str> = settings.file_systems.keys().map(String::as_str).collect();
                    TmError::Attribute {
                        attribute: "FS".to_owned(),
                        object: format!("image {}", self.id),
                        value: kind.clone(),
                        accepted: format!("one of SUPPORTED_FS: {}", names.join(", ")).into(),
                    }
                })?;
                Blank::FileSystem { kind: kind.clone(), options }
            }
        })
    }

    /// How to find out the size; none where the address says it.
    pub(super) fn measure(&self, front: &Front) -> Result<Option<DatastoreCall>, TmError> {
        let (path, datastore) = (self.document.image()?.path()?, &self.document.datastore);
        let origin = match Named::read(path)? {
            Named::File(path) => {
                Origin::File { path, dirs: source::dirs(datastore, front), unpack: None, checksum: None }
            }
            Named::Address { scheme, .. } if matches!(scheme.as_str(), "http" | "https") => {
                return Ok(Some(DatastoreCall::AskSize { address: path.to_owned() }));
            }
            Named::Address { .. } if source::stated_size(path).is_some() => return Ok(None),
            Named::Address { .. } => {
                return Err(TmError::NotYet(format!(
                    "{}: the size of {path} cannot be asked for; state SIZE of the image",
                    self.slot
                )));
            }
        };
        Ok(Some(DatastoreCall::Measure { origin }))
    }

    fn snapshot(&self, order: ImageOrder) -> Result<DatastoreCall, TmError> {
        let image = self.document.image()?;
        Ok(DatastoreCall::Snapshot {
            image: self.image()?,
            // On what the image is, not on what its driver is called (W5).
            chain: image.format()? == Format::Qcow2,
            order,
            id: image.target_snapshot()?,
        })
    }

    /// The image's format, where it must be one of the two that are known well.
    fn stored(&self, what: &str) -> Result<Stored, TmError> {
        let format = self.document.image()?.format()?;
        Stored::of(&format).ok_or_else(|| {
            TmError::NotYet(format!("{}: {what} of an image of FORMAT {format} is not built", self.slot))
        })
    }
}

fn one(name: String, place: Place, call: &Call, deadline: Duration) -> Result<Step, TmError> {
    let encoded = serde_json::to_value(call);
    let call = encoded.map_err(|e| TmError::Unwritable { step: name.clone(), why: e.to_string() })?;
    Ok(Step::new(name, place, Work::Transfer { call, inputs: Vec::new() }, deadline))
}

/// How long a call may take, and whom it holds up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    Short,
    /// It removes data, as long as that takes; whoever waits for that waits for room.
    Removal,
    /// It may copy an image's data.
    Copy,
}

impl Time {
    fn of(call: &Call) -> Self {
        use DatastoreCall::{AskSize, Measure, Remove, Usage, Volume};
        match call {
            Call::Datastore(Remove { .. } | Usage { .. } | Measure { .. } | AskSize { .. }) => Time::Short,
            Call::Datastore(Volume(call)) => match &call.work {
                ImageWork::Remove { trash: false, .. } => Time::Removal,
                _ => Time::Copy,
            },
            Call::Datastore(_) => Time::Copy,
            _ => Time::Short,
        }
    }
}
