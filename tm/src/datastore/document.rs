//! `DS_DRIVER_ACTION_DATA` (contract TM 3), as far as an action needs it.

use causeway_core::document::tree::Element;
use causeway_core::names::{DiskPath, HostName, NameError};
use md5::{Digest, Md5};

use super::s3::Store;
use crate::automount::AutoMount;
use crate::error::TmError;
use crate::facts::reading::{TRUTHS, truth};
use crate::facts::{CephFacts, Format};
use crate::place::{DatastoreDir, FileName, Image, plain};
use crate::rbd::Volume;

/// The name of the root element.
const ROOT: &str = "DS_DRIVER_ACTION_DATA";

/// A number in plain digits.
pub(super) fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
}

/// An attribute that has a value; oned writes an empty one for none.
pub(super) fn set(element: &Element, name: &str) -> Option<String> {
    element.value(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Names of hosts with blanks between them.
fn hosts(element: &Element, attribute: &str, object: &str) -> Result<Vec<HostName>, TmError> {
    let text = set(element, attribute).unwrap_or_default();
    let read = |name: &str| {
        name.parse().map_err(|_| TmError::Attribute {
            attribute: attribute.to_owned(),
            object: object.to_owned(),
            value: NameError::new("", name, "").value,
            accepted: "names of hosts with blanks between them".into(),
        })
    };
    text.split_ascii_whitespace().map(read).collect()
}

/// The document.
#[derive(Debug, Clone)]
pub(super) struct Document {
    image: Option<ImageFacts>,
    pub datastore: DatastoreFacts,
    /// `DATASTORE_LOCATION`, in the document of a system datastore.
    pub location: Option<String>,
    /// `SOURCE_BRIDGE_LIST`: who has the image that a `clone` is made of; none means those of `BRIDGE_LIST`.
    pub source_bridges: Vec<HostName>,
    /// `MARKETPLACE`: the store that an app comes from.
    pub store: Option<Store>,
    /// `MONITOR_VM_DISKS`: this time the sizes of the VMs' disks are wanted.
    pub vm_disks: bool,
}

impl Document {
    pub(super) fn read(root: &Element) -> Result<Self, TmError> {
        let missing = |what: &str| TmError::Missing { what: what.to_owned(), object: ROOT.to_owned() };
        if root.name() != ROOT {
            return Err(missing(ROOT));
        }
        let datastore = root.first("DATASTORE").ok_or_else(|| missing("DATASTORE"))?;
        Ok(Document {
            image: root.first("IMAGE").map(|image| ImageFacts::read(image)).transpose()?,
            datastore: DatastoreFacts::read(datastore)?,
            location: set(root, "DATASTORE_LOCATION"),
            source_bridges: hosts(root, "SOURCE_BRIDGE_LIST", "the document")?,
            store: Store::of(root),
            vm_disks: set(root, "MONITOR_VM_DISKS").as_deref() == Some("1"),
        })
    }

    pub(super) fn image(&self) -> Result<&ImageFacts, TmError> {
        let missing = || TmError::Missing { what: "IMAGE".to_owned(), object: ROOT.to_owned() };
        self.image.as_ref().ok_or_else(missing)
    }
}

/// What is known of an image. The document of `stat` has a path and a size only.
#[derive(Debug, Clone)]
pub(super) struct ImageFacts {
    id: Option<u32>,
    /// `TYPE`: 1 is a CD.
    pub cdrom: bool,
    registered: Option<u64>,
    source: Option<String>,
    /// `PATH`: what is to become an image; for `clone` the `SOURCE` of another image.
    pub path: Option<String>,
    format: Option<String>,
    /// `FS`.
    pub fs: Option<String>,
    /// `SIZE`, MiB.
    pub size_mb: Option<u64>,
    target_snapshot: Option<u32>,
    /// `TEMPLATE/MD5`, `TEMPLATE/SHA1`.
    pub md5: Option<String>,
    pub sha1: Option<String>,
    /// `TEMPLATE/URL_ARGS`.
    pub url_args: Option<String>,
}

impl ImageFacts {
    fn read(image: &Element) -> Result<Self, TmError> {
        let id = set(image, "ID");
        let object = id.as_ref().map_or_else(|| "the image".to_owned(), |id| format!("image {id}"));
        let wrong = |attribute: &str, value: String, accepted: &'static str| TmError::Attribute {
            attribute: attribute.to_owned(),
            object: object.clone(),
            value: NameError::new("", &value, "").value,
            accepted: accepted.into(),
        };
        let count = |name: &str| match set(image, name) {
            None => Ok(None),
            Some(text) => {
                let found = text.parse().ok().filter(|_: &u64| text.bytes().all(|b| b.is_ascii_digit()));
                found.map(Some).ok_or_else(|| wrong(name, text, "a number"))
            }
        };
        let target_snapshot = match set(image, "TARGET_SNAPSHOT").as_deref() {
            None | Some("-1") => None,
            Some(text) => {
                Some(number(text).ok_or_else(|| wrong("TARGET_SNAPSHOT", text.to_owned(), "a number"))?)
            }
        };
        let id = match id {
            None => None,
            Some(text) => Some(number(&text).ok_or_else(|| wrong("ID", text, "a number"))?),
        };
        let template = image.first("TEMPLATE");
        let hash = |name: &str, digits: usize, accepted| match template.and_then(|t| set(t, name)) {
            None => Ok(None),
            Some(text) if text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(Some(text.to_ascii_lowercase()))
            }
            Some(text) => Err(wrong(name, text, accepted)),
        };
        Ok(ImageFacts {
            id,
            cdrom: set(image, "TYPE").as_deref() == Some("1"),
            registered: count("REGTIME")?,
            source: set(image, "SOURCE"),
            path: set(image, "PATH"),
            format: set(image, "FORMAT"),
            fs: set(image, "FS"),
            size_mb: count("SIZE")?,
            target_snapshot,
            md5: hash("MD5", 32, "32 hexadecimal digits")?,
            sha1: hash("SHA1", 40, "40 hexadecimal digits")?,
            url_args: template.and_then(|template| set(template, "URL_ARGS")),
        })
    }

    fn missing(&self, what: &str) -> TmError {
        let object = self.id.map_or_else(|| "the image".to_owned(), |id| format!("image {id}"));
        TmError::Missing { what: what.to_owned(), object }
    }

    pub(super) fn id(&self) -> Result<u32, TmError> {
        self.id.ok_or_else(|| self.missing("ID"))
    }

    pub(super) fn path(&self) -> Result<&str, TmError> {
        self.path.as_deref().ok_or_else(|| self.missing("PATH"))
    }

    pub(super) fn size_mb(&self) -> Result<u64, TmError> {
        match self.size_mb.ok_or_else(|| self.missing("SIZE"))? {
            0 => Err(TmError::Attribute {
                attribute: "SIZE".to_owned(),
                object: self.id.map_or_else(|| "IMAGE".to_owned(), |id| format!("image {id}")),
                value: "0".to_owned(),
                accepted: "a whole number of MiB above 0".into(),
            }),
            size => Ok(size),
        }
    }

    pub(super) fn target_snapshot(&self) -> Result<u32, TmError> {
        self.target_snapshot.ok_or_else(|| self.missing("TARGET_SNAPSHOT"))
    }

    /// How the image's bytes are laid out: what oned says, never what the bytes look like, for a guest may have
    /// written them.
    pub(super) fn format(&self) -> Result<Format, TmError> {
        self.format.as_deref().map(Format::read).ok_or_else(|| self.missing("FORMAT"))
    }

    /// Whether `mkfs` is to choose a name only: a disk will be saved under it (contract TM 3.1).
    pub(super) fn is_save_as(&self) -> bool {
        [&self.format, &self.fs].into_iter().flatten().any(|text| text == "save_as")
    }

    /// Whether oned has a place for it: an image whose `cp` failed has none.
    pub(super) fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// `REGTIME`, seconds since 1970.
    pub(super) fn registered(&self) -> Result<u64, TmError> {
        self.registered.filter(|seconds| *seconds > 0).ok_or_else(|| self.missing("REGTIME"))
    }

    /// `SOURCE` or `PATH`, by its name, as a volume.
    pub(super) fn volume(&self, attribute: &'static str) -> Result<Volume, TmError> {
        let text = if attribute == "SOURCE" { &self.source } else { &self.path };
        let text = text.as_ref().ok_or_else(|| self.missing(attribute))?;
        text.parse().map_err(|e: NameError| TmError::Attribute {
            attribute: attribute.to_owned(),
            object: self.id.map_or_else(|| "the image".to_owned(), |id| format!("image {id}")),
            value: NameError::new("", text, "").value,
            accepted: e.accepted.into(),
        })
    }

    /// `SOURCE`, which must be an image of this very datastore.
    pub(super) fn stored(&self, datastore: &DatastoreFacts) -> Result<Image, TmError> {
        let source = self.source.as_ref().ok_or_else(|| self.missing("SOURCE"))?;
        let image = place(source).filter(|image| datastore.dir().is_ok_and(|dir| dir == *image.datastore()));
        image.ok_or_else(|| TmError::Attribute {
            attribute: "SOURCE".to_owned(),
            object: self.id.map_or_else(|| "the image".to_owned(), |id| format!("image {id}")),
            value: NameError::new("", source, "").value,
            accepted: format!("a file of datastore {}, right below {}", datastore.id, datastore.base_path)
                .into(),
        })
    }

    /// `PATH` of a `clone`: another image, of a datastore below the same root.
    pub(super) fn original(&self, datastore: &DatastoreFacts) -> Result<Image, TmError> {
        let path = self.path()?;
        let root = datastore.dir()?;
        let image = place(path).filter(|image| image.datastore().root() == root.root());
        image.ok_or_else(|| TmError::Attribute {
            attribute: "PATH".to_owned(),
            object: self.id.map_or_else(|| "the image".to_owned(), |id| format!("image {id}")),
            value: NameError::new("", path, "").value,
            accepted: format!("an image below {}", root.root().display()).into(),
        })
    }

    /// md5 of `<epoch seconds>:<image id>` and a line feed, in hexadecimal digits (contract TM 3.2).
    pub(super) fn name_for(&self, id: u32) -> Result<FileName, TmError> {
        let registered = self.registered()?;
        let sum = Md5::digest(format!("{registered}:{id}\n"));
        let digits: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.parse().map_err(|source| TmError::Argument { slot: "SOURCE".to_owned(), position: 0, source })
    }
}

fn place(text: &str) -> Option<Image> {
    Image::try_from(&text.parse::<DiskPath>().ok()?).ok()
}

/// What is known of the datastore.
#[derive(Debug, Clone)]
pub(super) struct DatastoreFacts {
    pub id: u32,
    /// `TYPE` 2: a datastore of kernels and of files for contexts.
    pub files: bool,
    /// `BASE_PATH` as oned writes it, with its doubled slashes, which a `SOURCE` keeps.
    pub base_path: String,
    pub bridges: Vec<HostName>,
    /// `DRIVER`: the format that all its images are to have.
    pub driver: Option<Format>,
    /// Unless `CONVERT` says no.
    pub convert: bool,
    /// `NO_DECOMPRESS`; none where the datastore does not say.
    pub no_decompress: Option<bool>,
    /// `LIMIT_TRANSFER_BW`, as curl reads it.
    pub limit: Option<String>,
    pub safe_dirs: Vec<String>,
    pub restricted_dirs: Vec<String>,
    /// Unless `SPARSE` says no.
    pub sparse: bool,
    /// `NFS_AUTO_*`: what whoever works in it is to mount.
    pub automount: Option<AutoMount>,
    /// The cluster, of a datastore that is one.
    pub ceph: CephFacts,
    /// `STAGING_DIR`.
    pub staging: Option<String>,
}

/// Whether it is a rate as curl reads one (`--limit-rate`).
fn is_rate(text: &str) -> bool {
    let digits = text.strip_suffix(|sign: char| "bBkKmMgG".contains(sign)).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

impl DatastoreFacts {
    fn read(datastore: &Element) -> Result<Self, TmError> {
        let missing = |what: &str| TmError::Missing { what: what.to_owned(), object: "DATASTORE".to_owned() };
        let id = set(datastore, "ID").and_then(|text| number(&text)).ok_or_else(|| missing("ID"))?;
        let object = format!("datastore {id}");
        let template = datastore.first("TEMPLATE").ok_or_else(|| missing("TEMPLATE"))?;
        let wrong = |attribute: &str, value: &str, accepted: &'static str| TmError::Attribute {
            attribute: attribute.to_owned(),
            object: object.clone(),
            value: NameError::new("", value, "").value,
            accepted: accepted.into(),
        };
        let flag = |name: &str| match set(template, name) {
            None => Ok(None),
            Some(text) => truth(&text).map(Some).ok_or_else(|| wrong(name, &text, TRUTHS)),
        };
        let words = |name: &str| -> Vec<String> {
            let text = set(template, name).unwrap_or_default();
            text.split_ascii_whitespace().map(str::to_owned).collect()
        };
        let driver = match set(template, "DRIVER") {
            None => None,
            Some(text) => match Format::read(&text) {
                Format::Other(_) => return Err(wrong("DRIVER", &text, "raw or qcow2")),
                format => Some(format),
            },
        };
        let limit = set(template, "LIMIT_TRANSFER_BW");
        if let Some(limit) = limit.as_ref().filter(|text| !is_rate(text)) {
            return Err(wrong("LIMIT_TRANSFER_BW", limit, "a whole number, with B, K, M or G after it"));
        }
        Ok(DatastoreFacts {
            id,
            files: set(datastore, "TYPE").as_deref() == Some("2"),
            base_path: set(datastore, "BASE_PATH").ok_or_else(|| missing("BASE_PATH"))?,
            bridges: hosts(template, "BRIDGE_LIST", &object)?,
            driver,
            convert: flag("CONVERT")?.unwrap_or(true),
            no_decompress: flag("NO_DECOMPRESS")?,
            limit,
            safe_dirs: words("SAFE_DIRS"),
            restricted_dirs: words("RESTRICTED_DIRS"),
            sparse: flag("SPARSE")?.unwrap_or(true),
            automount: AutoMount::read(template, &object)?,
            ceph: CephFacts::of(template),
            staging: set(template, "STAGING_DIR"),
        })
    }

    /// Its directory, which must bear its number.
    pub(super) fn dir(&self) -> Result<DatastoreDir, TmError> {
        self.below(&self.base_path, "BASE_PATH")
    }

    /// Its directory by `DATASTORE_LOCATION`: `BASE_PATH` of a system datastore is that of the front-end.
    pub(super) fn located(&self, location: &str) -> Result<DatastoreDir, TmError> {
        self.below(&format!("{location}/{}", self.id), "DATASTORE_LOCATION")
    }

    fn below(&self, text: &str, attribute: &str) -> Result<DatastoreDir, TmError> {
        let path: Option<DiskPath> = text.parse().ok();
        let dir = path.and_then(|path| plain(&path).parse::<DatastoreDir>().ok());
        dir.filter(|dir| dir.id() == self.id).ok_or_else(|| TmError::Attribute {
            attribute: attribute.to_owned(),
            object: format!("datastore {}", self.id),
            value: NameError::new("", text, "").value,
            accepted: format!("DATASTORES/{}", self.id).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::is_rate;

    #[test]
    fn a_rate_is_what_curl_takes_for_one() {
        for text in ["5", "500k", "10M", "1g", "7B"] {
            assert!(is_rate(text), "{text}");
        }
        for text in ["", "quick", "M", "5MB", "-1", "1.5M", "5 M"] {
            assert!(!is_rate(text), "{text}");
        }
    }
}
