//! Datastores that whoever uses them mounts by himself: `NFS_AUTO_ENABLE`, `_HOST`, `_PATH`, `_OPTS` (contract TM 2.1). Pure:
//! what is to be mounted where, and what a table of mounts or an fstab says of it.

mod fstab;
mod options;
mod share;
mod table;

use std::collections::BTreeSet;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document;
use causeway_core::document::tree::Element;
use causeway_core::names::NameError;
use serde::{Deserialize, Serialize};

use crate::error::TmError;
use crate::facts::reading::{TRUTHS, truth};
use crate::host::Call;
use crate::place::DatastoreDir;

pub(crate) use fstab::{Edit, Line, dropped, kept};
pub use options::MountOptions;
pub use share::Share;
pub(crate) use table::{Lies, Table, Todo, decide};

/// Longest time that one mount, or one unmount, may take.
pub const MOUNT_LIMIT: Duration = Duration::from_secs(30);

/// What a datastore's attributes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoMount {
    /// `NFS_AUTO_HOST` and `NFS_AUTO_PATH`.
    pub share: Share,
    /// `NFS_AUTO_OPTS`.
    pub options: MountOptions,
}

impl AutoMount {
    /// What the template of `object` says; none where nothing is to be mounted: then the other attributes mean nothing.
    ///
    /// # Errors
    /// `NFS_AUTO_ENABLE` with a value that is none, or with it, one of the others missing or of the wrong form.
    pub(crate) fn read(template: &Element, object: &str) -> Result<Option<Self>, TmError> {
        let set = |name: &str| {
            template.value(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        let wrong = |name: &str, value: &str, accepted: &str| TmError::Attribute {
            attribute: name.to_owned(),
            object: object.to_owned(),
            value: NameError::new("", value, "").value,
            accepted: accepted.to_owned().into(),
        };
        let needed = |name: &str| {
            set(name).ok_or_else(|| TmError::Missing { what: name.to_owned(), object: object.to_owned() })
        };
        let enabled = set("NFS_AUTO_ENABLE");
        match enabled.as_deref().map(|text| truth(text).ok_or_else(|| wrong("NFS_AUTO_ENABLE", text, TRUTHS)))
        {
            None | Some(Ok(false)) => return Ok(None),
            Some(Ok(true)) => {}
            Some(Err(e)) => return Err(e),
        }
        let host = needed("NFS_AUTO_HOST")?;
        let host = Share::host(&host).map_err(|e| wrong("NFS_AUTO_HOST", &host, e.accepted))?;
        let path = needed("NFS_AUTO_PATH")?;
        let path = Share::path(&path).map_err(|e| wrong("NFS_AUTO_PATH", &path, e.accepted))?;
        let options = set("NFS_AUTO_OPTS").unwrap_or_default();
        let options = options.parse().map_err(|e: options::Unfit| TmError::Attribute {
            attribute: "NFS_AUTO_OPTS".to_owned(),
            object: object.to_owned(),
            value: NameError::new("", &options, "").value,
            accepted: e.to_string().into(),
        })?;
        Ok(Some(AutoMount { share: Share::new(host, path), options }))
    }
}

/// The datastores of a `DATASTORE_POOL` that are to be mounted so. One whose `NFS_AUTO_ENABLE` is neither a yes nor a no is
/// counted among them: nothing of it is taken away.
///
/// # Errors
/// A document that is none, or a datastore without a number.
pub fn automounted(bytes: &[u8]) -> Result<BTreeSet<u32>, Failure> {
    let wrong = |why: &str| Failure::new(Kind::Input, format!("the pool of datastores: {why}"));
    let root = document::parse(bytes).map_err(|e| wrong(&e.to_string()))?;
    if root.name() != "DATASTORE_POOL" {
        return Err(wrong("its root is not DATASTORE_POOL"));
    }
    let mut found = BTreeSet::new();
    for datastore in root.named("DATASTORE") {
        let id = datastore.value("ID").and_then(|text| text.trim().parse().ok());
        let id = id.ok_or_else(|| wrong("a datastore without an ID"))?;
        let says = datastore.first("TEMPLATE").and_then(|template| template.value("NFS_AUTO_ENABLE"));
        let says = says.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        if says.is_some_and(|text| truth(&text) != Some(false)) {
            found.insert(id);
        }
    }
    Ok(found)
}

/// A datastore that must be mounted on the machine that does a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The datastore, at whose directory it is.
    pub datastore: DatastoreDir,
    /// What is mounted there.
    pub share: Share,
    /// How.
    #[serde(default, skip_serializing_if = "MountOptions::is_none")]
    pub options: MountOptions,
    /// Whether a line of the machine's fstab is to bring it back after a restart.
    pub kept: bool,
}

/// A call, and what must be mounted before it may begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mounted {
    /// In order.
    pub mounts: Vec<Mount>,
    /// All datastores that are to be mounted so (see [`automounted`]): what was mounted for others by the likes of us is
    /// unmounted, if nobody uses it. None leaves them alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automounted: Option<BTreeSet<u32>>,
    /// What is done.
    pub call: Box<Call>,
}

impl Mounted {
    /// Longest time that the mounts may add to the call's own.
    pub(crate) fn time(&self) -> Duration {
        let stale = u32::from(self.automounted.is_some());
        MOUNT_LIMIT.saturating_mul(u32::try_from(self.mounts.len()).unwrap_or(u32::MAX).saturating_add(stale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(attributes: &str) -> Result<Option<AutoMount>, TmError> {
        let root = document::parse(format!("<TEMPLATE>{attributes}</TEMPLATE>").as_bytes()).unwrap();
        AutoMount::read(&root, "datastore 1")
    }

    fn with(host: &str, path: &str, opts: &str) -> Result<Option<AutoMount>, TmError> {
        read(&format!(
            "<NFS_AUTO_ENABLE>YES</NFS_AUTO_ENABLE><NFS_AUTO_HOST>{host}</NFS_AUTO_HOST><NFS_AUTO_PATH>{path}\
             </NFS_AUTO_PATH><NFS_AUTO_OPTS>{opts}</NFS_AUTO_OPTS>"
        ))
    }

    #[test]
    fn what_is_to_be_mounted() {
        let found = with("nas.example.org", "/export//one/", "vers=4.2,hard").unwrap().unwrap();
        assert_eq!(found.share.to_string(), "nas.example.org:/export/one");
        assert_eq!(found.options.to_string(), "vers=4.2,hard");
        for (host, path, share) in [
            ("192.0.2.7", "/", "192.0.2.7:/"),
            ("fd00::7", "/a b", "[fd00::7]:/a b"),
            ("[fd00::7]", "/a", "[fd00::7]:/a"),
        ] {
            assert_eq!(with(host, path, "").unwrap().unwrap().share.to_string(), share);
        }
        assert!(with("h", "/a", "").unwrap().unwrap().options.is_none());
        // Without a yes nobody reads the rest.
        assert_eq!(read("<NFS_AUTO_HOST>$(x)</NFS_AUTO_HOST>"), Ok(None));
        assert_eq!(read("<NFS_AUTO_ENABLE> no </NFS_AUTO_ENABLE>"), Ok(None));
        assert_eq!(read("<NFS_AUTO_ENABLE/>"), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (host, path, opts, says) in [
            ("", "/a", "", "NFS_AUTO_HOST is not in the document of datastore 1"),
            ("h", "", "", "NFS_AUTO_PATH is not in the document of datastore 1"),
            ("-o", "/a", "", "NFS_AUTO_HOST of datastore 1 is \"-o\", not a host name or address"),
            ("h,g", "/a", "", "NFS_AUTO_HOST of datastore 1"),
            ("h:/x", "/a", "", "NFS_AUTO_HOST of datastore 1"),
            ("[h]", "/a", "", "NFS_AUTO_HOST of datastore 1"),
            ("h\nx", "/a", "", "NFS_AUTO_HOST of datastore 1"),
            ("h", "a", "", "NFS_AUTO_PATH of datastore 1 is \"a\", not an absolute path"),
            ("h", "/a/../b", "", "NFS_AUTO_PATH of datastore 1"),
            ("h", "/a\nb", "", "NFS_AUTO_PATH of datastore 1"),
            ("h", "/a", "hard,bg", "NFS_AUTO_OPTS of datastore 1 is \"hard,bg\", not options without bg"),
            ("h", "/a", "hard,,soft", "NFS_AUTO_OPTS of datastore 1"),
        ] {
            let error = with(host, path, opts).unwrap_err().to_string();
            assert!(error.starts_with(says), "{error}");
        }
        let odd = read("<NFS_AUTO_ENABLE>1</NFS_AUTO_ENABLE>").unwrap_err().to_string();
        assert!(odd.ends_with("is \"1\", not YES or NO, TRUE or FALSE"), "{odd}");
    }

    #[test]
    fn the_pool_says_which_datastores_are_mounted_so() {
        let one = |id: &str, says: &str| {
            format!(
                "<DATASTORE><ID>{id}</ID><TEMPLATE><NFS_AUTO_ENABLE>{says}</NFS_AUTO_ENABLE></TEMPLATE></DATASTORE>"
            )
        };
        let pool = |inner: String| format!("<DATASTORE_POOL>{inner}</DATASTORE_POOL>").into_bytes();
        let all = [one("0", "yes"), one("1", "NO"), one("100", "perhaps"), one("101", "")].concat();
        assert_eq!(automounted(&pool(all)).unwrap(), BTreeSet::from([0, 100]));
        assert_eq!(automounted(&pool(String::new())).unwrap(), BTreeSet::new());
        assert!(automounted(&pool(one("x", "yes"))).is_err());
        assert!(automounted(b"<DATASTORE/>").is_err() && automounted(b"").is_err());
    }
}
