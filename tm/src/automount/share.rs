//! What an NFS server exports, by one spelling.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use causeway_core::names::{DiskPath, HostName, NameError};
use serde::{Deserialize, Serialize};

use crate::place::{as_text, plain};

/// Longest path of an export, bytes: the server's own limit (`MNTPATHLEN`).
const PATH_LIMIT: usize = 1024;

/// `HOST:/PATH`; an IPv6 address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Share {
    host: HostName,
    path: String,
}
as_text!(Share);

impl Share {
    pub(super) fn new(host: HostName, path: String) -> Self {
        Share { host, path }
    }

    /// A server, by its name or address.
    pub(super) fn host(text: &str) -> Result<HostName, NameError> {
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match inner {
            Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner.parse(),
            _ => text.parse(),
        }
    }

    /// A path on it, with single slashes.
    pub(super) fn path(text: &str) -> Result<String, NameError> {
        if text.len() <= PATH_LIMIT && !text.is_empty() && text.bytes().all(|b| b == b'/') {
            return Ok("/".to_owned());
        }
        let accepted = "an absolute path of at most 1024 bytes without '.', '..' or control characters";
        let bad = || NameError::new("path", text, accepted);
        let path: DiskPath = text.parse().map_err(|_| bad())?;
        Some(plain(&path)).filter(|path| path.len() <= PATH_LIMIT).ok_or_else(bad)
    }

    /// Whether two mean the same: names of hosts have no cases.
    pub(crate) fn is(&self, other: &Share) -> bool {
        self.path == other.path && self.host.as_str().eq_ignore_ascii_case(other.host.as_str())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.as_str().contains(':') {
            write!(f, "[{}]:{}", self.host, self.path)
        } else {
            write!(f, "{}:{}", self.host, self.path)
        }
    }
}

impl FromStr for Share {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let bad = || NameError::new("share", text, "HOST:/PATH");
        let (host, path) = text.split_once(":/").ok_or_else(bad)?;
        let (host, path) = (Share::host(host)?, Share::path(&format!("/{path}"))?);
        // Only brackets tell an address's colons from the one before the path.
        let bare = host.as_str().contains(':') && !text.starts_with('[');
        if bare { Err(bad()) } else { Ok(Share { host, path }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_are_read_as_they_are_written() {
        for text in ["h:/", "h:/a", "h-1.x:/a:/b c", "[fd00::1]:/a", "192.0.2.1:/a\\b#"] {
            assert_eq!(text.parse::<Share>().unwrap().to_string(), text);
        }
        for text in ["", "h", "h:", "h:a", ":/a", "fd00::1:/a", "[h]:/a", "-h:/a", "h:/a/../b", "/dev/sda1"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        let share: Share = "NAS:/a//b/".parse().unwrap();
        assert!(share.is(&"nas:/a/b".parse().unwrap()) && !share.is(&"nas:/a/B".parse().unwrap()));
        assert!(!share.is(&"nas2:/a/b".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_one_plain_word_of_mount(text in "(\\[?[a-z0-9.:-]{1,8}\\]?):/\\PC{0,12}") {
            if let Ok(share) = text.parse::<Share>() {
                let printed = share.to_string();
                prop_assert!(!printed.starts_with('-') && !printed.chars().any(char::is_control));
                prop_assert_eq!(printed.parse::<Share>().unwrap(), share);
            }
        }
    }
}
