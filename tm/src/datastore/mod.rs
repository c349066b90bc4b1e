//! Datastores of images: the actions of `datastore/fs` and `datastore/ceph`, which the stock datastore process starts
//! (contract TM 3), and `monitor` of a shared system datastore, of files or a pool, which it starts among the transfer manager's slots.
//!
//! ```text
//! argv: an id     ─┐
//! stdin: a document ┴─ Request::read ──> Request ── where ──> front-end, or a host of BRIDGE_LIST
//!                                           └── steps ──> one typed call ── its output ── answer ──> stdout
//! ```
//!
//! The document holds secrets, decrypted: what no action needs is not kept, and none of it is ever an argument.

mod answer;
mod bridge;
mod document;
mod monitord;
mod plan;
mod s3;
mod seal;
pub(crate) mod source;
mod volumes;

use std::collections::BTreeSet;

use causeway_core::document::decode;
use causeway_core::names::HostName;
use causeway_core::plan::Slot;

use crate::error::TmError;
use crate::host::{Call, DatastoreCall};
use crate::place::{FileName, Image};
use document::Document;

pub(crate) use answer::told;
pub use answer::{Answer, datagrams};
pub use bridge::{Hosts, choose};
pub use monitord::Monitord;
pub use plan::Front;
pub use seal::PublicKey;

/// What an action of a datastore is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Cp,
    Clone,
    Rm,
    Mkfs,
    Stat,
    Monitor,
    SnapDelete,
    SnapRevert,
    SnapFlatten,
    Export,
    /// `monitor` of a system datastore.
    System,
}

/// Where a datastore keeps what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    /// In files of a directory.
    Files,
    /// In volumes of a Ceph cluster.
    Ceph,
}

impl Store {
    /// What keeps it, and what is to be done.
    fn of(slot: &Slot) -> Option<(Self, Verb)> {
        Some(match (slot.family(), slot.driver(), slot.verb()) {
            ("tm", "shared" | "qcow2", "monitor") => (Store::Files, Verb::System),
            ("tm", "ceph", "monitor") => (Store::Ceph, Verb::System),
            ("datastore", "fs", verb) => (Store::Files, Verb::named(verb)?),
            ("datastore", "ceph", verb) => (Store::Ceph, Verb::named(verb)?),
            _ => return None,
        })
    }
}

impl Verb {
    fn named(verb: &str) -> Option<Self> {
        Some(match verb {
            "cp" => Verb::Cp,
            "clone" => Verb::Clone,
            "rm" => Verb::Rm,
            "mkfs" => Verb::Mkfs,
            "stat" => Verb::Stat,
            "monitor" => Verb::Monitor,
            "snap_delete" => Verb::SnapDelete,
            "snap_revert" => Verb::SnapRevert,
            "snap_flatten" => Verb::SnapFlatten,
            "export" => Verb::Export,
            _ => return None,
        })
    }

    /// Whether a new image is made.
    fn makes(self) -> bool {
        matches!(self, Verb::Cp | Verb::Clone | Verb::Mkfs)
    }
}

/// Whether a slot is one of these.
pub fn built(slot: &Slot) -> bool {
    Store::of(slot).is_some()
}

/// The work of a slot that a host's own probe calls, not the front-end (contract TM 0): `tm/ssh/monitor_ds`; none for any
/// other slot.
///
/// # Errors
/// Its argument is no datastore's directory.
pub fn of_a_probe(slot: &Slot, argv: &[String]) -> Result<Option<Call>, TmError> {
    if (slot.family(), slot.driver(), slot.verb()) != ("tm", "ssh", "monitor_ds") {
        return Ok(None);
    }
    let [directory] = argv else {
        return Err(TmError::Arguments { slot: slot.to_string(), form: "DIRECTORY", count: argv.len() });
    };
    let wrong = |source| TmError::Argument { slot: slot.to_string(), position: 1, source };
    let datastore = directory.parse().map_err(wrong)?;
    Ok(Some(Call::Datastore(DatastoreCall::Sizes { datastore })))
}

/// One call of a slot, read and checked.
#[derive(Debug, Clone)]
pub struct Request {
    slot: Slot,
    store: Store,
    verb: Verb,
    /// The argument: an image, a datastore for `monitor`, a number without a meaning for `stat`.
    id: u32,
    document: Document,
    /// The datastores that are mounted by whoever uses them, where that was asked for.
    automounted: Option<BTreeSet<u32>>,
}

impl Request {
    /// Reads the argument and the standard input of a slot.
    ///
    /// # Errors
    /// [`TmError`]: not one of these slots, not one id, not a document, or one about another object than the id.
    pub fn read(slot: &Slot, argv: &[String], stdin: &[u8]) -> Result<Self, TmError> {
        let (store, verb) = Store::of(slot).ok_or_else(|| TmError::NotBuilt { slot: slot.to_string() })?;
        let [id] = argv else {
            return Err(TmError::Arguments { slot: slot.to_string(), form: "ID", count: argv.len() });
        };
        let id = document::number(id).ok_or_else(|| {
            let source = causeway_core::names::NameError::new("id", id, "a decimal number");
            TmError::Argument { slot: slot.to_string(), position: 1, source }
        })?;
        let object = "standard input".to_owned();
        let bytes =
            decode(stdin).map_err(|e| TmError::Encoding { object: object.clone(), why: e.to_string() })?;
        let root = causeway_core::document::parse(&bytes)
            .map_err(|source| TmError::Document { object, source: source.into() })?;
        let document = Document::read(&root)?;
        let request = Request { slot: slot.clone(), store, verb, id, document, automounted: None };
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), TmError> {
        let told = match self.verb {
            Verb::Stat => None,
            Verb::Monitor | Verb::System => Some(("DATASTORE ID", self.document.datastore.id)),
            _ => Some(("IMAGE ID", self.document.image()?.id()?)),
        };
        match told {
            Some((attribute, id)) if id != self.id => Err(TmError::Attribute {
                attribute: attribute.to_owned(),
                object: self.slot.to_string(),
                value: id.to_string(),
                accepted: format!("{}, the argument", self.id).into(),
            }),
            _ if self.store == Store::Ceph => self.check_volumes(),
            _ => Ok(()),
        }
    }

    /// The hosts of which one is to do it; none means that the front-end is.
    pub fn bridges(&self) -> &[HostName] {
        match self.verb {
            // What is looked at is to come from the front-end (contract TM 3.2).
            Verb::Stat => &[],
            _ => &self.document.datastore.bridges,
        }
    }

    /// The hosts of which one has the image that a `clone` is made of (`SOURCE_BRIDGE_LIST`); none means that whoever
    /// makes the new one has it.
    pub fn sources(&self) -> &[HostName] {
        match (self.store, self.verb) {
            (Store::Files, Verb::Clone) => &self.document.source_bridges,
            _ => &[],
        }
    }

    /// Whether the datastore is to be mounted by whoever works in it.
    pub fn mounts(&self) -> bool {
        // What is only measured lies elsewhere.
        self.store == Store::Files && self.verb != Verb::Stat && self.document.datastore.automount.is_some()
    }

    /// With what [`automounted`](crate::automounted) says: mounts of other datastores that are none of these any more are
    /// taken away when this one's is made.
    pub fn among(self, automounted: BTreeSet<u32>) -> Self {
        Request { automounted: Some(automounted), ..self }
    }

    /// By which number a host of `BRIDGE_LIST` is chosen; none means by chance (contract TM 3.2).
    pub fn turn(&self) -> Option<u32> {
        (!matches!(self.verb, Verb::Monitor | Verb::System | Verb::Stat)).then_some(self.id)
    }

    /// Whether the step prints what the answer is made of.
    pub fn prints(&self) -> bool {
        match self.verb {
            Verb::Cp | Verb::Clone | Verb::Monitor | Verb::System | Verb::Export => true,
            Verb::Stat => self.document.image().is_ok_and(|image| !source::tells_its_size(image)),
            Verb::Rm | Verb::Mkfs | Verb::SnapDelete | Verb::SnapRevert | Verb::SnapFlatten => false,
        }
    }

    /// The id that the slot was called with.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The new image of a `cp`, `clone` or `mkfs`, or the one that the action is about.
    fn image(&self) -> Result<Image, TmError> {
        let datastore = &self.document.datastore;
        let image = self.document.image()?;
        if !self.verb.makes() {
            return image.stored(datastore);
        }
        Ok(datastore.dir()?.image(self.new_name()?))
    }

    /// What a new image is called: as the stock drivers call it (contract TM 3.2), by the second in which it was
    /// registered. A second try then has the name of the first, and finds what that left.
    fn new_name(&self) -> Result<FileName, TmError> {
        self.document.image()?.name_for(self.id)
    }
}
