//! A cluster, and as whom it is spoken to.

use std::fs::File;

use causeway_core::names::DiskPath;
use serde::{Deserialize, Serialize};

use super::name::UserName;

/// A cluster, and as whom it is spoken to. Keys are named by their files only: they are on no command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// `CEPH_CONF`: a configuration file on the host; none means the host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conf: Option<DiskPath>,
    /// `CEPH_USER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// `CEPH_KEY`: a file on the host that holds the user's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<DiskPath>,
}

impl Cluster {
    /// As whom it is spoken to, for messages.
    pub(super) fn who(&self) -> String {
        let user = match &self.user {
            Some(user) => format!("CEPH_USER {user}"),
            None => "the host's own user (no CEPH_USER)".to_owned(),
        };
        let Some(key) = &self.key else { return format!("{user}, with the host's own key (no CEPH_KEY)") };
        // The tool goes on without it, and says no word of that.
        let unread = File::open(key.as_str()).err();
        let unread = unread.map_or_else(String::new, |e| format!(", which can't be read on this host ({e})"));
        format!("{user}, with the key in the file CEPH_KEY {key}{unread}")
    }
}
