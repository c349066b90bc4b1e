//! What is known of a datastore.

use causeway_core::document::{self};
use causeway_core::names::HostName;

use super::{CephFacts, LimitFacts};
use crate::automount::AutoMount;
use crate::error::TmError;

/// What is known of a datastore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatastoreFacts {
    /// `NFS_AUTO_*`: what the hosts are to mount by themselves.
    pub automount: Option<AutoMount>,
    /// `BRIDGE_LIST`: the hosts that may be asked to work on it.
    pub bridges: Vec<HostName>,
    /// Its cluster.
    pub ceph: CephFacts,
    /// How much of a host backups that go to it may take.
    pub limits: LimitFacts,
}

impl DatastoreFacts {
    /// What a `DATASTORE` document says, as `one.datastore.info` returns it.
    ///
    /// # Errors
    /// A document that is none, or an attribute with a value that is none.
    pub fn parse(id: u32, bytes: &[u8]) -> Result<Self, TmError> {
        let object = format!("datastore {id}");
        let root = document::parse(bytes)
            .map_err(|source| TmError::Document { object: object.clone(), source: source.into() })?;
        let template = root.first("TEMPLATE").filter(|_| root.name() == "DATASTORE");
        let template = template.ok_or_else(|| TmError::Missing {
            what: "DATASTORE/TEMPLATE".to_owned(),
            object: object.clone(),
        })?;
        let automount = AutoMount::read(template, &object)?;
        let bridges = template.value("BRIDGE_LIST").unwrap_or_default();
        let bridges = bridges.split_ascii_whitespace().map(|name| {
            name.parse().map_err(|_| TmError::Attribute {
                attribute: "BRIDGE_LIST".to_owned(),
                object: object.clone(),
                value: name.to_owned(),
                accepted: "names of hosts with blanks between them".into(),
            })
        });
        Ok(DatastoreFacts {
            automount,
            bridges: bridges.collect::<Result<_, _>>()?,
            ceph: CephFacts::of(template),
            limits: LimitFacts::of(id, &root, template),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(template: &str) -> Result<DatastoreFacts, TmError> {
        let xml = format!("<DATASTORE><ID>1</ID><TEMPLATE>{template}</TEMPLATE></DATASTORE>");
        DatastoreFacts::parse(1, xml.as_bytes())
    }

    #[test]
    fn a_datastore_says_whether_hosts_mount_it() {
        let none = parse("").unwrap();
        assert_eq!((none.automount, none.bridges.len(), none.limits.read()), (None, 0, Ok(None)));
        let nfs = "<NFS_AUTO_ENABLE>YES</NFS_AUTO_ENABLE><NFS_AUTO_HOST>nas</NFS_AUTO_HOST>";
        let found = parse(&format!("{nfs}<NFS_AUTO_PATH>/export</NFS_AUTO_PATH>")).unwrap().automount;
        assert_eq!(found.unwrap().share.to_string(), "nas:/export");
        assert!(parse(nfs).is_err());
        assert!(parse("<NFS_AUTO_ENABLE>1</NFS_AUTO_ENABLE>").is_err());
        assert!(DatastoreFacts::parse(1, b"<VM/>").is_err());
        assert!(DatastoreFacts::parse(1, b"").is_err());
    }

    #[test]
    fn bridges_are_names_of_hosts() {
        let bridges = parse("<BRIDGE_LIST>h1  h2.example.org</BRIDGE_LIST>").unwrap().bridges;
        assert_eq!(bridges.iter().map(|host| host.as_str()).collect::<Vec<_>>(), ["h1", "h2.example.org"]);
        let odd = parse("<BRIDGE_LIST>h1 -oProxyCommand=x</BRIDGE_LIST>").unwrap_err().to_string();
        assert!(odd.starts_with("BRIDGE_LIST of datastore 1 is \"-oProxyCommand=x\""), "{odd}");
    }
}
