//! Where the files of VMs and of images lie, by the components of their paths.
//!
//! A transfer manager's worst mistake is a right action at a wrong path, so no path is acted upon as text. A VM's
//! directory is `<root>/<datastore id>/<VM id>`, a file of it has one more component, an image is
//! `<root>/<datastore id>/<name>` (contract TM 0, 2.1), and each is a type that cannot hold anything else. The ids are
//! compared with their own spelling: `007` would be printed as `7`, which is another directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use causeway_core::names::{DiskPath, HostName, NameError, VmId};
use serde::{Deserialize, Serialize};

pub(crate) use crate::half_made::{named_at_last, told_at_last};

/// How our half-made files begin. Nothing of this name is anybody's data: a later step may remove it.
pub const TEMPORARY: &str = ".causeway-tmp.";

/// Longest name of a directory entry (`NAME_MAX`), less the room that a temporary name takes.
const NAME_LIMIT: usize = 200;

/// Serialises a type as the text it prints, and reads it back through its parser.
macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

pub(crate) use as_text;

/// The name of one directory entry: no slash, no dots alone, no control character, and not one of our temporary names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);
as_text!(FileName);

impl FileName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number of a disk: 3 for `disk.3`.
    pub fn disk(&self) -> Option<u32> {
        let digits = self.0.strip_prefix("disk.")?;
        let number: u32 = digits.parse().ok()?;
        (number.to_string() == digits).then_some(number)
    }

    /// The name of the directory that holds the snapshots of this file: `disk.3.snap`.
    pub fn snap(&self) -> String {
        format!("{}.snap", self.0)
    }

    /// The name of a disk's data in a backup: `disk.0.3`.
    pub fn of_increment(&self, increment: u32) -> FileName {
        FileName(format!("{}.{increment}", self.0))
    }
}

/// The name of a layer or of a snapshot in its directory.
impl From<u32> for FileName {
    fn from(number: u32) -> Self {
        FileName(number.to_string())
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FileName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let ok = (1..=NAME_LIMIT).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.starts_with(TEMPORARY)
            && !text.contains('/')
            && !text.chars().any(char::is_control);
        if ok {
            Ok(FileName(text.to_owned()))
        } else {
            Err(NameError::new(
                "file name",
                text,
                "a name of 1 to 200 bytes without '/' or control characters",
            ))
        }
    }
}

/// A datastore on a host: `<root>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatastoreDir {
    root: String,
    id: u32,
}
as_text!(DatastoreDir);

impl DatastoreDir {
    /// The directory that holds the datastores (`DATASTORE_LOCATION`).
    pub fn root(&self) -> &Path {
        Path::new(&self.root)
    }

    /// The datastore's number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The datastore's directory.
    pub fn path(&self) -> PathBuf {
        self.root().join(self.id.to_string())
    }

    /// An image in it.
    pub fn image(&self, name: FileName) -> Image {
        Image { datastore: self.clone(), name }
    }

    /// Another datastore below the same root.
    pub fn sibling(&self, id: u32) -> Self {
        DatastoreDir { root: self.root.clone(), id }
    }
}

impl fmt::Display for DatastoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.root, self.id)
    }
}

impl FromStr for DatastoreDir {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let path: DiskPath = text.parse()?;
        let bad = || NameError::new("datastore", text, "DATASTORES/DATASTORE ID");
        datastore(&plain(&path)).ok_or_else(bad)
    }
}

/// The last component of a path, and what stands before it.
fn last(path: &str) -> Option<(&str, &str)> {
    path.rsplit_once('/').filter(|(_, name)| !name.is_empty())
}

/// The number that a component spells, in the one spelling that is printed back.
fn number(component: &str) -> Option<u32> {
    let number: u32 = component.parse().ok()?;
    (number.to_string() == component).then_some(number)
}

/// The path with single slashes; a [`DiskPath`] is absolute, without dots, and text.
pub(crate) fn plain(path: &DiskPath) -> String {
    let parts: Vec<&str> = path.as_str().split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

fn datastore(path: &str) -> Option<DatastoreDir> {
    let (root, id) = last(path)?;
    // The root itself is never a root of datastores: `/0/7` is no VM directory.
    let root = Some(root).filter(|root| !root.is_empty())?;
    Some(DatastoreDir { root: root.to_owned(), id: number(id)? })
}

/// A VM's directory in a system datastore: `<root>/<datastore id>/<VM id>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmDir {
    datastore: DatastoreDir,
    vm: VmId,
}
as_text!(VmDir);

impl VmDir {
    /// The system datastore.
    pub fn datastore(&self) -> &DatastoreDir {
        &self.datastore
    }

    /// The VM.
    pub fn vm(&self) -> VmId {
        self.vm
    }

    /// The directory.
    pub fn path(&self) -> PathBuf {
        self.datastore.path().join(self.vm.to_string())
    }

    /// The same VM's directory in another datastore below the same root.
    pub fn in_datastore(&self, id: u32) -> Self {
        VmDir { datastore: self.datastore.sibling(id), vm: self.vm }
    }
}

impl fmt::Display for VmDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.datastore, self.vm)
    }
}

impl TryFrom<&DiskPath> for VmDir {
    type Error = NameError;
    fn try_from(path: &DiskPath) -> Result<Self, NameError> {
        let text = plain(path);
        let parts = last(&text).and_then(|(before, vm)| Some((datastore(before)?, number(vm)?)));
        match parts {
            Some((datastore, vm)) => Ok(VmDir { datastore, vm: VmId(vm) }),
            None => Err(NameError::new("VM directory", path.as_str(), "DATASTORES/DATASTORE ID/VM ID")),
        }
    }
}

impl FromStr for VmDir {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        VmDir::try_from(&text.parse::<DiskPath>()?)
    }
}

/// A file of a VM: `<root>/<datastore id>/<VM id>/disk.0`, or `kernel` and `initrd` in the same place.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmFile {
    dir: VmDir,
    name: FileName,
}
as_text!(VmFile);

impl VmFile {
    /// The VM's directory.
    pub fn dir(&self) -> &VmDir {
        &self.dir
    }

    /// The file's name.
    pub fn name(&self) -> &FileName {
        &self.name
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(self.name.as_str())
    }
}

impl fmt::Display for VmFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dir, self.name)
    }
}

impl TryFrom<&DiskPath> for VmFile {
    type Error = NameError;
    fn try_from(path: &DiskPath) -> Result<Self, NameError> {
        let text = plain(path);
        let bad = || NameError::new("VM file", path.as_str(), "DATASTORES/DATASTORE ID/VM ID/NAME");
        let (before, name) = last(&text).ok_or_else(bad)?;
        let dir = before.parse().map_err(|_| bad())?;
        Ok(VmFile { dir, name: name.parse().map_err(|_| bad())? })
    }
}

impl FromStr for VmFile {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        VmFile::try_from(&text.parse::<DiskPath>()?)
    }
}

/// An image in an image or file datastore: `<root>/<datastore id>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Image {
    datastore: DatastoreDir,
    name: FileName,
}
as_text!(Image);

impl Image {
    /// The image that `source` names, where a host has it: the last two components of `source`, below the root under
    /// which `destination` lies (contract TM 2.1).
    ///
    /// # Errors
    /// A source that does not end in a datastore's number and a name.
    pub fn beside(source: &DiskPath, destination: &VmFile) -> Result<Self, NameError> {
        let named = Image::try_from(source)?;
        let datastore = destination.dir.datastore.sibling(named.datastore.id);
        Ok(Image { datastore, name: named.name })
    }

    /// The image's datastore.
    pub fn datastore(&self) -> &DatastoreDir {
        &self.datastore
    }

    /// The image's file name.
    pub fn name(&self) -> &FileName {
        &self.name
    }

    /// The image.
    pub fn path(&self) -> PathBuf {
        self.datastore.path().join(self.name.as_str())
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.datastore, self.name)
    }
}

impl TryFrom<&DiskPath> for Image {
    type Error = NameError;
    fn try_from(path: &DiskPath) -> Result<Self, NameError> {
        let text = plain(path);
        let parts = last(&text).and_then(|(before, name)| Some((datastore(before)?, name.parse().ok()?)));
        match parts {
            Some((datastore, name)) => Ok(Image { datastore, name }),
            None => Err(NameError::new("image", path.as_str(), "DATASTORES/DATASTORE ID/NAME")),
        }
    }
}

impl FromStr for Image {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Image::try_from(&text.parse::<DiskPath>()?)
    }
}

/// A path on a host, as a script line spells it: `node1:/var/lib/one//datastores/0/7/disk.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The host.
    pub host: HostName,
    /// The path on it.
    pub path: DiskPath,
}

impl FromStr for Remote {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        // At the first colon before a slash: the same as the first colon (contract TM 2) for every name but an IPv6
        // address, whose own colons the stock scripts stumble over (W47). Paths are absolute either way.
        let (host, path) = match text.find(":/") {
            Some(colon) => text.split_at(colon),
            None => return Err(NameError::new("place", text, "HOST:PATH with an absolute path")),
        };
        Ok(Remote { host: host.parse()?, path: path.trim_start_matches(':').parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_recorded_paths() {
        let disk: VmFile = "/var/lib/one//datastores/102/0/disk.0".parse().unwrap();
        assert_eq!(disk.to_string(), "/var/lib/one/datastores/102/0/disk.0");
        assert_eq!((disk.dir().datastore().id(), disk.dir().vm()), (102, VmId(0)));
        assert_eq!(disk.name().disk(), Some(0));
        let source: DiskPath = "/somewhere/else/datastores/1/0123456789abcdef3".parse().unwrap();
        let image = Image::beside(&source, &disk).unwrap();
        assert_eq!(image.to_string(), "/var/lib/one/datastores/1/0123456789abcdef3");
        let dir: VmDir = "/var/lib/one//datastores/102/0".parse().unwrap();
        assert_eq!(&dir, disk.dir());
        assert_eq!(dir.in_datastore(100).to_string(), "/var/lib/one/datastores/100/0");
    }

    #[test]
    fn what_is_not_a_vm_directory_is_none() {
        for text in [
            "/",
            "/0",
            "/0/7",
            "/var/lib/one/datastores",
            "/var/lib/one/datastores/0",
            "/var/lib/one/datastores/0/disk.0",
            "/var/lib/one/datastores/x/7",
            "/var/lib/one/datastores/0/07",
            "/var/lib/one/datastores/+0/7",
            "/var/lib/one/datastores/0/4294967296",
            "/var/lib/one/datastores/0/7/..",
            "/var/lib/one/datastores/0/7/disk.0",
            "datastores/0/7",
        ] {
            assert!(text.parse::<VmDir>().is_err(), "{text:?}");
        }
        for text in ["/ds/0/7", "/ds/0/7/", "/ds/0/7/.causeway-tmp.disk.0.1", "/ds/0/x/disk.0", "/0/7/disk.0"]
        {
            assert!(text.parse::<VmFile>().is_err(), "{text:?}");
        }
        for text in ["/1/name", "/ds/name", "/ds/one/name", "/ds/1/.."] {
            assert!(text.parse::<Image>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_place_is_split_before_its_path() {
        let at: Remote = "vm:/var/lib/one/datastores/1/a:b".parse().unwrap();
        assert_eq!((at.host.as_str(), at.path.as_str()), ("vm", "/var/lib/one/datastores/1/a:b"));
        let at: Remote = "fe80::1:/d/0/7".parse().unwrap();
        assert_eq!((at.host.as_str(), at.path.as_str()), ("fe80::1", "/d/0/7"));
        for text in ["", "node1", "/var/x", ":/x", "node1:x", "-o:/x", "a b:/x", "node1:/x/../y"] {
            assert!(text.parse::<Remote>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_a_path_inside_its_root(text in "(/[a-z0-9. ]{0,3}|/disk\\.[0-9]|/[0-9]{1,3}){1,7}") {
            if let Ok(file) = text.parse::<VmFile>() {
                let again: VmFile = file.to_string().parse().unwrap();
                prop_assert_eq!(&again, &file);
                prop_assert!(file.path().starts_with(file.dir().path()));
                prop_assert!(file.dir().path().starts_with(file.dir().datastore().root()));
                prop_assert_eq!(Some(file.path()), text.parse::<DiskPath>().ok().map(|p| p.path()));
            }
            if let Ok(dir) = text.parse::<VmDir>() {
                prop_assert_eq!(Some(dir.path()), text.parse::<DiskPath>().ok().map(|p| p.path()));
                prop_assert!(dir.path().components().count() > 3);
            }
            if let Ok(image) = text.parse::<Image>() {
                prop_assert_eq!(Some(image.path()), text.parse::<DiskPath>().ok().map(|p| p.path()));
            }
        }
    }
}
