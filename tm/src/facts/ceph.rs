//! What a disk or a datastore says about its Ceph cluster (contract TM 1.6, 2.2).

use causeway_core::document::tree::Element;
use causeway_core::names::NameError;

use crate::error::TmError;
use crate::facts::reading::{TRUTHS, truth};
use crate::rbd::{Cluster, PoolName};

/// The attributes as they came. They are checked when a plan needs them: those of a disk that lies elsewhere are nobody's
/// business.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CephFacts {
    /// `CEPH_USER`.
    pub user: Option<String>,
    /// `CEPH_KEY`: the path of a file that holds the user's key.
    pub key: Option<String>,
    /// `CEPH_CONF`: the path of the cluster's configuration.
    pub conf: Option<String>,
    /// `POOL_NAME`.
    pub pool: Option<String>,
    /// `EC_POOL_NAME`: a pool for the data of volumes; said by datastores only.
    pub data_pool: Option<String>,
    /// `RBD_FORMAT`; said by datastores only.
    pub format: Option<String>,
    /// `CEPH_TRASH`.
    pub trash: Option<String>,
}

impl CephFacts {
    pub(crate) fn of(element: &Element) -> Self {
        let value = |name| element.value(name).filter(|text| !text.is_empty());
        CephFacts {
            user: value("CEPH_USER"),
            key: value("CEPH_KEY"),
            conf: value("CEPH_CONF"),
            pool: value("POOL_NAME"),
            data_pool: value("EC_POOL_NAME"),
            format: value("RBD_FORMAT"),
            trash: value("CEPH_TRASH"),
        }
    }

    /// The cluster; `object` is whose attributes these are, for messages.
    ///
    /// # Errors
    /// A value that is none.
    pub fn cluster(&self, object: &str) -> Result<Cluster, TmError> {
        Ok(Cluster {
            conf: read("CEPH_CONF", object, self.conf.as_deref())?,
            user: read("CEPH_USER", object, self.user.as_deref())?,
            key: read("CEPH_KEY", object, self.key.as_deref())?,
        })
    }

    /// The pool, if one is named.
    ///
    /// # Errors
    /// A value that is none.
    pub fn pool(&self, object: &str) -> Result<Option<PoolName>, TmError> {
        read_pool("POOL_NAME", object, self.pool.as_deref())
    }

    /// The pool for data, if one is named.
    ///
    /// # Errors
    /// A value that is none.
    pub fn data_pool(&self, object: &str) -> Result<Option<PoolName>, TmError> {
        read_pool("EC_POOL_NAME", object, self.data_pool.as_deref())
    }

    /// Refuses a datastore whose new volumes would be of format 1; `shipped` is what counts where it says nothing.
    ///
    /// # Errors
    /// It says another format than 2.
    pub fn check_format(&self, object: &str, shipped: &str) -> Result<(), TmError> {
        match self.format.as_deref().unwrap_or(shipped) {
            "2" => Ok(()),
            other => Err(wrong("RBD_FORMAT", object, other, "2: Ceph makes no other any more".to_owned())),
        }
    }

    /// Whether volumes are kept in the trash, if it is said.
    ///
    /// # Errors
    /// A value that is neither yes nor no.
    pub fn trash(&self, object: &str) -> Result<Option<bool>, TmError> {
        match self.trash.as_deref() {
            None => Ok(None),
            Some(text) => {
                let found =
                    truth(text).ok_or_else(|| wrong("CEPH_TRASH", object, text, TRUTHS.to_owned()))?;
                Ok(Some(found))
            }
        }
    }
}

fn read<T: std::str::FromStr<Err = NameError>>(
    attribute: &str,
    object: &str,
    text: Option<&str>,
) -> Result<Option<T>, TmError> {
    let parse = |text: &str| {
        text.parse().map_err(|e: NameError| wrong(attribute, object, text, e.accepted.to_owned()))
    };
    text.map(parse).transpose()
}

fn read_pool(attribute: &str, object: &str, text: Option<&str>) -> Result<Option<PoolName>, TmError> {
    match text.filter(|text| text.contains('/')) {
        None => read(attribute, object, text),
        Some(text) => {
            let accepted = "the name of a pool: namespaces within a pool (POOL/NAMESPACE) are not supported";
            Err(wrong(attribute, object, text, accepted.to_owned()))
        }
    }
}

fn wrong(attribute: &str, object: &str, value: &str, accepted: String) -> TmError {
    TmError::Attribute {
        attribute: attribute.to_owned(),
        object: object.to_owned(),
        value: value.to_owned(),
        accepted: accepted.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_core::document;

    fn facts(text: &str) -> CephFacts {
        let root = document::parse(format!("<DISK>{text}</DISK>").as_bytes()).unwrap();
        CephFacts::of(&root)
    }

    #[test]
    fn each_disk_names_its_cluster() {
        let found = facts(
            "<CEPH_USER>libvirt</CEPH_USER><CEPH_KEY>/etc/ceph/k</CEPH_KEY><CEPH_CONF>/etc/ceph/b.conf</CEPH_CONF>\
             <POOL_NAME>one</POOL_NAME><CEPH_TRASH>yes</CEPH_TRASH><EC_POOL_NAME/>",
        );
        let cluster = found.cluster("disk").unwrap();
        assert_eq!(cluster.user.unwrap().as_str(), "libvirt");
        assert_eq!(cluster.conf.unwrap().as_str(), "/etc/ceph/b.conf");
        assert_eq!(cluster.key.unwrap().as_str(), "/etc/ceph/k");
        assert_eq!((found.trash("disk"), found.data_pool("disk")), (Ok(Some(true)), Ok(None)));
        assert_eq!(facts("").cluster("disk"), Ok(Cluster::default()));
    }

    #[test]
    fn what_could_be_an_option_or_another_thing_is_refused_by_name() {
        let refused = |text: &str| facts(text).cluster("DISK 0 of VM 7").unwrap_err().to_string();
        assert!(
            refused("<CEPH_USER>--conf</CEPH_USER>").starts_with("CEPH_USER of DISK 0 of VM 7 is \"--conf\"")
        );
        assert!(refused("<CEPH_KEY>secret==</CEPH_KEY>").starts_with("CEPH_KEY of DISK 0"));
        assert!(refused("<CEPH_CONF>../x</CEPH_CONF>").starts_with("CEPH_CONF of DISK 0"));
        assert_eq!(
            facts("<POOL_NAME>one/ns1</POOL_NAME>").pool("datastore 101").unwrap_err().to_string(),
            "POOL_NAME of datastore 101 is \"one/ns1\", not the name of a pool: namespaces within a pool (POOL/NAMESPACE) \
             are not supported"
        );
        assert_eq!(
            facts("<EC_POOL_NAME>-x</EC_POOL_NAME>").data_pool("datastore 101").unwrap_err().to_string(),
            "EC_POOL_NAME of datastore 101 is \"-x\", not 1 to 160 bytes without '/', '@' and control characters, not \
             beginning with '-', not '.' and not '..'"
        );
        assert!(facts("<CEPH_TRASH>1</CEPH_TRASH>").trash("x").is_err());
        assert_eq!(facts("<CEPH_TRASH>true</CEPH_TRASH>").trash("x"), Ok(Some(true)));
    }
}
